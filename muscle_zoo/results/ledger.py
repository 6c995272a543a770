"""The ledger: one row per run, the only source of published numbers."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..files import write_text

SIZE_LIMIT = 16 << 20  # bytes: some 40,000 runs


@dataclass(frozen=True)
class Row:
    """One finished run.

    Attributes:
        name: The recipe's name.
        recipe_sha256: Hash of the recipe without its seed.
        seed: Seed of the run.
        bias: How the labeled split is biased; ``none`` is balanced.
        step: Optimizer steps done.
        top1_ema: Accuracy of the exported weights (the EMA of the last step), 0 to 1.
        top1_raw: Accuracy of the raw weights of the last step.
        top1_median20: Median accuracy of the EMA weights over the last 20 evaluations.
        nll: Negative log-likelihood of the exported weights, in nats.
        ece: Expected calibration error of the exported weights.
        temperature: What the logits of the exported weights were divided by; 1 where they were not.
        nll_uncalibrated: Negative log-likelihood of the same weights before that.
        ece_uncalibrated: Expected calibration error before that.
        n_test: How many images were evaluated.
        split_sha256: Hash of the labeled positions.
        weights_sha256: Hash of the exported file.
        git_sha: Commit of the code; ``-dirty`` where files had changed; empty outside a checkout.
        torch: Version of torch.
        device: Hardware it ran on.
        threads: CPU threads of each process.
        processes: How many processes shared the run.
        dtype: ``float32``, or the type of mixed precision.
        hours: Hours spent training.
    """

    name: str
    recipe_sha256: str
    seed: int
    bias: str
    step: int
    top1_ema: float
    top1_raw: float
    top1_median20: float
    nll: float
    ece: float
    temperature: float
    nll_uncalibrated: float
    ece_uncalibrated: float
    n_test: int
    split_sha256: str
    weights_sha256: str
    git_sha: str
    torch: str
    device: str
    threads: int
    processes: int
    dtype: str
    hours: float

    @property
    def labeled_bias(self) -> str:
        """The recipe's ``bias``: of all that is not balanced about the split, what is said of its labeled images."""
        first = self.bias.split("+")[0]
        return "none" if first.startswith(("unlabeled:", "mismatch:", "given")) else first

    @property
    def key(self) -> tuple[str, str, int]:
        """What tells one run from another."""
        return self.name, self.recipe_sha256, self.seed


def row_from(values: Mapping[str, Any]) -> Row:
    """A row of its plain values.

    Rows that were written before weights were calibrated lack the three columns of that: their temperature is 1.

    Raises:
        TypeError: A value is missing, or is none of a row's.
    """
    if not any(column in values for column in _CALIBRATION):
        before = {"nll_uncalibrated": values.get("nll"), "ece_uncalibrated": values.get("ece")}
        values = {**values, "temperature": 1.0, **before}
    return Row(**values)


def read_ledger(path: Path) -> list[Row]:
    """Reads a ledger; an absent file is an empty one.

    Raises:
        InputError: The file is damaged.
    """
    if not path.exists():
        return []
    try:
        if not path.is_file():
            raise ValueError("it is not a file")
        with path.open("rb") as file:
            content = file.read(SIZE_LIMIT + 1)
        if len(content) > SIZE_LIMIT:
            raise ValueError(f"it is larger than {SIZE_LIMIT >> 20} MiB")
        reader = csv.reader(io.StringIO(content.decode("utf-8"), newline=""), strict=True)
        columns = next(reader, None)
        if columns not in (_COLUMNS, [column for column in _COLUMNS if column not in _CALIBRATION]):
            raise ValueError("other columns than a ledger's")
        rows = [_read_row(columns, line, reader.line_num) for line in reader if line]
        if len({row.key for row in rows}) < len(rows):
            raise ValueError("a run is in it twice")
        return rows
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"{path} is damaged ({error}); restore it from git") from None


def _read_row(columns: Sequence[str], words: Sequence[str], line: int) -> Row:
    """A line as a row; ValueError where it cannot be one."""
    if len(words) != len(columns):
        raise ValueError(f"line {line} has {len(words)} columns, not {len(columns)}")
    values: dict[str, Any] = {}
    for column, word in zip(columns, words, strict=True):
        try:
            value = _KINDS[_TYPES[column]](word)
        except ValueError:
            value = None
        if value is None or not _is_possible(column, value):
            raise ValueError(f"line {line}: {column}={word[:50]!r} is not a valid value")
        values[column] = value
    return row_from(values)


_TYPES = {field.name: str(field.type) for field in fields(Row)}
_COLUMNS = list(_TYPES)
_CALIBRATION = ("temperature", "nll_uncalibrated", "ece_uncalibrated")
_KINDS: dict[str, type[int] | type[float] | type[str]] = {"int": int, "float": float, "str": str}


def _is_possible(name: str, value: int | float | str) -> bool:
    if isinstance(value, str):
        return len(value) <= 200 and value.isprintable()
    if name == "temperature" and value == 0:
        return False
    return math.isfinite(value) and 0 <= value < 2**63 and (value <= 1 or not name.startswith(("top1", "ece")))


def write_ledger(path: Path, rows: Iterable[Row]) -> None:
    """Writes a ledger, sorted by name, recipe and seed, whole or not at all."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in sorted(rows, key=lambda row: row.key))
    write_text(path, text.getvalue())


def merge(rows: Iterable[Row], new: Iterable[Row]) -> list[Row]:
    """Adds runs to a ledger's rows; the same run once more takes its row's place."""
    return list({row.key: row for row in [*rows, *new]}.values())


def combine(ledgers: Mapping[str, Sequence[Row]]) -> list[Row]:
    """The rows of several ledgers, each run once; the hours of a run that is in several may differ.

    Args:
        ledgers: Rows by the name of their ledger.

    Raises:
        InputError: Two have the same run with different values.
    """
    first: dict[tuple[str, str, int], tuple[str, Row]] = {}
    for ledger, rows in ledgers.items():
        for row in rows:
            other, known = first.setdefault(row.key, (ledger, row))
            theirs, ours = asdict(known), asdict(row)
            if differ := next((key for key in ours if key != "hours" and ours[key] != theirs[key]), None):
                raise InputError(
                    f"{row.name}, seed {row.seed}, recipe {row.recipe_sha256[:16]}: {differ}={theirs[differ]} in "
                    f"{other}, {ours[differ]} in {ledger}; take the row out of one of them"
                )
    return [row for _, row in first.values()]


def runs_of(rows: Iterable[Row], name: str, recipe_sha256: str) -> list[Row]:
    """The runs of one recipe, by seed: the rows a card may quote."""
    return sorted((r for r in rows if r.name == name and r.recipe_sha256 == recipe_sha256), key=lambda row: row.seed)
