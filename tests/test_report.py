"""report.html: its figures are those of the findings, and the page needs nothing but itself."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch

from muscle_zoo.auto.findings import Comparison, Found, Interval, MethodScore, OutOfFold
from muscle_zoo.auto.label_checks import Pair, calibrate_folds, near_duplicates, probable_label_errors
from muscle_zoo.auto.report import render_report
from muscle_zoo.auto.run_pictures import RunPictures, load_run_pictures
from muscle_zoo.data import DataConfig
from tests.conftest import run
from tests.test_suggest import made  # noqa: F401 - a fixture: the run of that file


def test_label_errors_are_those_of_confident_learning() -> None:
    random = torch.Generator().manual_seed(1)
    probabilities = (2 * torch.randn(40, 3, generator=random)).softmax(dim=1)
    labels = torch.randint(3, (40,), generator=random)
    thresholds = [float(probabilities[labels == j, j].mean()) for j in range(3)]
    expected = {}
    for i, row in enumerate(probabilities.tolist()):
        counted = [j for j in range(3) if row[j] >= thresholds[j] - 1e-7]
        likely = max(counted, key=lambda j: row[j], default=int(labels[i]))
        if likely != int(labels[i]) and row[likely] > row[int(labels[i])]:
            expected[i] = row[int(labels[i])] - row[likely]
    found = probable_label_errors(probabilities, labels)
    assert 3 < len(found) < 40 and {e.position: pytest.approx(e.margin, abs=1e-5) for e in found} == expected
    assert [e.margin for e in found] == sorted(e.margin for e in found)


def test_a_fold_is_calibrated_by_the_others() -> None:
    random = torch.Generator().manual_seed(2)
    logits = 8 * torch.randn(1, 60, 3, generator=random)
    labels = torch.randint(3, (60,), generator=random)
    fold = (torch.arange(60) % 3)[None]
    calibrated = calibrate_folds(logits.softmax(dim=2), labels, fold)
    assert torch.equal(calibrated.argmax(dim=1), logits[0].argmax(dim=1))
    assert float(calibrated.max(dim=1).values.mean()) < 0.6 < float(logits.softmax(dim=2).max(dim=2).values.mean())
    changed = labels.where(fold[0] != 1, logits[0].argmax(dim=1))
    again = calibrate_folds(logits.softmax(dim=2), changed, fold)
    assert torch.equal(again[fold[0] == 1], calibrated[fold[0] == 1])  # its own labels play no part
    assert not torch.equal(again[fold[0] == 0], calibrated[fold[0] == 0])
    fold[0, 5] = -1
    assert calibrate_folds(logits.softmax(dim=2), labels, fold).isnan().any(dim=1).nonzero().flatten().tolist() == [5]


def test_near_duplicates_are_all_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    unit = torch.nn.functional.normalize(torch.randn(30, 4, generator=torch.Generator().manual_seed(3)), dim=1)
    unit[20] = unit[3]
    pairs = {(i, j) for i in range(30) for j in range(i) if float(unit[i] @ unit[j]) >= 0.9}
    found = near_duplicates(unit, torch.tensor([3]), 0.9)
    assert {(p.second, p.first) for p in found} == pairs and (found[0].first, found[0].second) == (3, 20)
    monkeypatch.setattr("muscle_zoo.auto.label_checks.ALL_PAIRS", 10)
    few = near_duplicates(unit, torch.tensor([3]), 0.9)
    assert {(p.second, p.first) for p in few} == {pair for pair in pairs if 3 in pair} and Pair(3, 20, 1.0) == replace(
        few[0], cosine=round(few[0].cosine, 5)
    )


class Page(HTMLParser):
    """Tags, attributes and text of a page; open elements are matched with closing ones."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.words: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, key, value or "") for key, value in attrs]
        if tag not in ("meta", "img", "circle", "line", "rect"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("circle", "line", "rect"):
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words += data.split()

    @property
    def text(self) -> str:
        return " ".join(self.words)


@pytest.fixture(scope="module")
def pictures(made: Path) -> RunPictures:  # noqa: F811
    return load_run_pictures(made / "run", DataConfig(made / "mine"), cpu=True)


def score(method: str, accuracy: float, uses_unlabeled: bool) -> MethodScore:
    interval = Interval(accuracy, accuracy - 0.2, accuracy + 0.2)
    return MethodScore(method, interval, accuracy, accuracy, 0.6, (accuracy,), uses_unlabeled, True, 3.0)


@pytest.fixture
def findings(pictures: RunPictures) -> tuple[Comparison, OutOfFold]:
    found = Found("x", "x", (2, 2), 30, (2, 2), ("unlabeled/bad.png",))
    scores = (score("supervised", 0.5, False), score("muscle", 0.75, True))
    gain = Interval(0.2, -0.1, 0.5)
    comparison = Comparison(
        found, ("cat", "dog"), "net", 0, 2, 1, scores, "muscle", "supervised", "muscle", Interval(0.7, 0.4, 0.9), gain,
        0.05, "because <it> won", ("few labels",), 9.0, Interval(0.66, 0.3, 0.9), 0.04,
    )  # fmt: skip
    # Of two cats and two dogs one cat is taken for a dog, surely.
    probabilities = torch.tensor([[[0.9, 0.1], [0.02, 0.98], [0.3, 0.7], [0.4, 0.6]]])
    names = tuple(pictures.names[i] for i in pictures.labeled.tolist())
    labels = torch.tensor([0, 0, 1, 1])
    return comparison, OutOfFold(
        names, pictures.labeled, labels, torch.tensor([[0, 1, 0, 1]]), {"muscle": probabilities}
    )


def test_the_page_says_what_was_found(pictures: RunPictures, findings: tuple[Comparison, OutOfFold]) -> None:
    text = render_report(pictures, *findings)
    page = Page(text)
    said = page.text
    assert "With the unlabeled pictures 70.0 %, without 50.0: +20.0 (-10.0 to +50.0)" in said
    assert "70.0 % to expect of new pictures (40.0 to 90.0)" in said and "66.0 % on test pictures" in said
    assert "Chosen: muscle. Because <it> won." in said and "<it>" not in text and "Few labels." in said
    asked = replace(findings[0], asked="by the 3 labels of before")
    assert "told by the 3 labels of before." in Page(render_report(pictures, asked, findings[1])).text
    assert "is \\ taken for cat dog cat 1 1 dog 2" in said and "cat taken for dog (1)" in said
    assert "taken off above, not in this table: 5.0 points of what to expect, 4.0 of the gain." in said
    assert "Of 4 labeled pictures that the chosen method had not learned from, 75.0 % were right." in said
    assert "1 label that held-out predictions contradict" in said and "label: cat rather dog" in said
    assert "1 picture cannot be read and left out: unlabeled/bad.png" in said
    assert re.search(r"cat 2 \d+ 50 100 67 dog 2 \d+ 100 67 80", said)
    recalls = "75.0 % balanced accuracy"
    assert recalls in said and "73.3 % macro-F1" in said
    # Nothing from elsewhere: no script, no address, every picture in the page.
    assert not {tag for tag, _, _ in page.attributes} & {"script", "link", "iframe"}
    assert all(value.startswith("data:image/jpeg") for tag, key, value in page.attributes if key == "src")
    assert not re.search(r"https?://|url\(|@import", text)
    assert len(text) < 1_000_000 and text == render_report(pictures, *findings)


def test_a_run_without_a_comparison_has_a_page_too(pictures: RunPictures) -> None:
    page = Page(render_report(pictures))
    assert "On the test pictures" in page.text and "Map" in page.text and "least sure of" in page.text
    assert "What was compared" not in page.text and "Where it is wrong" not in page.text


def test_names_of_classes_and_files_are_text(pictures: RunPictures, findings: tuple[Comparison, OutOfFold]) -> None:
    strange = ('<script>alert("x")</script>', "a & b")
    info = replace(pictures.dataset.info, class_names=strange)
    others = replace(pictures, class_names=strange, dataset=replace(pictures.dataset, info=info))
    text = render_report(others, *findings)
    assert "<script" not in text and '<script>alert("x")</script>' in Page(text).text


def test_the_command_writes_it_into_the_run(made: Path, capsys: pytest.CaptureFixture[str], finished_run: Path) -> None:  # noqa: F811
    code, out, _ = run(["report", str(made / "run"), "--cpu"], capsys)
    assert code == 0 and out == f"{made / 'run' / 'report.html'}: open it in a browser\n"
    (made / "run" / "report.html").unlink()
    code, _, err = run(["report", "cnn4.muscle_digits_10"], capsys)
    assert code == 2 and "is no run folder" in err
