"""A contact sheet: labeled images and their views."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from ..methods.base import View
from ..recipes import Recipe
from .augment import parse_policy, to_unit
from .batches import draw_random_numbers
from .datasets import DataSet
from .splits import Split

ROWS, VIEWS = 10, 4  # images, and views of each policy


def draw_sheet(recipe: Recipe, dataset: DataSet, split: Split, path: Path) -> None:
    """Draws up to ten labeled images, one a class first, each with four weak and four strong views.

    Args:
        recipe: Its seed draws the views, its policies make them.
        dataset: The images.
        split: Which of them are labeled.
        path: The file to write; its ending says the format.
    """
    from matplotlib.figure import Figure

    chosen = _one_a_class_first(dataset.train.labels[list(split.labeled)].tolist(), split.labeled)
    raw = next(iter(dataset.train.batches([torch.tensor(chosen)])))
    columns = [("image", to_unit(raw)), *_make_views(recipe, raw)]
    height, width = raw.shape[-2:]
    figure = Figure(figsize=(1.05 * len(columns) * width / max(height, width) + 1.2, 1.05 * len(raw) + 0.9), dpi=110)
    axes = figure.subplots(len(raw), len(columns), squeeze=False)
    figure.suptitle(f"{dataset.info.title}\nweak: {recipe.weak}\nstrong: {recipe.strong}", fontsize=8)
    for column, (title, images) in enumerate(columns):
        axes[0][column].set_title(title, fontsize=8)
        for row, image in enumerate(images):
            axis = axes[row][column]
            pixels = image.permute(1, 2, 0).cpu().numpy()
            axis.imshow(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels, cmap="gray", vmin=0, vmax=1)
            axis.set_xticks([])
            axis.set_yticks([])
    for row, position in enumerate(chosen):
        name = dataset.info.class_names[int(dataset.train.labels[position])]
        axes[row][0].set_ylabel(name[:14], fontsize=8, rotation=0, ha="right", va="center")
    figure.tight_layout(pad=0.4, rect=(0, 0, 1, 1 - 0.6 / figure.get_figheight()))
    figure.savefig(path)


def _make_views(recipe: Recipe, raw: Tensor) -> list[tuple[str, Tensor]]:
    """VIEWS weak and VIEWS strong views of each image, drawn as training draws them."""
    views = []
    for policy in ("weak", "strong"):
        parsed = parse_policy(policy, getattr(recipe, policy))
        for draw in range(VIEWS):
            view = View("labeled", policy, draw)
            random_numbers = draw_random_numbers(recipe.seed, 0, view, len(raw), parsed.num_random)
            views.append((policy, to_unit(parsed(raw, random_numbers))))
    return views


def _one_a_class_first(labels: list[int], positions: tuple[int, ...]) -> list[int]:
    """The positions to draw: the first image of each class in the order of the classes, then others, ROWS in all."""
    first_of_class = {label: labels.index(label) for label in sorted(set(labels))}
    firsts = list(first_of_class.values())
    others = [i for i in range(len(labels)) if i not in set(firsts)]
    return [positions[i] for i in (firsts + others)[:ROWS]]
