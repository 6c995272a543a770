"""Images that are held out of training: the dev fold, and a share of the labels to validate on."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from ..errors import InputError, Notice
from .catalog import FOLDER
from .drawing import apportion, by_class, hash_order
from .listing import SHOWN

DEV_EVERY = 5  # one in five training images is in the dev fold


def dev_fold(dataset: str, num_train: int) -> tuple[int, ...]:
    """The fixed fifth of the training images whose labels serve choosing recipes and nothing else.

    It depends on neither seed nor budget. If it did, the dev images of one run would be labeled images of another, and
    hyper-parameters chosen over several seeds would have been chosen on images that some of them were trained on.
    """
    return tuple(sorted(hash_order(f"{dataset}/dev", range(num_train))[: num_train // DEV_EVERY]))


def labeled_dev_fold(dataset: str, classes: Sequence[int], num_classes: int) -> tuple[int, ...]:
    """The dev fold of the user's own pictures: a fixed fifth of each class's labeled ones.

    A picture without a label would be held out for nothing. It is at least one of a class, and none of a class that has
    one label only. As :func:`dev_fold` it depends on neither seed nor budget.
    """
    members = by_class(range(len(classes)), classes, num_classes)
    sizes = [max(len(ids) // DEV_EVERY, int(len(ids) > 1)) for ids in members]
    chosen = [i for ids, k in zip(members, sizes, strict=True) for i in hash_order(f"{dataset}/dev", ids)[:k]]
    return tuple(sorted(chosen))


def dev_part(dataset: str, classes: Sequence[int], class_names: Sequence[str]) -> tuple[int, ...]:
    """The dev fold of a data set: :func:`dev_fold`, or :func:`labeled_dev_fold` of the user's own pictures.

    Raises:
        InputError: No label can be held out.
    """
    if dataset != FOLDER:
        return dev_fold(dataset, len(classes))
    fold = labeled_dev_fold(dataset, classes, len(class_names))
    if not fold:
        raise InputError(
            "fold=dev: no class has two labels, so none can be held out; label more pictures, or add test pictures "
            "(test/CLASS/, in a CSV split=test)"
        )
    held = {classes[index] for index in fold}
    if single := [name for label, name in enumerate(class_names) if label not in held]:
        shown = ", ".join(single[:SHOWN])
        warnings.warn(f"fold=dev: of {shown} nothing is held out, for there is one label of each", Notice, stacklevel=3)
    return fold


def validation_share(
    dataset: str,
    labeled: Sequence[int],
    classes: Sequence[int],
    class_names: Sequence[str],
    fold: str,
    share: float,
    seed: int,
) -> set[int]:
    """The labeled images that are held out to validate on: of each class in proportion, chosen by hash.

    Args:
        dataset: Name of the data set.
        labeled: Positions of the labeled images.
        classes: The class of each training image.
        class_names: For the messages.
        fold: ``validation`` if they are evaluated on.
        share: Of the labeled images.
        seed: Orders the images.

    Raises:
        InputError: A class would have no label left, or none is held out.
    """
    if not share:
        if fold == "validation":
            raise InputError("fold=validation: there are no validation images; give validation=0.2 or so")
        return set()
    members = by_class(labeled, classes, len(class_names))
    weights = [float(len(ids)) for ids in members]
    single = [name for name, ids in zip(class_names, members, strict=True) if len(ids) == 1]
    if len(single) == len(class_names):
        raise InputError(
            f"validation={share}: there is one label of each class, so none can be held out; give more "
            "labels, or test images"
        )
    if single and dataset == FOLDER:
        weights = [weight if weight > 1 else 0.0 for weight in weights]
        shown = ", ".join(single[:SHOWN])
        text = f"validation={share}: of {shown} nothing is held out, for there is one label of each"
        warnings.warn(text, Notice, stacklevel=3)
    per_class = apportion(round(share * len(labeled)), weights)
    chosen = {i for ids, k in zip(members, per_class, strict=True) for i in hash_order(f"{seed}/validation", ids)[:k]}
    for label, (ids, k) in enumerate(zip(members, per_class, strict=True)):
        if ids and k == len(ids):
            raise InputError(
                f"validation={share}: no label of class {class_names[label]} would be left; lower it or "
                "give more labels"
            )
    if not chosen:
        raise InputError(f"validation={share} of {len(labeled)} labels rounds to 0 images; raise it")
    return chosen
