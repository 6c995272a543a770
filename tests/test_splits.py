from __future__ import annotations

import hashlib
import warnings

import pytest

from muscle_zoo import InputError
from muscle_zoo.data import Budget, Split, load_dataset, make_split, restrict
from muscle_zoo.data.drawing import apportion
from muscle_zoo.data.held_out import dev_fold
from muscle_zoo.data.split_files import parse_given
from muscle_zoo.data.splits import geometric, indices_sha256
from muscle_zoo.errors import Notice
from muscle_zoo.recipes import get_recipe

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
    assert split.labeled == tuple(sorted(expected))
    assert split.unlabeled == tuple(range(12))


@pytest.mark.parametrize("labels", [10, 20, 23, 40, 100, 1000])
def test_splits_are_balanced_and_nested(labels: int) -> None:
    data = load_dataset("digits")
    split = digits_split(labels, 0)
    counts = data.train.labels[list(split.labeled)].bincount(minlength=10)
    assert counts.sum() == labels == len(set(split.labeled))
    assert counts.max() - counts.min() <= 1
    assert set(digits_split(10, 0).labeled) <= set(split.labeled)
    assert set(split.labeled) <= set(split.unlabeled)
    assert split.labeled != digits_split(labels, 1).labeled


def test_the_dev_fold_is_seen_by_nothing_but_the_evaluation() -> None:
    split = digits_split(40, 0, "dev")
    assert split.held_out == dev_fold("digits", 1437)
    assert not set(split.held_out) & set(split.unlabeled)
    assert len(split.unlabeled) + len(split.held_out) == 1437


@pytest.mark.parametrize(("labels", "says"), [(9, "one per class"), (1400, "class"), (2000, "more than there are")])
def test_label_budgets_that_do_not_fit(labels: int, says: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        digits_split(labels, 0)
    assert f"labels={labels}" in str(caught.value)


def test_the_budget_offered_instead_fits() -> None:
    with pytest.raises(InputError, match="give at most 1340"):
        digits_split(1400, 0)
    assert len(digits_split(1340, 0).labeled) == 1340


CIFAR10_JPEG = [label for label in range(10) for _ in range(5000)]  # its canonical order: class by class
GOLDEN_BUDGETS = {
    "40": (Budget(40), "ffa306b469cf6718b3640da18162fe8c94fef79a4ccff726b153b88bd55d7489", 50000),
    "250": (Budget(250), "4595e7f32f68045be788a4e2f96182953b576bdf2b46246e30433f440563a133", 50000),
    "4000": (Budget(4000, seed=1), "76f8683f87393e0ba943e5d7941016fcc633074ae587388e6c26d6ee666dcf38", 50000),
    "dev": (Budget(250, fold="dev"), "02e9cb42cc09dc17e2706af7bd692f3d38ed6ff3e64937e6fcc190d84abc4283", 40000),
    "imbalanced": (
        Budget(250, bias="imbalance:10"),
        "b4ba80659f9b57a762283fc92849119627adb8f6795c1fd4141ffa4701a44ee2",
        50000,
    ),
    "imbalanced pool": (
        Budget(250, bias="imbalance:10", unlabeled_bias="imbalance:10"),
        "b4ba80659f9b57a762283fc92849119627adb8f6795c1fd4141ffa4701a44ee2",
        20434,
    ),
    "validation": (
        Budget(250, fold="validation", validation=0.2),
        "0dd44757f48946e4d895d1c8a6f0a53375c2d1ed02a49adb81df81f8571ca12e",
        49950,
    ),
}


@pytest.mark.parametrize("case", GOLDEN_BUDGETS)
def test_golden_splits_of_cifar10_jpeg(case: str) -> None:
    budget, expected, pool = GOLDEN_BUDGETS[case]
    split = make_split("cifar10_jpeg", CIFAR10_JPEG, 10, budget)
    assert (split.sha256, len(split.unlabeled)) == (expected, pool)


def by_hash(key: str, indices: list[int]) -> list[int]:
    return sorted(indices, key=lambda i: hashlib.sha256(f"{key}/{i}".encode()).hexdigest())


TOY = [label for label in range(4) for _ in range(100)]


def members(label: int) -> list[int]:
    return list(range(100 * label, 100 * label + 100))


def test_label_imbalance_by_hand() -> None:
    # 60 labels, 8 : 1 over 4 classes is 8 : 4 : 2 : 1, so 32, 16, 8 and 4.
    split = make_split("toy", TOY, 4, Budget(60, seed=2, bias="imbalance:8"))
    expected = [i for label, k in enumerate((32, 16, 8, 4)) for i in by_hash("2", members(label))[:k]]
    assert split.labeled == tuple(sorted(expected))
    assert split.unlabeled == tuple(range(400))
    assert split.bias == "imbalance:8"


def test_pool_imbalance_by_hand() -> None:
    split = make_split("toy", TOY, 4, Budget(8, unlabeled_bias="imbalance:1000"))
    pool = set(split.unlabeled)
    assert set(split.labeled) <= pool
    for label, k in enumerate((100, 10, 2, 2)):  # 1 and 0.1 of 100 would be fewer than the two labeled ones
        mine = [i for i in members(label) if i in split.labeled]
        others = [i for i in by_hash("0/unlabelled", members(label)) if i not in mine]
        assert {i for i in members(label) if i in pool} == set([*mine, *others][:k])
    assert split.bias == "unlabeled:imbalance:1000"


@pytest.mark.parametrize("ratio", [1, 5, 20, 100])
@pytest.mark.parametrize("labels", [10, 20, 40, 100, 250, 999])
def test_imbalance_keeps_the_budget_and_the_order(labels: int, ratio: int) -> None:
    wanted = apportion(labels, geometric("bias", f"imbalance:{ratio}", 10))
    assert sum(wanted) == labels and min(wanted) >= 1
    assert wanted == sorted(wanted, reverse=True)
    assert ratio > 1 or max(wanted) - min(wanted) <= 1
    if labels >= 50 * ratio:
        assert wanted[0] / wanted[-1] == pytest.approx(ratio, rel=0.3)


def test_mismatch_by_hand() -> None:
    classes = [*TOY[:300], *[-2] * 100]  # three classes of the task, and a hundred images of none
    for share, foreign in ((0.0, 0), (0.25, 25), (1.0, 100)):
        split = make_split("toy", classes, 3, Budget(6, mismatch=share))
        outside = [i for i in split.unlabeled if i >= 300]
        assert outside == sorted(by_hash("0/unlabelled", list(range(300, 400)))[:foreign])
        assert len(split.unlabeled) == max(100, foreign + 6)  # as many whatever the share, and the labeled ones
        assert set(split.labeled) <= set(split.unlabeled)
        assert all(classes[i] >= 0 for i in split.labeled)


def test_validation_is_taken_out_of_the_labels_and_the_pool() -> None:
    whole = make_split("toy", TOY, 4, Budget(42, seed=1))
    split = make_split("toy", TOY, 4, Budget(42, seed=1, fold="validation", validation=0.25))
    assert len(split.held_out) == 10 and len(split.labeled) == 32  # round(10.5) is 10
    assert tuple(sorted(split.labeled + split.held_out)) == whole.labeled
    assert not set(split.held_out) & set(split.unlabeled)
    assert len(split.unlabeled) == 390
    for label in range(4):
        mine = [i for i in whole.labeled if TOY[i] == label]
        held = [i for i in split.held_out if TOY[i] == label]
        assert set(held) == set(by_hash("1/validation", mine)[: len(held)]) and len(held) in (2, 3)
    on_test = make_split("toy", TOY, 4, Budget(42, seed=1, validation=0.25))
    assert (on_test.labeled, on_test.held_out) == (split.labeled, ())


def test_images_without_a_label_are_in_the_pool_only() -> None:
    classes = [0, 1, -1, 0, -1, 1, 0, 1]
    split = make_split("toy", classes, 2, Budget(4))
    assert split.unlabeled == tuple(range(8))
    assert not {2, 4} & set(split.labeled)
    assert make_split("toy", classes, 2, Budget(6)).labeled == (0, 1, 3, 5, 6, 7)


def test_all_labels_are_taken_as_they_are() -> None:
    classes = [0] * 7 + [1] * 3 + [-1] * 5
    assert make_split("toy", classes, 2, Budget(10)).labeled == tuple(range(10))
    assert make_split("toy", classes, 2, Budget("100pct")).labeled == tuple(range(10))
    assert make_split("toy", classes, 2, Budget("40pct")).labels == 4


def test_a_task_of_some_classes_counts_them_from_0() -> None:
    data = restrict(load_dataset("digits"), [7, 3])
    whole = load_dataset("digits")
    assert data.info.class_names == ("7", "3") and data.info.num_classes == 2
    assert len(data.train) == 1437 and len(data.test) == 38 + 30 == data.info.test_size
    assert (data.train.labels == 0).equal(whole.train.labels == 7)
    assert (data.train.labels == 1).equal(whole.train.labels == 3)
    assert int((data.train.labels == -2).sum()) == 1437 - int(
        ((whole.train.labels == 7) | (whole.train.labels == 3)).sum()
    )
    kept = (whole.test.labels == 7) | (whole.test.labels == 3)
    assert data.test.images.equal(whole.test.images[kept])
    assert data.test.labels.equal((whole.test.labels[kept] == 3).long())


@pytest.mark.parametrize("classes", [[3], [3, 3], [3, 10], [-1, 2]])
def test_wrong_tasks(classes: list[int]) -> None:
    with pytest.raises(InputError, match="classes="):
        restrict(load_dataset("digits"), classes)


@pytest.mark.parametrize(
    ("budget", "says"),
    [
        (Budget(40, bias="imbalanced:10"), "bias=imbalanced:10 is wrong"),
        (Budget(40, bias="imbalance:0.5"), "R of 1 or more"),
        (Budget(40, unlabeled_bias="10"), "unlabeled_bias=10 is wrong"),
        (Budget(300, bias="imbalance:100"), "asks for [0-9]+ images of class 0, toy has 100; give fewer"),
        (Budget(40, mismatch=0.5), "no image is of a class outside the task"),
        (Budget(40, fold="validation"), "give validation=0.2"),
        (Budget(40, validation=0.01), "rounds to 0 images; raise it"),
        (Budget(8, validation=0.9), "no label of class"),
        (Budget(4, validation=0.9), "one label of each class, so none can be held out"),
        (Budget(3, given=(1, 2, 400)), "position 400 does not exist"),
        (Budget(3, given=(1, 2, 2)), "listed twice"),
        (Budget(4, given=(1, 2, 3)), "lists 3 images, labels=4; give labels=3"),
        (Budget(3, given=(1, 2, 3)), "no image of class 1 is listed"),
        (Budget(400, fold="dev", given=tuple(range(400))), "is in the dev fold"),
        (Budget("101pct"), "give a number, or 1pct to 100pct"),
    ],
)
def test_wrong_budgets(budget: Budget, says: str) -> None:
    with pytest.raises(InputError, match=says):
        make_split("toy", TOY, 4, budget)


NAMES = ("train/cat/0000.jpg", "train/cat/0001.jpg", "train/dog/0000.jpg", "train/dog/0007.jpg")


@pytest.mark.parametrize(
    ("text", "names", "expected"),
    [
        ("[3, 1]", (), (3, 1)),
        ('{"distribution": [1.0, 1.0], "label": [5, 7]}', (), (5, 7)),  # FixMatch's
        ('{"labelled": [4, 2], "sha256": "x"}', (), (4, 2)),  # split.json
        ('{"labeled": [4, 2], "names": ["train/dog/0007.jpg"]}', NAMES, (3,)),
        ("3\n1\n\n", (), (3, 1)),
        ("10008_airplane.png airplane\n7_cat.png cat\n", (), (10008, 7)),  # Mean Teacher's and Label Propagation's
        ("train/cat/0001.jpg\n0007.jpg dog\n", NAMES, (1, 3)),
        ('{"names": ["/home/me/train/dog/0000.jpg"]}', NAMES, (2,)),  # whole paths, as they were once written
        ("/else/where/0007.jpg\n../train/cat/0000.jpg", NAMES, (3, 0)),
        ("2\n0\n", NAMES, (2, 0)),
        ("1\n0\n2\n", ("1", "2", "x/0"), (0, 2, 1)),  # a name counts more than a position
    ],
)
def test_given_lists(text: str, names: tuple[str, ...], expected: tuple[int, ...]) -> None:
    assert parse_given("split=x", text, names) == expected


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "lists no images"),
        ("{}", "lists no images"),
        ("cat/9.jpg", "'cat/9.jpg' is not among the training images"),
        ("0000.jpg", "'0000.jpg' matches several file names"),
        ("/else/where/0000.jpg", "'/else/where/0000.jpg' matches several file names"),
        ("10_cat.png cat", "'10_cat.png' is not among"),
    ],
)
def test_wrong_lists(text: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        parse_given("split=x", text, NAMES)


def test_a_given_list_is_the_split() -> None:
    split = make_split("toy", TOY, 4, Budget(4, given=(399, 5, 150, 250)))
    assert split.labeled == (5, 150, 250, 399) and split.bias == "given"
    assert split.sha256 == hashlib.sha256(b"[5,150,250,399]").hexdigest()


def test_names_of_the_labeled_files_are_written() -> None:
    split = make_split("toy", [0, 0, 1, 1], 2, Budget(2, given=(0, 3)))
    values = split.to_dict(NAMES)
    assert values["names"] == ["train/cat/0000.jpg", "train/dog/0007.jpg"]
    assert values["names_sha256"] == hashlib.sha256("\n".join(NAMES).encode()).hexdigest()
    assert "names" not in split.to_dict()


# --- The user's own pictures: what there is too little of is drawn in proportion, and labels only are held out

FEW = [0] * 12 + [1] * 3 + [2] + [-1] * 20
TITLES = ("cat", "dog", "tench")


@pytest.mark.parametrize(
    ("labels", "expected"), [(3, (1, 1, 1)), (9, (7, 1, 1)), ("50pct", (6, 1, 1)), (15, (11, 3, 1))]
)
def test_a_budget_that_a_class_has_too_few_for_is_drawn_in_proportion(
    labels: int | str, expected: tuple[int, ...]
) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        split = make_split("folder", FEW, 3, Budget(labels), TITLES)
    assert tuple(sum(FEW[i] == label for i in split.labeled) for label in range(3)) == expected
    assert split.unlabeled == tuple(range(36))
    said = " ".join(str(warning.message) for warning in caught)
    assert (f"cat {expected[0]}, dog {expected[1]}, tench 1" in said) == (labels != 3)


def test_all_labels_of_classes_of_any_size() -> None:
    assert get_recipe("cnn4.muscle_folder_all") == get_recipe("cnn4.muscle_folder_100pct")
    assert get_recipe("cnn4.muscle_folder_9", {"labels": "all"}).labels == "100pct"
    assert make_split("folder", FEW, 3, Budget("100pct"), TITLES).labeled == tuple(range(16))


@pytest.mark.parametrize(
    ("budget", "says"),
    [
        (Budget(200), "labels=200 is more than there are: .* 16 labeled images; give labels=16 or labels=all"),
        (Budget(2), "fewer than one per class: folder has 3"),
        (Budget(16, bias="imbalance:2"), "images of class (dog|tench), folder has [13]; give fewer"),
        (Budget(2, given=(0, 1)), "no image of class dog is listed"),
    ],
)
def test_wrong_budgets_name_the_class_and_what_works(budget: Budget, says: str) -> None:
    with pytest.raises(InputError, match=says):
        make_split("folder", FEW, 3, budget, TITLES)


def test_the_dev_fold_of_own_pictures_is_of_labels_alone_and_stratified() -> None:
    classes = [0] * 100 + [1] * 100 + [-1] * 20_000
    with pytest.warns(Notice, match="fold=dev holds out 40 of the 200 labels, so 160 are used"):
        split = make_split("folder", classes, 2, Budget(200, fold="dev"), ("a", "b"))
    assert len(split.held_out) == 40 and sum(classes[i] for i in split.held_out) == 20
    assert len(split.labeled) == 160 and len(split.unlabeled) == 20_160
    assert not set(split.held_out) & set(split.unlabeled)
    for label in (0, 1):
        mine = [i for i in range(200) if classes[i] == label]
        assert {i for i in split.held_out if classes[i] == label} == set(by_hash("folder/dev", mine)[:20])
    other = make_split("folder", classes, 2, Budget(20, seed=3, fold="dev"), ("a", "b"))
    assert other.held_out == split.held_out  # of neither seed nor budget
    assert make_split("folder", classes, 2, Budget("100pct", fold="dev")).labeled == split.labeled


def test_what_cannot_be_held_out_is_said() -> None:
    with pytest.warns(Notice, match="fold=dev: of tench nothing is held out"):
        split = make_split("folder", FEW, 3, Budget(6, fold="dev"), TITLES)
    assert sorted(FEW[i] for i in split.held_out) == [0, 0, 1]
    with pytest.warns(Notice, match=r"validation=0\.2: of tench nothing is held out"):
        split = make_split("folder", FEW, 3, Budget(16, fold="validation", validation=0.2), TITLES)
    assert 2 not in {FEW[i] for i in split.held_out} and len(split.held_out) == 3
    single = [0, 1, 2, 3] + [-1] * 20
    for budget, says in (
        (Budget(4, fold="dev"), "fold=dev: no class has two labels.*label more pictures, or add test pictures"),
        (Budget(4, fold="validation", validation=0.2), "one label of each class, so none can be held out"),
    ):
        with pytest.raises(InputError, match=says):
            make_split("folder", single, 4, budget)


def test_published_sets_are_not_drawn_in_proportion() -> None:
    with pytest.raises(InputError, match=r"labels=9 asks for [0-9]+ images of class [12], toy has"):
        make_split("toy", FEW, 3, Budget(9))
