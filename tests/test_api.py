"""Training, evaluation and prediction from Python, as in a notebook: no command line, no argparse."""

from __future__ import annotations

import doctest
from pathlib import Path

import pytest
import torch
from PIL import Image

import muscle_zoo
from muscle_zoo import InputError, TrainingError, api
from muscle_zoo.checkpoints.registry import shipped_cards
from tests.pictures import make_folder

NAME = "cnn4.muscle_digits_10"
SHORT = {"steps": 24, "eval_every": 8, "batch_size": 16, "mu": 2}


def test_the_examples_of_the_docstrings_run(tmp_path: Path) -> None:
    finder, runner = doctest.DocTestFinder(), doctest.DocTestRunner(verbose=False)
    for function in (api.train, api.evaluate, api.predict, api.list_methods):
        for example in finder.find(function, globs={**vars(muscle_zoo), "tmp": tmp_path / "run"}):
            assert example.examples, function
            assert runner.run(example).failed == 0


def test_a_folder_of_pictures_becomes_a_model_in_a_notebook(tmp_path: Path) -> None:
    data = make_folder(tmp_path / "data")
    recipe = {**SHORT, "image_size": 32, "steps": 4, "eval_every": 4, "batch_size": 4}
    run = muscle_zoo.train(
        "test_resnet.muscle_fixmatch_folder_8", recipe, data=data, out=tmp_path / "run", cpu=True, progress=False
    )
    assert run.finished and run.row is not None and run.path == tmp_path / "run"
    assert run.metrics.top1 == pytest.approx(run.row.top1_ema, abs=1e-6) and run.metrics.n == run.row.n_test
    model = run.model()
    assert torch.equal(model.get_classifier().weight, run.model().get_classifier().weight)
    assert run.model(num_classes=5).num_classes == 5
    result = muscle_zoo.evaluate(run, data=data, cpu=True)
    assert result.reproduced and result.metrics.top1 == run.metrics.top1 and set(result.per_class) == {"cat", "dog"}
    (tmp_path / "new").mkdir()
    Image.new("L", (50, 40), 90).save(tmp_path / "new" / "a.png")
    (tmp_path / "new" / "b.png").write_text("no picture")
    good, bad = muscle_zoo.predict(run.path, tmp_path / "new", cpu=True)
    assert good.label in ("cat", "dog") and sum(p for _, p in good.classes) == pytest.approx(1.0, abs=1e-5)
    assert bad.label is None and bad.error and bad.file.endswith("b.png")
    assert muscle_zoo.predict(model, [tmp_path / "new" / "a.png"], topk=1) == [
        muscle_zoo.predict(run.checkpoint, str(tmp_path / "new" / "a.png"), topk=1, cpu=True)[0]
    ]
    assert model.training  # as it was given


def test_one_process_trains_in_one_precision_after_the_other(tmp_path: Path) -> None:
    for precision in ("no", "bf16", "no"):
        out = tmp_path / precision
        run = muscle_zoo.train(NAME, SHORT, out=out, cpu=True, mixed_precision=precision, progress=False)
        assert run.row is not None and run.row.dtype == {"no": "float32"}.get(precision, precision)
    with pytest.raises(InputError, match="is a finished run in float32, not bf16; give another folder"):
        muscle_zoo.train(NAME, SHORT, out=tmp_path / "no", cpu=True, mixed_precision="bf16")


def test_a_run_that_is_stopped_goes_on_with_the_same_call(tmp_path: Path) -> None:
    run = muscle_zoo.train(NAME, SHORT, out=tmp_path / "run", cpu=True, progress=False, time_limit=1e-6)
    assert (run.finished, run.row) == (False, None)
    with pytest.raises(InputError, match="is not finished, so it has no weights yet"):
        run.model()
    with pytest.raises(InputError, match="is not finished"):
        muscle_zoo.evaluate(run.path)
    again = muscle_zoo.train(NAME, SHORT, out=tmp_path / "run", cpu=True, progress=False)
    whole = muscle_zoo.train(NAME, SHORT, out=tmp_path / "whole", cpu=True, progress=False)
    assert again.row is not None and whole.row is not None
    assert again.row.weights_sha256 == whole.row.weights_sha256


def test_wrong_input(tmp_path: Path) -> None:
    recipe = muscle_zoo.get_recipe(NAME, SHORT)
    for call, says in (
        (lambda: muscle_zoo.train("cnn4.musle_digits_10"), "did you mean"),
        (lambda: muscle_zoo.train(NAME, {"lrr": 1.0}), "override 'lrr' does not exist"),
        (lambda: muscle_zoo.train(recipe, {"lr": 1.0}), "dataclasses.replace"),
        (lambda: muscle_zoo.train(NAME, workers=-1), "workers=-1 is out of range"),
        (lambda: muscle_zoo.train(NAME, tracker="wandbb"), "wandbb"),
        (lambda: muscle_zoo.train(NAME, mixed_precision="fp16", cpu=True, out=tmp_path / "x"), "fp16 does not run"),
        (lambda: muscle_zoo.evaluate("runs/nope"), "does not exist"),
        (lambda: muscle_zoo.evaluate(muscle_zoo.create_model(NAME)), "CNN4 is no checkpoint; give a name"),
        (lambda: muscle_zoo.train(NAME, ["steps=60"]), "give a dictionary of fields and values"),
        (lambda: muscle_zoo.train(NAME, mixed_precision="half"), "mixed-precision half is unknown; known: bf16, fp16"),
        (lambda: muscle_zoo.predict(NAME, tmp_path / "none.png"), "does not exist"),
        (lambda: muscle_zoo.predict(NAME, [], cpu=True), r"pictures=\[\] has none; give paths"),
        (lambda: muscle_zoo.predict(NAME, Image.new("L", (8, 8))), "pictures: Image is no path; give paths"),
        (lambda: muscle_zoo.predict(NAME, [Image.new("L", (8, 8))]), "pictures: Image is no path; give paths"),
        (lambda: muscle_zoo.predict(NAME, 3), "pictures: int is no path"),
        (lambda: muscle_zoo.predict(NAME, "x.png", topk="3"), "topk='3' is no whole number"),
        (lambda: muscle_zoo.predict(NAME, "x.png", batch_size=1.5), "batch_size=1.5 is no whole number"),
        (lambda: muscle_zoo.train(NAME, out=3), "out=3 is no path; give a string"),
        (lambda: muscle_zoo.train(NAME, data=["a"]), r"data=\['a'\] is no path"),
        (lambda: muscle_zoo.train(NAME, time_limit="9m"), "time_limit='9m' is no time; give seconds"),
        (lambda: muscle_zoo.train(NAME, time_limit=0), "time_limit=0 is no time"),
        (lambda: muscle_zoo.train(NAME, workers="2"), "workers='2' is no whole number"),
        (lambda: muscle_zoo.train(NAME, save_every=None), "save_every=None is no whole number"),
        (lambda: muscle_zoo.train(3), "recipe=3 is no recipe; give its name"),
        (lambda: muscle_zoo.evaluate(NAME, data=3), "data=3 is no path"),
        (lambda: muscle_zoo.predict(NAME, str(shipped_cards() / NAME), topk=0), "topk=0 is out of range"),
    ):
        with pytest.raises(InputError, match=says) as error:
            call()
        assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_a_loss_that_is_not_finite_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="not finite"):
        muscle_zoo.train(NAME, {**SHORT, "lr": 1e9}, out=tmp_path / "run", cpu=True, progress=False)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_evaluates_and_predicts_where_it_trained(tmp_path: Path) -> None:
    run = muscle_zoo.train(NAME, SHORT, out=tmp_path / "run", mixed_precision="bf16", progress=False)
    assert run.row is not None and "cpu" not in run.row.device
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.max_memory_allocated()
    assert muscle_zoo.evaluate(run.path).reproduced
    assert torch.cuda.max_memory_allocated() > before
    assert muscle_zoo.evaluate(run.path, cpu=True).metrics.top1 == pytest.approx(run.metrics.top1, abs=0.01)
    Image.new("L", (8, 8), 90).save(tmp_path / "a.png")
    (on_gpu,), (on_cpu,) = (muscle_zoo.predict(run.path, tmp_path / "a.png", cpu=cpu) for cpu in (False, True))
    assert dict(on_gpu.classes)[on_cpu.label] == pytest.approx(on_cpu.classes[0][1], abs=0.01)


def test_strict_refuses_what_is_otherwise_left_out(tmp_path: Path) -> None:
    """Own pictures and recipes alike, before anything is written."""
    folder = make_folder(tmp_path / "mine", unlabeled=2, test=2)
    (folder / "labeled/cat/bad.png").write_bytes(b"no picture")
    for recipe, more in ((folder, {}), ("cnn4.supervised_folder_4", {"data": folder})):
        with pytest.raises(InputError, match=r"cannot be read.*strict"):
            muscle_zoo.train(recipe, {"steps": 1}, out=tmp_path / "run", strict=True, cpu=True, progress=False, **more)
