"""Exports hold their temperature, have the accuracy of the weights without it, and say what it changed."""

from __future__ import annotations

import copy
import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from muscle_zoo import get_recipe
from muscle_zoo.checkpoints.card import BLOCK, calibration_of, read_config
from muscle_zoo.data.augment import parse_policy
from muscle_zoo.engine import calibration
from muscle_zoo.engine.build import prepare_data
from muscle_zoo.engine.calibration import calibrate
from muscle_zoo.engine.evaluate import evaluate
from muscle_zoo.engine.fit import fit
from muscle_zoo.engine.options import RunOptions
from muscle_zoo.engine.run_folder import RunFolder
from muscle_zoo.errors import CalibrationError
from muscle_zoo.publishing import calibrated, export
from muscle_zoo.publishing.export import export_run
from muscle_zoo.publishing.release import read_finished_run
from muscle_zoo.results.ledger import Row
from muscle_zoo.sessions.train import finished_row
from tests.conftest import run
from tests.test_calibration import INFO, OUTPUT, half_rounded


def short(method: str = "muscle", **overrides: object) -> Any:
    return get_recipe(
        f"cnn4.{method}_digits_10", {"steps": 60, "eval_every": 60, "batch_size": 16, "mu": 2, **overrides}
    )


@pytest.fixture(scope="module")
def trained_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, RunFolder, Any]:
    """A run before its export. Its recipe overfits: it is sure and often wrong."""
    recipe, folder = short(), RunFolder(tmp_path_factory.mktemp("trained") / "run")
    options = RunOptions(cpu=True, progress=False)
    folder.open(recipe)
    return recipe, folder, fit(recipe, folder, options)


def exported(folder: RunFolder) -> tuple[dict[str, Any], dict[str, Tensor], nn.Module]:
    """The block of config.json, the tensors and the network of an export."""
    model = timm.create_model(f"local-dir:{folder.export_dir}", pretrained=True).eval()
    block = read_config(folder.export_dir)[BLOCK]
    return block, load_file(folder.export_dir / "model.safetensors"), model


def with_rule(temperature: float) -> Any:
    return lambda *measured: temperature


def test_an_export_holds_its_temperature_and_has_the_accuracy_of_the_weights_without(
    trained_run: tuple[Any, RunFolder, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, folder, trained = trained_run
    data = prepare_data(recipe)
    monkeypatch.setattr(calibration, "choose_temperature", with_rule(1.0))
    plain_row = export_run(recipe, folder, trained)
    plain, plain_tensors, plain_model = exported(folder)
    assert plain["calibration"]["temperature"] == plain_row.temperature == 1.0
    assert {tensor.dtype for name, tensor in plain_tensors.items() if "fc" in name} == {torch.float16}
    for temperature in (1.7, 3.1416, 0.37, 20.0):
        monkeypatch.setattr(calibration, "choose_temperature", with_rule(temperature))
        row = export_run(recipe, folder, trained)
        block, tensors, model = exported(folder)
        changed = [name for name, tensor in tensors.items() if not tensor.equal(plain_tensors[name])]
        assert sorted(changed) == ["fc.bias", "fc.weight"]
        for name in changed:
            assert tensors[name].dtype == torch.float32
            assert tensors[name].equal(plain_tensors[name].float() / temperature)
        metrics, before = (evaluate(network, data.evaluation, INFO) for network in (model, plain_model))
        assert (metrics.top1, metrics.top5, metrics.per_class) == (before.top1, before.top5, before.per_class)
        assert block["metrics"] == metrics.to_dict() and row.top1_ema == plain_row.top1_ema
        assert metrics.nll != pytest.approx(before.nll, rel=0.01)
        assert (row.temperature, row.nll, row.ece) == (temperature, round(metrics.nll, 6), round(metrics.ece, 6))
        assert (row.nll_uncalibrated, row.ece_uncalibrated) == (plain_row.nll, plain_row.ece)
        said = block["calibration"]
        assert (said["temperature"], said["nll_uncalibrated"]) == (temperature, before.nll)
        assert said["images"] == len(data.split.unlabeled) and said["labels_per_class"] == 1.0
        assert torch.allclose(
            torch.tensor(block["probe"]["logits"]) * temperature, torch.tensor(plain["probe"]["logits"])
        )


def test_the_temperature_is_that_of_the_written_weights_on_the_pool(
    trained_run: tuple[Any, RunFolder, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, folder, trained = trained_run
    row = export_run(recipe, folder, trained)
    said = exported(folder)[0]["calibration"]
    monkeypatch.setattr(calibration, "choose_temperature", with_rule(1.0))
    export_run(recipe, folder, trained)
    data = prepare_data(recipe)
    pool = data.dataset.train.subset(data.split.unlabeled)
    found = calibrate(exported(folder)[2], pool, INFO, parse_policy("weak", recipe.weak), recipe.seed, 1.0, True)
    assert said["agreement_weak"] == round(found.agreement_weak, 6) and said["saw_strong"] is True
    assert said["expected_accuracy"] == round(found.expected_accuracy, 6) and said["power"] == 5.0
    assert found.temperature == 1.0 < row.temperature == said["temperature"]
    monkeypatch.undo()
    found = calibrate(exported(folder)[2], pool, INFO, parse_policy("weak", recipe.weak), recipe.seed, 1.0, True)
    assert found.temperature == row.temperature  # what is written now was not divided


@pytest.mark.parametrize("seed", range(4))
def test_written_weights_of_any_network_keep_their_accuracy(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(seed)
    recipe = short("supervised", seed=seed)
    data = prepare_data(recipe)
    model = timm.create_model(("cnn4", "test_resnet")[seed % 2], num_classes=10, in_chans=1).eval()
    half_rounded(model)
    monkeypatch.setattr(calibration, "choose_temperature", with_rule(1.0 + 10.0 * float(torch.rand(()))))
    written, said = calibrated.with_temperature(as_written(model, data), recipe, data, lambda t: reread(model, t, data))
    assert said["temperature"] > 1
    assert written.metrics.top1 == evaluate(model, data.evaluation, INFO).top1


def as_written(model: nn.Module, data: Any) -> calibrated.Written:
    tensors = {name: value.clone() for name, value in model.state_dict().items()}
    return calibrated.Written(tensors, "", copy.deepcopy(model), evaluate(model, data.evaluation, INFO))


def reread(model: nn.Module, tensors: dict[str, Tensor], data: Any) -> calibrated.Written:
    other = copy.deepcopy(model)
    other.load_state_dict(tensors)
    return dataclasses.replace(as_written(other, data), tensors=tensors)


def test_a_network_that_cannot_be_calibrated_is_exported_as_it_is(
    trained_run: tuple[Any, RunFolder, Any], monkeypatch: pytest.MonkeyPatch, capsys: OUTPUT
) -> None:
    recipe, folder, trained = trained_run
    monkeypatch.setattr(calibration, "choose_temperature", with_rule(1.0))
    export_run(recipe, folder, trained)
    _, plain, _ = exported(folder)
    monkeypatch.setattr(calibration, "choose_temperature", with_rule(2.0))

    def refuse(*words: object) -> None:
        raise CalibrationError("the classifier is Identity, no plain linear layer")

    capsys.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr(calibrated, "fold_temperature", refuse)
        row = export_run(recipe, folder, trained)
    block, tensors, _ = exported(folder)
    why = "the classifier is Identity, no plain linear layer"
    assert block["calibration"]["why"] == why and block["calibration"]["temperature"] == row.temperature == 1.0
    assert all(tensor.equal(plain[name]) for name, tensor in tensors.items())
    assert capsys.readouterr().err == f"{recipe.name}: not calibrated, its temperature is 1: {why}\n"

    really = export.evaluate_written
    results = iter((0.0, 1 / 360, 0.0))  # the calibrated weights are right of an image more

    def of_other_accuracy(*words: Any) -> tuple[nn.Module, Any]:
        model, metrics = really(*words)
        return model, dataclasses.replace(metrics, top1=metrics.top1 + next(results))

    monkeypatch.setattr(export, "evaluate_written", of_other_accuracy)
    row = export_run(recipe, folder, trained)
    block, tensors, _ = exported(folder)
    assert row.temperature == 1.0 and row.nll == row.nll_uncalibrated
    assert "less than their rounding" in block["calibration"]["why"]
    assert all(tensor.equal(plain[name]) for name, tensor in tensors.items())
    assert capsys.readouterr().err.count("\n") == 1


def test_a_pool_without_images() -> None:
    recipe = short("supervised")
    data = prepare_data(recipe)
    data = dataclasses.replace(data, split=dataclasses.replace(data.split, unlabeled=()))
    before = as_written(timm.create_model("cnn4", num_classes=10).eval(), data)
    written, said = calibrated.with_temperature(before, recipe, data, lambda tensors: pytest.fail("written"))
    assert written is before and said["temperature"] == 1.0 and "no unlabeled image" in said["why"]


@pytest.mark.parametrize("overrides", [{"labels": "100pct"}, {"fold": "validation", "validation": 0.5, "labels": 40}])
def test_a_pool_of_labeled_images_will_do(overrides: dict[str, object], tmp_path: Path, capsys: OUTPUT) -> None:
    words = [f"{key}={value}" for key, value in overrides.items()]
    given = ["train", "cnn4.supervised_digits_10", *words, "steps=3", "eval_every=3", "--cpu", "--out", str(tmp_path)]
    code, _, err = run(given, capsys)
    assert code == 0 and "not calibrated" not in err
    assert exported(RunFolder(tmp_path))[0]["calibration"]["images"] > 1000


def test_old_cards_have_temperature_1() -> None:
    assert calibration_of({}) == calibration_of({BLOCK: {"calibration": None}}) == {"temperature": 1.0}
    assert calibration_of({BLOCK: {"calibration": {"temperature": 2.5}}})["temperature"] == 2.5


@pytest.mark.parametrize("old", [True, False])
def test_a_finished_run_of_an_older_version_is_finished(
    old: bool, finished_run: Path, tmp_path: Path, capsys: OUTPUT
) -> None:
    shutil.copytree(finished_run, tmp_path / "run")
    status = json.loads((tmp_path / "run" / "status.json").read_text())
    row = Row(**status["row"])
    if old:
        for column in ("temperature", "nll_uncalibrated", "ece_uncalibrated"):
            del status["row"][column]
        before = {"nll_uncalibrated": row.nll, "ece_uncalibrated": row.ece}
        row = dataclasses.replace(row, temperature=1.0, **before)
        (tmp_path / "run" / "status.json").write_text(json.dumps(status))
    assert finished_row(RunFolder(tmp_path / "run"), "") == row == read_finished_run(tmp_path / "run").row


def test_a_card_and_eval_say_what_the_temperature_changed(
    trained_run: tuple[Any, RunFolder, Any], monkeypatch: pytest.MonkeyPatch, capsys: OUTPUT
) -> None:
    recipe, folder, trained = trained_run
    row = export_run(recipe, folder, trained)
    said = exported(folder)[0]["calibration"]
    text = (folder.export_dir / "README.md").read_text()
    assert row.temperature > 1 and f"its logits are divided by {row.temperature:g}, which is in the weights" in text
    assert (
        f"of {said['images']} unlabeled training images have the same class for {100 * said['agreement_weak']:.1f} %"
        in text
    )
    assert f"Negative log-likelihood {row.nll:.3f} nats, expected calibration error {100 * row.ece:.1f} %" in text
    assert f"log-likelihood was {row.nll_uncalibrated:.3f} nats" in text and "it is surer than it is right" not in text
    code, out, _ = run(["eval", str(folder.path), "--cpu"], capsys)
    assert code == 0 and f"temperature          {row.temperature:6.3f} (in the weights)" in out
    code, out, _ = run(["eval", str(folder.path), "--cpu", "--json"], capsys)
    report = json.loads(out)
    assert report["temperature"] == row.temperature and round(report["nll"], 6) == row.nll
    monkeypatch.setattr(calibration, "choose_temperature", with_rule(1.0))
    export_run(recipe, folder, trained)
    assert (
        "Its logits are not divided by a temperature, for two weak views of"
        in (folder.export_dir / "README.md").read_text()
    )
    code, out, _ = run(["eval", str(folder.path), "--cpu"], capsys)
    assert code == 0 and "temperature" not in out


def test_onnx_has_the_calibrated_logits(trained_run: tuple[Any, RunFolder, Any], tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    from muscle_zoo.publishing.onnx import export_onnx

    recipe, folder, trained = trained_run
    row = export_run(recipe, folder, trained)
    _, _, model = exported(folder)
    assert row.temperature > 1
    file, _ = export_onnx(str(folder.path), tmp_path / "model.onnx")
    images = torch.randn(5, 1, 8, 8)
    with torch.no_grad():
        expected = model(images)
        model.get_classifier().weight *= row.temperature
        model.get_classifier().bias *= row.temperature
        uncalibrated = model(images)
    logits = torch.from_numpy(onnxruntime.InferenceSession(file).run(None, {"images": images.numpy()})[0])
    assert torch.allclose(logits, expected, atol=1e-4)
    assert torch.allclose(logits * row.temperature, uncalibrated, atol=1e-3)
