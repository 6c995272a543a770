"""timm's own model tests for our backbones."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models import FeatureInfo, PretrainedCfg, generate_default_cfgs, group_parameters, model_entrypoint
from timm.models import _registry as timm_registry
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close

import muscle_zoo.backbones
from muscle_zoo.backbones._cfg import cfg, with_pretrained
from muscle_zoo.checkpoints import registry
from muscle_zoo.errors import InputError

ALL = ["cnn4", "cnn7", "cnn13", "wrn_16_2", "wrn_28_2", "wrn_28_8"]
every = pytest.mark.parametrize("name", ALL)
fast = pytest.mark.parametrize("name", ALL[:-1])  # wrn_28_8 is wrn_28_2's code with sixteen times the work
small = pytest.mark.parametrize("name", ALL[:4])


@pytest.fixture(autouse=True)
def _same_conditions() -> Iterator[None]:
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # so little work that a second thread gains nothing, and costs much on a busy machine
    yield
    torch.set_num_threads(threads)


def images(model: nn.Module, n: int = 1, **kwargs) -> Tensor:
    return torch.randn(n, model.in_chans, *model.default_cfg["input_size"][1:], **kwargs)


def stirred(name: str, **kwargs) -> nn.Module:
    """A model whose BatchNorm is off its first state, in which a forgotten norm or a wrong order hardly shows."""
    model = timm.create_model(name, **kwargs)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0.0, 0.5)
            nn.init.normal_(module.running_mean, 0.0, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return model.eval()


def test_the_names_are_registered_and_are_not_timms():
    assert sorted(timm.list_models(module=["wide_resnet", "cnn13", "cnn7", "cnn4"])) == sorted(ALL)
    for name in ALL:
        assert model_entrypoint(name).__module__.startswith("muscle_zoo.backbones.")
        assert getattr(muscle_zoo.backbones, name) is model_entrypoint(name)


@every
def test_plain_name_is_the_base_configuration(name):
    model = timm.create_model(name).eval()
    conf = model.default_cfg
    assert (model.num_classes, model.in_chans) == (10, 1 if name == "cnn4" else 3)
    assert conf["architecture"] == name
    assert conf["input_size"][0] == len(conf["mean"]) == len(conf["std"]) == model.in_chans
    assert not any(conf.get(source) for source in ("url", "file", "hf_hub_id"))
    assert (type(model)().num_classes, type(model)().in_chans) == (10, model.in_chans)
    assert model(images(model)).isfinite().all()
    if not registry.pretrained_cfgs(name):
        assert name not in timm.list_models(pretrained=True)
        with pytest.raises(RuntimeError, match="No pretrained weights exist"):
            timm.create_model(name, pretrained=True)


def test_rows_with_weights_replace_the_base_row(monkeypatch):
    a = {"hf_hub_id": "org/a", "input_size": [1, 28, 28], "mean": (0.1,)}
    b = {"hf_hub_id": "org/b", "input_size": [1, 8, 8], "num_classes": 5}
    rows = {"one": {"a": a, "b": b}, "two": {"planned": {"num_classes": 5}}}
    monkeypatch.setattr(registry, "pretrained_cfgs", rows.get)
    base = cfg(first_conv="c", input_size=(1, 8, 8), pool_size=(4, 4))
    merged = with_pretrained({"one": base, "two": base})
    assert list(merged) == ["one.a", "one.b", "two", "two.planned"]
    out = generate_default_cfgs(merged)
    (tag, a), b = out["one"].default_with_tag, out["one"].cfgs["b"]
    assert (tag, a.mean, a.pool_size, a.first_conv, a.num_classes) == ("a", (0.1,), (14, 14), "c", 10)
    assert (b.mean, b.pool_size, b.crop_pct, b.num_classes) == ((0.5,), (4, 4), 1.0, 5)
    assert out["two"].default_with_tag[0] == "" and not out["two"].is_pretrained
    assert (a.paper_ids, out["two"].default.paper_ids) == ("arXiv:2012.00150", None)


def test_a_default_checkpoint_does_not_change_the_plain_name(monkeypatch, tmp_path):
    source = stirred("wrn_16_2", num_classes=100)
    save_file(source.state_dict(), tmp_path / "model.safetensors")
    row = PretrainedCfg(**cfg(first_conv="conv1", num_classes=100, file=str(tmp_path / "model.safetensors")))
    for key in ("wrn_16_2", "wrn_16_2.tagged"):
        monkeypatch.setitem(timm_registry._model_pretrained_cfgs, key, row)
    assert timm.create_model("wrn_16_2").num_classes == 10
    assert timm.create_model("wrn_16_2.tagged").num_classes == 100
    x = images(source)
    for key in ("wrn_16_2", "wrn_16_2.tagged"):
        assert_close(timm.create_model(key, pretrained=True).eval()(x), source(x))


@small
def test_weights_load_and_head_and_stem_adapt(name, tmp_path):
    source = stirred(name)
    save_file(source.state_dict(), tmp_path / "model.safetensors")
    x = images(source)
    maps = source.forward_features(x)

    def load(**kwargs):
        file = {"file": str(tmp_path / "model.safetensors")}
        return timm.create_model(name, pretrained=True, pretrained_cfg_overlay=file, **kwargs).eval()

    assert torch.equal(load()(x), source(x))
    assert_close(load(num_classes=5).forward_features(x), maps)
    assert load(num_classes=5)(x).shape == (1, 5)
    assert_close(load(num_classes=0)(x), source.forward_head(maps, pre_logits=True))
    assert_close(load(features_only=True)(x), source.forward_intermediates(x, intermediates_only=True))
    if source.in_chans == 3:
        assert_close(load(in_chans=1)(x[:, :1]), source(x[:, :1].repeat(1, 3, 1, 1)), rtol=1e-3, atol=1e-4)


@fast
@pytest.mark.parametrize("in_chans", [1, 3, 4])
def test_backward_reaches_every_parameter(name, in_chans):
    model = timm.create_model(name, num_classes=42, in_chans=in_chans).train()
    assert model.in_chans == in_chans
    model(images(model, 2)).mean().backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []


@fast
def test_default_cfg_describes_the_model(name):
    model = stirred(name)
    conf, keys, x = model.default_cfg, model.state_dict().keys(), images(model)
    maps = model.forward_features(x)
    pooled = model.forward_head(maps, pre_logits=True)
    assert (maps.shape[1:], pooled.shape[1:]) == ((model.num_features, *conf["pool_size"]), (model.head_hidden_size,))
    assert {conf["classifier"] + ".weight", conf["first_conv"] + ".weight"} <= keys
    assert model.get_submodule(conf["first_conv"]).in_channels == model.in_chans
    assert getattr(model, model.get_classifier(name_only=True)) is model.get_classifier()
    model.reset_classifier(0)
    assert_close(model(x), pooled)
    model.reset_classifier(0, "")
    assert_close(model(x), maps)
    assert timm.create_model(name, num_classes=0).eval()(x).shape == pooled.shape
    assert timm.create_model(name, num_classes=0, global_pool="").eval()(x).shape == maps.shape


@small
def test_pooling_dropout_and_reset_classifier(name):
    model = timm.create_model(name).double().train()
    maps = model.forward_features(images(model, 2, dtype=torch.float64))
    mean, peak = maps.mean((2, 3)), maps.amax((2, 3))
    for pool, wanted in {"avg": mean, "max": peak, "avgmax": (mean + peak) / 2}.items():
        model.reset_classifier(3, pool)
        assert (model.num_classes, model.fc.weight.dtype) == (3, torch.float64)
        assert_close(model.forward_head(maps, pre_logits=True), wanted)
        assert_close(model.forward_head(maps), F.linear(wanted, model.fc.weight))  # a fresh bias is zero
        assert timm.create_model(name, global_pool=pool).global_pool.pool_type == pool
    model.reset_classifier(4)
    assert (model.global_pool.pool_type, model.fc.out_features) == ("avgmax", 4)
    model.reset_classifier(4, "catavgmax")
    assert model.head_hidden_size == 2 * model.num_features
    assert_close(model.forward_head(maps, pre_logits=True), torch.cat((mean, peak), 1))
    model = timm.create_model(name, drop_rate=0.5).train()
    kept = model.forward_head(maps, pre_logits=True)
    assert 0.2 < (kept == 0).float().mean() < 0.8
    assert_close(kept[kept != 0], 2 * mean[kept != 0])
    assert_close(model.eval().forward_head(maps, pre_logits=True), mean)


@fast
@pytest.mark.parametrize(("kind", "prefix"), [("list", ""), ("dict", ""), ("hook", "body."), ("getter", "model.")])
def test_features_only_equals_forward_intermediates(name, kind, prefix):
    full = stirred(name)
    x = images(full)
    output, levels = full.forward_intermediates(x)
    assert_close(output, full.forward_features(x))
    info = FeatureInfo(full.feature_info, len(full.feature_info))
    for channels, reduction, level in zip(info.channels(), info.reduction(), levels, strict=True):
        assert level.shape[1] == channels
        assert all(side <= math.ceil(of / reduction) + 1 for side, of in zip(level.shape[2:], x.shape[2:], strict=True))
    for indices in (None, (0, 1), (-2,)):
        kwargs = {} if indices is None else {"out_indices": indices}
        net = timm.create_model(name, features_only=True, feature_cls=kind, **kwargs).eval()
        weights = {prefix + key: value for key, value in full.state_dict().items()}
        net.load_state_dict({key: weights[key] for key in net.state_dict()})
        got = net(x)
        got = list(got.values()) if kind == "dict" else got
        assert [level.shape[1] for level in got] == net.feature_info.channels()
        assert_close(got, [levels[i] for i in indices or range(len(levels))])


@small
def test_forward_intermediates_and_prune(name):
    full = stirred(name)
    x = images(full)
    output, levels = full.forward_intermediates(x)
    early, some = full.forward_intermediates(x, indices=[0, 1], stop_early=True)
    assert_close([early, *some], [levels[1], *levels[:2]])
    assert_close(full.forward_intermediates(x, 1, norm=True, intermediates_only=True), [output])
    assert_close(full.forward_intermediates(x, 1, stop_early=True)[0], output)
    for last, level in enumerate(levels):
        model = copy.deepcopy(full)
        assert model.prune_intermediate_layers([last], prune_norm=last == len(levels) - 1) == [last]
        assert_close(model(x), level)
        assert_close(model.forward_intermediates(x, [last], intermediates_only=True), [level])
        assert (model.num_classes, model.num_features, model.head_hidden_size) == (0, level.shape[1], level.shape[1])
    model = copy.deepcopy(full)
    model.prune_intermediate_layers(1, prune_head=False)
    assert_close(model(x), full(x))


@small
def test_grad_checkpointing_recomputes_and_changes_nothing(name):
    model = stirred(name).train()
    x = images(model, 2)
    calls: list[int] = []
    [m for m in model.modules() if isinstance(m, nn.Conv2d)][1].register_forward_hook(lambda *_: calls.append(1))
    results = []
    for enable in (False, True):
        model.set_grad_checkpointing(enable)
        torch.manual_seed(1)  # cnn13 has dropout between its stages
        y = model(x)
        results.append([y, *torch.autograd.grad(y.square().sum(), list(model.parameters()))])
    assert len(calls) == 3
    assert_close(results[1], results[0])
    assert_close(model.eval().forward_intermediates(x)[0], model.forward_features(x))


@fast
def test_group_matcher_orders_the_layers(name):
    model = timm.create_model(name)
    groups = {"cnn4": (5, 5), "cnn7": (8, 5), "cnn13": (10, 4), "wrn_16_2": (8, 5), "wrn_28_2": (14, 5)}[name]
    for coarse, number in zip((False, True), groups, strict=True):
        got = group_parameters(model, model.group_matcher(coarse=coarse))
        assert len(got) == number
        assert sorted(key for keys in got.values() for key in keys) == sorted(n for n, _ in model.named_parameters())
        assert model.default_cfg["first_conv"] + ".weight" in got[0]
        assert got[number - 1] == ["fc.weight", "fc.bias"]


@small
@pytest.mark.filterwarnings("ignore::FutureWarning")  # torch is about to retire its tracer
def test_trace_fx_compile_and_channels_last(name):
    model = stirred(name)
    x = images(model)
    with torch.no_grad():
        assert_close(torch.jit.trace(model, x)(x), model(x))
        assert_close(torch.compile(model, backend="eager", fullgraph=True)(x), model(x))
        fx = timm.create_model(name, features_only=True, feature_cls="fx").eval()
        fx.load_state_dict({key: model.state_dict()[key.removeprefix("graph_module.")] for key in fx.state_dict()})
        assert_close(fx(x), model.forward_intermediates(x, intermediates_only=True))
        wide = stirred(name, in_chans=3)  # one channel lies the same way in both layouts
        x = torch.randn(2, 3, 16, 16)
        y = wide(x)
        maps = wide.to(memory_format=torch.channels_last).forward_features(x.to(memory_format=torch.channels_last))
        assert maps.is_contiguous(memory_format=torch.channels_last)
        assert_close(wide.forward_head(maps), y, rtol=1e-3, atol=1e-4)


def wrn_parameters(n: int, k: int, classes: int) -> int:
    total, a = 27 * 16, 16
    for b in (16 * k, 32 * k, 64 * k):
        total += 9 * a * b + 9 * b * b + (a * b if a != b else 0) + 2 * a + 2 * b  # the group's first block
        total += (n - 1) * (18 * b * b + 4 * b)
        a = b
    return total + 2 * a + a * classes + classes


CNN13 = 9 * (3 * 128 + 2 * 128 * 128 + 128 * 256 + 2 * 256 * 256 + 256 * 512) + 512 * 256 + 256 * 128
CNN13_NORMS = 2 * (3 * 128 + 3 * 256 + 512 + 256 + 128)
CNN7 = 12 * 12 + 9 * (24 * 64 + 64 * 64 + 64 * 128 + 128 * 128 + 128 * 256 + 256 * 256)
CNN7_NORMS = 2 * 12 + 2 * 2 * (64 + 128 + 256)
CNN4, CNN4_NORMS = 9 * (32 + 32 * 32 + 32 * 64 + 64 * 64), 2 * (32 + 32 + 64 + 64)


@pytest.mark.parametrize(
    ("name", "classes", "closed_form", "number"),
    [
        ("wrn_28_2", 10, wrn_parameters(4, 2, 10), 1_467_610),
        ("wrn_16_2", 10, wrn_parameters(2, 2, 10), 691_674),
        ("wrn_28_8", 100, wrn_parameters(4, 8, 100), 23_401_012),
        ("cnn13", 10, CNN13 + CNN13_NORMS + 128 * 10 + 10, 3_121_802),
        ("cnn7", 10, CNN7 + CNN7_NORMS + 256 * 10 + 10, 1_161_138),
        ("cnn4", 10, CNN4 + CNN4_NORMS + 64 * 10 + 10, 65_834),
    ],
)
def test_parameter_counts(name, classes, closed_form, number):
    model = timm.create_model(name, num_classes=classes, device="meta")
    assert sum(p.numel() for p in model.parameters()) == closed_form == number


@pytest.mark.parametrize(
    ("name", "eps", "momentum"), [("wrn_16_2", 1e-3, 1e-3), ("cnn13", 1e-5, 1e-3), ("cnn4", 1e-5, 0.1)]
)
def test_first_weights_and_batchnorm(name, eps, momentum):
    model = timm.create_model(name, num_classes=100)
    drawn = [(model.fc.weight, 2 / (model.fc.in_features + 100))]
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert (module.eps, module.momentum) == (eps, momentum)
            assert (module.weight == 1).all() and (module.bias == 0).all()
        if isinstance(module, nn.Conv2d):
            assert module.bias is None
            drawn.append((module.weight, 2 / (module.out_channels * math.prod(module.kernel_size))))
    for weight, var in drawn:
        assert weight.var().item() == pytest.approx(var, rel=5 * math.sqrt(2 / weight.numel()))  # five standard errors
        assert weight.square().max() > 4 * var, "not a normal distribution"
    assert (model.fc.bias == 0).all()
    other = timm.create_model(name, bn_momentum=0.25)
    assert {m.momentum for m in other.modules() if isinstance(m, nn.BatchNorm2d)} == {0.25}


@pytest.mark.parametrize(
    ("name", "sizes"),
    [("cnn13", {12: 1, 28: 5, 32: 6}), ("cnn7", {9: 1, 16: 1, 32: 3}), ("cnn4", {4: 1, 5: 1, 8: 2, 28: 7})],
)
def test_sizes(name, sizes):
    model = timm.create_model(name).eval()
    for size, side in sizes.items():
        maps = model.forward_features(torch.randn(1, model.in_chans, size, size))
        assert maps.shape == (1, model.num_features, side, side)
    assert [info["num_chs"] for info in timm.create_model("cnn4", width=4).feature_info] == [4, 4, 8, 8]


def test_input_errors():
    for depth in (4, 27):
        with pytest.raises(InputError, match=f"depth={depth} is not 6n"):
            timm.create_model("wrn_16_2", depth=depth)
    for model in (timm.create_model("cnn13"), timm.create_model("cnn13", features_only=True)):
        for height, width in ((8, 8), (11, 32), (32, 11), (1, 1)):
            with pytest.raises(InputError, match=rf"{height}x{width} is too small .* size is 12x12"):
                model(torch.randn(2, 3, height, width))
