"""A data set and its split in words: what ``muscle-zoo data show`` prints."""

from __future__ import annotations

from collections import Counter

from ..errors import one_line
from ..recipes import Recipe
from .datasets import DataSet
from .images import OUTSIDE, UNKNOWN
from .label_noise import NO_NOISE
from .splits import Split, names_sha256

SHOWN_CLASSES = 10  # of a set with more than twice as many


def describe_data(recipe: Recipe, dataset: DataSet, split: Split, evaluated: int, wrong: int = 0) -> str:
    """What a recipe is trained and evaluated on, as a person reads it.

    Args:
        recipe: Its policies make the views.
        dataset: The data set, restricted to the task's classes.
        split: Which images are labeled, and which form the unlabeled pool.
        evaluated: Number of images it is evaluated on.
        wrong: Number of labeled images whose label the recipe's ``label_noise`` made wrong; the table counts these.

    Returns:
        Some twenty lines: sizes, hashes, policies, and the images of each class.
    """
    info, train = dataset.info, dataset.train
    lines = [
        f"{info.name}: {info.title}",
        f"  images       {info.train_size} for training, {info.test_size} for the test, "
        f"{'x'.join(map(str, info.input_size))}",
        f"  labeled      {len(split.labeled)} of a budget of {split.labels} (seed {split.seed}, bias {split.bias})",
        f"  unlabeled    {len(split.unlabeled)}, the labeled ones included",
        f"  evaluated on {evaluated} images of the {split.fold} fold",
        f"  split sha256 {split.sha256}",
    ]
    if recipe.label_noise != NO_NOISE:
        told = f"{wrong} of the labeled ones (label_noise={recipe.label_noise}), counted below as given"
        lines.insert(3, f"  wrong labels {told}")
    if train.names:
        lines.append(f"  names sha256 {names_sha256(train.names)}")
    lines += [f"  weak view    {recipe.weak}", f"  strong view  {recipe.strong}"]
    return "\n".join(lines + _class_table(dataset, split))


def _class_table(dataset: DataSet, split: Split) -> list[str]:
    """How many labeled and unlabeled images each class has."""
    names, labels = dataset.info.class_names, dataset.train.labels
    labeled = Counter(labels[list(split.labeled)].tolist())
    unlabeled = Counter(labels[list(split.unlabeled)].tolist())
    classes_are_known = any(label >= 0 for label in unlabeled)
    names = tuple(one_line(name) for name in names)
    width = max(len(name) for name in names)
    lines = [f"  {'class':<{width}}  labeled" + ("  unlabeled" if classes_are_known else "")]
    shown = len(names) if len(names) <= 2 * SHOWN_CLASSES else SHOWN_CLASSES
    for label in range(shown):
        pool = f"  {unlabeled[label]:>9}" if classes_are_known else ""
        lines.append(f"  {names[label]:<{width}}  {labeled[label]:>7}{pool}")
    if shown < len(names):
        lines.append(f"  ... and {len(names) - shown} classes more")
    for label, title in ((UNKNOWN, "of unknown class"), (OUTSIDE, "outside the task")):
        if unlabeled[label]:
            lines.append(f"  {title:<{width}}  {'':>7}  {unlabeled[label]:>9}")
    return lines
