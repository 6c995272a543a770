from __future__ import annotations

import dataclasses
from pathlib import Path

from muscle_zoo import get_recipe
from muscle_zoo.results.figures import plot_gains
from muscle_zoo.results.ledger import Row
from muscle_zoo.results.study import select
from muscle_zoo.results.tables import zoo_rows, zoo_table
from tests.test_study import ROW

MAIN = "wrn_16_2.muscle_fixmatch_cifar10_jpeg_250"
LONG = f"{MAIN}_long"


def row(name: str, seed: int, top1: float, nll: float = 1.0) -> Row:
    return dataclasses.replace(ROW, name=name, recipe_sha256=get_recipe(name).sha256, seed=seed, top1_ema=top1, nll=nll)


ROWS = [
    row(MAIN, 0, 0.50, 3.0),
    row(MAIN.replace("muscle_", ""), 0, 0.47, 2.5),
    row(MAIN.replace("muscle_fixmatch", "supervised"), 0, 0.43),
    row(LONG, 0, 0.62, 2.0),
    row(LONG, 1, 0.60, 2.2),
    row(LONG.replace("muscle_", ""), 0, 0.59, 1.7),
    row(LONG.replace("muscle_", ""), 1, 0.59, 1.7),
    row(LONG.replace("muscle_fixmatch", "supervised"), 0, 0.51),
    row(LONG.replace("muscle_fixmatch", "vat"), 0, 0.99),
    dataclasses.replace(row(LONG, 2, 0.99), recipe_sha256="of other overrides"),
]


def test_a_checkpoint_stands_beside_the_controls_of_its_own_variant() -> None:
    parameters = {MAIN: 690_000, LONG: 690_000}
    assert {r.top1_ema for r in zoo_rows(ROWS, parameters)} == {0.50, 0.47, 0.43, 0.62, 0.60, 0.59, 0.51}
    alone = [r for r in ROWS if "supervised" not in r.name]
    assert "| 250 | 50.0 |  | 47.0 |" in zoo_table(zoo_rows(alone, parameters), parameters)
    lines = zoo_table(zoo_rows(ROWS, parameters), parameters).splitlines()
    assert lines[2] == f"| `{MAIN}` | 0.69 M | 250 | 50.0 | 43.0 | 47.0 | +3.0 | 3.00 (2.50) | 1 |"
    assert lines[3].startswith(f"| `{LONG}` | 0.69 M | 250 | 61.0 ± 1.4 | 51.0 | 59.0 ± 0.0 | +2.0 (")
    assert lines[3].endswith(") | 2.10 (1.70) | 2 |")


def test_a_study_is_of_one_variant() -> None:
    for variant, top1 in (("", {0.50, 0.47}), ("long", {0.62, 0.60, 0.59})):
        shown = select(ROWS, "wrn_16_2", "cifar10_jpeg", methods=["fixmatch"], labels=["250"], variant=variant)
        assert {r.top1_ema for r in shown} == top1


def test_the_figure_of_gains(tmp_path: Path) -> None:
    plot_gains(zoo_rows(ROWS, [MAIN, LONG]), tmp_path / "gains.png")
    assert (tmp_path / "gains.png").read_bytes().startswith(b"\x89PNG")
