"""Pictures for tests: each class its own color, with noise."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

COLORS = {"cat": (200, 60, 60), "dog": (60, 60, 200), "owl": (60, 200, 60)}


def picture(path: Path, label: str, number: int, size: tuple[int, int] = (24, 24)) -> Path:
    """Writes one picture, width x height."""
    rng = np.random.default_rng(number)
    noise = rng.integers(-50, 50, (size[1], size[0], 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((np.array(COLORS.get(label, (90, 90, 90))) + noise).clip(0, 255).astype(np.uint8)).save(path)
    return path


def make_folder(
    root: Path, classes: Sequence[str] = ("cat", "dog"), labeled: int = 6, unlabeled: int = 30, test: int = 5
) -> Path:
    """labeled/CLASS, unlabeled/ and test/CLASS; what is 0 is left out."""
    for c, label in enumerate(classes):
        for i in range(labeled):
            picture(root / "labeled" / label / f"{i:03}.png", label, 1000 * c + i)
        for i in range(test):
            picture(root / "test" / label / f"{i:03}.png", label, 1000 * c + 500 + i)
    for i in range(unlabeled):
        picture(root / "unlabeled" / f"{i % 3}" / f"{i:03}.png", classes[i % len(classes)], 9000 + i)
    return root
