"""What a comparison leaves in a run folder is read as it was written, and damaged files are named."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from muscle_zoo.auto.findings import COMPARISON, OUT_OF_FOLD, Comparison, Found, Interval, MethodScore, OutOfFold
from muscle_zoo.errors import InputError


def comparison() -> Comparison:
    found = Found("/my/pictures", "/my/pictures/labeled", (3, 2), 40, (0, 0), ("cat/broken.jpg",))
    score = MethodScore("muscle", Interval(0.6, 0.2, 0.9), 0.58, 0.57, 0.9, (0.5, 0.75), True, True, 1.5)
    control = replace(score, method="supervised", uses_unlabeled=False)
    scores = (control, score)
    more = {"expected": Interval(0.59, 0.2, 0.9), "gain": Interval(0.1), "optimism": 0.01, "seconds": 3.0}
    names = {"chosen": "muscle", "control": "supervised", "with_unlabeled": "muscle"}
    return Comparison(found, ("cat", "dög"), "net.pypi", 0, 2, 1, scores, **names, why="x", warnings=("y",), **more)


def test_a_comparison_is_read_as_it_was_written(tmp_path: Path) -> None:
    for written in (comparison(), replace(comparison(), methods=(), expected=None, gain=None, test=Interval(1.0))):
        written.write(tmp_path)
        assert Comparison.read(tmp_path) == written
    assert comparison().score("muscle").nll == 0.9


def test_out_of_fold_predictions_are_read_as_they_were_written(tmp_path: Path) -> None:
    assert OutOfFold.read(tmp_path) is None
    said = torch.tensor([[[0.9, 0.1], [0.2, 0.8]], [[0.7, 0.3], [0.4, 0.6]]])
    fold = torch.tensor([[0, 1], [1, 0]])
    written = OutOfFold(("cat/1.jpg", "dög/1.jpg"), torch.tensor([0, 7]), torch.tensor([0, 1]), fold, {"muscle": said})
    written.write(tmp_path)
    again = OutOfFold.read(tmp_path)
    assert again is not None and again.names == written.names
    for mine, theirs in ((again.indices, written.indices), (again.labels, written.labels), (again.fold, fold)):
        assert torch.equal(mine, theirs)
    torch.testing.assert_close(again.mean("muscle"), torch.tensor([[0.8, 0.2], [0.3, 0.7]]))


def test_damaged_findings_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"comparison\.json is missing"):
        Comparison.read(tmp_path)
    for text in ("[]", "{", '{"format": 1}', json.dumps({"format": 2}), '{"format": 1, "found": {"x": 1}}'):
        (tmp_path / COMPARISON).write_text(text)
        with pytest.raises(InputError, match=r"comparison\.json is damaged"):
            Comparison.read(tmp_path)
    (tmp_path / OUT_OF_FOLD).write_bytes(b"12345678")
    with pytest.raises(InputError, match="safetensors is damaged"):
        OutOfFold.read(tmp_path)
