"""A checkpoint is resolved once and hashed once, pins are kept, and an error is said to be what it is."""

from __future__ import annotations

import errno
import importlib
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from filelock import FileLock, Timeout
from PIL import Image

import muscle_zoo
from muscle_zoo import DownloadError, InputError, WeightsError
from muscle_zoo.checkpoints import hub, registry, weights
from muscle_zoo.checkpoints.card import pretrained_cfg_of
from muscle_zoo.checkpoints.hub_errors import hub_errors
from muscle_zoo.checkpoints.target import checkpoint_name
from muscle_zoo.files import file_sha256
from muscle_zoo.publishing.publish import compare
from muscle_zoo.publishing.verify import verify
from muscle_zoo.results.ledger import read_ledger
from tests.conftest import listing, run
from tests.test_publish_checks import Api

NAME = "cnn4.muscle_digits_10"
CARD = registry.shipped_cards() / NAME
LEDGER = read_ledger(registry.shipped_cards() / registry.LEDGER_FILE)
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are hashed."""
    names: list[str] = []

    def counting(path: Path) -> str:
        names.append(path.name)
        return file_sha256(path)

    monkeypatch.setattr("muscle_zoo.checkpoints.weights.file_sha256", counting)
    return names


ACTIONS: dict[str, Callable[[], object]] = {
    "create_model": lambda: muscle_zoo.create_model(NAME, pretrained=True),
    "create_model, other classes": lambda: muscle_zoo.create_model(NAME, pretrained=True, num_classes=3),
    "create_model of a folder, no weights": lambda: muscle_zoo.create_model(f"local-dir:{CARD}"),
    "resolve and load": lambda: muscle_zoo.load_model(muscle_zoo.resolve_checkpoint(NAME)),
    "verify": lambda: verify(NAME, LEDGER),
    "download": lambda: muscle_zoo.cli.main(["download", NAME]),
    "info": lambda: muscle_zoo.cli.main(["info", f"local-dir:{CARD}"]),
}


@pytest.mark.parametrize("action", ACTIONS)
def test_weights_are_hashed_once(action: str, hashed: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[Path] = []
    read = registry.read_pins
    monkeypatch.setattr(registry, "read_pins", lambda path: parsed.append(path) or read(path))
    ACTIONS[action]()
    assert hashed == [registry.WEIGHTS_FILE]
    assert len(parsed) == ("local-dir" not in action and action != "info" and "folder" not in action)


def test_publishing_hashes_the_weights_once(hashed: list[str]) -> None:
    compare(CARD, f"owner/{NAME}", Api())
    assert hashed == [registry.WEIGHTS_FILE]


def test_a_checkpoint_says_what_was_checked() -> None:
    checkpoint = muscle_zoo.resolve_checkpoint(NAME)
    assert isinstance(checkpoint, muscle_zoo.Checkpoint) and checkpoint.folder == CARD
    assert checkpoint.sha256 == file_sha256(CARD / registry.WEIGHTS_FILE) == registry.pinned()[NAME]["sha256"]
    loaded, created = muscle_zoo.load_model(checkpoint), muscle_zoo.create_model(NAME, pretrained=True)
    assert all(value.equal(created.state_dict()[key]) for key, value in loaded.state_dict().items())
    with pytest.raises(InputError, match="num_clases=3: cnn4 takes no such argument"):
        muscle_zoo.load_model(checkpoint, num_clases=3)


def test_weights_without_a_promise_are_known_by_their_hash(card: Path) -> None:
    config = json.loads((card / "config.json").read_text())
    del config["muscle_zoo"]
    (card / "config.json").write_text(json.dumps(config))
    assert weights.resolve(f"local-dir:{card}").sha256 == file_sha256(card / registry.WEIGHTS_FILE)


def test_every_promise_is_compared(card: Path) -> None:
    """A pin of the right weights does not make another config.json beside them right."""
    sha256 = file_sha256(card / registry.WEIGHTS_FILE)
    assert weights.from_folder(card, sha256).sha256 == sha256
    with pytest.raises(WeightsError, match=r"111111111111\.\.\. was promised by registry\.json"):
        weights.from_folder(card, "1" * 64)
    config = json.loads((card / "config.json").read_text())
    config["muscle_zoo"]["weights_sha256"] = "2" * 64
    (card / "config.json").write_text(json.dumps(config))
    with pytest.raises(WeightsError, match=r"222222222222\.\.\. was promised by config\.json"):
        weights.from_folder(card, sha256)


def test_timm_never_loads_a_checkpoint_of_ours_unchecked(card: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """timm lists what was on disk at the import; what is gone since then is not taken from elsewhere."""
    assert NAME in timm.list_pretrained("cnn4*")
    monkeypatch.setattr(registry, "shipped_cards", lambda: card.parent / "empty")
    with pytest.raises(WeightsError, match=r"no weights for|is a recipe without weights"):
        muscle_zoo.create_model(NAME, pretrained=True)


# Files of one commit


def test_files_of_a_branch_that_moves_are_of_one_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commits = iter("abcdefgh")
    asked: list[tuple[str, str | None]] = []

    def moving(repo: str, file: str, revision: str | None, force_download: bool) -> str:
        """A Hub whose branches move with every request."""
        asked.append((file, revision))
        commit = next(commits) * 40 if revision in (None, "main", "v1") else revision
        path = tmp_path / "snapshots" / commit / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(file)
        return str(path)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", moving)
    for revision in (None, "main", "v1", "c" * 40):
        asked.clear()
        folder = hub.download("hf-hub:a/b", "a/b", revision, ("one", "two", "three"))
        assert sorted(path.name for path in folder.iterdir()) == ["one", "three", "two"]
        assert asked == [("one", revision), ("two", folder.name), ("three", folder.name)]


def test_the_hubs_promise_does_not_replace_the_configs(card: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sha256 = file_sha256(card / registry.WEIGHTS_FILE)
    monkeypatch.setattr(hub, "download", lambda *_: card)
    monkeypatch.setattr(hub, "announced_sha256", lambda *_: sha256)
    assert weights.resolve("hf-hub:a/b").sha256 == sha256
    config = (card / "config.json").read_text()
    (card / "config.json").write_text(config.replace(sha256, "3" * 64))
    with pytest.raises(WeightsError, match=r"was promised by config\.json; .*download hf-hub:a/b --force"):
        weights.resolve("hf-hub:a/b")
    (card / "config.json").write_text(config)
    monkeypatch.setattr(hub, "announced_sha256", lambda *_: "4" * 64)
    with pytest.raises(WeightsError, match="was promised by the Hub"):
        weights.resolve("hf-hub:a/b")


# Errors


@pytest.mark.parametrize(
    "error",
    [
        AttributeError("'NoneType' object has no attribute 'sha'"),
        TypeError("unexpected keyword"),
        KeyError("sha"),
        IndexError("out of range"),
        ZeroDivisionError("division by zero"),
        ValueError("not enough values to unpack"),
        NotImplementedError("later"),
        RecursionError("too deep"),
        AssertionError("never"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_programming_error_is_not_the_networks(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, hub_errors("owner/x"):
        raise error
    assert caught.value is error


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (ConnectionResetError(errno.ECONNRESET, "reset"), "the connection failed (ConnectionResetError"),
        (TimeoutError("timed out"), "the connection failed (TimeoutError"),
        (RuntimeError("Data processing error"), "the connection failed (RuntimeError"),
        (json.JSONDecodeError("Expecting value", "<html>", 0), "the connection failed (JSONDecodeError"),
        (FileNotFoundError(errno.ENOENT, "No such file", "card/README.md"), "'card/README.md'; check the path and"),
        (
            PermissionError(errno.EACCES, "denied", "/cache/x"),
            "'/cache/x'; check the path and its permissions (HF_HOME",
        ),
        (IsADirectoryError(errno.EISDIR, "Is a directory", "card"), "'card'; check the path and"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_comes_from_outside_is_explained(error: Exception, says: str) -> None:
    with pytest.raises(DownloadError) as caught, hub_errors("owner/x"):
        raise error
    assert says in str(caught.value) and str(caught.value).startswith("owner/x: ") and "\n" not in str(caught.value)


def test_every_error_of_the_client_is_explained() -> None:
    from huggingface_hub import errors

    http = importlib.import_module(errors.HTTPError.__module__.partition(".")[0])  # httpx, or its next version
    for kind in (errors.XetDownloadError, errors.CorruptedCacheException, http.ReadTimeout, http.InvalidURL):
        with pytest.raises(DownloadError), hub_errors("owner/x"):
            raise kind("no")


def test_what_the_client_does_not_understand_is_explained() -> None:
    """A plain ValueError is the client's where the client raises it."""
    client: dict[str, Any] = {"__name__": "huggingface_hub.lfs"}
    exec("def read(answer): raise ValueError('improperly formatted')", client)
    with pytest.raises(DownloadError, match="the connection failed"), hub_errors("owner/x"):
        client["read"]({})
    # The tests run offline.
    with pytest.raises(DownloadError, match="HF_HUB_OFFLINE is set"):
        weights.fetch("hf-hub:nobody/nothing", force=True)


# registry.json


def test_the_same_weights_keep_their_pin(tmp_path: Path) -> None:
    path = tmp_path / "registry.json"
    registry.register(path, "x", "1" * 64, "a/b", "main")
    registry.register(path, "y", "2" * 64)
    before = registry.read_pins(path)
    registry.register(path, "x", "1" * 64)
    assert registry.read_pins(path) == before
    registry.register(path, "x", "3" * 64)  # other weights are not on the Hub
    assert registry.read_pins(path)["x"] == {"repo": None, "revision": None, "sha256": "3" * 64}
    registry.register(path, "x", "3" * 64, "a/b", "v2")
    assert registry.read_pins(path)["x"] == {"repo": "a/b", "revision": "v2", "sha256": "3" * 64}


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """A finished run of the named recipe: the one that was published."""
    block = json.loads((CARD / "config.json").read_text())["muscle_zoo"]
    (row,) = [row for row in LEDGER if row.name == NAME and row.weights_sha256 == block["weights_sha256"]]
    shutil.copytree(CARD, tmp_path / "run" / "export")
    (tmp_path / "run" / "status.json").write_text(json.dumps({"status": "finished", "row": asdict(row)}))
    (tmp_path / "run" / "recipe.json").write_text(json.dumps(block["recipe"]))
    return tmp_path / "run"


def test_exporting_again_keeps_the_pin(finished: Path, tmp_path: Path, capsys: Capture) -> None:
    words = ["export", str(finished), "--card", "--to", str(tmp_path / "hub_cards")]
    assert run(words, capsys)[0] == 0
    path = tmp_path / "hub_cards" / registry.REGISTRY_FILE
    sha256 = registry.read_pins(path)[NAME]["sha256"]
    registry.register(path, NAME, sha256, f"owner/{NAME}", "v1")
    before = path.read_text()
    assert run(words, capsys)[0] == 0 and path.read_text() == before


@pytest.mark.parametrize("text", ["[", "[]", '{"checkpoints": []}', '{"checkpoints": {"x": 1}}'])
def test_a_damaged_registry_is_said_before_anything_is_written(
    text: str, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    cards = tmp_path / "hub_cards"
    cards.mkdir()
    (cards / registry.REGISTRY_FILE).write_text(text)
    monkeypatch.setattr(registry, "checkout", lambda: tmp_path)
    for words in (
        ["export", str(finished), "--card", "--to", str(cards)],
        ["publish", NAME, "--namespace", "o", "--pin"],
    ):
        code, out, err = run(words, capsys)
        assert code == 2 and out == "" and err.count("\n") == 1 and "registry.json is damaged" in err
        assert [name for name, _ in listing(cards) if name != ".lock"] == [registry.REGISTRY_FILE]


def test_registry_json_is_written_under_the_lock(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    writers: list[str] = []

    def register(path: Path, name: str, *_: object) -> None:
        with pytest.raises(Timeout):
            FileLock(path.parent / ".lock").acquire(timeout=0)
        writers.append(name)

    cards = tmp_path / "hub_cards"
    monkeypatch.setattr(registry, "register", register)
    monkeypatch.setattr(registry, "checkout", lambda: tmp_path)
    monkeypatch.setattr("huggingface_hub.HfApi", lambda **_: Api())
    assert run(["export", str(finished), "--card", "--to", str(cards)], capsys)[0] == 0
    assert run(["publish", NAME, "--namespace", "owner", "--pin"], capsys)[0] == 0
    assert writers == [NAME, NAME]


def test_what_is_not_on_the_hub(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "pinned", lambda: {NAME: {"repo": None, "revision": None, "sha256": "0" * 64}})
    for command in ("verify", "download", "eval"):
        code, out, err = run([command, NAME, "--source", "hub"], capsys)
        assert (code, out) == (2, "") and err.count("\n") == 1 and f"{NAME} is not on the Hugging Face Hub" in err
    for command in ("verify", "download"):
        code, out, err = run([command, "--all", "--source", "hub"], capsys)
        assert (code, out) == (2, "") and err.count("\n") == 1 and "no checkpoint is on the Hugging Face Hub" in err
    monkeypatch.setattr(registry, "find_card", lambda name: None)
    info = muscle_zoo.model_info("cnn4.muscle_digits_30")
    assert (info.pretrained, info.origin) == (False, None)


def test_a_hash_alone_is_no_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "cnn4.fixmatch_digits_30"
    monkeypatch.setattr(registry, "shipped_cards", lambda: tmp_path)
    registry.register(tmp_path / registry.REGISTRY_FILE, name, "0" * 64)
    assert name not in registry.checkpoint_names() and not muscle_zoo.model_info(name).pretrained
    registry.register(tmp_path / registry.REGISTRY_FILE, name, "0" * 64, "a/b", "v1")
    assert registry.checkpoint_names() == registry.checkpoint_names("hub") == [name]
    assert muscle_zoo.model_info(name).origin == "hf-hub:a/b@v1"


# Names and transforms


def test_what_a_user_may_type(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for target, name in {
        NAME: NAME,
        f"{NAME}@v1": f"{NAME}@v1",
        "hf-hub:a/b@c": "hf-hub:a/b@c",
        "local-dir:x": "local-dir:x",
        str(finished): f"local-dir:{finished / 'export'}",
        "run": "local-dir:run/export",
        "run/export": "local-dir:run/export",
    }.items():
        assert checkpoint_name(target) == name


@pytest.mark.parametrize("by_name", [True, False])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [8, 32])
def test_a_transform_gives_the_input_size_that_is_asked_for(by_name: bool, channels: int, size: int) -> None:
    for in_chans in (1,) if by_name else (1, 3):
        model = NAME if by_name else muscle_zoo.create_model(NAME, pretrained=True, in_chans=in_chans)
        for kwargs in ({}, {"is_training": True}, {"mean": (0.5,) * channels, "std": (0.5,) * channels}):
            transform = muscle_zoo.create_transform(model, input_size=(channels, size, size), **kwargs)
            for mode in ("L", "RGB", "RGBA"):
                assert transform(Image.new(mode, (40, 30))).shape == (channels, size, size)
    gray, color = (muscle_zoo.create_transform(NAME, input_size=(c, 8, 8)) for c in (1, 3))
    picture = Image.linear_gradient("L")
    assert color(picture).equal(gray(picture).expand(3, -1, -1))


def test_channels_that_cannot_be() -> None:
    with pytest.raises(InputError, match=r"input_size=\(4, 8, 8\): a picture has 1 or 3 channels"):
        muscle_zoo.create_transform(NAME, input_size=(4, 8, 8))
    with pytest.raises(InputError, match=r"mean=\(0, 0, 0\): the images have 1 channels"):
        muscle_zoo.create_transform(NAME, mean=(0, 0, 0))
    with pytest.raises(InputError, match="Linear has no pretrained_cfg; give a model made by create_model"):
        muscle_zoo.create_transform(torch.nn.Linear(1, 1))
    assert pretrained_cfg_of(timm.create_model("test_resnet"))["architecture"] == "test_resnet"
