"""The recipe's teacher: what it is asked, that it is frozen, and that its weights are the same to the end of a run."""

from __future__ import annotations

import dataclasses
import doctest
import importlib
import json
import re
import shutil
from pathlib import Path

import pytest
import timm
import torch
from torch import nn

import muscle_zoo
from muscle_zoo import InputError, create_model, get_recipe
from muscle_zoo.checkpoints.card import BLOCK, CONFIG_FILE
from muscle_zoo.data import dataset_info, load_dataset
from muscle_zoo.engine.build import build_model, prepare_data
from muscle_zoo.engine.fit import data_of_run
from muscle_zoo.engine.run_folder import RunFolder
from muscle_zoo.engine.state import load_state
from muscle_zoo.engine.teacher import Teacher, load_teacher, tensors_sha256
from muscle_zoo.engine.trainer import Trainer, forward
from muscle_zoo.files import read_json
from muscle_zoo.methods import create_method
from muscle_zoo.results.study import plan
from tests.conftest import run
from tests.test_engine import ON_CPU, short

TARGET = "cnn4.muscle_digits_10"
DIGITS = dataset_info("digits")
WORDS = ["train", "cnn4.distillation_digits_10", "steps=6", "eval_every=3", "batch_size=16", "mu=2", "--cpu"]


def test_the_example_runs() -> None:
    results = doctest.testmod(importlib.import_module("muscle_zoo.engine.teacher"))
    assert results.attempted and not results.failed


@pytest.mark.parametrize("options", [{}, {"policy": "strong", "on_labeled": True}])
def test_teacher_and_student_see_the_same_views(options: dict[str, object]) -> None:
    recipe = get_recipe(
        "cnn4.muscle_distillation_digits_10",
        {"teacher": TARGET, **{f"distillation.{key}": value for key, value in options.items()}},
    )
    trainer = Trainer(recipe, prepare_data(recipe), ON_CPU.accelerator(RunFolder(Path("nowhere"))))
    batch = trainer.batches.at(0)
    outputs, _ = trainer.predict(batch, 0)
    teacher = create_model(TARGET, pretrained=True).eval()
    asked = ["x_weak", "u_strong"] if options else ["u_weak"]
    assert {key[0] for key in outputs if isinstance(key, tuple)} == set(asked)
    for view in asked:
        expected = teacher(batch.inputs[view].contiguous(memory_format=torch.channels_last))
        assert torch.allclose(outputs[view, "teacher"], expected, atol=1e-4)
        assert not outputs[view, "teacher"].requires_grad and outputs[view].requires_grad
    assert {"u_weak", "u_strong"} <= set(outputs)


def test_it_is_frozen_and_no_part_of_what_is_trained_and_saved(tmp_path: Path) -> None:
    recipe = short("distillation")
    trainer = Trainer(recipe, prepare_data(recipe), ON_CPU.accelerator(RunFolder(tmp_path)))
    before = {name: value.clone() for name, value in trainer.teacher.network.state_dict().items()}
    trainer.model.train()
    trainer.teacher.train()
    assert not any(module.training for module in trainer.teacher.modules())
    for step in range(3):
        trainer.step(step, trainer.batches.at(step))
    after = trainer.teacher.network.state_dict()
    assert all(before[name].equal(value) for name, value in after.items())
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in trainer.teacher.parameters())
    trained = {id(p) for group in trainer.optimizer.param_groups for p in group["params"]}
    assert not trained & {id(parameter) for parameter in trainer.teacher.parameters()}
    assert trainer.method.state_dict() == {}


class Echo(nn.Module):
    """Logits that are its input's first pixels."""

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.pretrained_cfg = {"mean": mean, "std": std}

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1)


def test_it_gets_images_normalized_as_it_was_trained() -> None:
    pixels = torch.rand(2, 1, 8, 8)
    images = (pixels - torch.tensor(DIGITS.mean)) / torch.tensor(DIGITS.std)
    other = Teacher(Echo((0.5,), (0.25,)), DIGITS)
    assert not other.same and torch.allclose(other(images), ((pixels - 0.5) / 0.25).flatten(1), atol=1e-5)
    same = Teacher(Echo(DIGITS.mean, DIGITS.std), DIGITS)
    assert same.same and same(images).equal(images.flatten(1))


@pytest.mark.parametrize(
    ("method", "teacher", "says"),
    [
        ("distillation", "", "teacher= is empty, and distillation learns from one; give teacher=RUN"),
        ("muscle_distillation", "", "teacher= is empty, and muscle_distillation learns"),
        ("fixmatch", TARGET, f"teacher={TARGET}: fixmatch learns from no teacher; leave it out"),
        ("distillation", "cnn4.muscle_digits_11", "teacher=cnn4.muscle_digits_11: .*did you mean 'cnn4.muscle_dig"),
        ("distillation", "test_resnet.muscle_fashion_mnist_40", "knows the classes T-shirt/top, .*the data have 0, 1"),
        ("distillation", "cnn4", "teacher=cnn4: .*is an architecture"),
        ("distillation", "local-dir:/nowhere", "teacher=local-dir:/nowhere: "),
        ("distillation", "no/run/seed0", "no/run/seed0 does not exist; give a run folder"),
    ],
)
def test_what_is_wrong_with_a_teacher_is_told(
    method: str, teacher: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", f"cnn4.{method}_digits_10", *([f"teacher={teacher}"] if teacher else []), "steps=1"]
    code, _, err = run([*words, "--cpu", "--out", str(tmp_path / "run")], capsys)
    assert code == 2 and not (tmp_path / "run").exists() and err.count("\n") == 1
    assert re.search(says, err), err
    assert run(["train", f"cnn4.{method}_digits_10", "teacher=", "--cpu"], capsys)[0] == 2


@pytest.mark.parametrize(("method", "teacher"), [("distillation", ""), ("fixmatch", TARGET)])
def test_a_missing_teacher_is_told_before_images_are_read(
    method: str, teacher: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("muscle_zoo.engine.fit.prepare_data", lambda *_: pytest.fail("images were read"))
    with pytest.raises(InputError, match="teacher="):
        data_of_run(get_recipe(f"cnn4.{method}_digits_10", {"teacher": teacher}), RunFolder(tmp_path), ON_CPU)


def test_a_teacher_of_other_images_or_without_a_classifier_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = short("distillation")
    method = create_method(recipe.method, recipe.options)
    for wrong, says in (
        ({"num_classes": 0}, r"1x8x8 images of digits, 10 classes \(its output has the shape \(1, 64\)\)"),
        ({"in_chans": 3}, "does not take the 1x8x8 images of digits"),
    ):
        network = timm.create_model("cnn4", **{"in_chans": 1, "num_classes": 10, **wrong})
        network.pretrained_cfg = {**network.pretrained_cfg, "label_names": None}
        monkeypatch.setattr("muscle_zoo.engine.teacher.create_model", lambda *a, network=network, **k: network)
        with pytest.raises(InputError, match=says):
            load_teacher(recipe, method, DIGITS)


def test_the_run_keeps_the_hash_and_goes_on_with_the_same_weights_alone(
    finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    taught_by = Path(shutil.copytree(finished_run, tmp_path / "teacher"))
    words = [*WORDS, f"teacher={taught_by}"]
    assert run([*words, "--out", str(tmp_path / "whole")], capsys)[0] == 0
    stopped = tmp_path / "stopped"
    code, out, _ = run([*words, "--save-every", "2", "--time-limit", "0.000001", "--out", str(stopped)], capsys)
    assert code == 75 and out.startswith(f"learns from local-dir:{taught_by / 'export'}\n")
    weights = create_model(f"local-dir:{taught_by / 'export'}", pretrained=True).state_dict()
    state = next((stopped / "state").iterdir()) / "state.json"
    assert read_json(state)["teacher_sha256"] == tensors_sha256(weights)
    assert not any("teacher" in path.name for path in stopped.rglob("*.safetensors"))

    # Another network at the same place: whole, and of the same task.
    export = taught_by / "export"
    moved = shutil.move(export, tmp_path / "kept")
    shutil.copytree(muscle_zoo.checkpoints.registry.shipped_cards() / TARGET, export)
    before = (stopped / "status.json").read_bytes()
    code, _, err = run([*words, "--out", str(stopped)], capsys)
    assert code == 2 and "its weights are not those that the run was begun with (sha256 " in err
    assert err.count("\n") == 1 and (stopped / "status.json").read_bytes() == before
    shutil.rmtree(export)
    shutil.move(moved, export)

    assert run([*words, "--out", str(stopped)], capsys)[0] == 0
    ends = [load_state(RunFolder(tmp_path / name).state_dir) for name in ("whole", "stopped")]
    assert all(ends[0][0]["ema"][key].equal(value) for key, value in ends[1][0]["ema"].items())
    config = json.loads((stopped / "export" / CONFIG_FILE).read_text())
    assert config[BLOCK]["teacher_sha256"] == tensors_sha256(weights)
    assert config[BLOCK]["recipe"]["teacher"] == f"local-dir:{export}"
    card = (stopped / "export" / "README.md").read_text(encoding="utf-8")
    assert "license: other" in card and f"It learned from `local-dir:{export}` (tensors' sha256 `" in card
    assert "The weights are Apache-2.0" not in card and f"teacher=local-dir:{export}" in card


def test_the_written_target_counts_in_the_hash_of_the_recipe() -> None:
    plain, taught, other = (get_recipe(WORDS[1], {"teacher": target}) for target in ("", TARGET, "hf-hub:a/b@v1"))
    assert len({plain.sha256, taught.sha256, other.sha256}) == 3
    fields = {key: value for key, value in plain.to_dict().items() if key != "teacher"}
    assert type(plain).from_dict(fields) == plain  # of a recipe that was written before there were teachers
    assert muscle_zoo.recipes.changes(taught) == [f"teacher={TARGET}"]


def test_hashes_tell_tensors_apart() -> None:
    base = {"a": torch.arange(4.0), "b": torch.tensor(1)}
    same = {"b": torch.tensor(1), "a": torch.arange(8.0)[::2] / 2}  # in another order, and not contiguous
    assert tensors_sha256(base) == tensors_sha256(same)
    others = [
        {**base, "a": torch.arange(4.0).view(2, 2)},
        {**base, "a": torch.arange(4.0).double()},
        {**base, "a": -torch.arange(4.0)},
        {"a": base["a"], "c": base["b"]},
        {**base, "b": torch.tensor(2)},
        {**base, "empty": torch.empty(0)},
    ]
    assert len({tensors_sha256(base), *map(tensors_sha256, others)}) == 7


def test_an_input_may_be_the_teachers_alone() -> None:
    method = create_method("distillation")
    method.needs = {"u_weak": ("teacher",)}
    student, teacher = (timm.create_model("cnn4", in_chans=1, num_classes=10).eval() for _ in range(2))
    sizes: list[int] = []
    student.register_forward_hook(lambda module, args, out: sizes.append(len(args[0])))
    recipe = short("distillation")
    trainer = Trainer(recipe, prepare_data(recipe), ON_CPU.accelerator(RunFolder(Path("nowhere"))))
    outputs, _ = forward(student, student, method, dataclasses.replace(trainer.batches.at(0)), 0, teacher)
    assert set(outputs) == {"x_weak", ("u_weak", "teacher")} and sizes == [16]


@pytest.mark.parametrize("field", ["teacher", "init"])
def test_a_run_measured_on_the_dev_fold_takes_nothing_that_was_trained_on_it(field: str) -> None:
    name = "cnn4.distillation_digits_40" if field == "teacher" else "cnn4.supervised_digits_40"
    data = dataset_info("digits")

    def begin(fold: str, target: str) -> None:
        recipe = get_recipe(name, {field: target, "fold": fold})
        if field == "teacher":
            load_teacher(recipe, create_method(recipe.method, recipe.options), data)
        else:
            build_model(recipe, load_dataset("digits"))

    begin("test", "cnn4.muscle_digits_40")
    with pytest.raises(InputError, match=f"{field}=cnn4.muscle_digits_40 .*fold=test.*give one .* fold=dev"):
        begin("dev", "cnn4.muscle_digits_40")


def test_a_study_gives_the_teacher_to_those_that_learn_from_one() -> None:
    recipes = plan("cnn4", ["supervised", "distillation"], ["digits"], ["10"], [0], overrides={"teacher": TARGET})
    taught = {recipe.method: recipe.teacher for recipe in recipes}
    assert taught == {"supervised": "", "muscle": "", "distillation": TARGET, "muscle_distillation": TARGET}
    changed = {"teacher": TARGET, "robust_self_training.labels": "teacher"}
    assert {r.teacher for r in plan("cnn4", ["robust_self_training"], ["digits"], ["10"], [0], overrides=changed)} == {
        TARGET
    }
    one = plan("cnn4", ["robust_self_training", "distillation"], ["digits"], ["10"], [0], overrides={"teacher": TARGET})
    assert [recipe.teacher for recipe in one] == ["", "", TARGET, TARGET]
