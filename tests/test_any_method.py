"""Tables, figures and cards of checkpoints of any method, with MUSCLE and without, with controls and without."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from muscle_zoo import get_recipe
from muscle_zoo.checkpoints import registry
from muscle_zoo.cli import main
from muscle_zoo.methods import METHODS, base_of, method_names
from muscle_zoo.recipes.names import parse_name, with_method
from muscle_zoo.results.ledger import Row, write_ledger
from muscle_zoo.results.tables import zoo_rows, zoo_table
from tests.test_zoo import row

VAT, SUPERVISED = "cnn4.muscle_vat_digits_40", "cnn4.supervised_digits_40"
# Accuracies by seed, of every method the same distance apart: without MUSCLE, and with it.
ALONE, WITH_MUSCLE = (0.50, 0.60), (0.60, 0.80)


def runs_of_method(name: str) -> list[Row]:
    parts = parse_name(name)
    accuracies = ALONE if parts["method"] in METHODS else WITH_MUSCLE
    # Supervised runs stand out, so that a table that shows one method's for another's is caught.
    less = 0.2 if base_of(parts["method"]) == "supervised" else 0.0
    return [row(name, seed, top1 - less, nll=top1) for seed, top1 in enumerate(accuracies)]


LEDGER = [run for method in method_names() for run in runs_of_method(with_method(VAT, method))]


def cells_of(table: str) -> dict[str, list[str]]:
    """The rows of a Markdown table by their first word."""
    lines = [[word.strip() for word in line.strip("|").split("|")] for line in table.splitlines()[2:]]
    return {words[0].strip("`"): words[1:] for words in lines}


@pytest.mark.parametrize("method", method_names())
def test_the_zoo_table_shows_a_checkpoint_of_any_method(method: str) -> None:
    name = with_method(VAT, method)
    parameters, labels, top1, supervised, alone, gain, nll, seeds = cells_of(
        zoo_table(zoo_rows(LEDGER, [name]), {name: 66_000})
    )[name]
    less = 20.0 if base_of(method) == "supervised" else 0.0
    assert (parameters, labels, seeds) == ("66 k", "40", "2")
    assert supervised == ("" if method == "supervised" else "35.0 ± 7.1")
    if method in METHODS:
        assert (top1, alone, gain, nll) == (f"{55.0 - less:.1f} ± 7.1", "", "", "0.55")
    else:
        assert (top1, alone) == (f"{70.0 - less:.1f} ± 14.1", f"{55.0 - less:.1f} ± 7.1")
        assert gain.startswith("+15.0 (") and nll == "0.70 (0.55)"


def test_what_a_checkpoint_does_not_have_is_left_empty() -> None:
    own = [run for run in LEDGER if run.name == VAT]
    assert cells_of(zoo_table(zoo_rows(own, [VAT]), {VAT: 66_000}))[VAT] == [
        *("66 k", "40", "70.0 ± 14.1", "", "", "", "0.70", "2")
    ]
    # The recipe has changed since the checkpoint was made: its runs are of another recipe, and are not shown.
    others = [run for run in LEDGER if run.name == SUPERVISED]
    assert cells_of(zoo_table(zoo_rows(others, [VAT]), {VAT: 66_000}))[VAT] == [
        *("66 k", "40", "", "35.0 ± 7.1", "", "", "", "0")
    ]


def card_of(name: str, cards: Path, seed: int = 0) -> None:
    """A card of that name, with another checkpoint's weights."""
    shutil.copytree(registry.shipped_cards() / "cnn4.muscle_digits_40", cards / name)
    path = cards / name / "config.json"
    config = json.loads(path.read_text())
    recipe = get_recipe(name, {"seed": seed})
    config["muscle_zoo"] |= {
        "name": name,
        "method": recipe.method,
        "seed": seed,
        "recipe": recipe.to_dict(),
        "recipe_sha256": recipe.sha256,
    }
    path.write_text(json.dumps(config))


def checkout(root: Path, names: list[str], rows: list[Row]) -> list[str]:
    """A checkout with cards of these names and this ledger; returns what a command needs to find it."""
    cards = root / "hub_cards"
    for name in names:
        card_of(name, cards)
    (cards / "studies").mkdir(parents=True)
    (cards / "studies" / "zoo.md").write_text("<!-- zoo figure=zoo.png -->\n\n<!-- /zoo -->\n![](zoo.png)\n")
    write_ledger(cards / "results.csv", rows)
    return ["--root", str(root)]


@pytest.mark.parametrize(
    ("method", "says"),
    [
        (
            "muscle_vat",
            "Without MUSCLE, on the same labels, initial weights and views: `supervised` 35.0 ± 7.1 %, `vat` 5",
        ),
        (
            "vat",
            "Without unlabeled images, on the same labels, initial weights and views: `supervised` 35.0 ± 7.1 %.\n",
        ),
        ("supervised", ""),
    ],
)
def test_cards_of_any_method_are_rendered(method: str, says: str, tmp_path: Path) -> None:
    name = with_method(VAT, method)
    root = checkout(tmp_path, [name], LEDGER)
    assert main(["cards", "render", *root]) == 0
    assert main(["cards", "check", *root]) == 0
    text = (tmp_path / "hub_cards" / name / "README.md").read_text(encoding="utf-8")
    assert says in text and ("Without" in text) == bool(says)
    assert f"| `{name}` | 66 k | 40 |" in (tmp_path / "hub_cards" / "studies" / "zoo.md").read_text(encoding="utf-8")
    assert (tmp_path / "hub_cards" / "studies" / "zoo.png").read_bytes().startswith(b"\x89PNG")


def test_a_card_whose_run_the_ledger_lacks_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = checkout(tmp_path, [VAT], [run for run in LEDGER if run.name != VAT])
    assert main(["cards", "render", *root]) == 2
    assert f"{VAT}: the ledger has no run of its recipe and seed 0" in capsys.readouterr().err


def test_half_a_picture_is_drawn_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = checkout(tmp_path, [VAT], LEDGER)
    assert main(["cards", "render", *root]) == 0
    picture = tmp_path / "hub_cards" / "studies" / "zoo.png"
    for content in (b"", picture.read_bytes()[:40], b"not a picture"):
        picture.write_bytes(content)
        assert main(["cards", "check", *root]) == 1
        assert f"drifted: {picture}" in capsys.readouterr().out
        assert main(["cards", "render", *root]) == 0
        assert main(["cards", "check", *root]) == 0
