"""Heads beside the classifier: what is computed of which input, what is trained, and that nothing else changes."""

from __future__ import annotations

import dataclasses
import doctest
import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.models import group_parameters
from torch import Tensor, nn

from muscle_zoo import InputError, get_recipe
from muscle_zoo.engine.build import build_optimizer, prepare_data
from muscle_zoo.engine.network import Network, backbone_weights, with_parts
from muscle_zoo.engine.state import load_state
from muscle_zoo.engine.trainer import Trainer, forward
from muscle_zoo.methods import METHODS, Batch, Muscle, RunContext, View
from muscle_zoo.methods.base import Group, Outputs
from muscle_zoo.methods.supervised import Supervised
from muscle_zoo.publishing.export import export_run
from tests.conftest import network_of
from tests.test_engine import ON_CPU, equal, final_state, log_without_times, run, short


class Rotation(Supervised):
    """S4L's pretext task in small: a head tells whether an unlabeled image was turned upside down."""

    views: Mapping[str, View] = {**Supervised.views, "u_turned": View("unlabeled", "weak")}
    needs: Mapping[str, Sequence[str]] = {"u_turned": ("rotation",)}

    def parts(self, context: RunContext) -> dict[str, nn.Module]:
        norm = nn.BatchNorm1d(context.features)
        return {"rotation": nn.Sequential(norm, nn.Linear(context.features, 2))}

    def prepare(self, batch: Batch, model: nn.Module, teacher: nn.Module, step: int) -> Batch:
        assert model(batch.inputs["x_weak"]).shape == teacher(batch.inputs["x_weak"]).shape  # logits, parts or not
        half = len(batch.indices) // 2
        turned = batch.inputs["u_turned"].clone()
        turned[:half] = turned[:half].flip(2)
        return dataclasses.replace(batch, inputs={**batch.inputs, "u_turned": turned})

    def loss(self, outputs: Outputs, batch: Batch, step: int) -> dict[str, Tensor]:
        terms = super().loss(outputs, batch, step)
        assert "u_turned" not in outputs  # no logits of it were asked for
        logits = outputs["u_turned", "rotation"]
        rotation = F.cross_entropy(logits, (torch.arange(len(logits)) < len(logits) // 2).long())
        terms["loss"] = terms["loss"] + rotation
        return {**terms, "rotation": rotation.detach()}


class Needing(Supervised):
    """Everything of one view, logits of another."""

    views: Mapping[str, View] = {**Supervised.views, "u_weak": View("unlabeled", "weak")}
    needs: Mapping[str, Sequence[str]] = {"x_weak": ("logits", "features", "head"), "u_weak": ("features",)}

    def parts(self, context: RunContext) -> dict[str, nn.Module]:
        return {"head": nn.Linear(context.features, 3)}


def images(n: int, size: tuple[int, int, int]) -> Tensor:
    return torch.randn(n, *size, generator=torch.Generator().manual_seed(n))


def test_the_example_runs() -> None:
    results = doctest.testmod(importlib.import_module("muscle_zoo.engine.network"))
    assert results.attempted and not results.failed


@pytest.mark.parametrize(
    "arch",
    # The last has BatchNorm between the pooled features and the classifier.
    ["cnn4", "wrn_16_2", "test_resnet", "test_convnext", "test_efficientnet", "mobilenetv4_conv_small_035"],
)
def test_what_is_wanted_is_what_timm_gives(arch: str) -> None:
    size = (3, 32, 32)
    backbone = timm.create_model(arch, num_classes=5, in_chans=3, drop_rate=0.5)
    network = Network(
        backbone,
        {
            "head": nn.Linear(
                backbone.forward_head(backbone.forward_features(images(2, size)), pre_logits=True).shape[1], 3
            )
        },
    )
    x = images(6, size)
    network.eval()
    outputs = network(x, {"logits": [(0, 2), (5, 6)], "features": [(0, 6)], "head": [(1, 3)]})
    features = backbone.forward_head(backbone.forward_features(x), pre_logits=True)
    assert outputs["logits"].equal(backbone(x)[[0, 1, 5]]) and network(x).equal(backbone(x))
    assert outputs["features"].equal(features) and outputs["head"].equal(network.parts["head"](features[1:3]))
    # In training features cost logits nothing: neither their dropout, nor a second batch of a norm in the head.
    network.train()
    seen = []
    for wanted in (None, {"logits": [(0, 6)], "features": [(0, 6)]}):
        before = {name: value.clone() for name, value in network.state_dict().items()}
        torch.manual_seed(0)
        logits = network(x, wanted)
        logits = logits["logits"] if isinstance(logits, dict) else logits
        seen.append([logits.detach(), torch.rand(1), *(b.clone() for b in network.buffers())])
        network.load_state_dict(before)
    assert all(a.equal(b) for a, b in zip(*seen, strict=True))


def test_each_input_gets_what_it_needs_and_no_more() -> None:
    recipe = get_recipe("cnn4.supervised_digits_10")
    data = prepare_data(recipe)
    method = Needing()
    network = network_of(recipe, data, method)
    assert isinstance(network, Network)
    x, u = images(4, (1, 8, 8)), images(6, (1, 8, 8))
    batch = Batch({"x_weak": x, "u_weak": u}, torch.arange(4), torch.arange(6))
    calls: list[int] = []
    network.backbone.layer1.register_forward_hook(lambda module, args, out: calls.append(len(args[0])))
    network.parts["head"].register_forward_hook(lambda module, args, out: calls.append(-len(args[0])))
    outputs, _ = forward(network.eval(), network, method, batch, 0)
    assert calls == [10, -4]
    assert set(outputs) == {"x_weak", ("x_weak", "features"), ("x_weak", "head"), ("u_weak", "features")}
    assert outputs["x_weak"].equal(network(x)) or torch.allclose(outputs["x_weak"], network(x), atol=1e-6)
    assert [len(outputs[name, "features"]) for name in ("x_weak", "u_weak")] == [4, 6]
    apart, _ = forward(network, network, method, dataclasses.replace(batch, groups={"u_weak": Group(1)}), 0)
    assert apart.keys() == outputs.keys()
    assert all(torch.allclose(apart[key], outputs[key], atol=1e-6) for key in outputs)
    around = Muscle(method)
    assert around.needs["u_weak"] == ("features", "logits") and around.needs["u_strong"] == ("logits",)
    assert around.parts(RunContext(features=7))["head"].in_features == 7


def test_methods_without_parts_have_the_network_that_they_had() -> None:
    recipe = get_recipe("cnn4.muscle_fixmatch_digits_10")
    data = prepare_data(recipe)
    assert not isinstance(network_of(recipe, data, Muscle(Supervised())), Network)
    assert METHODS["fixmatch"].needs == {} and METHODS["fixmatch"].classifier


def test_heads_are_trained_averaged_saved_and_left_out_of_the_export(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(METHODS, "supervised", Rotation)
    recipe = short("supervised", weight_decay=0.0)
    folder, finished = run(recipe, tmp_path / "run")
    again, _ = run(recipe, tmp_path / "again")
    assert equal(final_state(folder), final_state(again))
    assert log_without_times(folder) == log_without_times(again) and "rotation" in folder.read_log()[0]
    parts, _ = load_state(folder.state_dir)
    first = Trainer(recipe, prepare_data(recipe), ON_CPU.accelerator(folder)).network.state_dict()
    for name in ("parts.rotation.1.weight", "parts.rotation.0.running_mean", "backbone.fc.weight"):
        assert not parts["model"][name].equal(first[name]), name
        assert not parts["ema"][name].equal(parts["model"][name]), name
    own = backbone_weights(parts["ema"])
    assert set(own) == set(timm.create_model("cnn4", num_classes=10, in_chans=1).state_dict())
    row = export_run(recipe, folder, finished)
    exported = timm.create_model(f"local-dir:{folder.export_dir}", pretrained=True)
    assert set(exported.state_dict()) == set(own) and row.top1_ema >= 0
    assert torch.allclose(exported.layer1.conv.weight, own["layer1.conv.weight"], atol=1e-3)  # in float16


def test_parts_are_drawn_from_the_seed_and_decay_as_the_network_does() -> None:
    data = prepare_data(get_recipe("cnn4.supervised_digits_10"))

    def built(**overrides: object) -> nn.Module:
        return network_of(get_recipe("cnn4.supervised_digits_10", overrides), data, Rotation())

    same, other = built(), built(seed=1)
    weight = built().parts["rotation"][1].weight
    assert weight.equal(same.parts["rotation"][1].weight)
    assert not weight.equal(other.parts["rotation"][1].weight)
    assert built(bn_momentum=0.25).parts["rotation"][0].momentum == 0.25
    groups = build_optimizer(get_recipe("cnn4.supervised_digits_10", {"weight_decay": 0.1}), same).param_groups
    decays = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    assert decays[id(same.parts["rotation"][1].weight)] == 0.1 and decays[id(same.parts["rotation"][1].bias)] == 0.0
    vit = timm.create_model("test_vit", num_classes=2)
    assert Network(vit, {}).no_weight_decay() == {f"backbone.{name}" for name in vit.no_weight_decay()} != set()


@pytest.mark.parametrize("arch", ["cnn4", "test_vit"])
def test_layers_are_the_backbones_and_parts_are_the_last(arch: str) -> None:
    backbone = timm.create_model(arch, num_classes=2)
    network = Network(backbone, {"head": nn.Linear(4, 2)})
    own, whole = (group_parameters(m, m.group_matcher(coarse=False), reverse=True) for m in (backbone, network))
    assert {name.removeprefix("backbone."): layer for name, layer in whole.items() if "parts" not in name} == own
    assert whole["parts.head.weight"] == max(own.values()) + 1 > 2


@pytest.mark.parametrize(
    ("needs", "parts", "says"),
    [
        (("head",), {}, "has the parts none and needs head"),
        (("features",), {"head": nn.Linear(64, 2)}, "has the parts head and needs features"),
        (("logits2", "features"), {"head": nn.Linear(64, 2)}, "needs features, logits2"),
    ],
)
def test_parts_that_nothing_needs_and_needs_without_a_part_are_refused(
    needs: tuple[str, ...], parts: dict[str, nn.Module], says: str
) -> None:
    class Wrong(Supervised):
        def __init__(self) -> None:
            super().__init__()
            self.needs = {"x_weak": needs}

        def parts(self, context: RunContext) -> dict[str, nn.Module]:
            return parts

    recipe = get_recipe("cnn4.supervised_digits_10")
    with pytest.raises(InputError, match=says):
        network_of(recipe, prepare_data(recipe), Wrong())


def test_a_network_without_features_of_an_image_is_refused() -> None:
    recipe = get_recipe("cnn4.simclr_digits_10")
    backbone = timm.create_model("cnn4", num_classes=0, in_chans=1, global_pool="")
    with pytest.raises(InputError, match=r"arch=cnn4 gives no pre-logits features of an image \(they have the shape"):
        with_parts(backbone, METHODS["simclr"](), RunContext(), recipe, (1, 8, 8))


def test_tensors_of_a_network_without_parts_keep_their_names() -> None:
    tensors = {"backbone.x": torch.zeros(1), "fc.weight": torch.ones(1)}
    assert backbone_weights(tensors) == tensors
    assert backbone_weights({"backbone.x": torch.zeros(1), "parts.a": torch.ones(1)}).keys() == {"x"}
