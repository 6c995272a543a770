"""The side that small pictures become, by the time there is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from muscle_zoo.auto.choices import CONTROL, Choices
from muscle_zoo.auto.plan import SIDES, make_plan
from muscle_zoo.auto.sides import MOST, choose_side, side_of
from muscle_zoo.auto.speed import Speed
from tests.pictures import make_folder

SECONDS = Speed(1, 1, reading=10.0, embedding=100.0, comparing=20.0, training=20.0)  # 150, and 275 with larger pictures


@pytest.mark.parametrize(
    "limit, side", [(None, 192), (344.0, 192), (343.0, 128), (10.0, 128)], ids=["none", "enough", "too short", "short"]
)
def test_the_larger_side_is_taken_where_there_is_time(limit: float | None, side: int) -> None:
    """Its estimate is 10 + 225 + 20 + 20 seconds, which is four fifths of 343.75."""
    chosen = choose_side(SECONDS, limit)
    assert chosen.pixels == side and chosen.why.startswith(f"{side} pixels")
    assert chosen.speed.total == (275.0 if side == 192 else 150.0)
    assert ("image_size=192" in chosen.why) == (side == 128)


def test_without_a_limit_ten_minutes_are_the_limit() -> None:
    long = Speed(1, 1, 0.0, MOST / 2.25 + 1, 0.0, 0.0)
    assert choose_side(long, None).pixels == 128 and "10 minutes" in choose_side(long, None).why


def test_what_was_begun_or_asked_for_stays(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "mine", unlabeled=2, test=0)
    assert make_plan(folder, Choices()).may_be_larger and make_plan(folder, Choices()).side == SIDES[0]
    asked = make_plan(folder, Choices(overrides={"image_size": SIDES[0]}))
    assert asked.side == SIDES[0] and not asked.may_be_larger
    large = make_plan(folder, Choices(), SIDES[1])
    assert large.side == SIDES[1]
    (tmp_path / "plan.json").write_text(json.dumps(large.settings))
    assert large.settings["recipes"][CONTROL]["image_size"] == SIDES[1] == side_of(tmp_path / "plan.json")
    assert side_of(tmp_path / "none.json") == SIDES[0]
