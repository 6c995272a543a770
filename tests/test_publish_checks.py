"""What publish makes sure of before and after it commits: its own checks, for a Hub would not notice."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import muscle_zoo.publishing.verify
from muscle_zoo import InputError
from muscle_zoo.checkpoints import registry
from muscle_zoo.errors import HubError
from muscle_zoo.files import file_sha256
from muscle_zoo.publishing.notebook import NOTEBOOK_FILE, render_notebook
from muscle_zoo.publishing.publish import PUBLISHED_FILES, compare, give_tag, publish
from muscle_zoo.publishing.verify import Check
from tests.conftest import run

NAME = "cnn4.muscle_digits_10"
CARD = registry.shipped_cards() / NAME
REPO = f"owner/{NAME}"
HEAD, NEXT = "a" * 40, "b" * 40
WEIGHTS = file_sha256(CARD / registry.WEIGHTS_FILE)


def git_hash(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class Api:
    """A repo of the Hub that holds the card, but for the files that are told; it keeps what it is asked to do."""

    endpoint = "https://hub.invalid"

    def __init__(self, *other: str, tags: dict[str, str] | None = None, arrives: str = WEIGHTS) -> None:
        self.other, self.tags, self.arrives = other, tags or {}, arrives
        self.done: list[tuple[str, Any]] = []

    def model_info(self, repo: str, files_metadata: bool = False) -> Any:
        files = [self._file(name, (CARD / name).read_bytes()) for name in registry.CARD_FILES]
        files.append(self._file(NOTEBOOK_FILE, render_notebook(CARD, repo)))
        return SimpleNamespace(sha=HEAD, siblings=files, private=False)

    def _file(self, name: str, content: bytes) -> Any:
        content += b"?" * (name in self.other)
        lfs = SimpleNamespace(sha256=hashlib.sha256(content).hexdigest()) if name == registry.WEIGHTS_FILE else None
        return SimpleNamespace(rfilename=name, lfs=lfs, blob_id=git_hash(content))

    def list_repo_refs(self, repo: str) -> Any:
        return SimpleNamespace(tags=[SimpleNamespace(name=k, target_commit=v) for k, v in self.tags.items()])

    def create_commit(self, repo: str, operations: Any, *, parent_commit: str, **more: Any) -> Any:
        self.done.append(("commit on", parent_commit))
        return SimpleNamespace(oid=NEXT, pr_url=None, commit_url="https://hub.invalid/commit")

    def get_paths_info(self, repo: str, path: str, revision: str) -> Any:
        self.done.append(("look at", revision))
        return [SimpleNamespace(lfs=SimpleNamespace(sha256=self.arrives))]

    def create_tag(self, repo: str, *, tag: str, revision: str, exist_ok: bool) -> None:
        self.done.append((tag, revision))


@pytest.mark.parametrize("file", PUBLISHED_FILES)
def test_what_differs_is_committed_on_top_of_what_it_was_compared_with(file: str) -> None:
    assert compare(CARD, REPO, Api(file)).files == (file,)
    api = Api(file)
    change = publish(CARD, REPO, api, tag="v1")
    assert api.done == [("commit on", HEAD), ("look at", NEXT)]  # the tag comes after whatever else is looked at
    give_tag(change, api, "v1")
    assert api.done[2:] == [("v1", NEXT)]
    assert (change.files, change.revision, change.sha256) == ((file,), NEXT, WEIGHTS)


def test_what_is_there_already_is_tagged_where_it_is() -> None:
    for tags in ({}, {"v1": HEAD, "v0": NEXT}):
        api = Api(tags=tags)
        change = publish(CARD, REPO, api, tag="v1")
        assert change.revision == HEAD
        give_tag(change, api, "v1")
        assert api.done == [("look at", HEAD), ("v1", HEAD)]


@pytest.mark.parametrize("other", [[], ["README.md"]])
def test_a_tag_is_never_moved(other: list[str]) -> None:
    api = Api(*other, tags={"v1": "c" * 40})
    with pytest.raises(InputError, match=rf"--tag v1: {REPO} has it at another commit \(cccccccccccc\)"):
        publish(CARD, REPO, api, tag="v1")
    assert api.done == []


@pytest.mark.parametrize("other", [[], [registry.WEIGHTS_FILE]])
def test_other_weights_than_were_sent_are_neither_tagged_nor_taken_for_published(other: list[str]) -> None:
    api = Api(*other, arrives="0" * 64)
    with pytest.raises(HubError, match="on the Hub is not what was sent"):
        publish(CARD, REPO, api, tag="v1")
    assert "v1" not in dict(api.done)


def test_a_public_repo_is_not_taken_for_a_private_one() -> None:
    api = Api("README.md")
    with pytest.raises(InputError, match="exists and is public"):
        publish(CARD, REPO, api, private=True)
    assert api.done == []


def test_a_file_that_cannot_be_read_is_no_trouble_of_the_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ("cnn4.a_mine", "cnn4.b_mine")
    for name in names:
        shutil.copytree(CARD, tmp_path / name)
    (tmp_path / names[0] / "curves.png").unlink()
    (tmp_path / names[0] / "curves.png").mkdir()  # to read it fails, even for root
    monkeypatch.setenv("MUSCLE_ZOO_HUB", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.HfApi", lambda **_: Api())
    code, out, err = run(["publish", *names, "--namespace", "owner", "--dry-run"], capsys)
    assert code == 1 and f"{names[1]}: owner/{names[1]} is up to date" in out and "1 of 2 compared" in out
    assert err.count("\n") == 1 and "curves.png" in err and "connection" not in err


def test_a_file_that_vanishes_while_it_is_sent_is_no_trouble_of_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def vanish(*_: object, **__: object) -> None:
        (tmp := CARD / "gone.png").read_bytes()
        raise AssertionError(tmp)

    monkeypatch.setattr(Api, "create_commit", vanish)
    with pytest.raises(HubError, match=r"gone\.png'; check the path and its permissions"):
        publish(CARD, REPO, Api("README.md"))


@pytest.mark.parametrize("wrong", ["local-dir", "hf-hub", "nowhere"])
def test_only_what_passed_its_checks_is_tagged_and_pinned(
    wrong: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(CARD, tmp_path / "hub_cards" / NAME)
    asked: list[str] = []
    api = Api("README.md")

    def checked(name: str, rows: object) -> list[Check]:
        asked.append(name)
        return [Check("files", True, ""), Check("probe", not name.startswith(wrong), "off")]

    monkeypatch.setattr(registry, "checkout", lambda: tmp_path)
    monkeypatch.setattr("huggingface_hub.HfApi", lambda **_: api)
    monkeypatch.setattr(muscle_zoo.publishing.verify, "verify", checked)
    code, out, _ = run(["publish", NAME, "--namespace", "owner", "--tag", "v1", "--verify", "--pin"], capsys)
    here, there = f"local-dir:{CARD}", f"hf-hub:{REPO}@{NEXT}"
    assert asked == ([here] if wrong == "local-dir" else [here, there])
    assert ("probe WRONG" in out) == (wrong != "nowhere") and ("not published" in out) == (wrong == "local-dir")
    committed = [("commit on", HEAD), ("look at", NEXT)]
    assert api.done == {"local-dir": [], "hf-hub": committed, "nowhere": [*committed, ("v1", NEXT)]}[wrong]
    pins = tmp_path / "hub_cards" / registry.REGISTRY_FILE
    assert (code, pins.exists()) == ((0, True) if wrong == "nowhere" else (1, False))
    if pins.exists():
        pin = {"repo": REPO, "revision": NEXT, "sha256": WEIGHTS}
        assert json.loads(pins.read_text()) == {"checkpoints": {NAME: pin}}
