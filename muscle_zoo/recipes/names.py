"""The one grammar of names, ``{arch}.{method}_{dataset}_{labels}[_{variant}]``: of recipes, checkpoints, rows."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import SequenceMatcher, get_close_matches
from typing import Any

import timm

from ..errors import InputError, suggest
from ..methods import method_names, trains_classifier
from .defaults import DATASETS, PRETRAINED, VARIANTS

__all__ = ["ZOO", "ZOO_METHODS", "budget_order", "make_name", "parse_name", "recipe_names", "with_method"]

ZOO_METHODS = ("supervised", "muscle", "fixmatch", "muscle_fixmatch")  # two that are published, each with its control
# The named recipes: what `list` shows. Any other name of the grammar composes just as well.
ZOO: tuple[tuple[str, str, tuple[int | str, ...]], ...] = (
    ("cnn4", "digits", (10, 20, 40, 100)),
    ("wrn_16_2", "fashion_mnist", (40, 250, 1000)),
    ("test_resnet", "fashion_mnist", (40, 250, 1000)),  # timm's own, so that plain timm loads it
    ("wrn_16_2", "cifar10_jpeg", (40, 250, 1000, 4000, "250_long", "4000_long")),
    ("wrn_28_2", "cifar10_jpeg", (40, 250, 1000, 4000)),
    ("tf_efficientnet_lite0", "cifar10_jpeg", ("40_frozen", "250_frozen", "4000_frozen", "250_finetuned")),
    ("wrn_28_2", "cifar10", (40, 250, 4000)),
    ("wrn_28_8", "cifar100", (400, 2500, 4000, 10000)),
    ("wrn_28_2", "svhn", (40, 250, 1000)),
    ("wrn_28_2", "stl10", (40, 250, 1000)),
    ("resnet18", "mini_imagenet", (4000, 10000)),
    ("resnet50", "imagenet", ("1pct", "10pct")),
)


def make_name(arch: str, method: str, dataset: str, labels: int | str, variant: str = "") -> str:
    """Joins the parts of a name; they are not checked, see :func:`parse_name`.

    Args:
        arch: A timm architecture, such as ``cnn4``.
        method: Such as ``muscle_fixmatch``.
        dataset: Such as ``digits``.
        labels: Label budget: a number, or a share such as ``10pct``.
        variant: Such as ``long``; empty for none.
    """
    return f"{arch}.{method}_{dataset}_{labels}" + (f"_{variant}" if variant else "")


_NAMED = [
    make_name(arch, method, dataset, labels)
    for arch, dataset, budgets in ZOO
    for labels in budgets
    for method in ZOO_METHODS
]


def recipe_names() -> list[str]:
    """The names that ``list`` shows: those of :data:`ZOO`. Others compose just as well."""
    return list(_NAMED)


def _one_of(patterns: Iterable[str]) -> str:
    """A regular expression for one of these, the longest that fits: ``cifar10_jpeg`` before ``cifar10``."""
    return "|".join(sorted(patterns, key=len, reverse=True))


ALL = "100pct"  # what the budget `all` stands for
MAX_DIGITS = 18  # of a label budget; Python refuses to read numbers of thousands of digits
_SYNTHETIC = "synthetic:[0-9]+x[0-9]+x[0-9]+x[0-9]+"  # the one data set whose name has parts of its own
_DATASET = _one_of([_SYNTHETIC, *(re.escape(name) for name in DATASETS if name != "synthetic")])
_METHOD = re.compile(f"({_one_of(method_names())})_")
_LABELS = re.compile(f"[0-9]{{1,{MAX_DIGITS}}}(pct)?")
_PARTS = ("arch", "method", "dataset", "labels", "variant")
# Methods and data sets have underscores themselves, so the known data set is what divides a tag.
_TAG = re.compile(f"(?P<method>.+?)_(?P<dataset>{_DATASET})(_(?P<labels>[^_]*)(_(?P<variant>.*))?)?", re.DOTALL)


def parse_name(name: str) -> dict[str, Any]:
    """Splits a name into its parts: what :func:`make_name` takes.

    Raises:
        InputError: The name does not follow the grammar, or a part of it is unknown; near names are given.

    Example:
        >>> parse_name("cnn4.muscle_digits_10")
        {'arch': 'cnn4', 'method': 'muscle', 'dataset': 'digits', 'labels': 10, 'variant': ''}
    """
    arch, _, tag = name.partition(".")
    if not tag:
        raise _unknown(name, _without_tag(arch))
    if not timm.is_model(arch):
        raise _unknown(name, f"arch {arch!r}; {suggest(arch, timm.list_models())}")
    match = _TAG.fullmatch(tag)
    if match is None:
        raise _unknown(name, _without_dataset(tag))
    method, dataset, labels, variant = match["method"], match["dataset"], match["labels"], match["variant"]
    if method not in method_names():
        raise _unknown(name, f"method {method!r}; {_instead_of(method)}")
    if labels is None:
        raise _unknown(name, "the label budget is missing, such as _10")
    labels = ALL if labels == "all" else labels
    budget = _LABELS.fullmatch(labels)
    if budget is None and variant is None:
        raise _unknown(name, f"labels {labels!r}; give a number")
    if budget is None:  # as in cifar10_jpg_40: more of the data set's name rather than a budget
        word = tag.removeprefix(f"{method}_").rpartition("_")[0]
        raise _unknown(name, f"data set {word!r}; {suggest(word, DATASETS)}")
    if variant is not None and (arch, dataset, variant) not in VARIANTS and variant not in PRETRAINED:
        variants = [*PRETRAINED, *(known for *place, known in VARIANTS if place == [arch, dataset])]
        raise _unknown(name, f"variant {variant!r}; {suggest(variant, variants)}")
    number = labels if budget[1] else int(labels)
    return {"arch": arch, "method": method, "dataset": dataset, "labels": number, "variant": variant or ""}


def is_name(text: str) -> bool:
    """Whether a text follows the grammar, and all its parts are known."""
    try:
        parse_name(text)
    except InputError:
        return False
    return True


def looks_like_a_name(text: str) -> bool:
    """Whether a text has the parts of a name, or begins to, whether or not there are such.

    Example:
        >>> [looks_like_a_name(text) for text in ("cnn5.vut_digits_10", "cnn4.muscle_digit_10", "resnet18.a1_in1k")]
        [True, True, False]
    """
    tag = text.partition(".")[2]
    return bool(_parts(text)) or _METHOD.match(tag) is not None or tag in method_names()


def suggest_names(name: str, known: Iterable[str], n: int = 3) -> str:
    """Says which known names are next to one: first those that differ in one part, and not in the data set.

    Args:
        name: What was typed.
        known: Names that there are.
        n: How many to offer at most.

    Returns:
        As :func:`muscle_zoo.errors.suggest`.

    Example:
        >>> suggest_names("cnn4.vat_digits_30", ["cnn4.vat_mnist_30", "cnn4.vat_digits_200", "cnn4.uda_mnist_3"])
        "did you mean 'cnn4.vat_digits_200', 'cnn4.vat_mnist_30'?"
    """
    known = sorted(set(known))
    parts = _parts(name)
    others = {other: [key for key, part in _parts(other).items() if part != parts.get(key)] for other in known}
    least = min((len(differ) for differ in others.values()), default=len(_PARTS))
    if not parts or least > 2:
        return suggest(name, known, n)
    alike = {other: SequenceMatcher(None, name, other).ratio() for other in known}
    ranked = sorted(
        (other for other in known if len(others[other]) == least), key=lambda x: ("dataset" in others[x], -alike[x])
    )
    return "did you mean " + ", ".join(map(repr, ranked[:n])) + "?"


def _parts(name: str) -> dict[str, str]:
    """The parts of a name, whether or not there are such; empty where it has no data set that is known."""
    arch, _, tag = name.partition(".")
    match = _TAG.fullmatch(tag)
    return {"arch": arch, **{key: value or "" for key, value in match.groupdict().items()}} if match else {}


def _instead_of(method: str) -> str:
    """What to write instead of a method that there is not."""
    base = method.removeprefix("muscle_")
    if base != method and base in method_names() and not trains_classifier(base):
        return f"{base} trains no classifier for MUSCLE to compare; pre-train with {base}, then muscle with init=RUN"
    return suggest(method, method_names())


def _unknown(name: str, problem: str) -> InputError:
    return InputError(f"recipe {name!r} is unknown: {problem} (a name is ARCH.METHOD_DATASET_LABELS[_VARIANT])")


def _without_tag(arch: str) -> str:
    """What is wrong with a name that has nothing after a dot."""
    if not timm.is_model(arch):
        what = "a method" if arch in method_names() else "a data set" if arch in DATASETS else ""
        if what:
            example = next((name for name in _NAMED if f".{arch}_" in name or f".muscle_{arch}_" in name), _NAMED[0])
            return f"it is {what}; name a recipe, such as {example}, or ask `muscle-zoo info {arch}`"
        words = [*(zoo_arch for zoo_arch, *_ in ZOO), *method_names(), *DATASETS, *_NAMED]
        return (
            suggest(arch, words)
            if get_close_matches(arch, words, cutoff=0.5)
            else "`muscle-zoo list` shows some, cnn4.muscle_digits_10 is one"
        )
    example = next((name for name in _NAMED if name.startswith(f"{arch}.muscle_")), f"{arch}.muscle_cifar10_250")
    return f"it is an architecture; name a recipe of it, such as {example}"


def _without_dataset(tag: str) -> str:
    """What is wrong with a tag in which no known data set follows anything: the method is, or else the data set."""
    method = _METHOD.match(tag)
    if method is None and tag in method_names():
        return "the data set and the label budget are missing, such as _digits_10"
    if method is None:
        word = tag.partition("_")[0]
        return f"method {word!r}; {suggest(word, method_names())}"
    rest = tag[method.end() :]
    word = rest.rpartition("_")[0] or rest
    return f"data set {word!r}; {suggest(word, DATASETS)}"


def with_method(name: str, method: str) -> str:
    """The name of the same recipe with another method: ``cnn4.muscle_digits_10`` -> ``cnn4.supervised_digits_10``."""
    return make_name(**{**parse_name(name), "method": method})


def budget_order(labels: int | str) -> tuple[bool, int]:
    """Sorts label budgets: numbers first, then shares such as ``10pct``, each by size."""
    return isinstance(labels, str), int(str(labels).removesuffix("pct"))
