"""Pictures in files become classes and probabilities."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..checkpoints.card import pretrained_cfg_of
from ..checkpoints.transforms import create_transform
from ..data.decoding import open_image, why_unreadable
from ..data.machine import usable_cpus
from ..data.picture_files import SUFFIXES, Found, pictures
from ..errors import InputError, Notice, one_line

_PIXELS = 2**23  # numbers in one batch: 32 MiB, and up to a hundred times that inside a network
UNSURE = "unsure"  # what a picture is called whose most probable class is not probable enough


@dataclass(frozen=True)
class Prediction:
    """What a network makes of one picture.

    Attributes:
        file: The picture.
        classes: The most probable classes and their probabilities, the first one the most probable; empty where the
            picture cannot be read.
        error: Why it cannot be read; empty where it can.
        unsure: Whether even the most probable class is less probable than was asked for.
    """

    file: str
    classes: tuple[tuple[str, float], ...] = ()
    error: str = ""
    unsure: bool = False

    @property
    def label(self) -> str | None:
        """The most probable class, or ``unsure``; None where the picture cannot be read."""
        if not self.classes:
            return None
        return UNSURE if self.unsure else self.classes[0][0]


def list_pictures(images: Sequence[str]) -> list[str]:
    """Files, and the pictures in folders and those inside them, each once.

    Raises:
        InputError: A path does not exist, or there is no picture at all.
    """
    files: list[str] = []
    found = Found()
    for image in images:
        path = Path(image)
        if path.is_dir():
            inside = [str(path / name) for name in pictures(path, path, found)]
            if not inside:
                warnings.warn(f"{image} holds no pictures ({', '.join(SUFFIXES)})", stacklevel=2)
            files += inside
        elif path.exists():
            files.append(image)
        else:
            raise InputError(f"{one_line(image)} does not exist; give pictures, or folders of them")
    for note in found.notes():
        warnings.warn(note.text, UserWarning if note.decide else Notice, stacklevel=2)
    if not files:
        given = ", ".join(map(one_line, images))
        raise InputError(f"{given}: no pictures; give files, or folders of {SUFFIXES[0]}, ...")
    return list(dict.fromkeys(files))


@torch.inference_mode()
def predict_files(
    model: nn.Module, files: Sequence[str], topk: int = 5, batch_size: int = 64, threshold: float = 0.0
) -> Iterator[Prediction]:
    """The most probable classes of pictures, in order. Two batches of pictures are in memory at a time.

    Args:
        model: Of :func:`muscle_zoo.create_model`, in evaluation mode.
        files: Pictures of any mode and size.
        topk: Classes of each; all where there are fewer.
        batch_size: Pictures taken together, at most; large ones are fewer.
        threshold: A picture whose most probable class is less probable than this is ``unsure``.

    Yields:
        What the network makes of each, as soon as it is known.

    Raises:
        InputError: The model has no classifier, or a class of it is called ``unsure`` and there is a threshold.
    """
    device = next(model.parameters()).device
    names = pretrained_cfg_of(model).get("label_names") or ()
    if getattr(model, "num_classes", None) == 0:
        raise InputError(
            "the model has no classifier, as it was pre-trained without labels; train another with init=RUN"
        )
    if threshold and UNSURE in names:
        raise InputError(f"threshold={threshold}: a class of the model is called {UNSURE!r}; leave the threshold out")
    pixels = math.prod(pretrained_cfg_of(model).get("input_size") or (1,))
    for chunk, images in _read(files, create_transform(model), min(batch_size, max(1, _PIXELS // pixels))):
        readable = [image for image in images if isinstance(image, Tensor)]
        rows: Iterator[tuple[list[float], list[int]]] = iter(())
        if readable:
            probabilities = model(torch.stack(readable).to(device)).float().softmax(dim=1).cpu()
            best = probabilities.topk(min(topk, probabilities.shape[1]), dim=1)
            rows = zip(best.values.tolist(), best.indices.tolist(), strict=True)
        for file, image in zip(chunk, images, strict=True):
            if isinstance(image, str):
                yield Prediction(file, error=image)
                continue
            values, labels = next(rows)
            if not math.isfinite(values[0]):
                yield Prediction(file, error="the network's logits of it are not finite")
                continue
            named = (str(names[label]) if label < len(names) else str(label) for label in labels)
            yield Prediction(file, tuple(zip(named, values, strict=True)), unsure=values[0] < threshold)


def _read(
    files: Sequence[str], transform: Callable[[Any], Tensor], batch_size: int
) -> Iterator[tuple[Sequence[str], list[Tensor | str]]]:
    """Batches of files, each become an image or the reason why not; the next one is read while this one is used."""

    def read(file: str) -> Tensor | str:
        try:
            with open_image(Path(file)) as picture:
                picture.load()
                return transform(picture)
        except Exception as error:  # whatever a decoder stumbles over in a damaged file
            return why_unreadable(Path(file), error)

    pool = ThreadPoolExecutor(min(8, usable_cpus()))
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
