"""Methods, one file each, and the one table of their names. README.md says how to add one.

``muscle`` is MUSCLE around ``supervised``; ``muscle_X`` is MUSCLE around X. A method's options are its constructor's
keyword arguments; in a recipe they stand under the method's own name (``fixmatch.threshold``, ``muscle.weight``).
"""

from __future__ import annotations

import inspect
from importlib import import_module
from typing import Any

from ..errors import InputError, suggest
from .base import LOGITS, TEACHER, Batch, Group, Method, Nets, PseudoLabels, RunContext, View
from .muscle import Muscle, views_around

__all__ = [
    "METHODS",
    "Batch",
    "Group",
    "Method",
    "Muscle",
    "Nets",
    "PseudoLabels",
    "RunContext",
    "View",
    "base_of",
    "create_method",
    "default_options",
    "has_own_backward",
    "learns_from_teacher",
    "list_methods",
    "method_names",
    "preset_options",
    "recipe_defaults",
    "takes_embeddings",
    "takes_partly_labeled",
    "takes_steps",
    "trains_classifier",
    "version_of",
    "with_muscle",
]

# The one table: name of a method, which is its file's too, and its class. A new method is a file and a line here.
_CLASSES = {
    "supervised": "Supervised",
    "pi_model": "PiModel",
    "temporal_ensembling": "TemporalEnsembling",
    "mean_teacher": "MeanTeacher",
    "vat": "VAT",
    "mixmatch": "MixMatch",
    "uda": "UDA",
    "fixmatch": "FixMatch",
    "freematch": "FreeMatch",
    "logistic": "Logistic",
    "knn": "KNN",
    "label_propagation": "LabelPropagation",
    "distillation": "Distillation",
    "noisy_student": "NoisyStudent",
    "simclr": "SimCLR",
    "vicreg": "VICReg",
    "mi_only": "MIOnly",
    "pseudo_label": "PseudoLabel",
    "flexmatch": "FlexMatch",
    "softmatch": "SoftMatch",
    "adamatch": "AdaMatch",
    "remixmatch": "ReMixMatch",
    "s4l": "S4L",
    "mp_ssl": "MPSSL",
    "simmatch": "SimMatch",
    "comatch": "CoMatch",
    "interpolation_contrastive": "InterpolationContrastive",
    "neighbor_consistency": "NeighborConsistency",
    "uncertainty_mean_teacher": "UncertaintyMeanTeacher",
    "self_meta_pseudo_labels": "SelfMetaPseudoLabels",
    "robust_self_training": "RobustSelfTraining",
}
METHODS: dict[str, type[Method]] = {
    name: getattr(import_module(f"{__name__}.{name}"), class_name) for name, class_name in _CLASSES.items()
}

MethodOptions = dict[str, dict[str, Any]]


def list_methods() -> list[str]:
    """The names of the base methods.

    Each runs alone, and with MUSCLE under the name that :func:`with_muscle` gives.

    Example:
        >>> "fixmatch" in list_methods() and "muscle_fixmatch" not in list_methods()
        True
    """
    return list(METHODS)


def method_names() -> list[str]:
    """Every method that a recipe may name: the base methods, alone and with MUSCLE."""
    return [*METHODS, *(with_muscle(name) for name in METHODS if _takes_muscle(name))]


def _takes_muscle(base: str) -> bool:
    return _has_steps(base) and METHODS[base].classifier


def _has_steps(base: str) -> bool:
    return METHODS[base].recipe.get("steps") != 0


def takes_steps(name: str) -> bool:
    """Whether a method is trained; one that is not makes its classifier at once, see :meth:`Method.fit`.

    Example:
        >>> takes_steps("muscle_fixmatch"), takes_steps("knn")
        (True, False)
    """
    return _has_steps(base_of(name))


def trains_classifier(name: str) -> bool:
    """Whether what a method trains has a classifier; one that pre-trains without labels does not.

    Example:
        >>> trains_classifier("muscle_fixmatch"), trains_classifier("simclr")
        (True, False)
    """
    return METHODS[base_of(name)].classifier


def takes_embeddings(name: str) -> bool:
    """Whether a method can train a classifier on embeddings: it needs a network's logits alone, and no pixels.

    Example:
        >>> takes_embeddings("muscle_fixmatch"), takes_embeddings("simclr"), takes_embeddings("distillation")
        (True, False, False)
    """
    method = METHODS[base_of(name)]
    logits_alone = all(what == LOGITS for wanted in method.needs.values() for what in wanted)
    return method.classifier and not method.pixels and logits_alone


def takes_partly_labeled(name: str) -> bool:
    """Whether a method's labeled images may have no label, as with ``sampling=uniform``.

    Example:
        >>> takes_partly_labeled("muscle_fixmatch"), takes_partly_labeled("mixmatch")
        (True, False)
    """
    return METHODS[base_of(name)].partly_labeled


def has_own_backward(method: Method) -> bool:
    """Whether the gradients of a method, or of the one that MUSCLE is around, are not simply those of its loss.

    Example:
        >>> has_own_backward(create_method("muscle_mp_ssl")), has_own_backward(create_method("muscle_fixmatch"))
        (True, False)
    """
    base = method.base if isinstance(method, Muscle) else method
    return type(base).backward is not Method.backward


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


def learns_from_teacher(name: str, options: MethodOptions | None = None) -> bool:
    """Whether a method needs the recipe's ``teacher``, with these options.

    Example:
        >>> learns_from_teacher("distillation"), learns_from_teacher("mean_teacher")
        (True, False)
        >>> learns_from_teacher("robust_self_training", {"robust_self_training": {"labels": "teacher"}})
        True
    """
    return any(TEACHER in wanted for wanted in create_method(name, options).needs.values())


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


def recipe_defaults(name: str) -> dict[str, int | float | str]:
    """What a method changes of a recipe's defaults, whatever the data set, see :class:`Method`."""
    base = METHODS[base_of(name)]
    changes = dict(base.recipe)
    if name != base_of(name) and views_around(base.views)["u_strong"].still:
        changes["version"] = 2  # that view went through the network together with the base's once
    return changes


def version_of(name: str) -> int:
    """The version of a method's code: a recipe of another one is not what this code trains.

    Example:
        >>> version_of("fixmatch"), version_of("muscle_vat")
        (1, 2)
    """
    return int(recipe_defaults(name).get("version", 1))


def preset_options(name: str, preset: str) -> dict[str, Any]:
    """The options of a base method that a preset sets.

    ``paper`` are the values of its paper: the method's own defaults, but for those that it says are others. A data
    set's recipes may have others, see recipes/defaults.py.

    Raises:
        InputError: The method has no preset of this name.

    Example:
        >>> preset_options("vat", "paper")["entropy_weight"], preset_options("uda", "paper")["threshold"]
        (1.0, 0.8)
    """
    if name not in METHODS:
        raise InputError(f"override {name}.preset={preset} does not exist; {suggest(name, METHODS)}")
    presets = {"paper": {}, **METHODS[name].presets}
    if preset not in presets:
        raise InputError(f"override {name}.preset={preset} does not exist; {suggest(preset, presets)}")
    return {**_constructor_defaults(METHODS[name]), **presets[preset]}


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

    Example:
        >>> create_method("fixmatch", {"fixmatch": {"threshold": 0.9}}).pseudo_label
        PseudoLabelLoss(threshold=0.9)
    """
    options = options or {}
    base_name = base_of(name)
    base = METHODS[base_name](**options.get(base_name, {}), context=context)
    return base if name == base_name else Muscle(base, **options.get("muscle", {}), context=context)
