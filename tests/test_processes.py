"""One process and two are the same experiment: in float64 nothing but the order of sums is left to differ."""

from __future__ import annotations

import copy
import dataclasses
import os
from collections.abc import Callable
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
from muscle_zoo.data import Batches, ImageSource
from muscle_zoo.engine.batchnorm import GlobalBatchNormAct2d, synchronize_batchnorm
from muscle_zoo.engine.build import build_optimizer, prepare_data
from muscle_zoo.engine.collectives import on_main_process, require_the_same, share_tensors, shared_errors
from muscle_zoo.engine.fit import fit
from muscle_zoo.engine.nets import TrainedNets
from muscle_zoo.engine.options import RunOptions, process_state
from muscle_zoo.engine.run_folder import RunFolder
from muscle_zoo.engine.teacher import load_teacher
from muscle_zoo.engine.trainer import Trainer
from muscle_zoo.engine.tuning import Probe
from muscle_zoo.losses import MutualInformationLoss, joint_distribution
from muscle_zoo.methods import METHODS, Batch, create_method, takes_steps
from muscle_zoo.recipes.names import parse_name
from tests.conftest import context_of, network_of, once, taught, train_step

STEPS = 3
OWN_DRAWS = (
    "vat",
    "mixmatch",
    "adamatch",
    "remixmatch",
    "interpolation_contrastive",
    "uncertainty_mean_teacher",
    "robust_self_training",
)  # their docstrings say that N processes draw others than one
SAME = [*(name for name in METHODS if name not in OWN_DRAWS and takes_steps(name)), "muscle", "muscle_fixmatch"]
# Thresholds at which some guesses count and some do not.
OPTIONS = {
    "fixmatch": {"fixmatch.threshold": 0.2},
    "uda": {"uda.threshold": 0.2},
    "freematch": {"freematch.momentum": 0.5},
    "pseudo_label": {"pseudo_label.threshold": 0.2},
    "flexmatch": {"flexmatch.threshold": 0.2},
    "softmatch": {"softmatch.momentum": 0.5},
    "simmatch": {"simmatch.threshold": 0.2},
    "comatch": {"comatch.threshold": 0.2, "comatch.bank": 200, "comatch.edge": 0.1},
    "neighbor_consistency": {"neighbor_consistency.start": 0.0},
    "noisy_student": {"noisy_student.threshold": 0.9, "drop_rate": 0.0},  # each process drops others
    "self_meta_pseudo_labels": {"self_meta_pseudo_labels.threshold": 0.2},
}
# BatchNorm2d, BatchNormAct2d, GroupNormAct, LayerNorm.
NETWORKS = ("test_resnet", "test_efficientnet", "test_efficientnet_gn", "test_convnext")
IMAGES = "synthetic:3x32x32x10"
FEW = {"batch_size": 16, "mu": 2}
SMALL = {"batch_size": 8, "mu": 2, "lr": 0.01}  # gently: rounding must not grow on random images

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "groups": ("cnn4.pi_model_digits_10", FEW),  # several forwards before one backward
    **{m: (f"cnn4.{m}_digits_10", {**FEW, **OPTIONS.get(m.removeprefix("muscle_"), {})}) for m in SAME},
    "uniform": ("cnn4.fixmatch_digits_400", {**FEW, "sampling": "uniform", "fixmatch.threshold": 0.2}),
    "marginal": ("cnn4.muscle_digits_40", {**FEW, "bias": "imbalance:10", "muscle.marginal": "labels"}),
    "tuned": (f"test_resnet.muscle_{IMAGES}_10", {**SMALL, "tune": "last:2", "layer_decay": 0.5}),
    "still": (f"test_efficientnet.muscle_{IMAGES}_10", {**SMALL, "frozen_batchnorm": True}),
    "probe": (f"test_resnet.muscle_{IMAGES}_10", {**SMALL, "probe_steps": 2}),
    **{network: (f"{network}.muscle_{IMAGES}_10", SMALL) for network in NETWORKS},
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
    recipe = get_recipe(name, {**overrides, **taught(parse_name(name)["method"])})
    data = prepare_data(recipe)
    dataset = data.dataset
    method = create_method(recipe.method, recipe.options, context_of(recipe, data)).double()
    if case == "groups":
        method.views = {name: v._replace(group=i, still=i > 0) for i, (name, v) in enumerate(method.views.items())}
    model, teacher = (network_of(recipe, data, method).double() for _ in range(2))
    frozen = load_teacher(recipe, method, dataset.info)
    frozen = None if frozen is None else frozen.double()
    network: nn.Module = model
    if world > 1:
        synchronize_batchnorm(model, recipe.arch)
        synchronize_batchnorm(teacher, recipe.arch)
        network = DistributedDataParallel(model)
    optimizer = build_optimizer(recipe, model)
    batches = Batches(recipe, dataset.train, dataset.info, data.split, method.views, rank, world)
    model.train()
    teacher.eval()
    probe = Probe(model, recipe, all_gradients=world > 1)
    first: list[Tensor] = []
    log = []
    for step, batch in enumerate(batches.steps(0, STEPS)):
        probe.begin(step)
        terms = train_step(network, teacher, method, in_float64(batch), step, frozen)
        optimizer.zero_grad()
        method.backward(terms, TrainedNets(model))
        probe.drop_gradients(step)
        if step == 0:
            first = [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
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
    """All that one of two processes does for these tests: to start one takes seconds."""
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world)
    for case in CASES:
        torch.save(trajectory(case, rank, world), f"{folder}/{case}.{rank}.pt")
    torch.save({name: normalized(name, rank, world) for name in NORMS}, f"{folder}/norms.{rank}.pt")
    torch.save(half_of_one_batch(rank), f"{folder}/mutual_information.{rank}.pt")
    process_state(cpu=True)
    torch.save(outcomes_of(rank, Path(folder)), f"{folder}/outcomes.{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return once(tmp_path_factory, "processes", lambda folder: mp.spawn(worker, args=(2, str(folder)), nprocs=2))


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
        # Else the unlabeled loss would be none, or all, as it is as long as FlexMatch's thresholds are low.
        assert case.endswith("flexmatch") or all(0 < mask < 1 for mask in masks)


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


def shared_problem() -> tuple[nn.Linear, Tensor, Tensor]:
    """A linear layer and two views of 64 images, the same in every process."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(64, 8, generator=generator, dtype=torch.float64)
    features[32:] += 1.0  # the two halves differ, as the joints of two processes do
    noise = torch.randn(64, 8, generator=generator, dtype=torch.float64)
    layer = nn.Linear(8, 5).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return layer, features, features + 0.5 * noise


def loss_and_gradient(model: nn.Module, view_a: Tensor, view_b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    a, b = model(torch.cat([view_a, view_b])).chunk(2)
    model.zero_grad()
    loss = MutualInformationLoss()(a, b)
    loss.backward()
    gradient = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
    return loss.detach(), gradient, joint_distribution(a.softmax(1), b.softmax(1)).detach()


def half_of_one_batch(rank: int) -> tuple[Tensor, Tensor, Tensor]:
    layer, view_a, view_b = shared_problem()
    half = slice(32 * rank, 32 * (rank + 1))
    return loss_and_gradient(DistributedDataParallel(layer), view_a[half], view_b[half])


def relative_difference(one: Tensor, other: Tensor) -> float:
    return ((one - other).norm() / other.norm()).item()


@pytest.mark.slow
def test_two_processes_see_one_batch(two_processes: Path) -> None:
    layer, view_a, view_b = shared_problem()
    loss, gradient, joint = loss_and_gradient(layer, view_a, view_b)
    halves = [loss_and_gradient(layer, view_a[half], view_b[half]) for half in (slice(32), slice(32, 64))]
    for whole, parts in zip((loss, gradient), zip(*halves, strict=True), strict=False):
        assert relative_difference(torch.stack(parts).mean(0), whole) > 0.01  # a mean over processes is wrong
    for rank in range(2):
        their_loss, their_gradient, their_joint = torch.load(two_processes / f"mutual_information.{rank}.pt")
        assert their_loss.item() == pytest.approx(loss.item(), rel=1e-12, abs=0)
        assert relative_difference(their_gradient, gradient) < 1e-9
        assert relative_difference(their_joint, joint) < 1e-12


def outcomes_of(rank: int, folder: Path) -> dict[str, Any]:
    """What one of two processes, of which only the first has files, gets from each thing they do together."""
    out: dict[str, Any] = {}

    def error_of(name: str, work: Callable[[], Any]) -> None:
        try:
            out[name] = work()
        except Exception as error:
            out[name] = (type(error).__name__, str(error))

    def fail(where: int, error: Exception) -> None:
        with shared_errors():
            if rank == where:
                raise error

    def read() -> str:
        assert rank == 0
        return (folder / "missing").read_text()

    error_of("one value", lambda: on_main_process(lambda: {"rank": rank}))
    error_of("reading", lambda: on_main_process(read))
    error_of("input", lambda: fail(1, InputError("mu=0; give 1")))
    error_of("bug", lambda: fail(1, KeyError("x")))
    error_of("none", lambda: fail(2, KeyError("x")))
    error_of("same", lambda: require_the_same({"recipe": 1, "data": "a"}))
    error_of("other", lambda: require_the_same({"recipe": 1, "data": rank}))
    kinds = (torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.uint8, torch.bool)
    parts = {"a": {str(kind): torch.arange(6).view(2, 3).to(kind) for kind in kinds}}
    parts["b"] = {"scalar": torch.tensor(3), "nothing": torch.empty(0, 4)}
    out["tensors"] = share_tensors(parts if rank == 0 else {}, torch.device("cpu"))

    recipe = get_recipe(f"test_efficientnet.muscle_{IMAGES}_10", {**SMALL, "steps": 2, "eval_every": 2})
    data = prepare_data(recipe)
    data = dataclasses.replace(data, evaluation=data.evaluation.subset(range(64)))
    own = RunFolder(folder / str(rank))
    options = RunOptions(cpu=True, progress=False)
    trainer = Trainer(recipe, data, options.accelerator(own))
    norms = [type(norm) for model in (trainer.network, trainer.ema.module) for norm in model.modules()]
    out["norms"] = [norms.count(GlobalBatchNormAct2d), norms.count(BatchNormAct2d)]
    error_of("other recipes", lambda: fit(dataclasses.replace(recipe, seed=rank), own, options, data))
    error_of("accumulate", lambda: fit(dataclasses.replace(recipe, accumulate=3), own, options, data))
    strange = dataclasses.replace(recipe, arch="test_resnet", init="local-dir:nothing" if rank == 0 else "")
    error_of("no weights", lambda: Trainer(strange, data, options.accelerator(own)))
    broken = dataclasses.replace(data, evaluation=Broken(data.evaluation) if rank == 1 else data.evaluation)
    error_of("evaluation", lambda: fit(recipe, own, options, broken))
    error_of("fit", lambda: dataclasses.astuple(fit(recipe, own, options, data))[-2:])
    if rank == 0:  # a state that does not fit, of which the second process knows nothing
        own.split_file.write_text("[]")
    error_of("split", lambda: fit(recipe, own, options, data))
    out["files"] = own.path.exists()
    return out


@dataclasses.dataclass
class Broken:
    """Images of which none can be read."""

    images: ImageSource

    def __len__(self) -> int:
        return len(self.images)

    def batches(self, positions: Any) -> Any:
        raise InputError("x.png is damaged; restore it")


@pytest.mark.slow
def test_the_first_process_decides_and_the_error_of_one_ends_all(two_processes: Path) -> None:
    first, second = (torch.load(two_processes / f"outcomes.{rank}.pt", weights_only=False) for rank in (0, 1))
    for name in ("one value", "input", "none", "same", "other", "other recipes", "accumulate", "evaluation", "fit"):
        assert first[name] == second[name], name
    assert first["one value"] == {"rank": 0} and first["none"] is None and first["same"] is None
    assert first["reading"][0] == "FileNotFoundError"
    assert second["reading"][0] == "TrainingError" and "process 0 ended with FileNotFoundError" in second["reading"][1]
    assert first["input"] == ("InputError", "mu=0; give 1")
    assert second["bug"] == ("KeyError", "'x'") and first["bug"][0] == "TrainingError"
    assert "process 1 of 2 has another data than process 0" in first["other"][1]
    assert "process 1 of 2 has another recipe than process 0" in first["other recipes"][1]
    assert "accumulate=3" in first["accumulate"][1] and first["accumulate"][0] == "InputError"
    for outcome in (first, second):
        assert outcome["no weights"][0] == "WeightsError" and "init=local-dir:nothing" in outcome["no weights"][1]
        assert outcome["split"][0] == "InputError" and "split.json holds a list" in outcome["split"][1]
    assert first["evaluation"] == ("InputError", "x.png is damaged; restore it")
    assert 0 <= first["fit"][1] <= 1
    for part, tensors in first["tensors"].items():
        for name, tensor in tensors.items():
            other = second["tensors"][part][name]
            assert other.dtype == tensor.dtype and other.shape == tensor.shape and other.equal(tensor), name
    assert first["norms"] == second["norms"] == [2 * 13, 0]  # the EMA's too
    assert (first["files"], second["files"]) == (True, False)
