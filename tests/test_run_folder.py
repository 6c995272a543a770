"""The run folder: what is in it, and whose it is."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from muscle_zoo import InputError, TrainingError, get_recipe
from muscle_zoo.data import ImageSource
from muscle_zoo.engine.build import prepare_data
from muscle_zoo.engine.evaluate import evaluate
from muscle_zoo.engine.fit import fit
from muscle_zoo.engine.folder_lock import FolderLock
from muscle_zoo.engine.run import Run
from muscle_zoo.engine.run_folder import RunFolder
from muscle_zoo.engine.state import load_state
from muscle_zoo.recipes import Recipe
from tests.conftest import SHORT, forget_accelerate
from tests.conftest import run as command
from tests.test_engine import ON_CPU, run, short


def recipe_of(folder: Path) -> Recipe:
    return Recipe.from_dict(json.loads((folder / "recipe.json").read_text()))


@pytest.mark.parametrize("content", ["[]", "3", '"step"', "null", "[1, 2]"])
@pytest.mark.parametrize("name", ["status.json", "recipe.json", "split.json"])
def test_json_of_another_kind_is_one_line(
    name: str, content: str, finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = Path(shutil.copytree(finished_run, tmp_path / "run"))
    (out / name).write_text(content)
    if name == "split.json":  # read when a run goes on
        (out / "status.json").write_text(json.dumps({"status": "stopped", "step": 24, "steps": 24}))
    code, _, err = command(["train", *SHORT, "--cpu", "--out", str(out)], capsys)
    assert code == 2 and err.count("\n") == 1 and f"{out / name} holds a" in err and "--fresh" in err


def test_a_status_or_a_log_of_other_fields(finished_run: Path, tmp_path: Path) -> None:
    folder = RunFolder(Path(shutil.copytree(finished_run, tmp_path / "run")))
    rows = folder.read_log()
    for strange in ("[1, 2]", '{"loss": 1.0}', '{"step": "4"}', "\udcff"):
        with folder.log_file.open("ab") as file:
            file.write(strange.encode(errors="surrogateescape") + b"\n")
        folder.log(25, {"loss": 0.0})
        assert folder.read_log() == rows
        folder.rewind_log(24)
    folder.status_file.write_text('{"status": "stopped", "step": "4"}')
    with pytest.raises(InputError, match=r"status.json: step='4' is no number; restore it"):
        folder.read_status()


def test_a_state_of_another_kind_is_damaged(finished_run: Path, tmp_path: Path) -> None:
    state = Path(shutil.copytree(finished_run / "state", tmp_path / "state"))
    for file in state.glob("*/state.json"):
        file.write_text("[]")
    with pytest.warns(UserWarning, match="damaged"), pytest.raises(TrainingError, match="--fresh"):
        load_state(state)


def test_the_log_is_where_its_folder_is(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    with folder.locked():
        for step in (1, 2, 3):
            folder.log(step, {"loss": 0.5})
        assert [row["step"] for row in folder.read_log()] == [1, 2, 3]  # nothing waits in a buffer
        folder.rewind_log(1)
        folder.log(2, {"loss": 0.25})
        assert folder.read_log() == [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.25}]
        old = folder.set_aside()
        folder.log(1, {"loss": 1.0})
        assert folder.read_log() == [{"step": 1, "loss": 1.0}]
    assert old is not None and len(RunFolder(old).read_log()) == 2


def test_a_finished_log_without_accuracies_gives_the_last_one(finished_run: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(finished_run, tmp_path / "run"))
    (out / "log.jsonl").unlink()
    result = fit(recipe_of(out), RunFolder(out), ON_CPU)
    assert result.ema is not None and result.median20 == result.ema.top1


def test_a_lock_keeps_others_out_until_it_is_released(tmp_path: Path) -> None:
    mine, others = FolderLock(tmp_path), FolderLock(tmp_path)
    assert mine.acquire() and mine.held and not others.acquire() and not others.held
    others.release()  # of what it does not hold
    assert not FolderLock(tmp_path).acquire()
    mine.release()
    assert not mine.path.exists() and others.acquire()
    others.release()


def test_a_lock_that_was_removed_while_it_was_taken_is_not_a_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, third = (FolderLock(tmp_path) for _ in range(3))
    assert first.acquire()
    flock = fcntl.flock

    def late(descriptor: int, operation: int) -> None:
        monkeypatch.setattr(fcntl, "flock", flock)
        first.release()  # after the second has opened the file
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    assert second.acquire()
    assert not third.acquire()


def test_a_folder_that_is_set_aside_stays_locked(tmp_path: Path) -> None:
    folder, others = RunFolder(tmp_path / "run"), RunFolder(tmp_path / "run")
    with folder.locked():
        (folder.path / "status.json").write_text("{}")
        assert folder.set_aside() == tmp_path / "run.old-1"
        assert [path.name for path in (tmp_path / "run.old-1").iterdir()] == ["status.json"]
        with pytest.raises(InputError, match="in use by another process"), others.locked():
            pass
        (folder.path / "status.json").write_text("{}")
    with others.locked():
        pass
    assert not list(tmp_path.rglob(".lock"))


@dataclasses.dataclass
class Counted:
    """Images that count how often each is read."""

    images: ImageSource
    reads: Tensor

    @property
    def labels(self) -> Tensor:
        return self.images.labels

    def __len__(self) -> int:
        return len(self.images)

    def batches(self, positions: Sequence[Tensor]) -> Iterator[Tensor]:
        for batch in positions:
            self.reads[batch] += 1
        return self.images.batches(positions)


def test_raw_and_ema_weights_are_evaluated_on_images_read_once(tmp_path: Path) -> None:
    recipe = short("supervised")
    data = prepare_data(recipe)
    counted = Counted(data.evaluation, torch.zeros(len(data.evaluation), dtype=torch.int64))
    going = Run(recipe, RunFolder(tmp_path / "run"), ON_CPU, dataclasses.replace(data, evaluation=counted))
    for step in range(3):
        going.trainer.step(step, going.trainer.batches.at(step))
    going.network.train()
    metrics = going.measure()
    assert counted.reads.tolist() == [1] * len(counted) and going.network.training
    for name, network in (("raw", going.network), ("ema", going.ema)):
        assert metrics[name] == evaluate(network, data.evaluation, data.dataset.info)
    assert metrics["raw"] != metrics["ema"]


def test_a_run_of_other_data_or_precision_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    recipe = short("supervised", steps=2, eval_every=2)
    folder, _ = run(recipe, tmp_path / "run")
    split = json.loads(folder.split_file.read_text())
    folder.split_file.write_text(json.dumps({**split, "names_sha256": "0"}))
    log = folder.log_file.read_bytes()
    with pytest.raises(InputError, match="the data are not those"):
        run(recipe, folder.path)
    forget_accelerate()
    with pytest.raises(InputError, match="mixed precision: the run was begun in float32, not bf16"):
        run(recipe, folder.path, dataclasses.replace(ON_CPU, mixed_precision="bf16"))
    assert folder.log_file.read_bytes() == log


def test_all_that_is_different_about_another_recipe_is_told(tmp_path: Path) -> None:
    folder, recipe = RunFolder(tmp_path), get_recipe("cnn4.muscle_digits_10")
    folder.open(dataclasses.replace(recipe, init="cnn4.muscle_digits_20", seed=1))
    with pytest.raises(InputError, match=r"cnn4.muscle_digits_10 with seed=1 init=\S+_20, not seed=0 init="):
        folder.check(recipe)
    other = get_recipe("cnn4.vat_digits_10", {"vat.epsilon": 1.0, "seed": 1})
    with pytest.raises(InputError, match=r"muscle_digits_10 .*init=\S+, not cnn4.vat_digits_10 .*vat.epsilon=1.0\)"):
        folder.check(other)
