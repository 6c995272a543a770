"""What was found in a folder of pictures, and what is to be done with it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from ..data.images import UNKNOWN
from ..data.listing import Labeled, Listing
from ..data.picture_folder import find_pictures
from ..data.picture_survey import Survey, survey
from ..errors import InputError, suggest
from ..recipes import Recipe
from ..recipes.defaults import PRETRAINED
from .choices import CONTROL, FALLBACK, Choices, Value, can_be_exported
from .findings import Found
from .folds import number_of_folds

FORMAT = 1  # of plan.json; goes up when the same settings would give other folds or predictions
SMALL = 96  # pixels of a picture's longer side, up to which enlarging it to 224 shows a network nothing more
SIDES = (128, 192)  # that such pictures become; hub_cards/studies/pretrained.md has what either gives
MANY = 2000  # pictures, from which on two draws of each view are embedded rather than four: half of the time
LEAST_MU = 2  # unlabeled pictures of a step for each labeled one
LOPSIDED = 5  # times as many labels of a class as of another, from which on it is said what may be done about it
FEW = 5  # labels of a class, below which a comparison says little of it


@dataclass(frozen=True)
class Plan:
    """What is to be done with a user's pictures.

    Attributes:
        listing: The pictures.
        found: How many there are.
        side: Of the images that they become, in pixels; 0 where they keep their size.
        gray: Whether all are gray.
        recipes: Of the methods that are compared, by name, the control first.
        folds: Of the cross-validation; 0 where nothing can be held out.
        repeats: How often the labeled pictures are divided.
        warnings: What the user should know, a sentence each.
        may_be_larger: Whether the pictures are small, and their side is to be chosen by the time there is.
    """

    listing: Listing
    found: Found
    side: int
    gray: bool
    recipes: dict[str, Recipe]
    folds: int
    repeats: int
    warnings: tuple[str, ...]
    may_be_larger: bool = False

    @property
    def classes(self) -> tuple[str, ...]:
        """Their names."""
        return self.listing.class_names

    @property
    def control(self) -> Recipe:
        """The recipe of the linear probe, which every other shares its embeddings with."""
        return self.recipes[CONTROL]

    @property
    def fallback(self) -> str:
        """The method that is taken where nothing can be compared."""
        others = [method for method in self.recipes if method != CONTROL and can_be_exported(method)]
        return FALLBACK if FALLBACK in others else (others or [CONTROL])[0]

    @property
    def settings(self) -> dict[str, Any]:
        """What decides the folds and what is predicted for them: plan.json."""
        recipes = {method: recipe.to_dict() for method, recipe in self.recipes.items()}
        return {
            "format": FORMAT,
            "backbone": self.control.init,
            "folds": self.folds,
            "repeats": self.repeats,
            "methods": list(self.recipes),
            "recipes": recipes,
        }


def make_plan(root: Path, choices: Choices, small_side: int = SIDES[0]) -> Plan:
    """Looks at a user's pictures, at their headers and no more, and decides what is to be done.

    Args:
        root: A folder or CSV, see :func:`muscle_zoo.data.picture_folder.find_pictures`.
        choices: What the user wants otherwise.
        small_side: What small pictures become, in pixels, where the user does not say it.

    Raises:
        InputError: There is no such folder, it cannot be understood, or a choice does not fit.
    """
    _require_there(root)
    listing = find_pictures(root)
    headers = survey(listing.root, listing.names)
    found = _found(root, listing, headers)
    if empty := [name for name, count in zip(listing.class_names, found.labeled, strict=True) if not count]:
        raise InputError(
            f"{root}: class {empty[0]!r} has no labeled picture that can be read; label one, or leave it out"
        )
    own = _own_defaults(choices, headers, sum(found.labeled) + found.unlabeled, small_side)
    fold = "test" if any(found.test) else "labeled"
    recipes = {method: choices.recipe(method, own, fold) for method in choices.compared(found.unlabeled)}
    _require_overrides_used(choices, recipes)
    labels = [label for name, label in listing.train if label != UNKNOWN and name not in headers.bad]
    folds, repeats = number_of_folds(labels, len(listing.class_names), choices.folds)
    gray = headers.gray == sum(headers.sizes.values())
    side = recipes[CONTROL].image_size
    is_balanced = choices.overrides.get("sampling") == "balanced"
    warnings = _warnings(found, listing, folds, is_balanced)
    may_be_larger = own.get("image_size") == SIDES[0] and "image_size" not in choices.overrides
    return Plan(listing, found, side, gray, recipes, folds, repeats, warnings, may_be_larger)


def _require_there(root: Path) -> None:
    if root.exists():
        return
    parent = root.parent
    near = suggest(str(root), [str(path) for path in parent.iterdir()]) if parent.is_dir() else f"{parent} neither"
    raise InputError(f"{root} does not exist; {near}")


def _found(root: Path, listing: Listing, headers: Survey) -> Found:
    def counts(part: Labeled) -> Counter[int]:
        return Counter(label for name, label in part if name not in headers.bad)

    train, test = counts(listing.train), counts(listing.test)
    classes = range(len(listing.class_names))
    return Found(
        data=str(root.expanduser().resolve()),
        root=str(listing.root),
        labeled=tuple(train[label] for label in classes),
        unlabeled=train[UNKNOWN],
        test=tuple(test[label] for label in classes),
        unreadable=tuple(headers.bad),
    )


def _own_defaults(choices: Choices, headers: Survey, pictures: int, small_side: int) -> dict[str, Value]:
    """What the pictures make of the recipes' defaults."""
    frozen = PRETRAINED["frozen"]
    # Evaluated once, at the end: whoever watched the test pictures' accuracy on the way could stop by it.
    own: dict[str, Value] = {"eval_every": _at_the_end(choices.overrides.get("steps", frozen["steps"]))}
    if pictures > MANY:
        own["embedding_views"] = 2
    if "mu" not in choices.overrides and "batch_size" not in choices.overrides:
        # A step of more pictures than there are would hold each of them several times, and take as much longer.
        own["mu"] = max(LEAST_MU, min(frozen["mu"], -(-pictures // frozen["batch_size"])))
    sides = [max(size) for size, count in headers.sizes.items() for _ in range(count)]
    default = choices.recipe(CONTROL, {}, "test").image_size
    if sides and default and median(sides) <= SMALL:
        own["image_size"] = min(default, small_side)
    return own


def _at_the_end(steps: Value) -> int:
    """The steps, if they are a number of some: that they are none is said of them, not of what follows from them."""
    return int(steps) if str(steps).isdecimal() and int(steps) else 1


def _require_overrides_used(choices: Choices, recipes: dict[str, Recipe]) -> None:
    """Refuses an option of a method that is not compared: it would change nothing."""
    for key in choices.overrides:
        part, dot, _ = key.partition(".")
        if dot and not any(part in recipe.options for recipe in recipes.values()):
            raise InputError(f"override {key!r} is of no method that is compared; add it (--methods), or leave it out")


def _warnings(found: Found, listing: Listing, folds: int, is_balanced: bool) -> tuple[str, ...]:
    names = listing.class_names
    single = [name for name, count in zip(names, found.labeled, strict=True) if count == 1]
    warnings = []
    if not folds:
        warnings.append("each class has one label, so nothing can be held out and nothing is compared")
    elif single:
        warnings.append(f"of {', '.join(single[:5])} nothing is held out, for there is one label of each")
    elif min(found.labeled) < FEW:
        warnings.append(f"some classes have fewer than {FEW} labels, so the comparison is a rough one")
    if max(found.labeled) >= LOPSIDED * min(found.labeled) and not is_balanced:
        warnings.append(
            f"some classes have {LOPSIDED} times as many labels as others or more: sampling=balanced shows methods "
            "that take steps each class equally often, which favors the rare ones"
        )
    if not found.unlabeled:
        warnings.append("there are no unlabeled pictures, so what would learn from them is not tried unasked")
    if not any(found.test):
        known = "the accuracy is the cross-validated one alone" if folds else "how good it will be cannot be told"
        warnings.append(f"there are no test pictures: {known}")
    if listing.validation:
        warnings.append("the validation pictures are not used: what is compared is the labels, by cross-validation")
    return tuple(warnings)
