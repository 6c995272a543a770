from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors import safe_open

import muscle_zoo
from muscle_zoo import InputError, WeightsError
from muscle_zoo.checkpoints import registry, weights
from muscle_zoo.checkpoints.card import read_config
from muscle_zoo.data import load_dataset, normalize
from muscle_zoo.publishing import ledger_row
from muscle_zoo.publishing.export import pack_safetensors, probe

NAME = "cnn4.muscle_digits_10"


def digits() -> torch.Tensor:
    data = load_dataset("digits")
    return normalize(data.test.images[:50], data.info)


@torch.inference_mode()
def logits(model: torch.nn.Module) -> torch.Tensor:
    return model.eval()(digits())


def test_timm_loads_a_run_bit_identically(finished_run: Path) -> None:
    export = f"local-dir:{finished_run / 'export'}"
    ours, timms = muscle_zoo.create_model(export, pretrained=True), timm.create_model(export, pretrained=True)
    assert logits(ours).equal(logits(timms))


def test_the_exported_weights_are_the_averaged_ones_of_the_last_step(finished_run: Path) -> None:
    from muscle_zoo.engine.state import load_state

    loaded = load_state(finished_run / "state")
    assert loaded is not None and loaded[1]["step"] == 24
    model = muscle_zoo.create_model(f"local-dir:{finished_run / 'export'}", pretrained=True)
    config = json.loads((finished_run / "export" / "config.json").read_text())
    temperature = config["muscle_zoo"]["calibration"]["temperature"]
    assert temperature > 1
    for key, value in model.state_dict().items():
        uncalibrated = temperature * value if key.startswith("fc.") else value  # it is in the classifier alone
        assert uncalibrated.allclose(loaded[0]["ema"][key], rtol=1e-3, atol=1e-6), key
        if "running" in key:
            assert value.equal(loaded[0]["ema"][key]), key  # BatchNorm's buffers stay float32
    assert any(not value.equal(loaded[0]["model"][key]) for key, value in loaded[0]["ema"].items())


def test_the_export_says_what_it_is(finished_run: Path) -> None:
    export = finished_run / "export"
    assert {path.name for path in export.iterdir()} == {
        "README.md",
        "config.json",
        "model.safetensors",
        "split.json",
        "curves.png",
    }
    config = json.loads((export / "config.json").read_text())
    block = config["muscle_zoo"]
    assert set(block) == {
        *("schema", "name", "method", "dataset", "labels", "seed", "split_sha256", "recipe", "recipe_sha256", "step"),
        *("metrics", "calibration", "weights_sha256", "probe", "git_sha", "versions", "device", "hours"),
    }
    split = json.loads((export / "split.json").read_text())
    assert split["sha256"] == block["split_sha256"] and len(split["labelled"]) == 10
    with safe_open(export / "model.safetensors", framework="pt") as file:
        metadata = file.metadata()
    assert metadata == {"format": "pt", "name": NAME, "step": "24", "split_sha256": split["sha256"]}
    model = muscle_zoo.create_model(f"local-dir:{export}", pretrained=True).eval()
    assert probe(model, load_dataset("digits").info)["logits"] == pytest.approx(block["probe"]["logits"], abs=1e-5)
    assert config["label_names"] == list("0123456789")


def test_packing_gives_the_same_bytes_for_the_same_content(tmp_path: Path) -> None:
    tensors = {"a": torch.arange(6.0).view(2, 3).t(), "b": torch.ones(3, dtype=torch.float16)}
    metadata = {"format": "pt", "name": "x", "step": "1", "split_sha256": "y", "more": "z"}
    packed = {pack_safetensors(tensors, metadata) for _ in range(20)}
    assert len(packed) == 1
    path = tmp_path / "x.safetensors"
    path.write_bytes(packed.pop())
    with safe_open(path, framework="pt") as file:
        assert file.metadata() == metadata
        assert all(file.get_tensor(key).equal(value) for key, value in tensors.items())


def test_the_shipped_checkpoint_loads_by_both_names() -> None:
    assert NAME in muscle_zoo.list_models(pretrained=True)
    ours, timms = muscle_zoo.create_model(NAME, pretrained=True), timm.create_model(NAME, pretrained=True)
    assert logits(ours).equal(logits(timms))
    config = read_config(registry.shipped_cards() / NAME)
    data = load_dataset("digits")
    expected = config["muscle_zoo"]["probe"]["logits"]
    assert probe(ours.eval(), data.info)["logits"] == pytest.approx(expected, abs=1e-4)
    assert ours.pretrained_cfg["label_names"] == timms.pretrained_cfg["label_names"] == list("0123456789")


def test_the_transform_is_what_the_evaluation_does() -> None:
    data = load_dataset("digits")
    transform = muscle_zoo.create_transform(NAME)
    for image in data.test.images[:5]:
        picture = Image.fromarray(image[0].numpy())
        expected = normalize(image[None], data.info)[0]
        assert transform(picture).allclose(expected, atol=1e-6)
        assert transform(picture.convert("RGB")).allclose(expected, atol=1e-6)
    for model in (muscle_zoo.create_model(NAME, pretrained=True), muscle_zoo.create_model(NAME)):
        assert muscle_zoo.create_transform(model)(picture).allclose(expected, atol=1e-6)
    assert muscle_zoo.create_transform("cnn4.fixmatch_digits_30")(picture).allclose(expected, atol=1e-6)
    large = Image.fromarray(np.kron(data.test.images[0, 0].numpy(), np.ones((4, 4), dtype=np.uint8)))
    assert transform(large).shape == (1, 8, 8)


def test_models_adapt_as_in_timm() -> None:
    for create in (muscle_zoo.create_model, timm.create_model):
        assert create(NAME, pretrained=True, num_classes=3)(digits()).shape == (50, 3)
        assert create(NAME, pretrained=True, num_classes=0)(digits()).ndim == 2
        assert create(NAME, pretrained=True, in_chans=3)(digits().repeat(1, 3, 1, 1)).shape == (50, 10)
        features = create(NAME, pretrained=True, features_only=True)
        assert len(features(digits())) == len(features.feature_info.channels())
    body, head = (
        muscle_zoo.create_model(NAME, pretrained=True),
        muscle_zoo.create_model(NAME, pretrained=True, num_classes=3),
    )
    name = body.get_classifier(name_only=True)
    for key, value in head.state_dict().items():
        assert key.startswith(name) or value.equal(body.state_dict()[key]), key


def test_without_weights_a_name_gives_its_architecture() -> None:
    torch.manual_seed(0)
    model = muscle_zoo.create_model(NAME)
    assert model(digits()).shape == (50, 10)
    assert not logits(model).equal(logits(muscle_zoo.create_model(NAME, pretrained=True)))
    assert muscle_zoo.create_model("wrn_16_2.fixmatch_digits_40").in_chans == 1
    assert muscle_zoo.create_model("resnet18", num_classes=7).num_classes == 7


def test_model_info() -> None:
    info = muscle_zoo.model_info(NAME)
    assert (info.arch, info.method, info.dataset, info.labels, info.pretrained) == (
        "cnn4",
        "muscle",
        "digits",
        10,
        True,
    )
    assert info.top1 is not None and 0.5 < info.top1 < 1
    plain = muscle_zoo.model_info("cnn4.fixmatch_digits_30")
    assert (plain.pretrained, plain.top1, plain.sha256) == (False, None, None)


def damage_truncate(card: Path) -> None:
    weights = card / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def damage_altered(card: Path) -> None:
    weights = card / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-5] ^= 1
    weights.write_bytes(bytes(content))


def damage_garbage(card: Path) -> None:
    (card / "model.safetensors").write_bytes(b"\x80\x04K\x01." * 50)


def damage_no_weights(card: Path) -> None:
    (card / "model.safetensors").unlink()


def damage_config(card: Path) -> None:
    (card / "config.json").write_text("{not json")


def damage_list(card: Path) -> None:
    (card / "config.json").write_text("[]")


def damage_no_config(card: Path) -> None:
    (card / "config.json").unlink()


def damage_arch(card: Path) -> None:
    config = json.loads((card / "config.json").read_text())
    (card / "config.json").write_text(json.dumps({**config, "architecture": "cnn44"}))


def damage_other_arch(card: Path) -> None:
    config = json.loads((card / "config.json").read_text())
    (card / "config.json").write_text(json.dumps({**config, "architecture": "wrn_16_2"}))


def test_a_config_cannot_point_elsewhere(card: Path) -> None:
    config = json.loads((card / "config.json").read_text())
    config["pretrained_cfg"] |= {"url": "https://nowhere.invalid/x.pth", "file": "/etc/passwd", "custom_load": True}
    (card / "config.json").write_text(json.dumps(config))
    expected = config["muscle_zoo"]["probe"]["logits"]
    model = muscle_zoo.create_model(f"local-dir:{card}", pretrained=True).eval()
    assert probe(model, load_dataset("digits").info)["logits"] == pytest.approx(expected, abs=1e-5)


def damage_unknown_key(card: Path) -> None:
    config = json.loads((card / "config.json").read_text())
    config["pretrained_cfg"]["color"] = "blue"
    (card / "config.json").write_text(json.dumps(config))


DAMAGE = {
    damage_truncate: "truncated or damaged",
    damage_altered: "was promised",
    damage_garbage: "truncated or damaged",
    damage_no_weights: "is missing",
    damage_config: "not JSON",
    damage_list: "architecture",
    damage_no_config: "is missing",
    damage_arch: "'cnn4'",
    damage_other_arch: "cannot be built",
    damage_unknown_key: "cannot be built",
}


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda f: f.__name__)
def test_a_damaged_card_never_loads(damage, card: Path) -> None:
    damage(card)
    with pytest.raises(WeightsError, match=DAMAGE[damage]) as caught:
        muscle_zoo.create_model(f"local-dir:{card}", pretrained=True)
    assert "card" in str(caught.value) and "\n" not in str(caught.value)


def test_an_own_hub_folder_comes_first(card: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = card.parent / "hub"
    shutil.copytree(card, hub / NAME)
    shutil.copytree(card, hub / "cnn4.muscle_digits_10_mine")
    monkeypatch.setenv("MUSCLE_ZOO_HUB", str(hub))
    own = muscle_zoo.create_model(NAME, pretrained=True)
    assert logits(own).equal(logits(muscle_zoo.create_model(f"local-dir:{card}", pretrained=True)))
    assert "cnn4.muscle_digits_10_mine" in muscle_zoo.list_models(pretrained=True)
    monkeypatch.delenv("MUSCLE_ZOO_HUB")
    assert not logits(own).equal(logits(muscle_zoo.create_model(NAME, pretrained=True)))


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("cnn4.muscle_digits_11", "did you mean 'cnn4.muscle_digits_10'"),
        ("cnn4", "cnn4.muscle_digits_10"),
        ("cnn4.muscle_digits_10@v1", "names no repo of it .* write hf-hub:ORG/cnn4.muscle_digits_10"),
        ("resnet50.fixmatch_imagenet_1pct", "is a recipe without weights; train it"),
        ("hf-hub:cnn4.muscle_digits_10", "not a repo.s name; write hf-hub:ORG/NAME"),
        ("local-dir:/nowhere", "not a folder"),
        ("../cnn4.muscle_digits_10", "no weights"),
        ("hf-hub:no/such/repo", "not a repo.s name; write hf-hub:ORG/NAME"),
    ],
)
def test_no_weights_is_an_error_that_names_the_remedy(name: str, says: str) -> None:
    with pytest.raises(WeightsError, match=says) as caught:
        muscle_zoo.create_model(name, pretrained=True)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("pretrained", [True, False])
@pytest.mark.parametrize("name", [NAME, "cnn4", "cnn4.supervised_digits_11"])
def test_an_argument_that_the_architecture_has_not_is_named(name: str, pretrained: bool) -> None:
    says = "num_clases=3: cnn4 takes no such argument; did you mean 'num_classes'"
    with pytest.raises(InputError, match=says if name == NAME or not pretrained else "cnn4"):
        muscle_zoo.create_model(name, pretrained=pretrained, num_clases=3)


def test_offline_is_said_to_be_the_network() -> None:
    with pytest.raises(
        muscle_zoo.DownloadError,
        match=r"hf-hub:nobody/nothing, config.json: it is not in the cache, and HF_HUB_OFFLINE",
    ):
        muscle_zoo.create_model("hf-hub:nobody/nothing", pretrained=True)


def test_an_own_hub_folder_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUSCLE_ZOO_HUB", "/nowhere/at/all")
    with pytest.raises(muscle_zoo.InputError, match="MUSCLE_ZOO_HUB=/nowhere/at/all"):
        muscle_zoo.create_model(NAME, pretrained=True)


IMPORTED = """
import sys, timm
before = set(sys.modules)  # timm itself imports wandb where it is installed
import muscle_zoo
print(*set(sys.modules) - before)
timm.create_model(sys.argv[1], pretrained=True)
"""


def test_importing_brings_nothing_slow_and_a_damaged_card_does_not_break_it_nor_give_way_to_another(card: Path) -> None:
    damage_unknown_key(card)
    hub = card.parent / "hub"
    shutil.copytree(card, hub / NAME)
    words, environment = [sys.executable, "-c", IMPORTED, NAME], {**os.environ, "MUSCLE_ZOO_HUB": str(hub)}
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=environment)
    brought = set(done.stdout.split())
    assert "muscle_zoo.checkpoints.registry" in brought
    assert not brought & {"accelerate", "matplotlib", "scipy", "tensorboard", "torchvision.transforms.v2", "wandb"}
    assert done.returncode == 1 and "Invalid pretrained tag" in done.stderr


def test_shipped_weights_are_compared_with_the_registry(card: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = card.parent / "cards"
    shutil.copytree(card, root / NAME)
    table = {"checkpoints": {NAME: {"repo": None, "revision": None, "sha256": "0" * 64}}}
    (root / "registry.json").write_text(json.dumps(table))
    monkeypatch.setattr(registry, "shipped_cards", lambda: root)
    with pytest.raises(WeightsError, match="was promised"):
        muscle_zoo.create_model(NAME, pretrained=True)
    (root / "registry.json").write_text("[")
    with pytest.raises(muscle_zoo.InputError, match="damaged"):
        muscle_zoo.create_model(NAME, pretrained=True)


def test_a_pin_promises_a_hash_at_its_own_revision_only(monkeypatch: pytest.MonkeyPatch) -> None:
    pin = {"repo": "owner/x", "revision": "abc", "sha256": "1" * 64}
    monkeypatch.setattr(registry, "pinned", lambda: {NAME: pin})
    names = ((NAME, "hub"), (f"{NAME}@abc", None), (f"{NAME}@v2", None), (f"{NAME}@v2", "hub"))
    places = [weights.locate(name, source) for name, source in names]
    assert [(place.repo, place.revision, place.sha256) for place in places] == [
        *[("owner/x", "abc", "1" * 64)] * 2,
        *[("owner/x", "v2", None)] * 2,
    ]
    with pytest.raises(WeightsError, match=r"'\.\./v2' is not a revision"):
        weights.locate(f"{NAME}@../v2")


def test_the_code_of_a_run_is_named_by_its_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*words: str) -> str:
        who = ("-c", "user.name=x", "-c", "user.email=x@x", "-c", "commit.gpgsign=false")
        return subprocess.run(["git", *who, *words], cwd=tmp_path, check=True, capture_output=True, text=True).stdout

    code = tmp_path / "muscle_zoo" / "publishing" / "ledger_row.py"
    code.parent.mkdir(parents=True)
    for path in (code, tmp_path / "README.md"):
        path.write_text("one")
    monkeypatch.setattr(ledger_row, "__file__", str(code))
    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "one")
    commit = git("rev-parse", "HEAD").strip()
    (tmp_path / "README.md").write_text("two")  # no code
    (code.parent / "new.py").write_text("")  # not committed, but nothing that was is another
    assert ledger_row.git_sha() == commit
    code.write_text("two")
    assert ledger_row.git_sha() == f"{commit}-dirty"
    monkeypatch.setattr(ledger_row, "__file__", str(tmp_path / "site" / "muscle_zoo" / "publishing" / "ledger_row.py"))
    (tmp_path / "site" / "muscle_zoo" / "publishing").mkdir(parents=True)
    assert ledger_row.git_sha() == ""  # installed below some other repository
