"""Curves: how accuracy changes with one number of the recipe, from `study --vary` to a page."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import pytest

from muscle_zoo import InputError
from muscle_zoo.data import Budget
from muscle_zoo.recipes import Recipe
from muscle_zoo.results.curves import curve_table
from muscle_zoo.results.ledger import Row, read_ledger
from muscle_zoo.results.pages import page_figures, render_page
from muscle_zoo.sessions import study as study_session
from tests.conftest import run
from tests.test_study import ROW, ROWS, row

WORDS_OF_CURVE = ["--methods", "fixmatch", "--datasets", "digits", "--labels", "12", "--seeds", "1"]


def test_a_curve_is_a_row_for_each_method_and_a_column_for_each_value() -> None:
    curve = {"0": ROWS, "0.5": [row("supervised", 10, 0, 0.5), row("muscle", 10, 0, 0.75)]}
    lines = [
        [word.strip() for word in line.strip("|").split("|")] for line in curve_table("mismatch", curve).split("\n")
    ]
    assert lines[0] == ["mismatch", "0", "0.5"]
    assert [words[0] for words in lines[2:]] == [
        *("supervised", "muscle", "gain over supervised", "fixmatch", "muscle_fixmatch", "gain over fixmatch")
    ]
    assert lines[2][1:] == ["58.0 ± 7.2", "50.0"] and lines[3][2] == "75.0" and lines[4][2] == "+25.0"
    assert lines[5][1:] == ["82.0 ± 2.0", ""]
    with pytest.raises(InputError, match="a curve of mismatch is of one backbone"):
        curve_table("mismatch", {"0": [*ROWS, row("muscle", 20, 0, 0.5)]})


def words_of(recipe: Recipe) -> str:
    return Budget(recipe.labels, bias=recipe.bias, mismatch=recipe.mismatch).words  # as a run's row has them


def not_trained(recipes: list[Recipe], out: Path, *options: object) -> study_session.StudyResult:
    """A study whose accuracies are made up."""
    rows = [
        dataclasses.replace(
            ROW, name=r.name, recipe_sha256=r.sha256, seed=r.seed, top1_ema=0.5 + r.mismatch / 10, bias=words_of(r)
        )
        for r in recipes
    ]
    return study_session.StudyResult(rows)


def test_one_command_runs_a_curve_and_a_page_shows_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study_session, "run_study", not_trained)
    task = ["classes=2+3+4+5+6+7", "steps=2", "eval_every=2", "batch_size=8", "mu=2"]
    words = ["study", *WORDS_OF_CURVE, "--vary", "mismatch", "0", "0.5", *task, "--cpu", "--out", str(tmp_path)]
    assert run(words, capsys)[0] == 0
    text = (tmp_path / "curve.md").read_text(encoding="utf-8")
    assert text.startswith("| mismatch | 0 | 0.5 |") and text in run(words, capsys)[1]
    rows = [row for value in ("0", "0.5") for row in read_ledger(tmp_path / f"mismatch_{value}" / "results.csv")]
    assert len({row.recipe_sha256 for row in rows}) == 4
    mark = f"<!-- curve cnn4 digits vary=mismatch:0+0.5 labels=12 {' '.join(task)} figure=curve.png -->"
    page = f"{mark}\n<!-- /curve -->\n"
    assert render_page(page, rows, {}) == f"{mark}\n{text}<!-- /curve -->\n"
    studies = tmp_path / "hub_cards" / "studies"
    studies.mkdir(parents=True)
    (studies / "mismatch.md").write_text(page, encoding="utf-8")
    ((path, figure),) = page_figures(tmp_path, rows, {}).items()
    assert path == studies / "curve.png" and not figure.is_at(path)
    figure.plot(path)
    assert figure.is_at(path) and figure.is_at(tmp_path / "curve.png")
    with pytest.raises(InputError, match="says no vary=FIELD"):
        render_page("<!-- curve cnn4 digits labels=12 -->\n<!-- /curve -->", rows, {})


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (["--vary", "mismatch", "0"], "--vary mismatch 0: give a field and two values or more"),
        (["--vary", "mismatch", "0", "2"], "mismatch=2.0 is out of range"),
        (["--vary", "mismatch", "0", "0"], "a value is given twice"),
        (["--vary", "schedule", "cosine", "constant"], "schedule=cosine: a curve is drawn over numbers"),
        (["--vary", "seed", "0", "1"], "--vary seed: say --seeds N"),
        (["--vary", "lr", "0.1", "0.2", "lr=0.3"], "--vary lr and lr=0.3: the field is given twice"),
        (["--vary", "lr", "0.1", "0.2", "--bias", "none", "imbalance:5"], "one value of --bias, not none imbalance:5"),
        (["--vary", "muscle.wait", "1", "2"], "'muscle.wait': no method of this study has it; did you mean 'muscle.w"),
        (["vat.epsilon=1"], "'vat.epsilon': no method of this study has it"),
        (["teacher=cnn4.muscle_digits_10"], "no method of this study learns from a teacher"),
        (["--methods", "distillation"], "--methods distillation learns from a teacher; give teacher=RUN"),
        (
            ["--methods", "robust_self_training", "--labels", "10", "robust_self_training.preset=paper"],
            "--methods robust_self_training learns from a teacher",
        ),
    ],
)
def test_curves_that_cannot_be(wrong: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(["study", *WORDS_OF_CURVE, *wrong, "--cpu", "--out", str(tmp_path)], capsys)
    assert code == 2 and err.count("\n") == 1 and says in err and not any(tmp_path.iterdir())


def test_a_curve_of_muscles_weight_takes_the_method_alone_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[str] = []

    def pool(todo: list[tuple[Recipe, Path]], *_: object) -> object:
        for recipe, folder in todo:
            trained.append(recipe.method)
            row = dataclasses.replace(ROW, name=recipe.name, recipe_sha256=recipe.sha256, seed=recipe.seed)
            monkeypatch.setitem(rows, folder, row)
        return SimpleNamespace(run=study_session.StudyResult)

    rows: dict[Path, Row] = {}
    monkeypatch.setattr(study_session, "_Pool", pool)
    monkeypatch.setattr(study_session, "finished_row", lambda folder, _: rows.get(folder.path))
    words = ["study", *WORDS_OF_CURVE, "--vary", "muscle.weight", "0.5", "2", "--cpu", "--out", str(tmp_path)]
    code, out, _ = run(words, capsys)
    assert code == 0 and out.startswith(
        "2 values of muscle.weight, 3 runs in all\nvalue 1 of 2, muscle.weight=0.5: 2 runs, "
    )
    assert "\nvalue 2 of 2, muscle.weight=2: 2 runs, 1 of them done; results in" in out
    assert trained == ["fixmatch", "muscle_fixmatch", "muscle_fixmatch"]
    assert (tmp_path / "curve.md").read_text(encoding="utf-8").startswith("| muscle.weight | 0.5 | 2 |")
    assert {row.name for row in read_ledger(tmp_path / "muscle.weight_2" / "results.csv")} == {
        "cnn4.fixmatch_digits_12",
        "cnn4.muscle_fixmatch_digits_12",
    }


def test_a_curve_that_is_stopped_says_which_values_are_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study_session, "run_study", lambda *_: study_session.StudyResult(stopped=True))
    words = ["study", *WORDS_OF_CURVE, "--vary", "mismatch", "0", "0.5", "classes=2+3+4", "--out", str(tmp_path)]
    code, printed, _ = run(words, capsys)
    assert code == 75 and "not done: mismatch 0 0.5; the same command goes on" in printed
