"""Wrong labels: which, how many, and who sees them."""

from __future__ import annotations

import doctest
from pathlib import Path

import pytest
import torch

from muscle_zoo import InputError, get_recipe
from muscle_zoo.data import Batches, label_noise
from muscle_zoo.data.label_noise import with_label_noise
from muscle_zoo.engine.build import prepare_data
from muscle_zoo.engine.run_folder import RunFolder
from muscle_zoo.engine.trainer import Trainer
from muscle_zoo.methods import PseudoLabels, create_method
from tests.test_engine import ON_CPU, final_state, run, short

LABELS = torch.arange(500) % 10
LABELED = range(0, 500, 5)  # of the classes 0 and 5
GOLDEN = {20: 6, 65: 9, 85: 3, 110: 3, 150: 3, 185: 3, 360: 1, 435: 4, 480: 1, 490: 3}


def test_the_example_runs() -> None:
    results = doctest.testmod(label_noise)
    assert results.attempted and not results.failed


@pytest.mark.parametrize("share", [0.1, 0.4, 1.0])
def test_a_share_of_the_labels_is_wrong(share: float) -> None:
    noisy = with_label_noise(LABELS, LABELED, 10, f"symmetric:{share}", seed=3)
    wrong = (noisy != LABELS).nonzero().flatten().tolist()
    assert len(wrong) == round(100 * share) and set(wrong) <= set(LABELED) and 0 <= noisy.min() <= noisy.max() < 10
    assert len(set(noisy[wrong].tolist())) > 5  # any other class
    smaller = (with_label_noise(LABELS, LABELED, 10, "symmetric:.05", seed=3) != LABELS).nonzero().flatten().tolist()
    assert set(smaller) <= set(wrong)
    others = with_label_noise(LABELS, LABELED, 10, f"asymmetric:{share}", seed=3)
    assert others[wrong].equal((LABELS[wrong] + 1) % 10) and (others != LABELS).sum() == len(wrong)
    assert not with_label_noise(LABELS, LABELED, 10, f"symmetric:{share}", seed=4).equal(noisy)


def test_the_draw_is_the_same_on_every_machine() -> None:
    noisy = with_label_noise(LABELS, LABELED, 10, "symmetric:0.1", seed=0)
    assert {i: int(noisy[i]) for i in (noisy != LABELS).nonzero().flatten().tolist()} == GOLDEN


@pytest.mark.parametrize("noise", ["symmetric", "symmetric:0", "symmetric:1.5", "sym:0.4", "asymmetric:nan", ""])
def test_noise_that_is_written_otherwise(noise: str) -> None:
    with pytest.raises(InputError, match=f"^label_noise={noise} is wrong; write none, symmetric:R"):
        with_label_noise(LABELS, LABELED, 10, noise, seed=0)
    with pytest.raises(InputError, match="1 class leaves no wrong label"):
        with_label_noise(LABELS * 0, LABELED, 1, "symmetric:0.4", seed=0)


def test_the_method_sees_wrong_labels_and_the_evaluation_right_ones() -> None:
    name = "cnn4.neighbor_consistency_digits_40"
    clean, noisy = (
        prepare_data(get_recipe(name, {"fold": "dev", "label_noise": noise})) for noise in ("none", "symmetric:0.4")
    )
    assert clean.split == noisy.split  # the right labels decide which images are labeled
    assert clean.evaluation.labels.equal(noisy.evaluation.labels)
    labeled = torch.zeros(len(clean.dataset.train), dtype=torch.bool)
    labeled[list(clean.split.labeled)] = True
    wrong = clean.dataset.train.labels != noisy.dataset.train.labels
    assert int(wrong.sum()) == 16 and not (wrong & ~labeled).any()
    recipe = get_recipe(name, {"fold": "dev"})
    views = create_method(recipe.method, recipe.options).views
    batches = [Batches(recipe, d.dataset.train, d.dataset.info, d.split, views).at(0) for d in (clean, noisy)]
    assert batches[0].inputs["x_weak"].equal(batches[1].inputs["x_weak"])
    assert not batches[0].labels.equal(batches[1].labels)
    # Which of the labeled images they are of, for what is kept for each of them.
    train = noisy.dataset.train.labels[torch.tensor(noisy.split.labeled)]
    assert train[batches[1].labeled_rows].equal(batches[1].labels) and len(set(batches[1].labeled_rows.tolist())) == 32


def test_a_run_with_noise_is_another(tmp_path: Path) -> None:
    states = [
        final_state(run(short("neighbor_consistency", steps=2, label_noise=noise), tmp_path / noise[:3])[0])
        for noise in ("none", "symmetric:0.4")
    ]
    assert any(not states[0][key].equal(states[1][key]) for key in states[0])


def test_the_log_compares_pseudo_labels_with_the_right_classes(tmp_path: Path) -> None:
    recipe = get_recipe("cnn4.fixmatch_digits_all", {"fold": "dev", "label_noise": "symmetric:0.9", "batch_size": 16})
    data = prepare_data(recipe)
    assert data.true_labels is not None and prepare_data(get_recipe(recipe.name)).true_labels is None
    trainer = Trainer(recipe, data, ON_CPU.accelerator(RunFolder(tmp_path)))
    batch = trainer.batches.at(0)
    right = data.true_labels[batch.indices]
    assert (right != data.dataset.train.labels[batch.indices]).float().mean() > 0.8
    trainer.method.pseudo_labels = lambda outputs, batch: PseudoLabels(right, torch.ones_like(right, dtype=torch.bool))
    row = trainer.row(*trainer.step(0, batch, count_right=True))
    assert row["pseudo_label_accuracy"] == 1.0
