"""A finished run becomes its row of the ledger."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..data import Split
from ..engine.evaluate import Metrics
from ..engine.options import TrainResult
from ..recipes import Recipe
from ..results.ledger import Row


def make_row(
    recipe: Recipe,
    trained: TrainResult,
    metrics: Metrics,
    split: Split,
    weights_sha256: str,
    calibration: Mapping[str, Any],
) -> Row:
    """The ledger row of a finished run.

    Args:
        recipe: What was trained.
        trained: How it ended.
        metrics: Of the exported weights.
        split: Its labeled images.
        weights_sha256: Of the exported file.
        calibration: What config.json says of its temperature.
    """
    assert trained.raw is not None and trained.median20 is not None
    return Row(
        name=recipe.name,
        recipe_sha256=recipe.sha256,
        seed=recipe.seed,
        bias=split.bias,
        step=trained.step,
        top1_ema=round(metrics.top1, 6),
        top1_raw=round(trained.raw.top1, 6),
        top1_median20=round(trained.median20, 6),
        nll=round(metrics.nll, 6),
        ece=round(metrics.ece, 6),
        temperature=calibration["temperature"],
        nll_uncalibrated=round(calibration["nll_uncalibrated"], 6),
        ece_uncalibrated=round(calibration["ece_uncalibrated"], 6),
        n_test=metrics.n,
        split_sha256=split.sha256,
        weights_sha256=weights_sha256,
        git_sha=git_sha(),
        torch=torch.__version__,
        device=trained.device,
        threads=trained.threads,
        processes=trained.processes,
        dtype=trained.dtype,
        hours=round(trained.seconds / 3600, 5),
    )


def git_sha() -> str:
    """Commit of the checkout that this package runs from; empty when it does not run from one."""
    here = Path(__file__).resolve().parent.parent  # the package: changes are looked for in all of it

    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", str(here), *words], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != here.parent:
            return ""
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ".")  # seen from `here`
        return git("rev-parse", "HEAD") + ("-dirty" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return ""
