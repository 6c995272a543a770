"""The folder for a Space: its app is imported as it stands, without gradio, and says what `predict` says."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image

import muscle_zoo
from muscle_zoo import InputError
from muscle_zoo.publishing.space import export_space
from tests.conftest import run
from tests.pictures import picture


def load_app(folder: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("space_app_of_a_test", folder / "app.py")
    assert spec is not None and spec.loader is not None
    app = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(app)
    return app


def test_the_app_predicts_what_predict_does(finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """One of timm's architectures, and a gray one of our own, which needs the package beside it."""
    upright = picture(tmp_path / "a.png", "cat", 1, (40, 30))
    turned, clear = tmp_path / "b.jpg", tmp_path / "c.png"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(upright).save(turned, exif=exif)
    Image.new("RGBA", (32, 32), (255, 0, 0, 0)).save(clear)
    for number, target in enumerate(("test_resnet.muscle_fashion_mnist_40", str(finished_run))):
        space = tmp_path / f"space{number}"
        assert run(["export", target, "--space", str(space)], capsys)[0] == 0
        app = load_app(space)
        for file in (upright, turned, clear):
            (expected,) = muscle_zoo.predict(target, file, topk=10, cpu=True)
            found = app.predict(Image.open(file))
            assert found == pytest.approx(dict(expected.classes), abs=1e-5) and len(found) == 10
        assert app.predict(None) == {}
        assert (space / "muscle_zoo" / "backbones").is_dir() == (number == 1) and ("muscle_zoo" in vars(app)) == number
        requirements = (space / "requirements.txt").read_text().splitlines()
        assert any(line.startswith("timm==") for line in requirements) and not any("extra" in r for r in requirements)
        assert any(line.startswith("accelerate") for line in requirements) == (number == 1)
        front = (space / "README.md").read_text().split("---")[1]
        assert "sdk: gradio" in front and "app_file: app.py" in front and "sdk_version: 5" in front
        names = json.loads((space / "export" / "config.json").read_text())["label_names"]
        assert all(name in (space / "README.md").read_text() for name in names)


def test_what_cannot_become_a_space_is_refused(finished_run: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").touch()
    for target, folder, message in (
        (str(finished_run), tmp_path / "full", "is there already"),
        ("hf-hub:org/model", tmp_path / "new", "its weights are not here"),
    ):
        with pytest.raises(InputError, match=message):
            export_space(target, folder)
    assert not (tmp_path / "new").exists()
