"""What timm's tests/test_models.py (of 1.0.31) asks of its own models, asked of the smallest of each kind of ours.

All of it that is about any model; `test_backbones.py` has the rest of it: shapes, heads, features and intermediates,
pruning, weights that load, layer groups. What our networks do not satisfy, none of which timm's own `resnet.py` does
(the strides apart), and what to do instead:

- `feature_cls="getter"` cannot be scripted: it calls `forward_intermediates`, which goes over the stages by their
  names, and TorchScript knows no such loop. Features of the kinds `list` (timm's default) and `fx` can be. (Nor has
  timm's getter `set_grad_checkpointing`, of any network.)
- `forward_intermediates` gives NCHW alone: no network here computes in another layout.
- `set_grad_checkpointing` under `torch.compile` fails in training: torch counts the recomputed batches of BatchNorm in
  place (as of torch 2.14). One of the two works, either of them.
- `output_stride` is refused as an unknown argument: pictures of 32 pixels leave nothing to dilate for.
- `test_model_inference` compares with outputs kept on the Hub; here each card's logits are in its config.json, and
  `muscle-zoo verify` compares them.
"""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Iterator
from functools import cache, partial

import pytest
import timm
import torch
from timm.models import get_notrace_functions, get_notrace_modules, model_entrypoint
from timm.optim import create_optimizer_v2
from torch import Tensor, nn
from torch.testing import assert_close
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

from tests.test_backbones import stirred

OURS = "muscle_zoo.backbones."
TRACED_WHOLE = {"leaf_modules": get_notrace_modules(), "autowrap_functions": get_notrace_functions()}


@cache
def smallest_of_each_kind() -> list[str]:
    """Of each file of the backbones the network with the fewest parameters: a new one is tested without being named."""
    kinds: dict[str, list[tuple[int, str]]] = {}
    for name in timm.list_models():
        module = model_entrypoint(name).__module__
        if module.startswith(OURS):
            parameters = sum(p.numel() for p in timm.create_model(name, device="meta").parameters())
            kinds.setdefault(module, []).append((parameters, name))
    return [min(kind)[1] for kind in kinds.values()]


IN_CHANS = {name: timm.get_pretrained_cfg_value(name, "input_size")[0] for name in smallest_of_each_kind()}
every = pytest.mark.parametrize("name", smallest_of_each_kind())


@pytest.fixture(autouse=True)
def _same_conditions() -> Iterator[None]:
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch is about to retire TorchScript
        yield
    torch.set_num_threads(threads)


def images_of(model: nn.Module, side: int = 16) -> Tensor:
    """Two small ones: what they show is the same at any size that leaves more than a pixel in the end."""
    return torch.randn(2, model.in_chans, side, side)


def without_gradient(model: nn.Module) -> list[str]:
    return [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]


def test_there_are_four_kinds():
    assert smallest_of_each_kind() == ["cnn4", "cnn7", "cnn13", "wrn_16_2"]


def test_every_tag_describes_its_network():
    arches = [name for name in timm.list_models() if model_entrypoint(name).__module__.startswith(OURS)]
    tags = [tag for arch in arches for tag in timm.list_models(f"{arch}.*", include_tags=True)]
    assert tags
    for tag in arches + tags:
        model = timm.create_model(tag, device="meta").eval()
        conf, x = model.default_cfg, torch.empty(1, *model.default_cfg["input_size"], device="meta")
        assert (model.in_chans, model.num_classes) == (conf["input_size"][0], conf["num_classes"]), tag
        assert {f"{conf['classifier']}.weight", f"{conf['first_conv']}.weight"} <= model.state_dict().keys(), tag
        maps = model.forward_features(x)
        assert maps.shape == (1, model.num_features, *conf["pool_size"]), tag
        assert model(x).shape == (1, conf["num_classes"]), tag
        assert not conf.get("label_names") or len(conf["label_names"]) == conf["num_classes"], tag


@every
def test_making_and_resetting(name):
    for more in ({"not_an_argument": 1}, {"output_stride": 8}):
        with pytest.raises(TypeError, match="unexpected keyword argument"):
            timm.create_model(name, **more)
    model = timm.create_model(name, device="meta", dtype=torch.float64, in_chans=1, num_classes=0).train()
    model.requires_grad_(False)
    model.reset_classifier(0)
    model.reset_classifier(0, "")
    assert not any(p.requires_grad for p in model.parameters())
    model.reset_classifier(2, "max")
    assert model.get_classifier().weight.requires_grad and model.training and model.get_classifier().training
    tensors = [*model.parameters(), *(b for b in model.buffers() if b.is_floating_point())]
    assert {(t.device.type, t.dtype) for t in tensors} == {("meta", torch.float64)}
    # Memory that nobody wrote to: what init_weights leaves out would stay what it is.
    model = model.to_empty(device="cpu").eval()
    for tensor in tensors_of(model):
        tensor.data.fill_(-7)
    model.init_weights()
    fresh = timm.create_model(name, dtype=torch.float64, in_chans=1, num_classes=2)
    for key, buffer in fresh.named_buffers():
        assert_close(model.get_buffer(key), buffer, msg=key)
    assert not any((p == -7).any() for p in model.parameters())


def tensors_of(model: nn.Module) -> list[Tensor]:
    return [*model.parameters(), *model.buffers()]


@every
def test_features_are_trained_with_checkpointing(name):
    gradients = []
    for enable in (False, True, True):  # the second time again: what is recomputed must not reorder the levels
        torch.manual_seed(1)
        model = timm.create_model(name, features_only=True).train()
        model.set_grad_checkpointing(enable)
        levels = model(torch.randn(2, IN_CHANS[name], 16, 16))
        assert [level.shape[1] for level in levels] == model.feature_info.channels()
        sum(level.square().mean() for level in levels).backward()
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
    for others in gradients[1:]:
        assert_close(others, gradients[0])


@every
def test_pruned_networks_run_train_and_convert(name):
    full = stirred(name)
    x = images_of(full)
    for index, level in enumerate(full.forward_intermediates(x, intermediates_only=True)):
        (early,) = full.forward_intermediates(x, [index], stop_early=True, intermediates_only=True)
        assert_close(early, level)
        model = copy.deepcopy(full)
        model.prune_intermediate_layers([index], prune_norm=True)
        assert_close(model.forward_features(x), level)
        if index == 0:
            assert_close(torch.jit.script(model)(x), level)
        model.train()(x).square().sum().backward()
        assert without_gradient(model) == []
    model.reset_classifier(7, "avg")
    assert (model.head_hidden_size, model(x).shape) == (level.shape[1], (2, 7))


def test_forward_is_annotated_by_types_and_not_by_strings():
    for name in smallest_of_each_kind():
        for module in timm.create_model(name, device="meta").modules():
            if type(module).__module__.startswith(OURS):
                parameters = inspect.signature(module.forward).parameters
                assert all(p.annotation in (Tensor, bool) for p in parameters.values()), type(module)


@every
def test_fx_forward_backward_and_scripted(name):
    model = stirred(name, num_classes=42)
    x = images_of(model)
    last = get_graph_node_names(model, TRACED_WHOLE)[1][-1]
    traced = create_feature_extractor(model, [last], tracer_kwargs=TRACED_WHOLE)
    with torch.no_grad():
        expected = model(x)
        assert torch.equal(traced.eval()(x)[last], expected)
        assert_close(torch.jit.script(traced)(x)[last], expected)
        stage = model.feature_info[1]["module"]
        plain = create_feature_extractor(model, {stage: "level"}).eval()  # as torchvision's users write it
        assert_close(plain(x)["level"], model.forward_intermediates(x, [1], intermediates_only=True)[0])
    traced.train()(x)[last].mean().backward()
    assert without_gradient(traced) == []


@every
@pytest.mark.parametrize("kind", ["list", "fx"])
def test_scripted_features(name, kind):
    model = timm.create_model(name, features_only=True, feature_cls=kind, scriptable=True).eval()
    x = torch.randn(2, IN_CHANS[name], 16, 16)
    with torch.no_grad():
        assert_close(list(torch.jit.script(model)(x)), list(model(x)))


@every
def test_scripted(name):
    model = timm.create_model(name, drop_rate=0.5, scriptable=True).eval()
    scripted, x = torch.jit.script(model), images_of(model)
    assert_close(scripted(x), model(x))
    assert list(scripted.state_dict()) == list(model.state_dict())


@every
def test_exported_for_any_batch_and_size(name):
    model = stirred(name)
    x = images_of(model, 20)
    free = torch.export.Dim.DYNAMIC
    exported = torch.export.export(model, (x,), dynamic_shapes=({0: free, 2: free, 3: free},)).module()
    for shape in ((1, 24, 20), (3, 20, 25)):
        x = torch.randn(shape[0], model.in_chans, *shape[1:])
        assert_close(exported(x), model(x))


@every
def test_compiled_features_and_training(name):
    model = stirred(name)
    x = images_of(model)
    run = partial(torch.compile, backend="eager", fullgraph=True)
    features = timm.create_model(name, features_only=True).eval()
    assert_close(run(features)(x), features(x))
    run(model.train())(x).square().sum().backward()
    assert without_gradient(model) == []


@every
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(name, dtype):
    model = stirred(name)
    x = images_of(model)
    expected = model(x)  # in float32 before: nothing of it may be kept
    tolerance = 8 * torch.finfo(dtype).eps * expected.abs().max().item()
    if dtype == torch.bfloat16:
        with torch.autocast("cpu", dtype):
            assert_close(model(x).float(), expected, rtol=0, atol=tolerance)
    got = model.to(dtype)(x.to(dtype))
    assert got.dtype == dtype
    assert_close(got.float(), expected, rtol=0, atol=tolerance)
    if dtype == torch.bfloat16:  # on a CPU the gradient in float16 takes a minute, and nobody trains so
        assert timm.create_model(name, dtype=dtype)(x.to(dtype)).dtype == dtype
        model.train()(x.to(dtype)).float().sum().backward()
        assert without_gradient(model) == []


@every
def test_optimizers_with_layer_decay_have_every_parameter_once(name):
    model = timm.create_model(name)
    groups = create_optimizer_v2(model, opt="adamw", weight_decay=0.05, layer_decay=0.7).param_groups
    got = [id(p) for group in groups for p in group["params"]]
    assert sorted(got) == sorted(map(id, model.parameters()))
    rates = {id(p): group["lr_scale"] for group in groups for p in group["params"]}
    first = model.get_submodule(model.default_cfg["first_conv"]).weight
    assert rates[id(first)] == min(rates.values()) < rates[id(model.fc.weight)] == 1
