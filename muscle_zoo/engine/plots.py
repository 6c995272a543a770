"""Pictures of a run."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from ..methods import trains_classifier
from ..recipes import Recipe

# Okabe and Ito's colors, which color-blind people tell apart.
BLUE, ORANGE, GREEN, PINK, YELLOW = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00"
# Numbers of the log between 0 and 1, their labels and colors. What a method logs under another name is drawn as a term
# of the loss, unless the name ends in _weight.
SHARES = {
    "mask": ("pseudo-labels used", PINK),
    "pseudo_label_accuracy": ("of these right", BLUE),
    "threshold": ("their least probability", ORANGE),
}
_OF_THE_LOOP = ("step", "seconds", "lr", "loss")

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
    losses, accuracy, rate, unlabeled = figure.subplots(2, 2, sharex=True).flat
    training = [row for row in rows if "loss" in row]
    _plot_losses(losses, training)
    _plot_accuracy(accuracy, rows, recipe)
    _plot(rate, training, "lr", "learning rate", BLUE)
    rate.set(title="Learning rate", ylabel="learning rate", xlabel="step", ylim=(0, None))
    _plot_unlabeled(unlabeled, training, num_classes)
    for axes in (losses, accuracy, rate, unlabeled):
        axes.grid(alpha=0.3)
        if len(axes.lines) > 1:
            axes.legend(frameon=False, fontsize="small")
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=110)
    save_small(Image.open(png), path)


def _plot_accuracy(axes: Any, rows: Sequence[LogRow], recipe: Recipe) -> None:
    """Top-1 accuracy or, of a network without a classifier, that of the features' nearest neighbors."""
    measured, title = ("top1", "Accuracy") if trains_classifier(recipe.method) else ("knn", "Nearest neighbors")
    tested = [row for row in rows if f"{measured}_ema" in row]
    _plot(axes, tested, f"{measured}_ema", "EMA weights", BLUE, scale=100)
    _plot(axes, tested, f"{measured}_raw", "raw weights", ORANGE, scale=100)
    axes.set(title=title, ylabel=f"top-1 on the {recipe.fold} fold, %")


def _plot_losses(axes: Any, training: Sequence[LogRow]) -> None:
    """Every term that the log has, whatever method it is of."""
    logged = dict.fromkeys(name for row in training for name in row)
    terms = [name for name in logged if name not in (*_OF_THE_LOOP, *SHARES, "mi") and not name.endswith("_weight")]
    for name, color in zip(terms, (BLUE, GREEN, PINK, ORANGE), strict=False):
        _plot(axes, training, name, name.replace("_", " "), color)
    weighted = [{**row, "weighted": -row["mi_weight"] * row["mi"]} for row in training if "mi_weight" in row]
    if weighted:
        _plot(axes, weighted, "weighted", "weighted MI term", YELLOW)
    if len(axes.lines) > 1:
        _plot(axes, training, "loss", "total loss", "black")
    axes.set(title="Loss terms", ylabel="loss (entropies and information in nats)")


def _plot_unlabeled(axes: Any, training: Sequence[LogRow], num_classes: int) -> None:
    """Mutual information, and beside it how many of the pseudo-labels are used and right."""
    logged = {name for row in training for name in row}
    has_information = "mi" in logged
    axes.set(title="Unlabeled images", xlabel="step")
    if has_information:
        _plot(axes, training, "mi", "mutual information of the views", GREEN)
        axes.axhline(math.log(num_classes), color=GREEN, linestyle=":", label=f"its maximum, ln {num_classes}")
        axes.set(ylabel="nats", ylim=(0, None))
    shares = {name: drawn for name, drawn in SHARES.items() if name in logged}
    if shares:
        right = axes.twinx() if has_information else axes
        right.set(ylabel="%", ylim=(0, 105))
        for name, (label, color) in shares.items():
            _plot(right, training, name, label, color, scale=100)
            right.lines[-1].set_alpha(0.6)
            if right is not axes:  # the legend is the left axis's
                axes.plot([], [], color=color, alpha=0.6, label=f"{label} (right axis)")
    elif not has_information:
        axes.set(title="Unlabeled images: nothing is logged of them", yticks=[])


def save_small(picture: Image.Image, path: Path) -> None:
    """Writes a drawing as a PNG of at most 256 colors, a third of the bytes: a hub of checkpoints holds many."""
    picture.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(path, "PNG", optimize=True)


def _plot(axes: Any, rows: Sequence[LogRow], name: str, label: str, color: str, scale: float = 1.0) -> None:
    """One number of the log, where the log has it."""
    points = [(row["step"], scale * row[name]) for row in rows if name in row]
    axes.plot([x for x, _ in points], [y for _, y in points], color=color, label=label, linewidth=1.4)
