"""Cards, pages and figures of a checkout, rendered from the ledger, and which of them no longer match it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..checkpoints import registry
from ..checkpoints.card import BLOCK, CONFIG_FILE, read_config
from ..checkpoints.listing import count_parameters
from ..data import dataset_info
from ..files import read_untrusted_json
from ..methods import trains_classifier
from ..recipes.names import parse_name
from ..results.ledger import Row, read_ledger
from ..results.pages import PageFigure, page_figures, pages, render_page
from .backbone_card import render_backbone_card
from .model_card import render_card


@dataclass(frozen=True)
class Drift:
    """What of a checkout does not match its ledger: texts as they should be, and figures, by path."""

    texts: dict[Path, str]
    figures: dict[Path, PageFigure]

    @property
    def paths(self) -> list[Path]:
        """The files that should change."""
        return [*self.texts, *self.figures]

    def mend(self) -> None:
        """Writes them anew."""
        for path, text in self.texts.items():
            path.write_text(text, encoding="utf-8")
        for path, figure in self.figures.items():
            figure.plot(path)


def find_drift(root: Path) -> Drift:
    """Compares every card, table and figure of a checkout with its ledger.

    Args:
        root: The checkout.

    Raises:
        InputError: The ledger, a card or a mark of a page is damaged.
    """
    cards = root / "hub_cards"
    rows = [row for file in (registry.LEDGER_FILE, registry.DEV_LEDGER_FILE) for row in read_ledger(cards / file)]
    parameters = {card.name: count_parameters(read_config(card), str(card)) for card in registry.cards_in(cards)}
    texts = {
        path: text
        for path, text in render_all(root, rows, parameters).items()
        if not path.is_file() or path.read_text(encoding="utf-8") != text
    }
    figures = page_figures(root, rows, _classifiers(parameters))
    return Drift(texts, {path: figure for path, figure in figures.items() if not figure.is_at(path)})


def render_all(root: Path, rows: Sequence[Row], parameters: Mapping[str, int]) -> dict[Path, str]:
    """What every card and page should say, by path.

    Args:
        root: The checkout.
        rows: The ledger, that of the dev fold included.
        parameters: The checkpoints of hub_cards/, and how many parameters each has.
    """
    rendered = {}
    for name in parameters:
        card = root / "hub_cards" / name
        config = read_untrusted_json(card / CONFIG_FILE)
        info = dataset_info(config[BLOCK]["dataset"])
        of_backbone = config.get("num_classes") == 0
        rendered[card / "README.md"] = (
            render_backbone_card(config, info) if of_backbone else render_card(config, info, rows)
        )
    for page in pages(root):
        rendered[page] = render_page(page.read_text(encoding="utf-8"), rows, _classifiers(parameters), page.parent)
    return rendered


def _classifiers(parameters: Mapping[str, int]) -> dict[str, int]:
    """Those of the checkpoints that tables of accuracies show: no ledger has the others."""
    return {name: count for name, count in parameters.items() if trains_classifier(parse_name(name)["method"])}
