"""What the loop makes of what a method says: groups of views, and what a method may not have."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from muscle_zoo import InputError, get_recipe
from muscle_zoo.data import Batches
from muscle_zoo.engine.build import prepare_data
from muscle_zoo.engine.teacher import load_teacher
from muscle_zoo.engine.trainer import forward
from muscle_zoo.methods import (
    METHODS,
    Batch,
    Group,
    Method,
    RunContext,
    View,
    create_method,
    method_names,
    with_muscle,
)
from muscle_zoo.methods.base import same_dropout
from muscle_zoo.methods.supervised import Supervised
from tests.conftest import network_of, taught
from tests.test_engine import run, short


def grouped(groups: dict[str, Group]) -> tuple[nn.Module, dict[str, Tensor]]:
    """A network with BatchNorm and dropout, after a forward of two views in the groups given."""
    model = nn.Sequential(nn.Conv2d(1, 3, 1), nn.BatchNorm2d(3, momentum=1.0), nn.Dropout(0.5), nn.Flatten())
    views = {"a": torch.randn(4, 1, 2, 2, generator=torch.Generator().manual_seed(0))}
    views["b"] = 3.0 + views["a"]
    torch.manual_seed(0)
    outputs, _ = forward(model, model, Method(), Batch(views, torch.arange(4), torch.arange(4), groups=groups), 0)
    return model, outputs


def test_groups_are_normalized_apart_and_draw_the_same_dropout() -> None:
    _, together = grouped({})
    assert not torch.allclose(together["a"], together["b"])
    _, apart = grouped({"b": Group(1)})
    assert list(apart) == ["a", "b"]
    # What a norm takes off is all that the views differ in.
    assert torch.allclose(apart["a"], apart["b"], atol=1e-5) and (apart["a"] == 0).equal(apart["b"] == 0)
    assert 0 < (apart["a"] == 0).sum() < apart["a"].numel()


def test_a_still_group_leaves_the_running_statistics_alone() -> None:
    first, second = grouped({"b": Group(1, still=True)})[0][1], grouped({"a": Group(0, still=True)})[0][1]
    moved = grouped({"b": Group(1)})[0][1]  # twice, and the second time is what a momentum of 1 keeps
    assert torch.allclose(second.running_mean, moved.running_mean)
    assert not torch.allclose(first.running_mean, second.running_mean, atol=0.1)
    assert first.num_batches_tracked == second.num_batches_tracked == 1 and first.track_running_stats


def test_what_is_drawn_for_the_same_dropout_is_drawn_again() -> None:
    torch.manual_seed(0)
    with same_dropout(torch.device("cpu")):
        first = torch.rand(3)
    assert torch.rand(3).equal(first)


@pytest.mark.parametrize("base", [name for name in METHODS if with_muscle(name) in method_names()])
def test_muscles_strong_view_does_not_touch_what_the_base_is_normalized_with(base: str) -> None:
    method = create_method(with_muscle(base))
    assert {name: method.views[name] for name in METHODS[base].views} == dict(METHODS[base].views)
    strong = method.views["u_strong"]
    if "u_strong" in METHODS[base].views or base == "supervised":
        assert strong == View("unlabeled", "strong")  # the base's own; or there is nothing that it could touch
        return
    assert strong == View("unlabeled", "strong", group=-1, still=True)
    recipe = get_recipe(f"cnn4.{with_muscle(base)}_digits_10", {"batch_size": 8, "mu": 2, **taught(base)})
    data = prepare_data(recipe)
    model, teacher = network_of(recipe, data, method), network_of(recipe, data, method)
    batch = Batches(recipe, data.dataset.train, data.dataset.info, data.split, method.views).at(0)
    states, outputs = [], []
    for inputs in (batch.inputs, {**batch.inputs, "u_strong": 5.0 + batch.inputs["u_strong"].flip(0)}):
        torch.manual_seed(0)
        run_on = copy.deepcopy(model)
        views = dataclasses.replace(batch, inputs=inputs)
        outputs.append(forward(run_on, teacher, method, views, 0, load_teacher(recipe, method, data.dataset.info))[0])
        states.append({name: buffer.clone() for name, buffer in run_on.named_buffers()})
    assert not outputs[0].pop("u_strong").equal(outputs[1].pop("u_strong"))
    assert outputs[0] and all(outputs[0][name].equal(outputs[1][name]) for name in outputs[0])
    assert all(states[0][name].equal(states[1][name]) for name in states[0])


def test_a_method_with_parameters_of_its_own_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class WithHead(Supervised):
        def __init__(self, context: RunContext | None = None) -> None:
            super().__init__()
            self.rotation = nn.Linear(4, 4)

    monkeypatch.setitem(METHODS, "supervised", WithHead)
    for method in ("supervised", "muscle"):
        with pytest.raises(InputError, match=r"rotation\.weight.*keep what lasts from step to step in buffers"):
            run(short(method), tmp_path / method)


def test_another_version_is_never_trained_under_its_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="version=1: this code trains version 2 of muscle_vat"):
        run(short("muscle_vat", version=1), tmp_path / "run")
    with pytest.raises(InputError, match="version=2: this code trains version 1 of fixmatch"):
        run(short("fixmatch", version=2), tmp_path / "run")
