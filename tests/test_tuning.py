"""Fine-tuning: what is not trained is left as it is, in the network, the optimizer, the averages and the state."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from muscle_zoo import InputError, get_recipe
from muscle_zoo.engine.build import build_model, build_optimizer, prepare_data
from muscle_zoo.engine.fit import data_of_run
from muscle_zoo.engine.options import RunOptions
from muscle_zoo.engine.run_folder import RunFolder
from muscle_zoo.engine.schedule import learning_rate
from muscle_zoo.engine.stop import StopSignal
from muscle_zoo.engine.trainer import Trainer
from muscle_zoo.engine.tuning import Probe
from muscle_zoo.recipes import Recipe
from tests.test_engine import equal, final_state, log_without_times, run

IMAGES = "synthetic:3x32x32x4"
SMALL = {"batch_size": 4, "mu": 2, "lr": 0.05, "weight_decay": 0.5, "ema_decay": 0.5}


def tuned(arch: str = "test_resnet", method: str = "muscle_fixmatch", **overrides: Any) -> Recipe:
    return get_recipe(f"{arch}.{method}_{IMAGES}_8", {**SMALL, **overrides})


def trainer_of(recipe: Recipe, folder: Path) -> Trainer:
    trainer = Trainer(recipe, prepare_data(recipe), RunOptions(cpu=True).accelerator(RunFolder(folder)))
    trainer.model.train()
    return trainer


def copied(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def moved(before: dict[str, Tensor], model: nn.Module) -> set[str]:
    return {name for name, value in model.state_dict().items() if not value.equal(before[name])}


def groups_of(arch: str, names: Any) -> set[int]:
    model = timm.create_model(arch)
    groups = timm.models.group_parameters(model, model.group_matcher(coarse=False), reverse=True)
    norms = {name.rpartition(".")[0]: group for name, group in groups.items()}
    return {groups[name] if name in groups else norms[name.rpartition(".")[0]] for name in names}


# SGD's momentum and AdamW's weight decay move whatever they are given, with or without a gradient.
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize(
    ("arch", "last", "count"),
    [("test_resnet", 5, 1), ("test_resnet", 5, 3), ("test_efficientnet", 6, 2), ("cnn4", 4, 2)],
)
def test_what_is_not_tuned_is_left_alone(arch: str, last: int, count: int, optimizer: str, tmp_path: Path) -> None:
    trainer = trainer_of(tuned(arch, tune=f"last:{count}", optimizer=optimizer, lr=0.01), tmp_path)
    networks = (trainer.network, trainer.ema.module)
    before = copied(trainer.network)
    for step in range(3):
        trainer.step(step, trainer.batches.at(step))
    for network in networks:
        changed = moved(before, network)
        assert groups_of(arch, changed) == set(range(last - count, last + 1))
        assert changed >= {n for n in before if groups_of(arch, [n]) <= set(range(last - count, last + 1))}
    optimized = {id(p) for group in trainer.optimizer.param_groups for p in group["params"]}
    names = {name for name, parameter in trainer.network.named_parameters() if id(parameter) in optimized}
    assert groups_of(arch, names) == set(range(last - count, last + 1))


def test_all_is_what_it_was_before_there_was_a_choice(tmp_path: Path) -> None:
    trainer = trainer_of(tuned(), tmp_path)
    before = copied(trainer.network)
    for step in range(3):  # blocks that begin as the identity move with the second
        trainer.step(step, trainer.batches.at(step))
    assert moved(before, trainer.network) == set(before)
    assert all(parameter.requires_grad for parameter in trainer.network.parameters())


@pytest.mark.parametrize("arch", ["test_resnet", "test_efficientnet"])
def test_frozen_batchnorm_keeps_its_statistics_and_learns_its_weights(arch: str, tmp_path: Path) -> None:
    trainer = trainer_of(tuned(arch, frozen_batchnorm=True), tmp_path)
    before = copied(trainer.network)
    for step in range(3):
        trainer.step(step, trainer.batches.at(step))
    changed = moved(before, trainer.network)
    assert changed == set(dict(trainer.network.named_parameters()))
    assert (
        trainer.network.state_dict().keys()
        == build_model(tuned(arch), prepare_data(tuned(arch)).dataset).state_dict().keys()
    )
    whole, images = trainer.network.train(), torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        assert whole(images)[:1].allclose(whole(images[:1]), atol=1e-5)  # each image by itself


def test_the_classifier_first_and_alone(tmp_path: Path) -> None:
    trainer = trainer_of(tuned(probe_steps=3, optimizer="adamw", lr=0.01), tmp_path)
    before = copied(trainer.network)
    for step in range(3):
        trainer.step(step, trainer.batches.at(step))
        trainer.network.train()  # as an evaluation leaves it
    assert moved(before, trainer.network) == {"fc.weight", "fc.bias"} == moved(before, trainer.ema.module)
    assert len(trainer.optimizer.optimizer.state) == 2
    for step in range(3, 6):
        trainer.step(step, trainer.batches.at(step))
    assert moved(before, trainer.network) == set(before)
    counts = {int(state["step"]) for state in trainer.optimizer.optimizer.state.values()}
    assert counts == {3, 6}


@pytest.mark.parametrize(
    ("method", "tune", "spared"),
    [("muscle_fixmatch", "last:2", True), ("s4l", "all", True), ("mp_ssl", "all", False)],
)
def test_the_probe_has_no_backward_pass_through_the_backbone(
    method: str, tune: str, spared: bool, tmp_path: Path
) -> None:
    """Against one with all gradients, of which most are dropped: the same bits. mp_ssl weighs by the backbone's."""
    recipe = tuned(method=method, probe_steps=2, optimizer="adamw", lr=0.01, tune=tune, drop_rate=0.2)
    trainers = [trainer_of(recipe, tmp_path / name) for name in ("own", "dropped")]
    trainers[1].probe = Probe(trainers[1].network, recipe, all_gradients=True)
    passes = [0, 0]  # back through the last convolution
    for number, trainer in enumerate(trainers):

        def count(_: Tensor, number: int = number) -> None:
            passes[number] += 1

        next(p for p in reversed(list(trainer.network.parameters())) if p.ndim == 4).register_hook(count)
        for step in range(4):
            trainer.step(step, trainer.batches.at(step))
    assert passes == ([2, 4] if spared else [passes[1]] * 2) and passes[1] >= 4
    for networks in zip(*((trainer.network, trainer.ema.module) for trainer in trainers), strict=True):
        states = [network.state_dict() for network in networks]
        assert all(value.equal(states[1][name]) for name, value in states[0].items())


def test_the_probe_is_logistic_regression_on_the_features(tmp_path: Path) -> None:
    """Against a loop of its own: features of the network in evaluation mode, and a linear layer."""
    recipe = tuned(
        method="supervised", probe_steps=5, steps=6, lr=0.1, probe_lr=0.03, optimizer="momentum", weak="none"
    )
    trainer = trainer_of(recipe, tmp_path)
    network = build_model(recipe, prepare_data(recipe).dataset).eval()
    layer = network.get_classifier()
    optimizer = torch.optim.SGD(
        [{"params": [layer.weight], "weight_decay": 0.5}, {"params": [layer.bias]}], lr=0.03, momentum=0.9
    )
    for step in range(5):
        batch = trainer.batches.at(step)
        (images,) = batch.inputs.values()
        trainer.step(step, batch)
        with torch.no_grad():
            features = network.forward_head(network.forward_features(images), pre_logits=True)
        optimizer.zero_grad()
        nn.functional.cross_entropy(layer(features), batch.labels).backward()
        optimizer.step()
    assert torch.allclose(trainer.network.get_classifier().weight, layer.weight, atol=1e-6)
    assert torch.allclose(trainer.network.get_classifier().bias, layer.bias, atol=1e-6)


def test_learning_rates_fall_from_layer_to_layer(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    recipe = tuned(layer_decay=0.5, warmup_steps=2, tune="last:3")
    trainer = trainer_of(recipe, tmp_path)
    trainer.begin(0)
    names = {id(parameter): name for name, parameter in trainer.network.named_parameters()}
    rates = {
        names[id(parameter)]: group["lr"] for group in trainer.optimizer.param_groups for parameter in group["params"]
    }
    assert learning_rate(recipe, 0) == 0.025
    assert rates["fc.weight"] == 0.025 and rates["layer4.0.conv1.weight"] == 0.0125
    assert rates["layer2.0.conv1.weight"] == pytest.approx(0.025 / 8) and "layer1.0.conv1.weight" not in rates
    decays = {names[id(p)]: g["weight_decay"] for g in trainer.optimizer.param_groups for p in g["params"]}
    assert decays["fc.weight"] == 0.5 and decays["fc.bias"] == 0.0
    vit = build_optimizer(recipe, timm.create_model("test_vit"))
    assert len({group["lr_scale"] for group in vit.param_groups}) == 8
    assert not caplog.records  # nor does timm say that they have no effect


def test_the_schedule_begins_after_the_probe() -> None:
    recipe = tuned(probe_steps=10, probe_lr=0.5, warmup_steps=4, steps=30)
    plain = tuned(warmup_steps=4, steps=20)
    assert [learning_rate(recipe, step) for step in range(10)] == [0.5] * 10
    assert [learning_rate(recipe, step + 10) for step in range(20)] == [learning_rate(plain, s) for s in range(20)]
    assert learning_rate(tuned(probe_steps=10), 3) == 0.05


@pytest.mark.parametrize("stop", [2, 5])
def test_a_stopped_run_goes_on_as_if_it_had_not_stopped(
    stop: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"steps": 8, "eval_every": 4, "optimizer": "adamw", "lr": 1e-3, "batch_size": 16, "mu": 2}
    settings |= {"tune": "last:2", "layer_decay": 0.7, "probe_steps": 4, "init": "cnn4.muscle_digits_10"}
    recipe = get_recipe("cnn4.muscle_fixmatch_digits_10", settings)
    whole, finished = run(recipe, tmp_path / "whole")
    asked = iter([False] * (stop - 1) + [True] * 100)
    with monkeypatch.context() as patch:
        patch.setattr(StopSignal, "requested", property(lambda self: next(asked)))
        _, stopped = run(recipe, tmp_path / "parts")
    assert (stopped.finished, stopped.step) == (False, stop)
    folder, resumed = run(recipe, tmp_path / "parts")
    assert resumed.finished and resumed.raw == finished.raw
    assert log_without_times(folder) == log_without_times(whole)
    assert equal(final_state(folder), final_state(whole))


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (
            {"tune": "last:6"},
            "tune=last:6: arch=test_resnet has 5 layer groups .*; give tune=last:5 or less, or tune=all",
        ),
        ({"tune": "head", "probe_steps": 10}, "probe_steps=10: tune=head trains the classifier alone"),
        ({"layer_decay": 0.0}, "layer_decay=0.0 is out of range; give more than 0 and at most 1"),
        ({"layer_decay": 1.5}, "layer_decay=1.5"),
        ({"probe_steps": 100}, "probe_steps=100 is out of range; give less than steps=100"),
        ({"probe_lr": -1.0}, "probe_lr=-1.0"),
        ({"frozen_batchnorm": "yes"}, "frozen_batchnorm=yes: 'yes' is not true or false"),
    ],
)
def test_wrong_input(overrides: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        recipe = tuned(**overrides)
        build_model(recipe, prepare_data(recipe).dataset)


def test_the_deepest_tuning_is_all_of_it() -> None:
    recipe = tuned(tune="last:5")
    assert all(parameter.requires_grad for parameter in build_model(recipe, prepare_data(recipe).dataset).parameters())


@pytest.mark.parametrize("tune", ["head", "last:1"])
def test_a_backbone_that_is_random_and_stays_so_is_said(tune: str, tmp_path: Path) -> None:
    recipe = get_recipe("cnn4.muscle_digits_10", {"tune": tune})
    with pytest.warns(UserWarning, match=f"tune={tune}: what of cnn4 is not trained has random weights"):
        data_of_run(recipe, RunFolder(tmp_path / "run"), RunOptions(cpu=True))
