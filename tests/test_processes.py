"""One process and two are the same experiment: in float64 nothing but the order of sums is left to differ."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from timm.layers import BatchNormAct2d, EvoNorm2dB0, EvoNorm2dS0, FrozenBatchNormAct2d, SyncBatchNormAct
from timm.layers.split_batchnorm import SplitBatchNorm2d
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from muscle_zoo import InputError, get_recipe
from muscle_zoo.data import Batches
from muscle_zoo.engine.batchnorm import synchronize_batchnorm
from muscle_zoo.engine.build import build_model, build_optimizer, prepare_data
from muscle_zoo.methods import METHODS, Batch, RunContext, create_method
from tests.conftest import train_step

STEPS = 20
OWN_DRAWS = ("vat", "mixmatch")  # their docstrings say that N processes draw others than one
SAME = [*(name for name in METHODS if name not in OWN_DRAWS), "muscle", "muscle_fixmatch"]
# Thresholds at which some guesses count and some do not.
OPTIONS = {
    "fixmatch": {"fixmatch.threshold": 0.3},
    "uda": {"uda.threshold": 0.3},
    "freematch": {"freematch.momentum": 0.5},
}
# BatchNorm2d, BatchNormAct2d, GroupNormAct, LayerNorm.
NETWORKS = ("test_resnet", "test_efficientnet", "test_efficientnet_gn", "test_convnext")
SMALL = {"batch_size": 8, "mu": 2, "lr": 0.01}  # gently: rounding must not grow on random images

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    **{m: (f"cnn4.{m}_digits_10", OPTIONS.get(m.removeprefix("muscle_"), {})) for m in SAME},
    **{network: (f"{network}.muscle_synthetic:3x32x32x10_10", SMALL) for network in NETWORKS},
}

# Every kind of BatchNorm that is synchronized, and the shape of what it normalizes.
NORMS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "1d": (nn.BatchNorm1d(3), (8, 3)),
    "1d_length": (nn.BatchNorm1d(3), (8, 3, 5)),
    "2d": (nn.BatchNorm2d(3), (8, 3, 4, 4)),
    "3d": (nn.BatchNorm3d(3), (8, 3, 2, 2, 2)),
    "act": (BatchNormAct2d(3, act_layer="silu"), (8, 3, 4, 4)),
    "act_dropped": (BatchNormAct2d(3, drop_layer=lambda: nn.Threshold(0.5, 0.0)), (8, 3, 4, 4)),
    "no_act": (BatchNormAct2d(3, apply_act=False), (8, 3, 4, 4)),
    "cumulative": (nn.BatchNorm2d(3, momentum=None), (8, 3, 4, 4)),
    "untracked": (BatchNormAct2d(3, track_running_stats=False), (8, 3, 4, 4)),
    "not_affine": (BatchNormAct2d(3, affine=False, inplace=False), (8, 3, 4, 4)),
    "half": (nn.BatchNorm2d(3), (8, 3, 4, 4)),
    "bfloat16": (BatchNormAct2d(3), (8, 3, 4, 4)),
}
HALF = {"half": torch.float16, "bfloat16": torch.bfloat16}


def in_float64(batch: Batch) -> Batch:
    return dataclasses.replace(batch, inputs={name: view.double() for name, view in batch.inputs.items()})


def trajectory(case: str, rank: int, world: int) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """Gradients of the first step, and every step's terms, as the loop takes its steps."""
    name, overrides = CASES[case]
    recipe = get_recipe(name, overrides)
    data = prepare_data(recipe)
    dataset = data.dataset
    model = build_model(recipe, dataset).double()
    method = create_method(recipe.method, recipe.options, RunContext(1000, len(dataset.train), 10)).double()
    teacher = build_model(recipe, dataset).double()
    network: nn.Module = model
    if world > 1:
        synchronize_batchnorm(model, recipe.arch)
        network = DistributedDataParallel(model)
    optimizer = build_optimizer(recipe, model)
    batches = Batches(recipe, dataset.train, dataset.info, data.split, method.views, rank, world)
    model.train()
    teacher.eval()
    first: list[Tensor] = []
    log = []
    for step, batch in enumerate(batches.steps(0, STEPS)):
        terms = train_step(network, teacher, method, in_float64(batch), step)
        optimizer.zero_grad()
        terms["loss"].backward()
        if step == 0:
            first = [parameter.grad.clone() for parameter in model.parameters()]
        optimizer.step()
        log.append({name: value.detach() for name, value in terms.items()})
    return [*first, *(buffer.double() for buffer in model.buffers())], log


def normalized(name: str, rank: int, world: int) -> dict[str, Tensor]:
    """Two training steps of one norm: what comes out, the gradients of this process's images, and the buffers."""
    norm, shape = NORMS[name]
    norm = copy.deepcopy(norm).double()
    generator = torch.Generator().manual_seed(0)
    weights = [parameter.data.uniform_(0.5, 2.0, generator=generator) for parameter in norm.parameters()]
    if world > 1:
        synchronize_batchnorm(norm, "any")
    share = slice(rank * shape[0] // world, (rank + 1) * shape[0] // world)
    result = {}
    for step in range(2):
        x = 5.0 + torch.randn(shape, generator=generator, dtype=torch.float64)
        target = torch.randn(shape, generator=generator, dtype=torch.float64)[share]
        if name in HALF:  # weights stay wide, as under autocast
            x, norm = x.to(HALF[name]), norm.float()
        x = x[share].clone().requires_grad_()
        y = norm(x)
        assert y.dtype == x.dtype and len(weights) == len(list(norm.parameters()))
        (gradient,) = torch.autograd.grad((y * target).sum(), x)
        result |= {f"y{step}": y.detach(), f"gradient{step}": gradient}
    norm.eval()
    if name != "untracked":  # those take the statistics of whatever batch is evaluated, here this process's
        result["evaluated"] = norm(x.detach())
    return result | {f"buffer.{key}": value for key, value in norm.named_buffers()}


def worker(rank: int, world: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world)
    for case in CASES:
        torch.save(trajectory(case, rank, world), f"{folder}/{case}.{rank}.pt")
    torch.save({name: normalized(name, rank, world) for name in NORMS}, f"{folder}/norms.{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("processes")
    mp.spawn(worker, args=(2, str(folder)), nprocs=2)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_two_processes_take_the_steps_of_one(case: str, two_processes: Path) -> None:
    state, log = trajectory(case, 0, 1)
    theirs = [torch.load(two_processes / f"{case}.{rank}.pt") for rank in (0, 1)]
    losses = [sum(theirs[rank][1][step]["loss"].item() for rank in (0, 1)) / 2 for step in range(STEPS)]
    print(f"{case}: one {[terms['loss'].item() for terms in log[:3]]}, two {losses[:3]}")
    for rank in (0, 1):
        for mine, other in zip(state, theirs[rank][0], strict=True):
            # A weight that a norm follows at once may have no gradient but rounding.
            assert (mine - other).norm() <= max(1e-9 * mine.norm(), 1e-12)
    for step, terms in enumerate(log):
        for name, value in terms.items():
            both = (theirs[0][1][step][name] + theirs[1][1][step][name]) / 2
            assert both.item() == pytest.approx(value.item(), rel=1e-8, abs=1e-10), (step, name)
    masks = [terms["mask"].item() for terms in log if "mask" in terms]
    if case.endswith(tuple(OPTIONS)):
        assert all(0 < mask < 1 for mask in masks)  # else the unlabeled loss would be none, or all


@pytest.mark.slow
@pytest.mark.parametrize("name", NORMS)
def test_a_norm_over_two_processes_is_the_norm_over_the_whole_batch(name: str, two_processes: Path) -> None:
    whole = normalized(name, 0, 1)
    parts = [torch.load(two_processes / f"norms.{rank}.pt")[name] for rank in (0, 1)]
    tolerance = {"half": 2e-2, "bfloat16": 1e-1}.get(name, 1e-9)
    for key, value in whole.items():
        shared = key.startswith("buffer.")
        both = parts[0][key] if shared else torch.cat([part[key] for part in parts])
        if shared:
            assert parts[0][key].equal(parts[1][key]), key
        assert both.dtype == value.dtype and both.allclose(value, rtol=tolerance, atol=tolerance), key


def test_what_is_synchronized_keeps_its_weights_and_what_cannot_be_is_refused() -> None:
    for arch in ("test_efficientnet", "test_resnet", "test_efficientnet_gn", "test_efficientnet_evos"):
        model = timm.create_model(arch)
        before = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        synchronize_batchnorm(synchronize_batchnorm(model, arch), arch)  # once more changes nothing
        after = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        assert before.keys() == after.keys() and all(before[name] is after[name] for name in before)
    harmless = [nn.InstanceNorm2d(2), FrozenBatchNormAct2d(2), EvoNorm2dS0(8, group_size=4), nn.GroupNorm(1, 2)]
    types = [type(norm) for norm in harmless]
    synchronize_batchnorm(nn.ModuleList(harmless), "any")
    assert [type(norm) for norm in harmless] == types
    for norm in (nn.SyncBatchNorm(2), SyncBatchNormAct(2)):
        assert isinstance(synchronize_batchnorm(nn.Sequential(norm), "any")[0], type(norm))

    class Own(nn.BatchNorm2d):
        pass

    for strange in (Own(2), EvoNorm2dB0(2), SplitBatchNorm2d(2), nn.InstanceNorm2d(2, track_running_stats=True)):
        model = nn.Sequential(nn.BatchNorm2d(2), strange)
        with pytest.raises(InputError, match=rf"^arch=some_net has a {type(strange).__name__}, .*; train on one"):
            synchronize_batchnorm(model, "some_net")
        assert type(model[0]) is nn.BatchNorm2d
