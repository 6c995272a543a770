"""`eval`: a checkpoint becomes its metrics, compared with what was published."""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import replace
from typing import Any

from ..checkpoints import weights
from ..checkpoints.card import BLOCK, shown
from ..checkpoints.factory import create_model
from ..checkpoints.target import as_name
from ..data import DataConfig, dataset_info
from ..errors import InputError, MuscleZooError, WeightsError, one_line
from ..recipes import Recipe
from ..recipes.names import parse_name
from .arguments import add_source_arguments, source_of

LIMIT = 2**31  # bytes of made-up images that a checkpoint may have made
WORDS = 4000  # letters of a recipe's field
POINTS = 0.0005  # 0.05 points: two devices may round a picture or two of a large set to another side


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command line."""
    parser.add_argument("target", help="a name, a run folder, local-dir:PATH or hf-hub:REPO[@revision]")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--source", choices=("hub",), help="take a name's weights from the Hugging Face Hub")
    add_source_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Evaluates, prints, and compares with the published figure."""
    report = evaluate_target(args.target, args.source, source_of(args))
    print(json.dumps(report, indent=2) if args.json else render(report))
    return 1 if report["published"]["reproduced"] is False else 0


def evaluate_target(target: str, source: str | None = None, data: DataConfig | None = None) -> dict[str, Any]:
    """Evaluates a checkpoint on the fold its recipe names.

    Args:
        target: A name, a run folder, ``local-dir:PATH`` or ``hf-hub:REPO``.
        source: See :func:`muscle_zoo.create_model`.
        data: Where the data are, and how they are read.

    Returns:
        Metrics, and under ``published`` the figure in config.json and whether it was reproduced: within one image or
        0.05 points.

    Raises:
        InputError: The target is not there, or was not made by muscle_zoo.
    """
    from ..engine.build import prepare_data
    from ..engine.evaluate import evaluate

    name = as_name(target)
    checkpoint = weights.resolve(name, source)
    recipe, published, n = read_block(target, checkpoint.config)
    prepared = prepare_data(evaluated(target, recipe), data)
    info, names = prepared.dataset.info, checkpoint.config.get("label_names", [])
    if list(info.class_names) != list(names):
        theirs, ours = (one_line(", ".join(classes)) for classes in (names, info.class_names))
        raise InputError(
            f"{target} was trained on the classes {theirs}, but the data have {ours}; give data with the same classes"
        )
    model = create_model(name, pretrained=True, source=source)
    try:
        metrics = evaluate(model, prepared.evaluation, info)
    except MuscleZooError:
        raise
    except RuntimeError as error:  # a network that does not take these images, or not enough memory
        raise WeightsError(
            f"{target} cannot be evaluated on {info.name} ({one_line(error)}); give other data"
        ) from error
    tolerance = max(1.0 / metrics.n, POINTS) + 1e-9
    return {
        "target": target,
        "name": recipe.name,
        "origin": checkpoint.origin,
        "dataset": info.name,
        "fold": recipe.fold,
        **{key: value for key, value in metrics.to_dict().items() if key != "per_class"},
        "per_class": dict(zip(info.class_names, metrics.per_class, strict=True)),
        "published": {
            "top1": published,
            "n": n,
            "reproduced": abs(metrics.top1 - published) <= tolerance if metrics.n == n else None,
        },
    }


def read_block(target: str, config: dict[str, Any]) -> tuple[Recipe, float, int]:
    """What config.json says of the training: the recipe, the published accuracy, and on how many images.

    Raises:
        WeightsError: It says nothing, or nothing that can be.
    """
    block = config.get(BLOCK)
    if not block:
        raise WeightsError(
            f"{target}: config.json has no muscle_zoo block, so its data set is not known; export it with muscle_zoo"
        )
    try:
        values = block["recipe"]
        if too_long := [key for key, value in values.items() if isinstance(value, str) and len(value) > WORDS]:
            raise ValueError(f"{shown(too_long[0])} is longer than {WORDS} letters")
        recipe = Recipe.from_dict(values)
        if parse_name(recipe.name)["dataset"] != "folder":
            info = dataset_info(recipe.dataset)
            made = (info.train_size + info.test_size) * math.prod(info.input_size)
            if recipe.dataset.startswith("synthetic") and made > LIMIT:
                raise ValueError(f"dataset={recipe.dataset} would take {made} bytes")
        return recipe, float(block["metrics"]["top1"]), int(block["metrics"]["n"])
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        reason = one_line(error) if isinstance(error, InputError) else repr(error)
        raise WeightsError(
            f"{target}: the muscle_zoo block of config.json is damaged ({reason}); download or export it again"
        ) from None


def evaluated(target: str, recipe: Recipe) -> Recipe:
    """The recipe as far as it decides what is evaluated on; no file that it names is opened.

    The images of the test and dev folds do not depend on which images were labeled. Those of the validation fold do,
    and a list of them in a file is no part of the checkpoint: whoever made it could name any file of this machine.

    Raises:
        WeightsError: The images are those that a file lists.
    """
    if recipe.fold != "validation":
        neutral = {"bias": "none", "unlabeled_bias": "none", "mismatch": 0.0, "validation": 0.0, "split": ""}
        return replace(recipe, labels="100pct", **neutral)
    if recipe.split:
        raise WeightsError(
            f"{target}: recipe.split={shown(recipe.split)} names a file, and eval opens none that a checkpoint names; "
            "train with fold=test or fold=dev to evaluate without it"
        )
    return recipe


def render(report: dict[str, Any]) -> str:
    """The report as a person reads it."""
    lines = [
        f"{report['name']} ({report['origin']})",
        f"{report['dataset']}, {report['n']} images of the {report['fold']} fold",
        f"  top-1                {100 * report['top1']:6.2f} %",
        f"  top-5                {100 * report['top5']:6.2f} %",
        f"  neg. log-likelihood  {report['nll']:6.3f} nats",
        f"  calibration error    {100 * report['ece']:6.2f} %",
        "  accuracy per class",
    ]
    for label, accuracy in report["per_class"].items():
        lines.append(f"    {label:<18} " + ("no images" if accuracy is None else f"{100 * accuracy:6.2f} %"))
    figure = report["published"]
    verdict = {True: "reproduced", False: "NOT reproduced", None: f"of {figure['n']} other images: not compared"}
    lines.append(f"figure in config.json: {100 * figure['top1']:.2f} %, {verdict[figure['reproduced']]}")
    return "\n".join(lines)
