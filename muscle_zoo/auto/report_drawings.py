"""The report's drawings, as SVG inside the page: they take its colors, light or dark, and need no script."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from markupsafe import Markup, escape
from torch import Tensor

from .findings import Interval

PALETTE = (
    *("#0072b2", "#e08e00", "#00916a", "#d1495b", "#b35fa6", "#3aa6d8", "#8c6d31", "#6a51a3", "#8a9a00", "#707a8a"),
)
MAP_POINTS = 1500  # pictures of the embedding map
_TEXT_WIDTH = 7  # of a letter


def color_of(label: int) -> str:
    """A class's color, which shows on white and on black."""
    return PALETTE[label] if label < len(PALETTE) else f"hsl({label * 137.5 % 360:.0f} 55% 50%)"


def interval_bar(interval: Interval, low: float, high: float, chosen: bool) -> Markup:
    """A value as a dot and its interval as a line, on an axis from low to high."""
    width, height = 240, 22

    def x(value: float) -> float:
        return 6 + (width - 12) * (min(max(value, low), high) - low) / (high - low)

    middle = height / 2
    lines = [f'<line class="axis" x1="6" x2="{width - 6}" y1="{middle}" y2="{middle}"/>']
    kind = "chosen" if chosen else "other"
    if interval.low is not None and interval.high is not None:
        ends = f'x1="{x(interval.low):.1f}" x2="{x(interval.high):.1f}"'
        lines.append(f'<line class="interval {kind}" {ends} y1="{middle}" y2="{middle}"/>')
    lines.append(f'<circle class="{kind}" cx="{x(interval.value):.1f}" cy="{middle}" r="5"/>')
    return _svg(width, height, lines, "bar")


def reliability_diagram(probabilities: Tensor, labels: Tensor) -> tuple[Markup, float]:
    """How often predictions of each confidence are right; and the expected calibration error, 0 to 1.

    Args:
        probabilities: ``(n, C)``.
        labels: ``(n,)``.
    """
    best = probabilities.max(dim=1)
    right = (best.indices == labels).float()
    bins = 10 if len(labels) >= 100 else 5
    number = (best.values * bins).long().clamp(max=bins - 1)
    left, top, side = 46, 12, 290
    lines = [f'<rect class="frame" x="{left}" y="{top}" width="{side}" height="{side}"/>']
    lines.append(f'<line class="diagonal" x1="{left}" y1="{top + side}" x2="{left + side}" y2="{top}"/>')
    for tick in range(0, 101, 25):
        at = side * tick / 100
        lines.append(f'<text x="{left - 7}" y="{top + side - at + 4:.1f}" text-anchor="end">{tick}</text>')
        lines.append(f'<text x="{left + at:.1f}" y="{top + side + 17}" text-anchor="middle">{tick}</text>')
    error = 0.0
    for bin_number in range(bins):
        inside = number == bin_number
        count = int(inside.sum())
        if not count:
            continue
        confidence, accuracy = float(best.values[inside].mean()), float(right[inside].mean())
        error += count / len(labels) * abs(confidence - accuracy)
        x, y = left + side * confidence, top + side * (1 - accuracy)
        lines.append(
            f'<line class="gap" x1="{x:.1f}" x2="{x:.1f}" y1="{y:.1f}" y2="{top + side * (1 - confidence):.1f}"/>'
        )
        radius = 4 + 10 * (count / len(labels)) ** 0.5
        title = f"{count} pictures: {100 * confidence:.0f} % sure, {100 * accuracy:.0f} % right"
        lines.append(
            f'<circle class="chosen" cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}"><title>{title}</title></circle>'
        )
    lines.append(f'<text x="{left + side / 2}" y="{top + side + 36}" text-anchor="middle">how sure, %</text>')
    turn = f"rotate(-90 12 {top + side / 2})"
    lines.append(f'<text x="12" y="{top + side / 2}" text-anchor="middle" transform="{turn}">how often right, %</text>')
    return _svg(left + side + 10, top + side + 44, lines, "square"), error


def embedding_map(unit: Tensor, labels: Tensor, predicted: Tensor, class_names: Sequence[str], seed: int = 0) -> Markup:
    """All labeled pictures and some of the others in two dimensions, neighbors beside each other (t-SNE).

    Args:
        unit: ``(N, D)`` embeddings.
        labels: ``(N,)``; negative where there is none.
        predicted: ``(N,)`` classes, which color the pictures without a label.
        class_names: In order.
        seed: Draws which pictures are left out, where there are too many.
    """
    labeled = (labels >= 0).nonzero().flatten().numpy()
    others = (labels < 0).nonzero().flatten().numpy()
    draw = np.random.default_rng(seed)
    labeled = _some(labeled, MAP_POINTS, draw)
    others = _some(others, MAP_POINTS - len(labeled), draw)
    shown = np.concatenate([others, labeled])  # the labeled ones on top
    places = _in_the_plane(unit[torch.from_numpy(shown)].numpy(), seed)
    width, height = 720, 460
    places = 24 + places * (np.array([width, height]) - 48)
    lines = []
    for position, (x, y) in zip(shown.tolist(), places.tolist(), strict=True):
        label = int(labels[position])
        known = label >= 0
        label = label if known else int(predicted[position])
        kind = f'class="{"known" if known else "guess"}" r="{4.5 if known else 2.6}"'
        lines.append(f'<circle {kind} cx="{x:.1f}" cy="{y:.1f}" fill="{color_of(label)}"/>')
    known = places[len(others) :]
    for label, name in enumerate(class_names):
        own = known[labels[torch.from_numpy(labeled)].numpy() == label]
        if len(own) and len(class_names) <= 40:
            x, y = np.median(own, axis=0)
            half = _TEXT_WIDTH * min(len(name), 18) / 2
            x = min(max(x, half), width - half)
            lines.append(f'<text class="name" x="{x:.1f}" y="{y - 8:.1f}">{escape(_short(name))}</text>')
    return _svg(width, height, lines, "map")


def _some(positions: np.ndarray, most: int, draw: np.random.Generator) -> np.ndarray:
    return positions if len(positions) <= most else np.sort(draw.choice(positions, max(0, most), replace=False))


def _in_the_plane(points: np.ndarray, seed: int) -> np.ndarray:
    """Points in the unit square: t-SNE of scikit-learn, and of very few points the principal components."""
    from sklearn.decomposition import PCA  # slow to import
    from sklearn.manifold import TSNE

    most = min(50, *points.shape)
    reduced = PCA(most, random_state=seed).fit_transform(points)
    if len(points) >= 10:
        perplexity = min(30.0, (len(points) - 1) / 3)
        places = TSNE(2, perplexity=perplexity, init="pca", max_iter=500, random_state=seed).fit_transform(reduced)
    else:
        places = np.zeros((len(points), 2))
        places[:, : min(2, most)] = reduced[:, :2]
    low, high = places.min(axis=0), places.max(axis=0)
    return (places - low) / np.maximum(high - low, 1e-9)


def _short(name: str) -> str:
    return name if len(name) <= 18 else f"{name[:17]}…"


def _svg(width: float, height: float, lines: Sequence[str], kind: str) -> Markup:
    inside = "".join(lines)
    return Markup(f'<svg class="{kind}" viewBox="0 0 {width:g} {height:g}" role="img">{inside}</svg>')
