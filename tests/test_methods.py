from __future__ import annotations

import doctest
import importlib
import math
import re
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from muscle_zoo import InputError, get_recipe, methods
from muscle_zoo.data import Batches
from muscle_zoo.engine.build import build_model, prepare_data
from muscle_zoo.engine.nets import TrainedNets
from muscle_zoo.engine.teacher import load_teacher
from muscle_zoo.engine.trainer import forward
from muscle_zoo.losses import PseudoLabelLoss
from muscle_zoo.losses.mutual_information import mutual_information
from muscle_zoo.methods import (
    METHODS,
    Batch,
    Method,
    Muscle,
    Nets,
    RunContext,
    View,
    create_method,
    default_options,
    has_own_backward,
    list_methods,
    method_names,
    takes_steps,
    trains_classifier,
    with_muscle,
)
from muscle_zoo.methods.base import frozen_statistics
from muscle_zoo.methods.fixmatch import FixMatch
from muscle_zoo.methods.supervised import Supervised
from tests.conftest import network_of, taught, train_step

CLASSIFIERS = [name for name in METHODS if trains_classifier(name) and takes_steps(name)]


def softmax(logits: np.ndarray) -> np.ndarray:
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


def naive_pseudo_label(weak: np.ndarray, strong: np.ndarray, threshold: float) -> tuple[float, float]:
    total, used = 0.0, 0
    for p, q in zip(softmax(weak), softmax(strong), strict=True):
        if max(p) >= threshold:
            total -= math.log(q[int(np.argmax(p))])
            used += 1
    return total / len(weak), used / len(weak)


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.95])
def test_pseudo_label_loss_against_loops(threshold: float) -> None:
    rng = np.random.default_rng(0)
    weak, strong = rng.normal(size=(2, 50, 6)) * 3
    loss, mask = PseudoLabelLoss(threshold)(torch.from_numpy(weak), torch.from_numpy(strong))
    expected, used = naive_pseudo_label(weak, strong, threshold)
    assert 0 < used < 1
    assert loss.item() == pytest.approx(expected, abs=1e-12)
    assert mask.mean().item() == pytest.approx(used)


def test_a_guess_counts_from_its_threshold_on_and_udas_above_it() -> None:
    even = torch.zeros(3, 2)  # a probability of one half, exactly
    for threshold, counts in ((0.5, 1.0), (0.5 + 1e-6, 0.0)):
        assert PseudoLabelLoss(threshold)(even, even)[1].tolist() == [counts] * 3
        assert PseudoLabelLoss()(even, even, torch.full((2,), threshold))[1].tolist() == [counts] * 3
    outputs, batch = dict.fromkeys(METHODS["uda"].views, even), Batch({}, torch.zeros(3).long(), torch.arange(3))
    for threshold, counts in ((0.5, 0.0), (0.5 - 1e-6, 1.0)):
        assert create_method("uda", {"uda": {"threshold": threshold}}).loss(outputs, batch, 0)["mask"] == counts


def test_parts_of_a_batch_are_of_the_same_images_in_every_view() -> None:
    labeled, unlabeled = torch.arange(6), torch.arange(100, 112)
    views = {"x_weak": labeled, "u_weak": unlabeled, "u_strong": -unlabeled}
    parts = Batch(views, 10 * labeled, 1000 + unlabeled).micro_batches(3)
    for i, part in enumerate(parts):
        x, u = labeled[2 * i : 2 * i + 2], unlabeled[4 * i : 4 * i + 4]
        assert {name: view.tolist() for name, view in part.inputs.items()} == {
            "x_weak": x.tolist(),
            "u_weak": u.tolist(),
            "u_strong": (-u).tolist(),
        }
        assert part.labels.equal(10 * x) and part.indices.equal(1000 + u)
    assert len(parts) == 3
    alone = Batch({"x_weak": labeled}, labeled, torch.empty(0, dtype=torch.int64)).micro_batches(2)
    assert [len(part.labels) for part in alone] == [3, 3] and not any(len(part.indices) for part in alone)


def test_no_gradient_flows_through_the_guess() -> None:
    weak, strong = (torch.randn(20, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    PseudoLabelLoss(0.3)(weak, strong)[0].backward()
    assert weak.grad is None
    assert strong.grad is not None and strong.grad.abs().sum() > 0


def random_outputs(method: nn.Module, n: int = 12, classes: int = 5) -> tuple[dict[str, Tensor], Batch]:
    generator = torch.Generator().manual_seed(0)
    outputs = {
        name: (3 * torch.randn(n, classes, generator=generator, dtype=torch.float64)).requires_grad_()
        for name in method.views
    }
    labels = torch.randint(classes, (n,), generator=generator)
    return outputs, Batch({}, labels, torch.arange(n))


def test_fixmatch_against_loops() -> None:
    method = FixMatch(threshold=0.6, weight=0.7)
    outputs, batch = random_outputs(method)
    terms = method.loss(outputs, batch, 0)
    arrays = {name: value.detach().numpy() for name, value in outputs.items()}
    supervised = -np.mean([math.log(p[y]) for p, y in zip(softmax(arrays["x_weak"]), batch.labels, strict=True)])
    unlabeled, used = naive_pseudo_label(arrays["u_weak"], arrays["u_strong"], 0.6)
    assert terms["loss"].item() == pytest.approx(supervised + 0.7 * unlabeled, abs=1e-6)
    assert terms["mask"].item() == pytest.approx(used)
    assert 0 < used < 1


def test_muscle_adds_the_weighted_term() -> None:
    method = Muscle(Supervised(), weight=0.3)
    outputs, batch = random_outputs(method)
    terms = method.loss(outputs, batch, 0)
    assert terms["loss"].item() == pytest.approx((terms["cross_entropy"] - 0.3 * terms["mi"]).item(), abs=1e-9)
    terms["loss"].backward()
    assert all(value.grad is not None and value.grad.abs().sum() > 0 for value in outputs.values())


def test_the_weight_ramps_up() -> None:
    context = RunContext(steps=20)
    method = Muscle(Supervised(), weight=2.0, ramp=0.2, context=context)
    assert [method.weight_at(step) for step in (0, 1, 3, 4, 19)] == [0.5, 1.0, 2.0, 2.0, 2.0]
    method = Muscle(Supervised(), weight=2.0, start=0.5, ramp=0.2, context=context)
    assert [method.weight_at(step) for step in (0, 9, 10, 11, 13, 14, 19)] == [0.0, 0.0, 0.5, 1.0, 2.0, 2.0, 2.0]
    method = Muscle(Supervised(), start=0.5, context=context)
    assert [method.weight_at(step) for step in (0, 9, 10, 19)] == [0.0, 0.0, 1.0, 1.0]
    method = Muscle(Supervised(), weight=2.0, start=0.25, end=0.5, context=context)
    assert [method.weight_at(step) for step in (0, 4, 5, 9, 10, 19)] == [0.0, 0.0, 2.0, 2.0, 0.0, 0.0]
    assert Muscle(Supervised(), weight=2.0).weight_at(0) == 2.0
    assert Muscle(Supervised(), start=1.0, context=context).weight_at(19) == 0.0


def test_the_temperature_divides_the_logits_inside_the_term_alone() -> None:
    method = Muscle(Supervised(), temperature=0.5)
    outputs, batch = random_outputs(method)
    terms = method.loss(outputs, batch, 0)
    p, q = ((outputs[view] / 0.5).softmax(dim=-1) for view in ("u_weak", "u_strong"))
    expected = Supervised().loss(outputs, batch, 0)["loss"] - mutual_information(p, q)
    assert terms["loss"].item() == pytest.approx(expected.item(), abs=1e-12)


def test_every_method_is_in_the_file_of_its_name() -> None:
    assert list_methods() == list(METHODS) and method_names() == [*METHODS, *map(with_muscle, CLASSIFIERS)]
    files = {path.stem for path in Path(methods.__file__).parent.glob("[!_]*.py")}
    assert files == {*METHODS, "base", "muscle", "logistic"}
    for name, method in METHODS.items():
        assert method.__module__ == f"muscle_zoo.methods.{name}"


PAPERS = [f"methods.{name}" for name in ("muscle", *METHODS)]


@pytest.mark.parametrize("module", ["methods", "recipes.recipe", "recipes.names", "data.datasets", *PAPERS])
def test_examples_run(module: str) -> None:
    results = doctest.testmod(importlib.import_module(f"muscle_zoo.{module}"))
    assert results.attempted and not results.failed


def test_the_readmes_method_is_one_file_and_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    text = Path(methods.__file__).with_name("README.md").read_text(encoding="utf-8")
    (source,) = re.findall(r"```python\n(.*?)```", text, flags=re.S)
    ((name, class_name),) = re.findall(r'^ {8}"(\w+)": "(\w+)",$', text, flags=re.M)
    module = ModuleType(f"muscle_zoo.methods.{name}")
    module.__package__ = "muscle_zoo.methods"  # as for a file in that folder
    exec(compile(source, f"{name}.py", "exec"), vars(module))
    monkeypatch.setattr(methods, "METHODS", {**METHODS, name: getattr(module, class_name)})
    assert name in list_methods()
    for method_name in (name, with_muscle(name)):
        recipe = get_recipe(f"cnn4.{method_name}_digits_10", {"batch_size": 8, "mu": 2, f"{name}.weight": 0.5})
        method = create_method(recipe.method, recipe.options)
        data = prepare_data(recipe)
        model = build_model(recipe, data.dataset)
        batch = Batches(recipe, data.dataset.train, data.dataset.info, data.split, method.views).at(0)
        terms = train_step(model, model, method, batch, 0)
        expected = terms["cross_entropy"] + 0.5 * terms["entropy"] - terms.get("mi", 0.0)
        assert terms["loss"].item() == pytest.approx(expected.item(), abs=1e-5)
        terms["loss"].backward()
        assert all(parameter.grad.abs().sum() > 0 for parameter in model.parameters())
    with pytest.raises(InputError, match=f"{name}.weight"):
        create_method(name, {name: {"weight": -1.0}})


SETTING = RunContext(steps=1000, images=1437, num_classes=10)
# At thresholds of their own no pseudo-label would count in so few steps.
EAGER = {
    name: {"threshold": 0.1}
    for name in ("fixmatch", "uda", "pseudo_label", "simmatch", "comatch", "self_meta_pseudo_labels")
}
EAGER["uncertainty_mean_teacher"] = {"share": 1.0}
EAGER["robust_self_training"] = {"threshold": 0.1, "start": 0.0, "iterations": 2}


class WithViews(Method):
    """A base that also asks for MUSCLE's views, so that the forward is the same."""

    def parts(self, context: RunContext) -> dict[str, nn.Module]:
        return self.base.parts(context)

    def backward(self, terms: dict[str, Tensor], nets: Nets) -> None:
        self.base.backward(terms, nets)

    def __init__(self, base: Method) -> None:
        super().__init__()
        self.base = base
        self.views, self.needs = Muscle(base).views, Muscle(base).needs

    def prepare(self, batch: Batch, model: nn.Module, teacher: nn.Module, step: int) -> Batch:
        return self.base.prepare(batch, model, teacher, step)

    def loss(self, outputs: dict[str, Tensor], batch: Batch, step: int) -> dict[str, Tensor]:
        return self.base.loss(outputs, batch, step)


@pytest.mark.parametrize("base_name", CLASSIFIERS)
def test_with_weight_0_muscle_equals_its_base_bit_for_bit(base_name: str) -> None:
    recipe = get_recipe("cnn4.muscle_fixmatch_digits_10", {"batch_size": 8, "mu": 2})
    data = prepare_data(recipe)
    dataset, split = data.dataset, data.split
    results = []
    for wrap in (WithViews, lambda base: Muscle(base, weight=0.0)):
        method = wrap(create_method(base_name, EAGER, SETTING))
        model, teacher = network_of(recipe, data, method), network_of(recipe, data, method).eval()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        batches = Batches(recipe, dataset.train, dataset.info, split, method.views)
        frozen = load_teacher(replace(recipe, **taught(base_name)), method, dataset.info)
        gradients = []
        for step in range(3):
            torch.manual_seed(step)  # as the loop does: what a method draws
            terms = train_step(model, teacher, method, batches.at(step), step, frozen)
            optimizer.zero_grad()
            method.backward(terms, TrainedNets(model))
            gradients += [parameter.grad.clone() for parameter in model.parameters()]
            optimizer.step()
        results.append(
            [*gradients, *model.state_dict().values(), *method.state_dict().values(), terms["loss"].detach()]
        )
    assert all(a.equal(b) for a, b in zip(*results, strict=True))


def test_muscle_of_weight_1_differs_from_its_base() -> None:
    method = Muscle(Supervised(), weight=1.0)
    outputs, batch = random_outputs(method)
    assert method.loss(outputs, batch, 0)["loss"].item() != Supervised().loss(outputs, batch, 0)["loss"].item()


def test_the_control_names_no_unlabeled_view() -> None:
    assert {view.source for view in create_method("supervised").views.values()} == {"labeled"}


@pytest.mark.parametrize("name", [name for name in method_names() if takes_steps(name)])
def test_every_method_takes_steps(name: str) -> None:
    method = create_method(name, default_options(name) | EAGER, SETTING)
    assert all(isinstance(view, View) for view in method.views.values())
    assert isinstance(method, Muscle) == name.startswith("muscle")
    recipe = get_recipe(f"cnn4.{name}_digits_10", {"batch_size": 8, "mu": 2, **taught(name)})
    data = prepare_data(recipe)
    model, teacher = network_of(recipe, data, method), network_of(recipe, data, method).eval()
    frozen = load_teacher(recipe, method, data.dataset.info)
    batches = Batches(recipe, data.dataset.train, data.dataset.info, data.split, method.views)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model.train()
    for step in (0, 500, 999):
        forwards: list[int] = []
        backbone = getattr(model, "backbone", model)
        layer = next(layer for layer in backbone.modules() if isinstance(layer, nn.Conv2d))  # whatever is asked of it
        hook = layer.register_forward_hook(lambda module, inputs, out, seen=forwards: seen.append(out.requires_grad))
        before = {key: value.clone() for key, value in model.named_parameters()}
        terms = train_step(model, teacher, method, batches.at(step), step, frozen)
        hook.remove()
        assert forwards[-1] and terms["loss"].requires_grad
        own = has_own_backward(method)  # which may need other terms' gradients
        assert own or not any(value.requires_grad for key, value in terms.items() if key != "loss")
        assert all(value.ndim == 0 and bool(value.isfinite()) for value in terms.values())
        optimizer.zero_grad()
        method.backward(terms, TrainedNets(model))
        optimizer.step()
        assert not any(before[key].equal(value) for key, value in model.named_parameters())
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert not list(method.parameters())  # what a method keeps are its buffers


@pytest.mark.parametrize(
    "name", [name for name, method in METHODS.items() if method.pseudo_labels is not Method.pseudo_labels]
)
def test_guesses_are_of_the_unlabeled_images(name: str) -> None:
    recipe = get_recipe(f"cnn4.{name}_digits_10", {"batch_size": 8, "mu": 2, **taught(name)})
    data = prepare_data(recipe)
    method = Muscle(create_method(name, EAGER, SETTING))
    model = network_of(recipe, data, method)
    batches = Batches(recipe, data.dataset.train, data.dataset.info, data.split, method.views)
    for step in range(2):
        frozen = load_teacher(recipe, method, data.dataset.info)
        outputs, batch = forward(model, model, method, batches.at(0), step, frozen)  # again: the ensemble has seen it
        method.loss(outputs, batch, step)
    classes, used = method.pseudo_labels(outputs, batch)
    assert classes.shape == used.shape == (16,)
    assert used.dtype == torch.bool and used.any() and int(classes.max()) < 10


def test_frozen_statistics_normalize_but_leave_no_trace() -> None:
    norm = nn.BatchNorm2d(3)
    x = torch.randn(8, 3, 4, 4)
    expected = nn.BatchNorm2d(3)(x)
    before = {key: value.clone() for key, value in norm.state_dict().items()}
    with frozen_statistics(norm):
        assert norm(x).equal(expected)
    assert all(before[key].equal(value) for key, value in norm.state_dict().items())
    norm(x)
    assert not before["running_mean"].equal(norm.running_mean)


def test_a_training_step_is_one_forward_and_moves_every_parameter() -> None:
    recipe = get_recipe("cnn4.muscle_fixmatch_digits_10", {"batch_size": 8, "mu": 2})
    data = prepare_data(recipe)
    dataset, split = data.dataset, data.split
    model = build_model(recipe, dataset)
    method = create_method(recipe.method, recipe.options)
    sizes: list[int] = []
    model.register_forward_hook(lambda module, args, output: sizes.append(len(args[0])))
    batch = Batches(recipe, dataset.train, dataset.info, split, method.views).at(0)
    train_step(model, model, method, batch, 0)["loss"].backward()
    assert sizes == [8 + 16 + 16]
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in model.parameters())


class Prepared(Supervised):
    """Adds an input in ``prepare``, as methods that mix images do."""

    def prepare(self, batch: Batch, model: nn.Module, teacher: nn.Module, step: int) -> Batch:
        assert not torch.is_grad_enabled()
        targets = {"pseudo_labels": teacher(batch.inputs["x_weak"]).argmax(dim=1)}
        return Batch({**batch.inputs, "mixed": batch.inputs["x_weak"].flip(0)}, batch.labels, batch.indices, targets)

    def loss(self, outputs: dict[str, Tensor], batch: Batch, step: int) -> dict[str, Tensor]:
        terms = super().loss(outputs, batch, step)
        terms["loss"] = terms["loss"] + nn.functional.cross_entropy(outputs["mixed"], batch.targets["pseudo_labels"])
        return terms


@pytest.mark.parametrize("wrap", [lambda base: base, Muscle])
def test_prepare_may_add_inputs_and_targets(wrap) -> None:
    recipe = get_recipe("cnn4.muscle_digits_10", {"batch_size": 8, "mu": 2})
    data = prepare_data(recipe)
    dataset, split = data.dataset, data.split
    model = build_model(recipe, dataset)
    method = wrap(Prepared())
    batch = Batches(recipe, dataset.train, dataset.info, split, method.views).at(0)
    train_step(model, model, method, batch, 0)["loss"].backward()


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("fixmatch", {"fixmatch": {"threshold": 1.5}}, "fixmatch.threshold=1.5"),
        ("fixmatch", {"fixmatch": {"threshold": 0.0}}, "fixmatch.threshold=0.0"),
        ("fixmatch", {"fixmatch": {"weight": -1.0}}, "fixmatch.weight"),
        ("muscle", {"muscle": {"weight": -1.0}}, "muscle.weight"),
        ("muscle", {"muscle": {"lambda_": 0.0}}, "muscle.lambda_"),
        ("muscle", {"muscle": {"ramp": 1.5}}, "muscle.ramp"),
        ("muscle", {"muscle": {"start": -0.1}}, "muscle.start"),
        ("muscle", {"muscle": {"end": 1.1}}, "muscle.end=1.1"),
        ("muscle", {"muscle": {"end": 0.2, "start": 0.2}}, "muscle.end=0.2"),
        ("muscle", {"muscle": {"temperature": 0.0}}, "muscle.temperature"),
        ("fixmach", {}, "'fixmatch'"),
        ("muscle_supervised", {}, "'supervised'"),
    ],
)
def test_wrong_options(name: str, options: dict[str, dict[str, float]], says: str) -> None:
    with pytest.raises(InputError, match=says):
        create_method(name, options)
