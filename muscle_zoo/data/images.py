"""Where a step's pixels come from: images in memory, or pictures in files.

Both hand out uint8 images by position and know their classes, so that nothing else asks which of the two they are, and
a set that is streamed gives the very images that it gives from memory.
"""

from __future__ import annotations

import multiprocessing
import signal
import struct
import sys
import time
import warnings
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.context import BaseContext
from types import TracebackType
from typing import Any, Protocol

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from ..errors import InputError, TrainingError
from .decoding import open_picture, to_image, why_unreadable
from .listing import SHOWN
from .shard_files import PictureRoot

UNKNOWN = -1  # class of an image without a label
OUTSIDE = -2  # class of an image that is of none of the task's classes

BAD_SHARE = 0.01  # more unreadable pictures than this share, and a published set is refused
# What opening and decoding a picture raises, whatever the decoder stumbles over in a damaged file.
UNREADABLE = (
    *(OSError, ValueError, SyntaxError, EOFError, LookupError, TypeError, ArithmeticError),
    *(struct.error, zlib.error, Image.DecompressionBombError),
)
_CHUNK = 64  # pictures decoded at a time when a set is loaded into memory
_SILENCE = 10.0  # seconds after which it is said how many are read, where there is no bar


class ImageSource(Protocol):
    """Images and their classes, wherever the pixels are."""

    @property
    def labels(self) -> Tensor:
        """``(N,)`` int64: the class of each image, UNKNOWN or OUTSIDE."""
        ...

    @property
    def names(self) -> tuple[str, ...]:
        """What each image is called; empty where they have no names."""
        ...

    def __len__(self) -> int: ...

    def batches(self, positions: Iterable[Tensor]) -> Iterator[Tensor]:
        """For each batch of positions its images, uint8 ``(n, C, H, W)``."""
        ...

    def subset(self, positions: Sequence[int]) -> ImageSource:
        """Some of the images, in the order given."""
        ...

    def with_labels(self, labels: Tensor) -> ImageSource:
        """The same images with other classes."""
        ...


@dataclass(frozen=True)
class LabeledImages:
    """Images in memory: ``(N, C, H, W)`` uint8, and their classes ``(N,)`` int64."""

    images: Tensor
    labels: Tensor
    names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def nbytes(self) -> int:
        """What the images take in memory."""
        return self.images.nbytes

    def batches(self, positions: Iterable[Tensor]) -> Iterator[Tensor]:
        """For each batch of positions its images, on the device where they are."""
        for batch in positions:
            yield self.images.index_select(0, batch.to(self.images.device))

    def subset(self, positions: Sequence[int]) -> LabeledImages:
        """Some of the images, in the order given."""
        index = torch.as_tensor(positions, dtype=torch.int64)
        names = tuple(self.names[i] for i in positions) if self.names else ()
        return LabeledImages(self.images[index.to(self.images.device)], self.labels[index], names)

    def with_labels(self, labels: Tensor) -> LabeledImages:
        """The same images with other classes."""
        return replace(self, labels=labels)

    def to(self, device: torch.device) -> LabeledImages:
        """The same images on another device; the classes stay."""
        return replace(self, images=self.images.to(device))


@dataclass(frozen=True)
class ImageFiles:
    """Pictures in files, decoded when they are asked for, by worker processes.

    Attributes:
        root: Folder that the names are relative to, or one that reads from shards.
        names: Path of each picture below root, with forward slashes.
        labels: ``(N,)`` int64.
        input_size: Channels, height, width of the images they become, see :func:`to_image`.
        workers: Processes that decode; 0 for none but this one.
        bad_share: More unreadable pictures than this share are an error; 1 allows for any number.
    """

    root: PictureRoot
    names: tuple[str, ...]
    labels: Tensor
    input_size: tuple[int, int, int]
    workers: int = 0
    bad_share: float = BAD_SHARE

    def __len__(self) -> int:
        return len(self.labels)

    def batches(self, positions: Iterable[Tensor]) -> Iterator[Tensor]:
        """For each batch of positions its images, in order, whatever the number of workers.

        Raises:
            TrainingError: A picture cannot be decoded.
        """
        for images, bad in self._decoded(positions):
            if bad:
                raise TrainingError(f"{self.root / bad[0][1]} cannot be read ({bad[0][2]}); replace or delete it")
            yield images

    def subset(self, positions: Sequence[int]) -> ImageFiles:
        """Some of the pictures, in the order given."""
        names = tuple(self.names[i] for i in positions)
        return replace(self, names=names, labels=self.labels[torch.as_tensor(positions, dtype=torch.int64)])

    def with_labels(self, labels: Tensor) -> ImageFiles:
        """The same pictures with other classes."""
        return replace(self, labels=labels)

    def nbytes(self) -> int:
        """What the images would take in memory."""
        channels, height, width = self.input_size
        return len(self) * channels * height * width

    def load(self, progress: bool = False) -> LabeledImages:
        """Decodes all pictures into memory; those that cannot be read are left out with a warning.

        Args:
            progress: Show a progress bar on a terminal; elsewhere say now and then how many are read.

        Raises:
            InputError: A larger share than ``bad_share`` cannot be read.
        """
        images = torch.empty(len(self), *self.input_size, dtype=torch.uint8)
        bad: list[tuple[int, str, str]] = []
        done = 0
        chunks = torch.arange(len(self)).split(_CHUNK)
        bar = tqdm(total=len(self), desc="reading", unit="picture", disable=None if progress else True, leave=False)
        with bar:
            told = time.monotonic()
            for batch, failed in self._decoded(chunks):
                images[done : done + len(batch)] = batch
                bad += failed
                done += len(batch)
                bar.update(len(batch))
                if progress and bar.disable and (now := time.monotonic()) - told >= _SILENCE:
                    told = now
                    print(f"read {done:,} of {len(self):,} pictures", file=sys.stderr, flush=True)
        report_unreadable(self.root, [(name, why) for _, name, why in bad], len(self), self.bad_share)
        if not bad:
            return LabeledImages(images, self.labels, self.names)
        left_out = {position for position, _, _ in bad}
        return LabeledImages(images, self.labels, self.names).subset([i for i in range(done) if i not in left_out])

    def _decoded(self, positions: Iterable[Tensor]) -> Iterator[tuple[Tensor, list[tuple[int, str, str]]]]:
        dataset = _Pictures(self.root, self.names, self.input_size)
        index_lists = (batch.tolist() for batch in positions)
        extra: dict[str, Any] = {"prefetch_factor": 4} if self.workers else {}
        yield from DataLoader(
            dataset,
            batch_sampler=index_lists,
            num_workers=self.workers,
            collate_fn=partial(_collate, self.input_size),
            generator=torch.Generator(),  # else it would draw from the global one, and change what a network draws
            worker_init_fn=begin_worker,
            multiprocessing_context=_context() if self.workers else None,
            **extra,
        )


def _context() -> BaseContext | None:
    """How the reading processes start: None for torch's own way, a fork.

    A process that is one of several has threads of gloo or NCCL, and a fork beside them now and then hangs for ever:
    its readers are forked from a clean process, which imports this file once.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return None
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


def begin_worker(worker: int) -> None:
    """Begins a reading process, of every loader that has some.

    It ignores Ctrl-C, which reaches all processes of a group: the main one needs pictures until it stops. Where that
    one stops in the midst of a batch, the thread that hands images over would say in a traceback that nobody took them.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "SIGUSR1"):  # a batch system sends it to all processes
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # as in __getitem__
    sys.excepthook = _say_unless_gone


def _say_unless_gone(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    """Says an error of a reading process, unless it is that the main one is gone."""
    if not isinstance(error, ConnectionError | EOFError):
        sys.__excepthook__(kind, error, traceback)


@dataclass(frozen=True)
class _Pictures(Dataset):
    root: PictureRoot
    names: tuple[str, ...]
    input_size: tuple[int, int, int]

    def __getitem__(self, position: int) -> tuple[Tensor, tuple[int, str, str] | None]:
        name = self.names[position]
        path = self.root / name
        try:
            with warnings.catch_warnings():  # a process of its own, or the only thread that decodes
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)
                return to_image(open_picture(path, self.input_size[0]), self.input_size), None
        except UNREADABLE as error:
            return torch.zeros(self.input_size, dtype=torch.uint8), (position, name, why_unreadable(path, error))


def _collate(
    size: tuple[int, int, int], items: list[tuple[Tensor, tuple[int, str, str] | None]]
) -> tuple[Tensor, list[tuple[int, str, str]]]:
    images = torch.stack([image for image, _ in items]) if items else torch.empty(0, *size, dtype=torch.uint8)
    return images, [bad for _, bad in items if bad is not None]


def report_unreadable(root: PictureRoot, bad: Sequence[tuple[str, str]], total: int, share: float = BAD_SHARE) -> None:
    """Warns about pictures that are left out.

    Args:
        root: Folder of the names.
        bad: Name and reason of each.
        total: Pictures in all.
        share: The largest share that may be left out.

    Raises:
        InputError: They are more than that.
    """
    if not bad:
        return
    text = f"{len(bad)} of {total} pictures in {root} cannot be read, the first is {bad[0][0]} ({bad[0][1]})"
    if len(bad) > share * total:
        most = "one in a hundred" if share == BAD_SHARE else f"{share:.0%}"
        raise InputError(f"{text}; that is more than {most}: replace them, or take them away")
    shown = "; ".join(f"{name} ({why})" for name, why in bad[:SHOWN])
    more = f" and {len(bad) - SHOWN} others, which `muscle-zoo data check` lists" if len(bad) > SHOWN else ""
    warnings.warn(f"{text}; left out: {shown}{more}", stacklevel=2)
