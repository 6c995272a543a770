"""Training that begins with weights, and with any architecture of timm's."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

import muscle_zoo
from muscle_zoo import InputError, create_transform, get_recipe, model_info
from muscle_zoo.checkpoints.card import CONFIG_FILE
from muscle_zoo.checkpoints.factory import input_of_recipe, normalization_of
from muscle_zoo.data import DataConfig, dataset_info, load_dataset
from muscle_zoo.engine.build import build_model, prepare_data
from muscle_zoo.engine.run_folder import RunFolder
from muscle_zoo.engine.state import load_state
from muscle_zoo.sessions.train import RunResult
from tests.conftest import run
from tests.test_images import classes_of

NAME = "cnn4.muscle_digits_10"
DIGITS = load_dataset("digits")


def built(**overrides: object) -> dict[str, Tensor]:
    return build_model(get_recipe(NAME, overrides), DIGITS).state_dict()


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> set[str]:
    """The layers whose weights are the same in both."""
    assert a.keys() == b.keys()
    layers = {key.partition(".")[0] for key in a}
    return layers - {key.partition(".")[0] for key in a if a[key].shape != b[key].shape or not a[key].equal(b[key])}


def test_training_begins_with_the_weights_of_init() -> None:
    published = muscle_zoo.create_model(NAME, pretrained=True).state_dict()
    everything = {key.partition(".")[0] for key in published}
    assert same(built(init=NAME), published) == everything
    assert same(built(), published) != everything


def test_a_classifier_of_other_classes_is_drawn_from_the_seed() -> None:
    published = muscle_zoo.create_model(NAME, pretrained=True).state_dict()
    layers = {key.partition(".")[0] for key in published} - {"fc"}
    three = {"init": NAME, "classes": "0+1+2"}
    dataset, _ = muscle_zoo.engine.build.split_of(get_recipe(NAME, three), DIGITS)
    first, again, other = (
        build_model(get_recipe(NAME, {**three, "seed": seed}), dataset).state_dict() for seed in (0, 0, 1)
    )
    assert first["fc.weight"].shape[0] == 3
    assert same(first, published) == layers and same(first, again) == {*layers, "fc"} and same(first, other) == layers


@pytest.mark.parametrize(
    ("init", "says"),
    [
        ("test_resnet.muscle_fashion_mnist_40", "is weights of test_resnet, not cnn4; .* arch=test_resnet"),
        ("cnn4.muscle_digits_11", "init=cnn4.muscle_digits_11 is .*did you mean 'cnn4.muscle_digits_10'"),
        ("cnn4.muscle_digits_3000", "init=.*a recipe without weights"),
        ("cnn4", "init=cnn4: .*is an architecture; name a checkpoint of it: cnn4.muscle_digits_10"),
        (
            "resnet18.a1_in1k",
            "is weights of resnet18, not cnn4; they have .* conv1.weight, cnn4 has layer1.conv.weight",
        ),
        ("local-dir:/nowhere", "init=local-dir:/nowhere: "),
        (
            "weights.pth",
            "weights.pth is a pickle, .*; where you trust it, .*safetensors.*weights_only=True.*config.json",
        ),
        ("local-dir:weights.bin", "weights.bin is a pickle, .*; where you trust it, .*safetensors"),
        ("", "init= is empty"),
        ("tf_efficientnet_lite0.pypy", "init=.*no weights for .*did you mean 'tf_efficientnet_lite0.pypi'"),
        ("resnet18.a1_in1kk", "init=.*no weights for .*did you mean 'resnet18.a1_in1k'"),
        ("no/run/seed0", "no/run/seed0 does not exist; give a run folder"),
    ],
)
def test_what_is_wrong_with_init_is_told(
    init: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(["train", NAME, f"init={init}", "--cpu", "--out", str(tmp_path / "run")], capsys)
    assert code == 2 and not (tmp_path / "run").exists() and not out  # it is not said to start from what is not there
    assert re.search(says, err) and err.count("\n") == 1, err


def test_a_run_goes_on_without_what_it_began_with(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = Path(shutil.copytree(muscle_zoo.checkpoints.registry.shipped_cards() / NAME, tmp_path / "card"))
    words = ["train", NAME, "steps=4", "eval_every=2", f"init=local-dir:{source}", "--cpu", "--save-every", "2"]
    assert run([*words, "--out", str(tmp_path / "whole")], capsys)[0] == 0
    stopped = tmp_path / "stopped"
    assert run([*words, "--out", str(stopped), "--time-limit", "0.000001"], capsys)[0] == 75
    shutil.rmtree(source)
    code, out, _ = run([*words, "--out", str(stopped)], capsys)
    assert code == 0 and out.startswith(f"starts from the weights of local-dir:{source}\n")
    ends = [load_state(RunFolder(tmp_path / name).state_dir) for name in ("whole", "stopped")]
    assert ends[0] and ends[1] and all(ends[0][0]["ema"][key].equal(value) for key, value in ends[1][0]["ema"].items())
    config = json.loads((stopped / "export" / CONFIG_FILE).read_text())
    assert config["muscle_zoo"]["recipe"]["init"] == f"local-dir:{source}"
    assert config["pretrained_cfg"]["license"] == "other"
    card = (stopped / "export" / "README.md").read_text()
    assert "license: other" in card and f"Training began with `local-dir:{source}`, whose licence" in card
    assert f"init=local-dir:{source}" in card and "The weights are Apache-2.0" not in card


def test_a_run_may_begin_with_another_run(
    finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export = finished_run / "export"
    words = ["train", NAME, "steps=1", "--cpu", "--out", str(tmp_path / "run")]
    code, _, err = run([*words, f"init=local-dir:{finished_run}"], capsys)
    assert code == 2 and f"{finished_run / 'config.json'} is missing; give {export}\n" in err
    assert run([*words, f"init={finished_run}"], capsys)[0] == 0
    assert json.loads((tmp_path / "run" / "recipe.json").read_text())["init"] == f"local-dir:{export}"


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    for number in range(8):
        picture = torch.randint(0, 256, (24, 24, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(number))
        classes_of(tmp_path / "mine", {f"{'ab'[number % 2]}/{number}.png": Image.fromarray(picture.numpy())})
    return tmp_path / "mine"


@pytest.mark.parametrize("arch", ["test_convnext", "test_efficientnet"])
def test_any_architecture_of_timms(
    arch: str, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"{arch}.muscle_fixmatch_folder_4", "steps=2", "batch_size=4", "mu=1", "fold=dev", "image_size=32"]
    words += ["--data", str(pictures), "--cpu", "--out", str(tmp_path / "run")]
    assert run(["train", *words], capsys)[0] == 0
    assert run(["eval", str(tmp_path / "run"), "--data", str(pictures)], capsys)[0] == 0


@pytest.mark.parametrize(
    ("arch", "size", "says"),
    [
        ("test_vit", 64, ""),
        ("test_vit", 160, ""),
        (
            "test_vit",
            100,
            "its patches are 16x16, so a side is a multiple of that; give image_size=96 or image_size=112",
        ),
        ("test_vit", 8, "its patches are 16x16, so a side is a multiple of that; give image_size=16, or another arch"),
        (
            "vit_small_patch14_dinov2",
            128,
            "14x14, so a side is a multiple of that; give image_size=126 or image_size=140",
        ),
        ("cnn13", 8, "it takes 12x12 and more; give image_size=12, or another arch"),
        ("convnext_atto", 8, ".*[Kk]ernel.*; give image_size=32, or another arch"),
    ],
)
def test_a_size_that_an_architecture_does_not_take(arch: str, size: int, says: str, pictures: Path) -> None:
    recipe = get_recipe(f"{arch}.muscle_folder_4", {"image_size": size, "fold": "dev"})
    dataset = load_dataset("folder", DataConfig(root=pictures), image_size=size)
    if not says:
        assert build_model(recipe, dataset).training
        return
    with pytest.raises(
        InputError, match=f"arch={arch} does not take the {size}x{size} images of folder: .*{says}"
    ) as caught:
        build_model(recipe, dataset)
    assert "\n" not in str(caught.value)


def test_a_pickle_in_a_folder_is_not_read(tmp_path: Path) -> None:
    source = Path(shutil.copytree(muscle_zoo.checkpoints.registry.shipped_cards() / NAME, tmp_path / "card"))
    (source / "model.safetensors").rename(source / "pytorch_model.bin")
    with pytest.raises(muscle_zoo.WeightsError, match=r"pytorch_model\.bin is a pickle, .*safetensors") as caught:
        built(init=f"local-dir:{source}")
    assert "\n" not in str(caught.value)


def test_images_are_normalized_as_the_weights_were_trained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = Path(shutil.copytree(muscle_zoo.checkpoints.registry.shipped_cards() / NAME, tmp_path / "card"))
    config = json.loads((source / CONFIG_FILE).read_text())
    config["pretrained_cfg"] |= {"mean": [0.25], "std": [0.75]}
    (source / CONFIG_FILE).write_text(json.dumps(config))
    recipe = get_recipe(NAME, {"init": f"local-dir:{source}"})
    data = prepare_data(recipe)
    assert (data.dataset.info.mean, data.dataset.info.std) == ((0.25,), (0.75,))
    assert prepare_data(get_recipe(NAME)).dataset.info == DIGITS.info
    words = ["train", NAME, "steps=2", f"init=local-dir:{source}", "--cpu", "--out", str(tmp_path / "run")]
    assert run(words, capsys)[0] == 0
    assert json.loads((tmp_path / "run" / "normalization.json").read_text()) == {"mean": [0.25], "std": [0.75]}
    exported = json.loads((tmp_path / "run" / "export" / CONFIG_FILE).read_text())
    assert (exported["pretrained_cfg"]["mean"], exported["pretrained_cfg"]["std"]) == ([0.25], [0.75])
    shutil.rmtree(source)
    result = muscle_zoo.evaluate(tmp_path / "run", cpu=True)  # by what config.json says; the weights are gone
    assert result.reproduced and result.metrics == RunResult(recipe, tmp_path / "run", True).metrics
    (tmp_path / "run" / "normalization.json").unlink()
    (tmp_path / "run" / "status.json").write_text(json.dumps({"status": "stopped", "step": 1, "steps": 2}))
    code, _, err = run(words, capsys)
    assert code == 2 and "normalization.json is missing" in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("init", "channels", "mean"),
    [
        ("tf_efficientnet_lite0.pypi", 3, (0.5, 0.5, 0.5)),
        ("vit_small_patch14_dinov2.lvd142m", 3, (0.485, 0.456, 0.406)),
        ("vit_small_patch14_dinov2.lvd142m", 1, (0.449,)),
        (NAME, 3, DIGITS.info.mean * 3),
    ],
)
def test_the_normalization_of_weights_by_name(init: str, channels: int, mean: tuple[float, ...]) -> None:
    info = replace(DIGITS.info, input_size=(channels, 8, 8))
    assert normalization_of(init, info)[0] == pytest.approx(mean)
    assert len(normalization_of(init, info)[1]) == channels


def test_what_is_said_of_a_recipe_is_what_its_network_gets(capsys: pytest.CaptureFixture[str]) -> None:
    """Its size and its weights' normalization, and not the data set's own."""
    name = "tf_efficientnet_lite0.muscle_cifar10_jpeg_1000_frozen"
    code, out, _ = run(["info", name], capsys)
    assert code == 0 and "cut to 192x192" in out and "less mean 0.5, 0.5, 0.5, by deviation 0.5, 0.5, 0.5" in out
    transformed = create_transform(name)(Image.new("RGB", (300, 200), "white"))
    assert transformed.shape == (3, 192, 192) and transformed.eq(1).all()
    assert model_info(name).input_size == (3, 192, 192)
    gray = "tf_efficientnet_lite0.muscle_digits_40_frozen"
    info = prepare_data(get_recipe(gray)).dataset.info
    said = input_of_recipe(gray)
    assert (said.input_size, said.mean, said.std) == (info.input_size, info.mean, info.std) and said.mean == (0.5,)
    plain, own = input_of_recipe("cnn4.muscle_digits_40"), dataset_info("digits")
    assert (plain.input_size, plain.mean, plain.std) == (own.input_size, own.mean, own.std)
