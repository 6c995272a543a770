"""What a recipe's fields must fulfil together: with its method, with `tune`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import InputError
from ..methods import method_names, takes_embeddings, takes_partly_labeled, takes_steps
from .defaults import PRETRAINED

if TYPE_CHECKING:
    from .recipe import Recipe

__all__ = ["check_head", "check_method", "require"]


def check_method(recipe: Recipe) -> None:
    """Refuses steps and a sampling that do not go with the method."""
    method, steps, sampling = recipe.method, recipe.steps, recipe.sampling
    if takes_steps(method):
        require(steps >= 1, "steps", steps, "give 1 or more")
        fits = sampling != "uniform" or takes_partly_labeled(method)
        require(fits, "sampling", sampling, f"{method} needs the label of every labeled image: leave it out")
    else:
        require(steps == 0, "steps", steps, f"{method} takes none: give 0")
        require(sampling == "oversampled", "sampling", sampling, f"{method} takes no steps: leave it out")


def check_head(recipe: Recipe) -> None:
    """Refuses what does not go with ``tune``: with embeddings, or without them."""
    if recipe.tune != "head":
        if recipe.steps == 0:
            raise InputError(f"tune={recipe.tune}: {recipe.method} makes its classifier of embeddings; give tune=head")
        if recipe.classifier != "linear":
            raise InputError(f"classifier={recipe.classifier} is trained on embeddings; give tune=head")
        return
    if recipe.method in method_names() and not takes_embeddings(recipe.method):
        raise InputError(
            f"tune=head: {recipe.method} needs images, not embeddings of them, for its teacher, for what it does to "
            "pixels or for what it trains beside a classifier; give tune=all or tune=last:N, or another method"
        )
    neutral = {"layer_decay": 1.0, "frozen_batchnorm": False, "probe_steps": 0}
    if more := [name for name, value in neutral.items() if getattr(recipe, name) != value]:
        value = getattr(recipe, more[0])
        if PRETRAINED.get(recipe.variant, {}).get(more[0]) == value:  # the user typed the variant, not the field
            raise InputError(
                f"variant {recipe.variant} ({more[0]}={value}) does not go with tune=head, which trains the classifier "
                "alone; take the variant frozen"
            )
        raise InputError(f"{more[0]}={value}: tune=head trains the classifier alone; leave it out")


def require(condition: object, name: str, value: object, remedy: str) -> None:
    """Refuses a field's value where a condition does not hold, and says what to give instead."""
    if not condition:
        raise InputError(f"{name}={value} is out of range; {remedy}")
