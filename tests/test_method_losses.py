"""Each method's loss, gradients and memory against loops written from its paper."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from muscle_zoo import InputError
from muscle_zoo.losses import sharpen
from muscle_zoo.methods import Batch, RunContext, create_method
from muscle_zoo.methods.base import linear_rampup, sigmoid_rampup

Arrays = dict[str, np.ndarray]
Naive = Callable[[Arrays, Arrays], float]  # of the outputs, and of what stands where no gradient flows

SETTING = RunContext(steps=1000, images=50, num_classes=4)
STEPS = [(0, 0.0), (100, 0.5), (150, 0.75), (200, 1.0), (900, 1.0)]  # step, and how much of a ramp of 0.2 is over
TOP = {t: 20.0 * math.exp(-5.0 * (1.0 - t) * (1.0 - t)) for _, t in STEPS}  # of a weight of 20
LABELED, UNLABELED, CLASSES = 3, 7, 4
WEAK, STRONG = ("x_weak", "u_weak"), ("x_weak", "u_weak", "u_strong")
OUTPUTS = {"pi_model": (*WEAK, "u_second"), "temporal_ensembling": WEAK, "mean_teacher": WEAK}
OUTPUTS |= {"vat": (*WEAK, "u_adversarial"), "mixmatch": ("x_mixed", "u_mixed"), "uda": STRONG, "freematch": STRONG}


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def linear_model(pixels: int, classes: int = CLASSES) -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(pixels, classes)).double()


def build(name: str, **options: Any) -> Any:
    return create_method(name, {name: options}, SETTING)


def draw_outputs(name: str, seed: int = 0, scale: float = 2.0) -> tuple[dict[str, Tensor], Batch]:
    rng = np.random.default_rng(seed)
    size = {view: LABELED if view.startswith("x") else UNLABELED for view in ("ensemble", "teacher", *OUTPUTS[name])}
    logits = {view: scale * rng.normal(size=(size[view], CLASSES)) for view in OUTPUTS[name]}
    targets = {key: torch.from_numpy(rng.dirichlet(np.ones(CLASSES), size=n)) for key, n in size.items()}
    targets["seen"] = torch.tensor([1.0, 0, 1, 1, 0, 1, 1])
    labels = torch.from_numpy(rng.integers(CLASSES, size=LABELED))
    outputs = {view: torch.from_numpy(array).requires_grad_() for view, array in logits.items()}
    return outputs, Batch({}, labels, torch.arange(UNLABELED), targets)


def softmax(logits: np.ndarray) -> list[np.ndarray]:
    powers = [[math.exp(z - max(row)) for z in row] for row in logits]
    return [np.array(row) / sum(row) for row in powers]


def cross_entropy(logits: np.ndarray, labels: Tensor) -> float:
    return sum(-math.log(p[int(y)]) for p, y in zip(softmax(logits), labels, strict=True)) / len(logits)


def divergence(p: np.ndarray, q: np.ndarray) -> float:
    return sum(a * (math.log(a) - math.log(b)) for a, b in zip(p, q, strict=True))


def supervised_plus(labels: Tensor, weight: float, term: Naive) -> Naive:
    return lambda live, stopped: cross_entropy(live["x_weak"], labels) + weight * term(live, stopped)


def apart_from(p: Any, counts: Any = (1.0,) * UNLABELED, view: str = "u_weak") -> Naive:
    def term(live: Arrays, stopped: Arrays) -> float:
        cells = [(i, c, q) for i, row in enumerate(softmax(live[view])) for c, q in enumerate(row)]
        return sum(counts[i] * (p[i][c] - q) ** 2 for i, c, q in cells) / len(cells)

    return term


def check(method: Any, outputs: dict[str, Tensor], batch: Batch, step: int, naive: Naive, silent: Any = ()) -> Any:
    """The loss equals the loop's, and each output's gradient its difference quotient: none for the silent ones."""
    arrays = {name: value.detach().numpy().copy() for name, value in outputs.items()}
    terms = method.loss(outputs, batch, step)
    assert terms["loss"].item() == pytest.approx(naive(arrays, arrays), abs=1e-9)
    terms["loss"].backward()
    for name, value in outputs.items():
        expected = np.zeros(value.shape)
        for at in np.ndindex(*value.shape):
            for h in (1e-5, -1e-5):
                moved = {key: array.copy() for key, array in arrays.items()}
                moved[name][at] += h
                expected[at] += naive(moved, arrays) / (2 * h)
        got = np.zeros(value.shape) if value.grad is None else value.grad.numpy()
        np.testing.assert_allclose(got, expected, atol=1e-8, err_msg=name)
        assert (name in silent) == (abs(expected).max() < 1e-9) == (not got.any())
    return {name: value.item() for name, value in terms.items()}


@pytest.mark.parametrize(("step", "t"), STEPS)
def test_pi_model_against_loops(step: int, t: float) -> None:
    outputs, batch = draw_outputs("pi_model")
    naive = supervised_plus(batch.labels, TOP[t], lambda live, _: apart_from(softmax(live["u_second"]))(live, live))
    check(build("pi_model", weight=20.0, ramp=0.2), outputs, batch, step, naive)


@pytest.mark.parametrize(("step", "t"), STEPS)
def test_mean_teacher_against_loops(step: int, t: float) -> None:
    method = build("mean_teacher", weight=20.0, ramp=0.2)
    outputs, batch = draw_outputs("mean_teacher")
    teacher = linear_model(12).eval()
    views = {name: torch.randn(UNLABELED, 3, 2, 2, dtype=torch.float64) for name in ("u_weak", "u_teacher")}
    with torch.no_grad():
        prepared = method.prepare(Batch(views, batch.labels, batch.indices), None, teacher, step)
        target = softmax(teacher(views["u_teacher"]).numpy())
    assert list(prepared.inputs) == ["u_weak"] and len(views) == 2
    np.testing.assert_allclose(prepared.targets["teacher"].numpy(), target, atol=1e-9)
    assert method.pseudo_labels(outputs, prepared).classes.tolist() == [int(np.argmax(p)) for p in target]
    check(method, outputs, prepared, step, supervised_plus(batch.labels, TOP[t], apart_from(target)))


def test_temporal_ensembling_against_a_dictionary() -> None:
    method = build("temporal_ensembling", weight=20.0, momentum=0.7, ramp=0.2).double()
    visits = [[0, 1, 2, 3, 4, 5, 6], [6, 5, 7, 8, 1, 49, 9], [1, 6, 10, 8, 11, 12, 2], [6, 1, 5, 8, 49, 3, 0]]
    table, times = {}, {}
    for seed, (indices, (step, t)) in enumerate(zip([*visits, visits[3]], STEPS, strict=True)):
        outputs, batch = draw_outputs("temporal_ensembling", seed)
        batch = method.prepare(Batch({}, batch.labels, torch.tensor(indices)), None, None, step)
        counts = [i in times for i in indices]
        target = [table[i] / (1.0 - 0.7 ** times[i]) if i in times else np.zeros(CLASSES) for i in indices]
        naive = supervised_plus(batch.labels, TOP[t], apart_from(target, counts))
        terms = check(method, outputs, batch, step, naive, silent=() if seed else ("u_weak",))
        assert terms["mask"] == pytest.approx(sum(counts) / UNLABELED)
        classes, used = method.pseudo_labels(outputs, batch)
        assert used.tolist() == counts and classes[used].tolist() == [np.argmax(p) for p in target if p.any()]
        for i, z in zip(indices, softmax(outputs["u_weak"].detach().numpy()), strict=True):
            table[i] = 0.7 * table.get(i, np.zeros(CLASSES)) + 0.3 * z
            times[i] = times.get(i, 0) + 1
    assert set(times.values()) == {1, 2, 3, 4, 5} and set(method.state_dict()) == {"table", "visits"}
    assert method.visits.tolist() == [times.get(i, 0) for i in range(50)]
    np.testing.assert_allclose(method.table.numpy(), [table.get(i, np.zeros(CLASSES)) for i in range(50)], atol=1e-12)


def test_mean_teachers_teacher_is_in_training_mode_and_left_as_it_was() -> None:
    norm = nn.BatchNorm2d(3, momentum=0.5).double()
    teacher = nn.Sequential(norm, nn.Flatten(), nn.Linear(12, CLASSES)).double().eval()
    before = {key: value.clone() for key, value in teacher.state_dict().items()}
    images = 5.0 + torch.randn(UNLABELED, 3, 2, 2, dtype=torch.float64)
    views = {"u_weak": images, "u_teacher": images}
    with torch.no_grad():
        prepared = build("mean_teacher").prepare(Batch(views, images, images), None, teacher, 0)
    own = (images - images.mean(dim=(0, 2, 3), keepdim=True)) / (
        images.var(dim=(0, 2, 3), keepdim=True, unbiased=False) + norm.eps
    ).sqrt()
    expected = softmax(teacher[2](own.flatten(1)).detach().numpy())
    np.testing.assert_allclose(prepared.targets["teacher"].numpy(), expected, atol=1e-9)
    assert not teacher.training and all(before[key].equal(value) for key, value in teacher.state_dict().items())


@pytest.mark.parametrize("name", ["pi_model", "temporal_ensembling", "mean_teacher"])
def test_the_weight_is_the_papers_whatever_the_share_of_labels(name: str) -> None:
    # Theirs is weight * labeled / images, against a sum over the labeled divided by all images of the batch.
    context = RunContext(steps=1000, images=50, num_classes=CLASSES)
    outputs, batch = draw_outputs(name)
    terms = create_method(name, {name: {"weight": 20.0}}, context).loss(outputs, batch, 1000)
    theirs = 2 / 50 * terms["cross_entropy"] + 20.0 * 2 / 50 * terms["consistency"]
    assert terms["consistency"] > 0.01 and terms["loss"].item() * 2 / 50 == pytest.approx(theirs.item())


@pytest.mark.parametrize(("step", "t"), STEPS)
def test_mixmatch_against_loops(step: int, t: float) -> None:
    outputs, batch = draw_outputs("mixmatch")

    def naive(live: Arrays, stopped: Arrays) -> float:
        pairs = zip(batch.targets["x_mixed"].flatten(), np.concatenate(softmax(live["x_mixed"])), strict=True)
        consistency = apart_from(batch.targets["u_mixed"].tolist(), view="u_mixed")(live, stopped)
        return -sum(float(a) * math.log(b) for a, b in pairs) / LABELED + 20.0 * t * consistency

    check(build("mixmatch", weight=20.0, ramp=0.2), outputs, batch, step, naive, silent=() if t else ("u_mixed",))


def mixed(method: Any, seed: int, n_x: int, n_u: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mixes images that are unit vectors: a mixed one tells its share and its partner. Labels before and after."""
    n = n_x + 2 * n_u
    model, labels = linear_model(n), torch.arange(n_x) % CLASSES
    clean = torch.eye(n, dtype=torch.float64).view(n, 1, 1, n).split([n_x, n_u, n_u])
    views = dict(zip(("x_clean", "u_clean", "u_clean_2"), clean, strict=True)) | {"u_weak": clean[1]}  # another's
    torch.manual_seed(seed)
    with torch.no_grad():
        prepared = method.prepare(Batch(views, labels, torch.arange(n_u)), model, None, 0)
        pairs = zip(*(softmax(model(images).numpy()) for images in clean[1:]), strict=True)
    assert list(prepared.inputs) == ["u_weak", "x_mixed", "u_mixed"]
    powers = [[((a + b) / 2) ** (1.0 / method.temperature) for a, b in zip(p, q, strict=True)] for p, q in pairs]
    guesses = [[power / sum(row) for power in row] for row in powers]
    np.testing.assert_allclose(prepared.targets["pseudo_labels"].numpy(), guesses, atol=1e-9)
    assert method.pseudo_labels({}, prepared).classes.tolist() == [np.argmax(row) for row in guesses]
    own = np.array([[float(c == y) for c in range(CLASSES)] for y in labels] + guesses + guesses)
    assert len(prepared.inputs["x_mixed"]) == len(prepared.targets["x_mixed"]) == n_x
    images, targets = (torch.cat([part["x_mixed"], part["u_mixed"]]) for part in (prepared.inputs, prepared.targets))
    return images.flatten(1).numpy(), own, targets.numpy()


def test_mixmatch_mixes_each_image_and_its_label_with_one_other() -> None:
    shares, pairs = set(), set()
    for seed in range(10):
        images, own, targets = mixed(build("mixmatch", temperature=0.3), seed, 3, 4)
        partners = []
        for i, image in enumerate(images):
            others = [j for j in range(len(image)) if j != i and image[j] > 0]
            assert len(others) <= 1 and image.sum() == pytest.approx(1.0) and image[i] >= 0.5
            partners.append(others[0] if others else i)
            shares.add(round(image[i], 9))
            assert targets[i] == pytest.approx(image[i] * own[i] + (1.0 - image[i]) * own[partners[-1]], abs=1e-9)
            assert targets[i].min() >= 0.0 and targets[i].sum() == pytest.approx(1.0)
        assert sorted(partners) == list(range(11))
        pairs |= {(i < 3, partner) for i, partner in enumerate(partners)}
    assert len(pairs) == 2 * 11 and len(shares) > 80  # partners from both sources; a share for each image


@pytest.mark.parametrize("alpha", [0.75, 4.0])
def test_mixmatch_draws_its_shares_from_the_beta_distribution(alpha: float) -> None:
    images = mixed(build("mixmatch", alpha=alpha), 0, 300, 150)[0]
    drawn = [image[i] for i, image in enumerate(images) if image[i] < 1.0]
    assert stats.kstest(drawn, lambda x: 2.0 * stats.beta(alpha, alpha).cdf(x) - 1.0).pvalue > 0.01


def test_mixmatch_guesses_with_the_statistics_of_the_batch_and_leaves_no_trace() -> None:
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, CLASSES)).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    views = {name: torch.randn(5, 3, 2, 2) + 4.0 for name in ("x_clean", "u_clean", "u_clean_2")}
    with torch.no_grad():
        prepared = build("mixmatch").prepare(Batch(views, torch.arange(5) % 4, torch.arange(5)), model, None, 0)
        assert all(before[key].equal(value) for key, value in model.state_dict().items())
        both = model(torch.cat([views["u_clean"], views["u_clean_2"]])).softmax(dim=1)
    torch.testing.assert_close(prepared.targets["pseudo_labels"], sharpen((both[:5] + both[5:]) / 2, 0.5))


@pytest.mark.parametrize("temperature", [0.5, 0.1, 0.001])
def test_sharpened_labels_are_distributions(temperature: float) -> None:
    sharp = sharpen(torch.tensor([[0.1] * 10, [0.28] + [0.08] * 9, [1.0] + [0.0] * 9]), temperature)
    assert sharp.sum(dim=1).tolist() == pytest.approx([1.0] * 3)


def test_uda_against_loops() -> None:
    method = build("uda", threshold=0.6, temperature=0.4, weight=1.7)
    outputs, batch = draw_outputs("uda", scale=1.2)
    weak = outputs["u_weak"].detach().numpy()
    counted = [max(p) > 0.6 for p in softmax(weak)]
    assert 1 < sum(counted) < sum(max(p) > 0.6 for p in softmax(weak / 0.4))  # the plain probability is compared

    def term(live: Arrays, stopped: Arrays) -> float:
        pairs = zip(counted, softmax(stopped["u_weak"] / 0.4), softmax(live["u_strong"]), strict=True)
        return sum(divergence(p, q) for counts, p, q in pairs if counts) / UNLABELED

    terms = check(method, outputs, batch, 0, supervised_plus(batch.labels, 1.7, term), silent=("u_weak",))
    assert terms["mask"] == pytest.approx(sum(counted) / UNLABELED)
    classes, used = method.pseudo_labels(outputs, batch)
    assert used.tolist() == counted and classes.tolist() == weak.argmax(axis=1).tolist()


def test_freematch_against_loops() -> None:
    method = build("freematch", momentum=0.6, weight=1.7, fairness=0.9).double()
    tau, p, histogram = 1 / CLASSES, [1 / CLASSES] * CLASSES, [1 / CLASSES] * CLASSES
    between = absent = 0
    for step in range(6):
        outputs, batch = draw_outputs("freematch", step, scale=1.0)
        with torch.no_grad():
            outputs["u_weak"][:, 0] += 1.5  # the classes differ
            outputs["u_strong"][:, 3] -= 9.0 * (step > 3)
        weak = softmax(outputs["u_weak"].detach().numpy())
        pseudo_labels = [int(np.argmax(q)) for q in weak]
        tau = 0.6 * tau + 0.4 * sum(max(q) for q in weak) / UNLABELED
        p = [0.6 * p[c] + 0.4 * sum(q[c] for q in weak) / UNLABELED for c in range(CLASSES)]
        histogram = [0.6 * histogram[c] + 0.4 * pseudo_labels.count(c) / UNLABELED for c in range(CLASSES)]
        thresholds = [tau * p[c] / max(p) for c in range(CLASSES)]
        counted = [i for i, q in enumerate(weak) if max(q) >= thresholds[pseudo_labels[i]]]
        before = np.divide(p, histogram)

        def term(live: Arrays, _: Arrays, of=counted, pseudo_labels=pseudo_labels, before=before) -> float:
            strong = softmax(live["u_strong"])
            unlabeled = -sum(math.log(strong[i][pseudo_labels[i]]) for i in of) / UNLABELED
            classes = [int(np.argmax(strong[i])) for i in of]
            now = [sum(strong[i][c] for i in of if c in classes) / max(classes.count(c), 1) for c in range(CLASSES)]
            fairness = sum(before[c] / sum(before) * math.log(now[c] / sum(now) + 1e-12) for c in range(CLASSES))
            return 1.7 * unlabeled + 0.9 * fairness  # -H(., .): eq. 11; absent classes and 1e-12: the authors' code

        terms = check(method, outputs, batch, step, supervised_plus(batch.labels, 1.0, term), silent=("u_weak",))
        assert terms["mask"] == pytest.approx(len(counted) / UNLABELED)
        kept = torch.cat([method.tau.view(1), method.thresholds(), method.p, method.histogram]).tolist()
        assert [terms["threshold"], *kept] == pytest.approx([tau, tau, *thresholds, *p, *histogram])
        assert method.pseudo_labels(outputs, batch).mask.nonzero().flatten().tolist() == counted
        between += any(max(weak[i]) < tau for i in counted) * (len(counted) < UNLABELED)  # tau alone would differ
        absent += len({int(outputs["u_strong"][i].argmax()) for i in counted}) < CLASSES
    assert between and absent and set(method.state_dict()) == {"tau", "p", "histogram"}


@pytest.mark.parametrize("momentum", [0.0, 1.0])
def test_freematch_where_a_class_was_never_given_or_no_image_counts(momentum: float) -> None:
    method = build("freematch", momentum=momentum, fairness=1.0)
    outputs, batch = draw_outputs("freematch")
    outputs["u_weak"].data[:, 2] = -9.0
    method.tau.fill_(1.0)  # with momentum 1 it stays, and p is uniform: only a probability of 1 counts
    terms = method.loss(outputs, batch, 0)
    terms["loss"].backward()
    assert all(value.isfinite() for value in terms.values()) and outputs["u_strong"].grad.isfinite().all()
    assert outputs["u_strong"].grad.any() == (terms["mask"] > 0) == (momentum == 0.0)
    assert momentum == 0.0 or (terms["fairness"] == 0.0 and terms["loss"].equal(terms["cross_entropy"]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", OUTPUTS)
def test_half_precision_outputs_give_the_loss_of_float32(name: str, dtype: torch.dtype) -> None:
    outputs, batch = draw_outputs(name)
    rare = torch.tensor([0.0, 0.0, 0.0, 9.0])  # a class of no image
    halves = {view: (value.detach() - rare).to(dtype).requires_grad_() for view, value in outputs.items()}
    expected = build(name).loss({view: value.float() for view, value in halves.items()}, batch, 900)
    with torch.autocast("cpu", dtype=dtype):
        terms = build(name).loss(halves, batch, 900)
    terms["loss"].backward()
    assert {key: v.item() for key, v in terms.items()} == pytest.approx({key: v.item() for key, v in expected.items()})
    assert all(value.grad is None or value.grad.isfinite().all() for value in halves.values())


def test_ramps() -> None:
    over = (0, 50, 100, 200, 201, 1000)
    assert [linear_rampup(step, 1000, 0.2) for step in over] == pytest.approx([0, 0.25, 0.5, 1, 1, 1])
    assert [math.log(sigmoid_rampup(step, 1000, 0.2)) for step in over] == pytest.approx(
        [-5, -45 / 16, -5 / 4, 0, 0, 0]
    )
    assert linear_rampup(500, 1000, 1.0) == 0.5 and sigmoid_rampup(500, 1000, 1.0) == pytest.approx(math.exp(-5 / 4))
    assert [ramp(step, 1000, 0.0) for ramp in (sigmoid_rampup, linear_rampup) for step in (0, 1, 1000)] == [1.0] * 6


WRONG = {f"{name}.weight": [-0.1, math.nan] for name in OUTPUTS} | {
    **{f"{name}.ramp": [-0.1, 1.1] for name in ("pi_model", "temporal_ensembling", "mean_teacher", "mixmatch")},
    **{"temporal_ensembling.momentum": [-0.1, 1.0, 1.1, math.nan], "freematch.momentum": [-0.1, 1.1, math.nan]},
    **{option: [0.0, -1.0] for option in ("vat.xi", "mixmatch.alpha", "mixmatch.temperature", "uda.temperature")},
    **{option: [-0.1] for option in ("vat.epsilon", "vat.entropy_weight", "freematch.fairness")},
    **{"vat.iterations": [0], "uda.threshold": [-0.1, 1.1]},
}
CASES = [(option, value) for option in WRONG for value in WRONG[option]]


@pytest.mark.parametrize(("option", "value"), CASES)
def test_options_out_of_range_are_refused_by_name(option: str, value: float) -> None:
    name, key = option.split(".")
    with pytest.raises(InputError, match=rf"^{name}\.{key}="):
        build(name, **{key: value})
