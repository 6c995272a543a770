"""What a word is that is a part of a recipe's name: a method, a data set or a backbone; for `info`."""

from __future__ import annotations

import inspect
import re
import sys
from typing import Any

import timm

from ..checkpoints.listing import architecture_parameters
from ..data import dataset_info
from ..data.catalog import FOLDER, SYNTHETIC, dataset_names
from ..methods import (
    METHODS,
    Muscle,
    base_of,
    default_options,
    learns_from_teacher,
    method_names,
    takes_embeddings,
    takes_steps,
    trains_classifier,
)
from ..recipes import get_recipe
from ..recipes.defaults import EMBEDDED
from ..recipes.names import is_name, recipe_names

Parts = dict[str, list[str]]
_ARXIV = re.compile(r"arXiv (\d{4}\.\d{4,5})")
_SHOWN = 4  # recipes, or weights
_CLASSES = 20
_WHERE = {
    "digits": "it is in this package",
    **dict.fromkeys(("imagenet", "mini_imagenet"), "your own copy, --data DIR: its license forbids passing it on"),
}
_DOWNLOADED = "--data DIR (default: $MUSCLE_ZOO_DATA, or data/); what is not there is downloaded into it"


def is_word(name: str) -> bool:
    """Whether a name is that of a method, a data set or a backbone.

    Example:
        >>> [is_word(name) for name in ("muscle_fixmatch", "digits", "cnn4", "cnn4.muscle_digits_10", "mypics")]
        [True, True, True, False, False]
    """
    is_synthetic = name.startswith(f"{SYNTHETIC}:")
    return (
        name in method_names() or name in dataset_names() or is_synthetic or ("." not in name and timm.is_model(name))
    )


def about(name: str) -> tuple[dict[str, Any], Parts]:
    """What is known of a word: its facts, and the same as titles and lines for people.

    Args:
        name: One of which :func:`is_word` is true.

    Raises:
        InputError: It is a size of ``synthetic`` that there is not.

    Example:
        >>> facts, parts = about("fixmatch")
        >>> facts["kind"], facts["options"]["fixmatch.threshold"], list(parts)
        ('method', 0.95, ['What it is', 'Options', 'Use it'])
    """
    if name in method_names():
        return _method(name)
    if name in dataset_names() or name.startswith(f"{SYNTHETIC}:"):
        return _dataset(name)
    return _backbone(name)


def recipe_of_method(name: str) -> str:
    """The name of a small recipe of a method, as an example.

    Example:
        >>> recipe_of_method("muscle"), recipe_of_method("knn")
        ('cnn4.muscle_digits_10', 'tf_efficientnet_lite0.knn_digits_40_frozen')
    """
    return f"cnn4.{name}_digits_10" if takes_steps(name) else f"{next(iter(EMBEDDED))}.{name}_digits_40_frozen"


def _method(name: str) -> tuple[dict[str, Any], Parts]:
    base = base_of(name)
    what = [_first_line(sys.modules[METHODS[base].__module__])]
    papers = [_first_line(METHODS[base])]
    if name != base:
        own = [_first_line(sys.modules[Muscle.__module__]).rstrip(".") + f"; here {base}"]
        what, papers = [*own, *([] if base == "supervised" else what)], [_first_line(Muscle), *papers]
    links = [f"https://arxiv.org/abs/{number}" for text in papers for number in _ARXIV.findall(text)]
    options = {f"{part}.{key}": value for part, own in default_options(name).items() for key, value in own.items()}
    told = {part: _described_options(Muscle if part == "muscle" else METHODS[part]) for part in default_options(name)}
    of_recipe = get_recipe(recipe_of_method(name)).options
    rows = []
    for key, value in options.items():
        part, _, option = key.partition(".")
        used = of_recipe[part][option]  # recipes of few steps have values of their own, and these are what runs
        here = "" if used == value else f"; {_shown(used)} in {recipe_of_method(name)}"
        rows.append((f"{key}={_shown(value)}", told[part].get(option, "") + here))
    facts = {"kind": "method", "name": name, "what": " ".join(what), "papers": links, "options": options}
    parts = {"What it is": ["a method", *what, *(text for text in papers if text not in what), *links]}
    if rows:
        parts["Options"] = [f"{option}: {text}" if text else option for option, text in rows]
    return facts, parts | {"Use it": _uses_of_method(name, list(options))}


def _uses_of_method(name: str, options: list[str]) -> list[str]:
    recipe = recipe_of_method(name)
    teacher = " teacher=cnn4.muscle_digits_10" if learns_from_teacher(name) else ""
    lines = [f"muscle-zoo train {recipe}{teacher}"]
    if not trains_classifier(name):
        lines.append(f"muscle-zoo train cnn4.muscle_digits_10 init=runs/{recipe}/seed0  # pre-trained by it")
    elif takes_embeddings(name):
        lines.append(f"muscle-zoo train my_pictures/ --methods {name}")
    return [*lines, *([f"an option is changed by {options[0]}=VALUE behind the name"] if options else [])]


def _first_line(thing: object) -> str:
    return (inspect.getdoc(thing) or "").partition("\n\n")[0].replace("\n", " ").replace("``", "")


def _described_options(cls: type) -> dict[str, str]:
    """The first sentence on each argument in a class's docstring."""
    _, _, text = (inspect.getdoc(cls) or "").partition("Args:\n")
    text = re.split(r"\n\n", text)[0]
    found = re.findall(r"^    (\w+): (.*(?:\n {8,}.*)*)", text, flags=re.MULTILINE)
    sentences = {key: re.split(r"(?<=[a-z\d)]\.)\s", " ".join(told.split()))[0] for key, told in found}
    return {key: sentence.rstrip(".").replace("``", "") for key, sentence in sentences.items()}


def _shown(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _dataset(name: str) -> tuple[dict[str, Any], Parts]:
    if name in (FOLDER, SYNTHETIC):
        what = (
            "your own pictures, a folder or CSV" if name == FOLDER else "random images of any size, to try things out"
        )
        uses = ["muscle-zoo data check my_pictures/", "muscle-zoo train my_pictures/"]
        if name == SYNTHETIC:
            uses = ["muscle-zoo train cnn4.muscle_synthetic:3x32x32x10_40"]
        return {"kind": "data set", "name": name, "what": what}, {"What it is": [f"a data set: {what}"], "Use it": uses}
    info = dataset_info(name)
    channels, height, width = info.input_size
    where = "it is made when it is asked for" if name.startswith(SYNTHETIC) else _WHERE.get(name, _DOWNLOADED)
    names = ", ".join(info.class_names[:_CLASSES]) + (", ..." if info.num_classes > _CLASSES else "")
    facts = {
        "kind": "data set",
        "name": name,
        "what": info.title,
        "classes": list(info.class_names),
        "input_size": list(info.input_size),
        "train_size": info.train_size,
        "test_size": info.test_size,
        "where": where,
        "license": info.license,
        "homepage": info.homepage,
    }
    lines = [
        f"a data set: {info.title}",
        f"{info.num_classes} classes: {names}",
        f"images: {info.train_size:,} for training, {info.test_size:,} for the test, "
        f"{'gray' if channels == 1 else 'RGB'}, {height}x{width} pixels",
        f"where from: {where}",
        f"license {info.license}; {info.homepage}",
    ]
    named = [recipe for recipe in recipe_names() if f".muscle_{name}_" in recipe and not recipe.endswith("_frozen")]
    recipes = named[:_SHOWN] or [f"cnn4.muscle_{name}_{4 * info.num_classes}"]
    return facts, {
        "What it is": lines,
        "Use it": [f"muscle-zoo data show {name}", *map("muscle-zoo train {}".format, recipes)],
    }


def _backbone(name: str) -> tuple[dict[str, Any], Parts]:
    parameters = architecture_parameters(name)
    weights = [*([EMBEDDED[name]] if name in EMBEDDED else []), *timm.list_pretrained(f"{name}.*")]
    cls = _first_line(timm.models.model_entrypoint(name)).partition(";")[0].rstrip(".")
    facts = {"kind": "backbone", "name": name, "what": cls, "parameters": parameters, "weights": weights}
    lines = [f"a backbone, {parameters:,} parameters with its own classifier" + (f": {cls}" if cls else "")]
    if weights:
        more = f", and {len(weights) - _SHOWN} more" if len(weights) > _SHOWN else ""
        lines.append(f"pretrained weights: {', '.join(weights[:_SHOWN])}{more}")
    named = [recipe for recipe in recipe_names() if recipe.startswith(f"{name}.muscle_")]
    named += filter(is_name, weights)
    recipe = named[0] if named else f"{name}.muscle_cifar10_250"
    uses = [f"muscle-zoo train {recipe}"]
    if foreign := [weight for weight in weights if not is_name(weight)]:
        uses.append(f"muscle-zoo train my_pictures/ --backbone {foreign[0]}")
    return facts, {"What it is": lines, "Use it": uses}
