"""The losses of pre-training and distillation: against plain loops, published properties, and values worked by hand."""

from __future__ import annotations

import doctest
import importlib
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from muscle_zoo import InputError
from muscle_zoo.losses import DistillationLoss, NTXentLoss, VICRegLoss
from muscle_zoo.methods import Batch, RunContext, create_method

N, D = 6, 4


def pair(seed: int = 0, n: int = N, d: int = D, scale: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    a, b = scale * np.random.default_rng(seed).normal(size=(2, n, d))
    return a, b


def cosine(x: np.ndarray, y: np.ndarray) -> float:
    return sum(p * q for p, q in zip(x, y, strict=True)) / math.sqrt(sum(x * x) * sum(y * y))


def naive_nt_xent(a: np.ndarray, b: np.ndarray, temperature: float) -> float:
    """SimCLR's algorithm 1, with its 2N vectors in turn: 2k and 2k + 1 are of one image."""
    z = [vector for both in zip(a, b, strict=True) for vector in both]

    def loss(i: int, j: int) -> float:
        others = sum(math.exp(cosine(z[i], z[k]) / temperature) for k in range(len(z)) if k != i)
        return -math.log(math.exp(cosine(z[i], z[j]) / temperature) / others)

    return sum(loss(2 * k, 2 * k + 1) + loss(2 * k + 1, 2 * k) for k in range(len(a))) / len(z)


def naive_vicreg(a: np.ndarray, b: np.ndarray, weights: tuple[float, float, float] = (25.0, 25.0, 1.0)) -> float:
    n, d = a.shape
    s = sum((a[i][j] - b[i][j]) ** 2 for i in range(n) for j in range(d)) / (n * d)
    v = c = 0.0
    for z in (a, b):
        mean = [sum(z[i][j] for i in range(n)) / n for j in range(d)]
        cov = [
            [sum((z[i][j] - mean[j]) * (z[i][k] - mean[k]) for i in range(n)) / (n - 1) for k in range(d)]
            for j in range(d)
        ]
        v += sum(max(0.0, 1.0 - math.sqrt(cov[j][j] + 1e-4)) for j in range(d)) / d / 2
        c += sum(cov[j][k] ** 2 for j in range(d) for k in range(d) if j != k) / d
    return weights[0] * s + weights[1] * v + weights[2] * c


def naive_distillation(student: np.ndarray, teacher: np.ndarray, temperature: float) -> float:
    total = 0.0
    for s, t in zip(student, teacher, strict=True):
        p, q = ([math.exp(x / temperature) for x in row] for row in (t, s))
        p, q = [x / sum(p) for x in p], [x / sum(q) for x in q]
        total += temperature**2 * sum(x * math.log(x / y) for x, y in zip(p, q, strict=True))
    return total / len(student)


CASES: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], Callable[[np.ndarray, np.ndarray], float]]] = {
    "nt_xent": (NTXentLoss(0.5), lambda a, b: naive_nt_xent(a, b, 0.5)),
    "nt_xent_sharp": (NTXentLoss(0.07), lambda a, b: naive_nt_xent(a, b, 0.07)),
    "vicreg": (VICRegLoss(), naive_vicreg),
    "vicreg_weights": (VICRegLoss(1.0, 2.0, 3.0), lambda a, b: naive_vicreg(a, b, (1.0, 2.0, 3.0))),
    "distillation": (DistillationLoss(), lambda a, b: naive_distillation(a, b, 1.0)),
    "distillation_soft": (DistillationLoss(4.0), lambda a, b: naive_distillation(a, b, 4.0)),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("scale", [0.3, 1.0, 3.0])
def test_losses_and_their_gradients_against_loops(case: str, scale: float) -> None:
    loss, naive = CASES[case]
    arrays = pair(scale=scale)
    inputs = [torch.from_numpy(array.copy()).requires_grad_() for array in arrays]
    value = loss(*inputs)
    assert value.item() == pytest.approx(naive(*arrays), rel=1e-9)
    value.backward()
    for which, tensor in enumerate(inputs):
        expected = np.zeros((N, D))
        for at in np.ndindex(N, D):
            for h in (1e-6, -1e-6):
                moved = [array.copy() for array in arrays]
                moved[which][at] += h
                expected[at] += naive(*moved) / (2 * h)
        if case.startswith("distillation") and which == 1:
            assert tensor.grad is None  # nothing flows into the teacher
            continue
        np.testing.assert_allclose(tensor.grad.numpy(), expected, atol=1e-6 * max(1.0, abs(expected).max()))


@pytest.mark.parametrize("name", ["nt_xent", "vicreg", "distillation"])
def test_examples_run(name: str) -> None:
    results = doctest.testmod(importlib.import_module(f"muscle_zoo.losses.{name}"))
    assert results.attempted and not results.failed


def test_nt_xent_of_vectors_that_are_all_alike_is_the_logarithm_of_the_others() -> None:
    z = torch.ones(8, 3, dtype=torch.float64)
    for temperature in (0.07, 0.5, 10.0):
        assert NTXentLoss(temperature)(z, z).item() == pytest.approx(math.log(15), abs=1e-12)


def test_nt_xent_looks_at_directions_alone_and_at_neither_view_more() -> None:
    a, b = (torch.from_numpy(array) for array in pair())
    loss = NTXentLoss(0.2)
    lengths = torch.linspace(0.1, 9.0, N, dtype=torch.float64)[:, None]
    assert loss(lengths * a, 5.0 * b).item() == pytest.approx(loss(a, b).item(), rel=1e-12)
    assert loss(b, a).item() == pytest.approx(loss(a, b).item(), rel=1e-12)
    order = torch.randperm(N, generator=torch.Generator().manual_seed(0))
    assert loss(a[order], b[order]).item() == pytest.approx(loss(a, b).item(), rel=1e-12)
    assert loss(a, a).item() < loss(a, a[order]).item()  # views that agree are better than views of other images


def test_vicreg_is_zero_where_views_agree_and_numbers_are_spread_and_independent() -> None:
    # The corners of a cube: mean 0, unbiased variance 8/7, no covariance.
    corners = torch.tensor([[x, y, z] for x in (-1.0, 1) for y in (-1.0, 1) for z in (-1.0, 1)])
    assert VICRegLoss()(corners, corners).item() == 0.0
    s, v, c = VICRegLoss().terms(corners, corners + 2.0)  # a shift is no change of the statistics
    assert (s.item(), v.item(), c.item()) == (4.0, 0.0, 0.0)
    s, v, c = VICRegLoss().terms(corners[:, :1].expand(8, 3), corners[:, :1].expand(8, 3))  # one number three times
    assert (s.item(), v.item()) == (0.0, 0.0) and c.item() == pytest.approx(2 * (6 / 3) * (8 / 7) ** 2)


def test_distillation_has_gradients_of_one_size_at_any_temperature() -> None:
    # Hinton et al., section 2: at high temperatures, with logits of mean 0, it is (z - v) / N per logit and image.
    student, teacher = (0.01 * torch.from_numpy(x - x.mean(axis=1, keepdims=True)) for x in pair(n=1))
    student.requires_grad_()
    DistillationLoss(100.0)(student, teacher).backward()
    assert torch.allclose(student.grad, (student.detach() - teacher) / D, rtol=1e-3)


def test_half_precision_is_computed_in_float32() -> None:
    for loss, _ in CASES.values():
        a, b = (torch.from_numpy(array).bfloat16() for array in pair())
        exact = loss(a.float(), b.float())
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert loss(a, b).dtype == torch.float32 and torch.allclose(loss(a, b), exact, rtol=1e-6)


@pytest.mark.parametrize(
    ("work", "says"),
    [
        (lambda: NTXentLoss(0.0), "temperature=0.0 is not above 0"),
        (lambda: NTXentLoss()(torch.ones(2, 3), torch.ones(3, 3)), r"z_a \(2, 3\) and z_b \(3, 3\) must both be"),
        (lambda: NTXentLoss()(torch.ones(0, 3), torch.ones(0, 3)), "must both be"),
        (lambda: VICRegLoss(variance=-1.0), "variance=-1.0 is below 0"),
        (lambda: VICRegLoss()(torch.ones(3), torch.ones(3)), "must both be"),
        (lambda: VICRegLoss()(torch.ones(1, 3), torch.ones(1, 3)), "one image has no variance"),
        (lambda: DistillationLoss(-1.0), "temperature=-1.0 is not above 0"),
        (lambda: DistillationLoss()(torch.ones(2, 3), torch.ones(2, 4)), "must be logits of the same"),
        (lambda: create_method("simclr", {"simclr": {"size": 0}}), "simclr.size=0 is below 1"),
        (lambda: create_method("vicreg", {"vicreg": {"covariance": -1.0}}), "vicreg.covariance=-1.0 is below 0"),
        (lambda: create_method("mi_only", {"mi_only": {"sub_heads": 0}}), "mi_only.sub_heads=0 is below 1"),
        (lambda: create_method("distillation", {"distillation": {"policy": "x"}}), "policy=x is unknown; give weak or"),
    ],
)
def test_wrong_input_is_told(work: Callable[[], object], says: str) -> None:
    with pytest.raises(InputError, match=says):
        work()


def test_mi_only_is_the_mean_over_its_heads_of_both_kinds() -> None:
    method = create_method("mi_only", {"mi_only": {"sub_heads": 2, "over_clustering": 3}}, RunContext(num_classes=4))
    widths = {name: part[-1].out_features for name, part in method.parts(RunContext(features=5)).items()}
    assert widths == {"clusters": 8, "over_clusters": 24}
    rng = np.random.default_rng(0)
    outputs = {(view, part): 2 * rng.normal(size=(9, width)) for view in method.views for part, width in widths.items()}

    def information(part: str) -> float:
        total = 0.0
        for head in np.split(np.arange(widths[part]), 2):
            p, q = (np.exp(outputs[view, part][:, head]) for view in method.views)
            p, q = p / p.sum(axis=1, keepdims=True), q / q.sum(axis=1, keepdims=True)
            joint = sum(np.outer(x, y) for x, y in zip(p, q, strict=True)) / 9
            joint = (joint + joint.T) / 2
            rows, columns = joint.sum(axis=1), joint.sum(axis=0)
            total += sum(
                joint[a, b] * math.log(joint[a, b] / rows[a] / columns[b]) for a, b in np.ndindex(*joint.shape)
            )
        return total / 2

    terms = method.loss({key: torch.from_numpy(value) for key, value in outputs.items()}, Batch({}, *[None] * 2), 0)
    assert terms["mi"].item() == pytest.approx(information("clusters"), abs=1e-9)
    assert terms["mi_over_clusters"].item() == pytest.approx(information("over_clusters"), abs=1e-9)
    assert terms["loss"].item() == pytest.approx(-information("clusters") - information("over_clusters"), abs=1e-9)


def test_the_methods_losses_are_those_of_their_views() -> None:
    a, b = (torch.from_numpy(array) for array in pair())
    batch = Batch({}, torch.empty(0, dtype=torch.int64), torch.arange(N))
    outputs = {("u_strong", "projection"): a, ("u_strong_second", "projection"): b}
    simclr = create_method("simclr", {"simclr": {"temperature": 0.3}})
    assert simclr.loss(outputs, batch, 0)["loss"].item() == pytest.approx(naive_nt_xent(a.numpy(), b.numpy(), 0.3))
    outputs = {("u_strong", "expansion"): a, ("u_strong_second", "expansion"): b}
    terms = create_method("vicreg").loss(outputs, batch, 0)
    assert terms["loss"].item() == pytest.approx(naive_vicreg(a.numpy(), b.numpy()))
    weighted = 25 * terms["invariance"] + 25 * terms["variance"] + terms["covariance"]
    assert terms["loss"].item() == pytest.approx(weighted.item())


@pytest.mark.parametrize("on_labeled", [False, True])
@pytest.mark.parametrize("label_weight", [0.0, 0.7])
def test_distillation_adds_labels_and_the_teacher(on_labeled: bool, label_weight: float) -> None:
    options = {"weight": 2.0, "label_weight": label_weight, "temperature": 3.0, "on_labeled": on_labeled}
    method = create_method("distillation", {"distillation": options})
    assert ("x_weak" in method.views) == (on_labeled or label_weight > 0)
    rng = np.random.default_rng(0)
    logits = {key: rng.normal(size=(n, 5)) for key, n in (("x_weak", 3), ("u_weak", 6))}
    taught = {key: rng.normal(size=value.shape) for key, value in logits.items()}
    labels = torch.tensor([4, 0, 2])
    outputs = {key: torch.from_numpy(value) for key, value in logits.items()}
    outputs |= {(key, "teacher"): torch.from_numpy(value) for key, value in taught.items()}
    terms = method.loss(outputs, Batch({}, labels, torch.arange(6)), 0)
    shown = ["x_weak", "u_weak"] if on_labeled else ["u_weak"]
    soft = naive_distillation(*(np.concatenate([values[key] for key in shown]) for values in (logits, taught)), 3.0)
    hard = -np.mean([math.log(math.exp(z[y]) / np.exp(z).sum()) for z, y in zip(logits["x_weak"], labels, strict=True)])
    assert terms["loss"].item() == pytest.approx(2 * soft + label_weight * hard, abs=1e-6)
    assert ("cross_entropy" in terms) == (label_weight > 0)
    classes, mask = method.pseudo_labels(outputs, Batch({}, labels, torch.arange(6)))
    assert classes.tolist() == taught["u_weak"].argmax(axis=1).tolist() and mask.all()
