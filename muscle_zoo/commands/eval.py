"""`eval`: a checkpoint becomes its metrics, compared with what was published."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from .. import weights
from ..data import Source
from ..errors import InputError, WeightsError
from ..factory import create_model
from ..recipes import Recipe
from ..registry import BLOCK
from .data import add_source_arguments, source_of

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


def evaluate_target(target: str, source: str | None = None, data: Source | None = None) -> dict[str, Any]:
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

    name = _as_name(target)
    checkpoint = weights.resolve(name, source)
    block = checkpoint.config.get(BLOCK)
    if not block:
        raise WeightsError(
            f"{target}: config.json has no muscle_zoo block, so its data set is not known; export it with muscle_zoo"
        )
    try:
        recipe = Recipe.from_dict(block["recipe"])
        published, n = float(block["metrics"]["top1"]), int(block["metrics"]["n"])
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise WeightsError(f"{target}: the muscle_zoo block of config.json is damaged ({error!r})") from None
    prepared = prepare_data(recipe, data)
    info, names = prepared.dataset.info, checkpoint.config.get("label_names", [])
    if list(info.class_names) != list(names):
        raise InputError(
            f"{target} knows the classes {', '.join(names)}, the data {', '.join(info.class_names)}; give other data"
        )
    metrics = evaluate(create_model(name, pretrained=True, source=source), prepared.evaluation, info)
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


def _as_name(target: str) -> str:
    if target.startswith((weights.LOCAL_DIR, weights.HF_HUB)):
        return target
    folder = Path(target)
    if (folder / "status.json").is_file() or (folder / "recipe.json").is_file():
        if not (folder / "export").is_dir():
            raise InputError(f"{target} is not finished, so it has no export/; run the same train command again")
        return f"{weights.LOCAL_DIR}{folder / 'export'}"
    if (folder / "config.json").is_file():
        return f"{weights.LOCAL_DIR}{folder}"
    if (folder / "summary.json").is_file() and (folder / "muscle").is_dir():
        raise InputError(f"{target} holds two runs; give {folder / 'muscle'} or {folder / 'supervised'}")
    if "/" in target or folder.exists():
        what = "has neither recipe.json nor config.json" if folder.exists() else "does not exist"
        raise InputError(f"{target} {what}; give a run folder, a card folder, or a name of `muscle-zoo list`")
    return target


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
