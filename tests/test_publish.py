"""Cards go to a Hub and come back, by the commands, with the real client, in processes of their own."""

from __future__ import annotations

import errno
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from muscle_zoo import DownloadError
from muscle_zoo.checkpoints import registry
from muscle_zoo.checkpoints.card import CONFIG_FILE
from muscle_zoo.checkpoints.hub_errors import hub_errors
from muscle_zoo.files import file_sha256
from tests.conftest import run
from tests.hub_server import OWNER, READER, STRANGER, UPLOADS, Fault, HubServer

PAGE = (Path(__file__).resolve().parent.parent / "hub_cards" / "studies" / "hub_faults.md").read_text(encoding="utf-8")
NAME = "cnn4.muscle_digits_10"
REPO = f"owner/{NAME}"
WEIGHTS, CONFIG = registry.WEIGHTS_FILE, CONFIG_FILE
FILES = set(registry.CARD_FILES)
# What users call, many times in one process (imports take seconds), without the seconds the client waits between tries.
DRIVER = """
import contextlib, hashlib, io, json, os, sys, time
time.sleep = lambda seconds: None
import muscle_zoo, torch
from muscle_zoo.cli import main
def seen(name):
    logits = muscle_zoo.create_model(name, pretrained=True).eval()(torch.linspace(-1, 1, 128).view(2, 1, 8, 8))
    return hashlib.sha256(logits.detach().numpy().tobytes()).hexdigest()
def load(names):
    print(json.dumps([seen(name) for name in names]))
    return 0
for line in sys.stdin:
    words, token = json.loads(line)
    os.environ.pop("HF_TOKEN", None)
    os.environ.update({"HF_TOKEN": token} if token else {})
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = load(words[1:]) if words[0] == "load" else main(words)
        except SystemExit as stop:
            code = stop.code
    print(json.dumps([code, out.getvalue(), err.getvalue()]), flush=True)
"""


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubServer]:
    with HubServer(tmp_path / "hub") as running:
        yield running


def head(hub: HubServer) -> str:
    commit = hub.repos[REPO].resolve("main")
    assert commit is not None
    return commit.oid


class Person:
    """Somebody at a machine: a home, a token, and a folder of cards of their own."""

    def __init__(self, hub: HubServer, home: Path, token: str | None = OWNER, xet: bool = False) -> None:
        self.cards, self.token = home / "cards", token
        clean = {name: text for name, text in os.environ.items() if not name.startswith(("HF_", "MUSCLE_ZOO"))}
        quiet = {
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "NO_PROXY": "127.0.0.1,localhost",
        }
        quiet |= {"HF_XET_CLIENT_RETRY_BASE_DELAY": "1ms"} if xet else {"HF_HUB_DISABLE_XET": "1"}
        self.env = {**clean, **quiet, "HF_ENDPOINT": hub.url, "HF_HOME": str(home), "OMP_NUM_THREADS": "1"}
        self.env["MUSCLE_ZOO_HUB"] = str(self.cards)
        shutil.copytree(registry.shipped_cards() / NAME, self.cards / NAME)
        self._children: dict[str, subprocess.Popen[str]] = {}

    def start(self, code: str, *words: str, **env: str) -> subprocess.Popen[str]:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        return subprocess.Popen([sys.executable, "-c", code, *words], env={**self.env, **env}, cwd=self.cards, **pipes)

    def send(self, *words: str, **env: str) -> subprocess.Popen[str]:
        """Begins a command, in the process that has this environment."""
        if (key := str(env)) not in self._children:
            self._children[key] = self.start(DRIVER, **env)
        child = self._children[key]
        assert child.stdin is not None
        child.stdin.write(json.dumps([words, self.token]) + "\n")
        child.stdin.flush()
        return child

    def run(self, *words: str, **env: str) -> tuple[int, str, str]:
        """Exit code, stdout and stderr of a command."""
        child = self.send(*words, **env)
        assert child.stdout is not None
        code, out, err = json.loads(child.stdout.readline())
        assert "Traceback" not in err, err
        return code, out, err

    def publish(self, *words: str) -> tuple[int, str, str]:
        return self.run("publish", NAME, "--namespace", "owner", *words)

    def load(self, *names: str, **env: str) -> list[str]:
        """sha256 of the logits of models."""
        code, out, err = self.run("load", *names, **env)
        assert code == 0, err
        return json.loads(out)

    def leave(self, kill: bool = False) -> None:
        for child in self._children.values():
            child.kill() if kill else None
            child.communicate()
        self._children.clear()

    def change_card(self) -> None:
        """Another version: the same weights under another header, so another hash."""
        from safetensors.torch import load_file, save_file

        path = self.cards / NAME / WEIGHTS
        tensors = load_file(path)
        tensors["fc.bias"] = tensors["fc.bias"] + 1
        save_file(tensors, path, {"format": "pt"})
        config = self.cards / NAME / CONFIG
        text = config.read_text()
        old = json.loads(text)["muscle_zoo"]["weights_sha256"]
        config.write_text(text.replace(old, file_sha256(path)))


@pytest.fixture
def person(hub: HubServer, tmp_path: Path) -> Iterator[Callable[..., Person]]:
    """Makes people: person(name, token, xet)."""
    people: list[Person] = []

    def make(name: str, token: str | None = OWNER, xet: bool = False) -> Person:
        people.append(Person(hub, tmp_path / name, token, xet))
        return people[-1]

    yield make
    for one in people:
        one.leave()


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "full"), RuntimeError("IO Error: No space left on device (os error 28)")]
)
def test_a_full_disk(error: Exception) -> None:
    says = "^owner/x, y: no space left on the disk; free some, or set HF_HOME"
    with pytest.raises(DownloadError, match=says), hub_errors("owner/x, y"):
        raise error


@pytest.mark.parametrize("xet", [False, True], ids=["http", "xet"])
def test_what_was_published_loads_elsewhere(hub: HubServer, person: Callable[..., Person], xet: bool) -> None:
    if xet and importlib.util.find_spec("hf_xet") is None:
        pytest.skip("hf_xet is not installed")
    author = person("author", xet=xet)
    code, out, _ = author.publish("--dry-run")
    assert code == 0 and f"would create {REPO}" in out and REPO not in hub.repos
    code, out, err = author.publish("--tag", "v1")
    assert code == 0, err
    first = head(hub)
    assert {path for path in FILES if hub.read(REPO, path) == (author.cards / NAME / path).read_bytes()} == FILES
    assert len(hub.repos[REPO].commits) == 2 and first[:12] in out  # the Hub's own first commit, and ours
    code, out, _ = author.publish("--tag", "v1")
    assert code == 0 and "was up to date" in out and f"{NAME}: tag v1" in out and head(hub) == first
    author.change_card()
    code, out, _ = author.publish("--dry-run")
    assert code == 0 and "would update" in out and WEIGHTS in out and "curves.png" not in out
    for words in (["--tag", "v1"], ["--tag", "v1", "--dry-run"]):
        code, out, err = author.publish(*words)
        assert code == 1 and "has it at another commit" in err and len(hub.repos[REPO].commits) == 2
    assert author.publish("--tag", "v2")[0] == 0 and len(hub.repos[REPO].commits) == 3

    reader = person("reader", token=None, xet=xet)
    old, new = (f"local-dir:{folder / NAME}" for folder in (registry.shipped_cards(), author.cards))
    wanted_old, wanted_new, *got = reader.load(
        old, new, *(f"hf-hub:{REPO}{revision}" for revision in ("@v1", f"@{first}", "", "@v2"))
    )
    assert wanted_old != wanted_new and got == [wanted_old, wanted_old, wanted_new, wanted_new]
    code, out, err = reader.run("verify", f"hf-hub:{REPO}@v1")
    assert code == 0, out + err
    asked = len(hub.requests)
    offline = {"HF_HUB_OFFLINE": "1"}
    assert reader.load(f"hf-hub:{REPO}@v1", f"hf-hub:{REPO}", **offline) == [wanted_old, wanted_new]
    code, _, err = reader.run("download", f"hf-hub:{REPO}@v3", **offline)
    assert code == 1 and "HF_HUB_OFFLINE is set" in err and len(hub.requests) == asked


def test_a_pinned_name_loads_where_the_weights_are_not(
    hub: HubServer, person: Callable[..., Person], tmp_path: Path
) -> None:
    root = Path(registry.__file__).parents[2]
    copy = tmp_path / "checkout"
    for name in ("muscle_zoo", "hub_cards"):
        shutil.copytree(root / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(root / "pyproject.toml", copy)
    author = person("author")
    author.env["PYTHONPATH"] = str(copy)
    code, _, err = author.run("publish", NAME, "--namespace", "owner", "--pin")
    assert code == 0, err
    pin = json.loads((copy / "hub_cards" / "registry.json").read_text())["checkpoints"][NAME]
    weights = author.cards / NAME / WEIGHTS
    assert pin == {"repo": REPO, "revision": head(hub), "sha256": file_sha256(weights)}
    author.change_card()
    assert author.publish()[0] == 0 and head(hub) != pin["revision"]  # the Hub goes on, the pin stays
    shutil.rmtree(copy / "hub_cards" / NAME)
    shutil.rmtree(author.cards / NAME)
    author.leave()  # what loads it never saw the card
    asked = len(hub.requests)
    (got,) = author.load(NAME)
    assert len(hub.requests) > asked
    (wanted,) = author.load(f"local-dir:{registry.shipped_cards() / NAME}")
    assert got == wanted and author.load(f"hf-hub:{REPO}") != [wanted]
    path = copy / "hub_cards" / "registry.json"
    path.write_text(path.read_text().replace(pin["sha256"], "0" * 64))
    code, _, err = author.run("download", NAME)
    assert code == 2 and "000000000000... was promised" in err


def test_a_branch_that_moves_while_it_is_downloaded(hub: HubServer, person: Callable[..., Person]) -> None:
    author, reader = person("author"), person("reader", token=None)
    assert author.publish()[0] == 0
    first, held = head(hub), Fault("hold", "GET", hub.downloads_of(REPO, CONFIG))
    hub.faults = [held]
    child = reader.send("download", f"hf-hub:{REPO}")
    assert child.stdout is not None and held.reached.wait(100)
    author.change_card()
    assert author.publish()[0] == 0 and head(hub) != first
    held.release.set()
    code, out, err = json.loads(child.stdout.readline())
    folder = Path(out.partition(": ")[2].strip())
    assert code == 0 and folder.name == first, err
    for name in FILES:
        assert (folder / name).read_bytes() == hub.read(REPO, name, first), name


def test_pull_request_and_private(hub: HubServer, person: Callable[..., Person]) -> None:
    author = person("author")
    assert author.publish("--private")[0] == 0 and hub.repos[REPO].private
    author.change_card()
    code, out, _ = author.publish("--create-pr")
    assert code == 0 and "/discussions/1" in out and len(hub.repos[REPO].commits) == 3
    assert hub.read(REPO, WEIGHTS) == (registry.shipped_cards() / NAME / WEIGHTS).read_bytes()
    code, _, err = author.publish("--create-pr", "--tag", "v1")
    assert code == 1 and "a pull request is not a release" in err
    author.token = None
    code, _, err = author.run("download", f"hf-hub:{REPO}")
    assert code == 2 and "private" in err and "HF_TOKEN" in err


def test_the_whole_zoo_is_published_and_verified(hub: HubServer, person: Callable[..., Person]) -> None:
    author = person("author")
    shutil.copytree(registry.shipped_cards(), author.cards, dirs_exist_ok=True)
    names = sorted(path.parent.name for path in registry.shipped_cards().glob("*/config.json"))
    shutil.copytree(author.cards / NAME, author.cards / f"{NAME}.part")  # as an export that was killed leaves it
    code, out, err = author.run("publish", "--all", "--namespace", "owner", "--verify")
    assert code == 0 and f"{len(names)} of {len(names)} published and verified" in out, err
    assert set(hub.repos) == {f"owner/{name}" for name in names}
    author.change_card()  # other weights than its probe and the ledger know
    code, out, err = author.run("publish", NAME, names[-1], "--namespace", "owner", "--verify")
    assert code == 1 and "1 of 2 published and verified" in out, out
    assert f"{NAME}: probe WRONG" in out and f"{NAME}: ledger WRONG: it has other weights" in out
    assert hub.read(REPO, WEIGHTS) == (registry.shipped_cards() / NAME / WEIGHTS).read_bytes()  # it was left alone


def test_what_publish_refuses(
    hub: HubServer, person: Callable[..., Person], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    author = person("author")
    card = author.cards / NAME
    (card / "pytorch_model.bin").write_bytes(b"\x80")
    code, _, err = author.publish()
    assert code == 1 and "pytorch_model.bin does not belong there" in err
    (card / "pytorch_model.bin").unlink()
    (card / "curves.png").rename(tmp_path / "curves.png")
    assert "curves.png is missing" in author.publish()[2]
    (tmp_path / "curves.png").rename(card / "curves.png")
    whole = (card / WEIGHTS).read_bytes()
    (card / WEIGHTS).write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert "was promised" in author.publish()[2]
    (card / WEIGHTS).write_bytes(whole)
    assert not hub.repos
    for token, says in (
        (None, "hf auth login"),
        (READER, "may not"),
        (STRANGER, "may not"),
        ("hf_wrong", "or it is wrong"),
    ):
        author.token = token
        code, _, err = author.publish()
        assert code == 1 and says in err and says in PAGE, (token, err)
    assert not [repo for repo in hub.repos.values() if len(repo.commits) > 1]
    assert "hf_" not in err  # no token is ever printed
    author.token = OWNER
    code, out, _ = author.run("publish", str(author.cards / NAME), "--namespace", "owner", "--dry-run")
    assert code == 0 and "would create" in out and not hub.repos
    shutil.copytree(card, tmp_path / "export")  # a run's own folder: its repo would be owner/export
    for words, says in (
        ([str(tmp_path / "export"), "--namespace", "owner"], f"export holds {NAME}; give hub_cards/{NAME}"),
        (["--namespace", "owner"], "give some checkpoints"),
        ([NAME, "--all", "--namespace", "owner"], "give some checkpoints"),
        (["cnn4.muscle_digits_11", "--namespace", "owner"], f"did you mean '{NAME}'"),
        ([NAME], "--namespace"),
        ([NAME, "--namespace", "owner", "--pin", "--dry-run"], "--pin needs a commit"),
        ([NAME, "--namespace", "no/where"], "not a repo's name"),
        ([NAME, "--namespace", "owner", "--tag", "bad tag"], "'bad tag' is not a tag"),
    ):
        code, _, err = author.run("publish", *words)
        assert code in (1, 2) and says in err, err
    code, _, err = run(["publish", NAME, "--namespace", "owner"], capsys)  # here, where the Hub is out of reach
    says = "HF_HUB_OFFLINE is set; unset it to go to the Hub"
    assert code == 1 and says in err and says in PAGE


def test_faults_of_publishing(hub: HubServer, person: Callable[..., Person]) -> None:
    author = person("author")
    for fault, says in (
        (Fault("status", "PUT", UPLOADS, None), "a problem of its own (status 503)"),
        (Fault("reset", "PUT", UPLOADS, None), "to the Hub.); run the same command again"),
        (Fault("status", "POST", "/commit/", None), "a problem of its own (status 503)"),
        (Fault("status", "POST", "/commit/", None, 429), "asks for a pause"),
        (Fault("reset", "POST", "/commit/", None), "the connection failed"),
    ):
        hub.faults = [fault]
        code, _, err = author.publish()
        assert code == 1 and says in err and says in PAGE and REPO in err, err
        assert len(hub.repos[REPO].commits) == 1
    author.change_card()
    hub.faults = [Fault("reset", "PUT", UPLOADS)]
    assert author.publish()[0] == 0 and len(hub.repos[REPO].commits) == 2
    author.change_card()
    hub.faults = [Fault("lost", "POST", "/commit/")]  # it is committed, and nobody is told
    assert author.publish()[0] == 1 and len(hub.repos[REPO].commits) == 3
    assert author.publish()[0] == 0 and len(hub.repos[REPO].commits) == 3
    author.change_card()
    hub.faults = [Fault("hold", "PUT", UPLOADS)]
    author.send("publish", NAME, "--namespace", "owner")
    assert hub.faults[0].reached.wait(100)
    author.leave(kill=True)
    hub.faults[0].release.set()
    assert len(hub.repos[REPO].commits) == 3
    code, _, err = author.publish()
    assert code == 0 and len(hub.repos[REPO].commits) == 4, err


@pytest.mark.parametrize("xet", [False, True], ids=["http", "xet"])
def test_faults_of_downloading(hub: HubServer, person: Callable[..., Person], xet: bool) -> None:
    if xet and importlib.util.find_spec("hf_xet") is None:
        pytest.skip("hf_xet is not installed")
    author = person("author", xet=xet)
    assert author.publish()[0] == 0
    there = hub.downloads_of(REPO, WEIGHTS)
    faults = [
        (Fault("cut", "GET", there), 0, ""),
        (Fault("reset", "GET", there, None), 1, "the connection failed"),
        (Fault("truncate", "GET", there, None), 1, "the connection failed" if xet else "incomplete"),
        (Fault("status", "HEAD|GET", REPO, None, 429), 1, "asks for a pause"),
    ]
    if not xet:  # hf-xet tries for minutes, and notices some wrong bytes itself
        faults.append((Fault("cut", "GET", there, None), 1, "the connection failed"))
        faults.append((Fault("alter", "GET", there, None), 2, "was promised"))
    where = f"hf-hub:{REPO}"
    for fault, expected, says in faults:
        hub.faults = [fault]
        code, _, err = author.run("download", where, "--force")
        lines = [line for line in err.splitlines() if line.startswith("error:")]
        assert code == expected and len(lines) == bool(says), (fault.kind, err)
        assert not says or (says in lines[0] and says in PAGE and where in lines[0]), (fault.kind, lines)
        hub.faults = []
        if fault.kind == "alter":  # what is in the cache is wrong now; the error says how to get it anew
            assert "--force" in lines[0] and author.run("download", where)[0] == 2
        assert author.run("download", where, "--force")[0] == 0
    held = Fault("hold", "GET", there)
    hub.faults = [held]
    author.send("download", where, "--force")
    assert held.reached.wait(100)
    author.leave(kill=True)
    held.release.set()
    assert author.run("download", where)[0] == 0
