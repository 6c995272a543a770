"""Checkpoints on a Hub as plain timm loads them, with its own arguments."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

import muscle_zoo
from muscle_zoo.checkpoints import registry
from tests.hub_server import HubServer
from tests.test_publish import Person, hub, person

__all__ = ["hub", "person"]

STOCK = [
    n for n in registry.checkpoint_names() if timm.model_entrypoint(n.split(".")[0]).__module__.startswith("timm.")
]
LOAD = """
import json, pathlib, sys
if sys.argv[4] == "without":
    sys.modules["muscle_zoo"] = None  # as if it were not installed: importing it raises ImportError
else:
    import muscle_zoo
import timm, torch
name, channels, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
def make(**more):
    return timm.create_model(name, pretrained=True, **more).eval()
x = torch.linspace(-1, 1, 2 * channels * size * size).view(2, channels, size, size)
cache = pathlib.Path("elsewhere")
with torch.no_grad():
    whole = make(cache_dir=cache)
    print(json.dumps({
        "logits": whole(x).tolist(),
        "num_classes": list(make(num_classes=3)(x).shape),
        "head": make(num_classes=0)(x).shape[-1] == whole.num_features,
        # the weights are thirds, in float16
        "in_chans": torch.allclose(make(in_chans=3)(x[:, :1].expand(-1, 3, -1, -1)), whole(x), atol=0.05),
        "features_only": [list(f.shape[:2]) for f in make(features_only=True)(x)],
        "cache_dir": len(list(cache.rglob("model.safetensors"))),
        "overlay": make(pretrained_cfg_overlay={"crop_pct": 0.5}).pretrained_cfg["crop_pct"],
        "labels": whole.pretrained_cfg["label_names"][:1],
        "muscle_zoo": sys.modules.get("muscle_zoo") is not None,
    }))
"""


@pytest.mark.parametrize("name", [*STOCK[:1], "cnn4.muscle_digits_10"])
def test_the_transform_makes_the_channels_that_a_model_takes(name: str) -> None:
    gray = muscle_zoo.create_model(name, pretrained=True).eval()
    colored = muscle_zoo.create_model(name, pretrained=True, in_chans=3).eval()
    picture = Image.fromarray(
        np.random.default_rng(0).integers(0, 256, gray.pretrained_cfg["input_size"][1:], np.uint8)
    )
    images = [muscle_zoo.create_transform(model)(picture) for model in (gray, colored)]
    assert [image.shape[0] for image in images] == [1, 3]
    with torch.no_grad():
        wanted, found = (model(image[None]) for model, image in zip((gray, colored), images, strict=True))
    assert torch.allclose(found, wanted, atol=0.05)  # three times a third of the gray weights, in float16
    features = muscle_zoo.create_model(name, pretrained=True, features_only=True, in_chans=3)
    assert torch.equal(muscle_zoo.create_transform(features)(picture), images[1])


def test_an_rgb_model_made_gray() -> None:
    model = muscle_zoo.create_model("wrn_16_2.muscle_cifar10_jpeg_250", in_chans=1)
    picture = Image.new("RGB", (32, 32), (10, 200, 30))
    assert muscle_zoo.create_transform(model)(picture).shape == (1, 32, 32)


@pytest.mark.parametrize("wrong", [{"num_classes": "3"}, {"in_chans": -1}])
def test_an_argument_that_is_wrong_is_not_the_cards_fault(wrong: dict[str, object]) -> None:
    with pytest.raises(muscle_zoo.InputError, match=r"cnn4 cannot be built with (num|in)_") as caught:
        muscle_zoo.create_model("cnn4.muscle_digits_10", pretrained=True, **wrong)
    assert not isinstance(caught.value, muscle_zoo.WeightsError)


def test_there_is_a_checkpoint_of_an_architecture_of_timms_own() -> None:
    assert STOCK


@pytest.mark.parametrize("name", [*STOCK[:1], "cnn4.muscle_digits_10"])
def test_plain_timm_loads_and_adapts_it(
    name: str, hub: HubServer, person: Callable[..., Person], tmp_path: Path
) -> None:
    without = name in STOCK
    someone = person("author")
    code, _, err = someone.run("publish", name, "--namespace", "owner")
    assert code == 0, err
    info = muscle_zoo.model_info(name)
    channels, size, _ = info.input_size
    words = [f"hf-hub:owner/{name}", str(channels), str(size), "without" if without else "with"]
    out, _ = someone.start(LOAD, *words).communicate(timeout=200)
    found = json.loads(out)
    ours = muscle_zoo.create_model(name, pretrained=True).eval()
    x = torch.linspace(-1, 1, 2 * channels * size * size).view(2, channels, size, size)
    with torch.no_grad():
        torch.testing.assert_close(torch.tensor(found["logits"]), ours(x), rtol=1e-4, atol=1e-3)  # other thread counts
    assert found["num_classes"] == [2, 3]
    assert found["head"] and found["in_chans"]
    assert [shape[0] for shape in found["features_only"]] == [2] * len(found["features_only"])
    assert found["cache_dir"] == 1
    assert found["overlay"] == 0.5
    assert found["labels"] == [info.class_names[0]]
    assert found["muscle_zoo"] is not without
