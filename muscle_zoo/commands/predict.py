"""`predict`: the classes of pictures."""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from ..checkpoints.factory import create_model
from ..checkpoints.target import checkpoint_name
from ..engine.processes import device_for
from ..errors import ExitCode, InputError
from .terminal import printable, say

if TYPE_CHECKING:
    from ..sessions.predict import Prediction


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares `predict`."""
    parser.add_argument("name", help="a name of `list`, NAME@revision, a run folder, local-dir:PATH or hf-hub:REPO")
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="pictures, or folders of them")
    parser.add_argument("--topk", type=int, default=5, metavar="K", help="the most probable classes of each (5)")
    parser.add_argument("--json", action="store_true", help="print JSON: [{file, label, predictions: [...]}]")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write path,label,probability and the most probable")
    parser.add_argument(
        "--threshold", type=float, default=0.0, metavar="P", help="below this probability the label is `unsure`"
    )
    parser.add_argument("--batch-size", type=int, default=64, metavar="N", help="pictures taken together (64)")
    parser.add_argument("--cpu", action="store_true", help="stay on the CPU")


def run(args: argparse.Namespace) -> int:
    """Prints or writes the most probable classes of each picture as soon as they are known."""
    from ..sessions.predict import list_pictures, predict_files
    from ..sessions.prediction_table import PredictionTable

    _check(args)
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # what is too large is an error, with its name
    files = list_pictures(args.images)
    model = create_model(checkpoint_name(args.name), pretrained=True).eval().to(device_for(args.cpu))
    unreadable = printed = 0
    labels: Counter[str] = Counter()
    with ExitStack() as stack:
        table = stack.enter_context(PredictionTable(args.csv)) if args.csv else None
        for prediction in predict_files(model, files, args.topk, args.batch_size, args.threshold):
            if prediction.error:
                unreadable += 1
                reason = printable(prediction.error)
                print(f"error: {printable(prediction.file)} cannot be read ({reason}); skipped", file=sys.stderr)
                continue
            labels[prediction.label or ""] += 1
            if table is not None:
                table.add(prediction)
            if args.json:
                print(",\n" if printed else "[\n", as_json(prediction), sep="", end="")
                printed += 1
            elif table is None:
                say(render(prediction))
    if args.json:
        print("\n]" if printed else "[]")
    elif args.csv:
        say(counted(args.csv, labels))
    if unreadable and len(files) > 1:
        print(f"error: {unreadable} of {len(files)} pictures cannot be read", file=sys.stderr)
    return ExitCode.FAILED if unreadable else ExitCode.DONE


def _check(args: argparse.Namespace) -> None:
    for flag, value in (("--topk", args.topk), ("--batch-size", args.batch_size)):
        if value < 1:
            raise InputError(f"{flag} {value} is out of range; give 1 or more")
    if not 0 <= args.threshold <= 1:
        raise InputError(f"--threshold {args.threshold} is no probability; give 0 to 1, such as 0.8")


def render(prediction: Prediction) -> str:
    """A picture's name and its classes, as a person reads them."""
    lines = [f"  {100 * probability:6.2f} %  {printable(name)}" for name, probability in prediction.classes]
    return "\n".join([printable(prediction.file) + (": unsure" if prediction.unsure else ""), *lines])


def as_json(prediction: Prediction) -> str:
    """A picture's entry in the list."""
    predictions = [{"class": name, "probability": probability} for name, probability in prediction.classes]
    return json.dumps({"file": prediction.file, "label": prediction.label, "predictions": predictions})


def counted(path: Path, labels: Counter[str]) -> str:
    """How many pictures a table has of each label, the most frequent first."""
    counts = ", ".join(f"{number:,} {printable(label)}" for label, number in labels.most_common(20))
    more = f", {len(labels) - 20} other classes" if len(labels) > 20 else ""
    return f"{path}: {labels.total():,} pictures" + (f" ({counts}{more})" if counts else "")
