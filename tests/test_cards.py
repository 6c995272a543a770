from __future__ import annotations

import dataclasses
import json
import shutil
import statistics
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from muscle_zoo import InputError, get_recipe
from muscle_zoo.checkpoints import registry
from muscle_zoo.checkpoints.card import read_config
from muscle_zoo.cli import main
from muscle_zoo.data import dataset_info
from muscle_zoo.files import file_sha256
from muscle_zoo.publishing.model_card import render_card
from muscle_zoo.publishing.release import _warnings as release_warnings
from muscle_zoo.publishing.release import median_run
from muscle_zoo.results.ledger import Row, merge, read_ledger, runs_of, write_ledger
from muscle_zoo.results.pages import page_figures, render_page
from muscle_zoo.results.stats import percent

ROOT = Path(__file__).resolve().parent.parent
CARDS = registry.shipped_cards()


def row(name: str = "cnn4.muscle_digits_10", seed: int = 0, top1: float = 0.9, **changes: object) -> Row:
    values = {
        "name": name,
        "recipe_sha256": get_recipe(name).sha256,
        "seed": seed,
        "bias": "none",
        "step": 600,
        "top1_ema": top1,
        "top1_raw": top1,
        "top1_median20": top1,
        "nll": 0.5,
        "ece": 0.1,
        "temperature": 1.0,
        "nll_uncalibrated": 0.5,
        "ece_uncalibrated": 0.1,
        "n_test": 360,
        "split_sha256": "a",
        "weights_sha256": "b",
        "git_sha": "c",
        "torch": "2.15.0",
        "device": "cpu, 2 cores",
        "threads": 1,
        "processes": 1,
        "dtype": "float32",
        "hours": 0.01,
    }
    return Row(**{**values, **changes})


def test_a_ledger_goes_through_its_file(tmp_path: Path) -> None:
    rows = [row(seed=seed, top1=0.1 * seed) for seed in (2, 0, 1)]
    write_ledger(tmp_path / "results.csv", rows)
    assert read_ledger(tmp_path / "results.csv") == sorted(rows, key=lambda r: r.seed)
    assert read_ledger(tmp_path / "none.csv") == []


def test_the_same_run_takes_its_rows_place() -> None:
    rows = merge([row(seed=0), row(seed=1), row(seed=0, recipe_sha256="other")], [row(seed=1, top1=0.5)])
    assert len(rows) == 3
    assert [r.top1_ema for r in runs_of(rows, "cnn4.muscle_digits_10", row().recipe_sha256)] == [0.9, 0.5]


@pytest.mark.parametrize("text", ["name,seed\na,b\n", "", "name\n1\n"])
def test_a_damaged_ledger_is_named(tmp_path: Path, text: str) -> None:
    write_ledger(tmp_path / "results.csv", [row()])
    content = (tmp_path / "results.csv").read_text()
    (tmp_path / "results.csv").write_text(text)
    with pytest.raises(InputError, match="damaged"):
        read_ledger(tmp_path / "results.csv")
    (tmp_path / "results.csv").write_text(content.replace("0.9", "high", 1))
    with pytest.raises(InputError, match="damaged"):
        read_ledger(tmp_path / "results.csv")


def test_the_median_run_is_one_of_the_runs() -> None:
    runs = [row(seed=s, top1=t) for s, t in enumerate((0.9, 0.7, 0.8, 0.95, 0.6))]
    assert median_run(runs).top1_ema == 0.8
    assert median_run(runs[:4]).top1_ema == 0.8  # the lower of the two in the middle
    assert median_run([row(seed=3, top1=0.5), row(seed=1, top1=0.5)]).seed == 1


def test_percent() -> None:
    assert percent([0.5]) == "50.0"
    assert percent([0.5, 0.6, 0.7]) == "60.0 ± 10.0"


def test_a_mark_shows_the_runs_of_its_recipes_and_no_others() -> None:
    control, muscle, vat = "cnn4.supervised_digits_10", "cnn4.muscle_digits_10", "cnn4.vat_digits_10"
    rows = [row(control, s, t) for s, t in enumerate((0.5, 0.6, 0.7))]
    rows += [row(muscle, s, t) for s, t in enumerate((0.8, 0.65, 0.9))]
    short = get_recipe(vat, {"steps": 7}).sha256
    biased = get_recipe(control, {"bias": "imbalance:5"}).sha256
    others = [row(muscle, 9, 0.1, recipe_sha256="an older version"), row(vat, 0, 0.2, recipe_sha256=short)]
    others += [row(control, 0, 0.3, bias="imbalance:5", recipe_sha256=biased)]

    def shown(words: str) -> list[str]:
        text = f"a\n<!-- study cnn4 digits{words} -->\nold\n<!-- /study -->\nb\n"
        once = render_page(text, rows + others, {})
        assert render_page(once, rows + others, {}) == once
        lines = once.splitlines()
        assert (lines[0], lines[1], lines[-2], lines[-1]) == ("a", text.splitlines()[1], "<!-- /study -->", "b")
        return lines[4:-2]

    (line,) = shown("")
    assert line.startswith("| 10 | supervised | 60.0 ± 10.0 | 50.0 | 78.3 ± 12.6 | 65.0 | +18.3 (")
    assert shown(" methods=supervised labels=10") == [line]
    assert [cells.split(" | ")[:4] for cells in shown(" bias=imbalance:5")] == [["| 10", "supervised", "30.0", "30.0"]]
    assert len(shown(" bias=none+imbalance:5")) == 2
    assert [cells.split(" | ")[:3] for cells in shown(" steps=7")] == [["| 10", "vat", "20.0"]]
    for nothing in (" methods=fixmatch", " labels=20", " steps=8"):
        with pytest.raises(InputError, match=f"no runs of cnn4 digits{nothing}"):
            shown(nothing)


@pytest.mark.parametrize(
    ("mark", "says"),
    [
        ("zoo", "the ledger has no runs of any checkpoint"),
        ("study cnn4", "needs an architecture and a data set"),
        ("search cnn4 digits mnist labels=10", "needs an architecture and a data set"),
        ("bias cnn4 digits figure=x.png", "figure= is for study, curve, zoo and methods"),
        ("bias cnn4 digits gains=x.png", "gains= is for study;"),
        ("search cnn4 digits labels=10 figure=x.png", "figure= is for study, curve, zoo and methods"),
    ],
)
def test_a_mark_that_cannot_be_shown_is_named(mark: str, says: str, tmp_path: Path) -> None:
    kind = mark.partition(" ")[0]
    (tmp_path / "README.md").write_text(f"<!-- {mark} -->\n<!-- /{kind} -->\n")
    with pytest.raises(InputError, match=says):
        render_page((tmp_path / "README.md").read_text(), [row()], {})
        page_figures(tmp_path, [row()], {})


def test_a_search_shows_what_was_changed_by_method() -> None:
    def tried(method: str, top1: float, seed: int = 0, **words: object) -> Row:
        name = f"cnn4.{method}_digits_10"
        given = {key.replace("muscle_", "muscle."): value for key, value in words.items()}
        return row(name, seed, top1, recipe_sha256=get_recipe(name, {"fold": "dev", **given}).sha256)

    rows = [tried("supervised", 0.5), tried("supervised", 0.6, lr=0.2), tried("supervised", 0.7, 1, lr=0.2)]
    rows += [tried("muscle", 0.8), tried("muscle", 0.9, muscle_weight=2.0), row("cnn4.fixmatch_digits_10", 0, 0.1)]
    mark = "<!-- search cnn4 digits labels=10 fold=dev | lr=0.2 | muscle.weight=2 | lr=0.2 mu=2 -->"
    text = render_page(f"{mark}\n<!-- /search -->\n", rows, {})
    assert text.splitlines()[1:-1] == [
        "| changed | supervised | muscle | fixmatch | muscle_fixmatch |",
        "|---|---|---|---|---|",
        "| nothing | 50.0 | 80.0 |  |  |",
        "| `lr=0.2` | 65.0 ± 7.1 (2; +10.0) |  |  |  |",  # of seed 0, the only one that both have
        "| `muscle.weight=2` |  | 90.0 |  |  |",
        "| `lr=0.2` `mu=2` |  |  |  |  |",
    ]
    rows += [tried("supervised", 0.6, 1), tried("supervised", 0.6, mu=9), tried("supervised", 0.6, 1, mu=9)]
    rows += [tried("supervised", 0.55, mu=8), tried("supervised", 0.5, mu=7), tried("supervised", 0.6, 1, mu=7)]
    against = f"{mark.replace(' -->', ' | mu=9 | mu=8 | mu=7 -->').replace('fold', 'methods=supervised fold')}"
    assert render_page(f"{against}\n<!-- /search -->", rows, {}).splitlines()[3:-1] == [
        "| nothing | 55.0 ± 7.1 (2) |",
        "| `lr=0.2` | 65.0 ± 7.1 (2; +10.0) |",
        "| `muscle.weight=2` |  |",
        "| `lr=0.2` `mu=2` |  |",
        "| `mu=9` | 60.0 ± 0.0 (2; +5.0) |",
        "| `mu=8` | 55.0 (1; +5.0) |",
        "| `mu=7` | 55.0 ± 7.1 (2; +0.0) |",  # the same accuracies are a difference too
    ]
    with pytest.raises(InputError, match="no runs of cnn4 digits labels=20"):
        render_page(f"{mark}\n<!-- /search -->".replace("labels=10", "labels=20"), rows, {})
    text = render_page(
        "<!-- search cnn4 digits labels=10 fold=dev muscle.weight=2 | lr=0.2 -->\n<!-- /search -->", rows, {}
    )
    both = render_page(mark.replace("labels=10", "methods=muscle labels=20+10") + "\n<!-- /search -->", rows, {})
    assert both.splitlines()[1:4:2] == ["| changed | muscle, 20 labels | muscle, 10 labels |", "| nothing |  | 80.0 |"]
    # `supervised` has no such weight to change.
    assert text.splitlines()[3] == "| nothing, with `muscle.weight=2` | 55.0 ± 7.1 (2) | 90.0 |  |  |"


def test_the_zoo_shows_each_checkpoint_beside_its_controls() -> None:
    def runs(method: str, *top1: float) -> list[Row]:
        return [row(f"cnn4.{method}_digits_20", seed, value) for seed, value in enumerate(top1)]

    rows = runs("supervised", 0.5, 0.6) + runs("fixmatch", 0.7, 0.8) + runs("muscle_fixmatch", 0.75, 0.9)
    rows[-1] = dataclasses.replace(rows[-1], nll=1.0)
    rows += [row("cnn4.muscle_digits_10", 0, 0.9)]
    text = render_page("<!-- zoo -->\n<!-- /zoo -->", rows, {"cnn4.muscle_fixmatch_digits_20": 66_000})
    (line,) = text.splitlines()[3:-1]
    cells = line.strip("| ").split(" | ")
    assert cells[:3] == ["`cnn4.muscle_fixmatch_digits_20`", "66 k", "20"]
    assert cells[3:6] == ["82.5 ± 10.6", "55.0 ± 7.1", "75.0 ± 7.1"]
    changed = [dataclasses.replace(r, temperature=2.0, nll_uncalibrated=1.5) if r.nll == 1.0 else r for r in rows]
    text = render_page("<!-- zoo -->\n<!-- /zoo -->", changed, {"cnn4.muscle_fixmatch_digits_20": 66_000})
    assert "| 0.75, uncalibrated 1.00 (0.50) | 2 |" in text
    assert cells[6:] == ["+7.5 (-24.3 to +39.3)", "0.75 (0.50)", "2"]  # 7.5 -+ 12.706 * stdev(5, 10) / sqrt(2)


def test_a_figure_of_other_rows_has_drifted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    studies = tmp_path / "hub_cards" / "studies"
    studies.mkdir(parents=True)
    page = "<!-- study cnn4 digits figure=digits.png gains=gains.png -->\n\n<!-- /study -->\n![](digits.png)\n"
    (studies / "digits.md").write_text(page)
    command = ["--root", str(tmp_path)]
    for top1 in (0.5, 0.6):
        write_ledger(tmp_path / "hub_cards" / "results.csv", [row(top1=top1)])
        assert main(["cards", "check", *command]) == 1
        drifted = capsys.readouterr().out
        assert all(f"drifted: {studies / name}" in drifted for name in ("digits.png", "gains.png"))
        assert main(["cards", "render", *command]) == 0
        assert main(["cards", "check", *command]) == 0
    assert (studies / "digits.png").read_bytes().startswith(b"\x89PNG")


def test_cards_and_readme_agree_with_the_ledger(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cards", "check", "--root", str(ROOT)]) == 0, capsys.readouterr().out


@pytest.mark.parametrize("card", sorted(path.parent for path in CARDS.glob("*/config.json")), ids=lambda p: p.name)
def test_every_card_is_whole_and_agrees_with_the_ledger(card: Path) -> None:
    files = {"README.md", "config.json", "model.safetensors", "split.json", "curves.png"}
    assert {path.name for path in card.iterdir()} == files
    block = json.loads((card / "config.json").read_text())["muscle_zoo"]
    assert block["name"] == card.name
    rows = runs_of(read_ledger(CARDS / "results.csv"), card.name, get_recipe(card.name).sha256)
    published = median_run(rows)
    assert block["recipe_sha256"] == published.recipe_sha256
    sha256 = file_sha256(card / "model.safetensors")
    assert sha256 == block["weights_sha256"] == published.weights_sha256 == registry.pinned()[card.name]["sha256"]
    assert block["metrics"]["top1"] == pytest.approx(published.top1_ema, abs=1e-6)
    assert block["split_sha256"] == published.split_sha256 == json.loads((card / "split.json").read_text())["sha256"]
    parsed = ModelCard.load(card / "README.md")
    assert parsed.data.model_name == card.name and parsed.data.license == "apache-2.0"
    assert parsed.data.eval_results[0].metric_value == pytest.approx(published.top1_ema, abs=1e-6)
    assert f"**{100 * published.top1_ema:.2f} %**" in parsed.text


def test_the_ledger_is_of_recipes_that_exist() -> None:
    rows = read_ledger(CARDS / "results.csv")
    assert rows
    assert len({r.key for r in rows}) == len(rows)
    for r in rows:
        size = dataset_info(get_recipe(r.name).dataset).test_size
        # Of six classes, for the study of unlabeled images of the others: 201 of the test digits are of these.
        six = [get_recipe(r.name, {"classes": "0+1+2+3+4+5", "mismatch": m}).sha256 for m in (0.0, 0.5, 1.0)]
        assert r.n_test == (201 if r.recipe_sha256 in six else size)
        assert not r.git_sha.endswith("-dirty")
    for r in read_ledger(CARDS / "dev.csv"):
        assert r.n_test < dataset_info(get_recipe(r.name).dataset).train_size / 4
        assert not r.git_sha.endswith("-dirty")
        assert r.recipe_sha256 != get_recipe(r.name).sha256
    by_seed: dict[tuple[str, int | str, str, int], set[str]] = {}
    for r in rows:
        recipe = get_recipe(r.name)
        by_seed.setdefault((recipe.dataset, recipe.labels, r.bias, r.seed), set()).add(r.split_sha256)
    assert all(len(splits) == 1 for splits in by_seed.values())  # every method saw the same labels


def test_a_card_shows_its_controls_and_warns_of_too_sure_a_network() -> None:
    name = "cnn4.muscle_fixmatch_digits_10"
    config, rows = read_config(CARDS / name), read_ledger(CARDS / "results.csv")
    text = render_card(config, dataset_info("digits"), rows)
    alone, both = (
        {row.seed: 100 * row.top1_ema for row in runs_of(rows, found, get_recipe(found).sha256)}
        for found in ("cnn4.fixmatch_digits_10", name)
    )
    gain = statistics.fmean(both[seed] - alone[seed] for seed in both)
    assert (
        f"`fixmatch` {statistics.fmean(alone.values()):.1f} ±" in text
        and f"gain over `fixmatch`: {gain:+.1f} (" in text
    )
    seed = config["muscle_zoo"]["seed"]
    control = next(row for row in rows if row.name == "cnn4.fixmatch_digits_10" and row.seed == seed)
    assert "It is calibrated without labels" in text
    del config["muscle_zoo"]["calibration"]
    config["muscle_zoo"]["metrics"] |= {"ece": 0.2, "nll": control.nll + 0.1}
    text = render_card(config, dataset_info("digits"), rows)
    assert "surer than it is right" in text and "calibrated" not in text
    assert f"worse than that of `fixmatch` on the same labels ({control.nll:.3f} nats)" in text
    config["muscle_zoo"]["metrics"]["ece"] = 0.05
    own = [row for row in rows if row.name == name and row.seed == config["muscle_zoo"]["seed"]]
    text = render_card(config, dataset_info("digits"), own)
    assert "Without MUSCLE" not in text and "surer" not in text and "worse" not in text


def test_hub_cards_stay_small() -> None:
    assert sum(path.stat().st_size for path in CARDS.rglob("*") if path.is_file()) < 40 * 2**20


def finished_copy(run: Path, target: Path, **changes: object) -> Row:
    """A copy of a run as if it were the named recipe's, with other figures."""
    shutil.copytree(run, target)
    status = json.loads((target / "status.json").read_text())
    status["row"] |= {"recipe_sha256": get_recipe(status["row"]["name"]).sha256, **changes}
    (target / "status.json").write_text(json.dumps(status))
    config = target / "export" / "config.json"
    values = json.loads(config.read_text())
    values["muscle_zoo"] |= {"recipe_sha256": status["row"]["recipe_sha256"], "seed": status["row"]["seed"]}
    config.write_text(json.dumps(values))
    return Row(**status["row"])


def test_export_publishes_the_median_seed(
    finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cards = tmp_path / "checkout" / "hub_cards"
    shutil.copytree(finished_run, tmp_path / "own")
    assert main(["export", str(tmp_path / "own"), "--to", str(cards), "--card"]) == 2
    assert "not the named recipe" in capsys.readouterr().err
    folders = [tmp_path / f"seed{seed}" for seed in range(3)]
    figures = (0.3, 0.9, 0.5)
    rows = [finished_copy(finished_run, folders[s], seed=s, top1_ema=figures[s]) for s in range(3)]
    words = [str(folder) for folder in folders]
    assert main(["export", *words[:2], "--to", str(cards)]) == 0
    assert read_ledger(cards / "results.csv") == rows[:2]
    before = sorted(cards.rglob("*"))
    assert (
        main(["export", str(words[1]), "--to", str(cards), "--card"]) == 2
    )  # the median seed is not among those given
    assert "the median seed is 0" in capsys.readouterr().err
    assert sorted(cards.rglob("*")) == before
    assert main(["export", *words, "--to", str(cards), "--card"]) == 0
    assert read_ledger(cards / "results.csv") == rows
    name = rows[0].name
    assert json.loads((cards / name / "config.json").read_text())["muscle_zoo"]["seed"] == 2
    pinned = json.loads((cards / "registry.json").read_text())["checkpoints"][name]
    assert pinned == {"repo": None, "revision": None, "sha256": rows[2].weights_sha256}
    assert main(["cards", "render", "--root", str(cards.parent)]) == 0
    assert "Over 3 seeds: mean 56.67 %" in (cards / name / "README.md").read_text()
    assert main(["cards", "check", "--root", str(cards.parent)]) == 0
    write_ledger(cards / "results.csv", [*rows, dataclasses.replace(rows[0], seed=3, top1_ema=0.123)])
    assert main(["cards", "check", "--root", str(cards.parent)]) == 1
    assert "drifted" in capsys.readouterr().out


def test_runs_on_other_than_the_test_images_have_a_ledger_of_their_own(finished_run: Path, tmp_path: Path) -> None:
    cards, rows = tmp_path / "cards", []
    for seed, fold in enumerate(("test", "dev", "validation")):
        rows.append(finished_copy(finished_run, tmp_path / fold, seed=seed))
        recipe = json.loads((tmp_path / fold / "recipe.json").read_text())
        (tmp_path / fold / "recipe.json").write_text(json.dumps({**recipe, "fold": fold}))
        assert main(["export", str(tmp_path / fold), "--to", str(cards)]) == 0
    assert read_ledger(cards / "results.csv") == rows[:1]
    assert read_ledger(cards / "dev.csv") == rows[1:]


def test_the_card_of_another_recipe_says_so(finished_run: Path) -> None:
    text = (finished_run / "export" / "README.md").read_text()
    assert "a recipe of the user's own" in text and "dev fold of" not in text
    assert 'create_model("local-dir:export"' in text
    assert "python train.py cnn4.muscle_digits_10 seed=0 steps=24 batch_size=16 mu=2 eval_every=8\n" in text


def test_a_release_says_what_a_maintainer_should_know() -> None:
    pin = {"repo": "org/x", "revision": "abc", "sha256": "w1"}
    assert release_warnings("x", "abc", "w1", pin) == release_warnings("x", "abc", "w1", {}) == []
    (dropped,) = release_warnings("x", "abc", "w2", pin)
    assert "other weights than org/x@abc, so it is no longer pinned" in dropped
    (dirty,) = release_warnings("x", "abc-dirty", "w1", {})
    assert "files that were not committed" in dirty
