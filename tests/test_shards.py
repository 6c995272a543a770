"""Pictures in tar files, as WebDataset has them: what is in them, and what is wrong with them."""

from __future__ import annotations

import argparse
import json
import pickle
from pathlib import Path

import pytest
import torch
from PIL import Image

from muscle_zoo import get_recipe
from muscle_zoo.auto.choices import is_own_pictures
from muscle_zoo.commands.arguments import add_source_arguments, source_of
from muscle_zoo.data import Batches, DataConfig
from muscle_zoo.data.addresses import local_pictures
from muscle_zoo.data.embedded import fingerprint
from muscle_zoo.data.images import ImageFiles
from muscle_zoo.data.picture_folder import find_pictures
from muscle_zoo.data.shard_files import Shard
from muscle_zoo.data.shard_index import ShardIndex, index_shard
from muscle_zoo.data.shard_names import expand_braces, part_of_shard
from muscle_zoo.engine.build import prepare_data
from muscle_zoo.errors import InputError
from muscle_zoo.methods import create_method
from tests.conftest import run
from tests.pictures import make_folder, picture
from tests.shards import encoded, listed, said, samples, shard


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MUSCLE_ZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "cache"


def folder_in_shards(root: Path, out: Path, each: int = 7) -> Path:
    """The pictures of a folder, in shards in which a name sorts as its path did."""
    for part in ("labeled", "test", "unlabeled"):
        paths = sorted((root / part).rglob("*.png"))
        for first in range(0, len(paths), each):
            files = []
            for i, path in enumerate(paths[first : first + each]):
                files.append((f"{i:03}.png", path.read_bytes()))
                files += [(f"{i:03}.txt", path.parent.name.encode())] if part != "unlabeled" else []
            shard(out / f"{part}-{first // each:06}.tar", files)
    return out


@pytest.mark.parametrize("stream", [False, True])
def test_shards_are_the_folder_of_the_same_pictures(tmp_path: Path, stream: bool) -> None:
    folder = make_folder(tmp_path / "own", labeled=6, unlabeled=20, test=3)
    folder_in_shards(folder, tmp_path / "shards")
    recipe = get_recipe("cnn4.muscle_fixmatch_folder_4", {"batch_size": 4, "mu": 2, "image_size": 16})
    seen = []
    for root in (folder, local_pictures(Path("wds:shards"))):
        config = DataConfig(root, stream=stream)
        data = prepare_data(recipe, config)
        views = create_method(recipe.method, recipe.options).views
        train = data.dataset.train
        (pixels,) = train.batches([torch.arange(len(train))])
        (tested,) = data.evaluation.batches([torch.arange(len(data.evaluation))])
        whole = list(Batches(recipe, train, data.dataset.info, data.split, views).steps(0, 4))
        seen.append((pixels, tested, train.labels, data.split.labeled, data.dataset.info.class_names, whole))
        for rank in (0, 1):  # what each of two processes sees is its half of what one sees
            halves = Batches(recipe, train, data.dataset.info, data.split, views, rank, 2).steps(2, 4)
            for one, half in zip(whole[2:], halves, strict=True):
                for name, images in one.inputs.items():
                    assert torch.equal(images.chunk(2)[rank], half.inputs[name])
    ours, theirs = seen
    assert torch.equal(ours[0], theirs[0]) and torch.equal(ours[1], theirs[1]) and torch.equal(ours[2], theirs[2])
    assert ours[3:5] == theirs[3:5]
    for one, other in zip(ours[5], theirs[5], strict=True):
        assert all(torch.equal(one.inputs[name], other.inputs[name]) for name in one.inputs)


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """24 labeled, 20 unlabeled and 6 test pictures in shards."""
    return folder_in_shards(make_folder(tmp_path / "own", labeled=12, unlabeled=20, test=3), tmp_path / "shards")


def test_a_run_on_shards_goes_on_and_comes_back(own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", "cnn4.fixmatch_folder_4", "--cpu", "--stream", "--data", "wds:shards/*.tar", "--save-every", "2"]
    words += ["--workers", "0"]
    words += ["steps=6", "eval_every=3", "batch_size=4", "mu=2", "image_size=16"]
    assert run([*words, "--out", "whole"], capsys)[0] == 0
    assert run([*words, "--out", "cut", "--time-limit", "0.000001"], capsys)[0] == 75
    assert run([*words, "--out", "cut"], capsys)[0] == 0
    weights = [Path(out, "export", "model.safetensors").read_bytes() for out in ("whole", "cut")]
    assert weights[0] == weights[1]
    split = json.loads(Path("whole/split.json").read_text())
    assert all(name.startswith("labeled-00000") and name.count("/") == 1 for name in split["names"])
    assert str(tmp_path) not in json.dumps(split)  # where the shards lie is nobody's business
    assert run(["eval", "whole", "--cpu"], capsys)[0] == 0  # it knows where the pictures were
    asked = ["suggest", "whole", "-n", "5", "--rule", "margin", "--cpu"]
    code, text, _ = run([*asked, "--out", "next.csv"], capsys)
    assert code == 0 and "5 of 20 unlabeled" in text
    Path("next.csv").write_text(Path("next.csv").read_text().replace(".png,,", ".png,dog,"))
    assert sum(label >= 0 for _, label in find_pictures(Path("next.csv")).train) == 24 + 5
    code, _, err = run([*asked, "--out", "next.json"], capsys)
    assert code == 2 and "inside of shards; write a .csv" in err
    shard(own / "unlabeled-000009.tar", samples([4], label=""))
    code, _, err = run([*words, "--out", "whole"], capsys)
    assert code == 2 and "1 picture added (unlabeled-000009.tar/004.png)" in err


@pytest.mark.parametrize("kind", ["cls", "txt", "json"])
def test_what_webdataset_writes_is_read(kind: str, tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    Path("w").mkdir()
    pictures = {}
    for part, count, first in (("train", 7, 0), ("val", 2, 10), ("test", 2, 20)):
        with webdataset.ShardWriter(f"w/{part}-%06d.tar", maxcount=3, verbose=0) as writer:
            for i in range(count):
                label = {"cls": i % 2, "txt": "ab"[i % 2], "json": {"label": "ab"[i % 2]}}[kind]
                sample = {"__key__": f"{part}/{i:04}", "png": encoded("cat", first + i), kind: label}
                if part == "train" and i == 6:
                    del sample[kind]
                writer.write(sample)
                pictures[f"{part}-{i // 3:06}.tar/{part}/{i:04}.png"] = sample["png"]
    found = listed("wds:w/{train-{000000..000002},val-000000,test-000000}.tar")
    assert found.class_names == (("0", "1") if kind == "cls" else ("a", "b"))
    assert [label for _, label in found.train] == [0, 0, 0, 1, 1, 1, -1]
    assert found.train[0][0] == "train-000000.tar/train/0000.png" and found.train[-1][0].endswith("0006.png")
    assert (len(found.validation), len(found.test)) == (2, 2) and not said(found)
    for name, content in pictures.items():
        member = found.root / name
        with member.open("rb") as file:
            assert file.read() == content and member.stat().st_size == len(content)
    theirs = webdataset.shardlists.expand_urls("w/{train-{000000..000002},val-000000}.tar::w/test-000000.tar")
    ours = [name for piece in ["w/{train-{000000..000002},val-000000}.tar", "w/test-000000.tar"]
            for name in expand_braces(piece)]  # fmt: skip
    assert theirs == ours


def test_patterns_in_braces_are_those_of_a_shell() -> None:
    for text, names in {
        "a.tar": ["a.tar"],
        "{8..10}": ["8", "9", "10"],
        "x{08..10}y": ["x08y", "x09y", "x10y"],
        "{3..1}": ["3", "2", "1"],
        "{0..4..2}": ["0", "2", "4"],
        "{a,b}{0..1}": ["a0", "a1", "b0", "b1"],
        "{a{0..1},}": ["a0", "a1", ""],
        "{one}{a,b}": ["{one}a", "{one}b"],
        "{a,b": ["{a,b"],
        "}{": ["}{"],
    }.items():
        assert list(expand_braces(text)) == names, text


def test_the_part_of_a_shard_is_in_its_name() -> None:
    for name, part in {
        "train-000000.tar": "labeled",
        "imagenet-val-000012.tar": "validation",
        "cifar10-test-3.tar": "test",
        "train_unlabeled_01.tar": "unlabeled",
        "train-00000-of-00010.tar": "labeled",
        "test/000001.tar": "test",
        "contest-01.tar": None,
        "00000.tar": None,
    }.items():
        assert part_of_shard(name) == part, name
    with pytest.raises(InputError, match="its name says val and test; rename"):
        part_of_shard("val-test-0.tar")


def test_classes_have_the_names_beside_the_shards() -> None:
    others = [("x", b"-1"), ("y", b"11\n"), ("z", b"9")]
    files = [(f"{key}.png", encoded("cat", 90 + i)) for i, (key, _) in enumerate(others)]
    shard(Path("s/0.tar"), [*samples(range(4)), *files, *((f"{key}.cls", text) for key, text in others)])
    found = listed("wds:s")
    assert found.class_names == ("0", "1", "9", "11") and ("0.tar/x.png", -1) in found.train  # 9 before 11
    Path("s/classes.txt").write_text("\n".join(["zebra", "ape", *(f"c{i}" for i in range(2, 12))]) + "\n")
    named = listed("wds:s/0.tar")
    assert named.class_names == ("ape", "c9", "c11", "zebra") and ("0.tar/000.png", 3) in named.train
    Path("s/classes.txt").write_text("zebra\nape\n")
    with pytest.raises(InputError, match=r"0.tar/\w.png: label=\d+ \(cls\) is none of the 2 in classes.txt"):
        listed("wds:s/0.tar")
    Path("s/classes.txt").write_text("zebra\nzebra\n")
    with pytest.raises(InputError, match="the name 'zebra' is empty or there twice"):
        listed("wds:s/0.tar")


def test_captions_beside_numbers_are_no_classes() -> None:
    files = [*samples(range(4)), *((f"{i:03}.txt", b"a caption of a picture") for i in range(4))]
    files += [("u.png", encoded("cat", 50)), ("u.txt", b"a caption")]
    shard(Path("s/train-0.tar"), files)
    found = listed("wds:s")
    assert found.class_names == ("0", "1") and ("train-0.tar/u.png", -1) in found.train
    shard(Path("t/0.tar"), [*samples(range(4), label=""), ("000.txt", b"one line\nanother")])
    with pytest.raises(InputError, match="is no name of a class but a text; write labels into KEY"):
        listed("wds:t")


def test_one_picture_in_two_classes_has_no_label() -> None:
    same = encoded("cat", 70)
    shard(Path("s/0.tar"), [*samples(range(4)), ("a.png", same), ("a.cls", b"0"), ("b.png", same), ("b.cls", b"1")])
    found = listed("wds:s")
    assert "1 picture of the training part in two classes, which count as unlabeled" in said(found)[0]
    assert found.train[-1] == ("0.tar/a.png", -1)


def test_a_shard_is_indexed_once_and_again_when_it_changed(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def count(one: Shard) -> ShardIndex:
        seen.append(one.path.name)
        return index_shard(one)

    monkeypatch.setattr("muscle_zoo.data.shard_pictures.index_shard", count)
    for i in range(3):
        shard(Path(f"s/{i}.tar"), samples(range(4 * i, 4 * i + 4)))
    index = local_pictures(Path("wds:s/{0..2}.tar"))
    old = find_pictures(index)
    assert local_pictures(Path("wds:s/{0..2}.tar")) == index and seen == ["0.tar", "1.tar", "2.tar"]
    shard(Path("s/1.tar"), samples(range(20, 26)))
    with pytest.raises(
        InputError, match=r"1.tar has changed since it was indexed; give --data wds:s/\{0..2\}.tar again"
    ):
        find_pictures(index)
    with pytest.raises(OSError, match=r"1\.tar has changed since it was indexed"):  # its places are others now
        (old.root / "1.tar/004.png").open("rb")
    assert local_pictures(Path("wds:s/{0..2}.tar")) == index and seen[3:] == ["1.tar"]
    assert len(find_pictures(index).train) == 14
    index.write_text("damaged")
    with pytest.raises(InputError, match="not readable as JSON"):
        find_pictures(index)
    local_pictures(Path("wds:s/{0..2}.tar"))
    assert len(seen) == 7 and len(find_pictures(index).train) == 14


def test_pictures_of_every_kind_are_those_of_files(tmp_path: Path) -> None:
    """Decoders that seek, read ahead or want a file's number get the picture's bytes and no others."""
    kinds = {"png": {}, "jpg": {"quality": 90}, "webp": {}, "bmp": {}, "gif": {}, "ppm": {},
             "tif": {"compression": "tiff_lzw"}}  # fmt: skip
    files = []
    for number, (kind, options) in enumerate(kinds.items()):
        path = tmp_path / "files" / f"{number}.{kind}"
        path.parent.mkdir(exist_ok=True)
        with Image.open(picture(tmp_path / "made.png", "cat", number, (40 + number, 30))) as made:
            made.save(path, **options)
        files += [(path.name, path.read_bytes()), (f"{number}.cls", str(number % 2).encode())]
    shard(Path("s/0.tar"), files)
    root = find_pictures(local_pictures(Path("wds:s"))).root
    names = tuple(name for name, _ in files if not name.endswith("cls"))
    labels = torch.zeros(len(names), dtype=torch.int64)
    inside = ImageFiles(root, tuple(f"0.tar/{name}" for name in names), labels, (3, 20, 24), 2, bad_share=0.0)
    beside = ImageFiles(tmp_path / "files", names, labels, (3, 20, 24), bad_share=0.0)
    assert torch.equal(inside.load().images, beside.load().images)
    copy = pickle.loads(pickle.dumps(inside))  # as readers get it that are not forked
    assert torch.equal(copy.load().images, beside.load().images) and fingerprint(copy) == fingerprint(inside)


def test_a_command_takes_shards_for_its_data(capsys: pytest.CaptureFixture[str]) -> None:
    shard(Path("s/0.tar"), samples(range(4)))
    parser = argparse.ArgumentParser()
    add_source_arguments(parser)
    root = source_of(parser.parse_args(["--data", "wds:s/0.tar"])).root
    assert root is not None and root.name == "s.shards" and is_own_pictures("wds:0.tar")
    code, text, _ = run(["data", "check", "wds:s"], capsys)
    assert code == 0 and "labeled: 1 shard (0.tar), labels in .cls" in text and "24x24 (4)" in text
    code, _, err = run(["data", "check", "wds:gone"], capsys)
    assert code == 2 and "no shard is gone" in err
