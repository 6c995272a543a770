"""The mutual-information term: its values, its gradients, half precision; of two processes, see test_processes.py."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from muscle_zoo.errors import InputError
from muscle_zoo.losses import MutualInformationLoss, joint_distribution, mutual_information

HALVES = [torch.bfloat16, torch.float16]
FLOATS = [torch.float32, torch.float64]


def random_logits(n: int, classes: int, seed: int, scale: float = 2.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    a, b = (scale * torch.randn(2, n, classes, generator=generator, dtype=torch.float64)).unbind()
    return a, b


def random_probabilities(n: int, classes: int, seed: int) -> tuple[Tensor, Tensor]:
    a, b = random_logits(n, classes, seed)
    return a.softmax(1), b.softmax(1)


def one_hot(labels: list[int] | Tensor, classes: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.eye(classes, dtype=dtype)[torch.as_tensor(labels)]


def naive_joint(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    n, classes = p.shape
    joint = np.zeros((classes, classes))
    for i in range(n):
        for a in range(classes):
            for b in range(classes):
                joint[a, b] += (p[i, a] * q[i, b] + p[i, b] * q[i, a]) / (2 * n)
    return joint / joint.sum()


def naive_information(p: np.ndarray, q: np.ndarray, lambda_: float) -> float:
    joint = naive_joint(p, q)
    total = 0.0
    for a, b in np.argwhere(joint > 0):
        marginals = np.log(joint[a].sum()) + np.log(joint[:, b].sum())
        total += joint[a, b] * (np.log(joint[a, b]) - lambda_ * marginals)
    return float(total)


def assert_finite_gradients(value: Tensor, *leaves: Tensor) -> None:
    assert torch.isfinite(value)
    for gradient in torch.autograd.grad(value, leaves):
        assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("n", [1, 7, 64])
@pytest.mark.parametrize("classes", [2, 3, 10])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_agrees_with_naive_loops(n: int, classes: int, seed: int) -> None:
    a, b = random_logits(n, classes, seed)
    p, q = a.softmax(1), b.softmax(1)
    joint = joint_distribution(p, q)
    assert joint.shape == (classes, classes)
    assert torch.equal(joint, joint.T) or torch.allclose(joint, joint.T, rtol=1e-14)
    np.testing.assert_allclose(joint.numpy(), naive_joint(p.numpy(), q.numpy()), rtol=1e-12)
    for lambda_ in (0.5, 1.0, 1.5):
        expected = pytest.approx(naive_information(p.numpy(), q.numpy(), lambda_), rel=1e-10, abs=1e-12)
        value, loss = mutual_information(p, q, lambda_), MutualInformationLoss(lambda_)(a, b)
        assert value.ndim == loss.ndim == 0
        assert value.item() == expected
        assert -loss.item() == expected


def test_lambda_is_one_unless_told() -> None:
    a, b = random_logits(9, 4, seed=0)
    p, q = a.softmax(1), b.softmax(1)
    assert mutual_information(p, q).item() == mutual_information(p, q, lambda_=1.0).item()
    assert MutualInformationLoss()(a, b).item() == MutualInformationLoss(lambda_=1.0)(a, b).item()


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("lambda_", [0.5, 1.0, 1.5])
@pytest.mark.parametrize("classes", [2, 10])
def test_balanced_confident_agreement_is_the_optimum(classes: int, lambda_: float, dtype: torch.dtype) -> None:
    p = one_hot(list(range(classes)) * 4, classes, dtype)
    expected = (2 * lambda_ - 1) * math.log(classes)
    assert mutual_information(p, p, lambda_).item() == pytest.approx(expected, abs=1e-5)
    assert MutualInformationLoss(lambda_)(60 * p, 60 * p).item() == pytest.approx(-expected, abs=1e-5)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("case", ["collapse", "uniform", "outer", "grid"])
def test_nothing_shared_is_zero(case: str, dtype: torch.dtype) -> None:
    classes = 5
    marginal = torch.arange(1, classes + 1, dtype=dtype) / 15
    rows = {"collapse": one_hot([2], classes, dtype)[0], "uniform": torch.full((classes,), 1 / classes, dtype=dtype)}
    p = q = rows.get(case, marginal).repeat(8, 1)
    if case == "grid":  # every pair of one-hot classes once: independent, with nothing left to chance
        p, q = (one_hot(index, classes, dtype) for index in torch.cartesian_prod(*[torch.arange(classes)] * 2).T)
    assert mutual_information(p, q).item() == pytest.approx(0, abs=1e-6)


def test_symmetrizing_gives_ln_2_to_two_different_constant_views() -> None:
    p, q = one_hot([0] * 6, 4), one_hot([3] * 6, 4)
    assert mutual_information(p, q).item() == pytest.approx(math.log(2), abs=1e-6)


# C (C - 1) / 4n to leading order: the symmetric part of the joint has C (C - 1) / 2 degrees of freedom, not (C - 1)^2.
@pytest.mark.parametrize(("n", "measured", "tolerance"), [(64, 0.416, 0.02), (448, 0.0514, 0.003)])
def test_independent_views_are_biased_upwards(n: int, measured: float, tolerance: float) -> None:
    classes, generator = 10, torch.Generator().manual_seed(0)
    draws = torch.randint(classes, (400, 2, n), generator=generator)
    mean = sum(mutual_information(one_hot(a, classes), one_hot(b, classes)).item() for a, b in draws) / len(draws)
    assert mean == pytest.approx(measured, abs=tolerance)
    assert mean == pytest.approx(classes * (classes - 1) / (4 * n), rel=0.25)


@pytest.mark.parametrize("seed", range(5))
def test_symmetries_and_bounds(seed: int) -> None:
    classes = 6
    p, q = random_probabilities(20, classes, seed)
    value = mutual_information(p, q).item()
    generator = torch.Generator().manual_seed(seed)
    order, images = torch.randperm(classes, generator=generator), torch.randperm(20, generator=generator)
    assert 0 <= value <= math.log(classes)
    assert mutual_information(q, p).item() == pytest.approx(value, rel=1e-12)
    assert mutual_information(p[:, order], q[:, order]).item() == pytest.approx(value, rel=1e-12)
    assert mutual_information(p[images], q[images]).item() == pytest.approx(value, rel=1e-12)
    assert mutual_information(p.repeat(3, 1), q.repeat(3, 1)).item() == pytest.approx(value, rel=1e-12)


def test_joint_is_normalized_for_rows_that_do_not_sum_to_one() -> None:
    p, q = random_probabilities(9, 4, seed=0)
    joint = joint_distribution(3 * p, 0.5 * q)
    assert joint.sum().item() == pytest.approx(1, abs=1e-12)
    torch.testing.assert_close(joint, joint_distribution(p, q))


@pytest.mark.parametrize("lambda_", [0.5, 1.0, 1.5])
@pytest.mark.parametrize("check", [torch.autograd.gradcheck, torch.autograd.gradgradcheck])
def test_gradients_of_both_views(check: Callable[..., bool], lambda_: float) -> None:
    leaves = [logits.requires_grad_() for logits in random_logits(5, 3, seed=0)]
    loss = MutualInformationLoss(lambda_)
    assert check(loss, leaves)
    of_a, of_b = torch.autograd.grad(loss(*leaves), leaves)
    assert of_a.abs().min() > 0 < of_b.abs().min()
    for swapped, gradient in zip(torch.autograd.grad(loss(*leaves[::-1]), leaves), (of_a, of_b), strict=True):
        torch.testing.assert_close(swapped, gradient)


@pytest.mark.parametrize(("given", "wanted"), [(torch.float64, torch.float64), *((d, torch.float32) for d in HALVES)])
def test_computes_in_at_least_float32(given: torch.dtype, wanted: torch.dtype) -> None:
    a, b = (logits.to(given) for logits in random_logits(32, 10, seed=0))
    p, q = a.softmax(1), b.softmax(1)
    value = mutual_information(p, q)
    assert value.dtype == wanted
    assert value.item() == pytest.approx(mutual_information(p.double(), q.double()).item(), rel=1e-4)
    assert MutualInformationLoss()(a, b).dtype == wanted


@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize("logits_half", [False, True])
def test_autocast_changes_nothing(half: torch.dtype, logits_half: bool) -> None:
    dtype = half if logits_half else torch.float32
    a, b = (logits.to(dtype).requires_grad_() for logits in random_logits(64, 10, seed=0))
    with torch.autocast("cpu", dtype=half):
        loss = MutualInformationLoss()(a, b)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(MutualInformationLoss()(a.double(), b.double()).item(), rel=1e-4)
    assert_finite_gradients(loss, a, b)


@pytest.mark.parametrize("half", [None, *HALVES])
@pytest.mark.parametrize("case", ["agree", "disagree", "collapse", "random"])
def test_confident_views_have_finite_gradients(case: str, half: torch.dtype | None) -> None:
    classes = 10
    labels = torch.arange(40) % classes
    first, second = {
        "agree": (labels, labels),
        "disagree": (labels, labels.roll(1)),
        "collapse": (0 * labels, 0 * labels),
        "random": torch.randint(classes, (2, 40), generator=torch.Generator().manual_seed(0)),
    }[case]
    p, q = (one_hot(index, classes, torch.float32).requires_grad_() for index in (first, second))
    a, b = (logits.to(half or torch.float32).detach().requires_grad_() for logits in (120 * p - 60, 120 * q - 60))
    with torch.autocast("cpu", dtype=half or torch.bfloat16, enabled=half is not None):
        value, loss = mutual_information(p, q), MutualInformationLoss()(a, b)
    assert value.dtype == loss.dtype == torch.float32
    exact = naive_information(p.detach().numpy(), q.detach().numpy(), 1.0)
    assert value.item() == pytest.approx(exact, abs=1e-5) == -loss.item()
    assert_finite_gradients(value, p, q)
    assert_finite_gradients(loss, a, b)


def test_strided_and_expanded_views_are_left_alone() -> None:
    p, q = random_probabilities(6, 4, seed=0)
    strided, expanded = p.T.contiguous().T.requires_grad_(), q[:1].expand(6, 4).requires_grad_()
    assert not strided.is_contiguous() and expanded.stride(0) == 0
    versions = strided._version, expanded._version
    value = mutual_information(strided, expanded)
    assert_finite_gradients(value, strided, expanded)
    assert (strided._version, expanded._version) == versions
    assert torch.equal(strided, p) and torch.equal(expanded[3], q[0])
    assert value.item() == pytest.approx(mutual_information(p, q[:1].repeat(6, 1)).item(), rel=1e-12)
    logits = torch.zeros(1, 4).requires_grad_()
    assert_finite_gradients(MutualInformationLoss()(logits.expand(6, 4), logits.expand(6, 4)), logits)


def test_a_thousand_classes() -> None:
    a, b = (logits.float().requires_grad_() for logits in random_logits(8, 1000, seed=0, scale=20))
    loss = MutualInformationLoss()(a, b)
    assert -math.log(1000) <= loss.item() <= 0
    assert_finite_gradients(loss, a, b)


@pytest.mark.parametrize("function", [joint_distribution, mutual_information, MutualInformationLoss()])
@pytest.mark.parametrize("shapes", ["43 42", "43 53", "43 13", "3 3", "243 243", "- -", "03 03", "41 41", "40 40"])
def test_wrong_inputs_say_so(function: Callable[..., Tensor], shapes: str) -> None:
    first, second = ([int(size) for size in shape if size != "-"] for shape in shapes.split())
    with pytest.raises(InputError) as caught:
        function(torch.full(first, 0.5), torch.full(second, 0.5))
    assert str(caught.value).strip() and "\n" not in str(caught.value)
