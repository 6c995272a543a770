"""Virtual adversarial training: its loss against loops, its direction against the Hessian of a linear network."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from muscle_zoo.methods import Batch, Group
from tests.test_method_losses import (
    CLASSES,
    STEPS,
    Arrays,
    build,
    check,
    divergence,
    draw_outputs,
    linear_model,
    softmax,
    supervised_plus,
)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("entropy_weight", [0.0, 0.7])
@pytest.mark.parametrize(("step", "t"), STEPS)
def test_vat_against_loops(entropy_weight: float, step: int, t: float) -> None:
    outputs, batch = draw_outputs("vat")

    def term(live: Arrays, stopped: Arrays) -> float:
        pairs = zip(softmax(stopped["u_weak"]), softmax(live["u_adversarial"]), strict=True)
        entropy = -sum(a * math.log(a) for p in softmax(live["u_weak"]) for a in p)
        return 1.3 * t * sum(divergence(p, q) for p, q in pairs) + entropy_weight * entropy

    method = build("vat", weight=1.3, entropy_weight=entropy_weight, ramp=0.2)
    silent = (("u_weak",) if not entropy_weight else ()) + (("u_adversarial",) if not t else ())
    check(method, outputs, batch, step, supervised_plus(batch.labels, 1 / 7, term), silent=silent)


def directions(images: Tensor, model: nn.Sequential, **options: Any) -> list[tuple[np.ndarray, ...]]:
    """For each image the first direction, that found, and the Hessian of ``KL(f(x) || f(x + r))`` at r = 0."""
    first = torch.randn(images.shape, dtype=images.dtype, generator=torch.Generator().manual_seed(1)).double()
    torch.manual_seed(1)
    length = 1.0 / math.sqrt(images[0].numel())
    method, batch = build("vat", epsilon=length, **options), Batch({"u_weak": images}, images, images)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):  # in which the step would be lost
        moved = method.prepare(batch, model.to(images), None, 0).inputs["u_adversarial"]
        predictions = softmax(model.double()(images.double()).numpy())
    weight = model[1].weight.detach().numpy()
    hessians = [weight.T @ (np.diag(p) - np.outer(p, p)) @ weight for p in predictions]
    return list(zip(first.flatten(1).numpy(), (moved - images).flatten(1).numpy(), hessians, strict=True))


@pytest.mark.parametrize("iterations", [1, 2, 300])
def test_vat_direction_is_that_of_the_power_method(iterations: int) -> None:
    images = torch.randn(5, 3, 2, 2, dtype=torch.float64)
    for expected, found, hessian in directions(images, linear_model(12), iterations=iterations, xi=1e-6):
        for _ in range(iterations):
            expected = hessian @ expected / np.linalg.norm(hessian @ expected)
        assert expected @ found > 1.0 - 1e-8
        assert iterations < 300 or abs(np.linalg.eigh(hessian)[1][:, -1] @ found) > 1.0 - 1e-6


def test_vat_draws_one_dropout_for_all_its_passes() -> None:
    images = torch.randn(5, 3, 2, 2)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, CLASSES))
    dropping = nn.Sequential(model[0], nn.Dropout(0.5), model[1])
    torch.manual_seed(1)
    with torch.no_grad():
        method = build("vat", epsilon=1.0)
        moved = method.prepare(Batch({"u_weak": images}, images, images), dropping, None, 0).inputs["u_adversarial"]
        mask = dropping[1](torch.ones(5, 12)).double()  # what the loop's forwards draw next
    torch.manual_seed(1)
    first = torch.randn(images.shape).flatten(1).double()
    weight = model[1].weight.detach().double()
    for image, start, kept, found in zip(
        images.flatten(1).double(), first, mask, (moved - images).flatten(1), strict=True
    ):
        masked = weight * kept
        p = (masked @ image + model[1].bias.double()).softmax(dim=0).detach()
        exact = masked.T @ (p.diag() - p.outer(p)) @ masked @ start
        assert torch.cosine_similarity(exact, found.double(), dim=0) > 0.99


@pytest.mark.parametrize("options", [{}, {"xi": 1e-2}])
def test_vat_direction_in_float32_is_that_in_float64(options: dict[str, float]) -> None:
    model, images = linear_model(3 * 16 * 16, 10), torch.randn(16, 3, 16, 16)
    pairs = [(hessian @ first, found) for first, found, hessian in directions(images, model, **options)]
    assert np.median([exact @ single / np.linalg.norm(exact) for exact, single in pairs]) > 0.95


def test_vat_prepare_moves_by_epsilon_and_leaves_no_trace() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Tanh(), nn.Flatten(), nn.Linear(16, 4)).double()
    images = torch.randn(6, 3, 4, 4, dtype=torch.float64) * torch.tensor([0.01, 0.1, 1, 1, 10, 100]).view(-1, 1, 1, 1)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    batch = Batch({"x_weak": images[:2], "u_weak": images}, torch.zeros(2), torch.arange(6))
    with torch.no_grad():
        prepared = build("vat", epsilon=0.25).prepare(batch, model, None, 0)
    assert list(prepared.inputs) == ["x_weak", "u_weak", "u_adversarial"] and prepared.inputs["u_weak"] is images
    lengths = (prepared.inputs["u_adversarial"] - images).flatten(1).norm(dim=1)
    # A quarter of what 48 numbers of mean 0 and deviation 1 have; it is no share of a brighter image's own length.
    assert lengths.tolist() == pytest.approx([0.25 * math.sqrt(48)] * 6, rel=1e-9)
    assert prepared.groups == {"u_adversarial": Group(2, still=True)}
    assert model.training and all(parameter.grad is None for parameter in model.parameters())
    assert all(before[key].equal(value) for key, value in model.state_dict().items())
    model(images)
    assert not before["1.running_mean"].equal(model[1].running_mean)


def test_vat_direction_has_length_1_where_the_network_is_sure_and_0_where_it_is_constant() -> None:
    model, images = linear_model(12), torch.randn(3, 3, 2, 2, dtype=torch.float64)
    model[1].bias.data[0] = 30.0  # the other classes have about 1e-13
    assert [np.linalg.norm(found) for _, found, _ in directions(images, model, xi=1e-2)] == pytest.approx([1.0] * 3)
    model[1].weight.data.zero_()
    assert not any(found.any() for _, found, _ in directions(images, model))
