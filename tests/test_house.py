"""The rules of the house that a machine can check."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "muscle_zoo"
FILES = sorted(PACKAGE.rglob("*.py"))

# Rooms from left to right: each imports only from those before it.
ORDER = ["errors", "files", "losses", "methods", "recipes", "results", "data", "checkpoints", "backbones", "engine"]
ORDER += ["bench", "publishing", "sessions", "api", "commands", "cli", "__main__"]


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_rooms(path: Path) -> set[str]:
    rooms = set()
    depth = len(path.relative_to(PACKAGE).parts)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.ImportFrom):
            continue
        module = node.module or ""
        if node.level == 0 and module.partition(".")[0] == "muscle_zoo":
            names = [module.removeprefix("muscle_zoo").lstrip(".")] if "." in module else [a.name for a in node.names]
        elif node.level == depth:
            names = [module] if module else [alias.name for alias in node.names]
        else:
            continue
        rooms |= {name.partition(".")[0] for name in names}
    return rooms - {"__version__"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_rooms_import_only_to_the_left(path: Path) -> None:
    if path == PACKAGE / "__init__.py":
        return
    here = ORDER.index(room(path))
    for other in imported_rooms(path):
        assert ORDER.index(other) <= here, f"{path} imports {other}"


def test_files_are_short() -> None:
    long = {
        path: len(path.read_text(encoding="utf-8").splitlines()) for path in [*FILES, *(ROOT / "tests").glob("*.py")]
    }
    assert {path: lines for path, lines in long.items() if lines > 400} == {}


def test_the_readme_shows_the_house_as_it_is() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    house = text[text.index("## The house") : text.index("A run folder holds")]
    shown = set(re.findall(r"[\w/]+\.py|\w+/", house))
    for path in PACKAGE.iterdir():
        if path.suffix == ".py" and not path.name.startswith("_"):
            assert path.name in shown, f"{path.name} is not in the README's picture"
        if path.is_dir() and not path.name.startswith("_") and path.name != "hub_cards":
            assert f"{path.name}/" in shown, f"{path.name}/ is not in the README's picture"
    for room in ("backbones", "data", "engine", "losses"):
        for path in (PACKAGE / room).glob("[!_]*.py"):
            assert path.name in shown, f"{room}/{path.name} is not in the README's picture"
    for word in shown:
        if word.endswith(".py"):
            assert (ROOT / word).exists() or list(PACKAGE.rglob(word)), f"{word} of the README's picture does not exist"


def test_the_top_level_is_fixed() -> None:
    allowed = {"pyproject.toml", "README.md", "LICENSE", "muscle_zoo", "hub_cards", "train.py", "eval.py", "tests"}
    ignored = {"runs", "data", "dist", "build"}
    found = {path.name for path in ROOT.iterdir() if not path.name.startswith(".")}
    assert {name for name in found - allowed - ignored if not name.endswith(".egg-info")} == set()


def test_the_readmes_python_runs() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    import numpy as np
    import torch
    from PIL import Image
    from torch.nn.functional import cross_entropy

    x = torch.randn(4, 1, 8, 8)
    names = {
        "picture": Image.fromarray(np.zeros((8, 8), dtype=np.uint8)),
        "cross_entropy": cross_entropy,
        "x": x,
        "u": x,
        "y": torch.tensor([0, 1, 2, 3]),
        "weak": lambda images: images,
        "strong": lambda images: images.flip(3),
    }
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.S)
    assert len(blocks) == 2
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)
    assert names["probabilities"].shape == (1, 10)
    assert names["loss"].requires_grad
