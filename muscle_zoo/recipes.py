"""Recipes: everything that decides what a training run computes, as plain values."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .errors import InputError, near
from .methods import default_options, method_names

__all__ = ["ZOO_METHODS", "Recipe", "budget_order", "get_recipe", "parse_name", "recipe_names", "with_method"]


@dataclass(frozen=True)
class Recipe:
    """One experiment. Two recipes with the same values give the same run on the same machine.

    Batch sizes are global: over all processes together. Training is counted in steps (optimiser updates), never epochs.

    Attributes:
        arch: A timm architecture.
        method: One of :func:`muscle_zoo.methods.method_names`.
        dataset: A data set's name.
        labels: Label budget: how many labelled images the method may see; or a share of them all, such as ``10pct``.
        variant: Last part of the name; empty for the main recipe.
        seed: Draws the split, the initial weights, the batches and the views.
        fold: What it is evaluated on: ``test`` to report; ``dev`` to tune, on held-out training images; ``validation``.
        steps: Optimiser updates.
        batch_size: Labelled images a step (B).
        mu: Unlabelled images a step, per labelled one.
        weak: Weak augmentation policy, see :mod:`muscle_zoo.data.augment`.
        strong: Strong augmentation policy.
        optimizer: timm's name; ``sgd`` is Nesterov's.
        lr: Highest learning rate.
        momentum: Momentum of the optimiser.
        weight_decay: Decay of weights that are neither biases nor norms.
        schedule: ``cosine`` (FixMatch's, ``lr cos(7 pi k / 16 K)`` at step k of K) or ``constant``.
        warmup_steps: Steps over which the learning rate rises linearly.
        ema_decay: Decay of the averaged weights, warmed up as timm's ModelEmaV3 does.
        bn_momentum: PyTorch's BatchNorm momentum.
        drop_rate: Dropout before the classifier.
        eval_every: Steps between two evaluations.
        cpu_threads: CPU threads of each process; 0 leaves it to torch. One thread count gives one result, bit for bit,
            on machines of the same kind, and small networks gain little from more.
        version: Goes up when a change of code changes the training.
        bias: ``none`` for as many labels of each class, or ``imbalance:R``, see :class:`muscle_zoo.data.Budget`.
        unlabelled_bias: The same of the unlabelled images.
        classes: ``all``, or those that are the task, by name or counted from 0, such as ``2+3+4+5+6+7``.
        mismatch: Share of the unlabelled images that is of classes outside the task.
        validation: Share of the labelled images that is held out of training.
        split: A file that lists the labelled images, see :func:`muscle_zoo.data.given.parse_given`; empty to draw them.
        accumulate: Parts that a step's images are taken in, to fit into memory. It is another experiment: BatchNorm and
            the mutual information see one part at a time, of each process.
        image_size: Side of the images that pictures of mixed sizes become; 0 for the data set's own.
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
    unlabelled_bias: str = "none"
    classes: str = "all"
    mismatch: float = 0.0
    validation: float = 0.0
    split: str = ""
    image_size: int = 0
    accumulate: int = 1
    options: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "eval_every", "version", "accumulate"):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "give 1 or more")
        good = self.labels >= 1 if isinstance(self.labels, int) else re.fullmatch(r"(100|[1-9]\d?)pct", self.labels)
        _require(bool(good), "labels", self.labels, "give 1 or more, or 1pct to 100pct")
        for name in ("seed", "warmup_steps", "mu", "momentum", "weight_decay", "cpu_threads", "image_size"):
            _require(getattr(self, name) >= 0, name, getattr(self, name), "give 0 or more")
        _require(self.seed < 2**63, "seed", self.seed, "give less than 2**63")
        _require(self.lr > 0, "lr", self.lr, "give a number above 0")
        for name in ("ema_decay", "drop_rate", "validation"):
            _require(0 <= getattr(self, name) < 1, name, getattr(self, name), "give at least 0 and less than 1")
        _require(0 <= self.mismatch <= 1, "mismatch", self.mismatch, "give 0 to 1")
        _require(0 < self.bn_momentum <= 1, "bn_momentum", self.bn_momentum, "give more than 0 and at most 1")
        for name, allowed in _CHOICES.items():
            value = getattr(self, name)
            _require(value in allowed, name, value, near(value, allowed))

    @property
    def name(self) -> str:
        """``{arch}.{method}_{dataset}_{labels}[_{variant}]``."""
        return f"{self.arch}.{self.method}_{self.dataset}_{self.labels}" + (f"_{self.variant}" if self.variant else "")

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
        values = {key: value for key, value in values.items() if key != "name"}
        fields = {f.name: f for f in dataclasses.fields(cls)}
        for key, value in values.items():
            if key not in fields:
                raise InputError(f"recipe field {key!r} is unknown; {near(key, fields)}")
            if key == "options" or (key == "labels" and isinstance(value, (int, str)) and value is not True):
                continue
            if type(value) is not _TYPES[fields[key].type]:
                raise InputError(f"recipe field {key}={value!r} is not {_ARTICLE[fields[key].type]}")
        missing = [
            name
            for name, f in fields.items()
            if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING and name not in values
        ]
        if missing:
            raise InputError(f"recipe fields missing: {', '.join(missing)}")
        return cls(**values)


_CHOICES = {"fold": ("test", "dev", "validation"), "schedule": ("cosine", "constant")}
_LATER = ("bias", "unlabelled_bias", "classes", "mismatch", "validation", "split", "image_size", "accumulate")
_TYPES: dict[Any, type] = {"int": int, "float": float, "str": str, "bool": bool}
_ARTICLE = {"int": "a whole number", "float": "a number", "str": "text", "bool": "true or false"}

_DIGIT_VIEWS = {"weak": "affine(8,0.08,0.05)", "strong": "affine(30,0.2,0.25)+contrast(0.4)+cutout(0.4)"}
# FixMatch's (arXiv 2001.07685, section 2.3 and appendix B); digits of house numbers are not mirrored.
_STRONG = "randaugment(2)+cutout(0.5,0.5)"
_SHIFTED = {"weak": "shift(0.125)", "strong": f"shift(0.125)+{_STRONG}"}
_FLIPPED = {"weak": "flip+shift(0.125)", "strong": f"flip+shift(0.125)+{_STRONG}"}
_CROPPED = {"weak": "crop(0.2)+flip", "strong": f"crop(0.2)+flip+{_STRONG}"}
# The rest of FixMatch's settings are the defaults above, but for BatchNorm's momentum (its code has 0.001) and for the
# averaged weights, whose decay is warmed up here.
_FIXMATCH = {"steps": 2**20, "eval_every": 2**10}

# For two CPU cores in minutes: hub_cards/studies/short_budgets.md.
_SHORT = {"steps": 3000, "batch_size": 16, "mu": 3, "eval_every": 500}

# What a data set changes of the defaults above, for every architecture, method and budget alike.
_DATASETS: dict[str, dict[str, Any]] = {
    "digits": {
        "steps": 600,
        "batch_size": 32,
        "mu": 4,
        "lr": 0.05,
        "ema_decay": 0.99,
        "eval_every": 30,
        "cpu_threads": 1,
        **_DIGIT_VIEWS,
    },
    "mnist": {**_SHORT, **_DIGIT_VIEWS},
    "fashion_mnist": {**_SHORT, **_FLIPPED},
    "cifar10": {**_FIXMATCH, **_FLIPPED},
    "cifar10_jpeg": {**_SHORT, **_FLIPPED},
    "cifar100": {**_FIXMATCH, "weight_decay": 1e-3, **_FLIPPED},
    "svhn": {**_FIXMATCH, **_SHIFTED},
    "svhn_extra": {**_FIXMATCH, **_SHIFTED},
    "stl10": {**_FIXMATCH, **_FLIPPED},
    "mini_imagenet": {**_FIXMATCH, **_FLIPPED},
    "imagenet": {**_FIXMATCH, **_CROPPED},
    "folder": {**_SHORT, "eval_every": 250, **_FLIPPED},
    "synthetic": {"steps": 100, **_SHIFTED},
}
# What an architecture changes besides on one of them.
_ON: dict[tuple[str, str], dict[str, Any]] = {
    ("wrn_28_2", "cifar10_jpeg"): {"steps": 2**15, "eval_every": 2**10, "batch_size": 64, "mu": 7},  # for a GPU
}
_ARCHS = ("cnn4", "cnn13", "wrn_16_2", "wrn_28_2", "wrn_28_8", "test_resnet", "resnet18", "resnet50")
# What a variant changes besides, of an architecture on a data set.
_VARIANTS: dict[tuple[str, str, str], dict[str, Any]] = {
    ("wrn_16_2", "cifar10_jpeg", "long"): {"steps": 10_486, "eval_every": 1000},  # a hundredth of FixMatch's 2^20
}

ZOO_METHODS = ("supervised", "muscle", "fixmatch", "muscle_fixmatch")  # two that are published, each with its control
# The named recipes: what `list` shows. Any other name of the grammar composes just as well.
_ZOO: tuple[tuple[str, str, tuple[int | str, ...]], ...] = (
    ("cnn4", "digits", (10, 20, 40, 100)),
    ("wrn_16_2", "fashion_mnist", (40, 250, 1000)),
    ("test_resnet", "fashion_mnist", (40, 250, 1000)),  # timm's own, so that plain timm loads it
    ("wrn_16_2", "cifar10_jpeg", (40, 250, 1000, 4000, "250_long", "4000_long")),
    ("wrn_28_2", "cifar10_jpeg", (40, 250, 1000, 4000)),
    ("wrn_28_2", "cifar10", (40, 250, 4000)),
    ("wrn_28_8", "cifar100", (400, 2500, 4000, 10000)),
    ("wrn_28_2", "svhn", (40, 250, 1000)),
    ("wrn_28_2", "stl10", (40, 250, 1000)),
    ("resnet18", "mini_imagenet", (4000, 10000)),
    ("resnet50", "imagenet", ("1pct", "10pct")),
)
_NAMED = [
    f"{arch}.{method}_{dataset}_{labels}"
    for arch, dataset, budgets in _ZOO
    for labels in budgets
    for method in ZOO_METHODS
]
_IDENTITY = ("arch", "method", "dataset", "labels", "variant")


def recipe_names() -> list[str]:
    """The recipes that are named; :func:`get_recipe` composes others of the same grammar too."""
    return list(_NAMED)


def parse_name(name: str) -> dict[str, Any]:
    """Splits ``{arch}.{method}_{dataset}_{labels}[_{variant}]`` into its parts.

    Raises:
        InputError: The name does not follow the grammar, or a part of it is unknown; near names are given.
    """
    methods = sorted(method_names(), key=len, reverse=True)
    datasets = [re.escape(name) for name in sorted(_DATASETS, key=len, reverse=True) if name != "synthetic"]
    datasets.append(r"synthetic:\d+x\d+x\d+x\d+")
    grammar = (
        rf"(?P<arch>[^.@*\s]+)\.(?P<method>{'|'.join(methods)})_(?P<dataset>{'|'.join(datasets)})"
        r"_(?P<labels>\d+(?:pct)?)(_(?P<variant>[a-z0-9_]+))?"
    )
    match = re.fullmatch(grammar, name)
    if match is None or match["arch"] not in _ARCHS or not _has_variant(**match.groupdict(default="")):
        raise InputError(f"recipe {name!r} is unknown: {_wrong_part(name)} (a name is ARCH.METHOD_DATASET_LABELS)")
    labels = match["labels"]
    return {**match.groupdict(default=""), "labels": int(labels) if labels.isdecimal() else labels}


def with_method(name: str, method: str) -> str:
    """The name of the same recipe with another method: ``cnn4.muscle_digits_10`` -> ``cnn4.supervised_digits_10``."""
    return Recipe(**{**parse_name(name), "method": method}).name


def _has_variant(arch: str, dataset: str, variant: str, **_: str) -> bool:
    return not variant or (arch, dataset, variant) in _VARIANTS


def budget_order(labels: int | str) -> tuple[bool, int]:
    """Sorts label budgets: numbers first, then shares such as ``10pct``, each by size."""
    return isinstance(labels, str), int(str(labels).removesuffix("pct"))


def _wrong_part(name: str) -> str:
    """Which part of a name that is none is wrong, and what is near it."""
    arch, dot, tag = name.partition(".")
    if not dot or not tag:
        if arch not in _ARCHS:
            return near(name, (*_ARCHS, *recipe_names()))
        example = next((known for known in _NAMED if known.startswith(f"{arch}.muscle_")), f"{arch}.muscle_cifar10_250")
        return f"it is an architecture; name a recipe of it, such as {example}"
    if arch not in _ARCHS:
        return f"arch {arch!r}; {near(arch, _ARCHS)}"
    methods = [method for method in method_names() if tag.startswith(f"{method}_")]
    if not methods:
        return f"method in {tag!r}; {near(tag.partition('_')[0], method_names())}"
    rest = tag.removeprefix(max(methods, key=len) + "_")
    dataset = next((known for known in sorted(_DATASETS, key=len, reverse=True) if rest.startswith(f"{known}_")), None)
    if rest in _DATASETS:
        return "the label budget is missing, such as _10"
    word = rest.rpartition("_")[0] or rest
    labels, _, variant = rest.removeprefix(f"{dataset}_").partition("_")
    if dataset is None or (word not in _DATASETS and not labels.isdecimal()):
        return f"data set {word!r}; {near(word, _DATASETS)}"
    if not labels.isdecimal() or not variant:
        return f"labels {labels!r}; give a number"
    variants = [known for *place, known in _VARIANTS if place == [arch, dataset]]
    return f"variant {variant!r}; {near(variant, variants) if variants else 'there is none'}"


def get_recipe(name: str, overrides: Mapping[str, str | int | float | bool] | None = None) -> Recipe:
    """Composes a recipe from its name and overrides.

    The defaults come first, then what the data set changes, the architecture on it, the variant, and the overrides. An
    override of a part of the name (``labels=20``) gives the recipe of that other name.

    Args:
        name: ``{arch}.{method}_{dataset}_{labels}[_{variant}]``.
        overrides: Field to value; the method's options are dotted (``muscle.weight``). Text is converted to the field's
            type, anything else must have it.

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
    parts = parse_name(Recipe(**parts).name)  # what was overridden must still be a name of the grammar
    values: dict[str, Any] = {f.name: f.default for f in dataclasses.fields(Recipe)} | parts
    values["options"] = default_options(parts["method"])
    layers = (
        _DATASETS[parts["dataset"].partition(":")[0]],
        _ON.get((parts["arch"], parts["dataset"]), {}),
        _VARIANTS.get((parts["arch"], parts["dataset"].partition(":")[0], parts["variant"]), {}),
        overrides,
    )
    for changes in layers:
        for key, value in changes.items():
            _set(values, key, value)
    return Recipe(**values)


def changes(recipe: Recipe) -> list[str]:
    """The overrides that lead from the named recipe to this one, as ``train`` takes them; the seed apart."""
    named, own = get_recipe(recipe.name).to_dict(), recipe.to_dict()
    words = [f"{k}={v}" for k, v in own.items() if k not in ("seed", "options", "version") and named[k] != v]
    for part, options in recipe.options.items():
        words += [f"{part}.{k}={v}" for k, v in options.items() if named["options"].get(part, {}).get(k) != v]
    return words


def _set(values: dict[str, Any], key: str, value: Any) -> None:
    part, _, option = key.rpartition(".")
    target = values["options"].get(part, {}) if part else values
    if option not in target or option == "options":
        known = [k for k in values if k != "options"] + [f"{p}.{o}" for p, os in values["options"].items() for o in os]
        raise InputError(f"override {key!r} does not exist; {near(key, known)}")
    target[option] = _convert(key, value, target[option])


def _convert(key: str, value: Any, old: Any) -> Any:
    kind = type(old)
    if key == "labels":  # a number or a share
        return int(value) if str(value).isdecimal() else str(value)
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
    raise InputError(f"override {key}={value}: {str(value)!r} is not {_ARTICLE[kind.__name__]} (it is {old!r} now)")


def _require(condition: bool, name: str, value: object, remedy: str) -> None:
    if not condition:
        raise InputError(f"{name}={value} is out of range; {remedy}")
