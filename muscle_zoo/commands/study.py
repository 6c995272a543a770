"""`study`: many paired runs, one command that can be stopped and continued."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..errors import ExitCode, InputError
from ..recipes.names import parse_name
from ..results.figures import plot_study
from ..results.ledger import Row, merge, write_ledger
from ..results.study import plan, shard
from ..results.tables import study_table
from .arguments import add_run_arguments, parse_overrides, run_options


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares `study`."""
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="change every recipe: steps=1000 ...")
    parser.add_argument("--methods", nargs="+", required=True, metavar="X", help="base methods; each also with MUSCLE")
    parser.add_argument("--datasets", nargs="+", required=True, metavar="NAME")
    parser.add_argument("--labels", nargs="+", required=True, metavar="N", help="label budgets")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="how many seeds, from 0 on (3)")
    parser.add_argument("--bias", nargs="+", default=["none"], metavar="B", help="none imbalance:5 ...")
    parser.add_argument("--arch", default="cnn4", help="backbone (cnn4)")
    parser.add_argument(
        "--ledger", type=Path, metavar="FILE", help="runs that are rows of this ledger are taken from it, not run again"
    )
    parser.add_argument(
        "--shard", type=shard_of, metavar="I/N", help="only the I-th of N parts of the runs, for one of N machines"
    )
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="runs at a time, on CPUs (1)")
    add_run_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Runs what is not done yet; then writes results.csv, table.md and a figure for each data set and bias.

    Runs of an earlier study in the same folder stay in all of them.
    """
    from ..sessions.study import earlier_rows, run_study

    if args.seeds < 1 or args.jobs < 1:
        raise InputError(f"--seeds {args.seeds} --jobs {args.jobs}: give 1 or more")
    overrides = parse_overrides(_overrides(args))
    if "seed" in overrides or "bias" in overrides:
        raise InputError("override seed or bias: say --seeds N and --bias B ...")
    recipes = plan(args.arch, args.methods, args.datasets, args.labels, range(args.seeds), args.bias, overrides)
    out: Path = args.out or Path("runs") / "study"
    options = run_options(args)
    if args.shard is not None:
        recipes = shard(recipes, *args.shard)
    earlier = [] if args.shard else earlier_rows(out, recipes, overrides, options)
    result = run_study(recipes, out, options, args.jobs, args.ledger)
    if args.shard is not None:
        _write_part(result.rows, out, *args.shard)
    elif result.rows:
        text = write(merge(earlier, result.rows), out, overrides)
        print(f"\n{text}\n\n{out / 'results.csv'}, {out / 'table.md'} and the figures beside them")
    for line in result.failed:
        print(f"failed: {line}", file=sys.stderr)
    if result.stopped:
        print(f"stopped with {len(result.rows)} of {len(recipes)} runs done; run the same command again to continue")
        return ExitCode.STOPPED
    return ExitCode.FAILED if result.failed else ExitCode.DONE


def shard_of(text: str) -> tuple[int, int]:
    """Reads ``3/8`` as the third of eight parts."""
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no part; write I/N, such as 3/8")
    return int(match[1]), int(match[2])


def _write_part(rows: Sequence[Row], out: Path, index: int, count: int) -> None:
    """Writes the ledger of one part, under a name of its own: all parts may share a folder, and write at once."""
    out.mkdir(parents=True, exist_ok=True)
    part = out / f"results-{index}-of-{count}.csv"
    write_ledger(part, rows)
    print(
        f"{part}: part {index} of {count}, {len(rows)} runs; with all parts: muscle-zoo ledger merge "
        "results-*.csv --out all.csv, then this command with --ledger all.csv in the place of --shard"
    )


def write(rows: Sequence[Row], out: Path, overrides: Mapping[str, str]) -> str:
    """Writes a study's ledger, table and figures into a folder; returns the table, under what all runs changed."""
    out.mkdir(parents=True, exist_ok=True)
    write_ledger(out / "results.csv", rows)
    changed = " ".join(f"`{key}={value}`" for key, value in overrides.items())
    text = f"Every run with {changed}.\n\n{study_table(rows)}" if changed else study_table(rows)
    (out / "table.md").write_text(text + "\n", encoding="utf-8")
    for dataset, bias in sorted({(_dataset(row), row.bias) for row in rows}):
        part = [row for row in rows if (_dataset(row), row.bias) == (dataset, bias)]
        name = dataset if bias == "none" else f"{dataset}-{bias}"
        plot_study(part, out / f"{name.replace(':', '_')}.png")
    return text


def _dataset(row: Row) -> str:
    return parse_name(row.name)["dataset"]


def _overrides(args: argparse.Namespace) -> list[str]:
    """The key=value words, those that stand after --labels and the like included."""
    words = list(args.overrides)
    for option in ("methods", "datasets", "labels", "bias"):
        given = getattr(args, option)
        words += [word for word in given if "=" in word]
        setattr(args, option, [word for word in given if "=" not in word])
        if not getattr(args, option):
            raise InputError(f"--{option} {' '.join(given)}: give at least one before the key=value words")
    return words
