"""From a picture's file to pixels: opened within bounds, upright, gray or RGB, of one size."""

from __future__ import annotations

import re
import stat
from collections.abc import Callable
from functools import cache, lru_cache
from pathlib import Path
from typing import IO

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .picture_files import kind_of, reads_heic
from .shard_files import PicturePath, ShardMember

_STRIP = 2**20  # pixels that are put over white at a time
LONGEST = 16  # times its short side: of a longer picture the middle is taken
# What Pillow may take a file for, whatever its name: for PostScript it would start Ghostscript.
FORMATS = ("JPEG", "MPO", "PNG", "GIF", "BMP", "DIB", "TIFF", "WEBP", "PPM", "JPEG2000", "AVIF", "HEIF")


def reason(error: BaseException) -> str:
    """Why a picture cannot be read, in few words."""
    return (str(error).partition("\n")[0] or type(error).__name__).partition(" '/")[0].rstrip(":")


def why_unreadable(path: PicturePath, error: BaseException) -> str:
    """Why a file cannot be read as a picture, in words that say what it is instead, where that is known."""
    if isinstance(error, Image.DecompressionBombError):
        pixels = re.search(r"\d+", str(error))
        many = f"{int(pixels[0]) // 10**6} million pixels, " if pixels else ""
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0) // 10**6
        return f"{many}more than the {limit} million that are read; make it smaller"
    if isinstance(error, PermissionError):
        return "no permission to read it"
    return kind_of(path) or reason(error)


def open_image(file: PicturePath | IO[bytes]) -> Image.Image:
    """Opens a picture as Pillow does, HEIC included where the package that reads it is installed.

    Raises:
        OSError: It cannot be opened, or is no file: a pipe would wait for a writer for ever.
    """
    if isinstance(file, Path) and not stat.S_ISREG(file.stat().st_mode):
        raise OSError("a folder" if file.is_dir() else "no file, but a pipe, socket or device")
    if isinstance(file, ShardMember):
        file = file.open()
    return Image.open(file, formats=_formats())


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


def open_picture(path: PicturePath, channels: int) -> Image.Image:
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
        picture = Image.fromarray((values.astype(np.uint16, copy=False) >> 8).astype(np.uint8))
    return _over_white(picture, "L" if channels == 1 else "RGB")


def _center(picture: Image.Image) -> Image.Image:
    """The middle of a very long picture: all of it would be enlarged before its middle is cut out, by gigabytes."""
    width, height = picture.size
    most = LONGEST * min(width, height)
    left, top = (max(0, side - most) // 2 for side in (width, height))
    if not (left or top):
        return picture
    return picture.crop((left, top, left + min(width, most), top + min(height, most)))


def _over_white(picture: Image.Image, mode: str) -> Image.Image:
    """A picture over white, where it is transparent: the colors under what nobody sees may be anything.

    A large one goes strip by strip: whole, the copies on the way would take five times its memory.
    """
    if picture.mode not in ("RGBA", "LA", "PA", "RGBa", "La") and "transparency" not in picture.info:
        return picture.convert(mode)
    if picture.mode.startswith("I"):
        return picture.convert(mode)
    width, height = picture.size
    rows = max(1, _STRIP // width)
    whole = Image.new(mode, picture.size)
    for top in range(0, height, rows):
        strip = picture.crop((0, top, width, min(top + rows, height))).convert("RGBA")
        if any(strip.getchannel("A").histogram()[:255]):  # something is seen through
            strip = Image.alpha_composite(Image.new("RGBA", strip.size, "white"), strip)
        whole.paste(strip.convert("RGB").convert(mode), (0, top))
    return whole


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
