"""`predict`: the classes of pictures."""

from __future__ import annotations

import argparse
import json
import sys
import warnings

from PIL import Image

from ..checkpoints.factory import create_model
from ..checkpoints.target import checkpoint_name
from ..engine.processes import device_for
from ..errors import ExitCode, InputError
from .terminal import printable, say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares `predict`."""
    parser.add_argument("name", help="a name of `list`, NAME@revision, a run folder, local-dir:PATH or hf-hub:REPO")
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="pictures, or folders of them")
    parser.add_argument("--topk", type=int, default=5, metavar="K", help="the most probable classes of each (5)")
    parser.add_argument("--json", action="store_true", help="print JSON: [{file, predictions: [{class, probability}]}]")
    parser.add_argument("--batch-size", type=int, default=64, metavar="N", help="pictures taken together (64)")
    parser.add_argument("--cpu", action="store_true", help="stay on the CPU")


def run(args: argparse.Namespace) -> int:
    """Prints the most probable classes of each picture as soon as they are known."""
    from ..sessions.predict import list_pictures, predict_files

    for flag, value in (("--topk", args.topk), ("--batch-size", args.batch_size)):
        if value < 1:
            raise InputError(f"{flag} {value} is out of range; give 1 or more")
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # what is too large is an error, with its name
    files = list_pictures(args.images)
    model = create_model(checkpoint_name(args.name), pretrained=True).eval().to(device_for(args.cpu))
    unreadable = printed = 0
    for prediction in predict_files(model, files, args.topk, args.batch_size):
        file, classes = prediction.file, prediction.classes
        if prediction.error:
            unreadable += 1
            print(f"error: {printable(file)} cannot be read ({printable(prediction.error)}); skipped", file=sys.stderr)
        elif args.json:
            print(",\n" if printed else "[\n", as_json(file, classes), sep="", end="")
            printed += 1
        else:
            say(render(file, classes))
    if args.json:
        print("\n]" if printed else "[]")
    if unreadable and len(files) > 1:
        print(f"error: {unreadable} of {len(files)} pictures cannot be read", file=sys.stderr)
    return ExitCode.FAILED if unreadable else ExitCode.DONE


def render(file: str, classes: tuple[tuple[str, float], ...]) -> str:
    """A picture's name and its classes, as a person reads them."""
    lines = [f"  {100 * probability:6.2f} %  {printable(name)}" for name, probability in classes]
    return "\n".join([printable(file), *lines])


def as_json(file: str, classes: tuple[tuple[str, float], ...]) -> str:
    """A picture's entry in the list."""
    predictions = [{"class": name, "probability": probability} for name, probability in classes]
    return json.dumps({"file": file, "predictions": predictions})
