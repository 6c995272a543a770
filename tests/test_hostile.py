"""What comes from outside must not harm: every hostile or damaged file is one clear line and nothing else."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from timm.models import PretrainedCfg

import muscle_zoo
from muscle_zoo import DownloadError, InputError
from muscle_zoo.checkpoints import card as config
from muscle_zoo.checkpoints import registry
from muscle_zoo.checkpoints.card import CONFIG_FILE
from muscle_zoo.sessions.evaluate import evaluate_checkpoint
from tests.conftest import run

CONFIG, WEIGHTS = CONFIG_FILE, registry.WEIGHTS_FILE


def change(card: Path, path: str, value: Any) -> None:
    """Sets a field of config.json, ``pretrained_cfg.input_size`` for instance."""
    config = json.loads((card / CONFIG).read_text())
    *parts, last = path.split(".")
    target = config
    for part in parts:
        target = target[part]
    target[last] = value
    (card / CONFIG).write_text(json.dumps(config))


def refusal(action: Callable[[], object]) -> str:
    """The one line with which something is refused."""
    with pytest.raises((InputError, DownloadError)) as caught:
        action()
    message = str(caught.value)
    assert "\n" not in message and message.isprintable() and len(message) < 1500
    return message


def load(card: Path) -> torch.nn.Module:
    return muscle_zoo.create_model(f"local-dir:{card}", pretrained=True)


PARTS, HASHES = ("metrics", "probe", "recipe", "calibration"), ("weights", "split", "recipe")
FIELDS = [
    ("pretrained_cfg.color", "blue", "unknown field 'color'"),
    ("pretrained_cfg.\x1b[2J", 1, "unknown field"),
    ("pretrained_cfg.num_classes", "ten", "pretrained_cfg.num_classes='ten'"),
    ("num_classes", 10**12, "num_classes=1000000000000"),
    ("num_classes", True, "num_classes=True"),
    ("num_classes", 11, "label_names are 10, num_classes=11"),
    ("label_names", ["0"] * 9, "label_names are 9"),
    ("label_names", list(range(10)), "label_names"),
    ("pretrained_cfg.input_size", [3, 10**9, 10**9], "pretrained_cfg.input_size=[3, 10"),
    ("pretrained_cfg.input_size", [1, -8, 8], "pretrained_cfg.input_size=[1, -8, 8]"),
    ("pretrained_cfg.input_size", ["1", "8", "8"], "pretrained_cfg.input_size"),
    ("pretrained_cfg.input_size", None, "pretrained_cfg.input_size is missing"),
    ("pretrained_cfg.input_size", [3, 8, 8], "model_args.in_chans=1 disagrees"),
    ("pretrained_cfg.mean", [0.5, 0.5, 0.5], "pretrained_cfg.mean has 3 numbers"),
    ("pretrained_cfg.mean", [1e300], "pretrained_cfg.mean"),
    ("pretrained_cfg.std", [0], "pretrained_cfg.std"),
    ("pretrained_cfg.crop_mode", "../x", "pretrained_cfg.crop_mode"),
    ("pretrained_cfg.interpolation", "random", "pretrained_cfg.interpolation='random'"),
    ("pretrained_cfg.crop_pct", 10, "with crop_pct=10 resizes pictures to less than a pixel"),
    ("pretrained_cfg.label_offset", 1, "pretrained_cfg.label_offset=1"),
    ("pretrained_cfg.classifier", "layer4.conv.conv", "is not its classifier"),
    ("pretrained_cfg.first_conv", ["a/b"], "pretrained_cfg.first_conv"),
    ("pretrained_cfg", [], "pretrained_cfg=[]"),
    ("model_args", [], "model_args=[]"),
    ("model_args.in_chans", 10**9, "model_args.in_chans=1000000000"),
    ("model_args.in_chans", 3, "model_args.in_chans=3 disagrees"),
    ("model_args.width", 10**9, "model_args.width=1000000000"),
    ("model_args.width", 4096, "the tensor layer1.conv.weight is [32, 1, 3, 3]"),
    ("model_args.depth", 28, "unexpected keyword argument 'depth'"),
    ("model_args.global_pool", "nothing", "cnn4 cannot be built"),
    ("model_args.checkpoint_path", "/etc/passwd", "unknown field 'checkpoint_path'"),
    ("model_args.cache_dir", "/tmp/elsewhere", "unknown field 'cache_dir'"),
    ("model_args.pretrained_cfg_overlay", {"file": "/etc/passwd"}, "unknown field 'pretrained_cfg_overlay'"),
    ("model_args.pretrained_strict", False, "unknown field 'pretrained_strict'"),
    ("architecture", "hf-hub:evil/x", "architecture='hf-hub:evil/x'"),
    ("architecture", "local-dir:etc", "'local-dir:etc' is unknown"),
    ("architecture", "local-dir:/etc", "architecture='local-dir:/etc'"),
    ("architecture", ["cnn4"], "architecture=['cnn4']"),
    ("architecture", "vit_giant_patch14_224", "vit_giant_patch14_224 cannot be built"),
    ("muscle_zoo", [], "muscle_zoo=[]"),
    ("muscle_zoo.weights_sha256", 7, "muscle_zoo.weights_sha256=7"),
    ("muscle_zoo.metrics.top1", 84.7, "muscle_zoo.metrics.top1=84.7"),
    ("muscle_zoo.labels", "\x1b[2J", "muscle_zoo.labels"),
    *[(f"muscle_zoo.{part}", value, f"muscle_zoo.{part}=") for part in PARTS for value in ([], [{}], 7, "x", True)],
    *[(f"muscle_zoo.{key}_sha256", value, f"muscle_zoo.{key}_sha256=") for key in HASHES for value in ([], 7, "x")],
    ("muscle_zoo.metrics.n", [360], "muscle_zoo.metrics.n=[360]"),
    ("muscle_zoo.metrics.nll", "0.5", "muscle_zoo.metrics.nll='0.5'"),
    ("muscle_zoo.metrics.ece", {}, "muscle_zoo.metrics.ece={}"),
    ("muscle_zoo.calibration.temperature", "2", "muscle_zoo.calibration.temperature='2'"),
    ("muscle_zoo.calibration.temperature", 0, "muscle_zoo.calibration.temperature=0 is not a number from 0.01"),
    ("muscle_zoo.calibration.why", 7, "muscle_zoo.calibration.why=7"),
    ("muscle_zoo.probe.logits", 7, "muscle_zoo.probe.logits=7"),
    ("muscle_zoo.probe.logits", [[1.0]], "muscle_zoo.probe.logits=[[1.0]]"),
    ("muscle_zoo.probe.logits", ["1"] * 10, "muscle_zoo.probe.logits="),
    ("muscle_zoo.probe.input_sha256", [], "muscle_zoo.probe.input_sha256=[]"),
]


@pytest.mark.parametrize(("path", "value", "says"), FIELDS, ids=lambda v: str(v)[:40] if isinstance(v, str) else "")
def test_a_field_that_cannot_be(path: str, value: Any, says: str, card: Path) -> None:
    change(card, path, value)
    message = refusal(lambda: load(card))
    assert says in message and str(card) in message
    if "is missing" not in says:
        refusal(lambda: muscle_zoo.create_model(f"local-dir:{card}"))


RECIPES = [
    *[(f"recipe.{key}", value) for key in ("options", "options.muscle") for value in ([], [[]], 7, "x", None)],
    *[(f"recipe.{key}", value) for key in ("steps", "name", "version", "labels", "fold") for value in ([], {}, 1.5)],
    ("recipe.unheard_of", 1),
    ("recipe", {}),
    ("metrics", {}),
    ("metrics", None),
    ("probe", None),
    ("versions", []),
    ("git_sha", [1]),
]


@pytest.mark.parametrize(("path", "value"), RECIPES, ids=str)
def test_a_block_that_cannot_be(path: str, value: Any, card: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Loading needs none of it; what does says in one line what is wrong, or does without."""
    change(card, f"muscle_zoo.{path}", value)
    target = f"local-dir:{card}"
    muscle_zoo.create_model(target, pretrained=True)
    for command in ("info", "verify", "eval"):
        code, out, err = run([command, target], capsys)
        assert "Traceback" not in out + err and code in (0, 1, 2)
        if code == 2:
            assert out == "" and err.count("\n") == 1 and str(card) in err
        elif command == "verify":
            assert out.count("\n") == 1  # its run is in no ledger, so it never passes
    if path.startswith("recipe.options"):
        for command in ("info", "eval"):
            code, _, err = run([command, target], capsys)
            assert code == 2 and "block of config.json is damaged" in err and "options" in err


def test_every_field_of_timms_is_known() -> None:
    names = {field.name for field in fields(PretrainedCfg)}
    assert names == set(config._PRETRAINED_CFG) | set(config._WEIGHT_SOURCES)


def test_what_is_not_asked_for_is_ignored(card: Path) -> None:
    for source in config._WEIGHT_SOURCES:
        change(card, f"pretrained_cfg.{source}", "/etc/passwd")
    for path, value in (("color", {"deep": [1]}), ("auto_map", "evil.py"), ("model_args", None), ("muscle_zoo", None)):
        change(card, path, value)
    model = load(card)
    assert model.pretrained_cfg["file"] == str(card / WEIGHTS) and not model.pretrained_cfg["custom_load"]


TEXTS: dict[str, tuple[bytes, str]] = {
    "not UTF-8": (b'{"architecture": "\xff"}', "utf-8"),
    "a key twice": (b'{"architecture": "cnn4", "architecture": "wrn_28_8"}', "'architecture' twice"),
    "NaN": (b'{"a": NaN}', "NaN is not a finite number"),
    "infinity": (b'{"a": 1e999}', "not a finite number"),
    "a huge number": (b'{"a": ' + b"9" * 5000 + b"}", "too large a number"),
    "deep": (b"[" * 100_000 + b"]" * 100_000, "nested too deeply"),
    "deep objects": (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "nested too deeply"),
    "half a character": (b'{"a": "\\ud800"}', "surrogates not allowed"),
    "empty": (b"", "not JSON"),
    "too large": (b" " * (9 << 20), "larger than 8 MiB"),
}


@pytest.mark.parametrize("case", TEXTS)
def test_text_that_is_no_config(case: str, card: Path) -> None:
    text, says = TEXTS[case]
    (card / CONFIG).write_bytes(text)
    assert says in refusal(lambda: load(card))


def test_a_config_that_is_no_file(card: Path) -> None:
    (card / CONFIG).unlink()
    os.mkfifo(card / CONFIG)  # to open it would wait for ever
    assert "it is not a file" in refusal(lambda: load(card))
    (card / CONFIG).unlink()
    (card / CONFIG).mkdir()
    assert "it is not a file" in refusal(lambda: load(card))


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def header(text: bytes, tail: bytes = b"", length: int | None = None) -> bytes:
    return (len(text) if length is None else length).to_bytes(8, "little") + text + tail


ONE = b'{"fc.bias":{"dtype":"F32","shape":[2],"data_offsets":[%d,%d]}}'
FILES: dict[str, bytes] = {
    "empty": b"",
    "10 GB of header": header(b"{}", length=10 * 2**30),
    "all ones": b"\xff" * 64,
    "longer than the file": header(b"{}", length=3),
    "junk": header(b"\x00" * 4096),
    "9 MiB of header": header(b'{"__metadata__":{"a":"' + b"x" * (9 << 20) + b'"}}'),
    "deep": header(b"[" * 200_000),
    "out of range": header(ONE % (0, 80), b"x" * 8),
    "backwards": header(ONE % (8, 0), b"x" * 8),
    "too long for its shape": header(ONE % (0, 16), b"x" * 16),
    "a hole": header(ONE % (8, 16), b"x" * 16),
    "more behind it": header(ONE % (0, 8), b"x" * 80),
    "overflow": header(b'{"a":{"dtype":"F32","shape":[%d,%d],"data_offsets":[0,0]}}' % (2**63, 2)),
    "overlapping": header(ONE[:-1] % (0, 8) + b"," + ONE.replace(b"fc.bias", b"fc.b")[1:] % (0, 8), b"x" * 8),
}


@pytest.mark.parametrize("case", FILES)
def test_a_file_that_is_no_safetensors(case: str, card: Path) -> None:
    (card / WEIGHTS).write_bytes(FILES[case])
    assert "truncated or damaged" in refusal(lambda: load(card))


def test_nothing_is_ever_unpickled(card: Path, tmp_path: Path) -> None:
    touched = tmp_path / "touched"
    bomb = pickle.dumps(Bomb(touched))
    pickle.loads(bomb)
    assert touched.exists(), "the bomb works"
    touched.unlink()
    for name in ("pytorch_model.bin", "model.pth"):
        (card / name).write_bytes(bomb)  # what timm would fall back to
    change(card, "muscle_zoo.weights_sha256", None)
    load(card)
    (card / WEIGHTS).write_bytes(bomb)
    refusal(lambda: load(card))
    torch.save({"state_dict": Bomb(touched)}, card / WEIGHTS)
    assert zipfile.is_zipfile(card / WEIGHTS)
    refusal(lambda: load(card))
    (card / WEIGHTS).unlink()
    assert "is missing" in refusal(lambda: load(card))
    (card / WEIGHTS).mkdir()
    assert "no file" in refusal(lambda: load(card))
    assert not touched.exists()


def test_links_are_followed_as_in_the_hubs_cache(card: Path, tmp_path: Path) -> None:
    for name in (CONFIG, WEIGHTS):
        (card / name).rename(tmp_path / f"blob-{name}")
        (card / name).symlink_to(tmp_path / f"blob-{name}")
    load(card)
    (card / WEIGHTS).unlink()
    (card / WEIGHTS).symlink_to("/dev/zero")
    assert "no file" in refusal(lambda: load(card))


def test_tensors_that_are_not_the_models(card: Path) -> None:
    change(card, "muscle_zoo.weights_sha256", None)
    good = load_file(card / WEIGHTS)
    bias = good["fc.bias"]
    for says, tensors in {
        "lacks the tensor fc.bias": {key: value for key, value in good.items() if key != "fc.bias"},
        "has a tensor '__class__' that the model has not": {**good, "__class__": bias.clone()},
        "the tensor fc.bias is [9]": {**good, "fc.bias": bias[:9].clone()},
        "the tensor fc.bias is I64": {**good, "fc.bias": bias.long()},
        "the tensor fc.bias has values that are not finite": {**good, "fc.bias": bias * float("nan")},
    }.items():
        save_file(tensors, card / WEIGHTS)
        assert says in refusal(lambda: load(card))


def test_memory_stays_bounded(card: Path) -> None:
    """A process of its own: its peak tells."""
    code = """
import json, resource, sys
from pathlib import Path
import muscle_zoo
card = Path(sys.argv[1])
config, tensors = card / "config.json", card / "model.safetensors"
good, weights = json.loads(config.read_text()), tensors.read_bytes()
muscle_zoo.create_model(f"local-dir:{card}", pretrained=True)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
def refused(size=None, **changes):
    if size is None:
        config.write_text(json.dumps({**good, **changes}))
    for pretrained in (True, False):
        try:
            muscle_zoo.create_model(f"local-dir:{card}", pretrained=pretrained)
        except muscle_zoo.WeightsError:
            continue
        raise SystemExit("loaded")
refused(label_names=None, num_classes=10**6, model_args={"num_classes": 10**6, "in_chans": 1})
refused(model_args={"width": 4096})
refused(architecture="wrn_28_8", model_args={"width": 4096, "depth": 1000})
refused(architecture="vit_giant_patch14_224")
tensors.write_bytes((100 << 20).to_bytes(8, "little") + b"[" * (100 << 20))
refused()
tensors.write_bytes(weights)
with config.open("wb") as file:
    file.truncate(1 << 30)
refused(1 << 30)
config.write_text("[" + "{}," * (3 << 20))
refused(9 << 20)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    words = [sys.executable, "-c", code, str(card)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 300  # MiB


def test_eval_opens_no_file_that_a_recipe_names(card: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(*args: object) -> None:
        raise AssertionError("a file that the recipe names was opened")

    monkeypatch.setattr("muscle_zoo.engine.build._read_given", opened)
    change(card, "muscle_zoo.recipe.split", "/etc/passwd")
    assert evaluate_checkpoint(str(card)).reproduced  # the test images do not depend on it
    change(card, "muscle_zoo.recipe.fold", "validation")
    assert "recipe.split='/etc/passwd' names a file" in refusal(lambda: evaluate_checkpoint(str(card)))
    for dataset, says in (
        ("folder", "say which folder (--data my_data)"),
        ("synthetic:3x512x512x10000", "would take"),
        ("synthetic:3x8x8x10", "cannot be evaluated on synthetic:3x8x8x10"),
        ("/etc", "is unknown"),
        ("digits\x1b[2J", "is unknown"),
    ):
        change(card, "muscle_zoo.recipe.dataset", dataset)
        change(card, "muscle_zoo.recipe.fold", "test")
        assert says in refusal(lambda: evaluate_checkpoint(str(card)))
    change(card, "muscle_zoo.recipe.dataset", "digits")
    good = (card / CONFIG).read_text()
    many = "1+" + "9" * 5000
    for path, value in (("steps", 1e9), ("arch", "x" * 10**5), ("classes", many), ("seed", None), ("color", "blue")):
        (card / CONFIG).write_text(good)
        change(card, f"muscle_zoo.recipe.{path}", value)
        assert "muscle_zoo block of config.json is damaged" in refusal(lambda: evaluate_checkpoint(str(card)))
