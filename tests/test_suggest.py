"""What to label next: the rules against naive ones, and the loop from a run to labels and back."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from muscle_zoo.auto.run_pictures import load_run_pictures, snapshot_probabilities
from muscle_zoo.auto.suggest import RULES, Pool, choose
from muscle_zoo.data import DataConfig
from muscle_zoo.data.picture_folder import find_pictures
from tests.conftest import forget_accelerate, once, run
from tests.pictures import make_folder, picture

OUTPUT = pytest.CaptureFixture[str]
WORDS = ["cnn4.muscle_folder_4", "steps=6", "eval_every=3", "batch_size=4", "mu=2", "image_size=16", "--save-every=3"]


@pytest.fixture
def pool() -> Pool:
    random = torch.Generator().manual_seed(0)
    centers = 10 * torch.eye(8)[:4].repeat_interleave(15, dim=0)
    embeddings = centers + torch.randn(60, 8, generator=random)
    teacher = torch.randn(60, 4, generator=random).softmax(dim=1)
    students = torch.randn(2, 60, 4, generator=random).softmax(dim=2)
    return Pool(teacher, embeddings, embeddings[:3] + 0.5, teacher, students)


@pytest.mark.parametrize("rule", RULES)
def test_no_picture_twice_and_the_same_every_time(rule: str, pool: Pool) -> None:
    chosen = choose(rule, pool, 20)
    positions = [choice.position for choice in chosen]
    assert len(set(positions)) == 20 and set(positions) <= set(range(60)) and choose(rule, pool, 20) == chosen
    assert sorted(c.position for c in choose(rule, pool, 100)) == list(range(60))
    twice = Pool(
        *(torch.cat([x, x], dim=-2) for x in (pool.probabilities, pool.embeddings)),
        pool.labeled,
        pool.probabilities.repeat(2, 1),
        torch.cat([pool.students, pool.students], dim=1),
    )  # type: ignore[list-item,arg-type]
    assert len({c.position % 60 for c in choose(rule, twice, 60)}) == 60  # copies come last
    assert len({c.position for c in choose(rule, twice, 120)}) == 120


def test_the_rules_are_what_they_say(pool: Pool) -> None:
    rows = [sorted(row, reverse=True) for row in pool.probabilities.tolist()]
    margins = sorted(range(60), key=lambda i: rows[i][0] - rows[i][1])
    assert [c.position for c in choose("margin", pool, 9)] == margins[:9]
    assert choose("margin", pool, 1)[0].score == pytest.approx(1 - (rows[margins[0]][0] - rows[margins[0]][1]))
    teacher, students = pool.probabilities.double(), pool.students.double()  # type: ignore[union-attr]
    kl = [
        sum(float((teacher[i] * (teacher[i] / student[i]).log()).sum()) for student in students) / 2 for i in range(60)
    ]
    found = choose("disagreement", pool, 5)
    assert [c.position for c in found] == sorted(range(60), key=lambda i: -kl[i])[:5]
    assert found[0].score == pytest.approx(max(kl), rel=1e-4)


def test_a_core_set_is_the_greedy_one(pool: Pool) -> None:
    unit, labeled = pool.unit()
    centers, expected = list(labeled), []
    for _ in range(6):
        far = [min(float((one - center).norm()) for center in centers) for one in unit]
        expected.append(max(range(60), key=far.__getitem__))
        centers.append(unit[expected[-1]])
    assert [c.position for c in choose("coreset", pool, 6)] == expected


def test_diverse_and_typical_pictures_are_of_different_clusters(pool: Pool) -> None:
    assert {c.position // 15 for c in choose("diverse", pool, 4)} == {0, 1, 2, 3}
    doubtful = [c.position for c in choose("margin", pool, 40)]
    assert {c.position for c in choose("diverse", pool, 4)} <= set(doubtful)
    typical = [c.position // 15 for c in choose("typical", pool, 1)]
    assert typical[0] in (1, 2, 3)  # the labeled ones are of cluster 0
    none = Pool(pool.probabilities, pool.embeddings, torch.zeros(0, 8))
    assert {c.position // 15 for c in choose("typical", none, 4)} == {0, 1, 2, 3}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of pictures, and a run on it beside it."""

    def fill(root: Path) -> None:
        from muscle_zoo.cli import main

        make_folder(root / "mine", labeled=2, unlabeled=30, test=2)
        picture(root / "mine" / "unlabeled" / "bad.png", "", 0).write_bytes(b"")
        assert main(["train", *WORDS, "--cpu", "--data", str(root / "mine"), "--out", str(root / "run")]) == 0
        forget_accelerate()

    return once(tmp_path_factory, "suggest", fill)


def test_suggestions_come_back_as_labels(made: Path, tmp_path: Path, capsys: OUTPUT) -> None:
    """The loop: a run, a table, labels, and a run with them."""
    folder, out = Path(shutil.copytree(made / "mine", tmp_path / "mine")), tmp_path / "lists" / "next.csv"
    words = ["suggest", str(made / "run"), "--data", str(folder), "-n", "7", "--cpu"]
    code, text, _ = run([*words, "--out", str(out), "--sheet", str(tmp_path / "next.png")], capsys)
    assert code == 0 and text.startswith(f"{out}: 7 of 30 unlabeled pictures, by diverse (taken for: ")
    assert f"muscle-zoo train {out} --out NEW\n" in text
    rows = list(csv.DictReader(out.open()))
    assert list(rows[0]) == ["path", "label", "suggested_label", "probability", "score", "adds_to"]
    assert len({row["path"] for row in rows}) == 7 and {row["label"] for row in rows} == {""}
    assert all((out.parent / row["path"]).is_file() and row["adds_to"] == "../mine" for row in rows)
    assert str(tmp_path) not in out.read_text()  # a table may be handed on
    with Image.open(tmp_path / "next.png") as sheet:
        assert sheet.width > 800
    code, _, err = run([*words, "--out", str(out)], capsys)
    assert code == 2 and "is there, and labels may be filled in" in err
    out.write_text(out.read_text().replace(".png,,", ".png,dog,"))
    listing = find_pictures(out)
    assert sum(label >= 0 for _, label in listing.train) == 4 + 7 and len(listing.train) == 35
    again = ["train", *WORDS, "labels=all", "--cpu", "--data", str(out), "--out", str(tmp_path / "second")]
    assert run(again, capsys)[0] == 0
    assert len(json.loads((tmp_path / "second" / "split.json").read_text())["names"]) == 11
    code, text, _ = run(["suggest", str(tmp_path / "second"), "--out", str(tmp_path / "3.csv"), "--cpu"], capsys)
    assert code == 0 and "23 of 23 unlabeled pictures" in text
    asked = {Path(row["path"]).name for row in csv.DictReader((tmp_path / "3.csv").open())}
    assert asked.isdisjoint(Path(row["path"]).name for row in rows)


def test_label_studio_gets_tasks_that_come_back(made: Path, tmp_path: Path, capsys: OUTPUT) -> None:
    out = tmp_path / "next.json"
    code, text, _ = run(["suggest", str(made / "run"), "-n", "3", "--out", str(out), "--cpu"], capsys)
    assert code == 0 and f"DOCUMENT_ROOT={made}," in text and '<Choice value="cat"/><Choice value="dog"/>' in text
    tasks = json.loads(out.read_text())
    for task in tasks:
        assert (made / task["data"]["image"].partition("?d=")[2]).is_file()
        assert 0.4 < task["predictions"][0]["score"] <= 1
        task["annotations"] = task.pop("predictions")  # somebody accepts what is suggested
    (tmp_path / "far" / "away").mkdir(parents=True)
    export = tmp_path / "far" / "away" / "project-1.json"
    export.write_text(json.dumps(tasks))
    assert sum(label >= 0 for _, label in find_pictures(export).train) == 4 + 3


def test_students_are_the_weights_of_both_saved_states(made: Path, tmp_path: Path, capsys: OUTPUT) -> None:
    pictures = load_run_pictures(made / "run", DataConfig(made / "mine"), cpu=True)
    assert len(pictures.unlabeled) == 30 and len(pictures.labeled) == 4 and not any("bad" in n for n in pictures.names)
    teacher, students = snapshot_probabilities(pictures, pictures.unlabeled, cpu=True)
    assert len(students) == 2 and not torch.allclose(students[0], students[1])
    # The averaged weights of the last step are what is exported, calibrated.
    assert torch.allclose(teacher, pictures.probabilities[pictures.unlabeled], atol=1e-4)
    words = ["suggest", str(made / "run"), "--rule", "disagreement", "-n", "2", "--cpu"]
    assert run([*words, "--out", str(tmp_path / "a.csv")], capsys)[0] == 0
    bare = Path(shutil.copytree(made / "run", tmp_path / "bare", ignore=shutil.ignore_patterns("step-*")))
    words[1] = str(bare)
    code, _, err = run([*words, "--out", str(tmp_path / "b.csv")], capsys)
    assert code == 2 and err.count("error: ") == 1 and "has no saved weights to compare; give another rule" in err


def test_wrong_input_of_suggest(made: Path, finished_run: Path, tmp_path: Path, capsys: OUTPUT) -> None:
    mine = str(made / "run")
    for words, message in (
        ([mine, "--rule", "margins"], "--rule margins is unknown; did you mean 'margin'?"),
        ([mine, "-n", "0"], "-n 0 is out of range; give 1 or more"),
        ([mine, "--out", "next.xlsx"], "next.xlsx has no ending that is known; give .csv or .json"),
        (["cnn4.muscle_digits_10"], "is no run folder: it does not exist; give one that `train` made"),
        ([str(tmp_path)], "is no run folder; give one that `train` made"),
        ([mine, "--data", str(tmp_path / "gone")], "does not exist"),
    ):
        code, _, err = run(["suggest", "--cpu", "--out", str(tmp_path / "x.csv"), *words], capsys)
        assert code == 2 and message in err, err
    out = tmp_path / "digits.csv"  # a data set with a name: by position
    assert run(["suggest", str(finished_run), "-n", "4", "--out", str(out), "--cpu"], capsys)[0] == 0
    labeled = json.loads((finished_run / "split.json").read_text())["labelled"]
    positions = [int(row["path"]) for row in csv.DictReader(out.open())]
    assert len(labeled) == 10 and not set(positions) & set(labeled)
