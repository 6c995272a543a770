"""One process and two are the same experiment: in float64 nothing but the order of sums is left to differ."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from muscle_zoo.data import Batches
from muscle_zoo.engine.batchnorm import synchronize_batchnorm
from muscle_zoo.engine.build import build_model, build_optimizer, prepare_data
from muscle_zoo.methods import METHODS, Batch, RunContext, create_method
from muscle_zoo.recipes import get_recipe
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


def in_float64(batch: Batch) -> Batch:
    return dataclasses.replace(batch, inputs={name: view.double() for name, view in batch.inputs.items()})


def trajectory(method_name: str, rank: int, world: int) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """Gradients of the first step, and every step's terms, as the loop takes its steps."""
    recipe = get_recipe(f"cnn4.{method_name}_digits_10", OPTIONS.get(method_name.removeprefix("muscle_"), {}))
    data = prepare_data(recipe)
    dataset = data.dataset
    model = build_model(recipe, dataset).double()
    method = create_method(recipe.method, recipe.options, RunContext(1000, 1437, 10)).double()
    teacher = build_model(recipe, dataset).double()
    network: nn.Module = model
    if world > 1:
        synchronize_batchnorm(model)
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


def worker(rank: int, world: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world)
    for name in SAME:
        torch.save(trajectory(name, rank, world), f"{folder}/{name}.{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("processes")
    mp.spawn(worker, args=(2, str(folder)), nprocs=2)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("method_name", SAME)
def test_two_processes_take_the_steps_of_one(method_name: str, two_processes: Path) -> None:
    state, log = trajectory(method_name, 0, 1)
    theirs = [torch.load(two_processes / f"{method_name}.{rank}.pt") for rank in (0, 1)]
    for rank in (0, 1):
        for mine, other in zip(state, theirs[rank][0], strict=True):
            assert (mine - other).norm() <= 1e-9 * mine.norm()
    for step, terms in enumerate(log):
        for name, value in terms.items():
            both = (theirs[0][1][step][name] + theirs[1][1][step][name]) / 2
            assert both.item() == pytest.approx(value.item(), rel=1e-8, abs=1e-10), (step, name)
    masks = [terms["mask"].item() for terms in log if "mask" in terms]
    if method_name.endswith(tuple(OPTIONS)):
        assert all(0 < mask < 1 for mask in masks)  # else the unlabeled loss would be none, or all
