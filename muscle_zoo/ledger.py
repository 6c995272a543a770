"""The ledger: one row per run, the only source of published numbers."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from .errors import InputError


@dataclass(frozen=True)
class Row:
    """One finished run.

    Attributes:
        name: The recipe's name.
        recipe_sha256: Of the recipe without its seed.
        seed: Of the run.
        bias: Of the labelled split; ``none`` is balanced.
        step: Steps done.
        top1_ema: Accuracy of the exported weights (the EMA of the last step), 0 to 1.
        top1_raw: Accuracy of the raw weights of the last step.
        top1_median20: Median accuracy of the EMA weights over the last 20 evaluations.
        nll: Negative log-likelihood of the exported weights, in nats.
        ece: Their expected calibration error.
        n_test: Images evaluated.
        split_sha256: Of the labelled positions.
        weights_sha256: Of the exported file.
        git_sha: Commit of the code; ``-dirty`` where files had changed; empty outside a checkout.
        torch: Version.
        device: Where it ran.
        threads: Of each process.
        processes: How many.
        dtype: ``float32``, or the mixed precision.
        hours: Spent training.
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
    def key(self) -> tuple[str, str, int]:
        """What tells one run from another."""
        return self.name, self.recipe_sha256, self.seed


def read_ledger(path: Path) -> list[Row]:
    """Reads a ledger; an absent file is an empty one.

    Raises:
        InputError: The file is damaged.
    """
    if not path.is_file():
        return []
    kinds = {"int": int, "float": float, "str": str}
    columns = {field.name: kinds[field.type] for field in fields(Row)}
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            if reader.fieldnames != list(columns):
                raise ValueError("other columns than a ledger's")
            return [Row(**{k: columns[k](v) for k, v in line.items()}) for line in reader]
    except (KeyError, ValueError, TypeError, csv.Error) as error:
        raise InputError(f"{path} is damaged ({error!r}); restore it from git") from None


def write_ledger(path: Path, rows: Iterable[Row]) -> None:
    """Writes a ledger, sorted by name, recipe and seed, whole or not at all."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, [field.name for field in fields(Row)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in sorted(rows, key=lambda row: row.key))
    part = path.with_name(path.name + ".part")
    part.write_text(text.getvalue(), encoding="utf-8")
    part.replace(path)


def merge(rows: Iterable[Row], new: Iterable[Row]) -> list[Row]:
    """Adds runs to a ledger's rows; the same run once more takes its row's place."""
    return list({row.key: row for row in [*rows, *new]}.values())


def runs_of(rows: Iterable[Row], name: str, recipe_sha256: str) -> list[Row]:
    """The runs of one recipe, by seed: the rows a card may quote."""
    return sorted((r for r in rows if r.name == name and r.recipe_sha256 == recipe_sha256), key=lambda row: row.seed)


def median_run(rows: Sequence[Row]) -> Row:
    """The run with the median accuracy, the lower one of two; the first seed among equals."""
    ranked = sorted(rows, key=lambda row: (row.top1_ema, row.seed))
    accuracy = ranked[(len(ranked) - 1) // 2].top1_ema
    return min((row for row in rows if row.top1_ema == accuracy), key=lambda row: row.seed)


def mean_std(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and sample standard deviation; None for the latter with a single value."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def percent(values: Sequence[float]) -> str:
    """``86.1 ± 2.0``: mean and standard deviation of shares, in per cent."""
    mean, std = mean_std(values)
    return f"{100 * mean:.1f}" + (f" ± {100 * std:.1f}" if std is not None else "")
