"""Releases as others load them: plain transformers and timm, without our package where the architecture is timm's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from muscle_zoo.checkpoints import registry
from muscle_zoo.checkpoints.factory import is_own_architecture

CARDS = registry.shipped_cards()
STOCK = ("tf_efficientnet_lite0.muscle_cifar10_jpeg_250_frozen", "test_resnet.muscle_fashion_mnist_40")
OURS = "cnn4.muscle_digits_10"
# One process for all, for importing transformers takes seconds; our package comes last, for ours.
CODE = """
import json, sys
import numpy as np, timm, torch
from PIL import Image
from torchvision.transforms import Grayscale
from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline
noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8))
def look(folder):
    config = json.load(open(folder + "/config.json"))
    gray = config["pretrained_cfg"]["input_size"][0] == 1
    picture = noise.convert("L") if gray else noise
    plain = timm.create_model("local-dir:" + folder, pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_data_config({}, model=plain))
    model = AutoModelForImageClassification.from_pretrained(folder).eval()
    processor = AutoImageProcessor.from_pretrained(folder)
    classify = pipeline("image-classification", folder, top_k=10)
    if gray:
        classify.image_processor.val_transforms.transforms.insert(0, Grayscale())
    with torch.no_grad():
        expected = plain(transform(picture)[None]).softmax(1)[0]
        auto = model(**processor(picture)).logits.softmax(1)[0]
    names = [model.config.id2label[i] for i in range(10)]
    scores = {row["label"]: row["score"] for row in classify(picture)}
    piped = torch.tensor([scores[name] for name in config["label_names"]])
    assert names == config["label_names"]
    return [float((auto - expected).abs().max()), float((piped - expected).abs().max()), "muscle_zoo" in sys.modules]
*stock, ours = sys.argv[1:]
seen = [look(folder) for folder in stock]
import muscle_zoo
print(json.dumps([*seen, look(ours)]))
"""


@pytest.mark.slow
def test_transformers_gives_the_same_probabilities_as_timm(tmp_path: Path) -> None:
    words = [sys.executable, "-c", CODE, *(str(CARDS / name) for name in (*STOCK, OURS))]
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run(words, env=env, text=True, capture_output=True, timeout=200)
    assert done.returncode == 0, done.stderr[-2000:]
    *stock, ours = json.loads(done.stdout.splitlines()[-1])
    assert all(max(auto, piped) < 1e-5 for auto, piped, _ in (*stock, ours)), (stock, ours)
    assert [with_ours for _, _, with_ours in (*stock, ours)] == [False, False, True]


@pytest.mark.parametrize("card", registry.cards_in(CARDS), ids=lambda card: card.name)
def test_a_config_has_what_transformers_needs(card: Path) -> None:
    config = json.loads((card / "config.json").read_text(encoding="utf-8"))
    assert "num_classes" not in config["model_args"]  # it would be given twice
    assert config["dtype"] == "float32" and config["num_classes"] == len(config["label_names"])
    text = (card / "README.md").read_text(encoding="utf-8")
    assert ("import muscle_zoo  # registers" in text) == is_own_architecture(config["architecture"])
    assert ("Grayscale())" in text) == (config["pretrained_cfg"]["input_size"][0] == 1)


def test_a_run_exports_such_a_config(finished_run: Path) -> None:
    config = json.loads((finished_run / "export" / "config.json").read_text(encoding="utf-8"))
    assert config["dtype"] == "float32" and "num_classes" not in config["model_args"]
    assert config["num_classes"] == config["pretrained_cfg"]["num_classes"] == 10
