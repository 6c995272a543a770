"""Pictures and cards that would fill the memory, hang, start a program, or say what training did not do."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import muscle_zoo
from muscle_zoo import WeightsError
from muscle_zoo.backbones._cfg import cfg, with_pretrained
from muscle_zoo.checkpoints import registry, weights
from muscle_zoo.checkpoints.card import read_config
from muscle_zoo.checkpoints.hub_errors import explain
from muscle_zoo.data.csv_table import read_table
from muscle_zoo.data.decoding import FORMATS, LONGEST, open_image, open_picture, to_image, upright
from muscle_zoo.data.picture_csv import list_csv
from muscle_zoo.data.picture_files import Found, pictures
from muscle_zoo.files import file_sha256, read_json, read_untrusted_json
from muscle_zoo.publishing.verify import verify
from muscle_zoo.results.ledger import read_ledger
from tests.conftest import run

NAME = "cnn4.muscle_digits_10"
LEDGER = read_ledger(registry.shipped_cards() / registry.LEDGER_FILE)
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def shipped(tmp_path: Path) -> Path:
    """A copy of a published card, to change."""
    return Path(shutil.copytree(registry.shipped_cards() / NAME, tmp_path / "cards" / NAME))


def change(card: Path, how: Callable[[dict[str, Any]], object]) -> None:
    config = json.loads((card / "config.json").read_text(encoding="utf-8"))
    how(config)
    (card / "config.json").write_text(json.dumps(config), encoding="utf-8")


# What config.json says of pictures


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"mean": [10.0]}, "pictures become others"),
        ({"crop_pct": 0.3}, "pictures become others"),
        ({"interpolation": "nearest"}, "pictures become others"),
        ({"crop_mode": "squash"}, "pictures become others"),
        ({"input_size": [1, 32, 32]}, ""),  # the probe and the card tell
        ({"label_names": list("9876543210")}, "its label_names are 9, 8"),
    ],
)
def test_verify_sees_what_predict_would_do(shipped: Path, fields: dict[str, Any], says: str) -> None:
    where = "label_names" in fields
    change(shipped, lambda config: (config if where else config["pretrained_cfg"]).update(fields))
    checks = verify(f"local-dir:{shipped}", LEDGER)
    assert not all(check.passed for check in checks)
    (fault,) = [check for check in checks if check.what == "preprocessing"]
    assert fault.passed == (not says) or fields == {"mean": [10.0]}
    assert says in fault.text or fields == {"mean": [10.0]}


def test_verify_says_that_pictures_cannot_be_made_ready(shipped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_: object) -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr("muscle_zoo.checkpoints.preprocessing.create_transform", lambda _: fails)
    (*_, fault) = [check for check in verify(f"local-dir:{shipped}", LEDGER) if check.what == "preprocessing"]
    assert not fault.passed and "cannot be made ready" in fault.text and fault.text.endswith("division by zero")


@pytest.mark.parametrize("field", ["mean", "std"])
def test_a_gray_card_that_says_no_normalization(shipped: Path, field: str) -> None:
    """timm's own has three numbers."""
    change(shipped, lambda config: config["pretrained_cfg"].pop(field))
    Image.new("L", (9, 9), 90).save(shipped / "x.png")
    (prediction,) = muscle_zoo.predict(f"local-dir:{shipped}", shipped / "x.png")
    assert not prediction.error and prediction.classes
    (fault,) = [check for check in verify(f"local-dir:{shipped}", LEDGER) if check.what == "preprocessing"]
    assert not fault.passed and "pictures become others than in training" in fault.text


def test_every_published_card_says_what_training_did() -> None:
    for card in registry.cards_in(registry.shipped_cards()):
        texts = {check.what: check for check in verify(card.name, LEDGER)}
        assert texts["preprocessing"].passed, texts["preprocessing"].text


def test_eval_says_that_predict_does_otherwise(shipped: Path, capsys: Capture) -> None:
    change(shipped, lambda config: config["pretrained_cfg"].update(crop_pct=0.3))
    code, _, err = run(["eval", f"local-dir:{shipped}", "--cpu"], capsys)
    assert code == 0 and "crop_pct=0.3" in err and "`predict` does not reach these figures" in err


def test_sizes_that_are_huge_together_are_refused(shipped: Path) -> None:
    change(shipped, lambda config: config["pretrained_cfg"].update(input_size=[1, 2048, 2048], crop_pct=0.01))
    with pytest.raises(WeightsError, match="resizes pictures to 204800 pixels, more than 4096"):
        read_config(shipped)
    change(shipped, lambda config: config["pretrained_cfg"].update(crop_pct=0.5))
    assert read_config(shipped)


# Pictures


def test_of_a_very_long_picture_the_middle_is_taken(tmp_path: Path) -> None:
    stripes = np.repeat(np.array([0, 200, 90], np.uint8), 40_000)[None]  # 1 x 120,000: 8 x 960,000 once enlarged
    for name, values in (("wide", stripes), ("high", stripes.T)):
        Image.fromarray(values).save(tmp_path / f"{name}.png")
        picture = open_picture(tmp_path / f"{name}.png", 1)
        assert sorted(picture.size) == [1, LONGEST]
        assert to_image(picture, (1, 8, 8)).unique().tolist() == [200]
    ordinary = Image.fromarray(np.arange(64 * 1000, dtype=np.uint32).astype(np.uint8).reshape(64, 1000))
    ordinary.save(tmp_path / "o.png")
    assert open_picture(tmp_path / "o.png", 1).size == (1000, 64)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_goes_over_white_strip_by_strip(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of it at once would take gigabytes for a file of a few hundred kilobytes; the pixels are the same."""
    noise = np.random.default_rng(0).integers(0, 256, (37, 23, 4), np.uint8)
    picture = Image.fromarray(noise).convert("RGB").quantize(9) if mode == "P" else Image.fromarray(noise).convert(mode)
    if mode == "P":
        picture.info["transparency"] = 3
    layer = picture.convert("RGBA")
    whole = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    monkeypatch.setattr("muscle_zoo.data.decoding._STRIP", 60)
    composed: list[int] = []
    compose = Image.alpha_composite
    monkeypatch.setattr(Image, "alpha_composite", lambda low, high: composed.append(high.height) or compose(low, high))
    assert upright(picture, 3).tobytes() == whole.tobytes()
    assert upright(picture, 1).tobytes() == whole.convert("L").tobytes()
    assert max(composed) == 60 // 23


def test_large_images_are_predicted_few_at_a_time(shipped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A card of 2048x2048 would ask a network for 64 of them at once."""
    change(shipped, lambda config: config["pretrained_cfg"].update(input_size=[1, 16, 16]))
    monkeypatch.setattr("muscle_zoo.sessions.predict._PIXELS", 3 * 16 * 16)
    files = [shipped / f"{i}.png" for i in range(7)]
    for i, file in enumerate(files):
        Image.new("L", (8, 8), 9 * i).save(file)
    model = muscle_zoo.create_model(f"local-dir:{shipped}", pretrained=True)
    sizes: list[int] = []
    model.register_forward_hook(lambda _, images, __: sizes.append(len(images[0])))
    assert [one.file for one in muscle_zoo.predict(model, files)] == list(map(str, files))
    assert sizes == [3, 3, 1]


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    folder = tmp_path / "mine" / "a"
    folder.mkdir(parents=True)
    os.mkfifo(folder / "pipe.png")
    Image.new("L", (8, 8)).save(folder / "good.png")
    return folder / "pipe.png"


def in_time(action: Callable[[], object]) -> object:
    """What an action returns or raises, or a failure where it waits for ever."""
    results: list[object] = []

    def work() -> None:
        try:
            results.append(action())
        except Exception as error:
            results.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(20)
    assert results, "it hangs"
    return results[0]


def test_a_pipe_among_pictures_is_left_out_and_never_opened(pipe: Path, capsys: Capture) -> None:
    found = Found()
    assert in_time(lambda: pictures(pipe.parent, pipe.parent, found)) == ["./good.png"]
    assert "1 pipe, socket or device is left out (./pipe.png)" in next(note.text for note in found.notes())
    assert "a pipe" in str(in_time(lambda: open_image(pipe)))
    assert "pipe" in str(in_time(lambda: read_table(pipe)))
    code, out, err = in_time(lambda: run(["predict", NAME, str(pipe), str(pipe.parent), "--cpu"], capsys))
    assert code == 1 and "good.png" in out and "pipe.png cannot be read (no file" in err


def test_a_pipe_in_the_place_of_a_file_that_is_given(pipe: Path, tmp_path: Path, capsys: Capture) -> None:
    words = ["train", "cnn4.supervised_digits_10", f"split={pipe}", "--cpu", "--out", str(tmp_path / "run")]
    code, _, err = in_time(lambda: run(words, capsys))
    assert code == 2 and f"split={pipe} cannot be read (it is not a file)" in err
    assert "not readable as JSON (it is not a file)" in str(in_time(lambda: read_json(pipe)))
    assert "it is not a file" in str(in_time(lambda: read_untrusted_json(pipe)))


def test_postscript_by_another_name_starts_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not {"EPS", "PDF", "WMF"} & set(FORMATS)
    (tmp_path / "x.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    started: list[object] = []
    monkeypatch.setattr(subprocess, "check_call", lambda *words, **_: started.append(words))
    with pytest.raises(OSError):
        open_picture(tmp_path / "x.jpg", 3)
    assert not started
    for kind in ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "JPEG2000"):
        Image.new("RGB", (9, 9), "red").save(tmp_path / f"x.{kind}", kind)
        assert open_picture(tmp_path / f"x.{kind}", 3).size == (9, 9), kind


def test_pictures_outside_a_tables_folder_are_said(tmp_path: Path) -> None:
    for name in ("a.png", "b.png", "in/c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("L", (8, 8)).save(tmp_path / name)
    table = tmp_path / "in" / "list.csv"
    table.write_text(f"path,label\n../a.png,x\n{tmp_path}/b.png,y\nc.png,x\n")
    texts = [note.text for note in list_csv(table).notes]
    assert any(text.startswith("2 pictures outside ") for text in texts), texts


# Weights


def test_negative_variances_are_damage_and_predictions_are_numbers(shipped: Path, tmp_path: Path) -> None:
    tensors = load_file(shipped / registry.WEIGHTS_FILE)
    key = next(key for key in tensors if key.endswith("running_var"))
    save_file({**tensors, key: -1 - tensors[key]}, shipped / registry.WEIGHTS_FILE)
    sha256 = file_sha256(shipped / registry.WEIGHTS_FILE)
    change(shipped, lambda config: config["muscle_zoo"].update(weights_sha256=sha256))
    with pytest.raises(WeightsError, match="has negative variances; download"):
        muscle_zoo.create_model(f"local-dir:{shipped}", pretrained=True)
    model = muscle_zoo.create_model(NAME, pretrained=True).eval()
    with torch.no_grad():
        model.fc.weight.fill_(torch.inf)
    Image.new("L", (8, 8)).save(tmp_path / "x.png")
    (prediction,) = muscle_zoo.predict(model, tmp_path / "x.png")
    assert prediction.label is None and prediction.error == "the network's logits of it are not finite"


def test_weights_that_transformers_saved_again_are_told(shipped: Path) -> None:
    change(shipped, lambda config: config.update(transformers_version="5.0.0"))
    change(shipped, lambda config: config["muscle_zoo"].update(weights_sha256="1" * 64))
    with pytest.raises(WeightsError, match=r"saved it again: take the block muscle_zoo out of config\.json"):
        weights.resolve(f"local-dir:{shipped}")


# Names that are pinned alone


def pins_of(cards: Path, **pin: str) -> None:
    table = {NAME: {"repo": f"org/{NAME}", "revision": "v1", "sha256": "1" * 64, **pin}}
    (cards / registry.REGISTRY_FILE).write_text(json.dumps({"checkpoints": table}))


def test_a_card_without_weights_does_not_hide_the_pin(shipped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "shipped_cards", lambda: shipped.parent)
    pins_of(shipped.parent)
    assert weights.locate(NAME).folder == shipped
    (shipped / registry.WEIGHTS_FILE).unlink()
    assert weights.locate(NAME) == weights.Location(None, f"org/{NAME}", "v1", "1" * 64)
    tag = NAME.partition(".")[2]
    assert registry.pretrained_cfgs("cnn4")[tag]["hf_hub_id"] == f"org/{NAME}@v1"
    shutil.rmtree(shipped)  # then timm knows the name still, by what it says of its images
    row = registry.pretrained_cfgs("cnn4")[tag]
    assert (row["hf_hub_id"], row["input_size"], row["num_classes"]) == (f"org/{NAME}@v1", (1, 8, 8), 10)
    merged = with_pretrained({"cnn4": cfg(input_size=(1, 8, 8), pool_size=(2, 2))})
    assert list(merged) == [NAME] and merged[NAME]["pool_size"] == (2, 2)
    (shipped.parent / registry.REGISTRY_FILE).write_text("{")  # damage is said by who asks for a name
    assert registry.pretrained_cfgs("cnn4") == {}


def test_writes_of_a_registry_in_a_race_all_arrive(tmp_path: Path) -> None:
    path = tmp_path / "registry.json"
    threads = [threading.Thread(target=registry.register, args=(path, f"name{i}", f"{i:064x}")) for i in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(registry.read_pins(path)) == 40


# Words


def test_names_are_printed_without_a_terminals_commands(tmp_path: Path, capsys: Capture) -> None:
    for place, name in enumerate(("a\x1b[31mred", "b")):
        (tmp_path / "mine" / name).mkdir(parents=True)
        for i in range(4):
            Image.new("L", (8, 8), 9 * i + place).save(tmp_path / "mine" / name / f"{i}.png")
    words = ["data", "show", "folder", "fold=dev", "--data", str(tmp_path / "mine")]
    outputs = [run(words, capsys), run(["eval", "no\x1b[31mname"], capsys)]
    assert [code for code, _, _ in outputs] == [0, 2] and "a?[31mred" in outputs[0][1]
    assert not any("\x1b" in out + err for _, out, err in outputs)


def test_a_download_that_is_refused_needs_no_token_that_writes() -> None:
    error: Any = RuntimeError("403")
    error.response = type("Answer", (), {"status_code": 403})
    assert "that may read it" in explain(error, reading=True)[1]
    assert "that may write to this namespace" in explain(error)[1]


def test_publishing_all_of_nothing_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setattr(registry, "shipped_cards", lambda: tmp_path)
    code, _, err = run(["publish", "--all", "--namespace", "org"], capsys)
    assert code == 2 and f"--all: {tmp_path} holds no checkpoint" in err


def test_a_full_disk_leaves_neither_row_nor_card(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    def full(source: Path, target: Path) -> None:
        raise OSError(28, "No space left on device", str(target))

    monkeypatch.setattr("muscle_zoo.publishing.release._require_named", lambda *_: None)
    monkeypatch.setattr("muscle_zoo.publishing.release.shutil.copyfile", full)
    code, _, err = run(["export", "--card", str(finished_run), "--to", str(tmp_path / "to")], capsys)
    assert code == 1 and "No space left on device" in err and "[(" not in err
    assert not [path.name for path in (tmp_path / "to").iterdir() if path.name != ".lock"]
