"""A notebook for a card's first minutes, made when it is published: only then is it known what its repo is called."""

from __future__ import annotations

import json
from pathlib import Path

from ..checkpoints.card import CONFIG_FILE
from ..checkpoints.factory import is_own_architecture
from ..files import read_json

NOTEBOOK_FILE = "start.ipynb"


def render_notebook(card: Path, repo: str) -> bytes:
    """Renders the notebook of a card: install, load, classify a picture, begin to fine-tune.

    Args:
        card: A folder of hub_cards/.
        repo: ``NAMESPACE/NAME``, from where it loads the weights.

    Returns:
        A notebook without outputs; the same card and repo give the same bytes.

    Example:
        >>> from muscle_zoo.checkpoints.registry import shipped_cards
        >>> content = render_notebook(shipped_cards() / "cnn4.muscle_digits_10", "org/cnn4.muscle_digits_10")
        >>> "hf-hub:org/cnn4.muscle_digits_10" in content.decode()
        True
    """
    config = read_json(card / CONFIG_FILE)
    own = is_own_architecture(config["architecture"])
    package, channels = "muscle_zoo" if own else "timm", config["pretrained_cfg"]["input_size"][0]
    height, width = config["pretrained_cfg"]["input_size"][1:]
    mode = "L" if channels == 1 else "RGB"
    imports = ["import muscle_zoo"] * own + ["import timm", "from PIL import Image"]
    create = f'{package}.create_model("hf-hub:{repo}", pretrained=True'
    title = repo.rpartition("/")[2]
    cells = [
        (
            "markdown",
            f"# {title}\n\nThe first minutes with {repo}; its card says what it is.",
        ),
        ("code", f"%pip install -q {package}"),
        (
            "code",
            "\n".join(imports) + f"\n\nmodel = {create}).eval()\n"
            "transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))",
        ),
        ("markdown", "A picture of your own in the place of the gray one:"),
        ("code", f'picture = Image.new("{mode}", ({width}, {height}), "gray")  # Image.open(FILE).convert("{mode}")'),
        ("code", _CLASSIFY if config.get("num_classes") else _EMBED),
        ("markdown", "Fine-tuning begins with a new head, and early layers that learn slowly:"),
        ("code", f"import timm.optim\nimport torch\n\nmodel = {create}, num_classes=2).train()\n{_FINE_TUNE}"),
    ]
    notebook = {
        "cells": [_cell(number, kind, text) for number, (kind, text) in enumerate(cells)],
        "metadata": {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    return json.dumps(notebook, indent=1, ensure_ascii=False).encode() + b"\n"


_CLASSIFY = """probabilities = model(transform(picture)[None]).softmax(dim=1)[0].tolist()
names = model.pretrained_cfg["label_names"]
for probability, name in sorted(zip(probabilities, names), reverse=True)[:3]:
    print(f"{name}: {probability:.1%}")"""

_EMBED = """features = model(transform(picture)[None])
print(features.shape)"""

_FINE_TUNE = """images = torch.stack([transform(picture)] * 4)  # yours, and their classes
labels = torch.tensor([0, 1, 0, 1])
optimizer = timm.optim.create_optimizer_v2(model, opt="adamw", lr=1e-3, layer_decay=0.7)
for step in range(3):
    loss = torch.nn.functional.cross_entropy(model(images), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
print(f"loss {loss.item():.3f}")"""


def _cell(number: int, kind: str, text: str) -> dict[str, object]:
    cell: dict[str, object] = {"cell_type": kind, "id": f"cell-{number}", "metadata": {}}
    if kind == "code":
        cell |= {"execution_count": None, "outputs": []}
    return cell | {"source": text.splitlines(keepends=True)}
