from __future__ import annotations

import dataclasses
import json
import statistics
from pathlib import Path

import pytest
from scipy import stats

from muscle_zoo import InputError, get_recipe
from muscle_zoo.data import DataConfig, DataSet, load_dataset
from muscle_zoo.engine.options import RunOptions
from muscle_zoo.methods import METHODS, with_muscle
from muscle_zoo.recipes import Recipe
from muscle_zoo.results.figures import plot_study, style_of
from muscle_zoo.results.ledger import Row, read_ledger
from muscle_zoo.results.stats import cells, interval, mean_gains
from muscle_zoo.results.study import plan
from muscle_zoo.results.tables import bias_table, calibration_table, controls_table, overall_table, study_table
from muscle_zoo.sessions import study as study_session
from tests.conftest import listing, run

FIGURES = (0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 100)
ROW = Row("", "r", 0, "none", 1, *FIGURES, "s", "w", "g", "t", "cpu", 1, 1, "float32", 0.1)


def row(method: str, labels: int | str, seed: int, top1: float, **more: object) -> Row:
    return dataclasses.replace(ROW, name=f"cnn4.{method}_digits_{labels}", seed=seed, top1_ema=top1, **more)


def test_a_plan_is_paired_and_seed_by_seed() -> None:
    recipes = plan(
        "cnn4", ["supervised", "vat"], ["digits"], ["10", "20"], [0, 1], ["none", "imbalance:5"], {"steps": 7}
    )
    assert len(recipes) == 2 * 2 * 2 * 2 * 2
    assert [recipe.seed for recipe in recipes] == [0] * 16 + [1] * 16
    for alone, muscle in zip(recipes[::2], recipes[1::2], strict=True):
        assert muscle.method == with_muscle(alone.method)
        changed = dataclasses.replace(muscle, method=alone.method, options=alone.options)
        assert changed == alone
    assert {recipe.steps for recipe in recipes} == {7}
    with pytest.raises(InputError, match="--methods muscle is of MUSCLE, which every study adds"):
        plan("cnn4", ["muscle"], ["digits"], ["10"], [0])


ROWS = [
    *(row("supervised", 10, seed, top1) for seed, top1 in enumerate((0.60, 0.64, 0.50))),
    *(row("muscle", 10, seed, top1) for seed, top1 in enumerate((0.70, 0.66, 0.62))),
    *(row("fixmatch", 10, seed, top1) for seed, top1 in enumerate((0.80, 0.82, 0.84))),
    *(row("muscle_fixmatch", 10, seed, top1) for seed, top1 in enumerate((0.81, 0.80))),
]


def test_gains_are_paired_by_seed() -> None:
    supervised, fixmatch = cells(ROWS)
    assert (supervised.base, fixmatch.base) == ("supervised", "fixmatch")
    assert supervised.gains == pytest.approx([10.0, 2.0, 12.0])
    assert fixmatch.gains == pytest.approx([1.0, -2.0])


def test_the_gain_over_all_methods_is_averaged_at_each_seed_first() -> None:
    assert mean_gains(cells(ROWS)) == pytest.approx([(10.0 + 1.0) / 2, (2.0 - 2.0) / 2])  # the seeds that both have
    assert mean_gains([]) == []
    more = [*ROWS, *(row("uda", 10, seed, 0.7) for seed in range(2)), row("muscle_uda", 10, 0, 0.9)]
    more += [row("muscle_uda", 10, 1, 0.6), *(row("uda", 20, 0, 0.9), row("muscle_uda", 20, 0, 0.91))]
    first, second, *rest = overall_table(more).splitlines()[2:]
    low, high = interval([31 / 3, -10 / 3])
    # Of supervised (+10, +2, +12), fixmatch (+1, -2) and uda (+20, -10) two have a positive mean.
    assert first == f"| 10 | all 3 | +3.5 ({low:+.1f} to {high:+.1f}) | 2 of 3 | 0 | 0 | 2 |"
    assert second.startswith("| 10 | the 2 other than supervised | +2.3 (") and "| 1 of 2 |" in second
    assert not rest  # a single method is no overall
    above = [*(row("uda", 10, s, 0.7) for s in range(2)), *(row("muscle_uda", 10, s, 0.8 + s / 1e4) for s in range(2))]
    below = [*(row("vat", 10, s, 0.7) for s in range(2)), *(row("muscle_vat", 10, s, 0.6 + s / 1e4) for s in range(2))]
    assert "| 1 of 2 | 1 | 1 | 2 |" in overall_table([*above, *below])


def test_no_image_more_is_no_gain_whatever_the_ledger_rounds() -> None:
    """One of 360 images more at a seed and one less at another, with six digits each."""
    images = {"uda": (318, 318), "muscle_uda": (319, 317), "vat": (317, 317), "muscle_vat": (318, 317)}
    rows = [row(name, 10, s, round(n / 360, 6)) for name, pair in images.items() for s, n in enumerate(pair)]
    assert sum(rows[2 + s].top1_ema - rows[s].top1_ema for s in range(2)) > 0
    assert "| 1 of 2 | 0 | 0 | 2 |" in overall_table(rows)


def test_controls_are_compared_on_the_seeds_that_both_have() -> None:
    low, high = stats.ttest_rel([0.81, 0.80], [0.60, 0.64]).confidence_interval()
    expected = f"+18.5 ({100 * low:+.1f} to {100 * high:+.1f}) (2)"
    head, _, line = controls_table(ROWS, "muscle_fixmatch").splitlines()
    assert head == "| labels | muscle_fixmatch (seeds) | over supervised | over muscle | over fixmatch |"
    assert line.split(" | ")[:3] == ["| 10", "80.5 ± 0.7 (2)", expected]
    with pytest.raises(InputError, match="no runs of vat at 10 labels"):
        controls_table(ROWS, "vat")


def test_budgets_of_the_same_seeds_have_an_overall_of_their_own() -> None:
    rows = [
        row(f"{muscle}{base}", labels, seed, top1)
        for base in ("uda", "vat")
        for labels in (10, 20, 40)
        for seed in range(2 if labels < 40 else 1)
        for muscle, top1 in (("", 0.7), ("muscle_", 0.7 + labels / 1e3))
    ]
    lines = [line.split(" | ")[:4] for line in overall_table(rows).splitlines()[2:]]
    assert [words[0] for words in lines] == ["| 10"] * 2 + ["| 20"] * 2 + ["| 40"] * 2 + ["| 10, 20"] * 2
    assert lines[-1][1] == "the 2 other than supervised" and lines[-1][2].startswith("+1.5 (")
    assert lines[-1][3] == "4 of 4"


def test_likelihood_and_calibration_error_before_and_after() -> None:
    values = {"nll": 0.5, "nll_uncalibrated": 2.0, "ece": 0.02, "ece_uncalibrated": 0.3}
    rows = [
        row("uda", 10, seed, 0.7, **{key: (1 + seed) * value for key, value in values.items()}) for seed in range(2)
    ]
    rows.append(row("muscle_uda", 10, 0, 0.7, **values))
    assert calibration_table(rows).splitlines()[2:] == [
        "| 10 | uda | 3.00 -> 0.75 | 2.00 -> 0.50 | 45.0 -> 3.0 | 30.0 -> 2.0 |"
    ]


def test_the_interval_is_students() -> None:
    for n in (2, 3, 30, 31, 200):
        gains = ([1.0, 2.5, -0.5, 4.0, 3.0, 2.0, 2.2, 0.1, 1.9, 2.7] * 20)[:n]
        expected = stats.t.interval(0.95, n - 1, statistics.fmean(gains), stats.sem(gains))
        assert interval(gains) == pytest.approx(expected)
    assert interval([1.0]) is None
    low, high = interval([0.0, 1.0, 2.0]) or (0.0, 0.0)
    assert (high - low) / 2 == pytest.approx(4.3027 / 3**0.5, abs=1e-4)  # 4.3027 is of any book's table


def test_the_table_leaves_no_cell_out() -> None:
    lines = study_table(ROWS).splitlines()
    assert lines[0] == "| labels | method | alone | worst | with MUSCLE | worst | gain, 95 % interval | seeds |"
    assert lines[2].startswith("| 10 | supervised | 58.0 ± 7.2 | 50.0 | 66.0 ± 4.0 | 62.0 | +8.0 (")
    assert lines[3].endswith("| 2 |") and "| 82.0 ± 2.0 | 80.0 | 80.5 ± 0.7 | 80.0 | -0.5 (" in lines[3]
    biased = [*ROWS, row("supervised", 10, 0, 0.3, bias="imbalance:5")]
    assert "| imbalance:5 | 10 | supervised | 30.0 | 30.0 |  |  |  | 0 |" in study_table(biased)
    biased.append(row("supervised", 10, 0, 0.3, bias="imbalance:20"))
    assert [cell.bias for cell in cells(biased)] == ["none", "none", "imbalance:5", "imbalance:20"]


def test_how_the_gain_changes_with_a_bias() -> None:
    biased = [
        *(row("supervised", 10, seed, top1, bias="imbalance:5") for seed, top1 in enumerate((0.50, 0.50, 0.50))),
        *(row("muscle", 10, seed, top1, bias="imbalance:5") for seed, top1 in enumerate((0.65, 0.57, 0.66))),
    ]  # gains of 15, 7, 16; without bias 10, 2, 12
    lines = bias_table([*ROWS, *biased]).splitlines()
    assert lines[0] == "| method | imbalance:5 |" and lines[3] == "| fixmatch |  |"
    low, high = interval([5.0, 5.0, 4.0]) or (0.0, 0.0)
    assert lines[2] == f"| supervised | +4.7 ({low:+.1f} to {high:+.1f}) |"
    assert lines[4] == "| all 2 |  |"  # one of them has no biased runs


def test_what_all_methods_gain_more_with_a_bias_is_averaged_at_each_seed() -> None:
    unbiased = [row(m, 10, s, t) for m, ts in (("vat", (0.5, 0.6)), ("uda", (0.7, 0.8))) for s, t in enumerate(ts)]
    unbiased += [dataclasses.replace(r, name=r.name.replace(".", ".muscle_")) for r in unbiased]  # no gain
    gains = {("vat", 0): 0.02, ("vat", 1): 0.04, ("uda", 0): 0.06, ("uda", 1): 0.04}
    biased = [dataclasses.replace(r, bias="imbalance:5") for r in unbiased]
    for number, r in enumerate(biased):
        if "muscle" in r.name:
            method = r.name.split("_")[1]
            biased[number] = dataclasses.replace(r, top1_ema=r.top1_ema + gains[method, r.seed])
    assert bias_table([*unbiased, *biased]).splitlines()[-1] == "| all 2 | +4.0 (+4.0 to +4.0) |"


def test_runs_of_two_recipes_do_not_mix() -> None:
    with pytest.raises(InputError, match="different overrides"):
        study_table([*ROWS, row("supervised", 10, 4, 0.9, recipe_sha256="other")])


def test_runs_of_two_backbones_do_not_mix(tmp_path: Path) -> None:
    others = [dataclasses.replace(r, name=r.name.replace("cnn4", "test_resnet"), top1_ema=0.1) for r in ROWS[:6]]
    lines = study_table([*ROWS, *others]).splitlines()
    assert lines[0].startswith("| backbone | labels | method |") and len(lines) == 2 + 3
    assert lines[2:4] == [f"| cnn4 {line}" for line in study_table(ROWS).splitlines()[2:]]
    assert lines[4].startswith("| test_resnet | 10 | supervised | 10.0 ± 0.0 |")
    with pytest.raises(InputError, match="one backbone"):
        plot_study([*ROWS, *others], tmp_path / "x.png")


def test_the_figure(tmp_path: Path) -> None:
    more = [dataclasses.replace(r, name=r.name.replace("_10", "_40")) for r in ROWS]
    plot_study([*ROWS, *more], tmp_path / "x.png")
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(InputError, match="one backbone, one data set, one variant and one bias"):
        plot_study([*ROWS, row("supervised", 10, 0, 0.3, bias="imbalance:5")], tmp_path / "y.png")
    assert len({style_of(method) for method in METHODS}) == len(METHODS)


def test_budgets_may_be_shares(tmp_path: Path) -> None:
    rows = [row("supervised", share, seed, 0.6) for share in ("10pct", "5pct") for seed in (0, 1)]
    assert [cell.labels for cell in cells(rows)] == ["5pct", "10pct"]
    assert study_table(rows).splitlines()[2].startswith("| 5pct | supervised | 60.0")
    plot_study(rows, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 1000
    with pytest.raises(InputError, match="--labels 10 10pct mixes numbers and shares"):
        plan("cnn4", ["supervised"], ["digits"], ["10", "10pct"], [0])


def test_overrides_may_stand_after_a_list(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["study", "--methods", "supervised", "--datasets", "digits", "--seeds", "1", "--out", str(tmp_path / "s")]
    code, _, err = run([*words, "--labels", "10", "steps=x"], capsys)
    assert code == 2 and "steps=x" in err and "is not a whole number" in err
    code, _, err = run([*words, "--labels", "10", "--bias", "none", "bias=imbalance:5"], capsys)
    assert code == 2 and "--bias" in err
    code, _, err = run([*words, "--labels", "steps=20"], capsys)
    assert code == 2 and "--labels steps=20: give at least one" in err


@pytest.mark.parametrize(
    ("outcome", "code", "out_says", "err_says"),
    [
        ((True, ["runs/x: the loss is not finite"]), 1, "2 runs, 0 of them done", "failed: runs/x: the loss is not fi"),
        ((False, []), 75, "stopped with 0 of 2 runs done; run the same command again", ""),
        ((True, []), 0, "2 runs, 0 of them done", ""),
    ],
)
def test_a_study_that_fails_exits_with_1_and_one_that_is_stopped_with_75(
    outcome: tuple[bool, list[str]],
    code: int,
    out_says: str,
    err_says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(
        study_session._Pool, "run", lambda pool: study_session.StudyResult([], not outcome[0], outcome[1])
    )
    words = ["study", "--methods", "supervised", "--datasets", "digits", "--labels", "10", "--seeds", "1"]
    found, out, err = run([*words, "--out", str(tmp_path / "s")], capsys)
    assert found == code and out_says in out and err_says in err and bool(err) == bool(err_says)


def test_a_second_study_in_the_same_folder_keeps_the_first_ones_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "s"

    def study(methods: str, labels: str, seeds: int, *more: str) -> tuple[int, str]:
        words = [
            "study",
            "--methods",
            methods,
            "--datasets",
            "digits",
            "--labels",
            labels,
            "--seeds",
            str(seeds),
            *more,
        ]
        code, _, err = run([*words, "--cpu", "--out", str(out)], capsys)
        return code, err

    def trained(recipes: list[Recipe], *_: object) -> study_session.StudyResult:
        rows = [
            dataclasses.replace(ROW, name=r.name, seed=r.seed, recipe_sha256=r.sha256, bias=r.bias) for r in recipes
        ]
        return study_session.StudyResult(rows)

    monkeypatch.setattr(study_session, "run_study", trained)
    assert study("supervised", "10", 2, "steps=7") == (0, "")
    assert study("fixmatch", "40", 1, "steps=7") == (0, "")
    assert study("supervised", "10", 1, "steps=7") == (0, "")
    rows = read_ledger(out / "results.csv")
    assert len(rows) == 6 and {r.name.split(".")[1] for r in rows} == {
        *("supervised_digits_10", "muscle_digits_10", "fixmatch_digits_40", "muscle_fixmatch_digits_40")
    }
    table = (out / "table.md").read_text()
    assert table == "Every run with `steps=7`.\n\n" + study_table(rows) + "\n"
    before = listing(tmp_path)
    for words, says in (
        (("fixmatch", "40", 1), "with other settings"),
        (("vat", "10", 1, "steps=8"), "with other settings"),
        (("vat", "10", 1, "steps=7", "muscle.weight=0.5"), "with other settings"),
        (("vat", "10", 1, "steps=7", "--arch", "test_resnet"), "of another backbone"),
        (("vat", "10pct", 1, "steps=7"), "with another kind of budget"),
    ):
        code, err = study(*words)
        assert code == 2 and f"--out {out} holds another study" in err and f"{says}); give another --out" in err, words
        assert listing(tmp_path) == before


@pytest.mark.slow
def test_a_study_can_be_stopped_and_continued(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "study"
    words = ["study", "steps=6", "eval_every=3", "batch_size=8", "mu=2", "--methods", "supervised", "fixmatch"]
    words += ["--datasets", "digits", "--labels", "10", "--seeds", "2", "--jobs", "2", "--cpu", "--out", str(out)]
    assert run([*words, "--time-limit", "0.000001"], capsys)[0] == 75
    code, text, _ = run(words, capsys)
    assert code == 0 and "8 runs" in text and "8/8" in text
    rows = read_ledger(out / "results.csv")
    assert len(rows) == 8 and {r.seed for r in rows} == {0, 1}
    for r in rows:
        method = r.name.split(".")[1].removesuffix("_digits_10")
        recipe = get_recipe(r.name, {"steps": 6, "eval_every": 3, "batch_size": 8, "mu": 2})
        assert (r.recipe_sha256, recipe.method) == (recipe.sha256, method)
        status = json.loads((out / "runs" / r.name / f"seed{r.seed}" / "status.json").read_text())
        assert status["row"]["top1_ema"] == r.top1_ema
    changed = "Every run with `steps=6` `eval_every=3` `batch_size=8` `mu=2`.\n\n"
    assert (out / "table.md").read_text() == changed + study_table(rows) + "\n" and changed in text
    assert (out / "digits.png").read_bytes().startswith(b"\x89PNG")
    before = {name for name, _ in listing(out)}
    code, again, _ = run(words, capsys)
    assert code == 0 and "8 of them done" in again and {name for name, _ in listing(out)} == before
    # what stands in a ledger is not run again, in the precision it was run in
    elsewhere = [*words[:-1], str(tmp_path / "elsewhere"), "--ledger", str(out / "results.csv")]
    code, text, _ = run(elsewhere, capsys)
    assert code == 0 and "8 runs, 8 of them done" in text and not (tmp_path / "elsewhere" / "runs").exists()
    assert read_ledger(tmp_path / "elsewhere" / "results.csv") == rows
    code, text, _ = run([*elsewhere, "--mixed-precision", "bf16", "--time-limit", "0.000001"], capsys)
    assert code == 75 and "8 runs, 0 of them done" in text
    code, _, err = run([*words, "--ledger", str(tmp_path / "none.csv")], capsys)
    assert code == 2 and "none.csv is not a file" in err


def test_a_worker_reads_a_data_set_once_and_a_users_own_pictures_every_time(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[tuple[str, int]] = []

    def reading(name: str, config: object, image_size: int) -> DataSet:
        read.append((name, image_size))
        return load_dataset(name)

    monkeypatch.setattr(study_session, "load_dataset", reading)
    last, options = study_session.LastDataSet(), RunOptions(cpu=True)
    wanted = [("digits_10", "0"), ("digits_20", "0"), ("digits_10", "16"), ("folder_10", "0"), ("digits_10", "0")]
    found = [last.of(get_recipe(f"cnn4.muscle_{name}", {"image_size": size}), options) for name, size in wanted]
    assert read == [("digits", 0), ("digits", 16), ("digits", 0)]
    assert found[0] is found[1] and found[2] is not found[1] and found[3] is None
    last.of(get_recipe("cnn4.muscle_digits_10"), dataclasses.replace(options, data=DataConfig(workers=1)))
    assert len(read) == 4
