"""A run on one's own pictures as a card for the Hub: figures of the run, no names of its pictures unless asked for."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from ..checkpoints import weights
from ..checkpoints.card import BLOCK, CONFIG_FILE, calibration_of
from ..checkpoints.hub_names import canonical_name
from ..checkpoints.registry import WEIGHTS_FILE
from ..checkpoints.target import checkpoint_name
from ..errors import InputError, suggest
from ..files import read_json, write_json, write_text
from ..publishing.card_metadata import LICENSES, base_model_of, library_of, lineage
from ..recipes import Recipe
from .findings import COMPARISON, Comparison, MethodScore
from .run_pictures import read_run
from .words import headline, percent

FOLDER = "card"  # in the run folder
_PICTURES = {"test": "test pictures", "labeled": "labeled pictures that it was trained on"}  # by fold
_HELD_OUT = "labeled pictures that were held out of training"
_PATHS = ("init", "teacher", "split")  # fields of a recipe that may name files of this machine


@dataclass(frozen=True)
class CardChoices:
    """What a run's card is to say beside its figures.

    Attributes:
        license: Of the weights, one of the Hub's (``apache-2.0``, ``cc-by-4.0``, ``other``, ...).
        name: Of the repo; the run folder's by default.
        base_model: The repo on the Hub that training began with; by default what ``init`` names there.
        with_names: Publish the names of the labeled pictures and the paths that the recipe names, too.
        namespace: Whose the repo is; where that is not known, the card says ``ORG``.
    """

    license: str
    name: str = ""
    base_model: str = ""
    with_names: bool = False
    namespace: str = ""

    def repo(self, name: str) -> str:
        """What the snippets load."""
        return f"hf-hub:{self.namespace or 'ORG'}/{name}"


def make_run_card(run: Path, choices: CardChoices) -> Path:
    """Writes a run's card into ``RUN/card/NAME``.

    Args:
        run: A finished run folder, of any recipe.
        choices: What it is to say.

    Returns:
        The folder: weights, config.json, split.json, curves.png, README.md.

    Raises:
        InputError: It is no finished run, a choice is no name of the Hub's, or the recipe names a path of this machine.
    """
    recipe, config = read_run(run, any_network=True)
    name = choices.name or run.resolve().name
    _check(name, recipe, choices)
    export = Path(checkpoint_name(str(run)).removeprefix(weights.LOCAL_DIR))
    part = run / FOLDER / f".{name}.part"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    for file in (WEIGHTS_FILE, "curves.png"):
        shutil.copyfile(export / file, part / file)
    raw = read_json(export / CONFIG_FILE)
    raw["pretrained_cfg"]["license"] = choices.license
    write_json(part / CONFIG_FILE, raw)
    split = read_json(export / "split.json")
    if not choices.with_names:
        split.pop("names", None)  # their hash stays: who has the pictures can tell that they are these
    write_json(part / "split.json", split)
    comparison = Comparison.read(run) if (run / COMPARISON).exists() else None
    write_text(part / "README.md", render_run_card(name, config, choices, comparison))
    card = run / FOLDER / name
    shutil.rmtree(card, ignore_errors=True)
    part.rename(card)
    return card


def _check(name: str, recipe: Recipe, choices: CardChoices) -> None:
    if not re.fullmatch(r"[A-Za-z0-9](?:[\w.-]{0,94}[A-Za-z0-9])?", name):
        raise InputError(f"--name {name!r} is no name of a repo; give letters, digits and . _ -")
    if choices.license not in LICENSES:
        raise InputError(
            f"--license {choices.license!r} is none of the Hub's; {suggest(choices.license.lower(), LICENSES)} "
            "(for any that is not among them: other)"
        )
    if choices.base_model and not re.fullmatch(r"[\w.-]+/[\w.-]+", choices.base_model):
        raise InputError(f"--base-model {choices.base_model!r} is no repo of the Hub; give ORG/NAME")
    for field in _PATHS:
        value = getattr(recipe, field)
        if value and _is_path(value) and not choices.with_names:
            raise InputError(
                f"the recipe's {field}={value} names a path of this machine, and config.json is published; give "
                "--with-names to publish it all the same"
            )


def _is_path(value: str) -> bool:
    value = canonical_name(value)
    return value.startswith(weights.LOCAL_DIR) or (not value.startswith(weights.HF_HUB) and "/" in value)


def render_run_card(name: str, config: dict[str, Any], choices: CardChoices, comparison: Comparison | None) -> str:
    """The card's README.md.

    Args:
        name: Of the repo.
        config: config.json of the run's export.
        choices: What it is to say.
        comparison: What the run's methods were chosen by; None where nothing was compared.
    """
    recipe = Recipe.from_dict(config[BLOCK]["recipe"])
    base = choices.base_model or base_model_of(recipe)
    if not config["num_classes"]:
        return "\n".join(_backbone_card(name, config, recipe, choices, base))
    lines = [
        "---",
        _metadata(name, config, choices, base, comparison),
        "---",
        "",
        f"# {name}",
        "",
        f"`{config['architecture']}` that tells {len(config['label_names'])} classes of pictures apart: "
        f"{', '.join(_plain(label) for label in config['label_names'])}. It was trained by `{recipe.method}` with "
        f"{config[BLOCK]['labels']} labeled pictures{_unlabeled(comparison)}, with "
        "[MUSCLE's zoo](https://arxiv.org/abs/2012.00150).",
        "",
        *_figures(config, recipe, comparison),
        *_use(choices.repo(name)),
        *_training(config, recipe, base),
    ]
    return "\n".join(lines)


def _backbone_card(name: str, config: dict[str, Any], recipe: Recipe, choices: CardChoices, base: str) -> list[str]:
    """The card of a network without a classifier: what its features are worth, and how others begin with it."""
    block, measured = config[BLOCK], config[BLOCK]["neighbors"]
    tags = ["image-feature-extraction", "timm", "muscle_zoo", "self-supervised-learning"]
    data = ModelCardData(
        license=choices.license, library_name="timm", tags=tags, model_name=name, base_model=base or None
    )
    fold = "test pictures" if recipe.fold == "test" else "labeled pictures that were held out"
    arch, repo = config["architecture"], choices.repo(name)
    return [
        "---",
        str(data.to_yaml()),
        "---",
        "",
        f"# {name}",
        "",
        f"`{arch}` pre-trained by `{recipe.method}` on pictures without labels, with "
        "[MUSCLE's zoo](https://arxiv.org/abs/2012.00150). It has no classifier: it gives features.",
        "",
        f"The features' nearest neighbors among {measured['references']} labeled pictures have the right class for "
        f"**{100 * measured['top1']:.2f} %** of {measured['n']} {fold}. The labels were used for this number alone; it "
        "is no accuracy of a classifier.",
        "",
        "## Use",
        "",
        "```python",
        "import muscle_zoo",
        "",
        f'backbone = muscle_zoo.create_model("{repo}", pretrained=True).eval()  # images to features',
        f'model = muscle_zoo.create_model("{repo}", pretrained=True, num_classes=7)  # a new classifier',
        "```",
        "",
        f"Or `python train.py {arch}.muscle_{block['dataset']}_{block['labels']} init={repo}`. Plain timm loads it "
        "too, unless the architecture is one of muscle_zoo's own.",
        "",
        *_training(config, recipe, base),
    ]


def _metadata(name: str, config: dict[str, Any], choices: CardChoices, base: str, comparison: Comparison | None) -> str:
    """The Hub's, in YAML."""
    data = ModelCardData(
        **lineage(base, choices.license),
        **library_of(config["architecture"]),
        pipeline_tag="image-classification",
        model_name=name,
        metrics=["accuracy"],
        eval_results=_results(config, comparison),
    )
    return str(data.to_yaml())


def _results(config: dict[str, Any], comparison: Comparison | None) -> list[EvalResult] | None:
    """The figure for the Hub's search: none that is of pictures which it was trained on."""
    metrics, fold = config[BLOCK]["metrics"], config[BLOCK]["recipe"]["fold"]
    top1, pictures = metrics["top1"], f"{metrics['n']} {_PICTURES.get(fold, _HELD_OUT)}"
    if fold == "labeled":
        if comparison is None or comparison.expected is None:
            return None
        of = "those labeled first of " if comparison.asked else ""
        top1, pictures = comparison.expected.value, f"cross-validation on {of}{metrics['n']} labeled pictures"
    return [
        EvalResult(
            task_type="image-classification",
            dataset_type="own-pictures",
            dataset_name=pictures,
            metric_type="accuracy",
            metric_value=round(top1, 6),
        )
    ]


def _unlabeled(comparison: Comparison | None) -> str:
    return f" and {comparison.found.unlabeled:,} without a label" if comparison and comparison.found.unlabeled else ""


def _figures(config: dict[str, Any], recipe: Recipe, comparison: Comparison | None) -> list[str]:
    """How good it is, and how that is known: what says nothing of new pictures comes last, and says so."""
    metrics, calibration = config[BLOCK]["metrics"], calibration_of(config)
    trained_on = recipe.fold == "labeled"
    top1 = f"{100 * metrics['top1']:.2f} %"
    measured = [
        f"Top-1 on {metrics['n']} {_PICTURES.get(recipe.fold, _HELD_OUT)}: {top1 if trained_on else f'**{top1}**'}; "
        f"negative log-likelihood {metrics['nll']:.3f} nats, expected calibration error {100 * metrics['ece']:.1f} "
        f"points (temperature {calibration['temperature']:.3g}, in the weights)."
        + (" This says nothing of new pictures." if trained_on else ""),
        "",
    ]
    compared = [] if comparison is None or not comparison.methods else _compared(comparison)
    return ["## How good it is", "", *(compared + measured if trained_on else measured + compared)]


def _compared(comparison: Comparison) -> list[str]:
    """What cross-validation on the labels says."""
    folds = f"{comparison.repeats} times {comparison.folds} folds of the labeled pictures"
    lines = [
        f"By cross-validation ({folds}), with 95 % intervals: {headline(comparison)}. Chosen: "
        f"`{comparison.chosen}`; {comparison.why}.",
        "",
        "| method | right, % | balanced, % | macro F1, % | nll |",
        "|---|---|---|---|---|",
        *(_row(score, comparison) for score in comparison.methods),
        "",
    ]
    if comparison.expected is not None:
        less = f", less {100 * comparison.optimism:.1f} points for having been chosen" if comparison.optimism else ""
        asked = f", {comparison.asked}" if comparison.asked else ""
        lines += [f"To expect on new pictures like these: **{percent(comparison.expected)} %**{less}{asked}.", ""]
    return lines


def _row(score: MethodScore, comparison: Comparison) -> str:
    name = f"**{score.method}**" if score.method == comparison.chosen else score.method
    rates = f"{100 * score.balanced_accuracy:.1f} | {100 * score.macro_f1:.1f} | {score.nll:.2f}"
    return f"| {name} | {percent(score.accuracy)} | {rates} |"


def _use(repo: str) -> list[str]:
    return [
        "## Use",
        "",
        "```python",
        "import muscle_zoo",
        "",
        f'model = muscle_zoo.create_model("{repo}", pretrained=True).eval()',
        f'muscle_zoo.predict(model, "my_pictures")  # or: muscle-zoo predict {repo} my_pictures',
        "```",
        "",
        "Plain timm loads it too, unless the architecture is one of muscle_zoo's own.",
        "",
    ]


def _training(config: dict[str, Any], recipe: Recipe, base: str) -> list[str]:
    """What it was made by and of, and whose that is."""
    block = config[BLOCK]
    begun = f"Training began with `{recipe.init}`" if recipe.init else "Training began with random weights"
    begun += f" ([{base}](https://huggingface.co/{base}))" if base else ""
    theirs = ", whose license, data and limits hold too" if recipe.init else ""
    known = "It knows no other classes than these, and pictures" if config["num_classes"] else "Pictures"
    return [
        "## Training",
        "",
        f"{begun}{theirs}. Recipe `{recipe.name}`, seed {recipe.seed}, {block['step']} steps; all of it is in "
        f"config.json. torch {block['versions']['torch']}, timm {block['versions']['timm']}.",
        "",
        f"The pictures are not published. {known} of another kind than it "
        "was trained on were not tried; not for decisions about people or anything that must not fail.",
        "",
    ]


def _plain(label: str) -> str:
    """A class's name in Markdown, on one line."""
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", " ".join(label.split()))
