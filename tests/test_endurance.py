"""A round of tests/crash.py and tests/memory.py; the whole of them is for who changes the engine."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.crash import SAVE_EVERY, crash
from tests.memory import grow


@pytest.mark.slow
def test_kills_cost_one_save_interval_at_most(tmp_path: Path) -> None:
    report = crash(rounds=1, inside=1, folder=tmp_path, steps=6 * SAVE_EVERY)
    assert len(report.lost) == 1 and report.lost[0] <= SAVE_EVERY and report.runs_compared >= 1


@pytest.mark.slow
def test_memory_does_not_grow(tmp_path: Path) -> None:
    seen = grow("cnn4.muscle_fixmatch_digits_10", 300, 1500, tmp_path / "run", batch_size=8, mu=2)
    for kind, megabytes in seen["first"].items():
        assert seen["last"][kind] <= 1.01 * megabytes, kind
