"""Images changed to mislead a network: how they are found, training on them, and the accuracy that is left."""

from __future__ import annotations

import doctest
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from muscle_zoo import InputError, evaluate, get_recipe
from muscle_zoo.data import LabeledImages, dataset_info
from muscle_zoo.engine import attack as attack_module
from muscle_zoo.engine.attack import Attack, attacked_accuracy, parse_attack
from muscle_zoo.engine.evaluate import evaluate as measure
from muscle_zoo.losses import projected_gradient as module
from muscle_zoo.losses.projected_gradient import Ball, projected_gradient
from muscle_zoo.methods import Batch, Group, RunContext, create_method
from tests.conftest import run
from tests.test_method_losses import (
    CLASSES,
    LABELED,
    UNLABELED,
    Arrays,
    check,
    divergence,
    linear_model,
    softmax,
)
from tests.test_threshold_losses import WithOutputs

NAME = "cnn4.muscle_digits_40"


@pytest.mark.parametrize("documented", [module, attack_module])
def test_examples_run(documented: object) -> None:
    results = doctest.testmod(documented)
    assert results.attempted and not results.failed


def naive_ascent(
    weight: np.ndarray, bias: np.ndarray, image: np.ndarray, start: np.ndarray, target: np.ndarray, numbers: list[float]
) -> np.ndarray:
    """Of the cross-entropy of a linear network, number by number, as the paper writes it."""
    radius, stride, iterations = numbers
    moved = [min(max(s, x - radius), x + radius) for s, x in zip(start, image, strict=True)]
    moved = [min(max(m, 0.0), 1.0) for m in moved]
    for _ in range(int(iterations)):
        (p,) = softmax((weight @ np.array(moved) + bias)[None])
        for i, slope in enumerate(weight.T @ (p - target)):
            m = moved[i] + stride * (float(slope > 0) - float(slope < 0))
            moved[i] = min(max(min(max(m, image[i] - radius), image[i] + radius), 0.0), 1.0)
    return np.array(moved)


@pytest.mark.parametrize(("radius", "stride", "iterations"), [(0.1, 0.03, 7), (0.3, 0.5, 2), (0.2, 0.05, 0)])
def test_projected_gradient_is_a_loop_over_numbers(radius: float, stride: float, iterations: int) -> None:
    torch.manual_seed(0)
    model = linear_model(12)
    images, labels = torch.rand(6, 3, 2, 2, dtype=torch.float64), torch.arange(6) % CLASSES
    start = images + 2 * radius * torch.randn_like(images)
    with torch.no_grad():  # as a method's prepare runs
        moved = projected_gradient(
            lambda x: F.cross_entropy(model(x), labels, reduction="sum"),
            images,
            start,
            Ball(*images.new_tensor([radius, 0.0, 1.0])),
            images.new_tensor(stride),
            iterations,
        )
    weight, bias = (parameter.detach().numpy() for parameter in model[1].parameters())
    rows = zip(*(part.flatten(1).numpy() for part in (images, start, moved)), labels, strict=True)
    for image, begun, found, label in rows:
        expected = naive_ascent(weight, bias, image, begun, np.eye(CLASSES)[label], [radius, stride, iterations])
        np.testing.assert_allclose(found, expected, atol=1e-12)
    assert not moved.requires_grad and all(parameter.grad is None for parameter in model.parameters())
    if iterations:
        left = (moved - images).abs().amax()
        assert 0.9 * radius < left <= radius + 1e-12 and moved.min() >= 0.0 and moved.max() <= 1.0


MEAN, STD = (0.2, 0.5, 0.7), (0.5, 0.25, 2.0)


def robust(**options: object) -> nn.Module:
    context = RunContext(steps=1000, num_classes=CLASSES, mean=MEAN, std=STD)
    return create_method("robust_self_training", {"robust_self_training": options}, context)


def test_adversarial_images_of_training_are_near_in_pixels_and_mislead() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(12), nn.Dropout(0.5), nn.Linear(12, CLASSES)).double()
    mean, std = (torch.tensor(values, dtype=torch.float64).view(-1, 1, 1) for values in (MEAN, STD))
    pixels = torch.rand(LABELED + UNLABELED, 3, 2, 2, dtype=torch.float64)
    views = dict(zip(("x_weak", "u_weak"), ((pixels - mean) / std).split([LABELED, UNLABELED]), strict=True))
    before = {key: value.clone() for key, value in network.state_dict().items()}
    teacher = linear_model(12).eval()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        method = robust(epsilon=0.1, step_size=0.04, iterations=5)
        prepared = method.prepare(Batch(views, torch.zeros(LABELED).long(), torch.arange(7)), network, teacher, 0)
    assert list(prepared.inputs) == ["x_weak", "u_weak", "adversarial"]
    assert prepared.groups == {"adversarial": Group(1)} and network.training and network[2].training
    assert all(before[key].equal(value) for key, value in network.state_dict().items())
    moved = prepared.inputs["adversarial"] * std + mean
    assert 0.09 < (moved - pixels).abs().max() <= 0.1 + 1e-9 and moved.min() > -1e-9 and moved.max() < 1 + 1e-9
    assert (moved - pixels).abs().mean() > 0.05
    p, q = (softmax(network.eval()((x - mean) / std).detach().numpy()) for x in (pixels, moved))
    noisy = softmax(network((pixels + 0.1 * torch.randn_like(pixels).sign() - mean) / std).detach().numpy())
    found, by_chance = (sum(divergence(a, b) for a, b in zip(p, others, strict=True)) for others in (q, noisy))
    assert found > 1.5 * by_chance > 0


@pytest.mark.parametrize(("labels", "step"), [("ema", 99), ("ema", 100), ("teacher", 100)])
def test_robust_self_training_against_loops(labels: str, step: int) -> None:
    rng = np.random.default_rng(0)
    sizes = {"x_weak": LABELED, "u_weak": UNLABELED, "adversarial": LABELED + UNLABELED}
    outputs = {name: torch.from_numpy(2 * rng.normal(size=(n, CLASSES))).requires_grad_() for name, n in sizes.items()}
    theirs = torch.from_numpy(3 * rng.normal(size=(UNLABELED, CLASSES)))
    truth = rng.integers(CLASSES, size=LABELED)
    batch = Batch({}, torch.from_numpy(truth), torch.arange(UNLABELED), {"teacher": theirs})
    beliefs = softmax(theirs.numpy())
    counts = [max(p) >= 0.8 for p in beliefs]
    assert 0 < sum(counts) < UNLABELED

    def naive(live: Arrays, stopped: Arrays) -> float:
        x, u, moved = (softmax(live[name]) for name in sizes)
        loss = -sum(math.log(p[y]) for p, y in zip(x, truth, strict=True)) / LABELED
        for p, belief, counted in zip(u, beliefs, counts, strict=True):
            if counted and step >= 100:
                loss -= 0.7 * math.log(p[int(np.argmax(belief))]) / UNLABELED
        for part, others, factor in ((x, moved[:LABELED], 1.0), (u, moved[LABELED:], 0.7)):
            loss += 3.0 * factor * sum(divergence(p, q) for p, q in zip(part, others, strict=True)) / len(part)
        return loss

    method = robust(beta=3.0, weight=0.7, threshold=0.8, start=0.1, labels=labels)
    others = {("u_weak", "teacher"): theirs} if labels == "teacher" else {}
    terms = check(WithOutputs(method, others), outputs, batch, step, naive)
    assert terms["mask"] == pytest.approx(sum(counts) / UNLABELED if step >= 100 else 0)


@pytest.mark.parametrize(("option", "value"), [("epsilon", 1.5), ("step_size", 0.0), ("labels", "mine")])
def test_options_out_of_range(option: str, value: object) -> None:
    with pytest.raises(InputError, match=f"robust_self_training.{option}={value}"):
        robust(**{option: value})


def test_embeddings_have_no_pixels() -> None:
    with pytest.raises(InputError, match="tune=head: muscle_robust_self_training needs images"):
        get_recipe("tf_efficientnet_lite0.muscle_robust_self_training_digits_40_frozen")


class Brightness(nn.Module):
    """Two classes: dark and bright images, by the mean of their pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(10.0))

    def forward(self, images: Tensor) -> Tensor:
        bright = self.scale * images.flatten(1).mean(dim=1)
        return torch.stack([-bright, bright], dim=1)


def test_what_is_left_of_an_accuracy_is_what_the_radius_leaves() -> None:
    """Of images of one gray, those are lost whose gray is within the radius of the border between the classes."""
    info = dataset_info("digits")
    border = round(255 * info.mean[0])
    grays = torch.arange(0, 255, 5, dtype=torch.uint8)
    labels = (grays > border).long()
    labels[3] = 1 - labels[3]  # one that is mistaken from the start
    images = LabeledImages(grays.view(-1, 1, 1, 1).expand(-1, 1, 8, 8).contiguous(), labels)
    model = Brightness().train()
    assert measure(model, images, info).top1 == pytest.approx(1 - 1 / len(grays))  # in inference mode, just before
    for epsilon in (0.05, 0.2):
        far = (grays.float() / 255 - info.mean[0]).abs() > epsilon
        far[3] = False
        for size in (1024, 7):
            left = attacked_accuracy(model, images, info, Attack(epsilon), batch_size=size)
            assert left == pytest.approx(far.float().mean().item())
    assert model.training and model.scale.grad is None


def test_an_image_that_is_mistaken_is_none_that_withstands(monkeypatch: pytest.MonkeyPatch) -> None:
    """Although it is taken for its class as it is changed."""
    monkeypatch.setattr(attack_module, "projected_gradient", lambda objective, images, *rest: torch.ones_like(images))
    images = LabeledImages(torch.tensor([0, 255], dtype=torch.uint8).view(-1, 1, 1, 1), torch.tensor([1, 1]))
    info = replace(dataset_info("digits"), input_size=(1, 1, 1))
    assert attacked_accuracy(Brightness(), images, info, Attack(1.0)) == 0.5


@pytest.mark.parametrize("text", ["pgd", "pgd:", "pgd:0", "pgd:2", "pgd:8/0", "pgd:1/4:0", "fgsm:8/255", "pgd:-1/255"])
def test_attacks_that_are_written_otherwise(text: str) -> None:
    with pytest.raises(InputError, match=r"--attack .* is wrong; write pgd:EPSILON"):
        parse_attack(text)


def test_eval_says_what_is_left_under_an_attack(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(["eval", NAME, "--cpu", "--json", "--attack", "pgd:16/255:3"], capsys)
    report = json.loads(out)
    assert code == 0 and report["attack"] == "pgd:16/255:3" and 0 < report["attacked_top1"] < report["top1"] - 0.05
    result = evaluate(NAME, cpu=True, attack="pgd:16/255:3")
    assert result.attacked_top1 == report["attacked_top1"] and "attack" not in evaluate(NAME, cpu=True).to_dict()
    weak = run(["eval", NAME, "--cpu", "--attack", "pgd:1/255:2"], capsys)[1]
    assert "top-1, pgd:1/255:2" in weak and "reproduced" in weak
    code, _, err = run(["eval", str(Path("nowhere")), "--cpu", "--attack", "pgd"], capsys)
    assert code == 2 and "--attack pgd is wrong" in err  # before anything is looked for
