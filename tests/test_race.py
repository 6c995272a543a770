"""`bench race`: time to accuracy."""

from __future__ import annotations

import doctest
import json
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from torch import nn

from muscle_zoo import InputError, get_recipe
from muscle_zoo.bench import race as module
from muscle_zoo.bench.race import Lap, Race, bench_race
from muscle_zoo.data import DataConfig
from muscle_zoo.engine.options import RunOptions
from muscle_zoo.results import races
from muscle_zoo.results.pages import render_page
from tests.conftest import run

STEPS = {"steps": 7, "eval_every": 3, "batch_size": 4, "mu": 2, "cpu_threads": 1}
RESULT = {"recipe": "a", "changed": [], "device": "cpu", "target": 0.5, "races": []}
CPU = RunOptions(cpu=True, progress=False)


def race(monkeypatch: pytest.MonkeyPatch, accuracies: list[float], target: float, **changed) -> tuple[dict, list]:
    """A race whose accuracies are given, on a clock that every look moves on by a second; and what was evaluated."""
    clock, given, seen = count(), iter(accuracies), []

    def evaluate(model: nn.Module, images, info) -> SimpleNamespace:
        next(clock), next(clock)  # an evaluation takes long
        seen.append((next(model.parameters()).clone(), len(images)))
        return SimpleNamespace(top1=next(given))

    monkeypatch.setattr(module.time, "perf_counter", lambda: float(next(clock)))
    monkeypatch.setattr(module, "evaluate", evaluate)
    recipe = get_recipe("cnn4.fixmatch_digits_10", STEPS | changed)
    return bench_race(recipe, target, 2, CPU, DataConfig(), lambda line: None), seen


def test_the_example_runs() -> None:
    results = doctest.testmod(races)
    assert results.attempted and not results.failed


def test_a_line_of_the_table_is_of_the_seeds_that_came_to_it() -> None:
    first = {"seed": 0, "laps": [{"step": 5, "seconds": 1.0, "top1": 0.2}], "operations": 10.0, "reached": True}
    laps = [{"step": 5, "seconds": 3.0, "top1": 0.4}, {"step": 10, "seconds": 6.0, "top1": 0.5}]
    second = {"seed": 1, "laps": laps, "operations": 30.0, "reached": False}
    lines = races.race_table([{"recipe": "a", "changed": [], "races": [first, second]}]).splitlines()[2:]
    assert lines == ["| `a` | 5 | 2 | 30.0 ± 14.1 | 2 | 1.0e+01 |", "|  | 10 | 6 | 50.0 | 1 | 3.0e+01 |"]


def test_a_page_shows_it_from_its_files(tmp_path: Path) -> None:
    laps = [{"step": 5, "seconds": 1.0, "top1": 0.2}]
    for name in ("a", "b"):
        race = {"seed": 0, "laps": laps, "operations": 10.0, "reached": True}
        (tmp_path / f"{name}.json").write_text(json.dumps({**RESULT, "recipe": name, "races": [race]}))
    text = render_page("<!-- race a.json b.json -->\n<!-- /race -->", [], {}, tmp_path)
    assert [line[:7] for line in text.splitlines()[3:5]] == ["| `a` |", "| `b` |"]


def test_it_ends_at_the_first_evaluation_that_reaches_the_target_and_times_the_steps_alone(monkeypatch) -> None:
    result, seen = race(monkeypatch, [0.5, 0.8, 0.6, 0.7, 0.9], 0.8)
    first, second = result["races"]
    assert [(lap["step"], lap["seconds"], lap["top1"]) for lap in first["laps"]] == [(3, 1.0, 0.5), (6, 2.0, 0.8)]
    assert [lap["step"] for lap in second["laps"]] == [3, 6, 7]  # the last step is evaluated too
    assert (result["reached"], result["seconds"], result["steps"]) == (2, 3.0, 7)
    assert {images for _, images in seen} == {287}  # the dev fold: a fifth of the training digits
    assert not seen[0][0].equal(seen[1][0]) and not seen[0][0].equal(seen[2][0])  # trained on; another seed


def test_what_half_of_the_seeds_do_not_reach_has_no_median() -> None:
    lap = (Lap(10, 5.0, 0.9),)
    there, not_there = Race(0, lap, 100.0, True), Race(1, (Lap(99, 50.0, 0.1),), 990.0, False)
    later = Race(2, (Lap(20, 9.0, 0.9),), 200.0, True)
    assert module._medians([there, not_there])["seconds"] is None
    facts = module._medians([there, not_there, later])  # the one that never came is slower than both
    assert (facts["reached"], facts["seconds"], facts["steps"], facts["operations"]) == (2, 9.0, 20, 200.0)
    facts = module._medians([there, not_there, not_there])
    assert (facts["seeds"], facts["reached"], facts["seconds"], facts["steps"]) == (3, 1, None, None)


def test_operations_are_those_of_the_steps(monkeypatch) -> None:
    layer = nn.Linear(3, 5, bias=False)
    assert module._operations(lambda: layer(torch.zeros(7, 3))) == 2 * 7 * 3 * 5
    short, _ = race(monkeypatch, [0.9, 0.9], 0.8)
    long, _ = race(monkeypatch, [0.1, 0.9, 0.1, 0.9], 0.8)
    assert long["operations"] == 2 * short["operations"]
    # The convolutions of cnn4 on 8x8 digits; backward is twice forward, but for the images, which need no gradient.
    layers = [64 * 9 * 32, 64 * 9 * 32 * 32, 16 * 9 * 32 * 64, 4 * 9 * 64 * 64, 64 * 10]
    images, weak = 4 + 8 + 8, 0  # labeled, weak and strong views; all in the one forward with gradients
    whole = 2 * (images + weak) * (3 * sum(layers) - layers[0])
    assert short["operations"] == 3 * whole
    # While the classifier alone is trained, the other layers have no backward.
    probed, _ = race(monkeypatch, [0.1, 0.9, 0.1, 0.9], 0.8, probe_steps=2)
    assert probed["operations"] == 2 * 2 * (images + weak) * (sum(layers) + layers[-1]) + 4 * whole


def test_a_frozen_backbone_is_run_on_the_clock(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MUSCLE_ZOO_CACHE", str(tmp_path))
    recipe = get_recipe(
        "tf_efficientnet_lite0.muscle_digits_10_frozen", {"steps": 3, "eval_every": 3, "image_size": 32}
    )
    plans = []
    monkeypatch.setattr(module, "embed_data", lambda *args: plans.append(args) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        bench_race(recipe, 0.9, 1, CPU, DataConfig())
    assert len(plans) == 1 and not list(tmp_path.iterdir())
    assert module.os.environ["MUSCLE_ZOO_CACHE"] == str(tmp_path)


def test_the_command(capsys, tmp_path: Path) -> None:
    words = ["cnn4.supervised_digits_20", *(f"{k}={v}" for k, v in STEPS.items()), "--cpu", "--seeds", "1"]
    code, out, err = run(["bench", "race", *words, "--target", "2", "--json"], capsys)
    result = json.loads(out)
    assert (code, result["recipe"], result["seeds"], len(result["races"][0]["laps"])) == (0, words[0], 1, 1)
    assert result["changed"] == ["steps=7", "batch_size=4", "mu=2", "eval_every=3"] and "dev fold" in err
    (tmp_path / "a.json").write_text(out)
    figure = ["--figure", str(tmp_path / "a.png"), "--beside", str(tmp_path / "a.json")]
    code, out, _ = run(["bench", "race", *words, "--target", "100", *figure], capsys)
    assert code == 0 and "| 0 | 7 |" in out and "medians              none: at most half" in out
    assert "changed              steps=7 batch_size=4 mu=2 eval_every=3\n" in out and "| no |" in out
    assert Image.open(tmp_path / "a.png").size[0] > 600


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["race", "cnn4.supervised_digits_20"], "--target is missing"),
        (["race", "cnn4.supervised_digits_20", "--target", "0.8"], "--target 0.8 is out of range; give per cent"),
        (["race", "cnn4.supervised_digits_20", "--target", "9", "--seeds", "0"], "--seeds 0 is out of range"),
        (["race", "cnn4.simclr_digits_20", "--target", "9"], "simclr trains no classifier whose accuracy could grow"),
        (["race", "cnn4.distillation_digits_20", "--target", "9"], "teacher= is empty, and distillation learns from"),
        (
            ["race", "cnn4.supervised_digits_20", "seed=1", "--target", "9"],
            "seed=: a race is on the dev fold, of seeds",
        ),
        (["race", "cnn4.supervised_digits_20", "fold=test", "--target", "9"], "fold=: a race is on the dev fold"),
        (["race", "--target", "9"], "a recipe is missing; give one, such as"),
        (["race", "steps=5", "--target", "9"], "a recipe is missing; give one, such as"),
        (["race", "cnn4.supervised_digits_20", "--target", "9", "--figure", "a.txt"], "write a name that ends in .png"),
        (
            ["race", "cnn4.supervised_digits_20", "--target", "9", "--figure", "a.png", "--beside", "README.md"],
            "README.md is no race; give a file of what `muscle-zoo bench race --json` printed",
        ),
        (["race", "cnn4.supervised_digits_20", "--target", "9", "--beside", "a.json"], "give --figure FILE"),
        (["step", "cnn4.supervised_digits_20", "--target", "9"], "--target is for `bench race`"),
    ],
)
def test_wrong_input(words: list[str], line: str, capsys) -> None:
    code, _, err = run(["bench", *words, "--cpu"], capsys)
    assert code == 2 and line in err and err.count("\n") == 1  # nothing was announced that then does not happen


@pytest.mark.parametrize(
    "wrong", [[1, 2], {}, {**RESULT, "races": [{"laps": []}]}, {**RESULT, "target": "x"}, {"races": []}]
)
def test_what_is_no_race_is_not_drawn(wrong: object, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(wrong))
    with pytest.raises(InputError, match="is no race"):
        races.read_race(tmp_path / "a.json")
