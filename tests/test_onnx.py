"""export --onnx as a user meets it; the packages that it needs may be absent."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import muscle_zoo
from muscle_zoo.publishing import onnx
from tests.conftest import SHORT, listing, run

NAME = SHORT[0]
OUTPUT = pytest.CaptureFixture[str]
ROOT = Path(__file__).resolve().parent.parent
ONNX = ["export", NAME, "--onnx"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["export", NAME, NAME, "--onnx", "a.onnx"], "--onnx takes one checkpoint"),
        (["export", NAME, "--card", "--onnx"], "neither --card nor --to"),
        (["export", NAME, "--to", "x", "--onnx"], "neither --card nor --to"),
        (["export", "--onnx", "a.onnx"], "required: RUN"),
        ([*ONNX, "model"], "--onnx model: write the name of a file that ends in .onnx"),
        ([*ONNX, "folder.onnx"], "--onnx folder.onnx: write the name of a file"),
        (ONNX, "--onnx needs onnx, which is not installed; run pip install onnx"),
    ],
)
def test_wrong_input(
    words: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: OUTPUT
) -> None:
    (tmp_path / "folder.onnx").mkdir()
    before = listing(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(onnx.importlib.util, "find_spec", lambda name: None)
    code, out, err = run(words, capsys)
    assert code == 2 and out == "" and err.count("\n") == 1 and says in err
    assert listing(tmp_path) == before


def test_onnx(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: OUTPUT) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    monkeypatch.chdir(tmp_path)
    code, out, err = run(ONNX, capsys)
    assert (code, err) == (0, "") and "MiB" in out and [p.name for p in tmp_path.iterdir()] == [f"{NAME}.onnx"]
    content = (tmp_path / f"{NAME}.onnx").read_bytes()
    assert str(ROOT).encode() not in content  # no path of this machine
    session = onnxruntime.InferenceSession(content)
    info, model = muscle_zoo.model_info(NAME), muscle_zoo.create_model(NAME, pretrained=True).eval()
    cfg = model.pretrained_cfg
    for n in (1, 2, 5):
        images = torch.randn(n, *info.input_size)
        with torch.inference_mode():
            expected = model(images).numpy()
        assert np.abs(session.run(None, {"images": images.numpy()})[0] - expected).max() <= 1e-4
    facts = session.get_modelmeta().custom_metadata_map
    assert (facts["name"], facts["weights_sha256"]) == (NAME, info.sha256)
    for key, value in (
        ("class_names", info.class_names),
        ("input_size", info.input_size),
        ("mean", cfg["mean"]),
        ("std", cfg["std"]),
    ):
        assert json.loads(facts[key]) == list(value)

    def another(*words: object, **more: object) -> torch.nn.Module:
        with torch.no_grad():
            model.get_classifier().bias[0] += 4e-4
        return model

    with monkeypatch.context() as patch:  # what is compared is a model whose bias differs by little
        patch.setattr(onnx, "convert", lambda *words: content)
        patch.setattr(onnx, "load_model", another)
        code, out, err = run([*ONNX, "other.onnx"], capsys)
        assert (code, out) == (1, "") and err.count("\n") == 1
        assert "differ from torch's by 4.0e-04, more than 1e-04" in err  # its logits are calibrated, none is above 10
    with monkeypatch.context() as patch:
        patch.setattr(onnx, "convert", lambda *words: content)
        patch.setattr(Path, "replace", lambda *words: (_ for _ in ()).throw(OSError("No space left on device")))
        code, _, err = run([*ONNX, "other.onnx"], capsys)
        assert code == 1 and "No space left" in err
    assert [p.name for p in tmp_path.iterdir()] == [f"{NAME}.onnx"]
