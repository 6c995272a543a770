"""verify finds each thing that a card may promise and not keep, and nothing else."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from muscle_zoo.checkpoints import registry
from muscle_zoo.data import dataset_info
from muscle_zoo.publishing.model_card import render_card
from muscle_zoo.publishing.verify import verify
from muscle_zoo.results.ledger import Row, read_ledger, write_ledger
from tests.conftest import run, truncated

NAME = "cnn4.muscle_digits_10"
EVERYTHING = ["files", "hash", "model", "preprocessing", "probe", "split", "ledger", "card"]
LEDGER = read_ledger(registry.shipped_cards() / registry.LEDGER_FILE)
BLOCK = json.loads((registry.shipped_cards() / NAME / "config.json").read_text(encoding="utf-8"))["muscle_zoo"]
SEED, TOP1 = BLOCK["seed"], f"{100 * BLOCK['metrics']['top1']:.2f} %"
Block = dict[str, Any]


@pytest.fixture
def shipped(tmp_path: Path) -> Path:
    """A copy of a published card, to change."""
    return Path(shutil.copytree(registry.shipped_cards() / NAME, tmp_path / "cards" / NAME))


def change(card: Path, how: Callable[[Block], object]) -> Block:
    config = json.loads((card / "config.json").read_text(encoding="utf-8"))
    how(config["muscle_zoo"])
    (card / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return config


def wrong(card: Path, rows: list[Row] = LEDGER) -> dict[str, str]:
    return {check.what: check.text for check in verify(f"local-dir:{card}", rows) if not check.passed}


def test_a_published_card_is_what_it_says(shipped: Path) -> None:
    checks = verify(f"local-dir:{shipped}", LEDGER)
    assert [check.what for check in checks] == EVERYTHING and all(check.passed for check in checks)


def test_another_split(shipped: Path) -> None:
    split = json.loads((shipped / "split.json").read_text())
    (shipped / "split.json").write_text(json.dumps({**split, "sha256": "0" * 64}))
    assert wrong(shipped) == {"split": f"{'0' * 16}, promised {split['sha256'][:16]}"}


@pytest.mark.parametrize(("off", "passed"), [(0.5e-4, True), (2e-4, False), (-2e-4, False)])
def test_logits_that_are_a_little_off(shipped: Path, off: float, passed: bool) -> None:
    def move(block: Block) -> None:
        block["probe"]["logits"][3] += off

    change(shipped, move)
    assert list(wrong(shipped)) == ([] if passed else ["probe"])


def test_a_text_that_was_edited(shipped: Path) -> None:
    page = shipped / "README.md"
    page.write_text(page.read_text(encoding="utf-8").replace("%**", "%** or more"), encoding="utf-8")
    assert list(wrong(shipped)) == ["card"]


@pytest.mark.parametrize("file", ["curves.png", "split.json", "README.md"])
def test_a_file_that_is_missing(shipped: Path, file: str) -> None:
    (shipped / file).unlink()
    assert wrong(shipped) == {"files": f"missing: {file}"}


def test_damaged_weights_are_not_looked_at_further(shipped: Path) -> None:
    truncated(shipped)
    assert list(wrong(shipped)) == ["files"]


def with_own_row(card: Path, **values: object) -> list[Row]:
    """The ledger with other values in the card's own row, and the card's text of that ledger."""
    config = change(card, lambda block: None)
    rows = [dataclasses.replace(row, **values) if (row.name, row.seed) == (NAME, SEED) else row for row in LEDGER]
    (card / "README.md").write_text(render_card(config, dataset_info("digits"), rows), encoding="utf-8")
    return rows


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"top1_ema": 0.5}, f"top-1 50.00 % there, {TOP1} here"),
        ({"weights_sha256": "0" * 64}, f"other weights of seed {SEED}: 0000"),
    ],
)
def test_a_ledger_with_other_figures(shipped: Path, values: dict[str, object], says: str) -> None:
    rows = with_own_row(shipped, **values)
    assert list(wrong(shipped, rows)) == ["ledger"] and says in wrong(shipped, rows)["ledger"]


@pytest.mark.parametrize("rows", [[], [row for row in LEDGER if (row.name, row.seed) != (NAME, SEED)]])
def test_a_card_that_is_not_in_the_ledger(shipped: Path, rows: list[Row]) -> None:
    assert wrong(shipped, rows) == {"ledger": f"no row of {NAME}, seed {SEED}"}


def test_the_command_evaluates_when_it_is_told_to_and_exits_with_1(
    shipped: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(registry, "shipped_cards", lambda: shipped.parent)
    write_ledger(shipped.parent / registry.LEDGER_FILE, LEDGER)
    words = ["verify", f"local-dir:{shipped}"]
    code, out, _ = run([*words, "--accuracy"], capsys)
    assert code == 0 and f"accuracy (top-1 {TOP1} of 360 images)" in out
    # Card and ledger agree on a figure that the weights do not have: only an evaluation finds out.
    change(shipped, lambda block: block["metrics"].update(top1=0.5))
    write_ledger(shipped.parent / registry.LEDGER_FILE, with_own_row(shipped, top1_ema=0.5))
    assert run(words, capsys)[0] == 0
    code, out, _ = run([*words, "--accuracy"], capsys)
    assert code == 1 and f"accuracy WRONG: top-1 {TOP1} of 360 images, 50.00 % of 360 was promised" in out
    code, out, _ = run([*words, "--accuracy", "--json"], capsys)
    (checks,) = json.loads(out).values()
    assert code == 1 and [check["what"] for check in checks if not check["passed"]] == ["accuracy"]
