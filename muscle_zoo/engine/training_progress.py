"""What a person sees while a network is trained: how many steps, how long, and that it may be interrupted."""

from __future__ import annotations

import sys
import time
from typing import Any

from tqdm import tqdm

from ..recipes import Recipe
from .embedding_progress import MEASURED, in_words

SILENCE = 60.0  # seconds, or a tenth of the time spent if that is longer: then something is said again without a bar


class TrainingProgress:
    """Says on stderr what is trained, soon how long it takes, and how far it is; on a terminal a bar does that.

    Args:
        recipe: What is trained.
        start: Steps that were done before.
        show: Say anything.
    """

    def __init__(self, recipe: Recipe, start: int, show: bool) -> None:
        self.recipe, self.show = recipe, show and start < recipe.steps
        self._done = self._told_at = start
        self._bar: tqdm[Any] | None = None
        self._measured = False
        before = f", {start:,} of them are done" if start else ""
        probe = f", the first {recipe.probe_steps:,} of the classifier alone" if recipe.probe_steps > start else ""
        self.told = (
            f"training {recipe.name}: {recipe.steps:,} steps{probe}{before};\nCtrl-C is safe: the same command goes on"
        )

    def __enter__(self) -> TrainingProgress:
        recipe = self.recipe
        if self.show:
            print(self.told, file=sys.stderr, flush=True)
            # None: a bar on a terminal only
            self._bar = tqdm(
                total=recipe.steps, initial=self._done, desc=recipe.name, unit="step", disable=None, dynamic_ncols=True
            )
        self._began = self._told = time.monotonic()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def step_done(self) -> None:
        """One more step is done."""
        self._done += 1
        if self._bar is None:
            return
        self._bar.update()
        if not self._bar.disable or self._done == self.recipe.steps:
            return
        now = time.monotonic()
        spent = now - self._began
        if not self._measured and spent >= MEASURED:
            self._measured = True
            self._say(f"it takes {self._left(now)} more")
        elif self._measured and now - self._told >= max(SILENCE, spent / 10):
            self._say(f"{self.recipe.name}: step {self._done} of {self.recipe.steps}, {self._left(now)} more")

    def _left(self, now: float) -> str:
        """How long the rest takes, by the steps since something was said; those of the classifier alone are faster."""
        seconds = (now - self._told) / (self._done - self._told_at) * (self.recipe.steps - self._done)
        return f"{'more than' if self._done < self.recipe.probe_steps else 'about'} {in_words(seconds)}"

    def evaluated(self, said: str) -> None:
        """The network was evaluated; of many evaluations one in each tenth of the steps is shown."""
        if self._bar is None:
            return
        self._bar.set_postfix_str(said)
        steps, done = self.recipe.steps, self._done
        if self._bar.disable and done * 10 // steps > (done - self.recipe.eval_every) * 10 // steps:
            self._say(f"{self.recipe.name}: step {done} of {steps}, {said}")

    def _say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)
        self._told, self._told_at = time.monotonic(), self._done
