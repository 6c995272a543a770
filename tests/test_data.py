from __future__ import annotations

import hashlib
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from muscle_zoo import InputError, get_recipe
from muscle_zoo.data import Batches, load_dataset, make_split, normalise
from muscle_zoo.data.augment import Affine, Contrast, Cutout, parse_policy
from muscle_zoo.data.batches import draws, stream_positions
from muscle_zoo.data.randaugment import RandAugment
from muscle_zoo.data.splits import dev_fold, indices_sha256
from muscle_zoo.methods import create_method
from muscle_zoo.methods.contract import View


def test_digits_are_the_ones_that_were_shipped() -> None:
    data = load_dataset("digits")
    assert data.train.images.shape == (1437, 1, 8, 8)
    assert data.test.images.shape == (360, 1, 8, 8)
    assert (len(data.train), len(data.test)) == (data.info.train_size, data.info.test_size)
    assert data.train.images.dtype == torch.uint8
    digest = {
        part: hashlib.sha256(getattr(data, part).images.numpy().tobytes()).hexdigest() for part in ("train", "test")
    }
    assert digest["train"].startswith(TRAIN_SHA256)
    assert digest["test"].startswith(TEST_SHA256)
    assert data.train.labels.bincount().tolist() == [144, 146, 140, 153, 154, 145, 136, 141, 144, 134]
    assert data.test.labels.bincount().tolist() == [34, 36, 37, 30, 27, 37, 45, 38, 30, 46]
    scaled = data.train.images.double() / 255
    assert data.info.mean[0] == pytest.approx(scaled.mean().item(), abs=5e-5)
    assert data.info.std[0] == pytest.approx(scaled.std().item(), abs=5e-5)


TRAIN_SHA256 = "33c316ab1cf190fd"
TEST_SHA256 = "a38ab6adae62c445"

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


def digits_split(labels: int, seed: int, fold: str = "test"):
    return make_split("digits", load_dataset("digits").train.labels.tolist(), 10, labels, seed, fold)


@pytest.mark.parametrize(("labels", "seed", "fold"), list(GOLDEN_SPLITS))
def test_golden_splits(labels: int, seed: int, fold: str) -> None:
    assert digits_split(labels, seed, fold).sha256 == GOLDEN_SPLITS[labels, seed, fold]


def test_the_dev_fold_is_pinned() -> None:
    fold = dev_fold("digits", 1437)
    assert len(fold) == 287
    assert indices_sha256(fold) == "241888c8590372ad95fcc606d4079adc493d8b67951b461e1a146918447a4fd7"


def test_a_split_by_hand() -> None:
    classes = [0, 1] * 6
    split = make_split("toy", classes, 2, 4, 3, "test")
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


def test_streams_use_every_image_equally_often() -> None:
    seen = torch.cat([stream_positions(0, "labelled", step, 32, 10) for step in range(10)])
    assert seen.bincount(minlength=10).tolist() == [32] * 10
    epochs = seen[:20].view(2, 10)
    assert epochs.sort(dim=1).values.tolist() == [list(range(10))] * 2
    assert epochs[0].tolist() != epochs[1].tolist()


def test_draws_are_uniform_and_differ() -> None:
    weak, strong, second = View("unlabelled", "weak"), View("unlabelled", "strong"), View("unlabelled", "weak", 1)
    base = draws(0, 0, weak, 4000, 2)
    assert base.min() >= 0 and base.max() < 1
    assert base.mean().item() == pytest.approx(0.5, abs=0.02)
    for other in (
        draws(0, 0, strong, 4000, 2),
        draws(0, 0, second, 4000, 2),
        draws(0, 1, weak, 4000, 2),
        draws(1, 0, weak, 4000, 2),
    ):
        assert torch.corrcoef(torch.stack([base.flatten(), other.flatten()]))[0, 1].abs() < 0.05
    assert draws(0, 0, weak, 4000, 2).equal(base)


def batches(method: str, rank: int = 0, world: int = 1, **overrides: object) -> Batches:
    recipe = get_recipe(f"cnn4.{method}_digits_10", overrides)
    data = load_dataset("digits")
    split = make_split("digits", data.train.labels.tolist(), 10, recipe.labels, recipe.seed, "test")
    views = create_method(recipe.method, recipe.options).views
    return Batches(recipe, data.train, data.info, split, views, rank, world)


def test_two_processes_see_what_one_sees() -> None:
    whole = batches("muscle_fixmatch").at(5)
    halves = [batches("muscle_fixmatch", rank, 2).at(5) for rank in (0, 1)]
    for name, images in whole.inputs.items():
        assert torch.cat([half.inputs[name] for half in halves]).equal(images), name
    assert torch.cat([half.labels for half in halves]).equal(whole.labels)
    assert torch.cat([half.indices for half in halves]).equal(whole.indices)


def test_a_batch_is_a_function_of_seed_and_step() -> None:
    first, again = batches("fixmatch"), batches("fixmatch")
    again.at(0)  # what came before does not matter
    assert first.at(3).inputs["u_strong"].equal(again.at(3).inputs["u_strong"])
    assert not first.at(3).inputs["u_strong"].equal(first.at(4).inputs["u_strong"])
    assert not first.at(3).inputs["u_strong"].equal(batches("fixmatch", seed=1).at(3).inputs["u_strong"])


def test_a_batch_holds_labelled_images_with_their_labels_and_pairs_of_views() -> None:
    made = batches("fixmatch", weak="none", strong="none")
    batch = made.at(2)
    train = made.images
    assert batch.inputs["x_weak"].shape == (32, 1, 8, 8)
    assert batch.inputs["u_weak"].shape == (128, 1, 8, 8)
    assert batch.inputs["u_weak"].equal(batch.inputs["u_strong"])
    assert batch.inputs["u_weak"].allclose(normalise(train.images[batch.indices], made.info))
    pool = normalise(train.images[list(made.split.labelled)], made.info).flatten(1)
    position = torch.cdist(batch.inputs["x_weak"].flatten(1), pool).argmin(dim=1)
    assert train.labels[torch.tensor(made.split.labelled)[position]].equal(batch.labels)


def test_the_control_gets_no_unlabelled_image() -> None:
    batch = batches("supervised").at(0)
    assert list(batch.inputs) == ["x_weak"]
    assert len(batch.indices) == 0


def test_a_batch_size_that_does_not_divide() -> None:
    with pytest.raises(InputError, match=r"batch_size=32 does not divide by 3 processes; give a multiple of 3"):
        batches("fixmatch", world=3)
    with pytest.raises(InputError, match="mu=0"):
        batches("fixmatch", mu=0)


def naive_affine(image: Tensor, degrees: float, shift_x: float, shift_y: float, scale: float) -> Tensor:
    """One grey image, pixel by pixel: where in the input does each output pixel come from?"""
    height, width = image.shape
    out = torch.zeros_like(image)
    angle = math.radians(degrees)
    for row in range(height):
        for column in range(width):
            x, y = column + 0.5 - width / 2, row + 0.5 - height / 2
            u = (x * math.cos(angle) + y * math.sin(angle)) / scale + shift_x * width + width / 2 - 0.5
            v = (-x * math.sin(angle) + y * math.cos(angle)) / scale + shift_y * height + height / 2 - 0.5
            for r in (math.floor(v), math.floor(v) + 1):
                for c in (math.floor(u), math.floor(u) + 1):
                    if 0 <= r < height and 0 <= c < width:
                        out[row, column] += image[r, c] * (1 - abs(v - r)) * (1 - abs(u - c))
    return out


@pytest.mark.parametrize("shape", [(8, 8), (7, 12)])
def test_affine_against_loops(shape: tuple[int, int]) -> None:
    images = torch.rand(6, 1, *shape, generator=torch.Generator().manual_seed(0))
    u = torch.rand(6, 4, generator=torch.Generator().manual_seed(1))
    out = Affine(30, 0.2, 0.25)(images, u)
    for image, (a, s, x, y), made in zip(images[:, 0], (2 * u - 1).tolist(), out[:, 0], strict=True):
        assert made.allclose(naive_affine(image, 30 * a, 0.2 * x, 0.2 * y, 1 + 0.25 * s), atol=1e-5)


def test_affine_in_the_middle_of_its_range_changes_nothing() -> None:
    images = torch.rand(3, 2, 9, 6)
    assert Affine(30, 0.2, 0.25)(images, torch.full((3, 4), 0.5)).allclose(images, atol=1e-5)


def test_contrast_scales_and_clips() -> None:
    images = torch.tensor([0.2, 0.9]).view(1, 1, 1, 2).repeat(2, 1, 1, 1)
    out = Contrast(0.5)(images, torch.tensor([[0.0], [1.0]]))
    assert out[:, 0, 0].allclose(torch.tensor([[0.1, 0.45], [0.3, 1.0]]))


def test_cutout_blacks_out_one_square() -> None:
    out = Cutout(0.5)(torch.ones(2, 3, 8, 8), torch.tensor([[0.5, 0.5], [0.0, 1.0]]))
    expected = torch.ones(2, 3, 8, 8)
    expected[0, :, 2:6, 2:6] = 0
    expected[1, :, :2, 6:] = 0
    assert out.equal(expected)


def test_randaugment_is_an_operation_like_the_others() -> None:
    policy = parse_policy("strong", "randaugment(2)+cutout(0.5)")
    images, u = torch.rand(9, 3, 16, 16), torch.rand(9, policy.draws)
    assert policy.draws == 3 * 2 + 2
    assert policy(images, u).shape == images.shape
    assert policy(images, u).equal(Cutout(0.5)(RandAugment(2)(images, u[:, :6]), u[:, 6:]))


def test_policies_apply_their_operations_in_order_with_their_own_numbers() -> None:
    policy = parse_policy("strong", "contrast(0.5)+cutout(0.5)")
    u = torch.tensor([[1.0, 0.5, 0.5]])
    images = torch.full((1, 1, 8, 8), 0.4)
    assert policy.draws == 3
    assert policy(images, u).equal(Cutout(0.5)(Contrast(0.5)(images, u[:, :1]), u[:, 1:]))
    assert parse_policy("weak", "none")(images, torch.empty(1, 0)).equal(images)
    assert F.mse_loss(policy(images, u), images) > 0


@pytest.mark.parametrize(
    "text",
    [
        "afine(1,2,3)",
        "affine(a,b,c)",
        "affine(1,2,3,4,5)",
        "affine(30,,0.25)",
        "cutout(nan)",
        "randaugment(1.5)",
        "affine(1",
        "",
        "cutout(0.4)+",
        "none+cutout",
    ],
)
def test_wrong_policies(text: str) -> None:
    with pytest.raises(InputError, match="strong="):
        parse_policy("strong", text)
