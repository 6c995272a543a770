"""predict: a table, a threshold, and memory that does not grow with the pictures."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch
from torch import nn

import muscle_zoo
from muscle_zoo.errors import InputError
from muscle_zoo.sessions.predict import Prediction, predict_files
from muscle_zoo.sessions.prediction_table import PredictionTable
from tests.conftest import run
from tests.pictures import picture

NAME = "cnn4.muscle_digits_10"
OUTPUT = pytest.CaptureFixture[str]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    for i in range(5):
        picture(tmp_path / "in" / f"a, {i}.png", "", i, (8, 8))
    (tmp_path / "in" / "bad.png").write_bytes(b"")
    return tmp_path / "in"


def test_a_table_says_what_json_says(pictures: Path, capsys: OUTPUT) -> None:
    table = pictures.parent / "new" / "out.csv"
    words = ["predict", NAME, str(pictures), "--topk", "2", "--batch-size", "2", "--cpu"]
    code, out, err = run([*words, "--csv", str(table)], capsys)
    assert code == 1 and "bad.png cannot be read (an empty file); skipped" in err and "1 of 6 pictures" in err
    assert out.startswith(f"{table}: 5 pictures (") and list(table.parent.iterdir()) == [table]
    entries = json.loads(run([*words, "--json"], capsys)[1])
    rows = list(csv.DictReader(table.open()))
    assert list(rows[0]) == ["path", "label", "probability", "class_1", "probability_1", "class_2", "probability_2"]
    for row, entry in zip(rows, entries, strict=True):
        assert row["path"] == entry["file"] and row["label"] == entry["label"] == row["class_1"]
        said = [(row[f"class_{i}"], float(row[f"probability_{i}"])) for i in (1, 2)]
        for (name, value), expected in zip(said, entry["predictions"], strict=True):
            assert name == expected["class"] and value == pytest.approx(expected["probability"], rel=1e-5)
        assert row["probability"] == row["probability_1"]


def test_below_the_threshold_it_is_unsure(pictures: Path, capsys: OUTPUT) -> None:
    words = ["predict", NAME, str(pictures), "--topk", "1", "--cpu"]
    sure = [float(entry["predictions"][0]["probability"]) for entry in json.loads(run([*words, "--json"], capsys)[1])]
    between = sorted(sure)[2]  # of five
    entries = json.loads(run([*words, "--json", "--threshold", str(between)], capsys)[1])
    assert [entry["label"] == "unsure" for entry in entries] == [value < between for value in sure]
    assert sum(entry["label"] == "unsure" for entry in entries) == 2
    assert run([*words, "--threshold", str(between)], capsys)[1].count(": unsure\n") == 2
    found = muscle_zoo.predict(NAME, pictures / "a, 0.png", threshold=1, cpu=True)[0]
    assert found.label == "unsure" and found.classes[0][0] != "unsure"
    for wrong in ("-1", "80", "nan"):
        code, _, err = run([*words, "--threshold", wrong], capsys)
        assert code == 2 and f"--threshold {float(wrong)} is no probability; give 0 to 1" in err
    with pytest.raises(InputError, match="threshold=80 is no probability"):
        muscle_zoo.predict(NAME, pictures, threshold=80)


def test_a_class_may_be_called_unsure_without_a_threshold(pictures: Path) -> None:
    model = muscle_zoo.create_model(NAME, pretrained=True).eval()
    model.pretrained_cfg = {**model.pretrained_cfg, "label_names": ["unsure", *"123456789"]}
    files = [str(pictures / "a, 0.png")]
    assert next(predict_files(model, files)).classes
    with pytest.raises(InputError, match="a class of the model is called 'unsure'"):
        next(predict_files(model, files, threshold=0.5))


def test_what_an_interrupted_table_has_is_not_taken_for_all(tmp_path: Path, capsys: OUTPUT) -> None:
    table = tmp_path / "out.csv"
    with pytest.raises(KeyboardInterrupt), PredictionTable(table) as rows:
        rows.add(Prediction("a.png", (("cat", 0.75),)))
        raise KeyboardInterrupt
    assert [path.name for path in tmp_path.iterdir()] == ["out.csv.part"]
    with PredictionTable(table):
        pass  # no picture could be read
    assert table.read_text() == "path,label,probability\n" and not table.with_name("out.csv.part").exists()
    code, _, err = run(["predict", NAME, str(picture(tmp_path / "a.png", "", 1)), "--csv", str(tmp_path)], capsys)
    assert code == 2 and f"{tmp_path} cannot be written (it is a folder); give another file" in err


def test_a_table_that_is_replaced_is_said(tmp_path: Path, capsys: OUTPUT) -> None:
    table = tmp_path / "out.csv"
    words = ["predict", NAME, str(picture(tmp_path / "a.png", "", 1)), "--csv", str(table), "--cpu"]
    assert "replaced" not in run(words, capsys)[2]
    code, _, err = run(words, capsys)
    assert code == 0 and err == f"note: {table} was there before, and is replaced\n"


def test_predictions_are_made_while_they_are_asked_for(pictures: Path) -> None:
    """None of what was computed is kept: of the network's outputs one batch is alive at a time."""

    class Counting(nn.Module):
        num_classes = 3
        calls = 0

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1))
            inner = muscle_zoo.create_model(NAME, pretrained=True)
            self.pretrained_cfg = inner.pretrained_cfg

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            return torch.zeros(len(images), 3)

    model = Counting().eval()
    found = predict_files(model, [str(pictures / "a, 0.png")] * 1000, batch_size=2)
    for _ in range(4):
        next(found)
    assert model.calls == 2
