"""A repo of the Hub is found however people write it, at every door that takes a checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import muscle_zoo
from muscle_zoo import InputError, WeightsError
from muscle_zoo.checkpoints import hub, registry, weights
from muscle_zoo.checkpoints.hub_names import canonical_name
from muscle_zoo.checkpoints.target import checkpoint_name
from muscle_zoo.checkpoints.transforms import create_transform, pretrained_cfg_by_name
from muscle_zoo.commands.arguments import parse_overrides
from muscle_zoo.engine.starting_weights import arch_of
from muscle_zoo.publishing.verify import verify
from tests.conftest import run

NAME = "cnn4.muscle_digits_10"
REPO = f"hf-hub:org/{NAME}"
PAGE = f"https://huggingface.co/org/{NAME}"
SPELLINGS = {
    f"hf_hub:org/{NAME}": REPO,
    f"HF-Hub:org/{NAME}/": REPO,
    f"hf_hub:org/{NAME}@v1": f"{REPO}@v1",
    f"hf://org/{NAME}@v1": f"{REPO}@v1",
    f"org/{NAME}": REPO,
    f" org/{NAME}/ ": REPO,
    f"org/{NAME}@v1": f"{REPO}@v1",
    PAGE: REPO,
    f"{PAGE}/": REPO,
    f"{PAGE}@v1": f"{REPO}@v1",
    f"{PAGE}/tree/main": f"{REPO}@main",
    f"{PAGE}/tree/refs%2Fpr%2F3": f"{REPO}@refs/pr/3",
    f"{PAGE}/tree/refs/pr/3": f"{REPO}@refs/pr/3",
    f"{PAGE}/blob/v1/config.json": f"{REPO}@v1",
    f"{PAGE}/resolve/v1/model.safetensors?download=true": f"{REPO}@v1",
    f"{PAGE}?library=timm#use": REPO,
    f"http://hf.co/org/{NAME}": REPO,
    f"huggingface.co/org/{NAME}": REPO,
    f"hf-hub:{PAGE}": REPO,
    "Local-Dir:some/folder": "local-dir:some/folder",
}
SAME = [
    NAME,
    f"{NAME}@v1",
    "cnn4",
    "local-dir:a/b",
    "a[/b",
    "http://[x/y",
    "runs/nope",
    "../a/b",
    "./a/b",
    "/a/b",
    "~/a",
    "a/b/c",
    "C:\\a\\b",
    "",
]


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_spellings_of_a_repo(spelling: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert canonical_name(spelling) == SPELLINGS[spelling] == canonical_name(SPELLINGS[spelling])


def test_what_is_no_repo_is_left_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert [canonical_name(name) for name in SAME] == SAME
    (tmp_path / "org").mkdir()  # a folder of this machine comes first: a typing error below it is no repo
    assert canonical_name("org/nothing") == "org/nothing"
    with pytest.raises(InputError, match="org/nothing does not exist"):
        checkpoint_name("org/nothing")
    with pytest.raises(InputError, match="is a pickle"):
        checkpoint_name("other/net.pth")


@pytest.mark.parametrize("page", ["datasets/a/b", "spaces/a/b", "org", "", "collections/a/b"])
def test_addresses_of_other_pages_are_refused(page: str) -> None:
    with pytest.raises(WeightsError, match="is no model's page"):
        canonical_name(f"https://huggingface.co/{page}")


def test_the_address_of_ones_own_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    assert canonical_name("http://127.0.0.1:8000/org/net") == "http://127.0.0.1:8000/org/net"
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:8000")
    assert canonical_name("http://127.0.0.1:8000/org/net/tree/v1") == "hf-hub:org/net@v1"


DOORS: dict[str, Callable[[str], object]] = {
    "create_model": lambda name: muscle_zoo.create_model(name, pretrained=True),
    "without weights": lambda name: muscle_zoo.create_model(name),
    "create_transform": create_transform,
    "model_info": muscle_zoo.model_info,
    "resolve": muscle_zoo.resolve_checkpoint,
    "cfg": pretrained_cfg_by_name,
    "target": checkpoint_name,
    "init of a recipe": arch_of,
    "verify": lambda name: verify(name, []),
    "eval, predict, embed": lambda name: weights.resolve(checkpoint_name(name)),
    "init": lambda name: weights.resolve(parse_overrides([f"init={name}"])["init"]),
    "teacher": lambda name: weights.resolve(parse_overrides([f"teacher={name}"])["teacher"]),
}


@pytest.mark.parametrize("door", DOORS)
def test_every_door_takes_them(door: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    asked: set[tuple[str, str | None]] = set()

    def download(where: str, repo: str, revision: str | None, *_: object) -> Path:
        asked.add((repo, revision))
        return registry.shipped_cards() / NAME

    monkeypatch.setattr(hub, "download", download)
    monkeypatch.setattr(hub, "announced_sha256", lambda *_: None)
    for spelling in (f"hf_hub:org/{NAME}@v1", f"org/{NAME}@v1", f"{PAGE}/tree/v1"):
        shown = DOORS[door](spelling)
        assert shown == f"{REPO}@v1" if door == "target" else shown
    assert asked == (set() if door == "target" else {(f"org/{NAME}", "v1")})


def test_the_command_fetches_by_a_pages_address(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(hub, "download", lambda *_: registry.shipped_cards() / NAME)
    monkeypatch.setattr(hub, "announced_sha256", lambda *_: None)
    code, out, _ = run(["download", PAGE], capsys)
    assert code == 0 and out.strip().endswith(NAME)
