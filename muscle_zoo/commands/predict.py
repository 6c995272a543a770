"""`predict`: the classes of pictures."""

from __future__ import annotations

import argparse
import json
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from ..checkpoints.factory import create_model, create_transform
from ..checkpoints.target import as_name
from ..data.folder import SUFFIXES, pictures
from ..data.images import reason
from ..errors import InputError
from .terminal import printable, say

Prediction = list[tuple[str, float]]


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
    for flag, value in (("--topk", args.topk), ("--batch-size", args.batch_size)):
        if value < 1:
            raise InputError(f"{flag} {value} is out of range; give 1 or more")
    files = list_pictures(args.images)
    model = create_model(as_name(args.name), pretrained=True).eval()
    if not args.cpu and torch.accelerator.is_available():
        model.to(torch.accelerator.current_accelerator())
    unreadable, done = 0, 0
    for file, found in predict(model, files, args.topk, args.batch_size):
        if isinstance(found, str):
            unreadable += 1
            print(f"error: {printable(file)} cannot be read ({found}); replace or delete it", file=sys.stderr)
            continue
        if args.json:
            print(",\n" if done else "[\n", as_json(file, found), sep="", end="")
        else:
            say(render(file, found))
        done += 1
    if args.json:
        print("\n]" if done else "[]")
    return 1 if unreadable else 0


def render(file: str, found: Prediction) -> str:
    """A picture's name and its classes, as a person reads them."""
    return "\n".join(
        [printable(file), *(f"  {100 * probability:6.2f} %  {printable(name)}" for name, probability in found)]
    )


def as_json(file: str, found: Prediction) -> str:
    """A picture's entry in the list."""
    predictions = [{"class": name, "probability": probability} for name, probability in found]
    return json.dumps({"file": file, "predictions": predictions})


def list_pictures(images: Sequence[str]) -> list[str]:
    """Files, and the pictures in folders and those inside them, each once.

    Raises:
        InputError: A path does not exist, or there is no picture at all.
    """
    files: list[str] = []
    for image in images:
        path = Path(image)
        if path.is_dir():
            inside = [str(path / name) for name in pictures(path, path)]
            if not inside:
                warnings.warn(f"{image} holds no pictures ({', '.join(SUFFIXES)})", stacklevel=2)
            files += inside
        elif path.exists():
            files.append(image)
        else:
            raise InputError(f"{printable(image)} does not exist; give pictures, or folders of them")
    if not files:
        raise InputError(
            f"{', '.join(map(printable, images))}: no pictures; give files, or folders of {SUFFIXES[0]}, ..."
        )
    return list(dict.fromkeys(files))


@torch.inference_mode()
def predict(
    model: nn.Module, files: Sequence[str], topk: int = 5, batch_size: int = 64
) -> Iterator[tuple[str, Prediction | str]]:
    """The most probable classes of pictures, in order. Two batches of pictures are in memory at a time.

    Args:
        model: In evaluation mode.
        files: Pictures of any mode and size.
        topk: Classes of each; all where there are fewer.
        batch_size: Pictures taken together.

    Yields:
        File, and its classes and their probabilities; or why it cannot be read.
    """
    device = next(model.parameters()).device
    names = model.pretrained_cfg.get("label_names") or ()
    for chunk, read in _read(files, create_transform(model), batch_size):
        images = [image for image in read if isinstance(image, Tensor)]
        rows: Iterator[tuple[list[float], list[int]]] = iter(())
        if images:
            probabilities = model(torch.stack(images).to(device)).float().softmax(dim=1).cpu()
            best = probabilities.topk(min(topk, probabilities.shape[1]), dim=1)
            rows = zip(best.values.tolist(), best.indices.tolist(), strict=True)
        for file, image in zip(chunk, read, strict=True):
            if isinstance(image, str):
                yield file, image
                continue
            values, labels = next(rows)
            yield file, [(str(names[c]) if c < len(names) else str(c), p) for c, p in zip(labels, values, strict=True)]


def _read(
    files: Sequence[str], transform: Callable[[Any], Tensor], batch_size: int
) -> Iterator[tuple[Sequence[str], list[Tensor | str]]]:
    """Batches of files, each become an image or the reason why not; the next one is read while this one is used."""

    def read(file: str) -> Tensor | str:
        try:
            with Image.open(file) as picture:
                picture.load()
                return transform(picture)
        except Exception as error:  # whatever a decoder stumbles over in a damaged file
            return reason(error)

    pool = ThreadPoolExecutor(min(8, os.cpu_count() or 1))
    try:
        ahead: tuple[Sequence[str], list[Future[Tensor | str]]] | None = None
        for start in range(0, len(files), batch_size):
            chunk = files[start : start + batch_size]
            coming = chunk, [pool.submit(read, file) for file in chunk]
            if ahead is not None:
                yield ahead[0], [future.result() for future in ahead[1]]
            ahead = coming
        if ahead is not None:
            yield ahead[0], [future.result() for future in ahead[1]]
    finally:
        pool.shutdown(cancel_futures=True)
