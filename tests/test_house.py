"""The rules of the house that a machine can check."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from muscle_zoo.cli import COMMANDS
from muscle_zoo.methods import METHODS, Muscle, method_names

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "muscle_zoo"
FILES = sorted(PACKAGE.rglob("*.py"))

# Rooms from left to right: each imports only from those before it.
ORDER = ["errors", "files", "losses", "methods", "recipes", "results", "data", "checkpoints", "backbones", "engine"]
ORDER += ["bench", "publishing", "sessions", "auto", "api", "commands", "cli", "__main__"]


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


def picture() -> dict[str, str]:
    """What CONTRIBUTING.md's picture of the house says of each room and each file beside the rooms."""
    text = (ROOT / ".github" / "CONTRIBUTING.md").read_text(encoding="utf-8")
    inside = text[text.index("    muscle_zoo/\n") : text.index("    tests/\n")]
    lines: dict[str, str] = {}
    name = ""
    for line in inside.splitlines()[1:]:
        if match := re.match(r" {6}(\S+)(.*)", line):
            name, line = match[1], match[2]
        lines[name] = lines.get(name, "") + line
    return lines


def test_the_picture_shows_the_house_as_it_is() -> None:
    inside = [path for path in PACKAGE.iterdir() if not path.name.startswith("_") and path.name != "hub_cards"]
    rooms = {f"{path.name}/" for path in inside if path.is_dir() and any(path.glob("*.py"))}
    shown = picture()
    assert set(shown) == rooms | {path.name for path in inside if path.suffix == ".py"}
    one_each = {"method": set(METHODS), "command": set(COMMANDS)}  # rooms whose files need not be named one by one
    for name in rooms:
        files = {path.name for path in (PACKAGE / name).glob("[!_]*.py")}
        named = set(re.findall(r"\w+\.py", shown[name]))
        assert named <= files, f".github/CONTRIBUTING.md: {name} does not hold {sorted(named - files)}"
        if match := re.search(r"one file for each (\w+)", shown[name]):
            named |= {f"{word}.py" for word in one_each[match[1]]}
        assert files <= named, f".github/CONTRIBUTING.md: {name} holds {sorted(files - named)} too"


def test_the_top_level_is_fixed() -> None:
    allowed = {"pyproject.toml", "README.md", "LICENSE", "muscle_zoo", "hub_cards", "train.py", "eval.py", "tests"}
    ignored = {"runs", "data", "dist", "build"}
    found = {path.name for path in ROOT.iterdir() if not path.name.startswith(".")}
    assert {name for name in found - allowed - ignored if not name.endswith(".egg-info")} == set()


# What of a method's own file the engine may take: no method, but a function that other methods build on as well.
SHARED = {"logistic": {"linear_layer", "logistic_regression"}}
# Words of the engine's that are also names of methods: what the log calls the accuracy of nearest neighbors.
WORDS = {"knn"}


@pytest.mark.parametrize("path", sorted((PACKAGE / "engine").glob("*.py")), ids=lambda path: path.name)
def test_the_engine_names_no_method(path: Path) -> None:
    names, classes = set(method_names()), {method.__name__ for method in (*METHODS.values(), Muscle)}
    tree = ast.parse(path.read_text(encoding="utf-8"))
    documented = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        found: set[str] = set()
        if isinstance(node, ast.ImportFrom):
            room, _, file = (node.module or "").partition(".")
            taken = {alias.name for alias in node.names}
            found = taken & classes
            if room == "methods":
                found |= taken & {*METHODS, "muscle", "METHODS"}
            if room == "methods" and file in {*METHODS, "muscle"}:
                found |= taken - SHARED.get(file, set())
        elif isinstance(node, (ast.Name, ast.Attribute)):
            found = {node.id if isinstance(node, ast.Name) else node.attr} & classes
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documented:
            words = set(re.findall(r"\w+", re.sub(r"muscle[-_]zoo", "", node.value)))
            found = words & (names | classes) - WORDS
        assert not found, f"{path.name}:{getattr(node, 'lineno', '')} names {sorted(found)}; let the method say it"
