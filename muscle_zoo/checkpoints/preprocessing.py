"""Whether a picture becomes for `predict` what it was in training: no hash covers what config.json says of it."""

from __future__ import annotations

import numpy as np
from PIL import Image
from torch import nn

from ..data import normalize
from ..data.catalog import DataSetInfo
from ..data.decoding import to_image, upright
from ..errors import one_line
from .card import pretrained_cfg_of
from .transforms import create_transform

_LEVELS = 1.5  # of 256, by which two ways of rounding may differ
_FIELDS = ("input_size", "interpolation", "crop_pct", "crop_mode", "mean", "std")


def preprocessing_fault(model: nn.Module, info: DataSetInfo) -> str:
    """What is wrong with what a network's config.json says of its pictures and classes.

    A picture larger than the network's, and one of another shape, go through :func:`muscle_zoo.create_transform` and
    through what training did to pictures.

    Args:
        model: Of :func:`muscle_zoo.create_model`.
        info: Its data set; with the size and the normalization of its training, see
            :func:`muscle_zoo.checkpoints.card.as_trained`.

    Returns:
        One line; empty where nothing is wrong.

    Example:
        >>> from muscle_zoo import create_model
        >>> from muscle_zoo.data import dataset_info
        >>> preprocessing_fault(create_model("cnn4.muscle_digits_10", pretrained=True), dataset_info("digits"))
        ''
    """
    cfg = pretrained_cfg_of(model)
    names = list(cfg.get("label_names") or ())
    if cfg.get("num_classes") and names != list(info.class_names):
        theirs, ours = (one_line(", ".join(map(str, words))) for words in (names, info.class_names))
        return f"its label_names are {theirs}; those of {info.name} are {ours}"
    transform = create_transform(model)
    channels, height, width = info.input_size
    for size in ((2 * width + 5, 2 * height + 3), (3 * width, height + 1)):
        picture = _picture(size)
        said = one_line(", ".join(f"{field}={cfg[field]}" for field in _FIELDS if field in cfg))
        try:
            predicted = transform(picture)
        except Exception as error:  # whatever timm stumbles over in fields that cannot be together
            return f"pictures cannot be made ready by what config.json says ({said}): {one_line(error)}"
        trained = normalize(to_image(upright(picture, channels), info.input_size)[None], info)[0]
        tolerance = _LEVELS / 256 / min(info.std)
        if predicted.shape != trained.shape or not (predicted - trained).abs().max() <= tolerance:
            return f"pictures become others than in training by what config.json says ({said})"
    return ""


def _picture(size: tuple[int, int]) -> Image.Image:
    """A picture of noise, always the same."""
    values = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    return Image.fromarray(values)
