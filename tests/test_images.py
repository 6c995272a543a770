"""Pictures become images: decoded with the right values, in memory as from the files, good ones and bad ones."""

from __future__ import annotations

import ast
import io
import signal
import struct
import sys
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from timm.data import create_transform

import muscle_zoo
from muscle_zoo.data import DataConfig, DataSet, ImageFiles, LabeledImages, load_dataset, restrict
from muscle_zoo.data.decoding import to_image
from muscle_zoo.data.images import UNKNOWN, begin_worker
from muscle_zoo.data.picture_survey import Survey, survey

Array = NDArray[Any]

# 8 high and 10 wide, so that width and height cannot be mistaken; smooth, so that JPEG keeps the values.
GRAY = np.add.outer(np.arange(8) * 29, np.arange(10) * 5).astype(np.uint8)
COLOR = np.stack([GRAY, GRAY[::-1], GRAY[:, ::-1]], axis=2)
ALPHA = (np.arange(80).reshape(8, 10) * 37 % 256).astype(np.uint8)
INDEX = (np.arange(80).reshape(8, 10) % 16).astype(np.uint8)
PALETTE = np.random.default_rng(0).integers(0, 256, (16, 3), dtype=np.uint8)
CMYK = np.dstack([COLOR // 2, GRAY // 3])
CMYK_AS_RGB = (255.0 - CMYK[..., :3]) * (255.0 - CMYK[..., 3:]) / 255
DEEP = GRAY.astype(np.uint16) * 256 + ALPHA // 2


def in_palette() -> Image.Image:
    picture = Image.frombytes("P", (10, 8), INDEX.tobytes())
    picture.putpalette(PALETTE.flatten().tolist())
    return picture


def over_white(values: Array, alpha: Array) -> Array:
    share = alpha[..., None] / 255
    return values * share + 255 * (1 - share)


def gray_as_rgb(values: Array) -> Array:
    return np.repeat(values[..., None], 3, axis=2)


def luma(rgb: Array) -> Array:
    return rgb @ np.array([0.299, 0.587, 0.114])


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def jpeg(values: Array, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(values).save(file, "JPEG", quality=100, subsampling=0, **options)
    return file.getvalue()


def decoded(path: Path, *input_size: int) -> Array:
    """Height, width, channels of the picture as the package reads it."""
    files = ImageFiles(path.parent, (path.name,), torch.tensor([0]), input_size)
    return files.load().images[0].permute(1, 2, 0).numpy().astype(float)


HOLED = over_white(PALETTE[INDEX], np.where(INDEX == 3, 0, 255))  # what is transparent is white

KINDS: dict[str, tuple[str, Image.Image, Array, float, bool, dict[str, Any]]] = {
    # name: suffix, picture, its values as RGB, tolerance, is it gray, options
    "gray": ("png", Image.fromarray(GRAY), gray_as_rgb(GRAY), 0, True, {}),
    "gray with transparency": (
        "png",
        Image.fromarray(np.dstack([GRAY, ALPHA])),
        over_white(gray_as_rgb(GRAY), ALPHA),
        1,
        True,
        {},
    ),
    "one bit": ("png", Image.fromarray(INDEX % 3 > 0), gray_as_rgb((INDEX % 3 > 0) * 255), 0, True, {}),
    "palette": ("png", in_palette(), PALETTE[INDEX], 0, False, {}),
    "palette, one color transparent": ("png", in_palette(), HOLED, 0, False, {"transparency": 3}),
    "palette, shades of transparent": (
        "png",
        in_palette(),
        over_white(PALETTE[INDEX], INDEX),
        1,
        False,
        {"transparency": bytes(range(16))},
    ),
    "color": ("png", Image.fromarray(COLOR), COLOR, 0, False, {}),
    "color with transparency": (
        "png",
        Image.fromarray(np.dstack([COLOR, ALPHA])),
        over_white(COLOR, ALPHA),
        1,
        False,
        {},
    ),
    "16 bits": ("png", Image.fromarray(DEEP), gray_as_rgb(GRAY), 0, True, {}),
    "16 bits TIFF": ("tif", Image.fromarray(DEEP), gray_as_rgb(GRAY), 0, True, {}),
    "16 bits PGM": ("pgm", Image.fromarray(DEEP), gray_as_rgb(GRAY), 0, True, {}),
    "32 bits TIFF": ("tif", Image.fromarray(DEEP.astype(np.int32)), gray_as_rgb(GRAY), 0, True, {}),
    "JPEG": ("jpg", Image.fromarray(COLOR), COLOR, 6, False, {"quality": 100, "subsampling": 0}),
    "gray JPEG": ("jpg", Image.fromarray(GRAY), gray_as_rgb(GRAY), 3, True, {"quality": 100}),
    "CMYK JPEG": ("jpg", Image.frombytes("CMYK", (10, 8), CMYK.tobytes()), CMYK_AS_RGB, 4, False, {"quality": 100}),
    "GIF": ("gif", in_palette(), PALETTE[INDEX], 0, False, {}),
    "GIF with transparency": ("gif", in_palette(), HOLED, 0, False, {"transparency": 3}),
    "WEBP": ("webp", Image.fromarray(COLOR), COLOR, 0, False, {"lossless": True}),
    "BMP": ("bmp", Image.fromarray(COLOR), COLOR, 0, False, {}),
    "TIFF": ("tif", Image.fromarray(COLOR), COLOR, 0, False, {"compression": "tiff_lzw"}),
    "PPM": ("ppm", Image.fromarray(COLOR), COLOR, 0, False, {}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_picture_is_decoded(tmp_path: Path, kind: str) -> None:
    suffix, picture, values, tolerance, is_gray, options = KINDS[kind]
    path = tmp_path / f"picture.{suffix}"
    picture.save(path, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # Pillow warns about palettes with several transparent colors
        assert survey(tmp_path, [path.name]) == Survey(Counter({(10, 8): 1}), int(is_gray), {})
        assert np.abs(decoded(path, 3, 8, 10) - values).max() <= tolerance
        assert np.abs(decoded(path, 1, 8, 10)[..., 0] - luma(values)).max() <= tolerance + 1


UPRIGHT: dict[int, Callable[[Array], Array]] = {
    1: lambda stored: stored,
    2: np.fliplr,
    3: lambda stored: np.rot90(stored, 2),
    4: np.flipud,
    5: lambda stored: stored.swapaxes(0, 1),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: np.rot90(stored, 2).swapaxes(0, 1),
    8: np.rot90,
}


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
def test_a_picture_on_its_side_is_put_upright(tmp_path: Path, suffix: str, orientation: int) -> None:
    options = {"jpg": {"quality": 100, "subsampling": 0}, "webp": {"lossless": True}}.get(suffix, {})
    for label in "ab":
        (tmp_path / label).mkdir()
        path = tmp_path / label / f"1.{suffix}"
        Image.fromarray(COLOR).save(path, exif=exif(orientation), **options)
        path.write_bytes(path.read_bytes() + label.encode())  # not the same file twice
    upright = UPRIGHT[orientation](COLOR).astype(float)
    data = load_dataset("folder", DataConfig(root=tmp_path, stream=True))
    assert data.info.input_size == (3, *upright.shape[:2])
    image = next(iter(data.train.batches([torch.tensor([0])])))[0].permute(1, 2, 0).numpy()
    assert np.abs(image - upright).max() <= (6 if suffix == "jpg" else 0)


def raw_exif(*entries: tuple[int, int, int, bytes]) -> bytes:
    """EXIF from (tag, type, count, four bytes), to say what Pillow would not."""
    body = b"".join(struct.pack("<HHI4s", *entry) for entry in entries)
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(entries)) + body + bytes(4)


SIDEWAYS = (0x0112, 3, 1, struct.pack("<HH", 6, 0))
ODD_EXIF = {
    "orientation 0": (raw_exif((0x0112, 3, 1, bytes(4))), 1),
    "orientation 9": (raw_exif((0x0112, 3, 1, b"\x09\0\0\0")), 1),
    "orientation as text": (raw_exif((0x0112, 2, 2, b"6\0\0\0")), 1),
    "orientation as a byte": (raw_exif((0x0112, 1, 1, b"\x06\0\0\0")), 1),
    "on its side, resolution as text": (raw_exif(SIDEWAYS, (0x011A, 2, 3, b"72\0\0")), 6),
    "on its side, date as a number": (raw_exif(SIDEWAYS, (0x0132, 11, 1, bytes(4))), 6),
    "no EXIF at all": (b"Exif\0\0rubbish, rubbish", 1),
    "cut": (b"Exif\0\0II*\0", 1),
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("odd", ODD_EXIF)
def test_odd_exif_does_not_matter(tmp_path: Path, odd: str, stream: bool) -> None:
    tags, orientation = ODD_EXIF[odd]
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.jpg").write_bytes(jpeg(COLOR, exif=tags) + name.encode())  # not the same file twice
    upright = UPRIGHT[orientation](COLOR).astype(float)
    data = load_dataset("folder", DataConfig(root=tmp_path, stream=stream))
    assert data.info.input_size == (3, *upright.shape[:2])
    image = next(iter(data.train.batches([torch.tensor([1])])))[0]
    assert np.abs(image.permute(1, 2, 0).numpy() - upright).max() <= 6


def classes_of(root: Path, pictures: dict[str, Image.Image]) -> Path:
    for name, picture in pictures.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        picture.save(root / name)
        (root / name).write_bytes((root / name).read_bytes() + name.encode())  # no file is another's twin
    return root


def test_one_color_picture_makes_a_set_color(tmp_path: Path) -> None:
    gray = {f"{label}/{kind}.png": KINDS[kind][1] for label in "ab" for kind in ("gray", "one bit", "16 bits")}
    data = load_dataset("folder", DataConfig(root=classes_of(tmp_path, gray)))
    assert data.info.input_size == (1, 8, 10) and len(data.info.mean) == len(data.info.std) == 1
    assert data.train.images[1, 0].numpy().tolist() == GRAY.tolist()  # 16 bits, gray, one bit
    data = load_dataset("folder", DataConfig(root=classes_of(tmp_path, {"b/z.png": Image.fromarray(COLOR)})))
    assert data.info.input_size == (3, 8, 10) and len(data.info.mean) == len(data.info.std) == 3
    assert data.train.images[1].permute(1, 2, 0).numpy().tolist() == gray_as_rgb(GRAY).tolist()
    assert data.train.images[-1].permute(1, 2, 0).numpy().tolist() == COLOR.tolist()


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("side", [8, 32])
@pytest.mark.parametrize("size", [(20, 33), (33, 20), (100, 41), (9, 50), (8, 8), (32, 32), (5, 6), (33, 32)])
def test_an_image_is_what_timm_would_make_of_the_picture(size: tuple[int, int], side: int, mode: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    picture = Image.fromarray(noise).convert(mode)
    channels = len(picture.getbands())
    transform = create_transform(
        (channels, side, side),
        interpolation="bicubic",
        crop_pct=1.0,
        mean=(0.0,) * channels,
        std=(1.0,) * channels,
        is_training=False,
    )
    image = to_image(picture, (channels, side, side))
    assert image.dtype == torch.uint8 and image.is_contiguous()
    assert (image / 255 - transform(picture)).abs().max() <= 1 / 255


@pytest.mark.parametrize("side", [8, 9, 1023, 1024])
def test_sizes_from_8_to_1024(tmp_path: Path, side: int) -> None:
    values = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    classes_of(tmp_path, {f"{label}/1.bmp": Image.fromarray(values) for label in "ab"})
    own = load_dataset("folder", DataConfig(root=tmp_path))
    assert own.info.input_size == (3, side, side)
    assert own.train.images[0].permute(1, 2, 0).numpy().tolist() == values.tolist()
    classes_of(tmp_path, {"b/2.png": Image.fromarray(values[:5, :7])})
    assert load_dataset("folder", DataConfig(root=tmp_path), image_size=side).train.images.shape == (3, 3, side, side)


@pytest.fixture
def motley(tmp_path: Path) -> Path:
    """Pictures of all kinds and several sizes, two classes, some without a label, some for testing."""
    for number, (suffix, picture, _, _, _, options) in enumerate(KINDS.values()):
        place = ("labeled/a", "labeled/b", "unlabeled", "test/b")[number % 4]
        (tmp_path / place).mkdir(parents=True, exist_ok=True)
        picture.save(tmp_path / place / f"{number}.{suffix}", **options)
    (tmp_path / "labeled/a/on its side.jpg").write_bytes(jpeg(COLOR, exif=exif(6)))
    return tmp_path


def both(root: Path, workers: int = 0, image_size: int = 12) -> tuple[DataSet, DataSet]:
    held, streamed = (
        load_dataset("folder", DataConfig(root=root, stream=stream, workers=workers), image_size)
        for stream in (False, True)
    )
    assert isinstance(held.train, LabeledImages) and isinstance(streamed.train, ImageFiles)
    return held, streamed


@pytest.mark.parametrize("workers", [0, 2])
def test_streaming_equals_memory(motley: Path, workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    here: list[int] = []
    monkeypatch.setattr("muscle_zoo.data.images.to_image", lambda *given: here.append(0) or to_image(*given))
    held, streamed = both(motley, workers)
    assert held.info == streamed.info and held.info.train_size == len(held.train) == len(streamed.train) == 17
    # Batches of several sizes, in no order, an image twice in one of them.
    positions = list(torch.cat([torch.randperm(17), torch.tensor([3, 3])]).split([1, 7, 2, 9]))
    for _ in range(2):
        again = list(streamed.train.batches(positions))
        assert [batch.shape for batch in again] == [(n, 3, 12, 12) for n in (1, 7, 2, 9)]
        for one, other in zip(held.train.batches(positions), again, strict=True):
            assert one.dtype == other.dtype == torch.uint8 and one.equal(other)
    assert torch.cat(list(streamed.train.batches(torch.arange(17).split(5)))).equal(held.train.images)
    for one, other in ((held.train, streamed.train), (held.test, streamed.test)):
        assert one.labels.equal(other.labels) and one.labels.dtype == torch.int64
        assert one.names == other.names
    assert bool(here) == (workers == 0)  # workers decode, and only they


def test_streaming_equals_memory_for_parts(motley: Path) -> None:
    for images in (data.train for data in both(motley)):
        whole = torch.cat(list(images.batches([torch.arange(17)])))
        part = images.subset([16, 2, 2, 5])
        assert part.names == tuple(images.names[i] for i in (16, 2, 2, 5))
        assert part.labels.tolist() == images.labels[[16, 2, 2, 5]].tolist()
        assert torch.cat(list(part.batches([torch.tensor([3, 0])]))).equal(whole[[5, 16]])
        assert len(images.subset([])) == 0
        other = images.with_labels(torch.arange(17))
        assert other.labels.tolist() == list(range(17)) and other.names == images.names
        assert torch.cat(list(other.batches([torch.arange(17)]))).equal(whole)
    for data in both(motley):
        swapped = restrict(data, [1, 0])
        assert swapped.train.labels.tolist() == [
            {0: 1, 1: 0}.get(label, UNKNOWN) for label in data.train.labels.tolist()
        ]
        assert swapped.info.class_names == ("b", "a")


def test_no_image_is_asked_for(motley: Path) -> None:
    for data in both(motley):
        assert [batch.shape for batch in data.train.batches([torch.arange(0)])] == [(0, 3, 12, 12)]
        assert list(data.train.batches([])) == []


def test_a_set_without_test_pictures(tmp_path: Path) -> None:
    classes_of(tmp_path, {f"{label}/1.png": Image.fromarray(COLOR) for label in "ab"})
    for data in both(tmp_path, image_size=0):
        assert (len(data.train), len(data.test), data.info.test_size) == (2, 0, 0)


def test_a_set_that_takes_more_than_half_of_the_free_memory_is_streamed(
    motley: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = 22 * 3 * 12 * 12
    cases = [("1", 2 * size, LabeledImages), ("1", 2 * size - 2, ImageFiles)]
    cases += [("3", 6 * size, LabeledImages), ("3", 6 * size - 2, ImageFiles)]  # each process has a copy of its own
    for processes, free, expected in cases:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
        monkeypatch.setattr("psutil.virtual_memory", lambda free=free: SimpleNamespace(available=free))
        data = load_dataset("folder", DataConfig(root=motley), image_size=12)
        assert isinstance(data.train, expected) and isinstance(data.test, expected)


def test_a_reading_process_leaves_ctrl_c_to_the_main_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It says nothing of a main process that is gone in the midst of a batch; of anything else it does."""
    numbers = (signal.SIGINT, signal.SIGUSR1)
    before = [signal.getsignal(number) for number in numbers]
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    try:
        with warnings.catch_warnings():
            begin_worker(0)
        assert [signal.getsignal(number) for number in numbers] == [signal.SIG_IGN] * 2
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
    # What hands images over calls it so, in a thread of its own (multiprocessing.resource_sharer).
    for gone in (BrokenPipeError(), ConnectionResetError(), EOFError()):
        sys.excepthook(type(gone), gone, None)
    assert capsys.readouterr().err == ""
    sys.excepthook(OSError, OSError("no space"), None)
    assert "no space" in capsys.readouterr().err


def test_every_loader_with_processes_begins_them_so() -> None:
    package = Path(muscle_zoo.__file__).parent
    calls = [
        (path.name, ast.unparse(node))
        for path in package.rglob("*.py")
        if "DataLoader" in (text := path.read_text())
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "DataLoader"
    ]
    assert len(calls) == 3 and not [name for name, call in calls if "worker_init_fn=begin_worker" not in call]
