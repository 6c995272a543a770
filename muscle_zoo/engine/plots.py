"""Pictures of a run."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from ..recipes import Recipe

# Okabe and Ito's colors, which color-blind people tell apart.
BLUE, ORANGE, GREEN, PINK, YELLOW = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00"
_NOT_LOSSES = ("step", "seconds", "lr", "loss", "mi", "mi_weight", "mask", "pseudo_label_accuracy", "threshold")

LogRow = dict[str, Any]


def plot_curves(rows: Sequence[LogRow], recipe: Recipe, num_classes: int, path: Path) -> None:
    """Draws loss terms, accuracy, learning rate and, where there is one, mutual information.

    Args:
        rows: The log.
        recipe: Of the run.
        num_classes: Of the data set; mutual information cannot exceed its logarithm.
        path: PNG file to write.
    """
    from matplotlib.figure import Figure  # slow to import, and needed once a run

    figure = Figure(figsize=(10, 6.4), layout="constrained")
    figure.suptitle(f"{recipe.name}, seed {recipe.seed}")
    losses, accuracy, rate, information = figure.subplots(2, 2, sharex=True).flat
    training = [row for row in rows if "loss" in row]
    tested = [row for row in rows if "top1_ema" in row]
    logged = list(dict.fromkeys(name for row in training for name in row))

    terms = [name for name in logged if name not in _NOT_LOSSES]
    for name, color in zip(terms, (BLUE, GREEN, PINK, ORANGE), strict=False):
        _line(losses, training, lambda row, name=name: row[name], name.replace("_", " "), color)
    if "mi" in logged:
        _line(losses, training, lambda row: -row["mi_weight"] * row["mi"], "weighted MI term", YELLOW)
    if len(losses.lines) > 1:
        _line(losses, training, lambda row: row["loss"], "total loss", "black")
    losses.set(title="Loss terms", ylabel="loss (entropies and information in nats)")

    _line(accuracy, tested, lambda row: 100 * row["top1_ema"], "EMA weights", BLUE)
    _line(accuracy, tested, lambda row: 100 * row["top1_raw"], "raw weights", ORANGE)
    accuracy.set(title="Accuracy", ylabel=f"top-1 on the {recipe.fold} fold, %")

    _line(rate, training, lambda row: row["lr"], "learning rate", BLUE)
    rate.set(title="Learning rate", ylabel="learning rate", xlabel="step", ylim=(0, None))

    information.set(title="Unlabeled images", xlabel="step")
    if "mi" in logged:
        _line(information, training, lambda row: row["mi"], "mutual information of the views", GREEN)
        information.axhline(math.log(num_classes), color=GREEN, linestyle=":", label=f"its maximum, ln {num_classes}")
        information.set(ylabel="nats", ylim=(0, None))
    shares = {"mask": ("pseudo-labels used", PINK), "pseudo_label_accuracy": ("of these right", BLUE)}
    shares = {name: drawn for name, drawn in shares.items() if name in logged}
    if shares:
        right = information.twinx() if "mi" in logged else information
        right.set(ylabel="share of unlabeled images, %", ylim=(0, 105))
        for name, (label, color) in shares.items():
            known = [row for row in training if name in row]
            _line(right, known, lambda row, name=name: 100 * row[name], label, color)
            right.lines[-1].set_alpha(0.6)
            if right is not information:
                information.plot([], [], color=color, alpha=0.6, label=f"{label} (right axis)")
    elif "mi" not in logged:
        information.set(title="Unlabeled images: nothing is logged of them", yticks=[])
    for axes in (losses, accuracy, rate, information):
        axes.grid(alpha=0.3)
        if len(axes.lines) > 1:
            axes.legend(frameon=False, fontsize="small")
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=110)
    save_small(Image.open(drawn), path)


def save_small(picture: Image.Image, path: Path) -> None:
    """Writes a drawing as a PNG of at most 256 colors, a third of the bytes: a hub of checkpoints holds many."""
    picture.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(path, "PNG", optimize=True)


def _line(axes: Any, rows: Sequence[LogRow], value: Callable[[LogRow], float], label: str, color: str) -> None:
    axes.plot([row["step"] for row in rows], [value(row) for row in rows], color=color, label=label, linewidth=1.4)
