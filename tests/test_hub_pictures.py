"""Data sets of the Hub as own pictures: parquet files on the Hub of this machine, read by the real client."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from muscle_zoo.commands.arguments import add_source_arguments, source_of
from muscle_zoo.data.catalog import CATALOG
from muscle_zoo.data.hub_columns import columns_of
from muscle_zoo.data.hub_pictures import Address
from muscle_zoo.errors import InputError
from tests.hub_client import Client
from tests.hub_repo import Entry, Repo, git_sha1
from tests.hub_server import Fault, HubServer
from tests.pictures import picture

datasets = pytest.importorskip("datasets")
BIRDS = "datasets/org/birds"
PRELUDE = """
import json, sys, warnings
from pathlib import Path
from muscle_zoo.data.addresses import local_pictures
from muscle_zoo.data.picture_folder import find_pictures
from muscle_zoo.errors import MuscleZooError
seen = []
for text in sys.argv[1:]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            path = local_pictures(Path(text))
            found = find_pictures(path)
            parts = {part: getattr(found, part) for part in ("train", "validation", "test")}
            seen.append({"path": str(path), "root": str(found.root), "classes": found.class_names, **parts})
        except MuscleZooError as error:
            seen.append({"error": type(error).__name__, "text": str(error)})
        seen[-1]["said"] = [str(warning.message) for warning in caught]
print(json.dumps(seen))
"""


def put(hub: HubServer, name: str, files: dict[str, bytes]) -> None:
    """Commits files of a data set."""
    repo = hub.repos.setdefault(name, Repo(name))
    for content in files.values():
        hub.store(content, git_sha1(content))
    repo.commit("refs/heads/main", {p: Entry(git_sha1(c), len(c)) for p, c in files.items()}, "data", "", "org")


def parquet(folder: Path, labels: list[object], label: object) -> bytes:
    """Pictures with labels as one file."""
    pictures = [picture(folder / f"{i}.png", "cat", i, size=(9, 8)) for i in range(len(labels))]
    columns: dict[str, object] = {"image": [str(path) for path in pictures]}
    features: dict[str, object] = {"image": datasets.Image()}
    if label is not None:
        columns["label"], features["label"] = labels, label
    data = datasets.Dataset.from_dict(columns, features=datasets.Features(features))
    data.to_parquet(folder / "data.parquet")
    return (folder / "data.parquet").read_bytes()


def look(client: Client, *texts: str, **env: str) -> list[dict]:
    """What becomes of these addresses, in a process of its own."""
    words = [sys.executable, "-c", PRELUDE, *texts]
    done = subprocess.run(words, env={**client.env, **env}, text=True, capture_output=True, timeout=200)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
def test_splits_and_labels_become_parts_and_what_is_wrong_is_named(tmp_path: Path) -> None:
    """One Hub, and as few processes as may be: each imports torch and datasets."""
    classes = datasets.ClassLabel(names=["owl", "cat"])
    with HubServer(tmp_path / "hub") as hub:
        files = {
            "data/train-00000-of-00001.parquet": parquet(tmp_path / "a", [0, 1, 1, -1], classes),
            "data/validation-00000-of-00001.parquet": parquet(tmp_path / "b", [1], classes),
            "data/test-00000-of-00001.parquet": parquet(tmp_path / "c", [0, -1], classes),
            "data/unlabeled-00000-of-00001.parquet": parquet(tmp_path / "d", [-1, 0], classes),
        }
        put(hub, BIRDS, files)
        put(hub, "datasets/org/words", {"train.jsonl": b'{"text": "no picture", "label": 1}\n'})
        put(hub, "datasets/org/gated", {"a.parquet": files["data/validation-00000-of-00001.parquet"]})
        gate = {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access to dataset org/gated is restricted."}
        hub.faults.append(Fault("status", "GET|HEAD", "org/gated", times=None, status=403, headers=gate))
        client = Client(hub, tmp_path / "home", xet=False)
        client.env |= {"MUSCLE_ZOO_CACHE": str(tmp_path / "cache"), "PYTHONPATH": os.getcwd()}
        birds, words, gated, gone, revision = look(
            client, "hf:org/birds", "hf:org/words", "hf:org/gated", "hf:org/gone", "hf:org/birds@v9"
        )
        assert birds["classes"] == ["cat", "owl"]
        assert [tuple(item) for item in birds["train"]] == [
            ("train/0000000.png", 1), ("train/0000001.png", 0), ("train/0000002.png", 0),
            ("train/0000003.png", -1), ("unlabeled/0000000.png", -1), ("unlabeled/0000001.png", -1),
        ]  # fmt: skip
        assert birds["test"] == [["test/0000000.png", 1]] and birds["validation"] == [["validation/0000000.png", 0]]
        assert any("1 pictures of the split test have no label" in text for text in birds["said"])
        with Image.open(Path(birds["root"]) / "train/0000001.png") as written:  # the very file, not decoded and encoded
            assert written.size == (9, 8)
        assert (Path(birds["root"]) / "train/0000001.png").read_bytes() == (tmp_path / "a/1.png").read_bytes()
        assert Path(birds["path"]).name == "birds.csv"  # after which a run is called
        assert words["error"] == "InputError" and "has no column of pictures" in words["text"]
        assert gated["error"] == "DownloadError" and "is gated: ask for access" in gated["text"]
        assert gone["error"] == "InputError" and "there is no data set hf:org/gone" in gone["text"]
        assert revision["error"] == "InputError" and "no revision 'v9'" in revision["text"]
    kept, never = look(client, "hf:org/birds", "hf:org/others", HF_HUB_OFFLINE="1")
    assert kept["train"] == birds["train"] and any("offline" in text for text in kept["said"])
    assert never["error"] == "DownloadError" and "HF_HUB_OFFLINE" in never["text"]


@pytest.mark.parametrize("text", ["hf:birds", "hf:org/birds?split=train", "hf:", "hf:org/birds/train"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="write hf:ORG/NAME"):
        Address.parse(text)


def test_a_command_takes_an_address_for_its_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before it is looked at as a path, which is not there."""
    monkeypatch.setattr("muscle_zoo.commands.arguments.local_pictures", lambda path: tmp_path)
    parser = argparse.ArgumentParser()
    add_source_arguments(parser)
    assert source_of(parser.parse_args(["--data", "hf:org/birds"])).root == tmp_path


def test_no_two_data_sets_are_one_on_the_hub() -> None:
    """But for the two that are another's pictures."""
    ids = [info.hub_id for name, info in CATALOG.items() if name not in ("cifar10_jpeg", "svhn_extra") and info.hub_id]
    assert len(ids) >= 4 and len(set(ids)) == len(ids)


def feature(kind: str, dtype: str = "", names: list[str] | None = None) -> object:
    """A column's type, as far as it is looked at."""
    return type(kind, (), {"dtype": dtype, "names": names})()


def test_columns_are_found_or_asked_for() -> None:
    image, classes, text = feature("Image"), feature("ClassLabel", "int64", ["a", "b"]), feature("Value", "string")
    found = columns_of("x", {"id": text, "img": image, "fine_label": classes, "coarse_label": classes})
    assert (found.image, found.label, found.label_of({"fine_label": 1}), found.label_of({"fine_label": -1})) == (
        *("img", "fine_label", "b"),
        "",
    )
    words = columns_of("x", {"image": image, "species": text})
    assert words.label == "species" and words.label_of({"species": " owl "}) == "owl"
    assert columns_of("x", {"image": image, "caption": text}).label == ""
    assert columns_of("x", {"image": image, "caption": text}, label="caption").label == "caption"
    for columns, message in (
        ({"left": image, "right": image}, r"the image may be left or right; write hf:ORG/NAME\?image=left"),
        ({"image": image, "a": classes, "b": classes}, "the label may be a or b"),
        ({"image": image, "labels": feature("List")}, "a picture has several labels"),
        ({"text": text}, "no column of pictures"),
    ):
        with pytest.raises(InputError, match=message):
            columns_of("x", columns)
    with pytest.raises(InputError, match="label=kind is no such column"):
        columns_of("x", {"image": image, "label": classes}, label="kind")
