"""Methods, one file each, and the one table of their names.

``muscle`` is MUSCLE around ``supervised``; ``muscle_X`` is MUSCLE around X. A method's options are its constructor's
keyword arguments; in a recipe they stand under the method's own name (``fixmatch.threshold``, ``muscle.weight``).
"""

from __future__ import annotations

import inspect
from typing import Any

from ..errors import InputError, suggest
from .base import Batch, Method, PseudoLabels, RunContext, View
from .fixmatch import FixMatch
from .freematch import FreeMatch
from .mean_teacher import MeanTeacher
from .mixmatch import MixMatch
from .muscle import Muscle
from .pi_model import PiModel
from .supervised import Supervised
from .temporal_ensembling import TemporalEnsembling
from .uda import UDA
from .vat import VAT

__all__ = [
    "METHODS",
    "UDA",
    "VAT",
    "Batch",
    "FixMatch",
    "FreeMatch",
    "MeanTeacher",
    "Method",
    "MixMatch",
    "Muscle",
    "PiModel",
    "PseudoLabels",
    "RunContext",
    "Supervised",
    "TemporalEnsembling",
    "View",
    "base_of",
    "create_method",
    "default_options",
    "method_names",
    "with_muscle",
]

METHODS: dict[str, type[Method]] = {
    "supervised": Supervised,
    "pi_model": PiModel,
    "temporal_ensembling": TemporalEnsembling,
    "mean_teacher": MeanTeacher,
    "vat": VAT,
    "mixmatch": MixMatch,
    "uda": UDA,
    "fixmatch": FixMatch,
    "freematch": FreeMatch,
}

MethodOptions = dict[str, dict[str, Any]]


def method_names() -> list[str]:
    """Every method, alone and with MUSCLE."""
    return [*METHODS, *map(with_muscle, METHODS)]


def with_muscle(name: str) -> str:
    """The name of a method with MUSCLE: ``supervised`` becomes ``muscle``."""
    return "muscle" if name == "supervised" else f"muscle_{name}"


def base_of(name: str) -> str:
    """The name of a method without MUSCLE: ``muscle`` becomes ``supervised``.

    Raises:
        InputError: The name is unknown.
    """
    if name not in method_names():
        raise InputError(f"method={name}: it is unknown; {suggest(name, method_names())}")
    return "supervised" if name == "muscle" else name.removeprefix("muscle_")


def _constructor_defaults(cls: type[Method]) -> dict[str, Any]:
    parameters = inspect.signature(cls).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty and p.name != "context"}


def default_options(name: str) -> MethodOptions:
    """Options of a method and their defaults: ``{"fixmatch": {"threshold": 0.95, ...}, "muscle": {...}}``."""
    base = base_of(name)
    options = {base: _constructor_defaults(METHODS[base])}
    if name != base:
        options["muscle"] = _constructor_defaults(Muscle)
    return {part: values for part, values in options.items() if values}


def create_method(name: str, options: MethodOptions | None = None, context: RunContext | None = None) -> Method:
    """Builds a method.

    Args:
        name: One of :func:`method_names`.
        options: Options by part, as :func:`default_options` gives them; what is left out keeps its default.
        context: What a method may know of the run.

    Returns:
        The method.

    Raises:
        InputError: The name is unknown or an option is out of its range.
    """
    options = options or {}
    base_name = base_of(name)
    base = METHODS[base_name](**options.get(base_name, {}), context=context)
    return base if name == base_name else Muscle(base, **options.get("muscle", {}))
