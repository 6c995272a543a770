from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from muscle_zoo import bench, get_recipe
from muscle_zoo.bench import cost, evaluation, head
from muscle_zoo.bench import timing as clock
from muscle_zoo.bench.step import Stepper, bare_step
from muscle_zoo.bench.timing import median_seconds
from muscle_zoo.data import load_dataset
from muscle_zoo.engine.options import RunOptions
from muscle_zoo.engine.run_folder import RunFolder
from muscle_zoo.engine.stage_timer import StageTimer
from muscle_zoo.methods import method_names, takes_steps
from tests.conftest import run, taught
from tests.pictures import make_folder

CPU = torch.device("cpu")
SMALL = ["batch_size=4", "mu=2", "cpu_threads=1", "--cpu", "--json"]


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "SECONDS", 0.0)
    monkeypatch.setattr(clock, "RUNS", 1)
    monkeypatch.setattr(evaluation, "IMAGES", 16)


class FakeTime:
    """A clock that work moves on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(clock.time, "perf_counter", lambda: self.now)

    def work(self, seconds: list[float]) -> Callable[[], None]:
        calls = iter(seconds)

        def call() -> None:
            self.now += next(calls)

        return call


def test_the_median_is_without_the_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeTime(monkeypatch)
    warm_up = [50.0, 50.0, 2.0]
    work = {
        "a": fake.work([*warm_up, 1.0, 9.0, 2.0, 3.0, 2.5]),
        "b": fake.work([*warm_up, 10.0, 11.0, 12.0, 99.0, 12.5]),
    }
    assert median_seconds(work, CPU, seconds=1.0, runs=5) == {"a": 2.5, "b": 12.0}


def test_short_work_is_called_often(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeTime(monkeypatch)
    called = fake.work([0.125] * (3 + 4 * 3))
    assert median_seconds({"a": called}, CPU, seconds=0.5, runs=3) == {"a": 0.125}
    with pytest.raises(StopIteration):
        called()


def test_laps(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeTime(monkeypatch)
    laps = StageTimer(CPU)
    for first, second in ((100.0, 100.0), (1.0, 2.0), (3.0, 4.0), (2.0, 9.0)):
        laps.start()
        fake.now += first
        laps.lap("first")
        fake.now += second
        laps.lap("second")
        fake.now += 1000.0  # between two rounds: counts for nothing
    assert laps.medians(skip=1) == {"first": 2.0, "second": 4.0}


def test_parts_of_the_same_name_count_together(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeTime(monkeypatch)
    timer = StageTimer(CPU)
    for seconds in ((1.0, 2.0), (10.0, 4.0), (2.0, 1.0)):
        timer.start()
        for part in seconds:
            fake.now += part
            timer.lap("forward")
            fake.now += 1.0
            timer.lap("backward")
    assert timer.medians() == {"forward": 3.0, "backward": 2.0}


def test_what_is_timed_is_the_runs_own_step(tmp_path: Path) -> None:
    recipe = get_recipe("cnn4.muscle_fixmatch_digits_20", {"batch_size": 4, "mu": 2, "steps": 3})
    dataset = load_dataset("digits")
    stepper = Stepper(recipe, dataset, RunOptions(cpu=True), tmp_path)
    assert stepper.images == 4 + 2 * 8
    before = {name: value.clone() for name, value in stepper.trainer.network.state_dict().items()}
    stepper()
    rows = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [0] and {"loss", "mi"} <= set(rows[0])
    after = stepper.trainer.network.state_dict()
    assert all(not torch.equal(after[name], before[name]) for name in before)
    assert stepper.trainer.ema.module.state_dict()["fc.weight"].ne(before["fc.weight"]).any()
    parts = stepper.breakdown(3)
    assert list(parts) == ["views", "forward", "loss", "backward", "optimizer", "ema", "log"]
    assert min(parts.values()) > 0
    for _ in range(4):  # on and on, beyond the recipe's steps
        stepper()


def test_a_step_is_one_after_the_classifiers_own(tmp_path: Path) -> None:
    """Those before it have no backward through the backbone, and are few."""
    recipe = get_recipe("cnn4.supervised_digits_20", {"steps": 5, "probe_steps": 3, "cpu_threads": 1})
    stepper = Stepper(recipe, load_dataset("digits"), RunOptions(cpu=True), tmp_path)
    seen = []
    stepper.trainer.step = lambda step, *_: seen.append(step) or ({}, {})
    stepper.trainer.row = lambda *_: {}
    for _ in range(4):
        stepper()
    assert seen == [3, 4, 3, 4]


def test_a_step_of_parts_is_broken_down_as_runs_take_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = get_recipe("cnn4.muscle_fixmatch_digits_20", {"batch_size": 8, "mu": 2, "steps": 9, "accumulate": 4})
    dataset = load_dataset("digits")
    timed, plain = (Stepper(recipe, dataset, RunOptions(cpu=True), tmp_path / name) for name in ("timed", "plain"))
    forwards: list[int] = []
    predict = timed.trainer.predict
    monkeypatch.setattr(
        timed.trainer, "predict", lambda batch, step: forwards.append(len(batch.labels)) or predict(batch, step)
    )
    parts = timed.breakdown(3)
    assert forwards == [2] * (4 * 3) and min(parts.values()) > 0
    for _ in range(3):
        plain()
    states = [stepper.trainer.network.state_dict() for stepper in (timed, plain)]
    assert all(torch.equal(states[0][name], value) for name, value in states[1].items())


def test_the_bare_step_is_the_network_and_its_gradients(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from muscle_zoo.bench import step as module

    recipe = get_recipe("cnn4.supervised_digits_20")
    seen = []
    monkeypatch.setattr(module.F, "cross_entropy", lambda logits, y: seen.append(logits) or logits.square().sum())
    accelerator = RunOptions(cpu=True, mixed_precision="bf16").accelerator(RunFolder(tmp_path))
    bare_step(recipe, load_dataset("digits"), accelerator, 24)()
    assert seen[0].shape == (24, 10) and seen[0].requires_grad


def test_bench_step(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    here = ["--data", str(tmp_path)]  # nothing is there
    code, out, _ = run(["bench", "step", "cnn4.muscle_fixmatch_mnist_4000", *SMALL, *here], capsys)
    result = json.loads(out)
    assert code == 0 and result["images"] == "synthetic:1x28x28x10"
    assert (result["images_per_step"], result["threads"], result["precision"]) == (20, 1, "no")
    names = "images_per_s steps_per_s bare_images_per_s fraction_of_bare mi_share recipe_hours peak_memory_mb device"
    assert all(result[name] for name in names.split())
    assert sum(result["share"].values()) == pytest.approx(1.0, abs=0.001)
    assert result["images_per_s"] == pytest.approx(20 * result["steps_per_s"], rel=0.01)


def test_bench_all_and_a_table_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(["bench", "all", "cnn4.supervised_digits_20", *SMALL[:-1]], capsys)
    lines = [line.split()[:2] for line in out.splitlines()]
    assert code == 0 and {"step", "data"} < {line[0] for line in lines} and ["eval", "images_per_s"] in lines
    assert "  fraction_of_bare" in out


@pytest.mark.slow
def test_bench_methods(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    few = ["supervised", "muscle", "knn", "distillation", "fixmatch", "vat"]  # all of them would take half a minute
    assert set(few) < set(method_names())
    monkeypatch.setattr(cost, "method_names", lambda: few)
    code, out, _ = run(["bench", "methods", "cnn4.supervised_digits_20", *SMALL], capsys)
    result = json.loads(out)
    shown = [name for name in few if takes_steps(name) and not taught(name)]
    assert code == 0 and [row["method"] for row in result["methods"]] == shown == [
        "supervised",
        "muscle",
        "fixmatch",
        "vat",
    ]
    images = {row["method"]: row["images"] for row in result["methods"]}
    assert (images["supervised"], images["muscle"], images["fixmatch"]) == (4, 20, 20)
    assert result["mi_ms"] > 0 and all(row["ratio"] > 0 for row in result["methods"])
    monkeypatch.setattr(bench, "measure", lambda *_: result)
    code, out, _ = run(["bench", "methods", "cnn4.supervised_digits_20", *SMALL[:-1]], capsys)
    assert code == 0 and "| method | images | ms | ratio | of_bare |" in out


def test_bench_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_folder(tmp_path / "my_data")
    code, out, _ = run(["bench", "data", "cnn4.fixmatch_digits_10", *SMALL], capsys)
    result = json.loads(out)
    assert code == 0 and result["bytes_resident"] == (1437 + 360) * 64
    assert {"pairs_per_s", "threads", "device", "versions", "share"} <= set(result)
    assert result["threads"] == 1
    code, out, _ = run(["bench", "data", "cnn4.fixmatch_cifar100_400", *SMALL, "--data", str(folder)], capsys)
    assert code == 0 and json.loads(out)["dataset"] == "synthetic:3x32x32x100"  # not on disk
    stream = ["--data", str(folder / "labeled"), "--stream", "--workers", "0"]
    code, out, _ = run(["bench", "data", "cnn4.fixmatch_folder_4", *SMALL, *stream], capsys)
    result = json.loads(out)
    assert code == 0 and result["bytes_resident"] == 0
    assert {"pictures_per_s", "bare_pictures_per_s", "fraction_of_bare", "workers"} <= set(result)


def test_bench_head(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("PICTURES", 200), ("WIDTH", 8), ("IMAGES", 40)):
        monkeypatch.setattr(head, name, value)
    code, out, _ = run(["bench", "head", "tf_efficientnet_lite0.muscle_digits_10_frozen", "mu=2", *SMALL[3:]], capsys)
    result = json.loads(out)
    assert code == 0 and result["images_per_step"] == 8 * (1 + 2 + 2) and result["width"] == 8
    assert all(result[part] for part in ("steps_per_s", "steps_per_cpu_s", "bare_steps_per_s", "fraction_of_bare"))
    code, _, err = run(["bench", "head", "cnn4.muscle_digits_10", *SMALL[3:]], capsys)
    assert code == 2 and "give a recipe of `frozen`" in err and err.count("\n") == 2
