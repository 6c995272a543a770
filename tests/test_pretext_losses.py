"""Methods with pretext tasks: against loops from their papers, and the pieces that they share with others."""

from __future__ import annotations

import doctest
import importlib
import math
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from torch import Tensor, nn

from muscle_zoo import InputError, get_recipe
from muscle_zoo.engine.build import build_model, prepare_data
from muscle_zoo.engine.nets import TrainedNets
from muscle_zoo.engine.network import Network
from muscle_zoo.losses.frank_wolfe import least_norm_weights
from muscle_zoo.losses.pretext import change_sharpness, solarize, turn
from muscle_zoo.methods import Batch, RunContext, create_method
from tests.test_engine import run, short
from tests.test_method_losses import CLASSES, check, cross_entropy, softmax
from tests.test_threshold_losses import Nets, aligned

N_X, N_U = 3, 5
SHARED = ("distribution_alignment", "mixup", "pretext", "frank_wolfe")


def build(name: str, **options: Any) -> Any:
    context = RunContext(steps=1000, images=50, num_classes=CLASSES, features=6, labeled=4, unlabeled=40)
    return create_method(name, {name: options}, context).double()


def soft_cross_entropy(targets: Any, logits: np.ndarray) -> float:
    pairs = zip(targets, softmax(logits), strict=True)
    return sum(-sum(a * math.log(b) for a, b in zip(p, q, strict=True)) for p, q in pairs) / len(logits)


@pytest.mark.parametrize("module", SHARED)
def test_examples_run(module: str) -> None:
    results = doctest.testmod(importlib.import_module(f"muscle_zoo.losses.{module}"))
    assert results.attempted and not results.failed


def test_images_are_turned_sharpened_and_solarized() -> None:
    images = torch.rand(4, 2, 5, 5, dtype=torch.float64)
    levels = torch.tensor([3, 0, 2, 1])
    for image, quarters, turned in zip(images, levels.tolist(), turn(images, levels), strict=True):
        assert turned.numpy().tolist() == np.rot90(image.numpy(), quarters, (1, 2)).tolist()
    sharper = change_sharpness(images, levels)
    assert torch.allclose(sharper[3], images[3])
    picture = Image.fromarray((255 * images[1, 0]).round().byte().numpy())
    smooth = np.asarray(picture.filter(ImageFilter.SMOOTH), dtype=float)[1:-1, 1:-1] / 255  # Pillow leaves the rim
    np.testing.assert_allclose(sharper[1, 0, 1:-1, 1:-1], smooth, atol=1 / 255 + 1e-9)
    np.testing.assert_allclose(sharper[2] - images[2], images[2] - change_sharpness(images, levels * 0)[2], atol=1e-9)
    dark, half = solarize(images, levels)[1:3]
    assert dark.equal(images[1])
    low, high = images[2].min(), images[2].max()
    inverted = images[2] > (low + high) / 2
    assert torch.allclose(half, torch.where(inverted, low + high - images[2], images[2])) and inverted.any()
    with pytest.raises(InputError, match="4x5 are not square"):
        turn(torch.zeros(1, 1, 4, 5), torch.tensor([1]))


def test_frank_wolfe_finds_the_shortest_sum() -> None:
    for seed in range(3):
        gradients = torch.randn(3, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        products = gradients @ gradients.T
        weights = least_norm_weights(products, iterations=2000)
        assert weights.sum().item() == pytest.approx(1.0) and weights.min() >= 0.0
        grid = [(a, b, 1 - a - b) for a in np.linspace(0, 1, 51) for b in np.linspace(0, 1 - a, 51)]
        best = min(np.linalg.norm(np.array(w) @ gradients.numpy()) for w in grid)
        assert (weights @ gradients).norm().item() <= best + 5e-3
    assert least_norm_weights(torch.zeros(3, 3)).tolist() == pytest.approx([1 / 3] * 3)


@pytest.mark.parametrize("turns", [1, 4])
def test_s4l_against_loops(turns: int) -> None:
    method = build("s4l", weight=0.7, turns=turns)
    images = torch.randn(N_U, 1, 3, 3, dtype=torch.float64)
    plain = Batch({"u_clean": images}, torch.tensor([0, 1, 3]), torch.arange(10, 10 + N_U))
    prepared = method.prepare(plain, None, None, 6)
    angles = [(index + 6 + copy) % 4 for copy in range(turns) for index in range(10, 10 + N_U)]
    assert prepared.targets["angles"].tolist() == angles and list(prepared.inputs) == ["u_turned"]
    expected = [np.rot90(images[i % N_U].numpy(), k, (1, 2)).tolist() for i, k in enumerate(angles)]
    assert prepared.inputs["u_turned"].tolist() == expected
    rng = np.random.default_rng(0)
    turned = torch.from_numpy(rng.normal(size=(turns * N_U, 4))).requires_grad_()
    outputs = {
        "x_weak": torch.from_numpy(rng.normal(size=(3, CLASSES))).requires_grad_(),
        ("u_turned", "rotation"): turned,
    }

    def naive(live: Any, _: Any) -> float:
        rotation = cross_entropy(live["u_turned", "rotation"], torch.tensor(angles))
        return cross_entropy(live["x_weak"], prepared.labels) + 0.7 * rotation

    terms = check(method, outputs, prepared, 6, naive)
    right = [int(np.argmax(row)) == k for row, k in zip(turned.detach().numpy(), angles, strict=True)]
    assert terms["rotation_accuracy"] == pytest.approx(sum(right) / len(angles))


@pytest.mark.parametrize(("step", "ramp"), [(0, 0.0), (100, 0.5), (900, 1.0)])
def test_remixmatch_against_loops(step: int, ramp: float) -> None:
    method = build("remixmatch", mix_weight=1.5, weight=0.5, rotation_weight=0.7, ramp=0.2)
    rng = np.random.default_rng(0)
    shapes = {"x_mixed": (N_X, CLASSES), "u_mixed": (3 * N_U, CLASSES), "u_strong": (N_U, CLASSES)}
    outputs: dict[Any, Tensor] = {name: torch.from_numpy(rng.normal(size=shape)) for name, shape in shapes.items()}
    outputs["u_turned", "rotation"] = torch.from_numpy(rng.normal(size=(N_U, 4)))
    outputs = {name: value.requires_grad_() for name, value in outputs.items()}
    targets = {name: torch.from_numpy(rng.dirichlet(np.ones(CLASSES), size=n)) for name, (n, _) in shapes.items()}
    angles = torch.tensor([0, 3, 2, 2, 1])
    batch = Batch({}, torch.zeros(N_X), torch.arange(N_U))
    batch.targets.update(targets | {"pseudo_labels": targets["u_strong"], "angles": angles})

    def naive(live: Any, _: Any) -> float:
        x, mixed, anchored = (soft_cross_entropy(targets[name].numpy(), live[name]) for name in shapes)
        rotation = cross_entropy(live["u_turned", "rotation"], angles)
        return x + ramp * (1.5 * mixed + 0.5 * anchored) + 0.7 * rotation

    check(method, outputs, batch, step, naive, silent=() if ramp else ("u_mixed", "u_strong"))


def test_remixmatch_anchors_aligned_and_sharpened_labels() -> None:
    method = build("remixmatch", copies=3, temperature=0.4, momentum=0.6)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(9, CLASSES)).double()
    labels = torch.tensor([0, 0, 2])
    p_x, p_u = np.full(CLASSES, 1 / CLASSES), np.full(CLASSES, 1 / CLASSES)
    for step in range(3):
        views = {
            name: torch.randn(N_X if view.source == "labeled" else N_U, 1, 3, 3, dtype=torch.float64)
            for name, view in method.views.items()
        }
        with torch.no_grad():
            prepared = method.prepare(Batch(views, labels, torch.arange(N_U)), model, None, step)
            predictions = softmax(model(views["u_clean"]).numpy())
        powers = [aligned(p, p_u, p_x) ** (1 / 0.4) for p in predictions]
        pseudo = np.array([power / sum(power) for power in powers])
        np.testing.assert_allclose(prepared.targets["pseudo_labels"].numpy(), pseudo, atol=1e-6)
        p_x = 0.6 * p_x + 0.4 * np.array([2 / 3, 0, 1 / 3, 0])
        p_u = 0.6 * p_u + 0.4 * sum(predictions) / N_U
        np.testing.assert_allclose([method.p_labeled.tolist(), method.p_unlabeled.tolist()], [p_x, p_u], atol=1e-6)
        assert list(prepared.inputs) == ["u_strong", "x_mixed", "u_mixed", "u_turned"]
        assert prepared.inputs["u_strong"].equal(views["u_strong"]) and len(prepared.inputs["u_mixed"]) == 4 * N_U
        assert prepared.inputs["u_turned"].equal(turn(views["u_strong"], prepared.targets["angles"]))
        # Each pool's labels, in whatever mixture, have the sum of what was mixed.
        mixed = torch.cat([prepared.targets["x_mixed"], prepared.targets["u_mixed"]])
        assert mixed.sum().item() == pytest.approx(N_X + 4 * N_U) and mixed.min() >= 0.0


def test_mp_ssls_tasks_are_weighed_by_their_gradients() -> None:
    method = build("mp_ssl", weight=0.7)
    images = torch.rand(N_U, 1, 3, 3, dtype=torch.float64)
    prepared = method.prepare(Batch({"u_clean": images}, torch.tensor([0, 1, 3]), torch.arange(10, 15)), None, None, 1)
    levels = {
        name: [(i // 4**k + 1) % 4 for i in range(10, 15)]
        for k, name in enumerate(method.parts(RunContext(features=1)))
    }
    assert {name: prepared.targets[name].tolist() for name in levels} == levels
    changed = solarize(
        change_sharpness(turn(images, *[prepared.targets[n] for n in ("rotation",)]), prepared.targets["sharpness"]),
        prepared.targets["solarization"],
    )
    assert prepared.inputs["u_changed"].equal(changed)
    # A trunk that is shared, and heads that are not.
    torch.manual_seed(0)
    trunk = nn.Linear(9, 6).double()
    heads = {name: nn.Linear(6, 4).double() for name in levels}
    classifier = nn.Linear(9, CLASSES).double()
    x = torch.randn(3, 9, dtype=torch.float64)
    outputs = {("u_changed", name): head(trunk(changed.flatten(1))) for name, head in heads.items()}
    outputs["x_weak"] = classifier(x)
    terms = method.loss(outputs, prepared, 1)
    losses = {
        name: nn.functional.cross_entropy(outputs["u_changed", name], torch.tensor(own)) for name, own in levels.items()
    }
    labeled = nn.functional.cross_entropy(outputs["x_weak"], prepared.labels)
    assert terms["loss"].item() == pytest.approx((labeled + 0.7 * sum(losses.values()) / 3).item())
    rows = [
        torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(trunk.parameters()), retain_graph=True)])
        for loss in losses.values()
    ]
    weights = least_norm_weights(torch.stack(rows) @ torch.stack(rows).T)
    assert weights.max() - weights.min() > 0.1
    everything = [*trunk.parameters(), *heads["rotation"].parameters()]
    expected = torch.autograd.grad(
        0.3 + labeled + 0.7 * sum(w * loss for w, loss in zip(weights, losses.values(), strict=True)),
        everything,
        retain_graph=True,
    )
    terms["loss"] = terms["loss"] + 0.3  # what another method added
    method.backward(terms, Nets(trunk))
    for parameter, gradient in zip(everything, expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


def test_gradients_are_of_the_networks_trained_parameters(tmp_path: Any) -> None:
    recipe = get_recipe("cnn4.supervised_digits_10")
    backbone = build_model(recipe, prepare_data(recipe).dataset)
    network = Network(backbone, {"head": nn.Linear(64, 2)})
    first = next(backbone.parameters()).requires_grad_(False)
    nets = TrainedNets(network)
    loss = network(torch.randn(4, 1, 8, 8), {"head": [(0, 4)]})["head"].square().sum()
    gradient = nets.gradients(loss)
    trained = [p for p in backbone.parameters() if p.requires_grad]
    assert (
        len(gradient)
        == sum(p.numel() for p in trained)
        == sum(p.numel() for p in backbone.parameters()) - first.numel()
    )
    assert all(p.grad is None for p in network.parameters())
    nets.backward(loss)
    own = [torch.zeros_like(p) if p.grad is None else p.grad for p in trained]  # the classifier has no part in it
    assert torch.cat([g.flatten() for g in own]).equal(gradient) and network.parts["head"].weight.grad is not None
    with pytest.raises(InputError, match="accumulate=2: muscle_mp_ssl works out its gradients of a whole step"):
        run(short("muscle_mp_ssl", accumulate=2), tmp_path)
