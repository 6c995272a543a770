"""`report.html`: what a run found, how good it is and where it is wrong, in one file that opens anywhere."""

from __future__ import annotations

import base64
import io
import shlex
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from PIL import Image
from torch import Tensor

from .. import __version__
from ..checkpoints.card import BLOCK, calibration_of
from ..data import DataConfig
from ..engine.held_out import HELD_OUT_RULE
from ..files import write_text
from ..results.stats import of_few
from .findings import Comparison, Interval, OutOfFold
from .label_checks import Pair, calibrate_folds, near_duplicates, probable_label_errors
from .report_drawings import color_of, embedding_map, interval_bar, reliability_diagram
from .run_pictures import RunPictures, load_run_pictures
from .suggest import Pool, choose
from .words import headline

REPORT = "report.html"
SHOWN = 24  # pictures of each kind
CANDIDATES = 300  # pairs that are alike to the network, whose pixels are compared
ALIKE = 0.97  # correlation of two pictures' gray values, made _TINY pixels wide and high
_TINY = 24
_SIDE = 112  # pixels of one
_MATRIX = 24  # classes, up to which the confusion matrix is shown whole


@dataclass(frozen=True)
class HeldOut:
    """What the chosen method said of pictures that it had not learned from.

    Attributes:
        positions: Of the pictures among the run's, ``(n,)``.
        labels: ``(n,)``.
        probabilities: ``(n, C)``, calibrated on other folds.
    """

    positions: Tensor
    labels: Tensor
    probabilities: Tensor

    @classmethod
    def of(cls, out_of_fold: OutOfFold, method: str, names: tuple[str, ...]) -> HeldOut | None:
        """Of those pictures that were held out and are still there; None where there are none."""
        probabilities = calibrate_folds(out_of_fold.probabilities[method], out_of_fold.labels, out_of_fold.fold)
        places = {name: position for position, name in enumerate(names)}
        kept = [
            i for i, name in enumerate(out_of_fold.names) if name in places and not bool(probabilities[i].isnan().any())
        ]
        if not kept:
            return None
        positions = torch.tensor([places[out_of_fold.names[i]] for i in kept])
        return cls(positions, out_of_fold.labels[kept], probabilities[kept])


def write_report(
    run: Path, data: DataConfig | None = None, cpu: bool = False, pictures: RunPictures | None = None
) -> Path:
    """Writes a run's ``report.html``.

    Args:
        run: A finished run folder; with ``comparison.json`` and ``out_of_fold.safetensors`` the report has more to say.
        data: Where its pictures are; by default where they were.
        cpu: Stay on the CPU.
        pictures: The run's, if they are embedded already.

    Returns:
        The file.

    Raises:
        InputError: As :func:`load_run_pictures`, or the comparison is damaged.
        TrainingError: A picture cannot be read.
    """
    pictures = pictures or load_run_pictures(run, data, cpu)
    comparison = Comparison.read(run) if (run / "comparison.json").exists() else None
    out_of_fold = OutOfFold.read(run) if comparison else None
    path = run / REPORT
    write_text(path, render_report(pictures, comparison, out_of_fold))
    return path


def render_report(
    pictures: RunPictures, comparison: Comparison | None = None, out_of_fold: OutOfFold | None = None
) -> str:
    """The page as text; arguments as for :func:`write_report`."""
    held_out = None
    if comparison is not None and out_of_fold is not None and comparison.chosen in out_of_fold.probabilities:
        held_out = HeldOut.of(out_of_fold, comparison.chosen, pictures.names)
    pool = Pool(pictures.probabilities, pictures.embeddings, pictures.embeddings[:0])
    unit, _ = pool.unit()
    source = pictures.source
    calibration = calibration_of(pictures.config)
    facts: dict[str, Any] = {
        "title": source.stem if source is not None else pictures.dataset.info.title,
        "version": __version__,
        "comparison": comparison,
        "few": of_few(comparison.judged, "held-out pictures") if comparison is not None and comparison.folds else "",
        "answer": headline(comparison) if comparison is not None and comparison.gain is not None else "",
        "classes": _classes(pictures, held_out),
        "labeled": len(pictures.labeled),
        "unlabeled": len(pictures.unlabeled),
        "methods": _methods(comparison),
        "test": _test(pictures, comparison),
        "map": _map(pictures, unit),
        "duplicates": _duplicates(pictures, unit),
        "unsure": _unsure(pictures),
        "recipe": pictures.recipe,
        "run": shlex.quote(str(pictures.run)),
        "temperature": float(calibration["temperature"]),
        "by_labels": calibration.get("rule") == HELD_OUT_RULE,
        **_held_out(pictures, held_out),
    }
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    environment.filters |= {"percent": percent, "interval": interval, "sentence": sentence}
    template = files(__package__).joinpath("report.html.j2").read_text(encoding="utf-8")
    return environment.from_string(template).render(facts)


def percent(value: float, digits: int = 1) -> str:
    """A share as percent, without the sign."""
    return f"{100 * value:.{digits}f}"


def interval(value: Interval) -> str:
    """``(64.1 to 77.5)``; empty without bounds."""
    return "" if value.low is None or value.high is None else f"({percent(value.low)} to {percent(value.high)})"


def sentence(text: str) -> str:
    """A line as a sentence, its percent signs not parted from their numbers."""
    whole = f"{text[:1].upper()}{text[1:]}".replace(" %", "\N{NO-BREAK SPACE}%")
    return whole if whole.endswith((".", "!", "?", ")")) else f"{whole}."


def _test(pictures: RunPictures, comparison: Comparison | None) -> str:
    """What the exported network does on the test pictures; empty where it was not measured on any."""
    if comparison is not None and comparison.test is not None:
        few = of_few(sum(comparison.found.test))
        return f"{percent(comparison.test.value)} %{few} {interval(comparison.test)}"
    metrics = pictures.config.get(BLOCK, {}).get("metrics")
    if pictures.recipe.fold != "test" or not metrics or len(pictures.dataset.test) == 0:
        return ""
    return f"{percent(metrics['top1'])} % of {metrics['n']}"


def _methods(comparison: Comparison | None) -> list[dict[str, Any]]:
    """The methods that were compared, the best first, on one axis."""
    if comparison is None or not comparison.methods:
        return []
    bounds = [
        b for m in comparison.methods for b in (m.accuracy.low, m.accuracy.high, m.accuracy.value) if b is not None
    ]
    low, high = min(bounds) - 0.02, max(bounds) + 0.02
    best_first = sorted(comparison.methods, key=lambda m: -m.accuracy.value)
    return [{"score": m, "bar": interval_bar(m.accuracy, low, high, m.method == comparison.chosen)} for m in best_first]


def _classes(pictures: RunPictures, held_out: HeldOut | None) -> list[dict[str, Any]]:
    """Each class: how many labels it has, what the network takes the others for, and how it does on it."""
    from sklearn.metrics import precision_recall_fscore_support  # slow to import

    number = len(pictures.class_names)
    labels = pictures.dataset.train.labels[pictures.labeled]
    counts = torch.bincount(labels, minlength=number)
    taken = torch.bincount(pictures.probabilities[pictures.unlabeled].argmax(dim=1), minlength=number)
    rows: list[dict[str, Any]] = [
        {"name": name, "color": color_of(i), "labeled": int(counts[i]), "taken": int(taken[i])}
        for i, name in enumerate(pictures.class_names)
    ]
    most = max(1, int(counts.max()))
    for row in rows:
        row["share"] = f"{100 * row['labeled'] / most:.1f}"
    if held_out is not None:
        scores = precision_recall_fscore_support(
            held_out.labels, held_out.probabilities.argmax(dim=1), labels=range(number), zero_division=0
        )
        for row, precision, recall, f1, support in zip(rows, *scores, strict=True):
            row |= {"precision": precision, "recall": recall, "f1": f1, "support": int(support)}
    return rows


def _held_out(pictures: RunPictures, held_out: HeldOut | None) -> dict[str, Any]:
    """What the page says of pictures that were held out; empty lists where none was."""
    if held_out is None:
        return {"held_out": None, "matrix": [], "confused": [], "mistakes": [], "label_errors": []}
    from sklearn.metrics import balanced_accuracy_score, confusion_matrix, f1_score  # slow to import

    labels, predicted = held_out.labels.numpy(), held_out.probabilities.argmax(dim=1).numpy()
    diagram, error = reliability_diagram(held_out.probabilities, held_out.labels)
    matrix = confusion_matrix(labels, predicted, labels=range(len(pictures.class_names)))
    figures = {
        "n": len(labels),
        "accuracy": float((labels == predicted).mean()),
        "balanced_accuracy": float(balanced_accuracy_score(labels, predicted)),
        "macro_f1": float(f1_score(labels, predicted, average="macro", zero_division=0)),
        "reliability": diagram,
        "calibration_error": error,
    }
    errors = probable_label_errors(held_out.probabilities, held_out.labels)
    return {
        "held_out": figures,
        "matrix": _shaded(matrix) if len(matrix) <= _MATRIX else [],
        "confused": _most_confused(matrix, pictures.class_names),
        "mistakes": _mistakes(pictures, held_out),
        "label_errors": [
            _card(pictures, int(held_out.positions[e.position]), pictures.class_names[e.given], e.likely, -e.margin)
            for e in errors[:SHOWN]
        ],
        "label_errors_in_all": len(errors),
    }


def _shaded(matrix: np.ndarray) -> list[list[tuple[int, int]]]:
    """Each cell's number, and its share of the row in percent, which shades it."""
    sums = np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    return [
        [(int(n), round(100 * float(n) / float(total))) for n in row]
        for row, (total,) in zip(matrix, sums, strict=True)
    ]


def _most_confused(matrix: np.ndarray, class_names: tuple[str, ...]) -> list[tuple[str, str, int]]:
    """Pairs (is, taken for, how often), the most frequent first."""
    pairs = [(int(matrix[i, j]), i, j) for i, j in np.ndindex(*matrix.shape) if i != j and matrix[i, j]]
    pairs.sort(key=lambda pair: (-pair[0], pair[1:]))
    return [(class_names[i], class_names[j], n) for n, i, j in pairs[:8]]


def _mistakes(pictures: RunPictures, held_out: HeldOut) -> list[dict[str, Any]]:
    """Held-out pictures that were taken for another class, the surest first."""
    best = held_out.probabilities.max(dim=1)
    wrong = (best.indices != held_out.labels).nonzero().flatten()
    surest = wrong[best.values[wrong].argsort(descending=True, stable=True)][:SHOWN]
    return [
        _card(
            pictures,
            int(held_out.positions[i]),
            pictures.class_names[int(held_out.labels[i])],
            int(best.indices[i]),
            float(best.values[i]),
        )
        for i in surest.tolist()
    ]


def _unsure(pictures: RunPictures) -> list[dict[str, Any]]:
    """Pictures without a label that the network is least sure of, none twice."""
    left = pictures.unlabeled
    if not len(left):
        return []
    probabilities = pictures.probabilities[left]
    pool = Pool(probabilities, pictures.embeddings[left], pictures.embeddings[:0])
    cards = []
    for choice in choose("margin", pool, SHOWN):
        two = probabilities[choice.position].topk(min(2, probabilities.shape[1]))
        card = _card(pictures, int(left[choice.position]), "", int(two.indices[0]), float(two.values[0]))
        second = pictures.class_names[int(two.indices[-1])]
        cards.append({**card, "second": f"{percent(float(two.values[-1]), 0)} % {second}"})
    return cards


def _duplicates(pictures: RunPictures, unit: Tensor) -> dict[str, Any]:
    """Pairs that look alike; those with two labels first."""
    pairs = _alike_in_pixels(pictures, near_duplicates(unit, pictures.labeled)[:CANDIDATES])
    labels = pictures.dataset.train.labels

    def contradict(pair: Pair) -> bool:
        first, second = int(labels[pair.first]), int(labels[pair.second])
        return min(first, second) >= 0 and first != second

    ordered = sorted(pairs, key=lambda pair: not contradict(pair))[: SHOWN // 2]
    shown = [
        {
            "cosine": pair.cosine,
            "contradict": contradict(pair),
            "cards": [_card(pictures, position, _label(pictures, position)) for position in (pair.first, pair.second)],
        }
        for pair in ordered
    ]
    return {"pairs": shown, "in_all": len(pairs), "contradictory": sum(map(contradict, pairs))}


def _alike_in_pixels(pictures: RunPictures, pairs: list[Pair]) -> list[Pair]:
    """Those pairs whose pixels are alike, too: a trained network finds all pictures of an easy class alike."""
    small: dict[int, np.ndarray] = {}
    for position in sorted({position for pair in pairs for position in (pair.first, pair.second)}):
        try:
            tiny = pictures.picture(position).convert("L").resize((_TINY, _TINY), Image.Resampling.BOX)
        except Exception:  # whatever a decoder stumbles over
            continue
        values = np.asarray(tiny, dtype=np.float64).ravel()
        values -= values.mean()
        small[position] = values / max(float(np.linalg.norm(values)), 1e-9)
    both = [pair for pair in pairs if pair.first in small and pair.second in small]
    return [pair for pair in both if float(small[pair.first] @ small[pair.second]) >= ALIKE]


def _label(pictures: RunPictures, position: int) -> str:
    label = int(pictures.dataset.train.labels[position])
    return pictures.dataset.info.class_names[label] if label >= 0 else "no label"


def _card(pictures: RunPictures, position: int, label: str, predicted: int = -1, value: float = 0.0) -> dict[str, Any]:
    """A small picture and what is written below it."""
    taken = pictures.class_names[predicted] if predicted >= 0 else ""
    name = pictures.names[position]
    return {"name": name, "label": label, "taken": taken, "value": value, "image": _embedded(pictures, position)}


def _embedded(pictures: RunPictures, position: int) -> Markup:
    """A small JPEG in the page itself; empty where the picture cannot be read any more."""
    try:
        picture = pictures.picture(position).convert("RGB")
    except Exception:  # whatever a decoder stumbles over
        return Markup("")
    picture.thumbnail((2 * _SIDE, 2 * _SIDE))
    content = io.BytesIO()
    picture.save(content, "JPEG", quality=70)
    return Markup(f"data:image/jpeg;base64,{base64.b64encode(content.getvalue()).decode()}")


def _map(pictures: RunPictures, unit: Tensor) -> Markup:
    labels = torch.full((len(unit),), -1)
    labels[pictures.labeled] = pictures.dataset.train.labels[pictures.labeled]
    return embedding_map(unit, labels, pictures.probabilities.argmax(dim=1), pictures.class_names)
