"""What people call the parts of a data set: for training, for validation, for the test, without labels."""

from __future__ import annotations

import re

LABELED, UNLABELED, VALIDATION, TEST = "labeled", "unlabeled", "validation", "test"

_WORDS = {
    **dict.fromkeys(("labeled", "labelled", "train", "training", "trn", "trainset", "fit", "learn", "sup"), LABELED),
    **dict.fromkeys(
        ("unlabeled", "unlabelled", "nolabel", "nolabels", "unannotated", "unsup", "unsupervised"), UNLABELED
    ),
    **dict.fromkeys(
        ("val", "valid", "validation", "validate", "validating", "dev", "devel", "development", "valset", "devset"),
        VALIDATION,
    ),
    **dict.fromkeys(
        ("test", "testing", "tst", "tests", "testset", "eval", "evaluation", "holdout", "heldout"), TEST
    ),
}  # fmt: skip
# Words beside them that say nothing: `training_set`, `test images`, `images_val`.
_EMPTY = {
    *("set", "split", "data", "dataset", "image", "images", "img", "imgs", "picture", "pictures", "photo", "photos"),
    *("folder", "part", "subset", "fold", "jpg", "jpeg", "png", "samples"),
}


def part_of(name: str) -> str | None:
    """The part that a folder's or split's name stands for, in any case; None if it is none.

    Example:
        >>> [part_of(name) for name in ("Training_Set", "valid", "test2017", "contest")]
        ['labeled', 'validation', 'test', None]
    """
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    words = [word for word in re.split(r"[\W_]+", spaced.casefold()) if word]
    if words and (match := re.fullmatch(r"([a-z]+)(?:(?:19|20)\d\d|0?1)", words[-1])):  # train2017, test1
        words[-1] = match[1]
    words = [word for word in words if word not in _EMPTY and not re.fullmatch(r"(19|20)\d\d", word)]
    return _WORDS.get("".join(words))


def is_wrapper(name: str) -> bool:
    """Whether a folder of this name says nothing of its own: ``images``, ``data``."""
    return all(word in _EMPTY for word in re.split(r"[\W_]+", name.casefold()) if word)
