"""Pages whose marked tables are rendered from the ledger: hub_cards/studies/*.md, and the README if it has any."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from ..errors import InputError
from ..files import read_json
from ..recipes.names import ZOO_METHODS
from .active_table import active_table
from .curves import curve_table, plot_curve
from .figures import digest, plot_gains, plot_gains_of_study, plot_study
from .ledger import Row
from .method_figure import plot_methods
from .method_table import method_table, result_table
from .races import race_table, read_race
from .study import select
from .tables import (
    bias_table,
    calibration_table,
    controls_table,
    overall_table,
    search_rows,
    search_table,
    study_table,
    zoo_rows,
    zoo_table,
)

STUDIES = "studies"


@dataclass(frozen=True)
class Mark:
    """What a page shows between ``<!-- KIND WORDS -->`` and ``<!-- /KIND -->``.

    - ``study ARCH DATASET key=value ...``: accuracies. ``methods``, ``labels`` and ``bias`` choose (values joined by
      ``+``), and ``variant``; anything else is what the study changed of every recipe.
    - ``bias ARCH DATASET key=value ...``: how the gain changes with a bias.
    - ``curve ARCH DATASET vary=FIELD:V+V+... labels=N key=value ...``: accuracies along the values of a recipe's field.
    - ``overall ARCH DATASET key=value ...``: the gain over all methods together.
    - ``controls ARCH DATASET method=M key=value ...``: what M gains over the other ``methods``.
    - ``calibration ARCH DATASET key=value ...``: likelihood and calibration error before and after the temperature.
    - ``search ARCH DATASET labels=N+N+... key=value ... | key=value ... | ...``: what was tried on the dev fold; before
      the first bar is what all runs change of the recipe; ``methods`` and the budgets choose the columns.
    - ``active FILE``: of ``muscle-zoo study --active``, whose ``active.json`` lies under this name beside the page.
    - ``race FILE FILE ...``: what ``muscle-zoo bench race --json`` printed, a file for each recipe, beside the page.
    - ``zoo``: every checkpoint of hub_cards/.
    - ``methods``: what every method is; with ``ARCH DATASET labels=N+N+... key=value ...``: what every method reaches.

    ``figure=FILE`` names a picture beside the page, of ``study``, ``curve`` and ``methods`` (accuracies; of ``methods``
    gains too) and ``zoo`` (gains);
    ``gains=FILE`` one of a ``study``'s gains.
    """

    kind: str
    text: str
    folder: Path = Path()

    @property
    def parts(self) -> list[list[str]]:
        """The words, by the bars between them."""
        return [part.split() for part in self.text.split("|")]

    @property
    def values(self) -> dict[str, str]:
        """``key=value`` before the first bar, but pictures."""
        return {key: value for key, value in _values(self.parts[0]).items() if key not in ("figure", "gains")}

    @property
    def figures(self) -> dict[str, str]:
        """Names of the pictures by what they show: ``figure`` and ``gains``."""
        return {key: value for key, value in _values(self.parts[0]).items() if key in ("figure", "gains")}

    @property
    def arch_and_dataset(self) -> tuple[str, str]:
        """The words before the first ``key=value``.

        Raises:
            InputError: They are not two.
        """
        names = [word for word in self.parts[0] if "=" not in word]
        if len(names) != 2:
            raise InputError(f"<!-- {self.kind}{self.text} --> needs an architecture and a data set, in this order")
        return names[0], names[1]

    def rows(self, rows: Sequence[Row], parameters: Mapping[str, int]) -> list[Row]:
        """The ledger's rows that a mark of any kind but ``curve`` and ``search`` shows.

        Raises:
            InputError: There are none.
        """
        if self.kind == "zoo":
            checkpoint_rows = zoo_rows(rows, parameters)
            if not checkpoint_rows:
                raise InputError("<!-- zoo -->: the ledger has no runs of any checkpoint in hub_cards/; export some")
            return checkpoint_rows
        arch, dataset = self.arch_and_dataset
        overrides = self.values
        methods, labels, bias, _ = (overrides.pop(key, "") for key in ("methods", "labels", "bias", "method"))
        shown = select(
            rows,
            arch,
            dataset,
            methods=methods.split("+") if methods else [],
            labels=labels.split("+") if labels else [],
            biases=bias.split("+") if bias else ["none"],
            variant=overrides.pop("variant", ""),
            overrides=overrides,
        )
        if not shown:
            raise InputError(f"the ledger has no runs of {self.text.strip()}; correct the mark, or export such runs")
        return shown

    @property
    def varied(self) -> tuple[str, list[str]]:
        """Of a ``curve``, the field and its values.

        Raises:
            InputError: They are not said.
        """
        key, _, values = self.values.get("vary", "").partition(":")
        if not key or not values:
            raise InputError(f"<!-- {self.kind}{self.text} --> says no vary=FIELD:V+V+...; add it")
        return key, values.split("+")

    def curve(self, rows: Sequence[Row], parameters: Mapping[str, int]) -> dict[str, list[Row]]:
        """The ledger's rows of each value of a ``curve``.

        Raises:
            InputError: There are none of one.
        """
        key, values = self.varied
        rest = " ".join(word for word in self.text.split() if not word.startswith("vary="))
        return {value: Mark("study", f"{rest} {key}={value}").rows(rows, parameters) for value in values}

    def table(self, rows: Sequence[Row], parameters: Mapping[str, int]) -> str:
        """The table, in Markdown.

        Raises:
            InputError: There are no runs for it, or a word is wrong.
        """
        if self.kind == "search":
            return self._search_table(rows)
        if self.kind == "methods":
            return self._methods_table(rows, parameters)
        if self.kind == "curve":
            return curve_table(self.varied[0], self.curve(rows, parameters))
        if self.kind == "active":
            return active_table(read_json(self.folder / self.text.strip()))
        if self.kind == "race":
            return race_table([read_race(self.folder / name) for name in self.text.split()])
        shown = self.rows(rows, parameters)
        if self.kind == "zoo":
            return zoo_table(shown, parameters)
        if self.kind == "controls":
            return controls_table(shown, self.values.get("method", ""))
        tables = {
            "study": study_table,
            "bias": bias_table,
            "overall": overall_table,
            "calibration": calibration_table,
        }
        return tables[self.kind](shown)

    def _methods_table(self, rows: Sequence[Row], parameters: Mapping[str, int]) -> str:
        if not self.text.strip():
            return method_table()
        if not self.values.get("labels"):
            raise InputError(f"<!-- {self.kind}{self.text} --> says no labels=N+N+...; add it")
        return result_table(self.rows(rows, parameters), self.values["labels"].split("+"))

    def _search_table(self, rows: Sequence[Row]) -> str:
        arch, dataset = self.arch_and_dataset
        overrides = self.values
        labels, methods = overrides.pop("labels", ""), overrides.pop("methods", "")
        columns = methods.split("+") if methods else ZOO_METHODS
        tried: list[dict[str, str]] = [{}, *(_values(words) for words in self.parts[1:])]
        runs: dict[tuple[int, str], list[Row]] = {}
        for budget in labels.split("+"):
            found = search_rows(rows, arch, dataset, budget, overrides, tried, columns)
            title = f", {budget} labels" if "+" in labels else ""
            runs |= {(position, method + title): own for (position, method), own in found.items()}
        if not any(runs.values()):
            raise InputError(f"the ledger has no runs of {self.text.strip()}; correct the mark, or export such runs")
        always = {key: value for key, value in overrides.items() if "." in key}
        return search_table(runs, tried, list(dict.fromkeys(column for _, column in runs)), always)


def _values(words: Sequence[str]) -> dict[str, str]:
    return dict(word.split("=", 1) for word in words if "=" in word)


_MARK = re.compile(
    r"(?P<head><!-- (?P<kind>study|bias|curve|active|race|overall|controls|calibration|search|zoo|methods)\b"
    r"(?P<text>[^>]*?) -->)\n"
    r".*?(?P<end><!-- /(?P=kind) -->)",
    flags=re.S,
)


def render_page(text: str, rows: Sequence[Row], parameters: Mapping[str, int], folder: Path = Path()) -> str:
    """Renders every marked table of a page anew, see :class:`Mark`.

    Args:
        text: The page.
        rows: The ledger, that of the dev fold included.
        parameters: The zoo's checkpoints, and how many parameters each has.
        folder: Where the page lies.
    """

    def table_of(match: re.Match[str]) -> str:
        table = Mark(match["kind"], match["text"], folder).table(rows, parameters)
        return f"{match['head']}\n{table}\n{match['end']}"

    return _MARK.sub(table_of, text)


def pages(root: Path) -> list[Path]:
    """The checkout's pages with marked tables."""
    return [
        page for page in (root / "README.md", *sorted((root / "hub_cards" / STUDIES).glob("*.md"))) if page.is_file()
    ]


@dataclass(frozen=True)
class PageFigure:
    """A picture beside a page.

    Attributes:
        kind: Of the mark that names it: ``study``, ``curve``, ``zoo``, ``methods``; ``gains`` for a study's gains.
        rows: What it shows.
        curve: Of a ``curve`` the field, and the rows of each of its values.
    """

    kind: str
    rows: Sequence[Row]
    curve: tuple[str, Mapping[str, Sequence[Row]]] | None = None

    def plot(self, path: Path) -> None:
        """Draws the picture into a file."""
        if self.curve is not None:
            plot_curve(*self.curve, path)
            return
        plots = {"zoo": plot_gains, "study": plot_study, "gains": plot_gains_of_study, "methods": plot_methods}
        plots[self.kind](self.rows, path)

    def is_at(self, path: Path) -> bool:
        """Whether the picture there shows these rows."""
        if not path.is_file():
            return False
        try:
            with Image.open(path) as picture:
                return picture.info.get("rows") == digest(self.rows)
        except OSError:  # not a picture, or half of one
            return False


def _figure(kind: str, mark: Mark, rows: Sequence[Row], parameters: Mapping[str, int]) -> PageFigure:
    if kind != "curve":
        return PageFigure(kind, mark.rows(rows, parameters))
    curve = mark.curve(rows, parameters)
    return PageFigure(kind, [row for own in curve.values() for row in own], (mark.varied[0], curve))


def page_figures(root: Path, rows: Sequence[Row], parameters: Mapping[str, int]) -> dict[Path, PageFigure]:
    """The figures that the checkout's pages name, by path.

    Raises:
        InputError: There are no runs for one, or its mark can have none.
    """
    figures = {}
    for page in pages(root):
        for match in _MARK.finditer(page.read_text(encoding="utf-8")):
            mark = Mark(match["kind"], match["text"])
            for word, file in mark.figures.items():
                if mark.kind != "study" and (mark.kind not in ("curve", "zoo", "methods") or word == "gains"):
                    fit = "study" if word == "gains" else "study, curve, zoo and methods"
                    raise InputError(f"<!-- {mark.kind}{mark.text} -->: {word}= is for {fit}; leave it out here")
                kind = "gains" if word == "gains" else mark.kind
                figures[page.with_name(file)] = _figure(kind, mark, rows, parameters)
    return figures
