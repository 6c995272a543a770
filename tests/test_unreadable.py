"""Files that are no whole pictures: listed, left out and counted, or refused; and those that only look so."""

from __future__ import annotations

import builtins
import io
import os
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from muscle_zoo import InputError
from muscle_zoo.data import DataConfig, load_dataset, picture_files
from muscle_zoo.data.images import UNKNOWN, report_unreadable
from muscle_zoo.data.picture_folder import find_pictures
from muscle_zoo.data.picture_survey import survey
from muscle_zoo.errors import TrainingError
from tests.test_images import COLOR, classes_of, jpeg

BAD = {
    "labeled/a/050 cut.jpg": jpeg(COLOR.repeat(3, 0))[:-40],
    "labeled/b/000.jpg": b"",
    "unlabeled/x/7.jpg": b"text\n",
}


@pytest.fixture
def good(tmp_path: Path) -> Path:
    """300 pictures that say which they are: all pixels have the number that is their name."""
    for number in range(300):
        path = tmp_path / ("labeled/a", "labeled/b", "unlabeled")[number // 100] / f"{number:03d}.bmp"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (9, 8), (number % 256, number // 256, 7)).save(path)
    return tmp_path


def spoil(root: Path, name: str, content: bytes) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_bytes(content)


@pytest.mark.parametrize("stream", [False, True])
def test_a_few_bad_pictures_are_left_out(good: Path, stream: bool) -> None:
    classes_of(good, {"test/b/1.bmp": Image.new("RGB", (9, 8))})
    for name, content in BAD.items():
        spoil(good, name, content)
    with pytest.warns(UserWarning, match=f"3 of 303 pictures in {re.escape(str(good))} cannot be read") as caught:
        data = load_dataset("folder", DataConfig(root=good, stream=stream))
    (text,) = (str(warning.message) for warning in caught)
    assert "\n" not in text and all(name in text for name in BAD)
    assert data.info.input_size == (3, 8, 9) and data.info.train_size == len(data.train) == 300
    numbers = [int(Path(name).stem) for name in data.train.names]
    assert numbers == list(range(300))
    assert data.train.labels.tolist() == [0] * 100 + [1] * 100 + [UNKNOWN] * 100
    images = torch.cat(list(data.train.batches(torch.arange(300).split(100)))).long()
    assert (images[:, 0] + 256 * images[:, 1]).flatten(1).tolist() == [[number] * 72 for number in numbers]


@pytest.mark.parametrize("stream", [False, True])
def test_many_bad_pictures_are_listed_and_left_out_and_refused_by_strict(good: Path, stream: bool) -> None:
    for number in range(30):
        spoil(good, f"unlabeled/bad/{number}.jpg", b"<!DOCTYPE html><html>404</html>")
    with pytest.warns(UserWarning, match=r"30 of 330 pictures .* \(an HTML page\)") as caught:
        assert len(load_dataset("folder", DataConfig(root=good, stream=stream)).train) == 300
    (text,) = (str(warning.message) for warning in caught)
    assert text.count("an HTML page") == 21 and "and 10 others, which `muscle-zoo data check` lists" in text
    with pytest.raises(InputError, match=r"30 of 330 pictures in .* cannot be read.*or leave --strict out") as refused:
        load_dataset("folder", DataConfig(root=good, stream=stream, strict=True))
    assert "\n" not in str(refused.value)


def test_a_class_whose_pictures_cannot_be_read_is_refused(good: Path) -> None:
    spoil(good, "labeled/c/1.jpg", b"")
    with pytest.raises(
        InputError, match=r"no picture of class 'c' can be read, the first is .*1\.jpg \(an empty file\)"
    ):
        load_dataset("folder", DataConfig(root=good))


def test_one_in_a_hundred_may_be_bad(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report_unreadable(tmp_path, [], 0)
    with pytest.warns(
        UserWarning, match=r"1 of 100 pictures .* the first is x\.png \(why\); left out: x\.png \(why\)$"
    ):
        report_unreadable(tmp_path, [("x.png", "why")], 100)
    with pytest.raises(InputError, match="1 of 99 pictures"):
        report_unreadable(tmp_path, [("x.png", "why")], 99)


@pytest.mark.parametrize("stream", [False, True])
def test_a_jpeg_with_something_behind_its_end_is_good(tmp_path: Path, stream: bool) -> None:
    """Phones put films and notes there."""
    for name in ("a/1.jpg", "b/1.jpg"):
        spoil(tmp_path, name, jpeg(COLOR) + bytes(10_000) + name.encode())
    data = load_dataset("folder", DataConfig(root=tmp_path, stream=stream))
    assert data.info.input_size == (3, 8, 10) and len(data.train) == 2


def cut_png() -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 9, 3), dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()[:-60]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("content", [None, b"", b"text", jpeg(COLOR)[:-40], cut_png()])
def test_a_picture_that_goes_bad_later(good: Path, content: bytes | None, workers: int) -> None:
    train = load_dataset("folder", DataConfig(root=good, stream=True, workers=workers)).train
    path = good / "labeled/b/123.bmp"
    path.unlink() if content is None else path.write_bytes(content)
    positions = [torch.tensor([5]), torch.tensor([7, 123])]
    batches = train.batches(positions)
    assert next(batches).shape == (1, 3, 8, 9)  # what comes before is not lost
    with pytest.raises(
        TrainingError, match=re.escape(str(path)) + r" cannot be read \(.*replace or delete it"
    ) as caught:
        next(batches)
    assert "\n" not in str(caught.value) and str(caught.value).count(str(path)) == 1


WHOLE = {kind: {"GIF": "gif", "WEBP": "webp", "TIFF": "tif", "BMP": "bmp", "PNG": "png", "PPM": "ppm"}[kind]
         for kind in ("GIF", "WEBP", "TIFF", "BMP", "PNG", "PPM")}  # fmt: skip


@pytest.mark.parametrize("kind", WHOLE)
def test_the_survey_sees_that_a_file_is_cut(tmp_path: Path, kind: str) -> None:
    """What is streamed is not decoded before: it must not be training that stumbles."""
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(file, kind)
    (tmp_path / "whole").write_bytes(file.getvalue())
    (tmp_path / "cut").write_bytes(file.getvalue()[: len(file.getvalue()) // 2])
    assert list(survey(tmp_path, ["whole", "cut"]).bad) == ["cut"]


def test_damage_inside_is_seen(tmp_path: Path) -> None:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 9, (64, 64, 3), dtype=np.uint8)).save(file, "PNG")
    data = bytearray(file.getvalue())
    data[200:600] = b"\xff" * 400
    (tmp_path / "x.png").write_bytes(data)
    for whole in (False, True):
        assert survey(tmp_path, ["x.png"], whole=whole).bad == {"x.png": "broken data stream when reading image file"}


@pytest.mark.parametrize("stream", [False, True])
def test_bombs_are_left_out_by_name_and_large_pictures_are_read(
    tmp_path: Path, stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2_000_000)
    sizes = {"a/1.png": 9, "b/1.png": 10, "b/large.png": 1800, "b/bomb.png": 2100}
    for name, side in sizes.items():
        classes_of(tmp_path, {name: Image.new("1", (side, side))})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        data = load_dataset("folder", DataConfig(root=tmp_path, stream=stream), image_size=8)
        next(iter(data.train.batches([torch.arange(3)])))
    assert data.train.names == ("a/1.png", "b/1.png", "b/large.png")
    (text,) = (str(warning.message) for warning in caught)  # nothing of Pillow's own
    assert "b/bomb.png (4 million pixels, more than the 4 million that are read; make it smaller)" in text


def test_what_may_not_be_read_is_said_and_not_to_be_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    classes_of(tmp_path, {f"{label}/{n}.png": Image.fromarray(COLOR) for label in "ab" for n in (1, 2)})
    (tmp_path / "a/unknown").write_bytes((tmp_path / "a/1.png").read_bytes())
    whole = builtins.open, Path.open

    def refuse(path: Any, *args: Any, **options: Any) -> Any:  # root may read everything, so no mode would do
        if str(path).endswith(("b/2.png", "unknown")):
            raise PermissionError(13, "Permission denied", str(path))
        return whole[0](path, *args, **options)

    monkeypatch.setattr(builtins, "open", refuse)
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.warns(UserWarning, match=r"1 of 4 pictures .* b/2\.png \(no permission to read it\)") as caught:
        data = load_dataset("folder", DataConfig(root=tmp_path))
    texts = [str(warning.message) for warning in caught]
    assert len(data.train) == 3 and not any("delete" in text for text in texts)
    assert any("1 files cannot be opened" in text and "a/unknown" in text and "permissions" in text for text in texts)


def test_heic_without_the_extra_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(picture_files, "find_spec", lambda name: None)
    picture_files.reads_heic.cache_clear()
    classes_of(tmp_path, {f"{label}/1.png": Image.fromarray(COLOR) for label in "ab"})
    heic = b"\0\0\0\x18ftypheic" + bytes(100)
    for name in ("a/2.HEIC", "a/phone", "b/2.jpg"):
        (tmp_path / name).write_bytes(heic)
    (note,) = find_pictures(tmp_path).notes
    assert note.names == ("a/2.HEIC", "a/phone") and note.decide
    assert "2 .heic" in note.text and "pip install pillow-heif" in note.text
    assert survey(tmp_path, ["b/2.jpg"]).bad["b/2.jpg"].startswith("HEIC: python -m pip install pillow-heif")
    picture_files.reads_heic.cache_clear()


def test_pipes_are_not_waited_for_and_no_program_is_started(good: Path) -> None:
    """A pipe has no writer, and PostScript would be drawn by Ghostscript where that is installed."""
    before = len(find_pictures(good).train)
    os.mkfifo(good / "labeled/a/pipe.png")
    (good / "labeled/a/drawn.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n")
    listing = find_pictures(good)
    assert len(listing.train) == before + 1
    assert survey(good, listing.names).bad == {"labeled/a/drawn.jpg": "PostScript"}
    assert survey(good, ["labeled/a/pipe.png"]).bad == {"labeled/a/pipe.png": "no file, but a pipe, socket or device"}
