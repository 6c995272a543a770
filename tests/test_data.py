from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from muscle_zoo import InputError, get_recipe
from muscle_zoo.data import Batches, Budget, DataConfig, at_size, dataset_names, load_dataset, make_split, normalize
from muscle_zoo.data.batches import MOST_AHEAD, draw_random_numbers, stream_positions
from muscle_zoo.data.datasets import LOADERS
from muscle_zoo.data.held_out import dev_fold
from muscle_zoo.data.machine import free_memory
from muscle_zoo.engine.build import prepare_data
from muscle_zoo.methods import create_method
from muscle_zoo.methods.base import View
from muscle_zoo.recipes.defaults import DATASETS
from tests.pictures import make_folder


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


def test_the_tables_of_data_sets_agree() -> None:
    assert set(LOADERS) == set(DATASETS) == set(dataset_names())


@pytest.mark.parametrize("name", ["folder:x", "digits:x", "synthetics", "", "digits/"])
def test_nothing_but_the_name_itself_is_loaded(name: str) -> None:
    with pytest.raises(InputError, match=f"dataset={name} is unknown"):
        load_dataset(name)


def test_streams_use_every_image_equally_often() -> None:
    seen = torch.cat([stream_positions(0, "labeled", step, 32, 10) for step in range(10)])
    assert seen.bincount(minlength=10).tolist() == [32] * 10
    epochs = seen[:20].view(2, 10)
    assert epochs.sort(dim=1).values.tolist() == [list(range(10))] * 2
    assert epochs[0].tolist() != epochs[1].tolist()


def test_draws_are_uniform_and_differ() -> None:
    weak, strong, second = View("unlabeled", "weak"), View("unlabeled", "strong"), View("unlabeled", "weak", 1)
    base = draw_random_numbers(0, 0, weak, 4000, 2)
    assert base.min() >= 0 and base.max() < 1
    assert base.mean().item() == pytest.approx(0.5, abs=0.02)
    for other in (
        draw_random_numbers(0, 0, strong, 4000, 2),
        draw_random_numbers(0, 0, second, 4000, 2),
        draw_random_numbers(0, 1, weak, 4000, 2),
        draw_random_numbers(1, 0, weak, 4000, 2),
    ):
        assert torch.corrcoef(torch.stack([base.flatten(), other.flatten()]))[0, 1].abs() < 0.05
    assert draw_random_numbers(0, 0, weak, 4000, 2).equal(base)


def batches(method: str, rank: int = 0, world: int = 1, **overrides: object) -> Batches:
    recipe = get_recipe(f"cnn4.{method}_digits_10", overrides)
    data = load_dataset("digits")
    split = make_split("digits", data.train.labels.tolist(), 10, Budget(recipe.labels, recipe.seed))
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


@pytest.mark.parametrize(
    ("method", "overrides"),
    [
        ("muscle_fixmatch", {}),
        ("mixmatch", {"mu": 1}),
        ("fixmatch", {"weak": "shift(0.2)+flip", "strong": "crop(0.3)+randaugment(2)+cutout(0.5)", "mu": 7}),
        ("supervised", {"sampling": "uniform"}),
    ],
)
@pytest.mark.parametrize("world", [1, 2])
def test_views_that_are_made_together_are_those_of_each_step(method: str, overrides: dict, world: int) -> None:
    made = batches(method, world - 1, world, **overrides)
    assert made.ahead == MOST_AHEAD
    for step, batch in enumerate(made.steps(3, 3 + MOST_AHEAD + 2), 3):
        alone = made.at(step)
        assert all(batch.inputs[name].equal(alone.inputs[name]) for name in alone.inputs)
        assert batch.labels.equal(alone.labels) and batch.indices.equal(alone.indices)
        assert batch.labeled_rows.equal(alone.labeled_rows)
    assert step == 3 + MOST_AHEAD + 1


def test_views_of_large_images_are_made_step_by_step() -> None:
    made = batches("fixmatch")
    made.info = replace(made.info, input_size=(3, 224, 224))
    assert made.ahead == 1


def test_a_batch_holds_labeled_images_with_their_labels_and_pairs_of_views() -> None:
    made = batches("fixmatch", weak="none", strong="none")
    batch = made.at(2)
    train = made.images
    assert batch.inputs["x_weak"].shape == (32, 1, 8, 8)
    assert batch.inputs["u_weak"].shape == (128, 1, 8, 8)
    assert batch.inputs["u_weak"].equal(batch.inputs["u_strong"])
    assert batch.inputs["u_weak"].allclose(normalize(train.images[batch.indices], made.info))
    pool = normalize(train.images[list(made.split.labeled)], made.info).flatten(1)
    position = torch.cdist(batch.inputs["x_weak"].flatten(1), pool).argmin(dim=1)
    assert train.labels[torch.tensor(made.split.labeled)[position]].equal(batch.labels)


def test_the_positions_of_a_step_are_worked_out_once(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = [batches("fixmatch").at(step) for step in range(3)]
    steps: list[tuple[str, int]] = []

    def watch(seed: int, stream: str, step: int, *sizes: int) -> torch.Tensor:
        steps.append((stream, step))
        return stream_positions(seed, stream, step, *sizes)

    monkeypatch.setattr("muscle_zoo.data.batches.stream_positions", watch)
    for step, batch in enumerate(batches("fixmatch").steps(0, 3)):
        assert batch.indices.equal(whole[step].indices) and batch.labels.equal(whole[step].labels)
    assert sorted(steps) == [(stream, step) for stream in ("labeled", "unlabeled") for step in range(3)]


def test_held_out_images_of_no_class_of_the_task_are_not_evaluated() -> None:
    recipe = get_recipe("cnn4.fixmatch_digits_9", {"classes": "3+4+5", "fold": "dev"})
    data, whole = prepare_data(recipe), load_dataset("digits").train
    chosen = [i for i in dev_fold("digits", 1437) if whole.labels[i] in (3, 4, 5)]
    assert 0 < len(chosen) < 150 and data.evaluation.labels.equal(whole.labels[chosen] - 3)
    assert data.evaluation.images.equal(whole.images[chosen])


def test_the_control_gets_no_unlabeled_image() -> None:
    batch = batches("supervised").at(0)
    assert list(batch.inputs) == ["x_weak"]
    assert len(batch.indices) == 0


def test_a_batch_size_that_does_not_divide() -> None:
    with pytest.raises(InputError, match=r"batch_size=32 is not divisible by 3 processes; give a multiple of 3"):
        batches("fixmatch", world=3)
    with pytest.raises(InputError, match="mu=0"):
        batches("fixmatch", mu=0)


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(("limit", "free"), [("1000", 1000 - 700 + 200), ("600", 100), ("100", 0), (None, 10**6)])
def test_a_container_may_have_less_than_the_machine(
    version: int, limit: str | None, free: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=10**6))
    assert free_memory(tmp_path) == 10**6
    folder, names = (tmp_path / "memory", ("limit_in_bytes", "usage_in_bytes")) if version == 1 else (tmp_path, ())
    limited, used = names or ("max", "current")
    folder.mkdir(exist_ok=True)
    (folder / f"memory.{limited}").write_text(f"{limit or ('max' if version == 2 else 2**63)}\n")
    (folder / f"memory.{used}").write_text("700\n")
    droppable = "total_inactive_file" if version == 1 else "inactive_file"
    (folder / "memory.stat").write_text(f"anon 500\n{droppable} 200\n")
    assert free_memory(tmp_path) == free


def test_small_images_are_enlarged_when_they_are_normalized_as_pillow_does_it() -> None:
    small, large = load_dataset("digits"), load_dataset("digits", image_size=40)
    assert large.train.images.equal(small.train.images) and large.info.input_size == (1, 40, 40)
    info = replace(large.info, mean=(0.0,), std=(1 / 255,))
    images = normalize(small.train.images[:20], info)
    assert images.shape == (20, 1, 40, 40)
    for image, enlarged in zip(small.train.images[:20], images, strict=True):
        by_pillow = Image.fromarray(image[0].numpy()).resize((40, 40), Image.Resampling.BICUBIC)
        assert (enlarged[0] - torch.from_numpy(np.array(by_pillow))).abs().max() <= 1.5  # it rounds twice
    whole = normalize(small.train.images[:20].float() / 255, info)
    assert torch.allclose(whole, images, atol=1e-3)
    assert normalize(small.train.images[:20], small.info).shape == (20, 1, 8, 8)


def test_what_was_loaded_before_gets_the_recipes_size() -> None:
    recipe, small = get_recipe("cnn4.muscle_digits_10", {"image_size": 16}), load_dataset("digits")
    for loaded in (small, load_dataset("digits", image_size=12)):
        assert prepare_data(recipe, loaded=loaded).dataset.info.input_size == (1, 16, 16)
        own = prepare_data(replace(recipe, image_size=0), loaded=loaded).dataset
        assert own.info.input_size == tuple(own.train.images.shape[1:]) == (1, 8, 8)


def test_pictures_that_were_read_at_another_size_are_refused(tmp_path: Path) -> None:
    source = DataConfig(make_folder(tmp_path, unlabeled=2))
    recipe = get_recipe("cnn4.muscle_folder_4", {"image_size": 16})
    loaded = load_dataset("folder", source)
    assert prepare_data(replace(recipe, image_size=0), source, loaded).dataset.info.input_size == (3, 24, 24)
    with pytest.raises(InputError, match=r"image_size=16: .* as 24x24 and not as 16x16; load .*image_size=16"):
        prepare_data(recipe, source, loaded)
    photographs = replace(loaded, info=replace(loaded.info, name="mini_imagenet"))
    with pytest.raises(InputError, match=r"image_size=0: .* of mini_imagenet were read as 24x24 and not as 84"):
        at_size(photographs, 0)
