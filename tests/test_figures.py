"""What the figures show: the very numbers that they are drawn from."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from muscle_zoo import get_recipe
from muscle_zoo.engine.plots import plot_curves
from muscle_zoo.methods import METHODS, base_of, method_names, with_muscle
from muscle_zoo.recipes.names import parse_name, with_method
from muscle_zoo.results.figures import COLORS, MARKERS, plot_gains, plot_gains_of_study, plot_study, style_of
from muscle_zoo.results.tables import zoo_rows
from tests.test_any_method import LEDGER, SUPERVISED, VAT
from tests.test_study import ROWS
from tests.test_zoo import LONG, MAIN
from tests.test_zoo import ROWS as ZOO_ROWS

Bars = dict[str, tuple[float, float, float]]  # by label: the middle, and both ends of its error bar


@pytest.fixture
def saved(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that were saved, as matplotlib holds them."""
    figures: list[Figure] = []
    save = Figure.savefig

    def keep(figure: Figure, *words: Any, **more: Any) -> None:
        figures.append(figure)
        save(figure, *words, **more)

    monkeypatch.setattr(Figure, "savefig", keep)
    return figures


def bars(panel: Any, place: int) -> Bars:
    """What stands in a panel at the budget of that place."""
    found = {}
    for curve in panel.containers:
        middle, _, (lines,) = curve.lines
        ends = lines.get_segments()[place][:, 1]
        found[curve.get_label()] = (float(middle.get_ydata()[place]), float(ends[0]), float(ends[1]))
    return found


def test_a_study_shows_means_and_standard_deviations(saved: list[Figure], tmp_path: Path) -> None:
    more = [dataclasses.replace(r, name=r.name.replace("_10", "_40"), top1_ema=r.top1_ema / 2) for r in ROWS]
    plot_study([*more, *ROWS], tmp_path / "x.png")
    ((supervised, fixmatch),) = [figure.axes for figure in saved]
    spread = math.sqrt(52.0)  # of 60, 64 and 50
    alone, both = (58.0, 58.0 - spread, 58.0 + spread), (66.0, 62.0, 70.0)
    assert bars(supervised, 0) == {"supervised": pytest.approx(alone), "with MUSCLE": pytest.approx(both)}
    half = math.sqrt(0.5)  # of 81 and 80
    assert bars(fixmatch, 0) == {
        "supervised": pytest.approx(alone),
        "fixmatch": pytest.approx((82.0, 80.0, 84.0)),
        "with MUSCLE": pytest.approx((80.5, 80.5 - half, 80.5 + half)),
    }
    assert {label: middle for label, (middle, _, _) in bars(fixmatch, 1).items()} == {
        "supervised": pytest.approx(29.0),
        "fixmatch": pytest.approx(41.0),
        "with MUSCLE": pytest.approx(40.25),
    }
    for panel in (supervised, fixmatch):
        assert [tick.get_text() for tick in panel.get_xticklabels()] == ["10", "40"]
        for curve in panel.containers:
            assert curve.lines[0].get_xdata() == pytest.approx([10, 40], rel=0.05)


def test_the_gains_of_a_study_have_intervals_and_fill_those_that_leave_out_zero(
    saved: list[Figure], tmp_path: Path
) -> None:
    sure = [dataclasses.replace(r, name=r.name.replace("_10", "_40")) for r in ROWS if "fixmatch" not in r.name]
    sure = [dataclasses.replace(r, top1_ema=0.5 + 0.1 * ("muscle" in r.name) + r.seed / 1e4) for r in sure]
    plot_gains_of_study([*ROWS, *sure], tmp_path / "x.png")
    ((supervised, fixmatch),) = [figure.axes for figure in saved]
    assert (supervised.get_title(), fixmatch.get_title()) == ("supervised", "fixmatch")
    half = 12.7062 * 1.5 / math.sqrt(1.0) / math.sqrt(2.0) * math.sqrt(2.0)  # gains of +1 and -2: deviation 2.12
    (uncertain,) = fixmatch.containers
    middle, _, (lines,) = uncertain.lines
    assert middle.get_ydata() == pytest.approx([-0.5]) and middle.get_markerfacecolor() == "white"
    assert lines.get_segments()[0][:, 1] == pytest.approx([-0.5 - half, -0.5 + half], rel=1e-4)
    assert [c.lines[0].get_markerfacecolor() != "white" for c in supervised.containers] == [False, True]
    assert supervised.get_ylim() == fixmatch.get_ylim()  # one scale: panels can be compared


def test_the_gains_of_the_zoo_stand_in_the_middle_of_their_intervals(saved: list[Figure], tmp_path: Path) -> None:
    plot_gains(zoo_rows(ZOO_ROWS, [MAIN, LONG]), tmp_path / "x.png")
    ((panel,),) = [figure.axes for figure in saved]
    assert panel.get_title() == "cifar10_jpeg, wrn_16_2"
    half = 12.7062 * math.sqrt(2.0) / math.sqrt(2.0)  # gains of 3 and 1, Student's t of one degree of freedom
    assert bars(panel, 0) == {
        "on fixmatch": pytest.approx((3.0, 3.0, 3.0)),  # one seed: no interval
        "on fixmatch, long": pytest.approx((2.0, 2.0 - half, 2.0 + half), rel=1e-5),
    }


def test_every_method_has_a_style_of_its_own() -> None:
    styles = {method: style_of(method) for method in METHODS}
    assert len(set(styles.values())) == len(METHODS)
    assert len(set(COLORS)) == len(COLORS) and len(set(MARKERS)) == len(MARKERS)


def test_the_figure_of_gains_has_a_curve_for_each_method(saved: list[Any], tmp_path: Path) -> None:
    plot_gains(LEDGER, tmp_path / "gains.png")
    ((panel,),) = [figure.axes for figure in saved]
    shown = bars(panel, 0)
    assert list(shown) == [f"on {method}" for method in METHODS if with_muscle(method) in method_names()]
    assert {round(middle, 6) for middle, _, _ in shown.values()} == {15.0}
    places = [float(curve.lines[0].get_xdata()[0]) for curve in panel.containers]
    assert places == sorted(places) and len(set(places)) == len(places)
    low, high = panel.get_xlim()
    assert low < places[0] < 40 < places[-1] < high


@pytest.mark.parametrize("names", [[SUPERVISED], [with_method(VAT, "vat")], [VAT]])
def test_a_figure_of_gains_without_any_gain_says_so(
    names: list[str],
    saved: list[Any],
    tmp_path: Path,
) -> None:
    rows = [run for run in LEDGER if run.name in (SUPERVISED, *names)]
    plot_gains(zoo_rows(rows, names), tmp_path / "gains.png")
    (figure,) = saved
    assert [panel.get_visible() for panel in figure.axes] == [False]
    assert "no seed was run both with and without MUSCLE" in [text.get_text() for text in figure.texts]


@pytest.mark.parametrize("method", ["vat", "muscle_vat"])
def test_a_study_without_a_control_shows_what_there_is(
    method: str,
    saved: list[Any],
    tmp_path: Path,
) -> None:
    plot_study([run for run in LEDGER if run.name == with_method(VAT, method)], tmp_path / "x.png")
    ((panel,),) = [figure.axes for figure in saved]
    assert list(bars(panel, 0)) == ["vat" if method == "vat" else "with MUSCLE"]


def test_the_lowest_panel_of_each_column_has_its_budgets_below(saved: list[Any], tmp_path: Path) -> None:
    rows = [run for run in LEDGER if base_of(parse_name(run.name)["method"]) in list(METHODS)[:4]]
    plot_study(rows, tmp_path / "x.png")
    (figure,) = saved
    assert [panel.get_visible() for panel in figure.axes] == [True, True, True, True, False, False]
    labeled = [panel.xaxis.get_tick_params()["labelbottom"] for panel in figure.axes[:4]]
    assert labeled == [False, True, True, True]


def test_the_curves_of_a_run_are_its_log(saved: list[Figure], tmp_path: Path) -> None:
    terms = {"lr": 0.03, "cross_entropy": 2.0, "pseudo_label": 0.25, "mask": 0.5, "mi": 1.5, "mi_weight": 0.1}
    rows = [{"step": step, "loss": 2.1, **terms, "pseudo_label_accuracy": 0.75} for step in (1, 2)]
    rows.append({"step": 2, "top1_raw": 0.5, "top1_ema": 0.625, "nll_ema": 1.0})
    plot_curves(rows, get_recipe("cnn4.muscle_fixmatch_digits_10"), 10, tmp_path / "x.png")
    (figure,) = saved
    lines = [line for panel in figure.axes for line in panel.get_lines() if len(line.get_ydata())]  # else a legend's
    assert {line.get_label(): line.get_ydata()[-1] for line in lines} == {
        "cross entropy": 2.0,
        "pseudo label": 0.25,
        "weighted MI term": pytest.approx(-0.15),
        "total loss": 2.1,
        "EMA weights": 62.5,
        "raw weights": 50.0,
        "learning rate": 0.03,
        "mutual information of the views": 1.5,
        "its maximum, ln 10": pytest.approx(math.log(10)),
        "pseudo-labels used": 50.0,
        "of these right": 75.0,
    }
