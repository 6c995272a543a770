"""Cards go to a Hub and come back, by the commands, with the real client, in processes of their own."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from muscle_zoo import registry
from muscle_zoo.weights import file_sha256
from tests.hub_server import OWNER, READER, STRANGER, UPLOADS, Fault, HubServer

NAME = "cnn4.muscle_digits_10"
REPO = f"owner/{NAME}"
WEIGHTS, CONFIG = registry.WEIGHTS_FILE, registry.CONFIG_FILE
FILES = set(registry.CARD_FILES)
# What users call, without the seconds that the client waits between its tries.
MAIN = "import sys, time; time.sleep = lambda seconds: None; from muscle_zoo.cli import main; sys.exit(main())"
LOAD = """
import hashlib, json, sys, torch, muscle_zoo
def seen(name):
    logits = muscle_zoo.create_model(name, pretrained=True).eval()(torch.linspace(-1, 1, 128).view(2, 1, 8, 8))
    return hashlib.sha256(logits.detach().numpy().tobytes()).hexdigest()
print(json.dumps([seen(name) for name in sys.argv[1:]]))
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
        self.home, self.cards = home, home / "cards"
        clean = {name: text for name, text in os.environ.items() if not name.startswith(("HF_", "MUSCLE_ZOO"))}
        quiet = {
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "NO_PROXY": "127.0.0.1,localhost",
        }
        quiet |= {"HF_XET_CLIENT_RETRY_BASE_DELAY": "1ms"} if xet else {"HF_HUB_DISABLE_XET": "1"}
        self.env = {**clean, **quiet, "HF_ENDPOINT": hub.url, "HF_HOME": str(home), "OMP_NUM_THREADS": "1"}
        self.env |= {"HF_TOKEN": token} if token else {}
        if not self.cards.exists():
            shutil.copytree(registry.shipped_cards() / NAME, self.cards / NAME)

    def start(self, *words: str, code: str = MAIN, **env: str) -> subprocess.Popen[str]:
        everything = {**self.env, "MUSCLE_ZOO_HUB": str(self.cards), **env}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen([sys.executable, "-c", code, *words], env=everything, **pipes)

    def run(self, *words: str, code: str = MAIN, **env: str) -> tuple[int, str, str]:
        child = self.start(*words, code=code, **env)
        out, err = child.communicate(timeout=200)
        assert "Traceback" not in err, err
        return child.returncode, out, err

    def publish(self, *words: str, **env: str) -> tuple[int, str, str]:
        return self.run("publish", NAME, "--namespace", "owner", *words, **env)

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


@pytest.mark.parametrize("xet", [False, True], ids=["http", "xet"])
def test_what_was_published_loads_elsewhere(hub: HubServer, tmp_path: Path, xet: bool) -> None:
    if xet and importlib.util.find_spec("hf_xet") is None:
        pytest.skip("hf_xet is not installed")
    author = Person(hub, tmp_path / "author", xet=xet)
    code, out, _ = author.publish("--dry-run")
    assert code == 0 and f"would create {REPO}" in out and REPO not in hub.repos
    code, out, err = author.publish("--tag", "v1")
    assert code == 0, err
    first = head(hub)
    assert {path for path in FILES if hub.read(REPO, path) == (author.cards / NAME / path).read_bytes()} == FILES
    assert len(hub.repos[REPO].commits) == 2 and first[:12] in out  # the Hub's own first commit, and ours
    code, out, _ = author.publish("--tag", "v1")
    assert code == 0 and "was up to date" in out and head(hub) == first
    author.change_card()
    code, out, _ = author.publish("--dry-run")
    assert code == 0 and "would update" in out and WEIGHTS in out and "curves.png" not in out
    code, out, err = author.publish("--tag", "v1")
    assert code == 1 and "has it at another commit" in err  # the commit is there, the old tag stays where it is
    assert author.publish("--tag", "v2")[0] == 0 and len(hub.repos[REPO].commits) == 3

    reader = Person(hub, tmp_path / "reader", token=None, xet=xet)
    old, new = (f"local-dir:{folder / NAME}" for folder in (registry.shipped_cards(), author.cards))
    places = [old, new, *(f"hf-hub:{REPO}{revision}" for revision in ("@v1", f"@{first}", "", "@v2"))]
    code, out, err = reader.run(*places, code=LOAD)
    assert code == 0, err
    wanted_old, wanted_new, *got = json.loads(out)
    assert wanted_old != wanted_new and got == [wanted_old, wanted_old, wanted_new, wanted_new]
    asked = len(hub.requests)
    code, out, _ = reader.run(f"hf-hub:{REPO}@v1", f"hf-hub:{REPO}", code=LOAD, HF_HUB_OFFLINE="1")
    assert code == 0 and json.loads(out) == [wanted_old, wanted_new]
    code, _, err = reader.run("download", f"hf-hub:{REPO}@v3", HF_HUB_OFFLINE="1")
    assert code == 1 and "HF_HUB_OFFLINE is set" in err and len(hub.requests) == asked
    code, out, err = reader.run("verify", f"hf-hub:{REPO}@v1")
    assert code == 0, out + err


def test_pull_request_private_and_pin(hub: HubServer, tmp_path: Path) -> None:
    author = Person(hub, tmp_path / "author")
    assert author.publish("--private")[0] == 0 and hub.repos[REPO].private
    author.change_card()
    code, out, _ = author.publish("--create-pr")
    assert code == 0 and "/discussions/1" in out and len(hub.repos[REPO].commits) == 3
    assert hub.read(REPO, WEIGHTS) == (registry.shipped_cards() / NAME / WEIGHTS).read_bytes()
    code, _, err = author.publish("--create-pr", "--tag", "v1")
    assert code == 1 and "a pull request is no release" in err
    stranger = Person(hub, tmp_path / "stranger", token=None)
    code, _, err = stranger.run("download", f"hf-hub:{REPO}")
    assert code == 2 and "private" in err and "HF_TOKEN" in err


def test_what_publish_refuses(hub: HubServer, tmp_path: Path) -> None:
    author = Person(hub, tmp_path / "author")
    card = author.cards / NAME
    (card / "pytorch_model.bin").write_bytes(b"\x80")
    code, _, err = author.publish()
    assert code == 1 and "pytorch_model.bin does not belong there" in err
    (card / "pytorch_model.bin").unlink()
    (card / "curves.png").rename(tmp_path / "curves.png")
    assert "curves.png is missing" in author.publish()[2]
    (tmp_path / "curves.png").rename(card / "curves.png")
    damaged = (card / WEIGHTS).read_bytes()
    (card / WEIGHTS).write_bytes(damaged[:-1] + bytes([damaged[-1] ^ 1]))
    assert "was promised" in author.publish()[2]
    (card / WEIGHTS).write_bytes(damaged)
    assert not hub.repos
    for token, says in ((None, "hf auth login"), (READER, "may not"), (STRANGER, "may not"), ("hf_wrong", "wrong")):
        person = Person(hub, tmp_path / "author", token=token)
        code, _, err = person.publish()
        assert code == 1 and says in err, (token, err)
    assert not [repo for repo in hub.repos.values() if len(repo.commits) > 1]
    for words, says in ((["publish", "--namespace", "owner"], "give some checkpoints"),):
        code, _, err = author.run(*words)
        assert code == 2 and says in err


def test_faults_of_publishing(hub: HubServer, tmp_path: Path) -> None:
    author = Person(hub, tmp_path / "author")
    for fault, says in (
        (Fault("status", "PUT", UPLOADS, None), "run the same command again"),
        (Fault("status", "POST", "/commit/", None), "trouble of its own (status 503)"),
        (Fault("status", "POST", "/commit/", None, 429), "asks for a pause"),
        (Fault("reset", "POST", "/commit/", None), "the connection failed"),
    ):
        hub.faults = [fault]
        code, _, err = author.publish()
        assert code == 1 and says in err and REPO in err, err
        assert len(hub.repos[REPO].commits) == 1
    hub.faults = [Fault("hold", "PUT", UPLOADS)]
    child = author.start("publish", NAME, "--namespace", "owner")
    assert hub.faults[0].reached.wait(100)
    child.kill()
    child.communicate()
    hub.faults[0].release.set()
    assert len(hub.repos[REPO].commits) == 1
    code, _, err = author.publish()
    assert code == 0 and len(hub.repos[REPO].commits) == 2, err


def test_faults_of_downloading(hub: HubServer, tmp_path: Path) -> None:
    assert Person(hub, tmp_path / "author").publish()[0] == 0
    there = hub.downloads_of(REPO, WEIGHTS)
    for number, (fault, expected, says) in enumerate(
        (
            (Fault("cut", "GET", there), 0, ""),
            (Fault("cut", "GET", there, None), 1, "the connection failed"),
            (Fault("reset", "GET", there, None), 1, "the connection failed"),
            (Fault("truncate", "GET", there, None), 1, "shorter"),
            (Fault("alter", "GET", there, None), 2, "was promised"),
            (Fault("status", "HEAD|GET", REPO, None, 429), 1, "run the same command again"),
        )
    ):
        hub.faults = [fault]
        reader = Person(hub, tmp_path / f"reader{number}", token=None)
        code, _, err = reader.run("download", f"hf-hub:{REPO}")
        assert code == expected and says in err and (not says or f"hf-hub:{REPO}" in err), (fault.kind, err)
        assert err.count("\n") == bool(says)
        hub.faults = []
        if fault.kind == "alter":  # what is in the cache is wrong now; the error said how to get it anew
            assert "--force" in err and reader.run("download", f"hf-hub:{REPO}")[0] == 2
            assert reader.run("download", f"hf-hub:{REPO}", "--force")[0] == 0
        else:
            assert reader.run("download", f"hf-hub:{REPO}")[0] == 0
