"""Embeddings: what is computed, and the cache's ways to go wrong."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from muscle_zoo import InputError, create_model, embed
from muscle_zoo.data import load_dataset, normalize
from muscle_zoo.data.augment import parse_policy
from muscle_zoo.data.embedded import cached_random_numbers, fingerprint
from muscle_zoo.data.images import ImageFiles, LabeledImages
from muscle_zoo.engine import embeddings as module
from muscle_zoo.engine.backbone import Backbone, split_network
from muscle_zoo.engine.embedding_cache import EmbeddingFile, EmbeddingWriter
from muscle_zoo.engine.embeddings import PLAIN, CachedView, Pictures, batch_size, embed_pictures, embedding_file

from .conftest import run

WEAK = CachedView("affine(8,0.08,0.05)", 1)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MUSCLE_ZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(module.MOST, "cpu", 64)  # several batches
    return tmp_path / "cache" / "embeddings"


@pytest.fixture
def backbone() -> Backbone:
    return split_network(create_model("cnn4.muscle_digits_10", pretrained=True), (1, 8, 8))


@pytest.fixture
def pictures() -> Pictures:
    digits = load_dataset("digits")
    return Pictures.of(digits.test.subset(range(150)), digits.info)


def test_embeddings_equal_a_naive_loop(backbone: Backbone, pictures: Pictures) -> None:
    plain, weak = embed_pictures(backbone, pictures, (PLAIN, WEAK))
    policy = parse_policy("weak", WEAK.policy)
    for i in (0, 63, 64, 149):
        image = next(pictures.images.batches([torch.tensor([i])]))
        numbers = cached_random_numbers(WEAK.policy, WEAK.draw, i, i + 1, policy.num_random)
        for made, raw in ((plain, image), (weak, policy(image, numbers))):
            with torch.no_grad():
                network = backbone.network
                features = network.forward_features(normalize(raw, pictures.info))  # type: ignore[operator]
                one = network.forward_head(features, pre_logits=True)[0]  # type: ignore[operator]
            torch.testing.assert_close(made[i].float(), one, rtol=2e-3, atol=1e-3)
    assert plain.dtype == torch.float32 and weak.dtype == torch.float16


def test_random_numbers_of_an_image_depend_on_nothing_but_its_position() -> None:
    whole = cached_random_numbers("flip", 0, 0, 2500, 3)
    assert cached_random_numbers("flip", 0, 1000, 1100, 3).equal(whole[1000:1100])
    assert not cached_random_numbers("flip", 1, 0, 2500, 3).equal(whole)
    assert not cached_random_numbers("shift(0.1)", 0, 0, 2500, 3).equal(whole)


def counted(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the batches that go through the network from now on."""
    sizes: list[int] = []
    embed_batch = module.embed_batch

    def counting(backbone: Backbone, images: Tensor, *rest: object) -> list[Tensor]:
        sizes.append(len(images))
        return embed_batch(backbone, images, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "embed_batch", counting)
    return sizes


def test_the_cache_is_used(backbone: Backbone, pictures: Pictures, monkeypatch: pytest.MonkeyPatch) -> None:
    (first,) = embed_pictures(backbone, pictures)
    sizes = counted(backbone, monkeypatch)
    (again,) = embed_pictures(backbone, pictures)
    assert again.equal(first) and not sizes
    embed_pictures(backbone, pictures, (PLAIN, WEAK))  # only what is missing
    assert sizes == [64, 64, 22]


def test_what_changes_embeddings_changes_the_file(backbone: Backbone, pictures: Pictures) -> None:
    before = embedding_file(backbone, pictures, PLAIN).path
    changed = pictures.images.images.clone()  # type: ignore[attr-defined]
    changed[7, 0, 3, 3] += 1
    other = Pictures.of(LabeledImages(changed, pictures.images.labels), pictures.info)
    with torch.no_grad():
        next(backbone.network.parameters()).view(-1)[0] += 1e-6
    weights = split_network(backbone.network, (1, 8, 8))
    files = [
        embedding_file(backbone, other, PLAIN),
        embedding_file(weights, pictures, PLAIN),
        embedding_file(backbone, pictures, WEAK),
        embedding_file(backbone, pictures, WEAK._replace(draw=0)),
    ]
    assert len({before, *(file.path for file in files)}) == 5
    assert {file.key["compute"] for file in files} == {"float32"}  # on every machine, and as in files of before
    # Classes are no part of it.
    same = Pictures.of(pictures.images.with_labels(pictures.images.labels.flip(0)), pictures.info)
    assert embedding_file(backbone, same, PLAIN).path == before


def test_the_classifier_is_no_part_of_the_backbone() -> None:
    torch.manual_seed(0)
    network = timm.create_model("test_resnet", num_classes=5)
    before = split_network(network, (3, 32, 32)).sha256
    with torch.no_grad():
        network.get_classifier().bias.add_(1.0)
    assert split_network(network, (3, 32, 32)).sha256 == before
    network.reset_classifier(3)
    assert split_network(network, (3, 32, 32)).sha256 == before


def test_a_picture_on_disk_that_changes_is_another(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"one")
    files = ImageFiles(tmp_path, ("a.png",), torch.tensor([0]), (1, 8, 8))
    before = fingerprint(files)
    assert fingerprint(files.with_labels(torch.tensor([1]))) == before
    (tmp_path / "a.png").write_bytes(b"two!")
    assert fingerprint(files) != before
    (tmp_path / "a.png").write_bytes(b"two?")
    os.utime(tmp_path / "a.png", (5, 5))  # of one size, changed at another time
    assert fingerprint(files) != before


def damage(path: Path, how: str) -> None:
    content = path.read_bytes()
    if how == "truncated":
        path.write_bytes(content[:-7])
    elif how == "other version":
        path.write_bytes(content.replace(b'"muscle_zoo_embeddings":"1"', b'"muscle_zoo_embeddings":"9"'))
    elif how == "garbage":
        path.write_bytes(b"\0" * 100)
    elif how == "empty":
        path.write_bytes(b"")
    else:  # somebody else's: the same shape under this name
        save_file({"embeddings": load_file(path)["embeddings"] + 1}, path, {"muscle_zoo_embeddings": "1"})


@pytest.mark.parametrize("how", ["truncated", "other version", "garbage", "empty", "foreign"])
def test_a_file_that_cannot_be_used_is_made_again(
    how: str, backbone: Backbone, pictures: Pictures, capfd: pytest.CaptureFixture[str]
) -> None:
    (first,) = (made.clone() for made in embed_pictures(backbone, pictures))
    file = embedding_file(backbone, pictures, PLAIN)
    whole = file.path.read_bytes()
    damage(file.path, how)
    capfd.readouterr()
    (again,) = embed_pictures(backbone, pictures)
    line = capfd.readouterr().err
    assert again.equal(first) and file.path.read_bytes() == whole
    assert line.count("\n") == 1 and "these embeddings are made again" in line


class Killed(BaseException):
    pass


def kill_after(batches: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEEP_EVERY", -1.0)  # a note after each batch
    done, embed_batch = 0, module.embed_batch

    def dying(*arguments: object) -> list[Tensor]:
        nonlocal done
        if done == batches:
            raise Killed
        done += 1
        return embed_batch(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "embed_batch", dying)


def test_goes_on_where_it_was_killed(
    backbone: Backbone, pictures: Pictures, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    views = (PLAIN, WEAK)
    embed_pictures(backbone, pictures, views)
    whole = {path.name: path.read_bytes() for path in cache.glob("*.safetensors")}
    for path in cache.glob("*.safetensors"):
        path.unlink()
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_after(2, patch)
        embed_pictures(backbone, pictures, views)
    assert not list(cache.glob("*.safetensors")) and len(list(cache.glob("*.part"))) == 2
    with next(cache.glob("*.part")).open("ab") as torn:
        torn.write(b"half a row")  # written, and not yet certain
    sizes = counted(backbone, monkeypatch)
    embed_pictures(backbone, pictures, views)
    assert sizes == [22]
    assert {path.name: path.read_bytes() for path in cache.glob("*")} == {**whole}


def test_a_damaged_beginning_is_not_gone_on_with(
    backbone: Backbone, pictures: Pictures, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_after(2, patch)
        embed_pictures(backbone, pictures)
    (part,) = cache.glob("*.part")
    content = bytearray(part.read_bytes())
    content[-1] ^= 1
    part.write_bytes(content)
    sizes = counted(backbone, monkeypatch)
    embed_pictures(backbone, pictures)
    assert sizes == [64, 64, 22]


def test_a_full_disk_is_one_line_and_leaves_nothing(
    backbone: Backbone, pictures: Pictures, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full:
        def __init__(self, stream: object) -> None:
            self.stream = stream

        def write(self, content: bytes) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        def __getattr__(self, name: str) -> object:
            return getattr(self.stream, name)

    rewind = EmbeddingWriter.rewind

    def filling(writer: EmbeddingWriter, rows: int) -> None:
        rewind(writer, rows)
        writer._stream = Full(writer._stream)  # type: ignore[assignment]

    monkeypatch.setattr(EmbeddingWriter, "rewind", filling)
    with pytest.raises(InputError, match=r"the disk is full.*MUSCLE_ZOO_CACHE") as caught:
        embed_pictures(backbone, pictures)
    assert "\n" not in str(caught.value) and not list(cache.iterdir())


def test_too_small_a_disk_is_refused_before_any_work(
    backbone: Backbone, pictures: Pictures, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1000})())
    sizes = counted(backbone, monkeypatch)
    with pytest.raises(InputError, match="MiB left, and embeddings need"):
        embed_pictures(backbone, pictures)
    assert not sizes and not list(cache.iterdir())


def test_a_folder_that_cannot_be_written(
    backbone: Backbone, pictures: Pictures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("MUSCLE_ZOO_CACHE", str(tmp_path / "file"))
    with pytest.raises(InputError, match="MUSCLE_ZOO_CACHE"):
        embed_pictures(backbone, pictures)


def test_embeddings_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    file = EmbeddingFile(tmp_path / "x.safetensors", {"arch": "net"}, 2, 3)
    writer = EmbeddingWriter(file)
    with pytest.raises(InputError, match="not finite"):
        writer.append(torch.full((2, 3), 1e6))  # too large for float16


def test_batches_fit_into_memory(pictures: Pictures, monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    monkeypatch.setitem(module.MOST, "cpu", 256)
    assert batch_size(pictures.info, cpu) == 256
    monkeypatch.setattr(module, "free_memory", lambda: 4 * 4 * 64 * 64 * 10)
    assert batch_size(pictures.info, cpu) == 10
    monkeypatch.setattr(module, "free_memory", lambda: 0)
    assert batch_size(pictures.info, cpu) == 1


def test_a_network_without_a_linear_classifier_is_refused() -> None:
    with pytest.raises(InputError, match=r"arch=test_resnet.*Identity"):
        split_network(timm.create_model("test_resnet", num_classes=0), (3, 32, 32))
    assert split_network(timm.create_model("test_resnet", num_classes=0), (3, 32, 32), classifier=False).width == 96


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    from PIL import Image

    digits = load_dataset("digits").train
    for i in range(12):
        path = tmp_path / "own" / ("cat", "dog")[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(digits.images[i, 0].numpy()).save(path)  # type: ignore[attr-defined]
    yield tmp_path / "own"


def test_embed_from_python_and_the_shell(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = embed("cnn4.muscle_digits_10", folder, cpu=True, progress=False)
    assert found.names[:2] == ("cat/0.png", "cat/10.png") and found.class_names == ("cat", "dog")
    assert found.labels.tolist() == [0] * 6 + [1] * 6
    out = tmp_path / "e.safetensors"
    code, said, _ = run(["embed", "cnn4.muscle_digits_10", "--data", str(folder), "--out", str(out), "--cpu"], capsys)
    assert code == 0 and "12 embeddings of 64 numbers, 12 with a label" in said
    assert load_file(out)["embeddings"].equal(found.embeddings) and load_file(out)["labels"].equal(found.labels)
    npy = tmp_path / "e.npy"
    words = ["embed", "cnn4.muscle_digits_10", "image_size=8", "--data", str(folder), "--out", str(npy), "--cpu"]
    code, said, err = run(words, capsys)
    assert code == 0 and f"{npy.with_suffix('.json')}: their names and labels" in said and "is replaced" not in err
    assert f"note: {npy} was there before, and is replaced" in run(words, capsys)[2]
    import numpy as np

    assert torch.from_numpy(np.load(npy)).equal(found.embeddings)
    assert json.loads(npy.with_suffix(".json").read_text())["names"] == list(found.names)


def test_embed_without_classes_and_wrong_input(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = embed("cnn4.muscle_digits_10", folder / "cat", cpu=True, progress=False)
    assert found.labels.tolist() == [-1] * 6 and found.names[0] == "0.png"
    words = ["embed", "cnn4.muscle_digits_10", "--cpu", "--out"]
    for rest, part in (
        ([str(tmp_path / "e.txt"), "--data", str(folder)], "e.txt has no ending that is known"),
        ([str(tmp_path / "e.npy"), "image_size=x"], "image_size=x is no number of pixels"),
        ([str(tmp_path / "e.npy"), "steps=3"], "override 'steps': embed takes image_size=N alone"),
        ([str(tmp_path / "e.npy")], "say which pictures (--data my_pictures)"),
        ([str(tmp_path / "e.npy"), "--data", str(tmp_path / "none")], "does not exist"),
    ):
        code, _, error = run([*words, *rest], capsys)
        assert code == 2 and part in error and error.count("\n") == 1
