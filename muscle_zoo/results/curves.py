"""How accuracy changes with one number of the recipe: a table, and a panel for each method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..methods import with_muscle
from .figures import grid_of_panels, plot_means, save_figure, style_of
from .ledger import Row
from .stats import Cell, cells, gain_text, percent
from .tables import markdown_table

Curve = Mapping[str, Sequence[Row]]  # the rows of each value, in the order of the curve


def curve_table(key: str, curve: Curve) -> str:
    """The table of accuracies along a curve.

    Args:
        key: Which field of the recipe differs, such as ``mismatch``.
        curve: The rows by its value; of one backbone, data set, variant, bias and budget.

    Returns:
        A row for each method, alone and with MUSCLE, and one for MUSCLE's paired gain, where there are such runs; a
        column for each value: mean and standard deviation in per cent, gains in points with their 95 % interval.
    """
    by_base = _by_base(key, curve)
    lines = []
    for base, by_value in by_base.items():
        alone = [percent(list(by_value[value].alone.values())) if value in by_value else "" for value in curve]
        muscle = [percent(list(by_value[value].muscle.values())) if value in by_value else "" for value in curve]
        gains = [gain_text(by_value[value].gains) if value in by_value else "" for value in curve]
        for name, words in ((base, alone), (with_muscle(base), muscle), (f"gain over {base}", gains)):
            if any(words):
                lines.append([name, *words])
    return markdown_table([key, *curve], lines)


def plot_curve(key: str, curve: Curve, path: Path) -> None:
    """Draws accuracy against the value: a panel for each method, dashed without MUSCLE and solid with it.

    Error bars are standard deviations over seeds; the gray line in every panel is the supervised control. A PNG carries
    :func:`muscle_zoo.results.figures.digest` of its rows.

    Args:
        key: Which field of the recipe differs.
        curve: As for :func:`curve_table`; its values must be numbers.
        path: The file to write.

    Raises:
        InputError: A value is no number.
    """
    places = {value: number_on_curve(key, value) for value in curve}
    by_base = _by_base(key, curve)
    figure, panels = grid_of_panels(len(by_base), columns=3, width=3.6, height=2.9, margin=0.7, shared=True)
    for panel, (base, by_value) in zip(panels, by_base.items(), strict=True):
        color, _ = style_of(base)
        if base != "supervised":
            control = by_base.get("supervised", {})
            _draw(panel, {places[v]: cell.alone for v, cell in control.items()}, "supervised", "#999999", ":")
        _draw(panel, {places[v]: cell.alone for v, cell in by_value.items()}, base.replace("_", " "), color, "--")
        _draw(panel, {places[v]: cell.muscle for v, cell in by_value.items()}, "with MUSCLE", color, "-")
        panel.set_title(base.replace("_", " "), fontsize=13)
        panel.legend(frameon=False, fontsize=10, loc="best")
    figure.supxlabel(key.replace("_", " "), fontsize=13)
    figure.supylabel("top-1, %", fontsize=13)
    save_figure(figure, path, [row for rows in curve.values() for row in rows])


def _by_base(key: str, curve: Curve) -> dict[str, dict[str, Cell]]:
    """The cells of each base method, by value."""
    by_base: dict[str, dict[str, Cell]] = {}
    for value, rows in curve.items():
        study = cells(rows)
        if len({(cell.arch, cell.dataset, cell.variant, cell.bias, cell.labels) for cell in study}) > 1:
            raise InputError(
                f"a curve of {key} is of one backbone, data set, variant, bias and label budget; choose one"
            )
        for cell in study:
            by_base.setdefault(cell.base, {})[value] = cell
    return by_base


def _draw(panel: Any, by_place: Mapping[float, Mapping[int, float]], label: str, color: str, line: str) -> None:
    if accuracies := {place: list(found.values()) for place, found in by_place.items() if found}:
        plot_means(panel, list(accuracies), list(accuracies.values()), label, color=color, linestyle=line)


def number_on_curve(key: str, value: str) -> float:
    """Where a value is drawn.

    Raises:
        InputError: It is no number.
    """
    try:
        return float(value)
    except ValueError:
        raise InputError(f"{key}={value}: a curve is drawn over numbers; run a study for each value instead") from None
