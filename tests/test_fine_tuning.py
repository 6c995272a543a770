"""Checkpoints on a Hub as plain timm loads them, with its own arguments."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch

import muscle_zoo
from muscle_zoo import registry
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
