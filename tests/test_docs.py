"""What the documentation says is true: its Python runs, its commands parse, its rows are the zoo's, its links hold."""

from __future__ import annotations

import re
import shlex
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import cross_entropy

from muscle_zoo import cli, get_recipe
from muscle_zoo.auto.choices import is_own_pictures
from muscle_zoo.checkpoints import registry
from muscle_zoo.commands.arguments import parse_overrides
from muscle_zoo.methods import METHODS, Muscle
from muscle_zoo.results.method_table import lines_of
from muscle_zoo.results.study import plan

ROOT = Path(__file__).resolve().parent.parent
CARDS = ROOT / "hub_cards"
PAGES = [
    path
    for path in (
        ROOT / "README.md",
        ROOT / ".github" / "CONTRIBUTING.md",
        CARDS / "README.md",
        *sorted((CARDS / "studies").glob("*.md")),
        *sorted((ROOT / "muscle_zoo").glob("*/*.md")),
    )
    if path.is_file()
]
# A name of the zoo among a command's words: lower case, with a dot and a budget; not ORG/NAME, nor a file.
NAME = re.compile(r"(?:hf-hub:ORG/)?([a-z0-9_]+\.[a-z0-9_]+_(?:\d+(?:pct)?)(?:_[a-z]+)?)(?:@\w+)?")


def commands(page: Path) -> list[str]:
    """The lines of a page that call this package: of its shell blocks, and those that are indented by four."""
    text = page.read_text(encoding="utf-8")
    lines = "".join(re.findall(r"```(?:sh|bash)\n(.*?)```", text, flags=re.S)).splitlines()
    lines += [line for line in text.splitlines() if re.match(r"    (muscle-zoo|python (train|eval)\.py)\b", line)]
    return [line.strip() for line in lines if re.search(r"(^|\s)(muscle-zoo|\S*(train|eval)\.py)\b", line)]


# methods/README.md shows how to write this method, which is therefore not one of the zoo's.
LINES = sorted({line for page in PAGES for line in commands(page) if "entropy_minimization" not in line})


@pytest.mark.parametrize("line", LINES)
def test_commands_parse(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The parser of the command takes the line, and every recipe in it exists; nothing is run."""
    words = shlex.split(line, comments=True)
    program = next(i for i, word in enumerate(words) if word in ("muscle-zoo", "train.py", "eval.py"))
    command = words[program].removesuffix(".py") if words[program].endswith(".py") else None
    given = words[program + 1 :]
    parsed: list[Namespace] = []
    for name, (text, add_arguments, _) in cli.COMMANDS.items():
        monkeypatch.setitem(cli.COMMANDS, name, (text, add_arguments, lambda args: parsed.append(args) or 0))
    assert cli.main(given, command) == 0
    changed = getattr(parsed[0], "overrides", None) or []
    from_runs = [word for word in changed if word.partition("=")[2].startswith("runs/")]
    for word in from_runs:  # that another command makes
        assert any(other.endswith(f"--out {word.partition('=')[2]}") for other in LINES), f"no command makes {word}"
    overrides = parse_overrides([word for word in changed if word not in from_runs])
    if hasattr(parsed[0], "datasets"):
        assert plan(parsed[0].arch, parsed[0].methods, parsed[0].datasets, parsed[0].labels, [0], ["none"], overrides)
    names = [match[1] for word in given if (match := NAME.fullmatch(word))]
    for name in names:
        get_recipe(name, overrides)
    if command == "train" and not any(is_own_pictures(word) for word in given[:1]):
        assert names, "a line of train.py without a recipe is the quickstart, which stands indented"


def test_the_readmes_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    picture = Image.fromarray(np.zeros((8, 8), dtype=np.uint8))
    (tmp_path / "my_pictures").mkdir()
    picture.save(tmp_path / "my_pictures" / "zero.png")
    x = torch.randn(4, 1, 8, 8)
    names = {
        "picture": picture,
        "cross_entropy": cross_entropy,
        "x": x,
        "u": x,
        "y": torch.tensor([0, 1, 2, 3]),
        "weak": lambda images: images,
        "strong": lambda images: images.flip(3),
    }
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.S)
    assert len(blocks) == 3
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)
    assert names["probabilities"].shape == (1, 10) and names["new"].num_classes == 3
    assert names["run"].finished and names["run"].recipe.steps == 60
    assert names["loss"].requires_grad


def test_the_readmes_rows_are_the_zoos() -> None:
    rows = [line for line in (ROOT / "README.md").read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    assert len(rows) == 6  # the head, and the four results
    zoo = (CARDS / "studies" / "zoo.md").read_text(encoding="utf-8").splitlines()
    assert [row for row in rows if row not in zoo] == [], "copy them again from hub_cards/studies/zoo.md"


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]*)(?:#[\w-]*)?\)", page.read_text(encoding="utf-8")):
        if target and "://" not in target:
            assert (page.parent / target).exists(), f"{page.relative_to(ROOT)} links to {target}, which is not there"


def test_links_within_contributing_lead_to_headings() -> None:
    text = (ROOT / ".github" / "CONTRIBUTING.md").read_text(encoding="utf-8")
    headings = {line.removeprefix("## ").lower().replace(" ", "-") for line in text.splitlines() if line[:3] == "## "}
    assert set(re.findall(r"\]\(#([\w-]+)\)", text)) <= headings


def test_hub_cards_readme_names_every_column_of_the_ledger() -> None:
    header = (CARDS / registry.LEDGER_FILE).read_text(encoding="utf-8").splitlines()[0].split(",")
    text = (CARDS / "README.md").read_text(encoding="utf-8")
    ledger = text[text.index("## The ledger") : text.index("## Studies")]
    named = [name for line in ledger.splitlines() for name in re.findall(r"`(\w+)`", line.partition(" | ")[0])]
    assert [name for name in header if name not in named] == []
    assert all(f"`{file}`" in text for file in registry.CARD_FILES)


def test_every_test_file_stands_in_contributing() -> None:
    text = (ROOT / ".github" / "CONTRIBUTING.md").read_text(encoding="utf-8")
    table = set(re.findall(r"test_\w+\.py", text[text.index("## Tests") :]))
    files = {path.name for path in (ROOT / "tests").glob("test_*.py")}
    assert files - table == set(), "name them in the table of .github/CONTRIBUTING.md"
    assert table - files == set(), ".github/CONTRIBUTING.md names tests that do not exist"


def test_every_method_stands_on_its_page_with_tests_that_exist() -> None:
    text = (CARDS / "studies" / "methods.md").read_text(encoding="utf-8")
    sources = {path: path.read_text(encoding="utf-8") for path in (ROOT / "tests").glob("test_*.py")}
    files = {name: path for path, source in sources.items() for name in re.findall(r"^def (test_\w+)", source, re.M)}
    named = set(re.findall(r"\btest_\w+(?!\w*\.py)\b", text))
    assert {name for name in named if name not in files} == set(), "hub_cards/studies/methods.md names no such tests"
    by_hand = text[text.index("## What their losses were compared with") :]
    rows = [[word.strip() for word in line.strip("|").split("|")] for line in by_hand.splitlines() if line[:3] == "| `"]
    assert [row[0] for row in rows] == [f"`{name}`" for name in METHODS]
    for method, tests, compared_with in rows:
        holding = [files[name] for name in re.findall(r"test_\w+", tests)]
        words = {method.strip("`"), METHODS[method.strip("`")].__name__}
        about = any(words & set(re.findall(r"\w+", sources[path])) for path in holding)
        assert about and compared_with, f"no test of {method} in hub_cards/studies/methods.md is of it"


def test_the_longest_file_of_a_method_is_the_one_that_is_named() -> None:
    text = (CARDS / "studies" / "methods.md").read_text(encoding="utf-8")
    shortest_first = sorted((lines_of(method), name) for name, method in {**METHODS, "muscle": Muscle}.items())
    (second, next_name), (lines, name) = shortest_first[-2:]
    assert second < lines and f"The longest file of a method is `{name}.py`" in text and f"its {lines} lines" in text
    assert f"The next is `{next_name}.py`" in text
