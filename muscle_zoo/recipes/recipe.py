"""Recipes: everything that decides what a training run computes, as plain values."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import InputError, Notice, suggest
from ..methods import create_method, default_options, method_names, preset_options, recipe_defaults, with_muscle
from .checks import check_head, check_method, require
from .defaults import DATASETS, ON, VARIANTS, pretrained_defaults
from .history import as_first_published, as_spelled_now
from .names import ALL, MAX_DIGITS, make_name, parse_name

__all__ = ["Recipe", "changes", "get_recipe"]


@dataclass(frozen=True)
class Recipe:
    """One experiment. Two recipes with the same values give the same run on the same machine.

    Batch sizes are global: over all processes together. Training is counted in steps (optimizer updates), never epochs.

    Attributes:
        arch: A timm architecture, ours included.
        method: One of :func:`muscle_zoo.methods.method_names`.
        dataset: One of :func:`muscle_zoo.data.dataset_names`.
        labels: Label budget: how many labeled images the method may see, or a share of all labeled ones (``10pct``;
            ``all`` stands for ``100pct``).
        variant: Last part of the name; empty for the main recipe.
        seed: Draws the split, the initial weights, the batches and the views; 0 to 2**63 - 1.
        fold: What it is evaluated on: ``test`` to report; ``dev`` to tune, on held-out training images; ``validation``,
            on held-out labeled images; ``labeled``, on the labeled images that it was trained on, for those who have no
            others: it tells nothing of other images.
        steps: Optimizer updates; 0 for a method that takes none.
        batch_size: Labeled images a step (B).
        mu: Unlabeled images a step for each labeled one: mu B in all.
        sampling: Which labeled images a step sees: ``oversampled``, each of them equally often; ``balanced``, each
            class equally often, see :func:`muscle_zoo.data.batches.balanced_positions`; or ``uniform``: B images of
            the whole pool, each equally likely, of which those that have a label count.
        weak: Weak augmentation policy, see :mod:`muscle_zoo.data.augment`.
        strong: Strong augmentation policy.
        optimizer: timm's name of it; ``sgd`` is Nesterov's.
        lr: Highest learning rate, above 0.
        momentum: Momentum of the optimizer.
        weight_decay: Decay of weights that are neither biases nor of norms, as the optimizer takes it.
        schedule: ``cosine`` (FixMatch's, ``lr cos(7 pi k / 16 K)`` at step k of K) or ``constant``.
        warmup_steps: Steps over which the learning rate rises linearly.
        ema_decay: Share of the averaged weights (EMA) that a step keeps, below 1; warmed up as timm's ModelEmaV3 does.
        bn_momentum: PyTorch's BatchNorm momentum: share of the running statistics that a step replaces.
        drop_rate: Probability of dropout before the classifier, below 1.
        eval_every: Steps between two evaluations.
        cpu_threads: CPU threads of each process; 0 leaves it to torch. One thread count gives one result, bit for bit,
            on machines of the same kind, and small networks gain little from more.
        version: Goes up when a change of code changes the training; each method has its own.
        bias: ``none`` for as many labels of each class, or ``imbalance:R``, see :class:`muscle_zoo.data.Budget`.
        unlabeled_bias: The same for the unlabeled images.
        classes: ``all``, or those that are the task, by name or counted from 0, such as ``2+3+4+5+6+7``.
        mismatch: Share of the unlabeled images that is of classes outside the task, 0 to 1.
        label_noise: ``none``; or ``symmetric:R`` or ``asymmetric:R``: so many of the labels that the method sees are
            wrong, see :func:`muscle_zoo.data.label_noise.with_label_noise`.
        validation: Share of the labeled images that is held out of training, below 1.
        split: A file that lists the labeled images, see :func:`muscle_zoo.data.split_files.parse_given`; empty to
            draw them. It is published as it was given, in config.json and in the command that repeats the run.
        accumulate: Parts that a step's images are taken in, to fit into memory. It is another experiment: BatchNorm and
            the mutual information see one part at a time, of each process.
        init: Weights to start from: a name of the zoo's or of timm's pretrained ones, ``tf_efficientnet_lite0.pypi``,
            ``hf-hub:REPO[@revision]`` or ``local-dir:PATH``; empty draws them from the seed. The classifier is kept
            where there are as many classes, and images are normalized as these weights were trained to see them. It
            is published as it was given.
        teacher: A finished network whose predictions the method learns from, named as ``init`` is; empty for none. The
            hash of its weights is kept with the run. It is published as it was given.
        tune: What is trained: ``all``; ``head``, the classifier alone, on embeddings of the rest; or ``last:N``, it and
            the last N of timm's layer groups. What is not trained is left as it is, BatchNorm's running statistics too.
        layer_decay: Factor of the learning rate from each of timm's layer groups to the one before it, 1 for none: the
            classifier learns at ``lr``, the first layers slowest.
        frozen_batchnorm: Whether BatchNorm normalizes with its running statistics in training too, and leaves them.
        probe_steps: Steps at the start in which the classifier alone is trained (LP-FT, arXiv 2202.10054).
        probe_lr: Their learning rate; 0 for ``lr``.
        image_size: Side in pixels of the square images that pictures become, and to which smaller ones are enlarged; 0
            for the data set's own size.
        global_pool: How timm pools features before the classifier (``avg``, ``token``, ``map``, ...); empty for the
            architecture's own way.
        embedding_views: With ``tune=head``, how many draws of each policy are embedded; a step sees some of them.
        classifier: With ``tune=head``, ``linear``, ``cosine`` (of features and weights) or ``mlp`` (linear, and beside
            it a hidden layer of 256); only ``linear`` can be exported, see :mod:`muscle_zoo.engine.head`.
        options: The method's options by part, e.g. ``{"fixmatch": {"threshold": 0.95}, "muscle": {"weight": 1.0}}``.
    """

    arch: str
    method: str
    dataset: str
    labels: int | str
    variant: str = ""
    seed: int = 0
    fold: str = "test"
    steps: int = 1000
    batch_size: int = 64
    mu: int = 7
    weak: str = "none"
    strong: str = "none"
    optimizer: str = "sgd"
    lr: float = 0.03
    momentum: float = 0.9
    weight_decay: float = 5e-4
    schedule: str = "cosine"
    warmup_steps: int = 0
    ema_decay: float = 0.999
    bn_momentum: float = 0.1
    drop_rate: float = 0.0
    eval_every: int = 100
    cpu_threads: int = 0
    version: int = 1
    bias: str = "none"
    unlabeled_bias: str = "none"
    classes: str = "all"
    mismatch: float = 0.0
    validation: float = 0.0
    label_noise: str = "none"
    split: str = ""
    init: str = ""
    teacher: str = ""
    tune: str = "all"
    layer_decay: float = 1.0
    frozen_batchnorm: bool = False
    probe_steps: int = 0
    probe_lr: float = 0.0
    image_size: int = 0
    global_pool: str = ""
    accumulate: int = 1
    embedding_views: int = 4
    classifier: str = "linear"
    sampling: str = "oversampled"
    options: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.method in method_names():  # one of a card may be of a later version
            check_method(self)
        for name in ("batch_size", "eval_every", "version", "accumulate", "embedding_views"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "give 1 or more")
        share = re.compile(r"(100|[1-9]\d?)pct")
        fits = self.labels >= 1 if isinstance(self.labels, int) else share.fullmatch(self.labels) is not None
        require(fits, "labels", self.labels, "give 1 or more, or 1pct to 100pct")
        for name in (
            "seed",
            "warmup_steps",
            "mu",
            "momentum",
            "weight_decay",
            "cpu_threads",
            "image_size",
            "probe_steps",
            "probe_lr",
        ):
            require(getattr(self, name) >= 0, name, getattr(self, name), "give 0 or more")
        require(self.seed < 2**63, "seed", self.seed, "give less than 2**63")
        require(self.lr > 0, "lr", self.lr, "give a number above 0")
        require(0 < self.layer_decay <= 1, "layer_decay", self.layer_decay, "give more than 0 and at most 1")
        for name in ("ema_decay", "drop_rate", "validation"):
            require(0 <= getattr(self, name) < 1, name, getattr(self, name), "give at least 0 and less than 1")
        require(0 <= self.mismatch <= 1, "mismatch", self.mismatch, "give 0 to 1")
        require(0 < self.bn_momentum <= 1, "bn_momentum", self.bn_momentum, "give more than 0 and at most 1")
        for name, allowed in _CHOICES.items():
            value = getattr(self, name)
            require(value in allowed, name, value, suggest(value, allowed))
        require(re.fullmatch(r"all|head|last:[1-9]\d{0,3}", self.tune), "tune", self.tune, "give all, head or last:N")
        check_head(self)
        fits = not self.probe_steps or self.probe_steps < self.steps
        require(fits, "probe_steps", self.probe_steps, f"give less than steps={self.steps}, or 0")

    @property
    def name(self) -> str:
        """``{arch}.{method}_{dataset}_{labels}[_{variant}]``."""
        return make_name(self.arch, self.method, self.dataset, self.labels, self.variant)

    @property
    def sha256(self) -> str:
        """Hash of every field but the seed: runs of one recipe at several seeds share it.

        A field that came later counts only where it is not neutral, so that older recipes keep their hashes.
        """
        fields = self.to_dict()
        del fields["seed"]
        for name in _LATER:
            if fields[name] == getattr(type(self), name):
                del fields[name]
        fields["options"] = as_first_published(self.options)
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """Plain values, the name first; :meth:`from_dict` takes them back."""
        return {"name": self.name, **dataclasses.asdict(self)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Recipe:
        """Reads what :meth:`to_dict` wrote.

        Raises:
            InputError: A field is missing, unknown or of the wrong type.
        """
        if not isinstance(values, Mapping):
            raise InputError(f"a recipe is a JSON object, not {type(values).__name__}; restore it or train again")
        values = {_OLD_NAMES.get(key, key): value for key, value in values.items() if key != "name"}
        fields = {f.name: f for f in dataclasses.fields(cls)}
        for key, value in values.items():
            if key not in fields:
                raise InputError(f"recipe field {key!r} is unknown; {suggest(key, fields)}")
            if key == "labels" and isinstance(value, (int, str)) and not isinstance(value, bool):
                continue
            if key == "options":
                if not isinstance(value, dict) or not all(isinstance(part, dict) for part in value.values()):
                    raise InputError(f"recipe field options={value!r} is not an object of options by part")
                continue
            kind = str(fields[key].type)  # text, as annotations are not evaluated here
            if type(value) is not _TYPES[kind]:
                raise InputError(f"recipe field {key}={value!r} is not {_IN_WORDS[kind]}")
        missing = [
            name
            for name, f in fields.items()
            if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING and name not in values
        ]
        if missing:
            raise InputError(f"recipe fields missing: {', '.join(missing)}")
        if "options" in values:
            values["options"] = as_spelled_now(values["options"], values.get("steps", cls.steps))
        return cls(**values)


_CHOICES = {
    "fold": ("test", "dev", "validation", "labeled"),
    "schedule": ("cosine", "constant"),
    "classifier": ("linear", "cosine", "mlp"),
    "sampling": ("oversampled", "balanced", "uniform"),
}
_OLD_NAMES = {"unlabelled_bias": "unlabeled_bias"}  # as cards of the first edition spell it
# Fields of a later version: at their neutral value they do not count in the hash, so published recipes keep theirs.
_LATER = (
    *("bias", "unlabeled_bias", "classes", "mismatch", "validation", "split", "init", "image_size", "accumulate"),
    *("tune", "layer_decay", "frozen_batchnorm", "probe_steps", "probe_lr", "global_pool", "teacher"),
    *("embedding_views", "classifier", "label_noise", "sampling"),
)
_TYPES: dict[str, type] = {"int": int, "float": float, "str": str, "bool": bool}
_IN_WORDS = {"int": "a whole number", "float": "a number", "str": "text", "bool": "true or false"}

_IDENTITY = ("arch", "method", "dataset", "labels", "variant")


def get_recipe(name: str, overrides: Mapping[str, str | int | float | bool] | None = None) -> Recipe:
    """Composes a recipe from its name and overrides.

    The defaults come first, then what the data set changes, the architecture on it, the variant, the method, and the
    overrides. An override of a part of the name (``labels=20``) gives the recipe of that other name.

    Args:
        name: ``{arch}.{method}_{dataset}_{labels}[_{variant}]``.
        overrides: Field to value; the method's options are dotted (``muscle.weight``). Text is converted to the field's
            type, anything else must have it. ``METHOD.preset=paper`` sets several of a method's options; those given
            beside it count more. Where `steps` are no more than the variant's own `probe_steps`, half of them are.

    Returns:
        The recipe.

    Raises:
        InputError: The name or a key is unknown, or a value has the wrong type or range.

    Example:
        >>> get_recipe("cnn4.muscle_digits_10", {"seed": 1, "muscle.weight": 0.5}).options["muscle"]["weight"]
        0.5
    """
    overrides = dict(overrides or {})
    parts = parse_name(name)
    for key in [key for key in overrides if key in _IDENTITY]:
        parts[key] = _convert(key, overrides.pop(key), parts[key])
    at_once = recipe_defaults(parts["method"]) if parts["method"] in method_names() else {}  # it may take no steps
    parts = parse_name(Recipe(**{**at_once, **parts}).name)  # what was overridden must still be a name of the grammar
    values: dict[str, Any] = {f.name: f.default for f in dataclasses.fields(Recipe)} | parts
    values["options"] = default_options(parts["method"])
    kind = parts["dataset"].partition(":")[0]
    defaults = (
        DATASETS[kind],
        ON.get((parts["arch"], parts["dataset"]), {}),
        pretrained_defaults(parts["arch"], kind, parts["variant"]),
        VARIANTS.get((parts["arch"], kind, parts["variant"]), {}),
        recipe_defaults(parts["method"]),
    )
    for layer in defaults:
        for key, value in layer.items():
            part, dot, _ = key.partition(".")
            if not dot or part in values["options"]:  # what is said of MUSCLE's term is for methods that have it
                _set(values, key, value)
    presets = [_preset(key, overrides.pop(key)) for key in list(overrides) if key.endswith(".preset")]
    for layer in (*presets, overrides):
        for key, value in layer.items():
            _set(values, key, value)
    if presets or any("." in key for key in overrides):  # a wrong option is told before folders and images are opened
        create_method(values["method"], values["options"])
    if "probe_steps" not in overrides:
        values["probe_steps"] = _fewer_probe_steps(values["probe_steps"], values["steps"])
    return Recipe(**values)


def _fewer_probe_steps(probe_steps: int, steps: int) -> int:
    """A variant's `probe_steps` where somebody asked for so few steps that none would be left: half of these.

    Without it such a recipe could not be, so no hash of one that could changes.
    """
    if not 0 < steps <= probe_steps:  # wrong steps are told as such
        return probe_steps if steps > 0 else 0
    left = f"the variant's probe_steps={probe_steps} would leave no others"
    text = f"steps={steps}: {left}; probe_steps={steps // 2} is taken"
    warnings.warn(text, Notice, stacklevel=3)
    return steps // 2


def _preset(key: str, preset: Any) -> dict[str, Any]:
    """The overrides that a method's preset stands for."""
    name = key.removesuffix(".preset")
    return {f"{name}.{option}": value for option, value in preset_options(name, str(preset)).items()}


def changes(recipe: Recipe) -> list[str]:
    """The overrides that lead from the recipe of this name to this recipe, as ``train`` takes them, without the seed.

    Example:
        >>> changes(get_recipe("cnn4.muscle_digits_10", {"seed": 1, "muscle.weight": 0.5}))
        ['muscle.weight=0.5']
    """
    named, own = get_recipe(recipe.name).to_dict(), recipe.to_dict()
    overrides = [f"{k}={v}" for k, v in own.items() if k not in ("seed", "options", "version") and named[k] != v]
    for part, options in recipe.options.items():
        overrides += [f"{part}.{k}={v}" for k, v in options.items() if named["options"].get(part, {}).get(k) != v]
    return overrides


def _set(values: dict[str, Any], key: str, value: Any) -> None:
    part, _, option = key.rpartition(".")
    target = values["options"].get(part, {}) if part else values
    if option not in target or option == "options":
        if option in _options_of(part) and part not in values["options"]:
            other = f"override {key!r} is an option of {part}, and this recipe's method is {values['method']}"
            theirs = with_muscle(values["method"]) if part == "muscle" else part
            raise InputError(f"{other}; leave it out, or take a recipe of {theirs}")
        known = [k for k in values if k != "options"] + [f"{p}.{o}" for p, os in values["options"].items() for o in os]
        raise InputError(f"override {key!r} does not exist; {suggest(key, known)}")
    target[option] = _convert(key, value, target[option])


def _options_of(part: str) -> dict[str, Any]:
    """The options of a method or of MUSCLE's term; none of what is neither."""
    return default_options(part).get(part, {}) if part in method_names() else {}


def _convert(key: str, value: Any, old: Any) -> Any:
    kind = type(old)
    if key == "labels":  # a number or a share
        text = ALL if value == "all" else str(value)
        return int(text) if text.isdecimal() and len(text) <= MAX_DIGITS else text
    try:
        if kind is bool:
            return {"true": True, "false": False}[str(value).lower()]
        if kind in (int, float) and not isinstance(value, bool) and isinstance(value, (str, int, kind)):
            number = kind(value)
            if number == number and abs(number) != float("inf"):
                return number
        elif kind is str and isinstance(value, str):
            return value
    except (ValueError, KeyError):
        pass
    raise InputError(f"override {key}={value}: {str(value)!r} is not {_IN_WORDS[kind.__name__]} (it is {old!r} now)")
