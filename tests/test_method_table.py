"""The tables of the methods: what is read from their code, and what from the ledger."""

from __future__ import annotations

import doctest
import inspect
from pathlib import Path
from typing import Any

import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from muscle_zoo import InputError, get_recipe, list_methods
from muscle_zoo.methods import METHODS
from muscle_zoo.results import method_figure, method_table
from muscle_zoo.results.ledger import Row
from muscle_zoo.results.method_figure import plot_methods
from muscle_zoo.results.pages import render_page
from tests.test_cards import row


def cells_of(page: str) -> dict[str, list[str]]:
    """The cells of each row by the first, without those of the head."""
    lines = [[word.strip() for word in line[1:-1].split("|")] for line in page.splitlines() if line.startswith("| `")]
    return {words[0].strip("`"): words[1:] for words in lines}


def render(words: str, rows: list[Row]) -> str:
    page = f"a\n<!-- methods{words} -->\nof before\n<!-- /methods -->\nb\n"
    once = render_page(page, rows, {})
    assert render_page(once, rows, {}) == once and "of before" not in once
    assert once.splitlines()[:2] == page.splitlines()[:2] and once.splitlines()[-2:] == page.splitlines()[-2:]
    return once


def test_the_example_runs() -> None:
    found = doctest.testmod(method_table)
    assert found.attempted == 2 and found.failed == 0


def test_every_method_has_a_row_from_its_code() -> None:
    shown = cells_of(render("", []))
    assert list(shown) == list_methods()
    assert shown["comatch"][:2] == ["CoMatch (Li et al. 2021).", "[2011.11183](https://arxiv.org/abs/2011.11183)"]
    assert [number[:11] for number in shown["self_meta_pseudo_labels"][1].split(", ")] == ["[2212.13420", "[2003.10580"]
    assert shown["pseudo_label"][1] == "" and "`teacher`" in shown["distillation"][0]
    for name, (about, papers, lines) in shown.items():
        documented = str(METHODS[name].__doc__)
        assert about.split(" (")[0].replace("`", "") in documented.replace("`", "") and "arXiv" not in about
        assert ("arXiv" in documented.splitlines()[0]) == bool(papers), name
        assert int(lines) == Path(inspect.getfile(METHODS[name])).read_text(encoding="utf-8").count("\n")


def test_what_the_ledger_has_stands_beside_each_other_and_other_methods_are_left_out() -> None:
    rows = [row("cnn4.vat_digits_10", seed, top1, hours=h / 3600) for seed, top1, h in ((0, 0.5, 9), (1, 0.7, 20))]
    rows += [row("cnn4.vat_digits_20", 0, 0.9, hours=30 / 3600), row("cnn4.muscle_vat_digits_20", 0, 0.8)]
    rows += [row("cnn4.muscle_digits_20", 3, 0.25, hours=1 / 3600), row("cnn4.fixmatch_digits_40", 0, 0.1)]
    rows += [row("cnn4.vat_digits_10", 5, 0.1, recipe_sha256=get_recipe("cnn4.vat_digits_10", {"steps": 7}).sha256)]
    page = render(" cnn4 digits labels=10+20", rows)
    assert "| method | 10 labels | with MUSCLE | 20 labels | with MUSCLE | seconds | with MUSCLE |" in page
    assert cells_of(page) == {
        "supervised": ["", "", "", "25.0", "", "1"],
        "vat": ["60.0 ± 14.1", "", "90.0", "80.0", "20", "36"],
    }
    assert list(cells_of(page)) == ["supervised", "vat"]  # in the registry's order, whatever the ledger's


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (" cnn4 labels=10", "needs an architecture and a data set"),
        (" cnn4 digits", "says no labels=N"),
        (" cnn4 digits labels=20", "no runs of cnn4 digits labels=20"),
    ],
)
def test_a_mark_that_cannot_be_shown_is_named(words: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        render(words, [row("cnn4.vat_digits_10")])


def test_the_figure_says_each_methods_accuracy_and_gain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(method_figure, "save_figure", lambda figure, path, rows: drawn.append(figure))
    rows = [
        *(row("cnn4.uda_digits_10", seed, top1) for seed, top1 in enumerate((0.6, 0.7))),
        *(row("cnn4.muscle_uda_digits_10", seed, top1) for seed, top1 in enumerate((0.701, 0.8))),
        *(row("cnn4.vat_digits_10", seed, 0.9) for seed in (0, 1)),
        *(row("cnn4.muscle_vat_digits_10", seed, top1) for seed, top1 in enumerate((0.8, 0.95))),
        row("cnn4.vat_digits_100", 0, 0.5),
    ]
    plot_methods(rows, tmp_path / "methods.png")
    alone, gains = drawn[0].axes
    assert [label.get_text() for label in alone.get_yticklabels()] == ["vat", "uda"]  # by few labels, not by 100
    assert [label.get_text() for label in gains.get_xticklabels()] == ["10", "100"]
    said = [
        [(text.get_position(), text.get_text(), text.get_weight()) for text in panel.texts] for panel in (alone, gains)
    ]
    assert said[0] == [((0, 0), "90.0", "normal"), ((1, 0), "50.0", "normal"), ((0, 1), "65.0", "normal")]
    assert said[1] == [((0, 0), "-2.5", "normal"), ((0, 1), "+10.1", "bold")]  # 10.05 -+ 12.7 * 0.07 / sqrt(2)
    for panel in (alone, gains):
        for text in panel.texts:  # is read on its field
            image = panel.images[0]
            field = image.cmap(image.norm(image.get_array()[text.get_position()[1], text.get_position()[0]]))
            assert contrast(to_rgb(text.get_color()), field[:3]) > 4.5


def contrast(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    """WCAG 2.1's contrast ratio."""

    def light(color: tuple[float, ...]) -> float:
        parts = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in color]
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]

    low, high = sorted((light(a), light(b)))
    return (high + 0.05) / (low + 0.05)


def test_methods_of_the_figure_stand_by_budgets_alike_however_many_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr(method_figure, "save_figure", lambda figure, path, rows: drawn.append(figure))
    rows = [row("cnn4.vat_digits_10", seed, 0.5) for seed in range(9)] + [row("cnn4.vat_digits_40", 0, 1.0)]
    rows += [row("cnn4.fixmatch_digits_10", 0, 0.6), row("cnn4.fixmatch_digits_40", 0, 0.8)]
    plot_methods(rows, Path("nowhere.png"))
    assert [label.get_text() for label in drawn[0].axes[0].get_yticklabels()] == ["vat", "fixmatch"]
