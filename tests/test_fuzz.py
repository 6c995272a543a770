"""Random damage to every file that comes from outside: an error of ours or a valid result, nothing else.

``python -m tests.test_fuzz --rounds 10000`` runs as many of each kind as asked for and counts the outcomes.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models._hub import save_config_for_hf

os.environ["HF_HUB_OFFLINE"] = "1"  # a mutated name must not be asked for

import muscle_zoo
from muscle_zoo import InputError, MuscleZooError
from muscle_zoo.backbones._cfg import with_pretrained
from muscle_zoo.backbones.cnn4 import BASE
from muscle_zoo.checkpoints import registry, weights
from muscle_zoo.checkpoints.card import BLOCK, CONFIG_FILE, read_config
from muscle_zoo.results.ledger import merge, read_ledger
from muscle_zoo.results.stats import mean_std
from muscle_zoo.sessions.evaluate import evaluated_recipe, read_block

NAME = "cnn4.muscle_digits_10"
CARD = registry.shipped_cards() / NAME
ROUNDS = 500
TOKENS = (
    *(b"0", b"1", b"-1", b"10", b"1000000000", b"1" + b"0" * 30, b"9" * 5000, b"1e5", b"1e999", b"0.5", b"-0.0"),
    *(b"NaN", b"-Infinity", b"null", b"true", b"false", b"[]", b"{}", b'""', b'"x"', b'"/etc/passwd"', b'"\\ud800"'),
    *(b'"cnn4"', b'"wrn_28_8"', b'"hf-hub:evil/x"', b'"' + b"A" * 20000 + b'"', b"[" * 3000 + b"]" * 3000),
    *(b"[1,8,8]", b"[3,1000000000,1000000000]", b'{"file":"/etc/passwd"}', b'{"a":1,"a":2}', b'"\\u001b[2J\\n"'),
)
TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|-?\d[\d.eE+-]*|true|false|null|[^\s,:\[\]{}"]+')


def mutated(data: bytes, dice: random.Random) -> bytes:
    """Damages bytes in one to three places; most of the time so that some of the structure stays."""
    for _ in range(dice.choice((1, 1, 1, 2, 3))):
        at, size = dice.randrange(len(data) + 1), dice.choice((1, 1, 2, 8, 100))
        kind = dice.choice(("token",) * 6 + ("flip", "delete", "insert", "repeat", "cut"))
        spans = [match.span() for match in TOKEN.finditer(data)] if kind == "token" else []
        if spans:
            start, end = dice.choice(spans)
            data = data[:start] + dice.choice((*TOKENS, data[slice(*dice.choice(spans))])) + data[end:]
        elif kind == "flip" and at < len(data):
            data = data[:at] + bytes((data[at] ^ (1 << dice.randrange(8)),)) + data[at + 1 :]
        elif kind == "delete":
            data = data[:at] + data[at + size :]
        elif kind == "insert":
            data = data[:at] + dice.randbytes(size) + data[at:]
        elif kind == "repeat":
            data = data[:at] + data[at : at + size] * 2 + data[at + size :]
        elif kind == "cut":
            data = data[:at]
    return data


def outcomes(actions: list[Callable[[], object]]) -> list[str]:
    """What came of each: ``valid`` or the name of our error. Anything else goes through."""
    found = []
    for action in actions:
        try:
            action()
            found.append("valid")
        except MuscleZooError as error:
            message = str(error)
            assert message and "\n" not in message and message.isprintable() and len(message) < 2000, message
            found.append(type(error).__name__)
    return found


def of_config(hub: Path, dice: random.Random) -> list[str]:
    """Every way into a card, the import's among them."""
    card = hub / NAME
    (card / CONFIG_FILE).write_bytes(mutated((CARD / CONFIG_FILE).read_bytes(), dice))

    def evaluation() -> None:
        recipe, top1, n = read_block(NAME, read_config(card))
        assert 0 <= top1 <= 1 and n >= 1 and not evaluated_recipe(NAME, recipe).split

    def model(pretrained: bool) -> None:
        network = muscle_zoo.create_model(f"local-dir:{card}", pretrained=pretrained).eval()
        with torch.inference_mode():
            assert network(torch.zeros(1, network.in_chans, 8, 8)).isfinite().all()

    def listed() -> None:
        assert NAME in muscle_zoo.list_models(pretrained=True)

    return outcomes(
        [
            lambda: weights.from_folder(card),
            lambda: model(True),
            lambda: model(False),
            lambda: muscle_zoo.create_transform(NAME),
            lambda: json.dumps(muscle_zoo.model_info(NAME).__dict__),
            lambda: with_pretrained({"cnn4": BASE}),
            listed,
            evaluation,
        ]
    )


def of_registry(hub: Path, dice: random.Random) -> list[str]:
    good = (registry.shipped_cards() / registry.REGISTRY_FILE).read_bytes()
    (hub / registry.REGISTRY_FILE).write_bytes(mutated(good.replace(b"null", b'"a/b"', 1), dice))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "shipped_cards", lambda: hub)
        names = ("cnn4.muscle_digits_20", NAME)
        return outcomes(
            [
                muscle_zoo.list_models,
                *(lambda name=name: muscle_zoo.model_info(name) for name in names),
                lambda: muscle_zoo.create_model(names[0], pretrained=True),
            ]
        )


def of_ledger(hub: Path, dice: random.Random) -> list[str]:
    lines = (registry.shipped_cards() / registry.LEDGER_FILE).read_bytes().splitlines(keepends=True)
    path = hub / registry.LEDGER_FILE
    path.write_bytes(mutated(b"".join(lines[:4]), dice))

    def read() -> None:
        rows = read_ledger(path)
        assert len(merge(rows, [])) == len(rows)
        assert not rows or 0 <= mean_std([row.top1_ema for row in rows])[0] <= 1

    return outcomes([read])


def of_weights(hub: Path, dice: random.Random) -> list[str]:
    """The header is damaged, and its length made right again half of the time; nobody promised a hash."""
    card = hub / NAME
    config = json.loads((CARD / CONFIG_FILE).read_bytes())
    del config[BLOCK]
    (card / CONFIG_FILE).write_text(json.dumps(config))
    good = (CARD / registry.WEIGHTS_FILE).read_bytes()
    size = int.from_bytes(good[:8], "little")
    text, body = mutated(good[8 : 8 + size], dice), good[8 + size :]
    length = len(text) if dice.random() < 0.8 else dice.choice((0, 7, size, 2**33, 2**63, 2**64 - 1))
    data = length.to_bytes(8, "little") + text + body
    (card / registry.WEIGHTS_FILE).write_bytes(data if dice.random() < 0.9 else mutated(data, dice))
    return outcomes([lambda: muscle_zoo.create_model(f"local-dir:{card}", pretrained=True)])


KINDS = {"config.json": of_config, "registry.json": of_registry, "results.csv": of_ledger, "safetensors": of_weights}


def fuzz(kind: str, rounds: int, root: Path) -> Counter[str]:
    """Runs one kind and counts the outcomes; a round can be repeated by its number."""
    shutil.copytree(CARD, root / NAME)
    counts: Counter[str] = Counter()
    for number in range(rounds):
        try:
            counts.update(KINDS[kind](root, random.Random(f"{kind}/{number}")))
        except BaseException as error:
            raise AssertionError(f"{kind}, round {number}: {type(error).__name__}: {error}") from error
    return counts


@pytest.mark.parametrize("kind", KINDS)
def test_damage_is_an_error_of_ours_or_nothing(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUSCLE_ZOO_HUB", str(tmp_path))
    counts = fuzz(kind, ROUNDS, tmp_path)
    assert set(counts) <= {"valid", "WeightsError", "InputError", "DownloadError"} and len(counts) > 1


@pytest.mark.parametrize("arch", ["test_resnet", "test_vit", "test_efficientnet", "test_convnext", "wrn_16_2"])
def test_what_timm_saves_is_taken(arch: str, tmp_path: Path) -> None:
    """What is refused must not be what is harmless."""
    model = timm.create_model(arch, num_classes=7, in_chans=1).eval()
    save_config_for_hf(model, str(tmp_path / CONFIG_FILE))
    save_file(model.state_dict(), tmp_path / registry.WEIGHTS_FILE)
    images = torch.rand(2, *model.pretrained_cfg["input_size"])[:, :1]
    ours = muscle_zoo.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    with torch.inference_mode():
        assert ours(images).equal(model(images))
    assert next(ours.parameters()).requires_grad and {p.device.type for p in ours.parameters()} == {"cpu"}
    assert muscle_zoo.create_model(f"local-dir:{tmp_path}", pretrained=True, num_classes=3, in_chans=3).num_classes == 3


def refused(action: Callable[[], object], says: str) -> None:
    with pytest.raises(InputError, match=re.escape(says)) as caught:
        action()
    assert str(caught.value).isprintable() and len(str(caught.value)) < 1000


def test_a_registry_that_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "shipped_cards", lambda: tmp_path)
    pin = {"repo": "a/b", "revision": "main", "sha256": "0" * 64}
    (tmp_path / "registry.json").write_text(json.dumps({"checkpoints": {"x": pin}}))
    assert registry.pinned() == {"x": pin}
    for table, says in (
        ([], "the whole=[]"),
        ({"checkpoints": []}, "checkpoints=[]"),
        ({"checkpoints": {"../x": pin}}, "a checkpoint's name='../x'"),
        ({"checkpoints": {"x": []}}, "checkpoints.x=[]"),
        ({"checkpoints": {"x": {**pin, "repo": "https://evil"}}}, "checkpoints.x.repo='https://evil'"),
        ({"checkpoints": {"x": {**pin, "revision": "../../x"}}}, "checkpoints.x.revision='../../x'"),
        ({"checkpoints": {"x": {**pin, "revision": None}}}, "not both repo and revision"),
        ({"checkpoints": {"x": {**pin, "sha256": None}}}, "has no sha256"),
    ):
        (tmp_path / "registry.json").write_text(json.dumps(table))
        refused(muscle_zoo.list_models, says)
    refused(lambda: weights.resolve("hf-hub:a/b@../../x"), "'../../x' is not a revision")


def test_a_ledger_that_cannot_be(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    head, one, two = (registry.shipped_cards() / "results.csv").read_text().splitlines(keepends=True)[:3]
    path.write_text(head + one + two)
    assert len(read_ledger(path)) == 2
    for text, says in (
        (head + one.replace("cnn4", "\x1b[2J"), "line 2: name="),
        (head + one.replace(",0.", ",nan0.", 1), "line 2: top1_ema="),
        (head + one.replace(",0.", ",7.", 1), "line 2: top1_ema='7."),
        (head + one.replace(",600,", ",-600,", 1), "line 2: step='-600'"),
        (head + one.replace(",600,", "," + "9" * 5000 + ",", 1), "line 2: step="),
        (head + one + one, "a run is in it twice"),
        (head + "a,b\n", "line 2 has 2 columns"),
        ("\xff", "utf-8"),
        (head + '"' + "x" * 200_000, "field larger than field limit"),
        (" " * (17 << 20), "larger than 16 MiB"),
    ):
        path.write_text(text, encoding="latin-1")
        refused(lambda: read_ledger(path), says)
    path.unlink()
    path.mkdir()
    refused(lambda: read_ledger(path), "it is not a file")


def main() -> None:
    """Fuzzes each kind, and prints how often what came of it."""
    parser = argparse.ArgumentParser(description="Damage files at random and count what comes of it.")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    rounds = parser.parse_args().rounds
    for kind in KINDS:
        with tempfile.TemporaryDirectory() as folder:
            os.environ["MUSCLE_ZOO_HUB"] = folder
            counts = fuzz(kind, rounds, Path(folder))
        print(f"{kind}: {rounds} rounds, {dict(sorted(counts.items()))}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
