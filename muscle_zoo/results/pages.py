"""Pages with tables that are rendered from the ledger: the README and hub_cards/studies/*.md."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from ..errors import InputError
from .ledger import Row
from .search import search_rows, search_table
from .study import bias_table, digest, draw, select, table
from .zoo import draw_gains, zoo_rows, zoo_table

STUDIES = "studies"


@dataclass(frozen=True)
class Mark:
    """What a page shows between ``<!-- KIND WORDS -->`` and ``<!-- /KIND -->``.

    - ``study ARCH DATASET key=value ...``: accuracies. ``methods``, ``labels`` and ``bias`` choose (values joined by
      ``+``), and ``variant``; anything else is what the study changed of every recipe.
    - ``bias ARCH DATASET key=value ...``: how the gain changes with a bias.
    - ``search ARCH DATASET labels=N key=value ... | key=value ... | ...``: what was tried on the dev fold; before the
      first bar is what all runs change of the recipe.
    - ``zoo``: every checkpoint of hub_cards/.

    ``figure=FILE`` names a picture beside the page, of ``study`` and ``zoo``.
    """

    kind: str
    text: str

    @property
    def parts(self) -> list[list[str]]:
        """The words, by the bars between them."""
        return [part.split() for part in self.text.split("|")]

    @property
    def names(self) -> list[str]:
        """The words before the first ``key=value``."""
        return [word for word in self.parts[0] if "=" not in word]

    @property
    def values(self) -> dict[str, str]:
        """``key=value`` before the first bar, but ``figure``."""
        return {key: value for key, value in _values(self.parts[0]).items() if key != "figure"}

    @property
    def figure(self) -> str:
        """Name of the picture; empty if there is none."""
        return _values(self.parts[0]).get("figure", "")

    def rows(self, rows: Sequence[Row], parameters: Mapping[str, int]) -> list[Row]:
        """The ledger's rows that a ``study``, ``bias`` or ``zoo`` shows.

        Raises:
            InputError: There are none.
        """
        if self.kind == "zoo":
            found = zoo_rows(rows, parameters)
        else:
            given = self.values
            methods, labels, bias = (given.pop(key, "") for key in ("methods", "labels", "bias"))
            chosen = [text.split("+") if text else [] for text in (methods, labels, bias or "none")]
            variant = given.pop("variant", "")
            found = select(rows, *self._arch_and_dataset(), *chosen, given, variant)
        if not found:
            raise InputError(f"the ledger has no runs of {self.text.strip()}")
        return found

    def table(self, rows: Sequence[Row], parameters: Mapping[str, int]) -> str:
        """The table, in Markdown.

        Raises:
            InputError: There are no runs for it, or a word is wrong.
        """
        if self.kind == "search":
            given = self.values
            labels = given.pop("labels", "")
            tried = [_values(words) for words in [[], *self.parts[1:]]]
            found = search_rows(rows, *self._arch_and_dataset(), labels, given, tried)
            if not any(found.values()):
                raise InputError(f"the ledger has no runs of {self.text.strip()}")
            return search_table(found, tried)
        shown = self.rows(rows, parameters)
        if self.kind == "zoo":
            return zoo_table(shown, parameters)
        return table(shown) if self.kind == "study" else bias_table(shown)

    def _arch_and_dataset(self) -> tuple[str, str]:
        if len(self.names) != 2:
            raise InputError(f"<!-- {self.kind}{self.text} --> needs an architecture and a data set, in this order")
        return self.names[0], self.names[1]


def _values(words: Sequence[str]) -> dict[str, str]:
    return dict(word.split("=", 1) for word in words if "=" in word)


_MARK = re.compile(
    r"(?P<head><!-- (?P<kind>study|bias|search|zoo)\b(?P<text>[^>]*?) -->)\n.*?(?P<end><!-- /(?P=kind) -->)", flags=re.S
)


def render_page(text: str, rows: Sequence[Row], parameters: Mapping[str, int]) -> str:
    """Renders every marked table of a page anew, see :class:`Mark`.

    Args:
        text: The page.
        rows: The ledger, that of the dev fold included.
        parameters: The zoo's checkpoints, and how many parameters each has.
    """

    def table_of(match: re.Match[str]) -> str:
        return f"{match['head']}\n{Mark(match['kind'], match['text']).table(rows, parameters)}\n{match['end']}"

    return _MARK.sub(table_of, text)


def pages(root: Path) -> list[Path]:
    """The checkout's pages with marked tables."""
    return [
        page for page in (root / "README.md", *sorted((root / "hub_cards" / STUDIES).glob("*.md"))) if page.is_file()
    ]


@dataclass(frozen=True)
class Figure:
    """A picture of some rows, and how it is drawn."""

    rows: Sequence[Row]
    draw: Callable[[Sequence[Row], Path], None]

    def is_at(self, path: Path) -> bool:
        """Whether the picture there shows these rows."""
        if not path.is_file():
            return False
        with Image.open(path) as picture:
            return picture.info.get("rows") == digest(self.rows)


def figures(root: Path, rows: Sequence[Row], parameters: Mapping[str, int]) -> dict[Path, Figure]:
    """The figures that the checkout's pages name, by path."""
    found = {}
    for page in pages(root):
        for match in _MARK.finditer(page.read_text(encoding="utf-8")):
            mark = Mark(match["kind"], match["text"])
            if mark.figure:
                how = draw_gains if mark.kind == "zoo" else draw
                found[page.with_name(mark.figure)] = Figure(mark.rows(rows, parameters), how)
    return found
