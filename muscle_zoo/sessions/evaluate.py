"""A checkpoint is evaluated on the images that its recipe names, and compared with the figure it was published with."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..checkpoints import weights
from ..checkpoints.card import BLOCK, as_trained, calibration_of, normalization_said, shown
from ..checkpoints.factory import load_model
from ..checkpoints.preprocessing import preprocessing_fault
from ..checkpoints.target import checkpoint_name
from ..data import DataConfig, dataset_info
from ..data.catalog import FOLDER
from ..engine.attack import attacked_accuracy, parse_attack
from ..engine.build import prepare_data
from ..engine.evaluate import Metrics, evaluate
from ..engine.processes import device_for
from ..engine.run_folder import RunFolder
from ..errors import DownloadError, InputError, MissingDataError, MuscleZooError, Notice, WeightsError, one_line
from ..publishing.verify import Check
from ..recipes import Recipe
from ..recipes.names import parse_name

MADE_UP_LIMIT = 2**31  # bytes of made-up images that a checkpoint may have made
FIELD_LIMIT = 4000  # letters of a recipe's field
TOLERANCE = 0.0005  # 0.05 points: two devices may round a picture or two of a large set to another side


def same_accuracy(here: float, published: float, n: int) -> bool:
    """Whether two accuracies of n images, 0 to 1, are within one image or 0.05 points of each other."""
    return abs(here - published) <= max(1.0 / n, TOLERANCE) + 1e-9


@dataclass(frozen=True)
class Evaluation:
    """What a checkpoint does on the images of its recipe's fold.

    Attributes:
        target: What was asked for.
        name: Its recipe's name.
        origin: Where the weights came from.
        dataset: The data set.
        fold: ``test``, ``dev`` or ``validation``.
        class_names: One per class.
        metrics: Accuracy, likelihood, calibration.
        published_top1: The figure in its config.json, 0 to 1.
        published_n: The number of images that figure is of.
        temperature: What its logits were divided by when it was exported; it is in its weights.
        attack: How the images were changed besides, such as ``pgd:8/255``; empty if they were not.
        attacked_top1: Share of the images that it is right about all the same, 0 to 1.
    """

    target: str
    name: str
    origin: str
    dataset: str
    fold: str
    class_names: tuple[str, ...]
    metrics: Metrics
    published_top1: float
    published_n: int
    temperature: float = 1.0
    attack: str = ""
    attacked_top1: float | None = None

    @property
    def per_class(self) -> dict[str, float | None]:
        """Accuracy of each class, 0 to 1; None for a class without images."""
        return dict(zip(self.class_names, self.metrics.per_class, strict=True))

    @property
    def reproduced(self) -> bool | None:
        """Whether it is the published figure, within one image or 0.05 points; None where the images are others."""
        if self.metrics.n != self.published_n:
            return None
        return same_accuracy(self.metrics.top1, self.published_top1, self.published_n)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as ``eval --json`` prints them."""
        return {
            "target": self.target,
            "name": self.name,
            "origin": self.origin,
            "dataset": self.dataset,
            "fold": self.fold,
            **{key: value for key, value in self.metrics.to_dict().items() if key != "per_class"},
            "per_class": self.per_class,
            "temperature": self.temperature,
            **({"attack": self.attack, "attacked_top1": self.attacked_top1} if self.attack else {}),
            "published": {"top1": self.published_top1, "n": self.published_n, "reproduced": self.reproduced},
        }


def _require_same_classes(target: str, trained_on: Sequence[str], there: Sequence[str]) -> None:
    if list(there) != list(trained_on):
        theirs, ours = (one_line(", ".join(names)) for names in (trained_on, there))
        raise InputError(
            f"{target} was trained on the classes {theirs}, but the data have {ours}; give data with the same classes"
        )


def evaluate_checkpoint(
    target: str, data: DataConfig | None = None, source: str | None = None, cpu: bool = False, attack: str = ""
) -> Evaluation:
    """Evaluates a checkpoint on the fold its recipe names.

    Args:
        target: A name, a run folder, ``local-dir:PATH`` or ``hf-hub:REPO``.
        data: Where the data are, and how they are read.
        source: ``hub`` to take a name's weights from the Hugging Face Hub although they are on disk.
        cpu: Stay on the CPU, although there is an accelerator.
        attack: Change the images to mislead it, too: ``pgd:EPSILON[:STEPS]``, see :mod:`muscle_zoo.engine.attack`.

    Returns:
        The metrics, beside the published figure.

    Raises:
        InputError: The target is not there, was not made by muscle_zoo, or the data have other classes.
    """
    attacked = parse_attack(attack) if attack else None
    checkpoint = weights.resolve(checkpoint_name(target), source)
    recipe, published, n = read_block(target, checkpoint.config)
    if recipe.dataset == FOLDER and (data is None or data.root is None):
        data = remembered_data(checkpoint_name(target), data or DataConfig())
    recipe_of_images = replace(evaluated_recipe(target, recipe), init="")  # config.json says what init's weights said
    prepared = prepare_data(recipe_of_images, data, normalization=normalization_said(checkpoint.config))
    info = prepared.dataset.info
    _require_same_classes(target, checkpoint.config.get("label_names", []), info.class_names)
    model = load_model(checkpoint)
    if fault := preprocessing_fault(model, as_trained(info, checkpoint.config)):
        warnings.warn(f"{target}: {fault}; so `predict` does not reach these figures", stacklevel=2)
    model = model.to(device_for(cpu))
    try:
        metrics = evaluate(model, prepared.evaluation, info)
        attacked_top1 = None if attacked is None else attacked_accuracy(model, prepared.evaluation, info, attacked)
    except MuscleZooError:
        raise
    except RuntimeError as error:  # a network that does not take these images, or not enough memory
        raise WeightsError(
            f"{target} cannot be evaluated on {info.name} ({one_line(error)}); give other data"
        ) from error
    if not math.isfinite(metrics.nll):
        raise WeightsError(f"{target}: its logits are not finite on {info.name}; download or export it again")
    return Evaluation(
        target,
        recipe.name,
        checkpoint.origin,
        info.name,
        recipe.fold,
        info.class_names,
        metrics,
        published,
        n,
        calibration_of(checkpoint.config)["temperature"],
        attack,
        attacked_top1,
    )


def remembered_data(name: str, data: DataConfig) -> DataConfig:
    """Where the pictures were that a run was trained on, as its status.json tells; unchanged where nothing tells.

    Raises:
        InputError: They are not there any more.
    """
    run = Path(name.removeprefix(weights.LOCAL_DIR)).parent
    root = RunFolder(run).read_status().get("data") if name.startswith(weights.LOCAL_DIR) else None
    if not isinstance(root, str) or not root:
        return data
    if not Path(root).exists():
        raise InputError(f"{run} was trained on {one_line(root)}, which does not exist now; say where it is (--data)")
    warnings.warn(f"on the pictures that {run} was trained with: {one_line(root)}", Notice, stacklevel=3)
    return replace(data, root=Path(root))


def check_accuracy(target: str, data: DataConfig | None = None, source: str | None = None, cpu: bool = False) -> Check:
    """Whether a checkpoint reaches its published figure; arguments as in :func:`evaluate_checkpoint`.

    Returns:
        Passed, failed, or not checked where the data are not to be had: that is no fault of the checkpoint's.
    """
    try:
        evaluation = evaluate_checkpoint(target, data, source, cpu)
    except (MissingDataError, DownloadError) as error:
        return Check("accuracy", None, str(error))
    except MuscleZooError as error:
        return Check("accuracy", False, str(error))
    text = f"top-1 {100 * evaluation.metrics.top1:.2f} % of {evaluation.metrics.n} images"
    if not evaluation.reproduced:
        text += f", {100 * evaluation.published_top1:.2f} % of {evaluation.published_n} was promised"
    return Check("accuracy", evaluation.reproduced is True, text)


def read_block(target: str, config: dict[str, Any]) -> tuple[Recipe, float, int]:
    """What config.json says of the training: the recipe, the published accuracy, and on how many images.

    Raises:
        WeightsError: It says nothing, or nothing that can be.
        InputError: It is of a network without a classifier, which has no accuracy.
    """
    recipe = read_recipe(target, config)
    require_classifier(target, config)
    try:
        metrics = config[BLOCK]["metrics"]
        return recipe, float(metrics["top1"]), int(metrics["n"])
    except (LookupError, TypeError, ValueError) as error:
        raise WeightsError(_damaged(target, repr(error))) from None


def require_classifier(target: str, config: dict[str, Any]) -> None:
    """Refuses a network without a classifier.

    Raises:
        InputError: It is one.
    """
    if config.get("num_classes") == 0:
        raise InputError(f"{target} has no classifier: it was pre-trained without labels; begin with it, init={target}")


def _damaged(target: str, reason: str) -> str:
    return f"{target}: the muscle_zoo block of config.json is damaged ({reason}); download or export it again"


def read_recipe(target: str, config: dict[str, Any]) -> Recipe:
    """The recipe that config.json says the weights were trained by.

    Raises:
        WeightsError: It says none, or none that can be.
    """
    block = config.get(BLOCK)
    if not block:
        raise WeightsError(
            f"{target}: config.json has no muscle_zoo block, so its data set is not known; export it with muscle_zoo"
        )
    try:
        values = block["recipe"]
        if too_long := [key for key, value in values.items() if isinstance(value, str) and len(value) > FIELD_LIMIT]:
            raise ValueError(f"{shown(too_long[0])} is longer than {FIELD_LIMIT} letters")
        recipe = Recipe.from_dict(values)
        if parse_name(recipe.name)["dataset"] != "folder":
            info = dataset_info(recipe.dataset)
            size = (info.train_size + info.test_size) * math.prod(info.input_size)
            if recipe.dataset.startswith("synthetic") and size > MADE_UP_LIMIT:
                raise ValueError(f"dataset={recipe.dataset} would take {size} bytes")
        return recipe
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        reason = one_line(error) if isinstance(error, InputError) else repr(error)
        raise WeightsError(_damaged(target, reason)) from None


def evaluated_recipe(target: str, recipe: Recipe) -> Recipe:
    """The recipe as far as it decides what is evaluated on; no file that it names is opened.

    The images of the test and dev folds do not depend on which images were labeled. Those of the validation and labeled
    folds do, and a list of them in a file is no part of the checkpoint: whoever made it could name any file of this
    machine.

    Raises:
        WeightsError: The images are those that a file lists.
    """
    if recipe.fold not in ("validation", "labeled"):
        return replace(
            recipe, labels="100pct", bias="none", unlabeled_bias="none", mismatch=0.0, validation=0.0, split=""
        )
    if recipe.split:
        raise WeightsError(
            f"{target}: recipe.split={shown(recipe.split)} names a file, and eval opens none that a checkpoint names; "
            "train with fold=test or fold=dev to evaluate without it"
        )
    return recipe
