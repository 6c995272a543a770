"""What may be chosen about training on one's own pictures, and the recipes that come of it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path

import timm

from ..checkpoints.weights import WHAT, is_no_weights
from ..data.addresses import is_address
from ..data.table_files import SUFFIXES
from ..engine.starting_weights import arch_of
from ..errors import InputError, suggest
from ..methods import METHODS, base_of, default_options, method_names, takes_embeddings, takes_steps
from ..recipes import Recipe, get_recipe
from ..recipes.defaults import DATASETS, starting_weights
from ..recipes.names import parse_name

CONTROL = "logistic"  # the linear probe: what people do with a pretrained network and few labels
FALLBACK = "muscle"  # where nothing can be held out to compare by; of all on embeddings the best at few labels
METHODS_COMPARED = (CONTROL, "knn", "label_propagation", "fixmatch", "muscle", "muscle_fixmatch")
BACKBONE = "tf_efficientnet_lite0.pypi"
FOLDS = 5

# What the comparison is about, or what it decides itself; all else of a recipe may be changed.
_FIXED = {
    "method": "give --methods",
    "init": "give --backbone",
    "arch": "give --backbone",
    **dict.fromkeys(
        ("dataset", "labels", "variant", "fold", "tune", "classes", "bias", "unlabeled_bias", "mismatch"),
        "leave it out, or train a recipe by its name",
    ),
    **dict.fromkeys(
        ("validation", "split", "teacher", "classifier", "version"), "leave it out, or train a recipe by its name"
    ),
}

Value = str | int | float | bool


@dataclass(frozen=True)
class Choices:
    """What somebody wants otherwise.

    Attributes:
        methods: To be compared; the control is compared in any case. Empty for :data:`METHODS_COMPARED`.
        folds: Of the cross-validation, 2 or more; fewer where there are fewer labels.
        backbone: Weights that embed the pictures, as a recipe's ``init``; an architecture alone takes timm's default.
        overrides: What to change of the recipes: ``{"steps": 100, "seed": 1}``. What a method has not is left out.

    Raises:
        InputError: A method is unknown or cannot be trained on embeddings, or a value is out of range.
    """

    methods: tuple[str, ...] = ()
    folds: int = FOLDS
    backbone: str = BACKBONE
    overrides: Mapping[str, Value] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.folds < 2:
            raise InputError(f"folds={self.folds} is out of range; give 2 or more")
        for method in self.methods:
            if method not in method_names():
                raise InputError(f"methods: {method!r} is unknown; {suggest(method, method_names())}")
            if not takes_embeddings(method):
                raise InputError(f"methods: {method} cannot be trained on embeddings; leave it out")
        if is_no_weights(self.backbone):
            raise InputError(f"backbone={self.backbone}: there are no such weights; give {WHAT}")
        for key in self.overrides:
            if key in _FIXED:
                raise InputError(f"override {key!r} is none for a folder of pictures: {_FIXED[key]}")

    @property
    def arch(self) -> str:
        """The backbone's architecture."""
        return arch_of(self.backbone)

    @property
    def init(self) -> str:
        """The backbone's weights, as a recipe names them."""
        return (starting_weights(self.arch) or self.backbone) if self.backbone == self.arch else self.backbone

    def compared(self, unlabeled: int) -> tuple[str, ...]:
        """The methods to compare, the control first.

        Args:
            unlabeled: Pictures without a label; where there are none, what would learn from them is not tried unasked.
        """
        asked = self.methods or tuple(m for m in METHODS_COMPARED if unlabeled or not uses_unlabeled(m))
        return tuple(dict.fromkeys((CONTROL, *asked)))

    def recipe(self, method: str, own: Mapping[str, Value], fold: str) -> Recipe:
        """The recipe that trains a method on all labels.

        Args:
            method: One of :meth:`compared`.
            own: What the pictures make of the defaults, such as ``image_size``; what was asked for counts more.
            fold: What it is evaluated on.

        Raises:
            InputError: An override does not exist, or is out of range.
        """
        # What was asked for first, so that its mistakes are named, and not those of what follows from it.
        overrides = {**self.overrides, **{k: v for k, v in own.items() if k not in self.overrides}}
        parts = {key.partition(".")[0] for key in overrides if "." in key}
        foreign = parts & ({*METHODS, "muscle"} - {base_of(method), *default_options(method)})
        fits = {k: v for k, v in overrides.items() if k.partition(".")[0] not in foreign or "." not in k}
        if not takes_steps(method):
            fits.pop("steps", None)
            fits.pop("sampling", None)
        return get_recipe(f"{self.arch}.{method}_folder_all_frozen", {**fits, "init": self.init, "fold": fold})


def is_own_pictures(word: str) -> bool:
    """Whether what was given in the place of a recipe's name is a folder or table of pictures, there or mistyped.

    Example:
        >>> [is_own_pictures(word) for word in ("my_pictures/", "labels.csv", "cnn4.muscle_digits_10", "cnn4")]
        [True, True, False, False]
    """
    try:
        parse_name(word)
        return False
    except InputError:
        if is_address(word) or "/" in word or word.lower().endswith(SUFFIXES) or Path(word).exists():
            return True
        # A misspelled file of the working directory, such as labels.cvs.
        arch = word.partition(".")[0]
        if get_close_matches(word, os.listdir(), cutoff=0.8) and not get_close_matches(arch, timm.list_models()):
            return True
        # Every recipe's name has a dot. Without one it is a folder that is not there, or a part of a recipe's name.
        is_half_a_name = get_close_matches(word, timm.list_models()) and not get_close_matches(word, os.listdir())
        is_word = word in (*method_names(), *DATASETS)
        return "." not in word and not is_half_a_name and not is_word


def uses_unlabeled(method: str) -> bool:
    """Whether a method learns from unlabeled pictures too.

    Example:
        >>> [uses_unlabeled(method) for method in ("logistic", "knn", "supervised", "label_propagation", "muscle")]
        [False, False, False, True, True]
    """
    return method not in (CONTROL, "knn", "supervised")


def can_be_exported(method: str) -> bool:
    """Whether a network of timm's can hold the classifier that a method trains on embeddings."""
    return method != "knn"
