"""What is known of a data set without loading it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class DataSetInfo:
    """What is known of a data set without loading it.

    Attributes:
        name: The name used in recipes.
        title: The name people know.
        input_size: Channels, height, width.
        class_names: One per class, in the order of the labels.
        mean: Per channel, of the training images scaled to 0..1.
        std: The same.
        train_size: Training images, those without a label included.
        test_size: Test images.
        license: SPDX name or words.
        source: Where it comes from.
    """

    name: str
    title: str
    input_size: tuple[int, int, int]
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    train_size: int
    test_size: int
    license: str
    source: str

    @property
    def num_classes(self) -> int:
        """How many classes there are."""
        return len(self.class_names)

    def timm_cfg(self) -> dict[str, Any]:
        """The fields of timm's ``pretrained_cfg`` that a network trained on this set has."""
        return {
            "num_classes": self.num_classes,
            "input_size": self.input_size,
            "mean": self.mean,
            "std": self.std,
            "crop_pct": 1.0,
            "interpolation": "bicubic",
            "label_names": self.class_names,
        }
