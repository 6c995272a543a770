"""The command line as a user meets it: wrong input in one table, then what right input prints."""

from __future__ import annotations

import argparse
import json
import runpy
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from muscle_zoo import DownloadError, InputError, TrainingError, cli, get_recipe
from muscle_zoo.checkpoints import registry
from muscle_zoo.cli import main
from muscle_zoo.commands.arguments import source_of, time_limit
from muscle_zoo.engine.options import RunOptions
from muscle_zoo.engine.run_folder import RunFolder
from muscle_zoo.recipes import Recipe
from muscle_zoo.results.ledger import Row
from muscle_zoo.sessions import quickstart
from muscle_zoo.sessions.train import RunResult, train_run
from tests.conftest import SHORT, forget_accelerate, listing, run, truncated, wrong_hash

NAME = SHORT[0]
ROOT = Path(__file__).resolve().parent.parent


def test_train_exits_with_2_and_one_line(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "train.py"), "cnn4.muscle_digit_10"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_eval_exits_with_2_and_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["eval.py", "cnn4.muscle_digit_10"])
    with pytest.raises(SystemExit) as stop:  # in this process: how a script ends one, the other shows
        runpy.run_path(str(ROOT / "eval.py"), run_name="__main__")
    err = capsys.readouterr().err
    assert stop.value.code == 2 and err.startswith("error: ") and err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("script", ["train.py", "eval.py"])
def test_ctrl_c_while_a_script_imports(script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted(ModuleType):
        def __getattr__(self, name: str) -> object:
            raise KeyboardInterrupt if name == "main" else AttributeError

    monkeypatch.setitem(sys.modules, "muscle_zoo.cli", Interrupted("muscle_zoo.cli"))
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(ROOT / script), run_name="__main__")
    assert stop.value.code == "error: interrupted"  # which Python prints, and exits with 1


@pytest.mark.parametrize("damage", [truncated, wrong_hash, lambda export: (export / "config.json").unlink()])
def test_a_damaged_export_is_made_again(
    damage: Callable[[Path], None], tmp_path: Path, finished_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    shutil.copytree(finished_run, out)
    damage(out / "export")
    assert run(["train", *SHORT, "--cpu", "--out", str(out)], capsys)[0] == 0
    weights = "export/model.safetensors"
    assert (out / weights).read_bytes() == (finished_run / weights).read_bytes()
    assert run(["eval", str(out)], capsys)[0] == 0


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (InputError("labels=x is wrong"), 2, "labels=x is wrong"),
        (TrainingError("the loss is not finite"), 1, "the loss is not finite"),
        (DownloadError("no network"), 1, "no network"),
        (OSError(28, "No space left on device"), 1, "No space left on device; free space"),
        (KeyboardInterrupt(), 1, "interrupted"),
    ],
)
def test_exit_codes(
    error: BaseException, code: int, says: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(args: argparse.Namespace) -> int:
        raise error

    monkeypatch.setitem(cli.COMMANDS, "list", ("", lambda parser: None, fail))
    found, out, err = run(["list"], capsys)
    assert (found, out) == (code, "") and err.startswith("error: ") and says in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("9m", 540), ("1.5h", 5400), ("0.5", 0.5), ("24h", 86400)]
)
def test_times(text: str, seconds: float) -> None:
    assert time_limit(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "0m", "-5", "9d", "m", "1h30m", "1e3", "9 m"])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="is not a time; write 90s, 9m or"):
        time_limit(text)


@pytest.mark.parametrize(("processes", "workers"), [(None, 4), ("1", 4), ("2", 3), ("6", 1), ("12", 0)])
def test_processes_of_a_machine_share_its_cores(
    processes: str | None, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(6)), raising=False)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", processes) if processes else monkeypatch.delenv("LOCAL_WORLD_SIZE", False)
    given = {"data": None, "stream": False, "strict": False}
    assert source_of(argparse.Namespace(workers=None, **given)).workers == workers
    assert source_of(argparse.Namespace(workers=5, **given)).workers == 5


def test_trouble_with_the_network_exits_with_1(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(["eval", "hf-hub:nobody/nothing"], capsys)  # the tests run offline
    assert code == 1 and err.count("\n") == 1 and "hf-hub:nobody/nothing, config.json: it is not in the cache" in err


def test_options_may_stand_between_overrides(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", SHORT[0], "steps=2", "--cpu", "batch_size=8", "--out", str(tmp_path / "run"), "mu=1"]
    assert run(words, capsys)[0] == 0


def test_a_stopped_run_keeps_its_precision(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", *SHORT, "--cpu", "--out", str(tmp_path / "run")]
    assert run([*words, "--mixed-precision", "bf16", "--time-limit", "0.000001"], capsys)[0] == 75
    forget_accelerate()
    code, _, err = run(words, capsys)
    assert code == 2 and "begun in bf16" in err
    forget_accelerate()
    assert run([*words, "--mixed-precision", "bf16"], capsys)[0] == 0
    assert json.loads((tmp_path / "run" / "status.json").read_text())["row"]["dtype"] == "bf16"


def test_the_time_limit_counts_from_the_start_of_the_command(tmp_path: Path) -> None:
    options = RunOptions(cpu=True, time_limit=7200.0, progress=False)
    recipe = get_recipe(NAME, {"steps": 3, "eval_every": 3, "batch_size": 8, "mu": 1})
    for hours_ago, finished in ((3, False), (1, True)):  # the imports and the data had taken so long
        began = time.monotonic() - 3600 * hours_ago
        assert train_run(recipe, tmp_path / "run", options, began).finished == finished
        assert RunFolder(tmp_path / "run").read_status()["step"] == (3 if finished else 1)


def test_the_runs_of_the_quickstart_share_its_time(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock, limits = iter((0.0, 0.0, 40.0)), []
    monkeypatch.setattr(quickstart, "time", SimpleNamespace(monotonic=lambda: next(clock)))

    def trained(recipe: Recipe, out: Path, options: RunOptions) -> RunResult:
        limits.append(options.time_limit)
        return RunResult(recipe, out, out.name == "supervised", finished)

    finished = Row(**RunFolder(finished_run).read_status()["row"])
    monkeypatch.setattr(quickstart, "train_run", trained)
    code, out, _ = run(["train", "--cpu", "--time-limit", "1m", "--out", str(tmp_path / "q")], capsys)
    assert code == 75 and "run the same command again" in out and limits == [60.0, 20.0]


def test_a_finished_run_is_printed_again(finished_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = listing(finished_run)
    code, out, _ = run(["train", *SHORT, "--cpu", "--out", str(finished_run)], capsys)
    assert code == 0 and "top-1" in out and "create_model" in out
    assert listing(finished_run) == before


def test_fresh_keeps_the_old_run(
    tmp_path: Path, finished_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(finished_run, tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    code, _, _ = run(["train", *SHORT, "seed=1", "--cpu", "--out", "run", "--fresh"], capsys)
    assert code == 0
    assert listing(tmp_path / "run.old-1") == listing(finished_run)
    assert json.loads((tmp_path / "run" / "recipe.json").read_text())["seed"] == 1


def test_the_run_folder_is_whole(finished_run: Path) -> None:
    names = {"recipe.json", "split.json", "log.jsonl", "status.json", "curves.png", "state", "export"}
    assert {path.name for path in finished_run.iterdir()} == names
    assert (finished_run / "curves.png").read_bytes().startswith(b"\x89PNG")
    rows = [json.loads(line) for line in (finished_run / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "top1_ema" in row] == [8, 16, 24]
    assert {"lr", "loss", "cross_entropy", "mi", "mi_weight", "seconds"} <= set(rows[0])


def test_eval_reproduces_what_a_run_measured(finished_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(["eval", str(finished_run), "--json"], capsys)
    report = json.loads(out)
    row = json.loads((finished_run / "status.json").read_text())["row"]
    assert code == 0 and report["published"] == {
        "top1": pytest.approx(row["top1_ema"], abs=1e-6),
        "n": 360,
        "reproduced": True,
    }
    assert report["top1"] == pytest.approx(row["top1_ema"], abs=1e-6)
    assert report["nll"] == pytest.approx(row["nll"], abs=1e-4)
    assert set(report["per_class"]) == set("0123456789") and report["n"] == 360
    code, out, _ = run(["eval", str(finished_run)], capsys)
    assert code == 0 and "reproduced" in out and "calibration error" in out


def test_eval_says_when_a_figure_is_not_reproduced(
    tmp_path: Path, finished_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(finished_run / "export", tmp_path / "card")
    config = json.loads((tmp_path / "card" / "config.json").read_text())
    top1 = config["muscle_zoo"]["metrics"]["top1"]
    for images_off, expected in ((0.9, 0), (1.1, 1), (-1.1, 1)):
        config["muscle_zoo"]["metrics"]["top1"] = top1 + images_off / 360
        (tmp_path / "card" / "config.json").write_text(json.dumps(config))
        code, out, _ = run(["eval", str(tmp_path / "card")], capsys)
        assert code == expected
        assert ("NOT reproduced" in out) == bool(expected)


def test_the_shipped_checkpoint_reproduces_its_figure(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(["eval", NAME, "--json"], capsys)
    assert code == 0 and json.loads(out)["published"]["reproduced"]


def test_a_recipe_of_the_dev_fold_is_evaluated_on_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["cnn4.supervised_digits_10", "steps=4", "eval_every=4", "batch_size=8", "fold=dev"]
    assert run(["train", *words, "--cpu", "--out", str(tmp_path / "dev")], capsys)[0] == 0
    code, out, _ = run(["eval", str(tmp_path / "dev"), "--json"], capsys)
    assert code == 0
    assert (json.loads(out)["fold"], json.loads(out)["n"]) == ("dev", 287)


def test_list_and_info(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(["list", "*digits_10"], capsys)
    assert code == 0 and NAME in out and "cnn4.supervised_digits_10" in out
    code, out, _ = run(["list", "--pretrained", "--json"], capsys)
    names = [row["name"] for row in json.loads(out)]
    assert NAME in names and sorted(names) == registry.checkpoint_names()
    code, out, _ = run(["info", NAME, "--json"], capsys)
    assert json.loads(out)["recipe"]["labels"] == 10


@pytest.mark.slow
def test_the_quickstart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    few = {"steps": 20, "eval_every": 10, "batch_size": 16, "mu": 2}
    monkeypatch.setattr(quickstart, "get_recipe", lambda name: get_recipe(name, few))
    code, out, _ = run(["train", "--cpu"], capsys)  # whole it is run by .ci/run
    assert code == 0
    summary = json.loads((tmp_path / "runs" / "quickstart" / "summary.json").read_text())
    assert summary["gain"] == pytest.approx(summary["muscle_top1"] - summary["control_top1"], abs=1e-5)
    assert summary["gain"] != 0 and summary["seconds"] > 0
    for value in (summary["control_top1"], summary["muscle_top1"]):
        assert f"{100 * value:5.1f} %" in out
    splits = [(tmp_path / "runs" / "quickstart" / r / "split.json").read_text() for r in ("supervised", "muscle")]
    assert splits[0] == splits[1]
    before = listing(tmp_path)
    code, again, _ = run(["train", "--cpu"], capsys)
    assert code == 0 and again.strip() == out[out.index("top-1") :].strip()
    assert listing(tmp_path) == before


def test_a_run_folder_is_one_process_at_a_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "a" / "run"
    words = ["train", "cnn4.muscle_digits_10", "steps=2", "batch_size=4", "mu=1", "--cpu", "--out", str(out)]
    with RunFolder(out).locked():
        for more in ([], ["--fresh"]):
            code, _, err = run([*words, *more], capsys)
            assert code == 2 and "in use by another process" in err
        assert {path.name for path in out.iterdir()} == {".lock"}
    assert not (tmp_path / "a").exists()  # as it was before
    assert run(words, capsys)[0] == 0
    assert run([*words, "--fresh"], capsys)[0] == 0
    assert {path.name for path in out.parent.iterdir()} == {"run", "run.old-1"}
    assert not list(tmp_path.rglob(".lock"))


def test_a_folder_of_two_runs_is_set_aside_too(tmp_path: Path) -> None:
    assert RunFolder(tmp_path / "none").set_aside() is None
    (tmp_path / "quickstart" / "muscle").mkdir(parents=True)
    assert RunFolder(tmp_path / "quickstart").set_aside() == tmp_path / "quickstart.old-1"
    assert (tmp_path / "quickstart.old-1" / "muscle").is_dir()


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["trian", "x"], "did you mean 'train'?"),
        (["train", "--time-limt", "5"], "did you mean '--time-limit'?"),
        (["bench", "stpe"], "did you mean 'step'?"),
        (["predict", "NAME", "pictures", "--cvs", "x"], "did you mean '--csv'?"),
        (["train", "--zzzzzz"], "unrecognized arguments: --zzzzzz; see muscle-zoo train --help"),
    ],
)
def test_a_misspelled_command_or_option_says_what_was_meant(
    words: list[str], meant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(words)
    err = capsys.readouterr().err
    assert stop.value.code == 2 and meant in err and err.count("\n") == 1
