"""`info`: what is known of a model."""

from __future__ import annotations

import argparse
import json
import shlex
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from timm.data import resolve_data_config

from ..checkpoints import registry, weights
from ..checkpoints.card import BLOCK, calibration_of, timm_cfg
from ..checkpoints.factory import input_of_recipe, is_pretrained, pretrained_cfg_by_name
from ..checkpoints.listing import ModelInfo, info_of_card, model_info
from ..checkpoints.target import checkpoint_name
from ..data import DataSetInfo, dataset_info
from ..data.addresses import local_pictures
from ..data.datasets import own_info
from ..errors import ExitCode, InputError
from ..recipes import Recipe, changes, get_recipe
from ..results.ledger import Row, merge, read_ledger, runs_of
from ..results.stats import mean_std
from ..sessions.evaluate import read_recipe
from .info_words import Parts, about, is_word
from .terminal import printable, say

WIDTH = 100
SIDE = 64  # in pixels, where a recipe leaves pictures as they are: these may have many sizes
_INDENT = 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares `info`."""
    parser.add_argument(
        "name",
        help="a name of `list`, a run folder, local-dir:PATH or hf-hub:REPO[@revision]; timm's of weights; or a "
        "word: a method (fixmatch), a data set (digits), a backbone (cnn4)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--data", type=Path, metavar="DIR", help="your folder or CSV, for a recipe on folder")


def run(args: argparse.Namespace) -> int:
    """Prints what is known of a model, and its recipe."""
    if is_word(args.name) and not Path(args.name).exists():
        facts, parts = about(args.name)
        say(json.dumps(facts, indent=2) if args.json else render_word(args.name, parts))
        return ExitCode.DONE
    name = checkpoint_name(args.name)
    card = weights.find_config(name)
    if card is None and is_pretrained(name):
        info = model_info(name)
        say(json.dumps({**asdict(info), "recipe": None}, indent=2) if args.json else render_pretrained(info))
        return ExitCode.DONE
    if card is None and weights.is_misspelled(name):
        raise InputError(f"{name!r} is unknown; {weights.near_weights(name)}")
    config = card[0] if card is not None else None
    recipe = read_recipe(name, config) if config is not None else get_recipe(name)
    own = _own_pictures(args, recipe) if card is None else None
    info = info_of_card(*card, name) if card is not None else model_info(name, own)
    if args.json:
        print(json.dumps({**asdict(info), "recipe": recipe.to_dict()}, indent=2))
    else:
        say(render(name, info, recipe, config, own))
    return ExitCode.DONE


def _own_pictures(args: argparse.Namespace, recipe: Recipe) -> DataSetInfo | None:
    """What is known of one's own pictures: their headers are read; None for another data set."""
    if recipe.dataset != "folder" or args.data is None:
        return None
    return own_info(local_pictures(args.data), recipe.image_size or SIDE)


def render(
    name: str, info: ModelInfo, recipe: Recipe, config: dict[str, Any] | None, own: DataSetInfo | None = None
) -> str:
    """What is known as a person reads it, in a hundred columns.

    Args:
        name: By which the model is created.
        info: Its facts.
        recipe: By which it is trained.
        config: Its config.json; None when there are no weights here.
        own: What is known of the user's own pictures, for a recipe on these.
    """
    rows = [row for root in registry.card_folders() for row in read_ledger(root / registry.LEDGER_FILE)]
    runs = runs_of(merge(rows, ()), recipe.name, recipe.sha256)
    parts = [
        ("What it is", _what(info, runs)),
        ("Accuracy", _accuracy(info, recipe, config, runs)),
        ("Load", _load(name, info)),
        ("Preprocess", _preprocess(_cfg(info, config, own))),
        ("Reproduce", _reproduce(name, info, recipe, _dtype(recipe, config, runs))),
    ]
    lines = [info.name]
    for title, text in parts:
        lines += ["", title, *(" " * _INDENT + line for line in text)]
    return "\n".join(lines)


def render_word(name: str, parts: Parts) -> str:
    """What is known of a method, a data set or a backbone, as a person reads it; commands stay whole, to be pasted."""
    lines = [name]
    for title, text in parts.items():
        whole = title == "Use it"
        lines += ["", title, *(" " * _INDENT + piece for line in text for piece in ([line] if whole else _wrap(line)))]
    return "\n".join(lines)


def render_pretrained(info: ModelInfo) -> str:
    """What is known of weights from elsewhere, as a person reads it: what they are, and what they are good for here."""
    cfg = pretrained_cfg_by_name(info.name)
    classes = f"{cfg['num_classes']} classes" if cfg["num_classes"] else "no classifier: it gives features"
    license = f", license {cfg['license']}" if cfg.get("license") else ""
    name = shlex.quote(info.name)
    parts = [
        ("What it is", [f"{info.arch}, {info.parameters:,} parameters, {classes}; no recipe of this zoo trained it"]),
        ("Weights", _wrap(f"{info.origin}{license}")),
        ("Load", [f"model = muscle_zoo.create_model({json.dumps(info.name)}, pretrained=True).eval()"]),
        ("Preprocess", _preprocess(resolve_data_config({}, pretrained_cfg=cfg))),
        (
            "Begin with it",
            [
                f"muscle-zoo embed {name} --data DIR --out embeddings.npy",
                f"muscle-zoo train {info.arch}.muscle_folder_all_frozen init={name} --data DIR",
            ],
        ),
    ]
    lines = [info.name]
    for title, text in parts:
        lines += ["", title, *(" " * _INDENT + line for line in text)]
    return "\n".join(lines)


def _what(info: ModelInfo, runs: Sequence[Row]) -> list[str]:
    without = "not published; the ledger has its runs" if runs else "none yet"
    names = info.class_names
    first = ", ".join(map(printable, names[:20])) + (", ..." if len(names) > 20 else "")
    lines = [
        f"{info.arch}, {info.parameters:,} parameters, trained by {info.method} on {_title(info.dataset)}, "
        f"label budget {info.labels}",
        f"{len(names)} classes: {first}" if names else "no classifier: it gives features",
        f"weights: {info.origin}, sha256 {info.sha256[:16]}..." if info.sha256 else f"weights: {without}",
    ]
    return [piece for line in lines for piece in _wrap(line)]


def _title(dataset: str) -> str:
    try:
        return dataset_info(dataset).title
    except InputError:  # of a folder only loading it can tell
        return "your own pictures" if dataset == "folder" else dataset


def _accuracy(info: ModelInfo, recipe: Recipe, config: dict[str, Any] | None, runs: Sequence[Row]) -> list[str]:
    lines = []
    if config is not None and (measured := config[BLOCK].get("neighbors")):
        knn = (
            f"{100 * measured['top1']:.2f} % of {measured['n']} images have the class of their nearest neighbors among "
        )
        lines.append((f"its features, seed {info.seed}", f"{knn}{measured['references']} labeled images"))
    if config is not None and info.top1 is not None:
        images = config[BLOCK]["metrics"].get("n", "the")
        fold = "test images" if recipe.fold == "test" else f"images of the {recipe.fold} fold"
        lines.append((f"these weights, seed {info.seed}", f"top-1 {100 * info.top1:.2f} % of {images} {fold}"))
        lines.append(("", _calibration(config)))
    if len(runs) == 1 and info.seed != runs[0].seed:
        row = runs[0]
        measured = f"top-1 {100 * row.top1_ema:.2f} %, {_likelihood(row.nll, row.ece)}"
        lines.append((f"one run, seed {row.seed}", measured))
    if len(runs) > 1:
        mean, std = mean_std([row.top1_ema for row in runs])
        measured = f"top-1 {100 * mean:.2f} ± {100 * (std or 0.0):.2f} %, {len(runs)} seeds"
        lines.append(("mean ± std of the seeds", measured))
        nll, ece = (mean_std([getattr(row, key) for row in runs])[0] for key in ("nll", "ece"))
        lines.append(("mean of the seeds", _likelihood(nll, ece)))
        lines.append(("each seed", ", ".join(f"{row.seed}: {100 * row.top1_ema:.2f}" for row in runs)))
    width = max((len(what) for what, _ in lines), default=0)
    if not lines:
        return ["not measured: the ledger has no run of it"]
    return [piece for what, value in lines for piece in _wrap(f"{what:<{width}}   {value}")]


def _likelihood(nll: float, ece: float) -> str:
    return f"nll {nll:.3f} nats, calibration error {100 * ece:.1f} points"


def _calibration(config: dict[str, Any]) -> str:
    """How good these weights' probabilities are, and what they were divided by for it."""
    metrics, temperature = config[BLOCK]["metrics"], calibration_of(config)["temperature"]
    calibrated = f"temperature {temperature:.3g}, in the weights" if temperature != 1.0 else "not calibrated"
    return f"{_likelihood(metrics['nll'], metrics['ece'])} ({calibrated})"


def _dtype(recipe: Recipe, config: dict[str, Any] | None, runs: Sequence[Row]) -> str:
    """The precision that these weights, or else the seed's run, were trained in."""
    known = [row.dtype for row in runs if row.seed == recipe.seed]
    return str((config or {}).get(BLOCK, {}).get("dtype") or next(iter(known), "float32"))


def _load(name: str, info: ModelInfo) -> list[str]:
    if not info.pretrained:
        return [f"model = muscle_zoo.create_model({json.dumps(name)})  # random weights"]
    return [
        f"model = muscle_zoo.create_model({json.dumps(name)}, pretrained=True).eval()",
        "transform = muscle_zoo.create_transform(model)  # a PIL image in, a tensor out",
        *([f"muscle-zoo predict {shlex.quote(name)} PICTURES"] if info.class_names else []),
    ]


def _cfg(info: ModelInfo, config: dict[str, Any] | None, own: DataSetInfo | None) -> dict[str, Any]:
    """How timm says that a model of ours takes its images."""
    pretrained_cfg = timm_cfg(config) if config is not None else input_of_recipe(info.name, own).timm_cfg()
    return resolve_data_config({}, pretrained_cfg=pretrained_cfg)


def _preprocess(cfg: Mapping[str, Any]) -> list[str]:
    channels, height, width = cfg["input_size"]
    mean, std = (", ".join(f"{value:g}" for value in cfg[key]) for key in ("mean", "std"))
    return _wrap(
        f"any picture: upright, {'gray' if channels == 1 else 'RGB'}, resized ({cfg['interpolation']}) to cover and "
        f"cut to {height}x{width} (crop_pct {cfg['crop_pct']:g}), scaled to 0..1, less mean {mean}, by deviation {std}"
    )


def _reproduce(name: str, info: ModelInfo, recipe: Recipe, dtype: str) -> list[str]:
    words = [recipe.name, f"seed={recipe.seed}", *changes(recipe)]
    words += ["--mixed-precision", dtype] if dtype != "float32" else []
    data = " --data DIR" if recipe.dataset == "folder" else ""
    lines = [f"muscle-zoo train {printable(shlex.join(words))}{data}"]
    return lines + ([f"muscle-zoo eval {shlex.quote(name)}{data}"] if info.pretrained and info.class_names else [])


def _wrap(line: str) -> list[str]:
    return textwrap.wrap(line, WIDTH - _INDENT, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
