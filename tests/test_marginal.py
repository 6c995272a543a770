"""The shares of the classes that the mutual-information term favors: equal ones, or those of the labels."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from muscle_zoo import InputError, get_recipe
from muscle_zoo.engine.build import Data, prepare_data
from muscle_zoo.engine.options import RunOptions
from muscle_zoo.engine.run_folder import RunFolder
from muscle_zoo.engine.trainer import Trainer
from muscle_zoo.losses import MutualInformationLoss, mutual_information
from muscle_zoo.methods import Muscle, RunContext, create_method
from muscle_zoo.methods.muscle import label_shares
from muscle_zoo.methods.supervised import Supervised
from muscle_zoo.recipes import Recipe
from muscle_zoo.recipes.recipe import changes
from tests.test_frozen import embedded, head_recipe
from tests.test_methods import random_outputs
from tests.test_mutual_information import naive_joint, one_hot, random_logits, random_probabilities

UNBALANCED = {"bias": "imbalance:10", "unlabeled_bias": "imbalance:10"}
SHARES = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)


def naive_term(p: np.ndarray, q: np.ndarray, lambda_: float, prior: np.ndarray) -> float:
    """``-(2 lambda - 1) KL(m || prior) - H(b | a)``, of the loops' joint."""
    joint = naive_joint(p, q)
    divergence, conditional = 0.0, 0.0
    for a in range(len(prior)):
        marginal = joint[a].sum()
        divergence += marginal * math.log(marginal / prior[a])
        for b in range(len(prior)):
            conditional -= joint[a, b] * math.log(joint[a, b] / marginal)
    return -(2.0 * lambda_ - 1.0) * divergence - conditional


@pytest.mark.parametrize("lambda_", [0.75, 1.0, 1.5])
@pytest.mark.parametrize("n", [1, 7, 64])
def test_a_prior_agrees_with_naive_loops(n: int, lambda_: float) -> None:
    a, b = random_logits(n, 4, seed=n)
    p, q = a.softmax(1), b.softmax(1)
    expected = pytest.approx(naive_term(p.numpy(), q.numpy(), lambda_, SHARES.numpy()), rel=1e-10, abs=1e-12)
    assert mutual_information(p, q, lambda_, SHARES).item() == expected
    assert -MutualInformationLoss(lambda_, prior=SHARES)(a, b).item() == expected


@pytest.mark.parametrize("lambda_", [0.75, 1.0, 1.5])
@pytest.mark.parametrize("classes", [2, 10])
def test_a_uniform_prior_is_todays_term_but_for_a_constant(classes: int, lambda_: float) -> None:
    leaves = [logits.requires_grad_() for logits in random_logits(20, classes, seed=0)]
    uniform = torch.full((classes,), 1.0 / classes, dtype=torch.float64)
    without, with_prior = (
        MutualInformationLoss(lambda_)(*leaves),
        MutualInformationLoss(lambda_, prior=uniform)(*leaves),
    )
    constant = (2.0 * lambda_ - 1.0) * math.log(classes)  # lambda = 1: ln C
    assert (with_prior - without).item() == pytest.approx(constant, rel=1e-12)
    for one, other in zip(*(torch.autograd.grad(loss, leaves) for loss in (without, with_prior)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("lambda_", [0.75, 1.0, 1.5])
def test_the_whole_term_is_at_its_best_where_the_shares_are_the_priors(lambda_: float) -> None:
    def value(counts: list[int]) -> float:
        p = one_hot([label for label, count in enumerate(counts) for _ in range(count)], 4)
        return mutual_information(p, p, lambda_, SHARES).item()

    best = [10, 20, 30, 40]
    assert value(best) == pytest.approx(0.0, abs=1e-12)
    moved = [[n + (i == to) - (i == of) for i, n in enumerate(best)] for to in range(4) for of in range(4) if to != of]
    squares = [round(100 * n * n / 3000) for n in best]  # where two marginals compared with the prior would lead
    assert all(value(counts) < -1e-5 for counts in (*moved, squares, [25] * 4, [0, 0, 0, 100]))
    p, q = random_probabilities(20, 4, seed=1)
    assert mutual_information(p, q, lambda_, SHARES) < 0.0  # unsure, or of two minds


def test_gradients_with_a_prior() -> None:
    leaves = [logits.requires_grad_() for logits in random_logits(5, 4, seed=0)]
    assert torch.autograd.gradcheck(MutualInformationLoss(1.5, 0.5, SHARES), leaves)
    half = [logits.detach().bfloat16().requires_grad_() for logits in leaves]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = MutualInformationLoss(prior=SHARES.float())(*half)
    assert loss.dtype == torch.float32
    exact = MutualInformationLoss(prior=SHARES)(*(logits.double() for logits in half))
    assert loss.item() == pytest.approx(exact.item(), rel=1e-4)


@pytest.mark.parametrize("prior", [[0.5, 0.5, 0.0], [0.5, 0.6], [2.0, -1.0], [[0.5, 0.5]], [math.nan, 1.0]])
def test_what_are_no_shares_is_refused(prior: list[Any]) -> None:
    with pytest.raises(InputError, match="no shares of classes; give some above 0 that sum to 1"):
        MutualInformationLoss(prior=torch.tensor(prior))


def test_shares_of_other_classes_are_refused() -> None:
    for shares in (torch.tensor([1.0]), torch.tensor([0.5, 0.5])):
        with pytest.raises(InputError, match=r"prior \(\d,\): 4 classes are predicted"):
            MutualInformationLoss(prior=shares)(*random_logits(5, 4, seed=0))


def test_the_default_is_what_it_was_to_the_last_bit() -> None:
    methods = [Muscle(Supervised(), 0.3), Muscle(Supervised(), 0.3, marginal="uniform")]
    outputs, batch = random_outputs(methods[0])
    first, second = (method.loss(outputs, batch, 0) for method in methods)
    pair = [outputs[view].softmax(-1) for view in ("u_weak", "u_strong")]
    joint = pair[0].T @ pair[1]
    joint = (joint + joint.T) / (joint + joint.T).sum()
    marginal = joint.sum(dim=1)
    information = (joint * joint.log()).sum() - 2.0 * (marginal * marginal.log()).sum()  # as it stood
    assert first["mi"].equal(information.detach())
    assert first["loss"].equal(first["cross_entropy"] + 0.3 * -information)
    assert first.keys() == second.keys() and all(first[name].equal(second[name]) for name in first)
    gradients = [torch.autograd.grad(t["loss"], list(outputs.values()), retain_graph=True) for t in (first, second)]
    assert all(one.equal(other) for one, other in zip(*gradients, strict=True))
    assert not methods[0].state_dict()


def test_the_labels_shares_are_the_prior_and_the_log_tells_both() -> None:
    counts = (7, 0, 2, 4, 2)  # of the second class there is no label
    method = Muscle(Supervised(), 0.3, marginal="labels", context=RunContext(num_classes=5, label_counts=counts))
    assert label_shares(counts).tolist() == pytest.approx([8 / 20, 1 / 20, 3 / 20, 5 / 20, 3 / 20])
    outputs, batch = random_outputs(method)
    terms = method.loss(outputs, batch, 0)
    p, q = (outputs[view].softmax(-1).detach().numpy() for view in ("u_weak", "u_strong"))
    expected = naive_term(p, q, 1.0, label_shares(counts).double().numpy())
    assert (terms["loss"] - terms["cross_entropy"]).item() == pytest.approx(-0.3 * expected, rel=1e-5)
    assert terms["mi"].equal(Muscle(Supervised()).loss(outputs, batch, 0)["mi"])  # in every run the same thing
    assert terms["marginal"].item() == pytest.approx(terms["mi"].item() - expected, rel=1e-5)
    assert not any(terms[name].requires_grad for name in ("mi", "marginal")) and terms["loss"].requires_grad
    assert not method.state_dict()  # a function of the split: there is nothing to save


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"marginal": "label"}, "muscle.marginal=label is unknown; did you mean 'labels'?"),
        ({"marginal": "balanced"}, "muscle.marginal=balanced is unknown; .*uniform"),
        ({"marginal": "labels", "lambda_": 0.5}, "muscle.marginal=labels: muscle.lambda_=0.5 .*; give more than 0.5"),
    ],
)
def test_wrong_options_are_one_line(options: dict[str, Any], says: str) -> None:
    changed = {f"muscle.{key}": value for key, value in options.items()}
    for make in (
        lambda: create_method("muscle", {"muscle": options}),
        lambda: get_recipe("cnn4.muscle_digits_10", changed),
    ):
        with pytest.raises(InputError, match=says) as caught:
            make()
        assert "\n" not in str(caught.value)


def test_published_recipes_keep_their_hash() -> None:
    name = "cnn4.muscle_digits_10"
    published = json.loads(Path(f"hub_cards/{name}/config.json").read_text())["muscle_zoo"]["recipe_sha256"]
    recipe, labels = (get_recipe(name, {"muscle.marginal": word}) for word in ("uniform", "labels"))
    assert recipe.sha256 == published != labels.sha256
    old = recipe.to_dict()
    del old["options"]["muscle"]["marginal"]
    assert Recipe.from_dict(old) == recipe
    assert Recipe.from_dict(labels.to_dict()) == labels and changes(labels) == ["muscle.marginal=labels"]


def prior_of(recipe: Recipe, data: Data, folder: Path) -> Tensor:
    method = Trainer(recipe, data, RunOptions(cpu=True).accelerator(RunFolder(folder / "run"))).method
    assert isinstance(method, Muscle) and method.term.prior is not None
    return method.term.prior


def test_a_run_counts_the_labels_that_it_is_shown(tmp_path: Path) -> None:
    """Those of its split, of images and of embeddings; wrong ones where they are made wrong, and none of the pool's."""
    recipe = get_recipe("cnn4.muscle_fixmatch_digits_40", {**UNBALANCED, "muscle.marginal": "labels"})
    data = prepare_data(recipe)
    counts = [0] * 10
    for index in data.split.labeled:
        counts[int(data.dataset.train.labels[index])] += 1
    assert max(counts) > 5 * min(counts) and sum(counts) == 40
    prior = prior_of(recipe, data, tmp_path)
    assert prior.tolist() == pytest.approx([(count + 1) / 50 for count in counts])
    wrong = dataclasses.replace(recipe, label_noise="symmetric:0.5")
    noisy = prepare_data(wrong)
    assert not prior_of(wrong, noisy, tmp_path).equal(prior)
    hidden = [i for i in range(len(noisy.dataset.train)) if i not in noisy.split.labeled]
    noisy.dataset.train.labels[hidden] = 0
    assert prior_of(wrong, noisy, tmp_path).equal(prior_of(wrong, prepare_data(wrong), tmp_path))
    head = head_recipe("muscle", **{**UNBALANCED, "muscle.marginal": "labels"})
    assert prior_of(head, embedded(head), tmp_path).equal(prior)
