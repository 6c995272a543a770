"""Calibration by held-out labeled pictures: the temperature against a grid, and what the export makes of it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import timm
import torch

from muscle_zoo.engine.build import prepare_data
from muscle_zoo.engine.held_out import HELD_OUT_RULE, HeldOutCalibration, best_temperature, calibrate_held_out
from muscle_zoo.errors import InputError
from muscle_zoo.publishing import calibrated
from muscle_zoo.publishing.card_calibration import calibration_text
from tests.test_calibrated_exports import as_written, reread, short


@pytest.mark.parametrize("scale", [0.2, 1.0, 6.0])
def test_no_temperature_of_a_grid_is_better(scale: float) -> None:
    numbers = np.random.default_rng(3)
    labels = numbers.integers(0, 4, 60)
    logits = scale * (numbers.normal(size=(60, 4)) + 2.0 * np.eye(4)[labels])

    def loss(temperature: float) -> float:
        total = 0.0
        for row, label in zip(logits, labels, strict=True):
            log_p = row / temperature - np.log(np.exp(row / temperature).sum())
            target = np.full(4, 1 / 64)
            target[label] += 60 / 64
            total -= float((target * log_p).sum())
        return total

    found = best_temperature(torch.tensor(logits), torch.tensor(labels), 60)
    grid = np.exp(np.linspace(np.log(0.05), np.log(20), 500))
    assert loss(found) <= min(map(loss, grid)) + 1e-4
    assert found == pytest.approx(grid[np.argmin(list(map(loss, grid)))], rel=0.01)


def test_a_few_that_are_all_right_are_not_made_certain() -> None:
    right = torch.tensor([[0.7, 0.15, 0.15]]).repeat(12, 1)
    few = calibrate_held_out(right[:3], torch.zeros(3, dtype=torch.long), 3)
    more = calibrate_held_out(right, torch.zeros(12, dtype=torch.long), 12)
    assert (few.accuracy, few.images, few.confidence) == (1.0, 3, pytest.approx(0.7))
    sure = [(right[:1].log() / found.temperature).softmax(1).max().item() for found in (few, more)]
    assert sure == [pytest.approx(4 / 6, abs=1e-3), pytest.approx(13 / 15, abs=1e-3)]
    assert best_temperature(torch.zeros(0, 3), torch.zeros(0, dtype=torch.long), 0) == 1.0
    thrice = calibrate_held_out(right.repeat(3, 1), torch.zeros(36, dtype=torch.long), 12)
    assert thrice.temperature == more.temperature  # repeats are no further pictures


@pytest.mark.parametrize("content", ["{}", "[]", '{"temperature": 0, "images": 3, "confidence": 1, "accuracy": 1}'])
def test_a_damaged_file_is_refused(content: str, tmp_path: Path) -> None:
    file = tmp_path / "calibration.json"
    assert HeldOutCalibration.read(file) is None
    whole = HeldOutCalibration(0.4, 30, 0.5, 0.75)
    whole.write(file)
    assert HeldOutCalibration.read(file) == whole
    file.write_text(content)
    with pytest.raises(InputError, match="damaged"):
        HeldOutCalibration.read(file)


def test_an_export_takes_it_without_a_look_at_unlabeled_images(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = short()
    data = prepare_data(recipe)
    data = dataclasses.replace(data, split=dataclasses.replace(data.split, unlabeled=()))
    torch.manual_seed(0)
    model = timm.create_model("cnn4", num_classes=10, in_chans=1).eval()
    before = as_written(model, data)
    monkeypatch.setattr(calibrated, "_measure", lambda *_: pytest.fail("looked at unlabeled images"))
    held_out = HeldOutCalibration(0.25, 40, 0.3, 0.8)
    written, said = calibrated.with_temperature(before, recipe, data, lambda t: reread(model, t, data), held_out)
    assert said["temperature"] == 0.25 and said["rule"] == HELD_OUT_RULE
    assert written.tensors["fc.weight"].equal(before.tensors["fc.weight"].float() / 0.25)
    assert written.metrics.top1 == before.metrics.top1
    text = "\n".join(calibration_text({"metrics": written.metrics.to_dict(), "calibration": said}, [], False))
    assert "right in 80.0 % of 40 labeled pictures, and its mean confidence was 30.0 %" in text
