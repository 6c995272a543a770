"""Which side small pictures become before they are embedded: the larger one where there is time for it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from ..engine.embedding_progress import in_words
from ..files import read_json
from .choices import CONTROL
from .plan import SIDES
from .speed import Speed

MOST = 600.0  # seconds for all, up to which the larger side is taken where there is no time limit
SHARE = 0.8  # of the time limit: the estimate is one

COST = (SIDES[1] / SIDES[0]) ** 2  # of the larger side, as pixels go


@dataclass(frozen=True)
class Side:
    """What was chosen.

    Attributes:
        pixels: The side.
        speed: What all takes with it.
        why: In words.
    """

    pixels: int
    speed: Speed
    why: str


def choose_side(speed: Speed, seconds: float | None) -> Side:
    """Chooses the side of small pictures.

    Args:
        speed: What all takes with the smaller one.
        seconds: How long it may take; None where there is no limit.
    """
    small, large = SIDES
    slower = replace(speed, embedding=COST * speed.embedding)
    most = MOST if seconds is None else SHARE * seconds
    gain = f"{large} gave pictures of 32 pixels about 3 points more than {small}, at {COST:.3g} times the cost"
    if slower.total <= most:
        return Side(large, slower, f"{large} pixels, for there is time: {gain}")
    there = f"{in_words(most)} without a time limit" if seconds is None else f"{SHARE:.0%} of the time there is"
    return Side(
        small,
        speed,
        f"{small} pixels: {gain}, which would be about {in_words(slower.total)} in all and is more than {there}; "
        f"image_size={large} takes it nevertheless",
    )


def side_of(plan: Path) -> int:
    """The side that a run was begun with, of its plan.json; the smaller one where nothing was begun."""
    try:
        side = read_json(plan)["recipes"][CONTROL]["image_size"]
    except (OSError, ValueError, KeyError, TypeError):
        return SIDES[0]
    return side if side in SIDES else SIDES[0]
