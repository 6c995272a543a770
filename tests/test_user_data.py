"""The user's own pictures, from the folder to a model that is evaluated; and every command that shows data."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import muscle_zoo
from muscle_zoo import create_model, create_transform
from muscle_zoo.data import Batches, DataConfig, ImageFiles, images
from muscle_zoo.data.decoding import upright
from muscle_zoo.data.picture_folder import list_folder
from muscle_zoo.engine import build
from muscle_zoo.engine.build import Data, prepare_data
from muscle_zoo.engine.fit import _note_few_passes
from muscle_zoo.methods import create_method
from muscle_zoo.recipes import get_recipe
from tests.conftest import listing, run
from tests.pictures import make_folder, picture

WORDS = ["cnn4.muscle_fixmatch_folder_8", "steps=6", "eval_every=3", "batch_size=8", "mu=2", "image_size=16"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "my_data")


def train(folder: Path, out: Path, *more: str) -> list[str]:
    return ["train", *WORDS, "--cpu", "--data", str(folder), "--out", str(out), *more]


def test_a_folder_of_pictures_becomes_a_model(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    assert run(train(folder, out), capsys)[0] == 0
    row = json.loads((out / "status.json").read_text())["row"]
    assert (row["name"], row["n_test"], row["bias"]) == ("cnn4.muscle_fixmatch_folder_8", 10, "none")
    split = json.loads((out / "split.json").read_text())
    assert split["unlabelled"]["count"] == 42 and len(split["names"]) == 8
    assert sum(name.startswith("labeled/cat/") for name in split["names"]) == 4
    config = json.loads((out / "export" / "config.json").read_text())
    assert config["label_names"] == ["cat", "dog"] and config["pretrained_cfg"]["input_size"] == [3, 16, 16]
    code, text, _ = run(["eval", str(out), "--data", str(folder), "--json"], capsys)
    assert code == 0 and json.loads(text)["published"]["reproduced"]
    # What the transform makes of a picture is what the training saw.
    model = create_model(f"local-dir:{out / 'export'}", pretrained=True).eval()
    prepared = prepare_data(get_recipe(WORDS[0], dict(word.split("=") for word in WORDS[1:])), DataConfig(folder))
    from muscle_zoo.data import normalize

    name = prepared.dataset.test.names[3]
    raw = next(prepared.dataset.test.batches([torch.tensor([3])]))
    mine = normalize(raw, prepared.dataset.info)[0]
    with Image.open(folder / name) as opened:
        assert create_transform(model)(opened).allclose(mine, atol=0.02)


def test_streamed_or_from_memory_it_is_the_same_run(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for out, more in (
        ("memory", []),
        ("stream", ["--stream", "--workers", "2"]),
        ("alone", ["--stream", "--workers", "0"]),
    ):
        assert run(train(folder, tmp_path / out, *more), capsys)[0] == 0
    weights = [(tmp_path / out / "export" / "model.safetensors").read_bytes() for out in ("memory", "stream", "alone")]
    assert weights[0] == weights[1] == weights[2]


def test_a_streamed_run_goes_on(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stream = ["--stream", "--workers", "1"]
    assert run(train(folder, tmp_path / "whole", *stream), capsys)[0] == 0
    assert run(train(folder, tmp_path / "parts", *stream, "--time-limit", "0.000001"), capsys)[0] == 75
    assert run(train(folder, tmp_path / "parts", *stream), capsys)[0] == 0
    whole, parts = (tmp_path / out / "export" / "model.safetensors" for out in ("whole", "parts"))
    assert whole.read_bytes() == parts.read_bytes()


def test_a_run_does_not_go_on_with_other_pictures(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert run(train(folder, out, "--time-limit", "0.000001"), capsys)[0] == 75
    picture(folder / "unlabeled" / "new.png", "cat", 1)
    before = listing(out)
    code, _, err = run(train(folder, out), capsys)
    assert code == 2 and "are not those it was begun with: 1 picture added (unlabeled/new.png)" in err
    assert listing(out) == before
    (out / "pictures.json").unlink()  # of a run that was killed, or of an older edition
    code, _, err = run(train(folder, out), capsys)
    assert (
        code == 2
        and "the data are not those the run was begun with (unlabelled: 43 images, 42 then, other file names)" in err
    )


def test_no_published_file_of_a_csv_of_whole_paths_says_where_they_are(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [f"{path},{path.parent.name},\n" for path in (folder / "labeled").rglob("*.png")]
    rows += [f"{path},{path.parent.name},test\n" for path in (folder / "test").rglob("*.png")]
    rows += [f"{path},,\n" for path in (folder / "unlabeled").rglob("*.png")]
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "list.csv").write_text("path,label,split\n" + "".join(rows))
    out = tmp_path / "run"
    assert run(train(lists / "list.csv", out), capsys)[0] == 0
    split = json.loads((out / "export" / "split.json").read_text())
    assert len(split["names"]) == 8 and all(name.startswith("labeled/") for name in split["names"])
    for path in (out / "export").iterdir():
        assert str(tmp_path).encode() not in path.read_bytes(), path


def test_a_run_that_was_begun_with_whole_paths_as_names_says_so(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert run(train(folder, out, "--time-limit", "0.000001"), capsys)[0] == 75
    split = json.loads((out / "split.json").read_text())
    names = [f"{folder}/{name}" for name in split["names"]]
    (out / "split.json").write_text(json.dumps({**split, "names": names, "names_sha256": "0" * 64}))
    before = listing(out)
    code, _, err = run(train(folder, out), capsys)
    assert code == 2 and f"{out / 'split.json'}: the data are not those" in err and "other file names" in err
    assert listing(out) == before


def test_a_finished_run_is_not_taken_for_one_on_other_pictures(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert run(train(folder, out), capsys)[0] == 0
    assert run(train(folder, out), capsys)[0] == 0
    other = make_folder(tmp_path / "other")
    code, _, err = run(train(other, out), capsys)
    assert code == 2 and f"is a finished run on {folder.resolve()}, not on {other.resolve()}" in err
    code, _, err = run(train(tmp_path / "gone", out), capsys)
    assert code == 2 and "gone does not exist" in err


def test_a_corrupt_picture_among_many_is_left_out_with_a_warning(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for i in range(90):
        picture(folder / "unlabeled" / "more" / f"{i}.png", "cat", i)
    (folder / "unlabeled" / "0" / "000.png").write_bytes(b"")
    code, _, err = run(train(folder, tmp_path / "run"), capsys)
    assert code == 0
    assert err.count("warning: 1 of 132 pictures in") == 1 and "unlabeled/0/000.png" in err
    assert json.loads((tmp_path / "run" / "split.json").read_text())["unlabelled"]["count"] == 131


def test_a_model_of_other_classes_is_not_evaluated(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(train(folder, tmp_path / "run"), capsys)[0] == 0
    other = make_folder(tmp_path / "other", ("cat", "owl"))
    code, _, err = run(["eval", str(tmp_path / "run"), "--data", str(other)], capsys)
    assert code == 2 and "was trained on the classes cat, dog, but the data have cat, owl" in err


def test_a_folder_without_a_test_part_is_evaluated_on_validation_images(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_folder(tmp_path / "mine", test=0)
    words = ["labels=12", "validation=0.34", "fold=validation"]
    assert run(train(folder, tmp_path / "run", *words), capsys)[0] == 0
    row = json.loads((tmp_path / "run" / "status.json").read_text())["row"]
    assert row["n_test"] == 4
    assert len(json.loads((tmp_path / "run" / "split.json").read_text())["labelled"]) == 8


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "I;16"])
@pytest.mark.parametrize("name", ["cnn4.muscle_digits_10", "wrn_28_2.fixmatch_cifar10_40"])
def test_the_transform_takes_pictures_of_any_mode(name: str, mode: str) -> None:
    picture = Image.new("RGB", (40, 30), (200, 30, 60)).convert("L" if mode == "I;16" else mode)
    made = create_transform(name)(picture.convert(mode) if mode == "I;16" else picture)
    assert tuple(made.shape) == tuple(create_model(name).pretrained_cfg["input_size"])


def test_pictures_of_32_bits_are_read_where_their_scale_is_known() -> None:
    gray = np.full((8, 8), 200.0)
    assert np.asarray(upright(Image.fromarray((gray * 256).astype(np.int32)), 1)).tolist() == gray.tolist()
    assert np.asarray(upright(Image.fromarray((gray * 256).astype(np.uint16)), 1)).tolist() == gray.tolist()
    assert not np.asarray(upright(Image.fromarray(np.zeros((8, 8), np.float32)), 1)).any()
    for values in (np.float32(gray), np.float32(gray / 255), np.int32(gray), np.int32(gray * 2**12)):
        with pytest.raises(ValueError, match="save it with 8 or 16 bits"):
            upright(Image.fromarray(values), 1)


def test_the_transform_turns_pictures_upright(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    straight = Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by a quarter
    straight.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "x.png", exif=exif)
    transform = create_transform("wrn_28_2.fixmatch_cifar10_40")
    assert transform(Image.open(tmp_path / "x.png")).equal(transform(straight))


def test_eval_on_other_pictures_compares_nothing(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(train(folder, tmp_path / "run"), capsys)[0] == 0
    other = make_folder(tmp_path / "other", test=3)
    code, text, _ = run(["eval", str(tmp_path / "run"), "--data", str(other)], capsys)
    assert code == 0 and "of 10 other images: not compared" in text


def test_a_csv_is_a_data_set(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = ["path,label,split"]
    lines += [f"labeled/{label}/{i:03}.png,{label}," for label in ("cat", "dog") for i in range(4)]
    lines += [f"test/{label}/{i:03}.png,{label},test" for label in ("cat", "dog") for i in range(3)]
    lines += [f"unlabeled/0/{i:03}.png,," for i in (0, 3, 6, 9)]
    (folder / "mine.csv").write_text("\n".join(lines))
    assert run(train(folder / "mine.csv", tmp_path / "run"), capsys)[0] == 0
    assert json.loads((tmp_path / "run" / "split.json").read_text())["unlabelled"]["count"] == 12


STREAMS = {"memory": None, "files": True}


def hundred(folder: Path, stream: bool | None, rank: int, world: int, start: int = 0) -> list[torch.Tensor]:
    recipe = get_recipe(WORDS[0], dict(word.split("=") for word in WORDS[1:]))
    data: Data = prepare_data(recipe, DataConfig(folder, stream, workers=0))
    assert isinstance(data.dataset.train, ImageFiles) == bool(stream)
    views = create_method(recipe.method, recipe.options).views
    batches = Batches(recipe, data.dataset.train, data.dataset.info, data.split, views, rank, world)
    return [torch.cat([*batch.inputs.values()]) for batch in batches.steps(start, 100)]


@pytest.mark.parametrize("stream", STREAMS)
def test_the_first_hundred_batches_are_the_same_for_all_processes_and_after_a_resume(folder: Path, stream: str) -> None:
    whole = hundred(folder, STREAMS[stream], 0, 1)
    halves = [hundred(folder, STREAMS[stream], rank, 2) for rank in (0, 1)]
    for one, first, second in zip(whole, *halves, strict=True):
        sizes = (4, 8, 8)  # labeled, weak and strong of each process
        pairs = zip(first.split(sizes), second.split(sizes), strict=True)
        assert torch.cat([torch.cat(pair) for pair in pairs]).equal(one)
    for before, after in zip(whole[63:], hundred(folder, STREAMS[stream], 0, 1, start=63), strict=True):
        assert before.equal(after)
    assert not whole[0].equal(whole[1])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", ["cnn4.fixmatch_digits_10", "wrn_28_2.fixmatch_synthetic:3x32x32x10_250"])
def test_a_gpu_makes_the_same_batches(name: str) -> None:
    recipe = get_recipe(name)
    data = prepare_data(recipe)
    views = create_method(recipe.method, recipe.options).views
    made = []
    for device in ("cpu", "cuda"):
        images = data.dataset.train.to(torch.device(device))
        batches = Batches(recipe, images, data.dataset.info, data.split, views, device=device)
        made.append([{name: view.cpu() for name, view in batch.inputs.items()} for batch in batches.steps(0, 20)])
    apart = total = 0
    for cpu, gpu in zip(*made, strict=True):
        for view in cpu:
            apart += int(((cpu[view] - gpu[view]).abs() > 1e-4).sum())
            total += cpu[view].numel()
    assert apart / total < 1e-3


def test_one_of_several_processes_does_not_fork_its_readers(monkeypatch: pytest.MonkeyPatch) -> None:
    assert images._context() is None
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    context = images._context()  # a fork beside gloo's threads hung once in two hundred times
    assert context is not None and context.get_start_method() == "forkserver"


@pytest.mark.parametrize("words", [[], ["--labels", "8"]])
def test_data_show_reads_a_folder_once(
    folder: Path, words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    roots: list[Path] = []
    monkeypatch.setattr(
        "muscle_zoo.data.datasets.list_folder", lambda root, strict: roots.append(root) or list_folder(root, strict)
    )
    code, out, _ = run(["data", "show", "folder", "--data", str(folder), *words], capsys)
    assert code == 0 and "evaluated on 10 images of the test fold" in out and roots == [folder]


def test_data_show_of_another_set(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(["data", "show", "mnist", "dataset=digits"], capsys)
    assert code == 0 and out.startswith("digits: ") and "10 of a budget of 10 " in out


def test_data_show(tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sheet = tmp_path / "sheets" / "x.png"
    code, out, _ = run(["data", "show", "digits", "--labels", "40", "seed=1", "--out", str(sheet)], capsys)
    assert code == 0 and "40 of a budget of 40 (seed 1, bias none)" in out
    split = prepare_data(get_recipe("cnn4.muscle_digits_40", {"seed": 1})).split
    assert split.sha256 in out
    assert sheet.read_bytes().startswith(b"\x89PNG")
    code, out, _ = run(["data", "show", "folder", "--data", str(folder)], capsys)
    assert code == 0 and "12 for training" not in out and "42 for training, 10 for the test, 3x24x24" in out
    assert "of unknown class" in out
    code, out, _ = run(["data", "show", "digits", "--labels", "30", "classes=1+2+3", "mismatch=0.5"], capsys)
    assert code == 0 and "outside the task" in out
    code, out, _ = run(["data", "show", "cnn4.muscle_digits_20", "bias=imbalance:4"], capsys)
    assert code == 0 and "bias imbalance:4" in out
    code, out, _ = run(["data", "show", "digits", "--labels", "40", "label_noise=symmetric:0.4"], capsys)
    assert code == 0 and "wrong labels 16 of the labeled ones (label_noise=symmetric:0.4)" in out
    code, _, err = run(["data", "show", "digits", "classes=1,2"], capsys)
    assert code == 2 and "write classes=1+2" in err


def test_few_passes_over_many_labels_are_said(tmp_path: Path) -> None:
    """3,000 steps would be many for a hundred labels."""
    recipe = get_recipe("cnn4.supervised_folder_all", {"steps": 250, "batch_size": 16})
    with pytest.warns(UserWarning, match=r"steps=250 are 4 passes over 1,000 labels.*steps=1250 would be 20"):
        _note_few_passes(recipe, 1000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _note_few_passes(recipe, 999)
        _note_few_passes(get_recipe("cnn4.supervised_digits_all", {"steps": 250}), 1000)


def test_info_takes_own_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_folder(tmp_path / "mine", labeled=2, unlabeled=1, test=1)
    assert run(["info", "cnn4.supervised_folder_4"], capsys)[0] == 2
    code, out, _ = run(["info", "cnn4.supervised_folder_4", "--data", str(folder)], capsys)
    assert code == 0 and "2 classes: cat, dog" in out and "64x64" in out


@pytest.mark.parametrize(
    ("method", "labeled", "overrides", "says"),
    [
        ("fixmatch", 6, [], "fold=test: folder has no such images; add fold=dev, which holds out a fifth"),
        ("simclr", 6, ["fold=test"], "fold=test: folder has no such images; add fold=dev, which holds out a fifth"),
        ("simclr", 1, [], "or label two of a class or more and add fold=dev"),
        ("simclr", 1, ["fold=dev"], "fold=dev: no class has two labels"),
        ("simclr", 6, ["fold=validation"], "fold=validation: there are no validation images; give validation=0.2"),
    ],
)
def test_nothing_to_evaluate_on_is_told_before_pictures_are_read(
    method: str, labeled: int, overrides: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(build, "load_dataset", lambda *_: pytest.fail("the pictures were read"))
    folder = make_folder(tmp_path / "mine", labeled=labeled, unlabeled=4, test=0)
    words = ["train", f"cnn4.{method}_folder_2", *overrides, "--data", str(folder), "--out", str(tmp_path / "run")]
    code, out, err = run(words, capsys)
    assert code == 2 and says in err and err.count("error:") == 1 and out == "" and not (tmp_path / "run").exists()


def test_pre_training_goes_on_without_test_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_folder(tmp_path / "mine", unlabeled=8, test=0)
    few = {"steps": 2, "eval_every": 2, "batch_size": 4, "mu": 1, "image_size": 8}
    words = [f"{key}={value}" for key, value in few.items()]
    train_it = ["train", "cnn4.simclr_folder_4", *words, "--cpu", "--data", str(folder), "--out", str(tmp_path / "run")]
    for _ in range(2):  # the second finds it finished
        code, out, err = run(train_it, capsys)
        assert code == 0 and "of 2 images" in out and "fold=dev is taken" in err
    again = muscle_zoo.train("cnn4.simclr_folder_4", few, data=folder, out=tmp_path / "run", cpu=True, progress=False)
    assert again.finished and again.recipe.fold == "dev"
