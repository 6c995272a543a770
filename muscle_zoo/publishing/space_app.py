"""Tells what a picture shows. Run it with `python app.py`, or as a Space of the Hugging Face Hub."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import timm
import torch
from PIL import Image, ImageOps

FOLDER = Path(__file__).resolve().parent / "export"


@cache
def load() -> tuple[Any, Any, list[str]]:
    """The network, what makes its input of a picture, and the names of its classes."""
    model = timm.create_model(f"local-dir:{FOLDER}", pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    return model, transform, json.loads((FOLDER / "config.json").read_text(encoding="utf-8"))["label_names"]


@torch.inference_mode()
def predict(picture: Image.Image | None) -> dict[str, float]:
    """The probability of each class."""
    if picture is None:
        return {}
    model, transform, names = load()
    picture = ImageOps.exif_transpose(picture)
    if picture.has_transparency_data:  # over white, as in training
        layer = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    mode = "L" if model.pretrained_cfg["input_size"][0] == 1 else "RGB"
    probabilities = model(transform(picture.convert(mode))[None]).softmax(dim=1)[0]
    return dict(zip(names, probabilities.tolist(), strict=True))


def main() -> None:
    """Serves the page."""
    import gradio

    inputs = gradio.Image(type="pil", image_mode=None, label="Picture")
    gradio.Interface(predict, inputs, gradio.Label(num_top_classes=5, label="Classes"), flagging_mode="never").launch()


if __name__ == "__main__":
    main()
