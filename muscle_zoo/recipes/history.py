"""Options that methods did not always have, or had under another name.

Recipes that were published are hashed as they were then: an option of a later version counts only where it is not
neutral, and one that was renamed counts under its first name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MethodOptions = dict[str, dict[str, Any]]

# Option of a later version: the value at which the method is what it was before.
_LATER: dict[str, dict[str, Any]] = {
    "muscle": {
        **{"start": 0.0, "ramp": 0.0, "end": 1.0},
        **{"temperature": 1.0, "views": "weak_strong", "marginal": "uniform"},
    }
}


def as_first_published(options: Mapping[str, Mapping[str, Any]]) -> MethodOptions:
    """Options as they count in a recipe's hash.

    Example:
        >>> as_first_published({"muscle": {"weight": 1.0, "start": 0.3, "ramp": 0.0, "temperature": 1.0}})
        {'muscle': {'weight': 1.0, 'start': 0.3, 'ramp_steps': 0}}
    """
    hashed = {
        part: {key: value for key, value in values.items() if value != _LATER.get(part, {}).get(key)}
        for part, values in options.items()
    }
    if options.get("muscle", {}).get("ramp") == 0.0:
        hashed["muscle"]["ramp_steps"] = 0  # the ramp was a number of steps once
    return hashed


def as_spelled_now(options: Mapping[str, Mapping[str, Any]], steps: int) -> MethodOptions:
    """Options of a recipe of any version, complete and under today's names.

    Args:
        options: By part, as a card or a run folder has them.
        steps: Of the recipe.

    Example:
        >>> now = as_spelled_now({"muscle": {"weight": 1.0, "ramp_steps": 50}}, steps=200)["muscle"]
        >>> now["ramp"], now["views"], now["marginal"]
        (0.25, 'weak_strong', 'uniform')
    """
    spelled = {part: {**_LATER.get(part, {}), **values} for part, values in options.items()}
    for values in spelled.values():
        if isinstance(ramp_steps := values.pop("ramp_steps", None), int):
            values["ramp"] = ramp_steps / steps
    return spelled
