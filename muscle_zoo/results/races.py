"""Time to accuracy: the table and the figure of what `bench race` measured."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..files import read_untrusted_json
from .figures import COLORS
from .stats import percent
from .tables import markdown_table


def read_race(path: Path) -> dict[str, Any]:
    """Reads what ``muscle-zoo bench race --json`` printed.

    Raises:
        InputError: It is something else.
    """
    try:
        result = read_untrusted_json(path)
        for race in result["races"]:
            [(float(lap["step"]), float(lap["seconds"]), float(lap["top1"])) for lap in race["laps"]]
            float(race["operations"])
        words = {key: str(result[key]) for key in ("recipe", "device")}
        return {**result, **words, "changed": list(result["changed"]), "target": float(result["target"])}
    except (OSError, ValueError, TypeError, LookupError):
        raise InputError(f"{path} is no race; give a file of what `muscle-zoo bench race --json` printed") from None


def race_table(results: Sequence[Mapping[str, Any]]) -> str:
    """A line for each evaluation of each recipe, over the seeds that came to it.

    Args:
        results: What ``muscle-zoo bench race --json`` printed, one for each recipe.

    Returns:
        Markdown: median seconds, mean and standard deviation of top-1 on the dev fold in per cent, and where races
        ended the median of their operations.

    Example:
        >>> laps = [{"step": 40, "seconds": 52.1, "top1": 0.33}, {"step": 80, "seconds": 104.0, "top1": 0.41}]
        >>> race = {"seed": 0, "laps": laps, "operations": 3e13, "reached": False}
        >>> print(race_table([{"recipe": "cnn7.vat_digits_10", "changed": ["steps=80"], "races": [race]}]))
        | recipe | steps | seconds | top-1 on the dev fold, % | seeds | operations |
        |---|---|---|---|---|---|
        | `cnn7.vat_digits_10 steps=80` | 40 | 52 | 33.0 | 1 |  |
        |  | 80 | 104 | 41.0 | 1 | 3.0e+13 |
    """
    lines = []
    for result in results:
        name = " ".join([result["recipe"], *result["changed"]])
        by_step: dict[int, list[Mapping[str, Any]]] = {}
        for race in result["races"]:
            for lap in race["laps"]:
                by_step.setdefault(lap["step"], []).append(lap)
        ended: dict[int, list[float]] = {}
        for race in result["races"]:
            ended.setdefault(race["laps"][-1]["step"], []).append(race["operations"])
        for step, laps in sorted(by_step.items()):
            seconds = statistics.median(lap["seconds"] for lap in laps)
            operations = f"{statistics.median(ended[step]):.1e}" if step in ended else ""
            top1 = percent([lap["top1"] for lap in laps])
            shown = f"`{name}`" if step == min(by_step) else ""  # it is long
            lines.append([shown, f"{step:,}", f"{seconds:.0f}", top1, str(len(laps)), operations])
    return markdown_table(["recipe", "steps", "seconds", "top-1 on the dev fold, %", "seeds", "operations"], lines)


def plot_races(results: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draws accuracy on the dev fold against training time: a line for each seed, a color for each recipe.

    Args:
        results: What ``muscle-zoo bench race --json`` printed, one for each recipe.
        path: The file to write.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullLocator

    figure = Figure(figsize=(7.2, 4.4), dpi=120, layout="constrained")
    axis = figure.subplots()
    for number, result in enumerate(results):
        color = COLORS[number % len(COLORS)]
        for race in result["races"]:
            laps = race["laps"]
            label = f"{result['recipe']}, {result['device']}" if race is result["races"][0] else None
            seconds, top1 = [lap["seconds"] for lap in laps], [100 * lap["top1"] for lap in laps]
            axis.plot(seconds, top1, color=color, marker="o", markersize=3, linewidth=1.4, label=label)
    for target in sorted({result["target"] for result in results}):
        axis.axhline(100 * target, color="#666666", linestyle=":", linewidth=1.2)
    axis.set_xscale("log")
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter("{x:g}")
    axis.xaxis.set_minor_locator(NullLocator())
    axis.set_xlabel("seconds of training, evaluations not counted")
    axis.set_ylabel("top-1 on the dev fold, %")
    axis.grid(alpha=0.25)
    figure.legend(frameon=False, fontsize=9, loc="outside lower left")  # inside it would lie on somebody's line
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
