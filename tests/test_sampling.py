"""Labels that are not balanced: what a step sees where each class is to be seen equally often."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from muscle_zoo import InputError, get_recipe
from muscle_zoo.auto.choices import Choices
from muscle_zoo.auto.plan import make_plan
from muscle_zoo.data import Batches, DataSet, Split, load_dataset
from muscle_zoo.data.batches import balanced_positions, seeded_generator
from muscle_zoo.methods import METHODS, Batch, RunContext, create_method, takes_partly_labeled

from .pictures import make_folder, picture

MEMBERS = [[0, 2, 3, 5, 6, 8, 9], [1, 7], [4]]  # of ten labeled images, by class


@pytest.fixture(scope="module")
def digits() -> DataSet:
    return load_dataset("digits")


def batches(digits: DataSet, sampling: str, rank: int = 0, world: int = 1, method: str = "fixmatch") -> Batches:
    """Of 1, 2, ..., 10 labeled images of the ten digits."""
    recipe = get_recipe(f"cnn4.{method}_digits_40", {"sampling": sampling, "seed": 3})
    labels = digits.train.labels
    labeled = [i for c in range(10) for i in (labels == c).nonzero().flatten()[: c + 1].tolist()]
    split = Split("digits", 55, 3, "test", tuple(sorted(labeled)), tuple(range(len(labels))), ())
    return Batches(recipe, digits.train, digits.info, split, create_method(method, recipe.options).views, rank, world)


def naive_stream(seed: int, length: int) -> list[int]:
    """With a state: a heap of classes and one of each class's images, each filled and mixed anew when it is empty."""

    def mixed(things: list[int], *key: object) -> list[int]:
        return [things[i] for i in torch.randperm(len(things), generator=seeded_generator(seed, *key)).tolist()]

    classes: list[int] = []
    images: dict[int, list[int]] = {number: [] for number in range(len(MEMBERS))}
    filled: Counter[object] = Counter()
    stream = []
    while len(stream) < length:
        if not classes:
            classes = mixed(list(range(len(MEMBERS))), "classes", filled["classes"])
            filled["classes"] += 1
        number = classes.pop(0)
        if not images[number]:
            images[number] = mixed(MEMBERS[number], "class", number, filled[number])
            filled[number] += 1
        stream.append(images[number].pop(0))
    return stream


def test_balanced_positions_are_those_of_a_loop_that_keeps_what_is_left() -> None:
    stream = naive_stream(5, 16 * 4)
    for step in reversed(range(16)):  # of any step, whatever came before
        assert balanced_positions(5, step, 4, MEMBERS).tolist() == stream[4 * step : 4 * step + 4]
    assert naive_stream(6, 64) != stream
    seen = Counter(torch.cat([balanced_positions(5, step, 4, MEMBERS) for step in range(21)]).tolist())  # 28 rounds
    assert seen == {**dict.fromkeys(MEMBERS[0], 4), **dict.fromkeys(MEMBERS[1], 14), 4: 28}


def test_a_step_holds_each_class_equally_often_and_two_processes_see_what_one_sees(digits: DataSet) -> None:
    balanced = batches(digits, "balanced")
    sizes = torch.stack([torch.bincount(balanced.at(step).labels, minlength=10) for step in range(5)])
    assert sizes.min() >= 2 and sizes.max() <= 4  # of 32 images: a round may begin and end in the midst of a step
    assert sizes.sum(dim=0).tolist() == [16] * 10
    whole = balanced.at(1)
    halves = [batches(digits, "balanced", rank, 2).at(1) for rank in (0, 1)]
    assert torch.cat([half.labels for half in halves]).equal(whole.labels)
    assert digits.train.labels[balanced.pools["labeled"][whole.labeled_rows]].equal(whole.labels)
    plain = batches(digits, "oversampled")
    counts = torch.bincount(torch.cat([plain.at(step).labels for step in range(55)]), minlength=10)
    assert counts.tolist() == [32 * (c + 1) for c in range(10)]  # as often as there are labels of it
    # The unlabeled images and the draws of all views are those of before.
    assert whole.indices.equal(plain.at(1).indices) and whole.inputs["u_strong"].equal(plain.at(1).inputs["u_strong"])


def test_a_recipe_of_before_keeps_its_hash_and_what_cannot_be_balanced_is_said(digits: DataSet) -> None:
    recipe = get_recipe("cnn4.fixmatch_digits_40")
    assert get_recipe(recipe.name, {"sampling": "oversampled"}).sha256 == recipe.sha256
    assert replace(recipe, sampling="balanced").sha256 != recipe.sha256
    for name, value, message in (
        (recipe.name, "balancd", "sampling=balancd is out of range; did you mean 'balanced'"),
        (
            "tf_efficientnet_lite0.logistic_digits_40_frozen",
            "balanced",
            "sampling=balanced .*logistic takes no steps: leave it out",
        ),
    ):
        with pytest.raises(InputError, match=message):
            get_recipe(name, {"sampling": value})
    with pytest.raises(InputError, match="sampling=balanced: simclr looks at no labeled images; leave it out"):
        batches(digits, "balanced", method="simclr")


def test_own_pictures_of_unequal_classes_are_told_of_it(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "pets", labeled=2, unlabeled=3, test=0)
    for number in range(8):
        picture(folder / "labeled" / "cat" / f"more{number}.png", "cat", 50 + number)
    backbone = "cnn4.muscle_digits_10"
    noted = [text for text in make_plan(folder, Choices(backbone=backbone)).warnings if "sampling=balanced" in text]
    assert len(noted) == 1
    asked = make_plan(folder, Choices(backbone=backbone, overrides={"sampling": "balanced"}))
    assert not any("sampling" in text for text in asked.warnings)
    sampling = {method: recipe.sampling for method, recipe in asked.recipes.items()}
    assert sampling["muscle"] == "balanced" and sampling["logistic"] == "oversampled"  # which takes no steps


def test_each_image_of_the_pool_is_as_likely_and_only_those_with_a_label_have_one(digits: DataSet) -> None:
    uniform = batches(digits, "uniform")
    n, labeled = len(digits.train), set(uniform.split.labeled)
    seen: Counter[int] = Counter()
    known = 0
    for step in range(-(-2 * n // 32)):  # the pool twice, and a few more
        positions, batch = uniform.positions(step)["labeled"], uniform.at(step) if step < 8 else None
        seen.update(positions.tolist())
        if batch is None:
            continue
        assert batch.partly_labeled and batch.inputs["x_weak"].shape[0] == len(batch.labels) == 32
        for position, label, row in zip(
            positions.tolist(), batch.labels.tolist(), batch.labeled_rows.tolist(), strict=True
        ):
            assert label == (int(digits.train.labels[position]) if position in labeled else -1)
            assert row == (uniform.split.labeled.index(position) if position in labeled else -1)
            known += label >= 0
    assert known > 0 and len(seen) == n and set(seen.values()) <= {2, 3}
    halves = [batches(digits, "uniform", rank, 2).at(1) for rank in (0, 1)]
    whole = uniform.at(1)
    assert torch.cat([half.labels for half in halves]).equal(whole.labels)
    assert whole.indices.equal(batches(digits, "oversampled").at(1).indices)


PARTLY = [name for name in METHODS if takes_partly_labeled(name)]


@pytest.mark.parametrize("name", PARTLY)
def test_a_batch_with_hidden_labels_is_one_of_the_other_images(name: str) -> None:
    """Whatever stands in rows without a label counts for nothing, and a batch without any label is no NaN."""
    torch.manual_seed(0)
    logits = {view: torch.randn(6, 4, dtype=torch.float64) for view in ("x_weak", "u_weak", "u_strong", "u_second")}
    logits |= {"u_adversarial": torch.randn(6, 4, dtype=torch.float64)}
    targets = {
        "teacher": torch.rand(6, 4, dtype=torch.float64),
        "ensemble": torch.rand(6, 4, dtype=torch.float64),
        "seen": torch.ones(6),
    }
    targets["thresholds"] = torch.full((4,), 0.4, dtype=torch.float64)

    def terms(labels: list[int], rows: list[int], partly: bool) -> dict[str, torch.Tensor]:
        method = create_method(name, context=RunContext(images=50, num_classes=4)).double()
        outputs = {**logits, "x_weak": logits["x_weak"][rows].clone().requires_grad_()}
        batch = Batch({}, torch.tensor(labels), torch.arange(6), targets, partly_labeled=partly)
        found = method.loss(outputs, batch, 0)
        found["loss"].backward()
        return {**found, "gradient": outputs["x_weak"].grad}

    some, alone = terms([1, -1, 3, -1], [0, 1, 2, 3], True), terms([1, 3], [0, 2], False)
    assert some["loss"].item() == pytest.approx(alone["loss"].item(), rel=1e-12)
    assert some["gradient"][[0, 2]].allclose(alone["gradient"]) and not some["gradient"][[1, 3]].any()
    none = terms([-1, -1], [0, 1], True)
    assert none["loss"].isfinite() and none["cross_entropy"] == 0 and not none["gradient"].any()


def test_methods_that_need_every_label_refuse_uniform_sampling() -> None:
    assert {"supervised", "fixmatch", "flexmatch", "mean_teacher"} <= set(PARTLY)
    for name in ("mixmatch", "simmatch", "muscle_comatch"):
        with pytest.raises(InputError, match=f"sampling=uniform .*{name} needs the label of every labeled image"):
            get_recipe(f"cnn4.{name}_digits_40", {"sampling": "uniform"})
