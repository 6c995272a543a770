"""Pictures of a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..recipes import Recipe

# Okabe and Ito's colours, which colour-blind people tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_NOT_LOSSES = ("step", "seconds", "lr", "mi", "mi_weight", "mask")


def plot_curves(rows: Sequence[dict[str, Any]], recipe: Recipe, path: Path) -> None:
    """Draws loss terms, accuracy, learning rate and, where there is one, mutual information.

    Args:
        rows: The log.
        recipe: Of the run.
        path: PNG file to write.
    """
    from matplotlib.figure import Figure  # slow to import, and needed once a run

    figure = Figure(figsize=(10, 6.4), layout="constrained")
    figure.suptitle(f"{recipe.name}, seed {recipe.seed}", fontsize=12)
    losses, accuracy, rate, information = figure.subplots(2, 2, sharex=True).flat

    training = [row for row in rows if "loss" in row]
    names = [name for name in (training[0] if training else {}) if name not in _NOT_LOSSES]
    if names == ["loss", "cross_entropy"]:
        names = ["cross_entropy"]  # the control's loss is its only term
    for name, colour in zip(names, COLOURS, strict=False):
        _line(losses, training, name, colour, name.replace("_", " ") if name != "loss" else "total loss")
    losses.set(title="Loss terms", ylabel="nats")

    tested = [row for row in rows if "top1_ema" in row]
    for name, label, colour in (("top1_ema", "EMA weights", COLOURS[0]), ("top1_raw", "raw weights", COLOURS[1])):
        accuracy.plot([r["step"] for r in tested], [100 * r[name] for r in tested], color=colour, label=label)
    accuracy.set(title="Accuracy", ylabel=f"top-1 on the {recipe.fold} fold, %")

    _line(rate, training, "lr", COLOURS[0], "learning rate")
    rate.set(title="Learning rate", ylabel="learning rate", xlabel="step", ylim=(0, None))

    for name, label, colour in (
        ("mi", "mutual information, nats", COLOURS[2]),
        ("mask", "share of guesses used", COLOURS[3]),
    ):
        if training and name in training[0]:
            _line(information, training, name, colour, label)
    information.set(title="Mutual information of the two views", ylabel="nats", xlabel="step", ylim=(0, None))
    if not information.lines:
        information.set_title("This method has no unlabelled term")
        information.set_yticks([])
    for axes in (losses, accuracy, rate, information):
        axes.grid(alpha=0.3)
        if len(axes.lines) > 1 or (axes is information and axes.lines):
            axes.legend(frameon=False)
    figure.savefig(path, dpi=110, metadata={"Software": None})


def _line(axes: Any, rows: Sequence[dict[str, Any]], name: str, colour: str, label: str) -> None:
    axes.plot([row["step"] for row in rows], [row[name] for row in rows], color=colour, label=label, linewidth=1.4)
