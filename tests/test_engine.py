from __future__ import annotations

import dataclasses
import json
import math
import os
import signal
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.optim import create_optimizer_v2
from torch import nn

from muscle_zoo import InputError, TrainingError, get_recipe
from muscle_zoo.backbones.cnn4 import cnn4
from muscle_zoo.cli import main
from muscle_zoo.data import Batches
from muscle_zoo.engine import fit as engine
from muscle_zoo.engine import trainer
from muscle_zoo.engine.build import Data, build_model, build_optimizer, prepare_data
from muscle_zoo.engine.fit import fit
from muscle_zoo.engine.options import RunOptions, TrainResult
from muscle_zoo.engine.run_folder import RunFolder
from muscle_zoo.engine.schedule import learning_rate
from muscle_zoo.engine.state import load_optimizer_state, load_state, optimizer_state, save_state
from muscle_zoo.engine.stop import StopSignal
from muscle_zoo.methods import Batch, create_method, method_names, takes_steps
from muscle_zoo.publishing.export import HALF_TOLERANCE, export_run
from muscle_zoo.recipes import Recipe
from tests.conftest import quick_curves, taught

ON_CPU = RunOptions(cpu=True, progress=False)
SHORT = {"steps": 12, "eval_every": 6, "batch_size": 16, "mu": 2}

STEPPED = [name for name in method_names() if takes_steps(name)]


def short(method: str = "muscle_fixmatch", **overrides: Any) -> Recipe:
    return get_recipe(f"cnn4.{method}_digits_10", {**SHORT, **taught(method), **overrides})


def run(recipe: Recipe, path: Path, options: RunOptions = ON_CPU) -> tuple[RunFolder, TrainResult]:
    folder = RunFolder(path)
    folder.check(recipe)
    return folder, fit(recipe, folder, options)


def log_without_times(folder: RunFolder) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key != "seconds"} for row in folder.read_log()]


def final_state(folder: RunFolder) -> dict[str, torch.Tensor]:
    loaded = load_state(folder.state_dir)
    assert loaded is not None
    return {f"{part}.{key}": value for part, tensors in loaded[0].items() for key, value in tensors.items()}


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(a[key].equal(b[key]) for key in a)


@dataclasses.dataclass
class Whole:
    """A run that nothing disturbs; tests only read it."""

    recipe: Recipe
    folder: RunFolder
    result: TrainResult


WHOLE: dict[str, tuple[str, dict[str, Any]]] = {name: (name, {"drop_rate": 0.0}) for name in STEPPED}
SHARES = {"muscle.marginal": "labels", "bias": "imbalance:10", "labels": 40}
WHOLE["dropout"] = "muscle", {"drop_rate": 0.5, **SHARES}
WHOLE["uniform"] = "fixmatch", {"sampling": "uniform", "labels": 400}


@pytest.fixture(scope="module", params=WHOLE)
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """One of each method, one with dropout that counts its labels, and one whose labeled images may have no label."""
    method, overrides = WHOLE[request.param]
    recipe = short(method, steps=6, eval_every=3, **overrides)
    with quick_curves():
        return Whole(recipe, *run(recipe, tmp_path_factory.mktemp("whole") / "run"))


def test_a_stopped_run_goes_on_as_if_it_had_not_stopped(
    whole: Whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So the same seed gives the same run, too."""
    asked = iter([False] * 3 + [True] * 100)
    monkeypatch.setattr(StopSignal, "requested", property(lambda self: next(asked)))
    folder, stopped = run(whole.recipe, tmp_path / "parts")
    assert (stopped.finished, stopped.step) == (False, 4)
    assert folder.read_status()["status"] == "stopped"
    folder.log(5, {"loss": 0.0})  # as if a crash had left rows behind that were not saved
    monkeypatch.undo()
    folder, resumed = run(whole.recipe, tmp_path / "parts")
    assert resumed.finished and resumed.raw == whole.result.raw
    assert log_without_times(folder) == log_without_times(whole.folder)
    assert equal(final_state(folder), final_state(whole.folder))


def test_another_seed_gives_another_run(whole: Whole, tmp_path: Path) -> None:
    other, _ = run(dataclasses.replace(whole.recipe, seed=1), tmp_path / "other")
    assert not equal(final_state(whole.folder), final_state(other))


def test_hidden_labels_change_nothing(whole: Whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def permuted(*what: Any) -> Data:
        data = prepare_data(*what)
        hidden = torch.ones(len(data.dataset.train), dtype=torch.bool)
        hidden[list(data.split.labeled)] = False
        labels = data.dataset.train.labels
        labels[hidden] = labels[hidden][torch.randperm(int(hidden.sum()))]
        return data

    monkeypatch.setattr(engine, "prepare_data", permuted)
    blind, _ = run(whole.recipe, tmp_path / "blind")
    assert equal(final_state(whole.folder), final_state(blind))


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-4]),
        lambda path: path.write_bytes(path.read_bytes()[:-1] + b"?"),
        lambda path: path.write_bytes(b"\0" * path.stat().st_size),  # what a power cut may leave
        lambda path: path.unlink(),
    ],
)
def test_a_damaged_state_falls_back_and_says_so(damage: Callable[[Path], object], tmp_path: Path) -> None:
    for step in (1, 2, 3):
        save_state(tmp_path, step, {"model": {"w": torch.full((2,), float(step))}}, {"seconds": 1.0})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000000002", "step-000000003"]
    weights = tmp_path / "step-000000003" / "model.safetensors"
    damage(weights)
    with pytest.warns(UserWarning, match="damaged"):
        loaded = load_state(tmp_path)
    assert loaded is not None and loaded[1]["step"] == 2 and loaded[0]["model"]["w"].tolist() == [2, 2]
    (tmp_path / "step-000000002" / "state.json").write_text("{")
    with pytest.warns(UserWarning), pytest.raises(TrainingError, match="--fresh"):
        load_state(tmp_path)
    assert load_state(tmp_path / "nothing") is None


@pytest.mark.parametrize("name", ["sgd", "adamw", "lamb", "adan", "nadam"])
def test_the_optimizer_goes_on_as_if_never_stopped(name: str) -> None:
    def trained(steps: int, state: Any, weights: Any) -> tuple[Any, Any]:
        torch.manual_seed(0)
        layer = nn.Linear(3, 2)
        if weights is not None:
            layer.load_state_dict(weights)
        optimizer = create_optimizer_v2(layer, opt=name, lr=0.1, momentum=0.9, weight_decay=0.1)
        if state is not None:
            load_optimizer_state(optimizer, *state)
        for _ in range(steps):
            optimizer.zero_grad()
            layer(torch.ones(1, 3)).square().sum().backward()
            optimizer.step()
        return layer, optimizer

    whole, _ = trained(6, None, None)
    layer, optimizer = trained(3, None, None)
    resumed, _ = trained(3, optimizer_state(optimizer), layer.state_dict())
    assert equal(whole.state_dict(), resumed.state_dict())


def test_an_optimizer_that_cannot_be_saved_is_refused_at_once() -> None:
    with pytest.raises(InputError, match="its state cannot be saved"):
        build_optimizer(get_recipe("cnn4.muscle_digits_10", {"optimizer": "kron"}), nn.Linear(2, 2))


def test_a_full_disk_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("muscle_zoo.engine.state.save_file", full)
    with pytest.raises(TrainingError, match=r"model.safetensors cannot be written .*No space left.*; free space"):
        save_state(tmp_path, 1, {"model": {"w": torch.ones(1)}}, {})


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [f"{key}={value}" for key, value in SHORT.items()]
    out = tmp_path / "run"
    assert main(["train", "cnn4.muscle_digits_10", *words, "lr=1e30", "--cpu", "--out", str(out)]) == 1
    status = json.loads((out / "status.json").read_text())
    assert status["status"] == "failed" and "not finite at step" in status["why"]
    assert "lower lr" in capsys.readouterr().err.splitlines()[-1]


def test_out_of_memory_names_what_to_lower(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*inputs: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(trainer, "forward", full)
    command = ["train", "cnn4.muscle_digits_10", "steps=2", "--cpu", "--out", str(tmp_path / "run")]
    assert main(command) == 1
    err = capsys.readouterr().err
    assert "lower batch_size or mu, or give accumulate=2" in err and "Traceback" not in err
    assert json.loads((tmp_path / "run" / "status.json").read_text())["status"] == "failed"


def test_weights_that_are_not_finite_are_never_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = short("supervised", steps=1, eval_every=1)
    # the loss of the only step is fine, its update is not
    monkeypatch.setattr(trainer, "learning_rate", lambda *_: math.inf)
    with pytest.raises(TrainingError, match="not finite at step 1"):
        run(recipe, tmp_path / "run")
    assert not (tmp_path / "run" / "state").exists()


def test_an_older_state_is_never_exported_as_the_last(tmp_path: Path) -> None:
    recipe = short("supervised")
    folder, trained = run(recipe, tmp_path / "run", dataclasses.replace(ON_CPU, save_every=8))
    last = folder.state_dir / "step-000000012" / "ema.safetensors"
    last.write_bytes(last.read_bytes()[:-4])
    with pytest.warns(UserWarning), pytest.raises(TrainingError, match="no whole state of step 12"):
        export_run(recipe, folder, trained)


def test_a_row_of_the_ledger_says_what_the_log_says(tmp_path: Path) -> None:
    recipe = short("supervised", steps=30, eval_every=1, lr=0.01)
    folder, trained = run(recipe, tmp_path / "run")
    tested = [entry for entry in folder.read_log() if "top1_ema" in entry]
    averaged = [entry["top1_ema"] for entry in tested]
    last20 = statistics.median(averaged[10:])
    assert len(averaged) == 30 and last20 not in (averaged[-1], *(map(statistics.median, (averaged, averaged[:20]))))
    assert trained.median20 == last20 and averaged[-1] != tested[-1]["top1_raw"]
    row = export_run(recipe, folder, dataclasses.replace(trained, seconds=90.0))
    assert (row.top1_median20, row.top1_raw, row.hours) == (round(last20, 6), round(tested[-1]["top1_raw"], 6), 0.025)
    assert row.top1_ema == pytest.approx(averaged[-1], abs=HALF_TOLERANCE)


def test_the_seconds_of_all_attempts_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = short("supervised")
    monkeypatch.setattr(StopSignal, "requested", True)
    run(recipe, tmp_path / "run")
    monkeypatch.undo()
    (path,) = (tmp_path / "run" / "state").glob("*/state.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "seconds": 5000.0}))
    folder, resumed = run(recipe, tmp_path / "run")
    assert 5000 < resumed.seconds < 6000 and all(5000 < entry["seconds"] < 6000 for entry in folder.read_log()[1:])


def test_the_network_has_the_recipes_dropout_and_batchnorm() -> None:
    dataset = prepare_data(short()).dataset
    for recipe in (short(drop_rate=0.25, bn_momentum=0.01), short()):
        model = build_model(recipe, dataset)
        assert model.drop_rate == recipe.drop_rate
        norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
        assert norms and {norm.momentum for norm in norms} == {recipe.bn_momentum}


@pytest.mark.parametrize(("costs", "dtype"), [(0.0, torch.float16), (0.01, torch.float32)])
def test_half_precision_is_published_where_it_costs_nothing(costs: float, dtype: torch.dtype, tmp_path: Path) -> None:
    recipe = short("supervised")
    folder, trained = run(recipe, tmp_path / "run")
    before = dataclasses.replace(trained.ema, top1=trained.ema.top1 + costs)
    export_run(recipe, folder, dataclasses.replace(trained, ema=before))
    averaged = {key[4:]: value for key, value in final_state(folder).items() if key.startswith("ema.")}
    weights, parameters = load_file(folder.export_dir / "model.safetensors"), dict(cnn4().named_parameters())
    assert weights.keys() == averaged.keys()
    for key, value in averaged.items():
        assert weights[key].equal(value.to(dtype) if key in parameters else value), key


def test_guesses_are_compared_with_the_classes_that_are_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = short("fixmatch", classes="3+4+5", mismatch=0.5, accumulate=2)
    data = prepare_data(recipe)
    made = trainer.Trainer(recipe, data, ON_CPU.accelerator(RunFolder(tmp_path), recipe.accumulate))
    batch = made.batches.at(0)
    true, place = data.dataset.train.labels[batch.indices], torch.arange(len(batch.indices))
    known, wrong, sure = true >= 0, place % 3 == 0, place % 4 != 0
    logits = 20.0 * nn.functional.one_hot((true.clamp(min=0) + wrong) % 3, 3) * sure[:, None]
    rows = {int(index): logits[i] for i, index in enumerate(batch.indices)}

    def predict(part: Batch, step: int) -> tuple[dict[str, torch.Tensor], Batch]:
        unlabeled = torch.stack([rows[int(index)] for index in part.indices]).requires_grad_()
        return {"x_weak": unlabeled[: len(part.labels)], "u_weak": unlabeled, "u_strong": unlabeled}, part

    monkeypatch.setattr(made, "predict", predict)
    terms, hits = made.step(0, batch, count_right=True)
    right, counted = int((sure & known & ~wrong).sum()), int((sure & known).sum())
    assert 0 < right < counted < int(sure.sum()) and hits.tolist() == [right, counted]
    assert made.row(terms, hits)["pseudo_label_accuracy"] == round(right / counted, 6)
    assert "pseudo_label_accuracy" not in made.row(terms, torch.zeros(2))


def test_learning_rates() -> None:
    recipe = get_recipe("cnn4.muscle_digits_10", {"lr": 0.2, "steps": 100, "warmup_steps": 10})
    assert learning_rate(recipe, 0) == pytest.approx(0.02)
    assert learning_rate(recipe, 50) == pytest.approx(0.2 * math.cos(7 * math.pi / 32))
    assert learning_rate(recipe, 100) == pytest.approx(0.2 * math.cos(7 * math.pi / 16))
    constant = get_recipe("cnn4.muscle_digits_10", {"lr": 0.2, "schedule": "constant"})
    assert learning_rate(constant, 0) == learning_rate(constant, 599) == 0.2


def test_a_signal_stops_and_the_second_interrupt_is_at_once() -> None:
    with StopSignal(None) as stop:
        assert not stop.requested
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)  # a launcher may send it twice
        assert stop.requested and stop.why == "SIGTERM"
    with StopSignal(None) as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.requested
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_the_time_limit_stops_with_75_and_the_same_command_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", "cnn4.supervised_digits_10", *(f"{k}={v}" for k, v in SHORT.items()), "--cpu"]
    command += ["--out", str(tmp_path / "run")]
    assert main([*command, "--time-limit", "0.000001"]) == 75
    assert json.loads((tmp_path / "run" / "status.json").read_text())["why"] == "time limit"
    assert "run the same command again to go on" in capsys.readouterr().out
    assert main(command) == 0
    assert json.loads((tmp_path / "run" / "status.json").read_text())["status"] == "finished"


def test_a_tracker_gets_what_the_log_gets(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder, _ = run(short(), tmp_path / "run", dataclasses.replace(ON_CPU, tracker="tensorboard"))
    events = EventAccumulator(str(next(folder.path.rglob("events.out.tfevents.*")).parent))
    events.Reload()
    losses = {event.step: event.value for event in events.Scalars("loss")}
    assert losses == {row["step"]: pytest.approx(row["loss"], rel=1e-5) for row in folder.read_log() if "loss" in row}
    assert [event.step for event in events.Scalars("top1_ema")] == [6, 12]


def test_accumulation_averages_the_gradients_of_the_parts(tmp_path: Path) -> None:
    recipe = short(steps=1, eval_every=1, accumulate=4, weight_decay=0.0)
    folder, _ = run(recipe, tmp_path / "run")
    data = prepare_data(recipe)
    method = create_method(recipe.method, recipe.options)
    batch = Batches(recipe, data.dataset.train, data.dataset.info, data.split, method.views).at(0)
    model = build_model(recipe, data.dataset)
    losses = []
    for part in range(4):
        few = {name: view[part * len(view) // 4 : (part + 1) * len(view) // 4] for name, view in batch.inputs.items()}
        outputs = model(torch.cat(list(few.values()))).split([len(view) for view in few.values()])
        labels = batch.labels[4 * part : 4 * part + 4]
        terms = method.loss(dict(zip(few, outputs, strict=True)), Batch(few, labels, batch.indices), 0)
        losses.append(terms["loss"])
    (sum(losses) / 4).backward()
    assert folder.read_log()[0]["loss"] == pytest.approx((sum(losses) / 4).item(), rel=1e-5)
    state = final_state(folder)
    for name, parameter in model.named_parameters():
        moved = recipe.lr * (1 + recipe.momentum) * parameter.grad  # Nesterov's first step
        assert state[f"model.{name}"].allclose(parameter - moved, atol=1e-6), name
    with pytest.raises(InputError, match="batch_size=16 is not divisible by 1 processes and accumulate=3"):
        run(short(accumulate=3), tmp_path / "three")
