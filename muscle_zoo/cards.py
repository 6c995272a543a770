"""Model cards and the README's tables, rendered from config.json and the ledger: no number is typed by hand."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData
from PIL import Image

from .data.datasets import DataSetInfo
from .errors import InputError
from .ledger import Row, mean_std, runs_of
from .recipes import Recipe, changes, get_recipe
from .registry import BLOCK
from .study import bias_table, digest, select, table

CHOSEN = "The recipe was chosen on a dev fold of the training images; its labels served nothing else."
NOT_CHOSEN = "This is a recipe of the user's own, not the one that is published under this name."
STUDIES = "studies"
PAPER = "https://arxiv.org/abs/2012.00150"


def render_card(config: dict[str, Any], info: DataSetInfo, rows: Sequence[Row]) -> str:
    """Renders a checkpoint's README.md.

    Args:
        config: Its config.json.
        info: Its data set.
        rows: The ledger's rows of the same recipe; at least the checkpoint's own.

    Returns:
        Markdown with the Hub's metadata in front.
    """
    block = config[BLOCK]
    name, recipe = block["name"], block["recipe"]
    runs = runs_of(rows, name, block["recipe_sha256"])
    accuracies = [row.top1_ema for row in runs]
    mean, std = mean_std(accuracies)
    fold = "test images" if recipe["fold"] == "test" else "dev fold (held-out training images)"
    data = ModelCardData(
        license="apache-2.0",
        library_name="timm",
        tags=["image-classification", "timm", "muscle_zoo", "semi-supervised-learning"],
        pipeline_tag="image-classification",
        model_name=name,
        eval_results=_results(info, block, runs),
    )
    named = block["recipe_sha256"] == get_recipe(name).sha256
    source = name if named else "local-dir:export"
    words = [name, f"seed={block['seed']}", *changes(Recipe.from_dict(recipe))]
    lines = [
        "---",
        data.to_yaml(),
        "---",
        "",
        f"# {name}",
        "",
        f"`{config['architecture']}` trained with `{block['method']}` on {info.title} with {block['labels']} labelled "
        f"images, after [arXiv 2012.00150]({PAPER}), reconstructed from its abstract; hyper-parameters are this "
        "project's.",
        "",
        "## Accuracy",
        "",
        f"Top-1 of these weights (seed {block['seed']}) on the {block['metrics']['n']} {fold}: "
        f"**{100 * block['metrics']['top1']:.2f} %**. "
        f"Negative log-likelihood {block['metrics']['nll']:.3f} nats, "
        f"expected calibration error {100 * block['metrics']['ece']:.1f} %.",
        "",
        f"Over {len(runs)} seed{'s' if len(runs) > 1 else ''}: mean {100 * mean:.2f} %"
        + (f", standard deviation {100 * std:.2f} points. These are the weights of the median seed" if std else "")
        + ". They are the averaged (EMA) weights of the last step, never of the best step.",
        "",
        "| seed | top-1, % |",
        "|---|---|",
        *[f"| {row.seed} | {100 * row.top1_ema:.2f} |" for row in runs],
        "",
        "![curves of the run](curves.png)",
        "",
        "## Use",
        "",
        "```python",
        "import muscle_zoo",
        "",
        f'model = muscle_zoo.create_model("{source}", pretrained=True).eval()  # checks the weights\' sha256',
        f"transform = muscle_zoo.create_transform(model)  # a PIL image in, a {_size(info)} tensor out",
        "probabilities = model(transform(picture)[None]).softmax(dim=1)  # of config.json's label_names",
        "```",
        "",
        f'`timm.create_model("{source}", pretrained=True)` works too, after `import muscle_zoo` (which registers the '
        "backbone); it checks no hash.",
        "",
        "Fine-tune: `create_model` takes timm's arguments, so a new head for your classes, or the features alone, is",
        "",
        "```python",
        f'model = muscle_zoo.create_model("{source}", pretrained=True, num_classes=7)',
        f'features = muscle_zoo.create_model("{source}", pretrained=True, features_only=True)',
        "```",
        "",
        "## Reproduce",
        "",
        "```",
        f"python train.py {shlex.join(words)}",
        f"torchrun --nproc_per_node 2 train.py {shlex.join(words)}  # the same global batch on two processes",
        f"python eval.py {name if named else 'FOLDER'}",
        "```",
        "",
        f"{CHOSEN if named else NOT_CHOSEN} Recipe version "
        f"{recipe['version']}, sha256 `{block['recipe_sha256'][:16]}`; labelled split `{block['split_sha256'][:16]}` "
        f"(split.json); code `{block['git_sha'] or 'not a checkout'}`; torch {block['versions']['torch']}, "
        f"timm {block['versions']['timm']}; "
        f"{block['device']}, {_duration(block['hours'])}.",
        "",
        "## Data, licence, limits",
        "",
        f"{info.title}, {info.license}, {info.source}. The weights are Apache-2.0.",
        "",
        "Meant for research on learning from few labels, as a baseline and as a start for fine-tuning; not for "
        "decisions about people or anything that must not fail. The number holds for these test images and this "
        "label budget: another draw of the labelled images gives another number (see the seeds above), and other "
        "pictures than this data set's were not tried. It is no number of the paper's.",
        "",
    ]
    return "\n".join(lines)


def _results(info: DataSetInfo, block: dict[str, Any], runs: Sequence[Row]) -> list[EvalResult]:
    """The model-index: these weights first, then all seeds of the recipe."""
    mean, std = mean_std([row.top1_ema for row in runs])
    metrics = {f"top-1 of these weights (seed {block['seed']})": block["metrics"]["top1"]}
    if std is not None:
        metrics[f"top-1, mean of {len(runs)} seeds (standard deviation {std:.4f})"] = mean
    return [
        EvalResult(
            task_type="image-classification",
            dataset_type=info.name,
            dataset_name=f"{info.title}, {block['labels']} labels",
            metric_type="accuracy",
            metric_name=title,
            metric_value=round(value, 6),
        )
        for title, value in metrics.items()
    ]


def _size(info: DataSetInfo) -> str:
    return "x".join(map(str, info.input_size))


def _duration(hours: float) -> str:
    return f"{3600 * hours:.0f} s" if hours < 0.1 else f"{hours:.1f} h"


@dataclass(frozen=True)
class Mark:
    """What a page shows between ``<!-- study ARCH DATASET key=value ... -->`` and ``<!-- /study -->``.

    ``bias`` in place of ``study`` shows how the gain changes with a bias instead of the accuracies.
    ``methods``, ``labels`` and ``bias`` choose (values joined by ``+``), ``figure`` names a picture beside the page;
    anything else is what the study changed of every recipe.
    """

    arch: str
    dataset: str
    words: tuple[str, ...]

    def value(self, key: str) -> str:
        """The value of a key; empty where it is not given."""
        return dict(word.split("=", 1) for word in self.words).get(key, "")

    def rows(self, rows: Sequence[Row]) -> list[Row]:
        """The ledger's rows that are shown.

        Raises:
            InputError: There are none.
        """
        given = dict(word.split("=", 1) for word in self.words)
        given.pop("figure", None)
        methods, labels, bias = (given.pop(key, "") for key in ("methods", "labels", "bias"))
        chosen = [text.split("+") if text else [] for text in (methods, labels, bias or "none")]
        found = select(rows, self.arch, self.dataset, *chosen, given)
        if not found:
            raise InputError(f"the ledger has no runs of {' '.join((self.arch, self.dataset, *self.words))}")
        return found


_TABLES = {"study": table, "bias": bias_table}
_MARK = re.compile(
    r"(?P<head><!-- (?P<kind>study|bias) (?P<arch>\S+) (?P<dataset>\S+)(?P<words>(?: \S+=\S+)*) -->)\n.*?"
    r"(?P<end><!-- /(?P=kind) -->)",
    flags=re.S,
)


def render_page(text: str, rows: Sequence[Row]) -> str:
    """Renders every marked table of a page anew, see :class:`Mark`."""

    def table_of(match: re.Match[str]) -> str:
        return f"{match['head']}\n{_TABLES[match['kind']](_mark(match).rows(rows))}\n{match['end']}"

    return _MARK.sub(table_of, text)


def figures_of(text: str) -> list[Mark]:
    """The marks of a page that name a figure."""
    return [mark for mark in map(_mark, _MARK.finditer(text)) if mark.value("figure")]


def _mark(match: re.Match[str]) -> Mark:
    return Mark(match["arch"], match["dataset"], tuple(match["words"].split()))


def render_figures(root: Path, rows: Sequence[Row]) -> dict[Path, list[Row]]:
    """The figures of all pages, and the rows that each shows."""
    return {
        page.with_name(mark.value("figure")): mark.rows(rows)
        for page in pages(root)
        for mark in figures_of(page.read_text(encoding="utf-8"))
    }


def is_of(figure: Path, rows: Sequence[Row]) -> bool:
    """Whether a figure shows these rows."""
    if not figure.is_file():
        return False
    with Image.open(figure) as picture:
        return picture.info.get("rows") == digest(rows)


def pages(root: Path) -> list[Path]:
    """The checkout's pages with marked tables: the README and the studies."""
    return [
        page for page in (root / "README.md", *sorted((root / "hub_cards" / STUDIES).glob("*.md"))) if page.is_file()
    ]


def render_all(root: Path, rows: Sequence[Row], info_of: Any) -> dict[Path, str]:
    """What every card and the README should say, by path, from hub_cards/ and the ledger."""
    import json

    rendered = {}
    for path in sorted((root / "hub_cards").glob("*/config.json")):
        config = json.loads(path.read_text(encoding="utf-8"))
        rendered[path.with_name("README.md")] = render_card(config, info_of(config[BLOCK]["dataset"]), rows)
    for page in pages(root):
        rendered[page] = render_page(page.read_text(encoding="utf-8"), rows)
    return rendered
