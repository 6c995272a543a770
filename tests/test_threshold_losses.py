"""Methods that choose which pseudo-labels count, and how much: against loops from their papers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from muscle_zoo.methods import Batch, RunContext, View, create_method
from muscle_zoo.methods.base import Group, Method
from tests.test_method_losses import (
    CLASSES,
    LABELED,
    UNLABELED,
    Arrays,
    build,
    check,
    cross_entropy,
    draw_outputs,
    softmax,
    supervised_plus,
)

WEAK, STRONG = "mean_teacher", "uda"  # methods with the same outputs: of weak views; and of a strong one too


def of_classes(live: Arrays, view: str, classes: list[int], weights: list[float]) -> float:
    """The mean over the unlabeled images of what each counts, times minus the logarithm of its class."""
    rows = zip(softmax(live[view]), classes, weights, strict=True)
    return sum(-weight * math.log(q[c]) for q, c, weight in rows) / UNLABELED


def aligned(p: np.ndarray, mean: np.ndarray, target: np.ndarray | float = 1.0) -> np.ndarray:
    weighted = [a * (1e-6 + t) / (1e-6 + m) for a, m, t in zip(p, mean, np.broadcast_to(target, p.shape), strict=True)]
    return np.array(weighted) / sum(weighted)


@pytest.mark.parametrize(("step", "weight"), [(0, 0.0), (300, 0.0), (400, 0.5), (500, 1.0), (900, 1.0)])
def test_pseudo_label_against_loops(step: int, weight: float) -> None:
    method = build("pseudo_label", threshold=0.6, weight=3.0, start=0.3, ramp=0.2)
    outputs, batch = draw_outputs(WEAK)
    weak = softmax(outputs["u_weak"].detach().numpy())
    classes, counts = [int(np.argmax(p)) for p in weak], [float(max(p) >= 0.6) for p in weak]
    assert 0 < sum(counts) < UNLABELED
    naive = supervised_plus(batch.labels, 3.0 * weight, lambda live, _: of_classes(live, "u_weak", classes, counts))
    terms = check(method, outputs, batch, step, naive, silent=() if weight else ("u_weak",))
    assert terms["mask"] == pytest.approx(sum(counts) / UNLABELED)
    assert method.pseudo_labels(outputs, batch).mask.tolist() == [bool(c) for c in counts]


def test_flexmatch_against_a_dictionary() -> None:
    """Algorithm 1, with a dictionary of the last sure class of each image, of a pool of ten."""
    context = RunContext(images=50, num_classes=CLASSES, unlabeled=10)
    method = create_method("flexmatch", {"flexmatch": {"threshold": 0.7, "weight": 1.7}}, context)
    last: dict[int, int] = {}
    some = 0
    for step, indices in enumerate([[0, 1, 2, 3, 4, 5, 6], [7, 8, 9, 0, 1, 2, 3], [4, 5, 6, 7, 8, 9, 0], range(7)]):
        outputs, batch = draw_outputs(STRONG, step)
        batch = method.prepare(Batch({}, batch.labels, torch.tensor(indices)), None, None, step)
        counts = [list(last.values()).count(c) for c in range(CLASSES)]
        learned = [count / max(*counts, 10 - len(last)) for count in counts]
        thresholds = [0.7 * b / (2.0 - b) for b in learned]
        weak = softmax(outputs["u_weak"].detach().numpy())
        classes = [int(np.argmax(p)) for p in weak]
        mask = [float(max(p) >= thresholds[c]) for p, c in zip(weak, classes, strict=True)]

        def term(live: Arrays, _: Arrays, classes=classes, mask=mask) -> float:
            return of_classes(live, "u_strong", classes, mask)

        terms = check(method, outputs, batch, step, supervised_plus(batch.labels, 1.7, term), silent=("u_weak",))
        assert terms["mask"] == pytest.approx(sum(mask) / UNLABELED)
        assert terms["threshold"] == pytest.approx(sum(thresholds) / CLASSES)
        assert method.pseudo_labels(outputs, batch).mask.tolist() == [bool(m) for m in mask]  # after the update
        last |= {i: c for i, p, c in zip(indices, weak, classes, strict=True) if max(p) >= 0.7}
        some += 0 < sum(mask) < UNLABELED
        assert method.classes.tolist() == [last.get(i, -1) for i in range(50)]
    assert some and set(method.state_dict()) == {"classes"} and 0 < len(last) < 10


def test_softmatch_against_loops() -> None:
    method = build("softmatch", momentum=0.6, sigmas=2.0, weight=1.7).double()
    mean, variance, prediction = 1.0 / CLASSES, 1.0, np.full(CLASSES, 1.0 / CLASSES)
    for step in range(4):
        outputs, batch = draw_outputs(STRONG, step, scale=1.0)
        weak = softmax(outputs["u_weak"].detach().numpy())
        prediction = 0.6 * prediction + 0.4 * sum(weak) / UNLABELED
        confidence = [max(aligned(p, prediction)) for p in weak]
        center = sum(confidence) / UNLABELED
        mean = 0.6 * mean + 0.4 * center
        variance = 0.6 * variance + 0.4 * sum((c - center) ** 2 for c in confidence) / (UNLABELED - 1)
        weights = [math.exp(-((c - mean) ** 2) / (2 * variance / 4)) if c < mean else 1.0 for c in confidence]
        classes = [int(np.argmax(p)) for p in weak]  # of the prediction itself

        def term(live: Arrays, _: Arrays, classes=classes, weights=weights) -> float:
            return of_classes(live, "u_strong", classes, weights)

        terms = check(method, outputs, batch, step, supervised_plus(batch.labels, 1.7, term), silent=("u_weak",))
        assert (terms["mask"], terms["mean"]) == pytest.approx((sum(weights) / UNLABELED, mean))
        assert method.variance.item() == pytest.approx(variance) and 0 < min(weights) < 1 == max(weights)
    assert set(method.state_dict()) == {"mean", "variance", "prediction"}


def adamatch_case(step: int) -> tuple[dict[str, Tensor], Batch]:
    rng = np.random.default_rng(step)
    names = ("x_weak", "x_strong", "x_weak_alone", "x_strong_alone", "u_weak", "u_strong")
    sizes = {name: LABELED if name.startswith("x") else UNLABELED for name in names}
    outputs = {
        name: torch.from_numpy(2.0 * rng.normal(size=(n, CLASSES))).requires_grad_() for name, n in sizes.items()
    }
    return outputs, Batch({}, torch.from_numpy(rng.integers(CLASSES, size=LABELED)), torch.arange(UNLABELED))


@pytest.mark.parametrize(("step", "weight"), [(0, 0.0), (125, 0.146446609), (250, 0.5), (500, 1.0), (999, 1.0)])
def test_adamatch_against_loops(step: int, weight: float) -> None:
    method = build("adamatch", threshold=0.9, weight=1.7, momentum=0.6).double()
    assert method.weight_at(step) == pytest.approx(1.7 * weight)
    outputs, batch = adamatch_case(step)
    torch.manual_seed(0)
    shares = {name: torch.rand(LABELED, CLASSES, dtype=torch.float64).numpy() for name in ("x_weak", "x_strong")}
    torch.manual_seed(0)

    def between(arrays: Arrays, name: str) -> np.ndarray:
        return arrays[name] + shares[name] * (arrays[f"{name}_alone"] - arrays[name])

    stopped = {name: value.detach().numpy() for name, value in outputs.items()}
    labeled, unlabeled = softmax(between(stopped, "x_weak")), softmax(stopped["u_weak"])
    threshold = 0.9 * sum(max(p) for p in labeled) / LABELED
    p_x, p_u = (0.6 / CLASSES + 0.4 * sum(ps) / len(ps) for ps in (labeled, unlabeled))
    targets = [aligned(p, p_u, p_x) for p in unlabeled]
    classes, counts = [int(np.argmax(p)) for p in targets], [float(max(p) >= threshold) for p in targets]
    assert 0 < sum(counts) < UNLABELED

    def naive(live: Arrays, _: Arrays) -> float:
        both = sum(cross_entropy(between(live, name), batch.labels) for name in shares) / 2
        return both + 1.7 * weight * of_classes(live, "u_strong", classes, counts)

    silent = ("u_weak",) if weight else ("u_weak", "u_strong")
    terms = check(method, outputs, batch, step, naive, silent)
    assert (terms["mask"], terms["threshold"]) == pytest.approx((sum(counts) / UNLABELED, threshold))
    pseudo = method.pseudo_labels(outputs, batch)
    assert pseudo.classes.tolist() == classes and pseudo.mask.tolist() == [bool(c) for c in counts]


def test_adamatchs_labeled_images_go_through_the_network_by_themselves_too() -> None:
    method: Method = build("adamatch")
    views = {name: torch.full((2, 1, 1, 1), float(i)) for i, name in enumerate(method.views)}
    prepared = method.prepare(Batch(views, torch.zeros(2).long(), torch.arange(2)), None, None, 0)
    assert list(prepared.inputs) == [*views, "x_weak_alone", "x_strong_alone"] and len(views) == 4
    assert prepared.inputs["x_strong_alone"].equal(views["x_strong"])
    assert prepared.groups == dict.fromkeys(("x_weak_alone", "x_strong_alone"), Group(2, still=True))


class Nets:
    """Gradients with respect to a few parameters."""

    def __init__(self, *modules: nn.Module, lr: float = 0.1) -> None:
        self.lr, self.parameters = lr, [p for module in modules for p in module.parameters()]

    def gradients(self, loss: Tensor) -> Tensor:
        own = torch.autograd.grad(loss, self.parameters, retain_graph=True)
        return torch.cat([gradient.flatten() for gradient in own])

    def backward(self, loss: Tensor) -> None:
        loss.backward()


def test_the_feedback_is_what_a_step_along_the_pseudo_labels_does_for_the_labels() -> None:
    """A linear model: the first-order change of the labeled loss is compared with a real, small step's."""
    torch.manual_seed(0)
    model = nn.Linear(5, CLASSES).double()
    x, u, v = (torch.randn(n, 5, dtype=torch.float64) for n in (LABELED, UNLABELED, UNLABELED))
    batch = Batch({}, torch.arange(LABELED) % CLASSES, torch.arange(UNLABELED))
    method = build("self_meta_pseudo_labels", threshold=0.3, weight=0.7, feedback=100.0)
    nets = Nets(model, lr=1e-4)
    terms = method.loss({"x_weak": model(x), "u_weak": model(u), "u_strong": model(v)}, batch, 0)
    method.backward(terms, nets)
    got = [p.grad.clone() for p in model.parameters()]
    p = softmax(model(u).detach().numpy())
    classes, counts = [int(np.argmax(row)) for row in p], [float(max(row) >= 0.3) for row in p]
    assert sum(counts) > 0

    def losses() -> tuple[Tensor, Tensor, Tensor]:
        labeled = nn.functional.cross_entropy(model(x), batch.labels)
        chosen, mask = torch.tensor(classes), torch.tensor(counts)
        strong, own = (
            (mask * nn.functional.cross_entropy(model(images), chosen, reduction="none")).mean() for images in (v, u)
        )
        return labeled, strong, own

    before, strong, own = losses()
    steps = torch.autograd.grad(strong, list(model.parameters()), retain_graph=True)
    with torch.no_grad():
        for parameter, step in zip(model.parameters(), steps, strict=True):
            parameter -= nets.lr * step
        helped = (before - losses()[0]).item()
        for parameter, step in zip(model.parameters(), steps, strict=True):
            parameter += nets.lr * step
    labeled, strong, own = losses()
    expected = torch.autograd.grad(labeled + 0.7 * strong + 100.0 * helped * own, list(model.parameters()))
    plain = torch.autograd.grad(sum(losses()[:2]), list(model.parameters()))
    for mine, theirs, without in zip(got, expected, plain, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-7)
        assert not torch.allclose(mine, without)
    assert helped != 0.0


@pytest.mark.parametrize("step", [0, 900])
def test_uncertainty_mean_teacher_against_loops(step: int) -> None:
    method = build("uncertainty_mean_teacher", weight=20.0, ramp=0.2, passes=3, noise=0.5, share=0.6)
    outputs, batch = draw_outputs(WEAK)
    torch.manual_seed(1)
    teacher = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(12, CLASSES)).double().eval()
    views = {name: 2.0 * torch.randn(UNLABELED, 3, 2, 2, dtype=torch.float64) for name in ("u_weak", "u_teacher")}
    torch.manual_seed(2)
    with torch.no_grad():
        prepared = method.prepare(Batch(views, batch.labels, batch.indices), None, teacher, step)
        assert not teacher.training and list(prepared.inputs) == ["u_weak"]
        torch.manual_seed(2)
        teacher.train()
        target = softmax(teacher(views["u_teacher"]).numpy())
        passes = []
        for _ in range(3):
            noise = (0.5 * torch.randn(UNLABELED, 3, 2, 2, dtype=torch.float64)).numpy()
            noisy = views["u_teacher"].numpy() + np.minimum(np.maximum(noise, -1.0), 1.0)
            passes.append(softmax(teacher(torch.from_numpy(noisy)).numpy()))
    rise = math.exp(-5.0 * (1.0 - step / 1000) ** 2)
    means = [sum(rows) / 3 for rows in zip(*passes, strict=True)]
    entropies = [-sum(a * math.log(a) for a in p) for p in means]
    sure = [h < (0.6 + 0.4 * rise) * math.log(CLASSES) for h in entropies]
    assert prepared.targets["sure"].tolist() == sure and sum(sure) > 0
    ramp = math.exp(-5.0) if step == 0 else 1.0

    def term(live: Arrays, _: Arrays) -> float:
        rows = zip(target, softmax(live["u_weak"]), sure, strict=True)
        return sum(
            sum((a - b) ** 2 for a, b in zip(p, q, strict=True)) / CLASSES for p, q, counts in rows if counts
        ) / sum(sure)

    terms = check(method, outputs, prepared, step, supervised_plus(batch.labels, 20.0 * ramp, term))
    assert terms["mask"] == pytest.approx(sum(sure) / UNLABELED)
    nobody = prepared.targets["sure"] * 0.0
    prepared.targets["sure"] = nobody
    assert method.loss(outputs, prepared, step)["consistency"] == 0.0


def test_what_the_thresholds_need_of_a_run_is_the_runs() -> None:
    assert View("unlabeled", "weak") in create_method("flexmatch").views.values()
    parts = Batch({}, torch.arange(4), torch.arange(8), labeled_rows=torch.tensor([3, 1, 2, 0])).micro_batches(2)
    assert [part.labeled_rows.tolist() for part in parts] == [[3, 1], [2, 0]]


class WithOutputs:
    """A method whose loss is given a teacher's predictions besides: `check` moves those of the network alone."""

    def __init__(self, method: Method, others: dict[tuple[str, str], Tensor]) -> None:
        self.method, self.others = method, others

    def loss(self, outputs: dict[str, Tensor], batch: Batch, step: int) -> dict[str, Tensor]:
        return self.method.loss({**outputs, **self.others}, batch, step)


@pytest.mark.parametrize("labels", ["soft", "hard"])
@pytest.mark.parametrize("balance", [True, False])
def test_noisy_student_against_a_dictionary_of_counts(labels: str, balance: bool) -> None:
    method = build("noisy_student", weight=1.7, threshold=0.7, labels=labels, balance=balance, most=1.02).double()
    seen = dict.fromkeys(range(CLASSES), 1)
    largest = 0.0
    for seed in range(5):
        rng = np.random.default_rng(seed)
        truth, theirs = rng.integers(CLASSES, size=LABELED), 3 * rng.normal(size=(UNLABELED, CLASSES))
        sizes = {"x_strong": LABELED, "u_strong": UNLABELED}
        outputs = {v: torch.from_numpy(2 * rng.normal(size=(n, CLASSES))).requires_grad_() for v, n in sizes.items()}
        batch = Batch({}, torch.from_numpy(truth), torch.arange(UNLABELED))
        beliefs = softmax(theirs)
        classes, counts = [int(np.argmax(p)) for p in beliefs], [max(p) >= 0.7 for p in beliefs]
        assert 0 < sum(counts) < UNLABELED
        for c, counted in zip(classes, counts, strict=True):
            seen[c] += counted
        weights = [min(1.02, sum(seen.values()) / (CLASSES * seen[c])) if balance else 1.0 for c in classes]
        largest = max(largest, *(w for w, counted in zip(weights, counts, strict=True) if counted))

        def naive(live: Arrays, _: Arrays, truth=truth, beliefs=beliefs, counts=counts, weights=weights) -> float:
            x, u = (softmax(live[name]) for name in ("x_strong", "u_strong"))
            loss = -sum(math.log(p[y]) for p, y in zip(x, truth, strict=True)) / LABELED
            for p, belief, counted, weight in zip(u, beliefs, counts, weights, strict=True):
                target = belief if labels == "soft" else [float(c == np.argmax(belief)) for c in range(CLASSES)]
                entropy = -sum(a * math.log(b) for a, b in zip(target, p, strict=True))
                loss += 1.7 * counted * weight * entropy / UNLABELED
            return loss

        one = {("u_weak", "teacher"): torch.from_numpy(theirs)}
        terms = check(WithOutputs(method, one), outputs, batch, 0, naive)
        assert terms["mask"] == pytest.approx(sum(counts) / UNLABELED)
        assert method.pseudo_labels(one, batch).classes.tolist() == classes
    assert method.counts.tolist() == (list(seen.values()) if balance else [1.0] * CLASSES)
    assert not balance or largest == 1.02
