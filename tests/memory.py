"""Whether training takes more memory the longer it lasts: ``python -m tests.memory --steps 10000``."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import psutil
import torch

from muscle_zoo.engine import trainer
from muscle_zoo.engine.fit import fit
from muscle_zoo.engine.options import RunOptions
from muscle_zoo.engine.run_folder import RunFolder
from muscle_zoo.recipes import Recipe, get_recipe


def megabytes() -> dict[str, float]:
    """Of this process, and of the GPU if there is one."""
    memory = {"process": psutil.Process().memory_info().rss / 2**20}
    if torch.cuda.is_available():
        memory["device"] = torch.cuda.memory_allocated() / 2**20
    return memory


def grow(name: str, first: int, last: int, folder: Path, **overrides: Any) -> dict[str, dict[str, float]]:
    """Trains, and says what memory was taken after the first and after the last of these steps."""
    recipe = get_recipe(name, {"steps": last + 1, "eval_every": first, **overrides})
    seen: dict[str, dict[str, float]] = {}
    learning_rate = trainer.learning_rate

    def watch(recipe: Recipe, step: int) -> float:  # the loop asks once a step
        if step in (first, last):
            seen["first" if step == first else "last"] = megabytes()
        return learning_rate(recipe, step)

    trainer.learning_rate = watch
    try:
        fit(recipe, RunFolder(folder), RunOptions(progress=False, save_every=first))
    finally:
        trainer.learning_rate = learning_rate
    return seen


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", default="cnn4.muscle_fixmatch_digits_10")
    parser.add_argument("--steps", type=int, default=10000)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        seen = grow(args.name, 1000, args.steps, Path(folder) / "run")
    print(json.dumps({**seen, "growth": {k: seen["last"][k] / v - 1 for k, v in seen["first"].items() if v}}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
