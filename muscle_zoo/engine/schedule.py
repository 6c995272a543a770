"""The learning rate as a pure function of the step: nothing to save, nothing to resume."""

from __future__ import annotations

import math

from ..recipes import Recipe


def learning_rate(recipe: Recipe, step: int) -> float:
    """Learning rate of a step, counted from 0.

    ``cosine`` is FixMatch's ``lr * cos(7 pi k / 16 K)`` (arXiv 2001.07685, section 2.4), which ends at 0.195 lr. While
    the classifier alone is trained it is ``probe_lr``; warm-up and schedule are for the steps after that.
    """
    if step < recipe.probe_steps:
        return recipe.probe_lr or recipe.lr
    step, steps = step - recipe.probe_steps, recipe.steps - recipe.probe_steps
    warmup = min(1.0, (step + 1) / recipe.warmup_steps) if recipe.warmup_steps else 1.0
    if recipe.schedule == "constant":
        return recipe.lr * warmup
    return recipe.lr * warmup * math.cos(7.0 * math.pi * step / (16.0 * steps))
