from __future__ import annotations

import hashlib

import pytest

from muscle_zoo import InputError
from muscle_zoo.data import Budget, Split, load_dataset, make_split
from muscle_zoo.data.splits import dev_fold, indices_sha256

GOLDEN_SPLITS = {
    (10, 0, "test"): "86b2bfe2293e40265ad2f42d4f4d0aaa4bf3073ae50d010f6a4912d5e9a37a77",
    (10, 1, "test"): "cbdc2f7c9f5199ec54dce506137a480d589a89c17bf8aca75de77665528ea9de",
    (10, 4, "test"): "b568345926b6d978a1ccc758a1df46d915f79048e505dfdde05e95013b163f66",
    (20, 0, "test"): "42769f43235394004b9e2235136d6f269b58d5f1619bcd0400d7d58fa0688586",
    (23, 0, "test"): "4bd306bf2bfec005e9aebbcad4d83ae214e91d36be5294c4c38b3316438d46ff",
    (40, 0, "test"): "bdc1d26912becb94b61f9966a7114652574402d138ad2892f21e11a2583bd2ad",
    (100, 2, "test"): "efeefde88f9e65e01da6a506ccc35061b6e574774692a421e5573733d94182d5",
    (10, 0, "dev"): "d191dcd470a968477dd7f96b6709743747356f54c10314804281e7d8953e4552",
    (40, 0, "dev"): "006574ddd2bb87dc14f6b00af7c916146977b3832f8754276592b6a945d338b8",
}


def digits_split(labels: int | str, seed: int, fold: str = "test", **more: object) -> Split:
    return make_split("digits", load_dataset("digits").train.labels.tolist(), 10, Budget(labels, seed, fold, **more))


@pytest.mark.parametrize(("labels", "seed", "fold"), list(GOLDEN_SPLITS))
def test_golden_splits(labels: int, seed: int, fold: str) -> None:
    assert digits_split(labels, seed, fold).sha256 == GOLDEN_SPLITS[labels, seed, fold]


def test_the_dev_fold_is_pinned() -> None:
    fold = dev_fold("digits", 1437)
    assert len(fold) == 287
    assert indices_sha256(fold) == "241888c8590372ad95fcc606d4079adc493d8b67951b461e1a146918447a4fd7"


def test_a_split_by_hand() -> None:
    classes = [0, 1] * 6
    split = make_split("toy", classes, 2, Budget(4, 3))
    expected = []
    for label in (0, 1):
        members = [i for i in range(12) if classes[i] == label]
        expected += sorted(members, key=lambda i: hashlib.sha256(f"3/{i}".encode()).hexdigest())[:2]
    assert split.labelled == tuple(sorted(expected))
    assert split.unlabelled == tuple(range(12))


@pytest.mark.parametrize("labels", [10, 20, 23, 40, 100, 1000])
def test_splits_are_balanced_and_nested(labels: int) -> None:
    data = load_dataset("digits")
    split = digits_split(labels, 0)
    counts = data.train.labels[list(split.labelled)].bincount(minlength=10)
    assert counts.sum() == labels == len(set(split.labelled))
    assert counts.max() - counts.min() <= 1
    assert set(digits_split(10, 0).labelled) <= set(split.labelled)
    assert set(split.labelled) <= set(split.unlabelled)
    assert split.labelled != digits_split(labels, 1).labelled


def test_the_dev_fold_is_seen_by_nothing_but_the_evaluation() -> None:
    split = digits_split(40, 0, "dev")
    assert split.held_out == dev_fold("digits", 1437)
    assert not set(split.held_out) & set(split.unlabelled)
    assert len(split.unlabelled) + len(split.held_out) == 1437


@pytest.mark.parametrize(("labels", "says"), [(9, "one a class"), (1400, "class"), (2000, "beyond the data")])
def test_label_budgets_that_do_not_fit(labels: int, says: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        digits_split(labels, 0)
    assert f"labels={labels}" in str(caught.value)


def test_the_budget_offered_instead_fits() -> None:
    with pytest.raises(InputError, match="give at most 1340"):
        digits_split(1400, 0)
    assert len(digits_split(1340, 0).labelled) == 1340
