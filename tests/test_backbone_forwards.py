"""The forward passes of our backbones, written a second time from the papers, and the first filters of `cnn7`."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close

from tests.test_backbones import stirred


def norm_act(p: dict[str, Tensor], x: Tensor, name: str, eps: float, train: bool) -> Tensor:
    mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
    if not train:
        mean, var = p[f"{name}.running_mean"], p[f"{name}.running_var"]
    mean, var, gain, bias = (v[:, None, None] for v in (mean, var, p[f"{name}.weight"], p[f"{name}.bias"]))
    x = (x - mean) / (var + eps).sqrt() * gain + bias
    return torch.where(x > 0, x, 0.1 * x)


def naive_wrn(p: dict[str, Tensor], x: Tensor, train: bool, n: int, activate_first: bool = True) -> Tensor:
    x = F.conv2d(x, p["conv1.weight"], padding=1)
    for group in (1, 2, 3):
        for block in range(n):
            at = f"layer{group}.{block}"
            stride = 2 if group > 1 and block == 0 else 1
            h = norm_act(p, x, f"{at}.bn1", 1e-3, train)
            if activate_first and group == 1 and block == 0:
                x = h
            h = F.conv2d(h, p[f"{at}.conv1.weight"], stride=stride, padding=1)
            h = F.conv2d(norm_act(p, h, f"{at}.bn2", 1e-3, train), p[f"{at}.conv2.weight"], padding=1)
            if x.shape != h.shape:
                x = F.conv2d(x, p[f"{at}.shortcut.weight"], stride=stride)
            x = x + h
    return norm_act(p, x, "norm.0", 1e-3, train).mean((2, 3)) @ p["fc.weight"].T + p["fc.bias"]


def naive_chain(p: dict[str, Tensor], x: Tensor, train: bool, layers: list[str], drop: float) -> Tensor:
    for layer in layers:
        if layer == "pool":
            x = F.dropout(F.max_pool2d(x, 2), drop, training=train)
        else:
            x = F.conv2d(x, p[f"{layer}.conv.weight"], padding=0 if "stage3" in layer else 1)
            x = norm_act(p, x, f"{layer}.bn", 1e-5, train)
    return x.mean((2, 3)) @ p["fc.weight"].T + p["fc.bias"]


def compare(model: nn.Module, naive: Callable[..., Tensor], x: Tensor, train: bool, *args, **kwargs) -> None:
    p = copy.deepcopy(dict(model.state_dict()))
    torch.manual_seed(1)  # cnn13 has dropout between its stages
    wanted = naive(p, x, train, *args, **kwargs)
    torch.manual_seed(1)
    assert_close(model.train(train)(x), wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize(("depth", "width"), [(16, 2), (10, 1)])  # at width 1 the first shortcut is the identity
def test_wrn_equals_a_naive_forward(depth, width, train):
    model = stirred("wrn_16_2", depth=depth, width=width).double()
    p, x, n = model.state_dict(), torch.randn(3, 3, 14, 16, dtype=torch.float64), (depth - 4) // 6
    change = naive_wrn(p, x, train, n, activate_first=False) - naive_wrn(p, x, train, n)
    assert change.abs().max() > 0.05, "the test could not tell the two shortcuts apart"
    compare(model, naive_wrn, x, train, n)


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize(
    ("name", "drop", "kwargs"), [("cnn13", 0.5, {}), ("cnn13", 0.0, {"stage_drop_rate": 0.0}), ("cnn4", 0.0, {})]
)
def test_chain_equals_a_naive_forward(name, drop, kwargs, train):
    model = stirred(name, **kwargs).double()
    layers = ["layer1", "layer2", "pool", "layer3.conv", "pool", "layer4.conv"]
    if name == "cnn13":
        one, two, three = ([f"stage{s}.conv{i}" for i in (1, 2, 3)] for s in (1, 2, 3))
        layers = [*one, "pool", *two, "pool", *three]
    compare(model, naive_chain, torch.randn(2, model.in_chans, 21, 16, dtype=torch.float64), train, layers, drop)


def naive_cnn7(p: dict[str, Tensor], x: Tensor, train: bool) -> Tensor:
    def normed(x: Tensor, name: str) -> Tensor:
        mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
        if not train:
            mean, var = p[f"{name}.running_mean"], p[f"{name}.running_var"]
        mean, var, gain, bias = (v[:, None, None] for v in (mean, var, p[f"{name}.weight"], p[f"{name}.bias"]))
        return (x - mean) / (var + 1e-5).sqrt() * gain + bias

    def gelu(x: Tensor) -> Tensor:
        return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))

    h = normed(F.conv2d(x, p["stem.whiten.conv.weight"]), "stem.whiten.bn")
    x = torch.cat([gelu(h), gelu(-h)], dim=1)
    for stage in ("stage1", "stage2", "stage3"):
        x = F.max_pool2d(F.conv2d(x, p[f"{stage}.conv1.conv.weight"], padding=1), 2)
        x = gelu(normed(x, f"{stage}.conv1.norm"))
        x = gelu(normed(F.conv2d(x, p[f"{stage}.conv2.conv.weight"], padding=1), f"{stage}.conv2.norm"))
    return x.mean((2, 3)) @ p["fc.weight"].T + p["fc.bias"]


@pytest.mark.parametrize("train", [False, True])
def test_cnn7_equals_a_naive_forward(train):
    model = stirred("cnn7").double()
    compare(model, naive_cnn7, torch.randn(2, 3, 20, 17, dtype=torch.float64), train)


@pytest.mark.parametrize("in_chans", [1, 3, 4])
def test_the_first_filters_of_cnn7_are_orthonormal_and_whiten_smooth_pictures(in_chans):
    model = timm.create_model("cnn7", in_chans=in_chans).double()
    filters = model.stem.whiten.conv.weight.flatten(1)[: 4 * in_chans]
    assert_close(filters @ filters.T, torch.eye(len(filters), dtype=torch.float64), atol=1e-6, rtol=0)
    # Random walks in both directions: neighbors are alike, as in photographs, and channels have much in common.
    own, common = (torch.randn(64, c, 32, 32, dtype=torch.float64).cumsum(2).cumsum(3) for c in (in_chans, 1))
    x = 0.3 * own + common
    patches = F.unfold(x - x.mean((0, 2, 3), keepdim=True), 2).transpose(0, 1).flatten(1)
    h = model.stem.whiten.bn(model.stem.whiten.conv(x)).transpose(0, 1).flatten(1)[: 4 * in_chans]
    before, after = (torch.corrcoef(rows).fill_diagonal_(0).abs().max() for rows in (patches, h))
    assert before > 0.9 and after < 0.35
    assert_close(h.var(1), torch.ones(len(h), dtype=torch.float64), rtol=1e-3, atol=1e-3)
