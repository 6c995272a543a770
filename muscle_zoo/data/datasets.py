"""Data sets by name, as uint8 images in memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError, near


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
        train_size: Training images.
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


@dataclass(frozen=True)
class LabelledImages:
    """Images ``(N, C, H, W)`` uint8 and their classes ``(N,)`` int64."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class DataSet:
    """A data set in memory."""

    info: DataSetInfo
    train: LabelledImages
    test: LabelledImages


DIGITS = DataSetInfo(
    name="digits",
    title="Optical Recognition of Handwritten Digits (UCI)",
    input_size=(1, 8, 8),
    class_names=tuple("0123456789"),
    mean=(0.3052,),
    std=(0.3761,),
    train_size=1437,
    test_size=360,
    license="cc-by-4.0",
    source="https://doi.org/10.24432/C50P49",
)


def _load_digits() -> DataSet:
    with resources.files(__package__).joinpath("digits.npz").open("rb") as file, np.load(file) as arrays:
        parts = {
            part: LabelledImages(
                torch.from_numpy(arrays[f"{part}_images"]).unsqueeze(1),
                torch.from_numpy(arrays[f"{part}_labels"]).long(),
            )
            for part in ("train", "test")
        }
    return DataSet(DIGITS, parts["train"], parts["test"])


_DATASETS: dict[str, tuple[DataSetInfo, Callable[[], DataSet]]] = {"digits": (DIGITS, _load_digits)}


def dataset_names() -> list[str]:
    """The data sets there are."""
    return list(_DATASETS)


def dataset_info(name: str) -> DataSetInfo:
    """Facts about a data set.

    Raises:
        InputError: There is no such data set.
    """
    return _entry(name)[0]


def load_dataset(name: str) -> DataSet:
    """Loads a data set into memory.

    Raises:
        InputError: There is no such data set.
    """
    return _entry(name)[1]()


def _entry(name: str) -> tuple[DataSetInfo, Callable[[], DataSet]]:
    if name not in _DATASETS:
        raise InputError(f"dataset: {name!r} is unknown; {near(name, _DATASETS)}")
    return _DATASETS[name]
