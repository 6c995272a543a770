"""Any architecture of timm's at any size: trained, exported, loaded by plain timm, converted to ONNX."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import nn

from muscle_zoo import InputError, create_model, create_transform, get_recipe, model_info
from muscle_zoo.checkpoints import weights
from muscle_zoo.checkpoints.architecture import build_arguments, require_fit
from muscle_zoo.checkpoints.factory import load_model
from muscle_zoo.data import DataConfig, DataSetInfo, dataset_info
from muscle_zoo.engine import build
from muscle_zoo.engine.build import build_model, prepare_data
from muscle_zoo.publishing import onnx
from muscle_zoo.publishing.export import _write_weights as write_weights
from muscle_zoo.recipes import Recipe
from muscle_zoo.recipes.defaults import EMBEDDED
from tests.conftest import once, run
from tests.test_images import classes_of

# The smallest of each family, at a size that it was not registered with, and how it pools.
SMALL = [
    ("test_vit", 64, ""),
    ("test_vit", 96, "avg"),
    ("test_vit3", 64, "map"),
    ("test_convnext", 48, ""),
    ("test_resnet", 72, "max"),
    ("test_efficientnet", 40, ""),
    ("tf_efficientnet_lite0", 64, ""),
    ("vit_xsmall_patch16_clip_224", 96, ""),
]
LARGE = [
    ("vit_small_patch14_dinov2", 224, ""),
    ("vit_small_patch14_dinov2", 518, ""),
    ("vit_small_patch14_reg4_dinov2", 126, "avg"),
    ("vit_tiny_patch16_dinov3_qkvb", 224, ""),
    ("vit_small_patch16_dinov3", 224, ""),
    ("vit_base_patch16_siglip_224", 128, ""),
    ("vit_base_patch16_siglip_224", 64, "avg"),
    ("resnet50_clip", 64, ""),
    ("convnext_atto", 224, ""),
    ("resnet18", 224, ""),
]


@pytest.fixture
def shallow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two blocks of a transformer: all that is an architecture's own is in them, and converting twelve takes long."""

    def arguments(recipe: Recipe, info: DataSetInfo) -> dict[str, Any]:
        blocks = {"depth": 2} if "vit" in recipe.arch else {}
        return build_arguments(recipe, info) | blocks

    monkeypatch.setattr(build, "build_arguments", arguments)


def pictures(root: Path) -> None:
    for number in range(8):
        random = np.random.default_rng(number)
        picture = random.integers(0, 256, (24, 24, 3), np.uint8)
        classes_of(root, {f"{'ab'[number % 2]}/{number}.png": Image.fromarray(picture)})


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return once(tmp_path_factory, "small_pictures", pictures)


def check_export(export: Path, size: int, pool: str) -> None:
    """Plain timm gives our logits, bit for bit, and so does ONNX, nearly, whatever the number of images."""
    config = json.loads((export / "config.json").read_text())
    assert config["pretrained_cfg"]["input_size"] == [3, size, size]
    assert not pool or config["model_args"]["global_pool"] == pool
    checkpoint = weights.from_folder(export)
    plain, ours = timm.create_model(f"local-dir:{export}", pretrained=True), load_model(checkpoint)
    images = torch.linspace(-2, 2, 3 * 3 * size * size).view(3, 3, size, size)
    with torch.no_grad():
        logits = ours.eval()(images)
        assert plain.eval()(images).equal(logits) and logits.std() > 0
    facts = onnx.describe(checkpoint)
    batches = onnx.probes(facts)
    assert [len(batch) for batch in batches] == [1, 2, 7]
    if all(find_spec(package) for package in onnx.PACKAGES):  # an extra; what comes before needs none of it
        assert onnx.compare(ours, onnx.convert(ours, facts["input_size"], facts), batches) <= onnx.TOLERANCE


@pytest.mark.usefixtures("shallow")
@pytest.mark.parametrize(("arch", "size", "pool"), SMALL)
def test_trained_exported_loaded_by_timm_and_converted(
    arch: str, size: int, pool: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", f"{arch}.supervised_folder_4", "steps=1", "batch_size=2", "fold=dev", f"image_size={size}"]
    words += [f"global_pool={pool}"] * bool(pool) + ["ema_decay=0.5", "weak=none"]
    words += [f"init={EMBEDDED.get(arch)}"] * (arch in EMBEDDED)  # random, its float32 logits differ from its float64's
    code, _, err = run([*words, "--data", str(folder), "--cpu", "--out", str(tmp_path / "run")], capsys)
    assert code == 0, err
    check_export(tmp_path / "run" / "export", size, pool)


@pytest.mark.slow
@pytest.mark.usefixtures("shallow")
@pytest.mark.parametrize(("arch", "size", "pool"), LARGE)
def test_large_ones_are_exported_loaded_by_timm_and_converted(
    arch: str, size: int, pool: str, folder: Path, tmp_path: Path
) -> None:
    recipe = get_recipe(
        f"{arch}.supervised_folder_4", {"image_size": size, "fold": "dev", "batch_size": 2, "global_pool": pool}
    )
    data = prepare_data(recipe, DataConfig(folder))
    model = build_model(recipe, data.dataset)
    model(torch.randn(2, 3, size, size)).square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.get_classifier().parameters())
    write_weights(model, model.state_dict(), recipe, data, 0, tmp_path)
    check_export(tmp_path, size, pool)


def built(arch: str, size: int, pool: str = "") -> nn.Module:
    info = replace(dataset_info("cifar10"), input_size=(3, size, size))
    recipe = get_recipe(f"{arch}.supervised_cifar10_40", {"global_pool": pool})
    model = timm.create_model(arch, **build_arguments(recipe, info))
    require_fit(model, recipe, info)
    return model


@pytest.mark.parametrize(
    ("arch", "size"),
    [("test_vit", 1024), ("test_convnext", 1024), ("test_maxvit", 64), ("swin_tiny_patch4_window7_224", 256)],
)
def test_sizes_up_to_1024_and_windows(arch: str, size: int) -> None:
    assert built(arch, size).training


def test_tokens_before_the_patches_are_left_out_of_the_average() -> None:
    """Of a ViT with a class token and registers: the average is over the patches, and the norm comes before it."""
    model = built("vit_small_patch14_reg4_dinov2", 56, "avg").eval()
    assert model.num_prefix_tokens == 5 and model.pos_embed.shape == (1, 16, 384)
    assert not isinstance(model.norm, nn.Identity) and isinstance(model.fc_norm, nn.Identity)
    with torch.no_grad():
        tokens = model.forward_features(torch.randn(2, 3, 56, 56))
        assert tokens.shape == (2, 21, 384)
        expected = model.head(tokens[:, 5:].mean(dim=1))
        assert torch.allclose(model.forward_head(tokens), expected, atol=1e-5)


@pytest.mark.usefixtures("shallow")
@pytest.mark.parametrize("arch", ["vit_small_patch14_reg4_dinov2", "vit_xsmall_patch16_clip_224", "test_vit3"])
def test_weights_of_one_size_start_another_with_their_positions_resampled(
    arch: str, folder: Path, tmp_path: Path
) -> None:
    recipe = get_recipe(f"{arch}.supervised_folder_4", {"image_size": 112, "fold": "dev"})
    data = prepare_data(recipe, DataConfig(folder))
    before = build_model(recipe, data.dataset)
    write_weights(before, before.state_dict(), recipe, data, 0, tmp_path)
    other = get_recipe(
        f"{arch}.supervised_folder_4", {"image_size": 224, "fold": "dev", "init": f"local-dir:{tmp_path}"}
    )
    after = build_model(other, prepare_data(other, DataConfig(folder)).dataset)
    old, new = before.state_dict(), after.state_dict()
    assert {name for name in old if old[name].shape != new[name].shape} == {"pos_embed"}
    assert all(old[name].equal(new[name]) for name in old if name != "pos_embed")
    embedded = 0 if getattr(before, "no_embed_class", False) else before.num_prefix_tokens
    side = 112 // before.patch_embed.patch_size[0]
    grid = old["pos_embed"][:, embedded:].view(1, side, side, -1).permute(0, 3, 1, 2)
    resized = nn.functional.interpolate(grid, scale_factor=2, mode="bicubic", antialias=True)
    assert torch.allclose(new["pos_embed"][:, embedded:], resized.permute(0, 2, 3, 1).flatten(1, 2), atol=1e-5)
    assert new["pos_embed"][:, :embedded].equal(old["pos_embed"][:, :embedded])


@pytest.mark.parametrize(
    ("arch", "size", "pool", "says"),
    [
        ("vit_small_patch14_dinov2", 100, "", "its patches are 14x14, .*; give image_size=98 or image_size=112, or"),
        ("vit_small_patch16_dinov3", 230, "", "its patches are 16x16, .*; give image_size=224 or image_size=240, or"),
        ("vit_small_patch14_dinov2", 1020, "", "; give image_size=1008 or image_size=1022, or"),
        ("test_vit3", 64, "token", "global_pool=token does not go with arch=test_vit3 \\(.*class token"),
        ("test_resnet", 64, "mean", "global_pool=mean does not go with arch=test_resnet \\(.*mean"),
        ("test_maxvit", 100, "", "give image_size=96 or image_size=128, or"),
    ],
)
def test_what_cannot_be_is_one_line_with_the_remedy(arch: str, size: int, pool: str, says: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        built(arch, size, pool)
    assert "\n" not in str(caught.value)


def test_weights_that_pool_otherwise_are_told(folder: Path, tmp_path: Path) -> None:
    settings = {"image_size": 32, "fold": "dev"}
    recipe = get_recipe("test_vit.supervised_folder_4", {**settings, "global_pool": "avg"})
    data = prepare_data(recipe, DataConfig(folder))
    model = build_model(recipe, data.dataset)
    write_weights(model, model.state_dict(), recipe, data, 0, tmp_path)
    settings["init"] = f"local-dir:{tmp_path}"
    with pytest.raises(
        InputError, match=r"init=local-dir:.*: their global_pool is avg, .*'s is token; give global_pool=avg$"
    ):
        build_model(get_recipe("test_vit.supervised_folder_4", settings), data.dataset)
    again = build_model(get_recipe("test_vit.supervised_folder_4", {**settings, "global_pool": "avg"}), data.dataset)
    assert all(value.equal(model.state_dict()[name]) for name, value in again.state_dict().items())


@pytest.mark.parametrize(
    ("name", "side"),
    [
        ("vit_small_patch14_dinov2.muscle_cifar10_jpeg_40_frozen", 196),  # the multiple of 14 next to 192
        ("vit_small_patch14_dinov2.simclr_digits_10_finetuned", 70),
        ("vit_tiny_patch16_224.muscle_cifar10_40", 32),
        ("vit_tiny_patch16_224.muscle_cifar10_40_finetuned", 192),
    ],
)
def test_a_name_without_weights_is_built_as_its_recipe_is(name: str, side: int) -> None:
    with torch.device("meta"):
        model = create_model(name)
    info = model_info(name)
    assert model.patch_embed.img_size == (side, side) and info.input_size[1:] == (side, side)  # type: ignore[union-attr]
    recipe = get_recipe(name)
    arguments = build_arguments(recipe, replace(dataset_info(recipe.dataset), input_size=info.input_size))
    with torch.device("meta"):
        trained = timm.create_model(recipe.arch, **arguments)
    shapes = [{key: value.shape for key, value in net.state_dict().items()} for net in (model, trained)]
    assert shapes[0] == shapes[1]
    assert info.parameters == sum(parameter.numel() for parameter in trained.parameters())


def test_a_callers_size_is_the_transforms_too() -> None:
    with torch.device("meta"):
        model = create_model("vit_tiny_patch16_224.muscle_cifar10_40_frozen", img_size=96, in_chans=1)
    assert create_transform(model)(Image.new("RGB", (200, 100))).shape == (1, 96, 96)
    with pytest.raises(InputError, match=r"8x8 images of digits: its patches are 16x16, .*give image_size=16"):
        create_model("vit_tiny_patch16_224.muscle_digits_10")
