"""Where a step's pixels come from: images in memory, or pictures in files.

Both hand out uint8 images by position and know their classes, so that nothing else asks which of the two they are, and
a set that is streamed gives the very images that it gives from memory.
"""

from __future__ import annotations

import multiprocessing
import re
import signal
import struct
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache, partial
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from ..errors import InputError, TrainingError
from .listing import SHOWN
from .picture_files import is_file_or_missing, kind_of, reads_heic

UNKNOWN = -1  # class of an image without a label
OUTSIDE = -2  # class of an image that is of none of the task's classes

BAD_SHARE = 0.01  # more unreadable pictures than this share, and a published set is refused
# What opening and decoding a picture raises, whatever the decoder stumbles over in a damaged file.
UNREADABLE = (
    *(OSError, ValueError, SyntaxError, EOFError, LookupError, TypeError, ArithmeticError),
    *(struct.error, zlib.error, Image.DecompressionBombError),
)
LONGEST = 16  # times its short side: of a longer picture the middle is taken
# What Pillow may take a file for, whatever its name: for PostScript it would start Ghostscript.
FORMATS = ("JPEG", "MPO", "PNG", "GIF", "BMP", "DIB", "TIFF", "WEBP", "PPM", "JPEG2000", "AVIF", "HEIF")
_CHUNK = 64  # pictures decoded at a time when a set is loaded into memory


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
        root: Folder that the names are relative to.
        names: Path of each picture below root, with forward slashes.
        labels: ``(N,)`` int64.
        input_size: Channels, height, width of the images they become, see :func:`to_image`.
        workers: Processes that decode; 0 for none but this one.
        bad_share: More unreadable pictures than this share are an error; 1 allows for any number.
    """

    root: Path
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
            progress: Show a progress bar on a terminal.

        Raises:
            InputError: A larger share than ``bad_share`` cannot be read.
        """
        images = torch.empty(len(self), *self.input_size, dtype=torch.uint8)
        bad: list[tuple[int, str, str]] = []
        done = 0
        chunks = torch.arange(len(self)).split(_CHUNK)
        bar = tqdm(total=len(self), desc="reading", unit="picture", disable=None if progress else True, leave=False)
        with bar:
            for batch, failed in self._decoded(chunks):
                images[done : done + len(batch)] = batch
                bad += failed
                done += len(batch)
                bar.update(len(batch))
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
            worker_init_fn=_begin_worker,
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


def _begin_worker(worker: int) -> None:
    """Ignores Ctrl-C: it reaches all processes of a group, and the main one needs pictures until it stops."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "SIGUSR1"):  # a batch system sends it to all processes
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # as in __getitem__


@dataclass(frozen=True)
class _Pictures(Dataset):
    root: Path
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


def reason(error: BaseException) -> str:
    """Why a picture cannot be read, in few words."""
    return (str(error).partition("\n")[0] or type(error).__name__).partition(" '/")[0].rstrip(":")


def why_unreadable(path: Path, error: BaseException) -> str:
    """Why a file cannot be read as a picture, in words that say what it is instead, where that is known."""
    if isinstance(error, Image.DecompressionBombError):
        pixels = re.search(r"\d+", str(error))
        many = f"{int(pixels[0]) // 10**6} million pixels, " if pixels else ""
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0) // 10**6
        return f"{many}more than the {limit} million that are read; make it smaller"
    if isinstance(error, PermissionError):
        return "no permission to read it"
    return kind_of(path) or reason(error)


def open_image(path: Path | IO[bytes]) -> Image.Image:
    """Opens a picture as Pillow does, of the kinds in ``FORMATS``; HEIC where the package that reads it is installed.

    Raises:
        OSError: It cannot be opened, or is no file: reading a pipe or a device may never end.
    """
    if isinstance(path, Path) and not is_file_or_missing(path):
        raise OSError("not a file, but a folder, a pipe, a socket or a device")
    return Image.open(path, formats=_formats())


@cache
def _formats() -> tuple[str, ...]:
    """Those of ``FORMATS`` that this Pillow reads."""
    reads_heic()  # registers it, once in each process
    Image.init()
    return tuple(kind for kind in FORMATS if kind in Image.OPEN)


_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def orientation(picture: Image.Image) -> int:
    """The orientation that a picture's EXIF states, 1 to 8; 1 (upright) if there is none or it is no such number."""
    try:
        value = picture.getexif().get(0x0112, 1)
    except Exception:  # Pillow raises all kinds of errors for damaged EXIF, and the pixels may be whole
        return 1
    return value if isinstance(value, int) and value in _UPRIGHT else 1


def open_picture(path: Path, channels: int) -> Image.Image:
    """Opens a picture of any mode, upright as its EXIF says, as gray (1 channel) or RGB (3).

    16 bits become 8 by dropping the lower ones; what is transparent becomes white.

    Raises:
        OSError: It cannot be read.
        ValueError: Its values have no known scale: fractions, or whole numbers of 32 bits.
    """
    with open_image(path) as file:
        file.load()
        return upright(file, channels)


def upright(picture: Image.Image, channels: int) -> Image.Image:
    """Turns a picture of any mode upright and makes it gray (1 channel) or RGB (3), see :func:`open_picture`."""
    method = _UPRIGHT.get(orientation(picture))
    picture = _center(picture)
    if method is not None:
        picture = picture.transpose(method)
    if picture.mode.startswith(("I", "F")):  # convert() would clip, not scale
        values = np.asarray(picture)
        low, high = values.min(), values.max()
        # Pillow opens some 16-bit PNGs in a mode of 32 bits. Of fractions and other whole numbers the scale is unknown.
        of_16_bits = picture.mode.startswith("I;16") or (picture.mode == "I" and low >= 0 and 255 < high < 2**16)
        if not of_16_bits and (low < 0 or high != 0):
            raise ValueError(f"mode {picture.mode} with values from {low} to {high}: save it with 8 or 16 bits")
        picture = Image.fromarray((values / 256).astype(np.uint8))
    return _over_white(picture).convert("L" if channels == 1 else "RGB")


def _center(picture: Image.Image) -> Image.Image:
    """The middle of a very long picture: all of it would be enlarged before its middle is cut out, by gigabytes."""
    width, height = picture.size
    most = LONGEST * min(width, height)
    left, top = (max(0, side - most) // 2 for side in (width, height))
    if not (left or top):
        return picture
    return picture.crop((left, top, left + min(width, most), top + min(height, most)))


def _over_white(picture: Image.Image) -> Image.Image:
    """A picture over white, where it is transparent: the colors under what nobody sees may be anything."""
    if picture.mode not in ("RGBA", "LA", "PA", "RGBa", "La") and "transparency" not in picture.info:
        return picture
    if picture.mode.startswith("I"):
        return picture
    layer = picture.convert("RGBA")
    if layer.getchannel("A").getextrema()[0] == 255:
        return layer.convert("RGB")
    return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")


def to_image(picture: Image.Image, input_size: tuple[int, int, int]) -> Tensor:
    """Resizes a picture to cover the size (bicubic) and cuts out its center, as timm's evaluation transform does.

    Args:
        picture: Gray or RGB.
        input_size: Channels, height, width.

    Returns:
        uint8 ``(C, H, W)``.
    """
    channels, height, width = input_size
    if picture.size != (width, height):
        picture = _fit(height, width)(picture)
    values = torch.from_numpy(np.array(picture))  # a copy: a picture's own memory cannot be written to
    return values.view(height, width, channels).permute(2, 0, 1).contiguous()


@lru_cache(maxsize=4)
def _fit(height: int, width: int) -> Callable[[Image.Image], Image.Image]:
    from torchvision.transforms import v2  # slow to import

    return v2.Compose([v2.Resize(max(height, width), v2.InterpolationMode.BICUBIC), v2.CenterCrop((height, width))])


def report_unreadable(root: Path, bad: Sequence[tuple[str, str]], total: int, share: float = BAD_SHARE) -> None:
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
