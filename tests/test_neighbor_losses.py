"""Methods that compare images with each other: against loops from their papers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from muscle_zoo.methods import Batch
from tests.test_method_losses import CLASSES, Arrays, check, cross_entropy, softmax
from tests.test_pretext_losses import N_U, N_X, build
from tests.test_threshold_losses import aligned

SIZE = 4


def outputs_of(method: Any, seed: int = 0, scale: float = 1.5) -> tuple[dict[Any, Tensor], Batch]:
    """Random outputs of all that a method needs of its views."""
    rng = np.random.default_rng(seed)
    outputs: dict[Any, Tensor] = {}
    for name in (*method.views, *(extra for extra in method.needs if extra not in method.views)):
        n = N_X if name.startswith("x") else N_U
        for what in method.needs.get(name, ("logits",)):
            width = CLASSES if what == "logits" else 4 if what in ("rotation", "sharpness", "solarization") else SIZE
            value = torch.from_numpy(scale * rng.normal(size=(n, width))).requires_grad_()
            outputs[name if what == "logits" else (name, what)] = value
    labels, rows = torch.from_numpy(rng.integers(CLASSES, size=N_X)), torch.from_numpy(rng.integers(4, size=N_X))
    return outputs, Batch({}, labels, torch.arange(10, 10 + N_U), labeled_rows=rows)


def between(targets: Any, q: Any, counts: Any = (True,) * N_U) -> float:
    """The mean over the unlabeled images of the cross-entropy of those that count."""
    rows = zip(targets, q, counts, strict=True)
    return -sum(sum(a * math.log(b) for a, b in zip(t, p, strict=True)) for t, p, c in rows if c) / N_U


def unit(rows: np.ndarray) -> np.ndarray:
    return np.array([row / math.sqrt(sum(v * v for v in row)) for row in rows])


def test_simmatch_against_a_dictionary() -> None:
    options = {"threshold": 0.4, "weight": 1.7, "instance_weight": 0.6, "temperature": 0.3, "size": SIZE}
    method = build("simmatch", **options, smoothing=0.8, bank_momentum=0.6, momentum=0.5)
    bank: dict[int, np.ndarray] = {}
    classes_of: dict[int, int] = {}
    mean, some = np.full(CLASSES, 1 / CLASSES), 0
    for seed in range(4):
        outputs, batch = outputs_of(method, seed)
        batch.labels[:] = batch.labeled_rows % CLASSES  # an image has one class
        z = {name: unit(outputs[name, "projection"].detach().numpy()) for name in method.views}
        for row in sorted(set(batch.labeled_rows.tolist())):
            own = [v for r, v in zip(batch.labeled_rows.tolist(), z["x_weak"], strict=True) if r == row]
            new = sum(own) / len(own)
            bank[row] = unit([0.6 * bank[row] + 0.4 * new if row in bank else new])[0]
            classes_of[row] = row % CLASSES
        weak = softmax(outputs["u_weak"].detach().numpy())
        mean = 0.5 * mean + 0.5 * sum(weak) / N_U
        p = [aligned(row, mean) for row in weak]
        rows = sorted(bank)

        def similarities(v: np.ndarray, vectors=tuple(bank[r] for r in rows)) -> np.ndarray:
            powers = np.array([math.exp(sum(v * vector) / 0.3) for vector in vectors])
            return powers / sum(powers)

        instances, targets = [], []
        for own, v in zip(p, z["u_weak"], strict=True):
            q = similarities(v)
            unfolded = np.array([a * own[classes_of[r]] for a, r in zip(q, rows, strict=True)])
            instances.append(unfolded / sum(unfolded))
            of_class = [sum(a for a, r in zip(q, rows, strict=True) if classes_of[r] == c) for c in range(CLASSES)]
            targets.append(0.8 * own + 0.2 * np.array(of_class))
        counts = [max(t) >= 0.4 for t in targets]

        def naive(
            live: Any, _: Any, counts=counts, targets=targets, instances=instances, sim=similarities, y=batch.labels
        ) -> float:
            classes = between(targets, softmax(live["u_strong"]), counts)
            alike = between(instances, [sim(v) for v in unit(live["u_strong", "projection"])])
            return cross_entropy(live["x_weak"], y) + 1.7 * classes + 0.6 * alike

        silent = ("u_weak", ("u_weak", "projection"), ("x_weak", "projection"))
        terms = check(method, outputs, batch, 0, naive, silent)
        assert terms["mask"] == pytest.approx(sum(counts) / N_U)
        some += 0 < sum(counts) < N_U
        for row, vector in bank.items():
            np.testing.assert_allclose(method.bank[row].numpy(), vector, atol=1e-9)
    assert some and [classes_of.get(r, -1) for r in range(4)] == method.bank_labels.tolist()


def test_comatch_against_a_list() -> None:
    options = {"threshold": 0.4, "weight": 1.7, "graph_weight": 0.6, "edge": 0.25, "temperature": 0.3, "size": SIZE}
    method = build("comatch", **options, smoothing=0.8, bank=12, momentum=0.5)
    bank: list[tuple[np.ndarray, np.ndarray]] = []
    mean, edges = np.full(CLASSES, 1 / CLASSES), set()
    for seed in range(4):
        outputs, batch = outputs_of(method, seed)
        z = {name: unit(outputs[name, "projection"].detach().numpy()) for name in method.views}
        weak = softmax(outputs["u_weak"].detach().numpy())
        mean = 0.5 * mean + 0.5 * sum(weak) / N_U
        p = [aligned(row, mean) for row in weak]
        pseudo = p
        if len(bank) >= 12:
            pseudo = []
            for own, v in zip(p, z["u_weak"], strict=True):
                powers = [math.exp(sum(v * other) / 0.3) for other, _ in bank[-12:]]
                smooth = sum(a * q for a, (_, q) in zip(powers, bank[-12:], strict=True)) / sum(powers)
                pseudo.append(0.8 * own + 0.2 * smooth)
        counts = [max(t) >= 0.4 for t in pseudo]
        graph = np.array([[1.0 if i == j else sum(a * b) for j, b in enumerate(pseudo)] for i, a in enumerate(pseudo)])
        graph[graph < 0.25] = 0.0
        edges |= {int((row > 0).sum()) for row in graph}

        def naive(live: Any, _: Any, counts=counts, pseudo=pseudo, graph=graph, y=batch.labels) -> float:
            classes = between(pseudo, softmax(live["u_strong"]), counts)
            first, second = (unit(live[v, "projection"]) for v in ("u_strong", "u_strong_second"))
            similar = softmax(np.array([[sum(a * b) / 0.3 for b in second] for a in first]))
            own = between([row / sum(row) for row in graph], similar)
            return cross_entropy(live["x_weak"], y) + 1.7 * classes + 0.6 * own

        silent = ("u_weak", ("u_weak", "projection"), ("x_weak", "projection"))
        terms = check(method, outputs, batch, 0, naive, silent)
        assert terms["mask"] == pytest.approx(sum(counts) / N_U)
        bank += list(zip(z["u_weak"], p, strict=True))
        bank += [(v, np.eye(CLASSES)[int(y)]) for v, y in zip(z["x_weak"], batch.labels, strict=True)]
    assert method.written == len(bank) == 32 and len(edges) > 1
    kept = sorted(map(tuple, method.bank.tolist()))
    np.testing.assert_allclose(kept, sorted(tuple(v) for v, _ in bank[-12:]), atol=1e-9)


def test_interpolation_contrastive_against_loops() -> None:
    method = build("interpolation_contrastive", weight=0.7, temperature=0.3, ramp=0.2, size=SIZE)
    images = torch.randn(N_U, 1, 2, 2, dtype=torch.float64)
    outputs, batch = outputs_of(method)
    torch.manual_seed(0)
    prepared = method.prepare(Batch({"u_weak": images}, batch.labels, batch.indices), None, None, 0)
    share, partner = prepared.targets["share"].numpy(), prepared.targets["partner"].tolist()
    assert sorted(partner) == list(range(N_U)) and 0 < share.min() < share.max() < 1
    for i, (b, j) in enumerate(zip(share, partner, strict=True)):
        np.testing.assert_allclose(prepared.inputs["u_between"][i], b * images[i] + (1 - b) * images[j], atol=1e-9)

    def naive(live: Arrays, _: Arrays) -> float:
        own = live["u_weak", "projection"]  # type: ignore[index]
        z = unit(
            [
                *live["u_between", "projection"],
                *[b * own[i] + (1 - b) * own[j] for i, (b, j) in enumerate(zip(share, partner, strict=True))],
            ]
        )  # type: ignore[index]
        total = 0.0
        for i in range(2 * N_U):
            powers = [math.exp(sum(z[i] * z[k]) / 0.3) if k != i else 0.0 for k in range(2 * N_U)]
            total -= math.log(powers[(i + N_U) % (2 * N_U)] / sum(powers))
        return cross_entropy(live["x_weak"], batch.labels) + 0.35 * total / (2 * N_U)

    check(method, outputs, prepared, 100, naive)


@pytest.mark.parametrize(("unlabeled", "step"), [(True, 500), (False, 500), (True, 0)])
def test_neighbor_consistency_against_loops(unlabeled: bool, step: int) -> None:
    method = build("neighbor_consistency", weight=0.7, neighbors=2, start=0.3, temperature=1.5, unlabeled=unlabeled)
    outputs, batch = outputs_of(method)
    assert set(method.views) == ({"x_weak", "u_weak"} if unlabeled else {"x_weak"})

    def naive(live: Any, stopped: Any) -> float:
        views = list(method.views)
        mine, theirs = (np.concatenate([softmax(arrays[v] / 1.5) for v in views]) for arrays in (live, stopped))
        v = unit(np.concatenate([stopped[view, "features"] for view in views]))
        total = 0.0
        for i, p in enumerate(mine):
            similar = sorted(((sum(v[i] * v[j]), j) for j in range(len(v)) if j != i), reverse=True)[:2]
            shares = [max(s, 0.0) for s, _ in similar]
            q = (
                sum(s * theirs[j] for s, (_, j) in zip(shares, similar, strict=True)) / sum(shares)
                if sum(shares)
                else theirs[i]
            )
            total += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
        weight = 0.7 if step >= 300 else 0.0
        return (1 - weight) * cross_entropy(live["x_weak"], batch.labels) + weight * total / len(mine)

    silent = tuple((view, "features") for view in method.views) + (() if step or not unlabeled else ("u_weak",))
    check(method, outputs, batch, step, naive, silent)
