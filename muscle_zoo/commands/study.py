"""`study`: many paired runs, one command that can be stopped and continued."""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ExitCode, InputError
from ..recipes import Recipe
from ..recipes.names import parse_name
from ..results.active_table import active_table
from ..results.curves import curve_table, number_on_curve, plot_curve
from ..results.figures import plot_study
from ..results.ledger import Row, merge, write_ledger
from ..results.study import plan, shard
from ..results.tables import study_table
from .arguments import add_run_arguments, parse_overrides, run_options

if TYPE_CHECKING:
    from ..engine.options import RunOptions
    from ..sessions.ray_study import Cluster


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares `study`."""
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="change every recipe: steps=1000 ...")
    parser.add_argument("--methods", nargs="+", required=True, metavar="X", help="base methods; each also with MUSCLE")
    parser.add_argument("--datasets", nargs="+", required=True, metavar="NAME")
    parser.add_argument("--labels", nargs="+", required=True, metavar="N", help="label budgets")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="how many seeds, from 0 on (3)")
    parser.add_argument("--bias", nargs="+", default=["none"], metavar="B", help="none imbalance:5 ...")
    parser.add_argument(
        "--vary",
        nargs="+",
        default=[],
        metavar=("FIELD", "V"),
        help="a field or option of the recipe and its values, a study for each: mismatch 0 0.5, muscle.weight 0.5 1 2",
    )
    parser.add_argument(
        "--active", nargs="+", default=[], metavar="RULE", help="label, train, label again, by these rules of `suggest`"
    )
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="with --active: how often (5)")
    parser.add_argument(
        "--add", type=int, metavar="N", help="with --active: labels that a round adds (as many as there were at first)"
    )
    parser.add_argument("--arch", default="cnn4", help="backbone (cnn4)")
    parser.add_argument(
        "--ledger", type=Path, metavar="FILE", help="runs that are rows of this ledger are taken from it, not run again"
    )
    parser.add_argument(
        "--shard", type=shard_of, metavar="I/N", help="only the I-th of N parts of the runs, for one of N machines"
    )
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="runs at a time, on CPUs (1)")
    parser.add_argument("--ray", metavar="HOST:PORT", help="run on this Ray cluster; auto: the one this machine is of")
    parser.add_argument(
        "--gpus-per-run", type=float, metavar="SHARE", help="with --ray: of one GPU (1; without GPUs 0)"
    )
    add_run_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Runs what is not done yet; then writes results.csv, table.md and a figure for each data set and bias.

    Runs of an earlier study in the same folder stay in all of them. With ``--vary`` there is a folder with all of these
    for each value, and curve.md and curve.png for all together.
    """
    for name, value in (("seeds", args.seeds), ("jobs", args.jobs)):
        if value < 1:
            raise InputError(f"--{name} {value} is out of range; give 1 or more")
    overrides = parse_overrides(_overrides(args))
    if "seed" in overrides or "bias" in overrides:
        raise InputError("override seed or bias: say --seeds N and --bias B ...")
    if args.shard is not None and (args.active or args.vary):
        raise InputError("--shard divides a plain study; leave out --vary and --active, or say one value as key=value")
    _require_ray_alone(args)
    out, options = args.out or Path("runs") / "study", run_options(args)
    if args.add is not None and not args.active:
        raise InputError(f"--add {args.add} is for --active; leave it out")
    if args.active:
        return _run_active(args, overrides, out, options)
    return _run_curve(args, overrides, out, options) if args.vary else _run_study(args, overrides, out, options)[0]


def _run_study(
    args: argparse.Namespace,
    overrides: Mapping[str, str],
    out: Path,
    options: RunOptions,
    done: Sequence[Row] = (),
    part: str = "",
) -> tuple[ExitCode, list[Row]]:
    from ..sessions.study import earlier_rows, run_study

    recipes = _plan(args, overrides)
    if args.shard is not None:
        recipes = shard(recipes, *args.shard)
    earlier = [] if args.shard else earlier_rows(out, recipes, overrides, options)
    result = run_study(recipes, out, options, args.jobs, args.ledger, done, part, _cluster(args))
    if args.shard is not None:
        _write_part(result.rows, out, *args.shard)
    elif result.rows:
        text = write(merge(earlier, result.rows), out, overrides)
        print(f"\n{text}\n\n{out / 'results.csv'}, {out / 'table.md'} and the figures beside them")
    for line in result.failed:
        print(f"failed: {line}", file=sys.stderr)
    if result.stopped:
        print(f"stopped with {len(result.rows)} of {len(recipes)} runs done; run the same command again to continue")
        return ExitCode.STOPPED, result.rows
    return ExitCode.FAILED if result.failed else ExitCode.DONE, result.rows


def _require_ray_alone(args: argparse.Namespace) -> None:
    """Refuses what says in another way where the runs are carried out."""
    if args.ray is None and args.gpus_per_run is not None:
        raise InputError(f"--gpus-per-run {args.gpus_per_run:g} is for a Ray cluster; say --ray auto, or leave it out")
    if args.ray is not None and (args.jobs > 1 or args.active or args.shard):
        raise InputError("--ray: the cluster decides when and where a run is; leave out --jobs, --active and --shard")
    _cluster(args)  # before anything is read or written


def _cluster(args: argparse.Namespace) -> Cluster | None:
    if args.ray is None:
        return None
    from ..sessions.ray_study import Cluster  # slow to import

    return Cluster(args.ray, args.gpus_per_run)


def _plan(args: argparse.Namespace, overrides: Mapping[str, str]) -> list[Recipe]:
    return plan(args.arch, args.methods, args.datasets, args.labels, range(args.seeds), args.bias, overrides)


def _run_curve(args: argparse.Namespace, overrides: Mapping[str, str], out: Path, options: RunOptions) -> ExitCode:
    """A study for each value of a field, one after the other, and what they say together."""
    key, *values = args.vary
    _require_curve(args, overrides)
    plans = [_plan(args, {**overrides, key: value}) for value in values]  # before hours are spent on the first
    distinct = len({(recipe.name, recipe.sha256, recipe.seed) for recipes in plans for recipe in recipes})
    print(f"{len(values)} values of {key}, {distinct} runs in all", flush=True)
    curve: dict[str, list[Row]] = {}
    began, worst = time.monotonic(), ExitCode.DONE
    for number, value in enumerate(values, start=1):
        left = options.time_limit and max(options.time_limit - (time.monotonic() - began), 1e-6)
        code, rows = _run_study(
            args,
            {**overrides, key: value},
            out / f"{key}_{value}",
            replace(options, time_limit=left),
            [row for rows in curve.values() for row in rows],  # a method alone is the same at each muscle.weight
            f"value {number} of {len(values)}, {key}={value}",
        )
        curve[value] = rows
        worst = code if code != ExitCode.DONE else worst
        if code == ExitCode.STOPPED:
            print(f"not done: {key} {' '.join(values[values.index(value) :])}; the same command goes on with them")
            return code
    text = curve_table(key, curve)
    (out / "curve.md").write_text(text + "\n", encoding="utf-8")
    plot_curve(key, curve, out / "curve.png")
    print(f"\n{text}\n\n{out / 'curve.md'} and {out / 'curve.png'}")
    return worst


def _require_curve(args: argparse.Namespace, overrides: Mapping[str, str]) -> None:
    """Refuses what is no curve: it is of one number of the recipe, and all else is one."""
    key, *values = args.vary
    if len(values) < 2:
        raise InputError(f"--vary {' '.join(args.vary)}: give a field and two values or more, such as mismatch 0 0.5")
    if key in ("seed", "bias"):
        raise InputError(f"--vary {key}: say {'--seeds N' if key == 'seed' else '--bias B ...'}")
    if key in overrides:
        raise InputError(f"--vary {key} and {key}={overrides[key]}: the field is given twice; keep one")
    for option in ("datasets", "labels", "bias"):
        if len(given := getattr(args, option)) > 1:
            raise InputError(f"--vary {key}: a curve has one value of --{option}, not {' '.join(given)}; give one")
    if len(set(values)) < len(values):
        raise InputError(f"--vary {' '.join(args.vary)}: a value is given twice; keep one")
    for value in values:
        number_on_curve(key, value)


def _run_active(args: argparse.Namespace, overrides: Mapping[str, str], out: Path, options: RunOptions) -> ExitCode:
    from ..auto.active import CURVES_FILE, run_active

    if args.vary or args.ledger or args.jobs > 1:
        raise InputError("--active runs one after the other: leave out --vary, --ledger and --jobs")
    result = run_active(_plan(args, overrides), args.active, args.rounds, out, options, args.add)
    for curve in result.curves:
        shown = " ".join(f"{n}:{100 * top1:.1f}" for n, top1 in zip(curve["labels"], curve["top1"], strict=True))
        print(f"{curve['name']} seed={curve['seed']} {curve['rule']}: {shown}")
    if not result.finished:
        print("stopped; run the same command again to continue")
        return ExitCode.STOPPED
    (out / "active.md").write_text((text := active_table(result.curves)) + "\n", encoding="utf-8")
    print(f"\n{text}\n\n{out / CURVES_FILE} and {out / 'active.md'}")
    return ExitCode.DONE


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
    where = ", where its method has it" if any("." in key or key == "teacher" for key in overrides) else ""
    text = f"Every run with {changed}{where}.\n\n{study_table(rows)}" if changed else study_table(rows)
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
    for option in ("methods", "datasets", "labels", "bias", "vary", "active"):
        given = getattr(args, option)
        words += [word for word in given if "=" in word]
        setattr(args, option, [word for word in given if "=" not in word])
        if given and not getattr(args, option):
            raise InputError(f"--{option} {' '.join(given)}: give at least one before the key=value words")
    return words
