"""calibrate gives published checkpoints and finished runs a temperature, and changes nothing else of them."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

import muscle_zoo
from muscle_zoo import get_recipe
from muscle_zoo.checkpoints import registry
from muscle_zoo.checkpoints.card import BLOCK, read_config
from muscle_zoo.engine import calibration
from muscle_zoo.engine.build import prepare_data
from muscle_zoo.engine.evaluate import evaluate
from muscle_zoo.files import file_sha256
from muscle_zoo.publishing.release import read_finished_run
from muscle_zoo.publishing.verify import verify
from muscle_zoo.results.ledger import Row, read_ledger, write_ledger
from muscle_zoo.sessions import calibrate
from tests.conftest import listing, run

NAME = "cnn4.muscle_digits_10"
OUTPUT = pytest.CaptureFixture[str]
CALIBRATION = {"temperature", "nll", "ece", "nll_uncalibrated", "ece_uncalibrated"}


@pytest.fixture
def cards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub_cards folder with one checkpoint as it was before weights were calibrated, pinned on the Hub."""
    cards = tmp_path / "cards"
    shutil.copytree(registry.shipped_cards() / NAME, cards / NAME)
    rows = without_temperature(cards / NAME, read_ledger(registry.shipped_cards() / "results.csv"))
    write_ledger(cards / "results.csv", rows)
    sha256 = read_config(cards / NAME)[BLOCK]["weights_sha256"]
    registry.register(cards / "registry.json", NAME, sha256, "org/x", "v1")
    monkeypatch.setenv("MUSCLE_ZOO_HUB", str(cards))
    return cards


def without_temperature(card: Path, rows: Sequence[Row]) -> list[Row]:
    """Takes the temperature out of a card again; the rows, with its row as it would have been."""
    config, file = json.loads((card / "config.json").read_text()), card / "model.safetensors"
    block, weights = config[BLOCK], load_file(file)
    temperature = block.pop("calibration")["temperature"]
    assert temperature > 1
    weights |= {name: temperature * weights[name].float() for name in ("fc.weight", "fc.bias")}
    save_file(weights, file, {"format": "pt"})
    data = prepare_data(get_recipe(NAME, {"seed": block["seed"]}))
    model = timm.create_model("cnn4", num_classes=10, in_chans=1, checkpoint_path=str(file)).eval()
    metrics = evaluate(model, data.evaluation, data.dataset.info)
    old = {"weights_sha256": file_sha256(file), "nll": round(metrics.nll, 6), "ece": round(metrics.ece, 6)}
    block |= {"weights_sha256": old["weights_sha256"], "metrics": metrics.to_dict()}
    block["probe"]["logits"] = [temperature * logit for logit in block["probe"]["logits"]]
    (card / "config.json").write_text(json.dumps(config))
    uncalibrated = {"temperature": 1.0, "nll_uncalibrated": old["nll"], "ece_uncalibrated": old["ece"]}
    key = (NAME, block["recipe_sha256"], block["seed"])
    return [dataclasses.replace(row, **old, **uncalibrated) if row.key == key else row for row in rows]


def changed(old: Any, new: Any) -> set[str]:
    return {key for key in old if old[key] != new[key]}


def test_a_published_checkpoint(cards: Path, capsys: OUTPUT) -> None:
    old_rows, old_config = read_ledger(cards / "results.csv"), json.loads((cards / NAME / "config.json").read_text())
    old_weights, old_split = load_file(cards / NAME / "model.safetensors"), (cards / NAME / "split.json").read_bytes()
    images = torch.randn(6, 1, 8, 8)
    with torch.no_grad():
        before = muscle_zoo.create_model(NAME, pretrained=True).eval()(images)
    code, out, err = run(["calibrate", NAME, "--cpu"], capsys)
    assert (code, err) == (0, "")
    rows, config = read_ledger(cards / "results.csv"), json.loads((cards / NAME / "config.json").read_text())
    ((old, new),) = [pair for pair in zip(old_rows, rows, strict=True) if pair[0] != pair[1]]
    assert old.key == new.key and new.temperature > 1.2 and new.nll < new.nll_uncalibrated == old.nll
    assert changed(dataclasses.asdict(old), dataclasses.asdict(new)) == {"weights_sha256", "temperature", "nll", "ece"}
    assert {key for key in config if config[key] != old_config[key]} == {BLOCK}
    block, old_block = config[BLOCK], old_config[BLOCK]
    assert changed(old_block, block) == {"weights_sha256", "metrics", "probe"}
    assert set(block) - set(old_block) == {"calibration"} and block["calibration"]["temperature"] == new.temperature
    assert changed(old_block["metrics"], block["metrics"]) == {"nll", "ece"}
    weights = load_file(cards / NAME / "model.safetensors")
    assert {key for key in weights if not weights[key].equal(old_weights[key])} == {"fc.weight", "fc.bias"}
    assert (cards / NAME / "split.json").read_bytes() == old_split
    with torch.no_grad():
        after = muscle_zoo.create_model(NAME, pretrained=True).eval()(images)
    assert torch.allclose(new.temperature * after, before, rtol=1e-4, atol=1e-4)
    pin = registry.read_pins(cards / "registry.json")[NAME]
    assert pin == {"repo": None, "revision": None, "sha256": new.weights_sha256}
    assert f"temperature {new.temperature:g}" in out and "no longer pinned" in out and "cards render" in out
    checks = verify(f"local-dir:{cards / NAME}", rows)
    assert len(checks) == 8 and all(check.passed for check in checks)
    assert run(["eval", NAME, "--cpu"], capsys)[0] == 0
    code, out, err = run(["calibrate", NAME, "--cpu"], capsys)
    assert (code, out) == (2, "") and f"calibrated already (temperature {new.temperature:g})" in err


def test_elsewhere(cards: Path, tmp_path: Path, capsys: OUTPUT) -> None:
    before = listing(cards)
    code, _, err = run(["calibrate", str(cards / NAME), "--cpu", "--out", str(tmp_path / "new")], capsys)
    assert (code, err) == (0, "") and listing(cards) == before
    (row,) = read_ledger(tmp_path / "new" / "results.csv")
    assert row.temperature > 1 and (tmp_path / "new" / NAME / "README.md").is_file()


def as_old(run_folder: Path, target: Path) -> Path:
    """A copy of a run as it was before weights were calibrated."""
    shutil.copytree(run_folder, target)
    config = json.loads((target / "export" / "config.json").read_text())
    if config[BLOCK]["calibration"]["temperature"] != 1:
        pytest.fail("the run is calibrated, so it cannot stand for an old one")
    del config[BLOCK]["calibration"]
    (target / "export" / "config.json").write_text(json.dumps(config))
    status = json.loads((target / "status.json").read_text())
    for column in ("temperature", "nll_uncalibrated", "ece_uncalibrated"):
        del status["row"][column]
    (target / "status.json").write_text(json.dumps(status))
    return target


@pytest.fixture
def old_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: OUTPUT) -> Path:
    words = [NAME, "steps=60", "eval_every=60", "batch_size=16", "mu=2", "--cpu", "--out", str(tmp_path / "made")]
    with monkeypatch.context() as patch:
        patch.setattr(calibration, "choose_temperature", lambda *measured: 1.0)
        assert run(["train", *words], capsys)[0] == 0
    return as_old(tmp_path / "made", tmp_path / "run")


def test_a_run_folder(old_run: Path, capsys: OUTPUT) -> None:
    old, status = read_finished_run(old_run).row, json.loads((old_run / "status.json").read_text())
    code, _, err = run(["calibrate", str(old_run), "--cpu"], capsys)
    assert (code, err) == (0, "")
    new = read_finished_run(old_run).row
    assert new.temperature > 1 and (new.nll_uncalibrated, new.ece_uncalibrated) == (old.nll, old.ece)
    assert changed(dataclasses.asdict(old), dataclasses.asdict(new)) <= {"weights_sha256"} | CALIBRATION
    assert changed(status, json.loads((old_run / "status.json").read_text())) == {"row"}
    assert not (old_run / "export.part").exists()
    assert run(["eval", str(old_run), "--cpu"], capsys)[0] == 0
    checks = verify(f"local-dir:{old_run / 'export'}", [new])
    assert len(checks) == 8 and all(check.passed for check in checks)


def test_one_image_that_another_device_rounded_otherwise_is_no_obstacle(cards: Path, capsys: OUTPUT) -> None:
    config, rows = json.loads((cards / NAME / "config.json").read_text()), read_ledger(cards / "results.csv")
    block = config[BLOCK]
    key, here = (NAME, block["recipe_sha256"], block["seed"]), block["metrics"]["top1"]
    block["metrics"]["top1"] = there = here + 1 / block["metrics"]["n"]
    (cards / NAME / "config.json").write_text(json.dumps(config))
    elsewhere = [dataclasses.replace(row, top1_ema=round(there, 6)) if row.key == key else row for row in rows]
    write_ledger(cards / "results.csv", elsewhere)
    assert run(["calibrate", NAME, "--cpu"], capsys)[0] == 0
    (new,) = [row for row in read_ledger(cards / "results.csv") if row.key == key]
    assert new.temperature > 1 and new.top1_ema == round(here, 6)  # it and the likelihood are of one device
    assert read_config(cards / NAME)[BLOCK]["metrics"]["top1"] == here


def test_nothing_is_written_where_it_refuses(
    cards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: OUTPUT
) -> None:
    rows = read_ledger(cards / "results.csv")

    def refused(says: str, target: str = NAME, code: int = 2) -> None:
        before = listing(cards)
        found, out, err = run(["calibrate", target, "--cpu"], capsys)
        assert (found, out) == (code, "") and says in err and err.count("\n") == 1, err
        assert listing(cards) == before

    refused("no checkpoint on disk", "cnn4.supervised_digits_10")
    refused("no checkpoint on disk", "hf-hub:org/x")
    with monkeypatch.context() as patch:  # another machine, two other images
        really = calibrate.evaluate
        patch.setattr(
            calibrate, "evaluate", lambda *words: dataclasses.replace(m := really(*words), top1=m.top1 + 2 / m.n)
        )
        refused("use the machine and the data it was exported with")
    with monkeypatch.context() as patch:
        said = {"temperature": 1.0, "why": "the classifier is Identity"}
        patch.setattr(calibrate, "with_temperature", lambda written, *words: (written, said))
        refused("cannot be calibrated: the classifier is Identity", code=1)
    config = json.loads((cards / NAME / "config.json").read_text())

    def with_block(**values: object) -> None:
        (cards / NAME / "config.json").write_text(json.dumps({**config, BLOCK: {**config[BLOCK], **values}}))

    with_block(split_sha256="0" * 64)
    refused("was trained on other images of digits")
    with_block(recipe={**config[BLOCK]["recipe"], "split": "/etc/passwd"})
    refused("names a file")
    with_block()
    write_ledger(cards / "results.csv", [dataclasses.replace(row, weights_sha256="0" * 64) for row in rows])
    refused("no row of these weights")
