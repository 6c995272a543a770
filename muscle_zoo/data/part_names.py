"""What people call the parts of a data set: for training, for validation, for the test, without labels."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

LABELED, UNLABELED, VALIDATION, TEST = "labeled", "unlabeled", "validation", "test"

_WORDS = {
    **dict.fromkeys(
        (
            *("labeled", "labelled", "train", "training", "trn", "tr", "trainset", "trainval", "fit", "learn", "sup"),
            # In Spanish, French, Portuguese, Italian, German; without accents.
            *("supervised", "entrenamiento", "entrainement", "apprentissage", "treino", "treinamento"),
            *("addestramento", "trainingsdaten"),
        ),
        LABELED,
    ),
    **dict.fromkeys(
        ("unlabeled", "unlabelled", "nolabel", "nolabels", "unannotated", "unsup", "unsupervised"), UNLABELED
    ),
    **dict.fromkeys(
        (
            *("val", "valid", "validation", "validate", "validating", "dev", "devel", "development", "valset", "vl"),
            *("devset", "validacion", "validacao", "validierung", "validazione"),
        ),
        VALIDATION,
    ),
    **dict.fromkeys(
        (
            *("test", "testing", "tst", "te", "tests", "testset", "eval", "evaluation", "holdout", "heldout"),
            *("devtest", "testdev", "prueba", "pruebas", "teste", "testes", "testdaten"),
        ),
        TEST,
    ),
}  # fmt: skip
# Words beside them that say nothing: `training_set`, `test images`, `images_val`.
_EMPTY = {
    *("set", "split", "data", "dataset", "image", "images", "img", "imgs", "picture", "pictures", "photo", "photos"),
    *("folder", "part", "subset", "fold", "jpg", "jpeg", "png", "samples"),
}


def part_of(name: str, among: Sequence[str] = ()) -> str | None:
    """The part that a folder's or split's name stands for, in any case; None if it is none.

    Args:
        name: The folder's.
        among: Names of the folders beside it, itself included; words that all of them have say nothing.

    Example:
        >>> [part_of(name) for name in ("Training_Set", "valid", "test2017", "contest")]
        ['labeled', 'validation', 'test', None]
    """
    words = [word for word in words_of(name) if not re.fullmatch(r"v\d+i?", word)]  # train.v1
    if words and (match := re.fullmatch(r"([a-z]+)(?:(?:19|20)\d\d|0?1)", words[-1])):  # train2017, test1
        words[-1] = match[1]
    while len(words) > 1 and re.fullmatch(r"\d{1,2}", words[0]):  # 01_train
        words = words[1:]
    shared = set.intersection(*(set(words_of(other)) for other in among)) if len(among) > 1 else set()
    words = [word for word in words if word not in _EMPTY | shared and not re.fullmatch(r"(19|20)\d\d", word)]
    parts = [_WORDS.get(word) for word in words]
    if len(parts) > 1 and UNLABELED in parts and set(parts) <= {UNLABELED, LABELED}:  # train_unlabeled
        return UNLABELED
    return _WORDS.get("".join(words))


def words_of(name: str) -> list[str]:
    """The words of a name, in small letters: ``trainImages``, ``train-images``, ``Train Images``."""
    plain = "".join(sign for sign in unicodedata.normalize("NFKD", name) if not unicodedata.combining(sign))
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", plain)
    return [word for word in re.split(r"[\W_]+", spaced.casefold()) if word]


def is_wrapper(name: str) -> bool:
    """Whether a folder of this name says nothing of its own: ``images``, ``data``."""
    return all(word in _EMPTY for word in re.split(r"[\W_]+", name.casefold()) if word)
