"""A recipe's data, network and optimizer."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
from timm.optim import create_optimizer_v2, list_optimizers
from torch import Tensor, nn

from ..checkpoints.architecture import build_arguments, require_fit
from ..checkpoints.factory import Normalization, normalization_of
from ..data import (
    Budget,
    DataConfig,
    DataSet,
    DataSetInfo,
    ImageSource,
    LabeledImages,
    Split,
    at_size,
    load_dataset,
    make_split,
    restrict,
)
from ..data.catalog import FOLDER
from ..data.data_root import data_root
from ..data.embedded import EmbeddedImages
from ..data.held_out import dev_part, validation_share
from ..data.label_noise import with_label_noise
from ..data.machine import free_memory
from ..data.picture_folder import find_pictures
from ..data.split_files import parse_given
from ..errors import InputError, Notice, suggest
from ..files import require_no_pipe
from ..methods import trains_classifier
from ..recipes import Recipe
from .starting_weights import with_starting_weights
from .state import optimizer_state
from .tuning import freeze

DEVICE_SHARE = 0.5  # of the device's free memory


@dataclass(frozen=True)
class Data:
    """What a recipe is trained and evaluated on.

    Attributes:
        dataset: The data set, restricted to the task's classes.
        split: Which images are labeled, and which form the unlabeled pool.
        evaluation: The images it is evaluated on: those of the recipe's fold.
        source: The user's folder or CSV, if that is what the data are; empty for a data set with a name.
        head: The classifier to train, where the images are embeddings of a frozen backbone.
        true_labels: Of all training images, ``(N,)``, where those of the data set were made wrong on purpose.
    """

    dataset: DataSet
    split: Split
    evaluation: ImageSource
    source: str = ""
    head: nn.Module | None = None
    true_labels: Tensor | None = None


def own_folder(recipe: Recipe, source: DataConfig | None) -> str:
    """The whole path of the user's folder or CSV, if the recipe is one for it; empty for a data set with a name."""
    if recipe.dataset != FOLDER or source is None or source.root is None:
        return ""
    return str(Path(source.root).expanduser().resolve())


def prepare_data(
    recipe: Recipe,
    source: DataConfig | None = None,
    loaded: DataSet | None = None,
    normalization: Normalization | None = None,
) -> Data:
    """Loads a recipe's data set, makes its split, and picks the images it is evaluated on.

    Its ``info`` has the mean and standard deviation by which images are normalized: those of the weights that the
    recipe starts from, else the data set's own.

    Args:
        recipe: What to load.
        source: Where the data are, and how they are read.
        loaded: The recipe's data set, if it is loaded already; see :func:`muscle_zoo.data.at_size`.
        normalization: Mean and standard deviation, where they are known already; ``init`` is not looked at then.

    Raises:
        InputError: The data set is unknown or not whole, or the label budget does not fit it.
        WeightsError: There are no weights as ``init`` names them.
        DownloadError: The data set is not there and could not be downloaded, or ``init`` is not.
    """
    if loaded is None and source is not None and own_folder(recipe, source):
        _require_evaluation(recipe, data_root(FOLDER, source))
    dataset = load_dataset(recipe.dataset, source, recipe.image_size) if loaded is None else loaded
    dataset, split = split_of(recipe, at_size(dataset, recipe.image_size))
    if normalization is None and recipe.init:
        normalization = normalization_of(recipe.init, dataset.info)
    if normalization is not None:
        mean, std = normalization
        dataset = replace(dataset, info=replace(dataset.info, mean=mean, std=std))
    evaluation = dataset.test if recipe.fold == "test" else known_classes(dataset.train, split.held_out)
    if _has_validation_part(recipe, dataset) and dataset.validation is not None:
        evaluation = dataset.validation
    if not len(evaluation):
        raise _nothing_to_evaluate_on(recipe, dataset.train.labels.tolist())
    train, classes = dataset.train, dataset.info.num_classes  # the split was made with the right labels
    noisy = with_label_noise(train.labels, split.labeled, classes, recipe.label_noise, recipe.seed)
    true_labels = None if noisy is train.labels else train.labels
    if true_labels is not None:
        dataset = replace(dataset, train=train.with_labels(noisy))
    return Data(dataset, split, evaluation, own_folder(recipe, source), true_labels=true_labels)


def _require_evaluation(recipe: Recipe, folder: Path) -> None:
    """Refuses the user's own pictures that have none to evaluate on, by their names: to read them may take minutes."""
    listing = find_pictures(folder)
    labels, names = [label for _, label in listing.train], listing.class_names
    if recipe.fold == "test" and not listing.test:
        raise _nothing_to_evaluate_on(recipe, labels)
    if recipe.fold == "validation" and not listing.validation and not recipe.validation:
        validation_share(FOLDER, [], labels, names, recipe.fold, recipe.validation, recipe.seed)
    if recipe.fold == "dev" and not can_hold_out(labels):
        dev_part(FOLDER, labels, names)


def _nothing_to_evaluate_on(recipe: Recipe, labels: Sequence[int]) -> InputError:
    """What to add where a fold has no images."""
    pictures = "test pictures (test/CLASS/, in a CSV split=test)"
    remedy = f"add fold=dev, which holds out a fifth of the labels, or {pictures}"
    if not can_hold_out(labels):
        remedy = f"add {pictures}, or label two of a class or more and add fold=dev"
    return InputError(f"fold={recipe.fold}: {recipe.dataset} has no such images; {remedy}")


def can_hold_out(labels: Sequence[int]) -> bool:
    """Whether a class has a label that can be held out of training, beside one to learn from."""
    return max(Counter(label for label in labels if label >= 0).values(), default=0) > 1


def fold_to_measure(recipe: Recipe, source: DataConfig | None) -> Recipe:
    """A recipe for the user's own pictures whose fold nobody chose: it goes on where it trains no classifier.

    Without test pictures the features of a network that is pre-trained are measured on held-out labels, which the
    training does not look at in any case, and that is said. A classifier's accuracy is worth a decision of the user's.

    Args:
        recipe: With the fold ``test``, by default.
        source: Where the pictures are.

    Returns:
        The recipe, with the fold ``dev`` where there is nothing else.
    """
    if source is None or not own_folder(recipe, source) or recipe.fold != "test" or trains_classifier(recipe.method):
        return recipe
    own = data_root(FOLDER, source)
    listing = find_pictures(own)
    if listing.test or not can_hold_out([label for _, label in listing.train]):
        return recipe
    warnings.warn(
        f"{own} has no test pictures: fold=dev is taken, so a fifth of the labeled ones are held out, to measure the "
        "features on",
        Notice,
        stacklevel=2,
    )
    return replace(recipe, fold="dev")


def _has_validation_part(recipe: Recipe, dataset: DataSet) -> bool:
    """Whether the images to validate on are a part of the data set rather than a share of the labels."""
    return recipe.fold == "validation" and not recipe.validation and dataset.validation is not None


def split_of(recipe: Recipe, dataset: DataSet) -> tuple[DataSet, Split]:
    """The part of a data set that is a recipe's task, and the recipe's split of it.

    Raises:
        InputError: The classes or the label budget do not fit the data set.
    """
    if recipe.classes != "all":
        dataset = restrict(dataset, _parse_classes(recipe.classes, dataset.info))
    train = dataset.train
    budget = Budget(
        labels=recipe.labels,
        seed=recipe.seed,
        fold="test" if _has_validation_part(recipe, dataset) else recipe.fold,
        bias=recipe.bias,
        unlabeled_bias=recipe.unlabeled_bias,
        mismatch=recipe.mismatch,
        validation=recipe.validation,
        given=_read_given(recipe.split, train.names, recipe.dataset) if recipe.split else None,
    )
    info = dataset.info
    split = make_split(recipe.dataset, train.labels.tolist(), info.num_classes, budget, info.class_names)
    return dataset, replace(split, fold=recipe.fold)


def _parse_classes(text: str, info: DataSetInfo) -> list[int]:
    """Classes by number or by name."""
    numbers = {name: label for label, name in enumerate(info.class_names)}
    labels = []
    for word in text.split("+"):
        if word not in numbers and not word.isdecimal():
            remedy = suggest(word, numbers) if "," not in word else f"write classes={text.replace(',', '+')}"
            raise InputError(f"classes={text}: {word!r} is not a class of {info.name}; {remedy}")
        labels.append(numbers[word] if word in numbers else int(word))
    return labels


def to_device(images: ImageSource, device: torch.device, policies: Collection[str] | None = None) -> ImageSource:
    """Moves images in memory to a GPU if they take at most half of what is free there; others stay where they are.

    Embeddings are made ready there, or in memory: those of the views of some policies, by default of all.
    """
    if isinstance(images, EmbeddedImages):
        free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else free_memory()
        wanted = images if policies is None else images.with_policies(policies)
        return wanted.prepared(device, int(DEVICE_SHARE * free))
    if not isinstance(images, LabeledImages) or device.type != "cuda":
        return images
    return images.to(device) if images.nbytes <= DEVICE_SHARE * torch.cuda.mem_get_info(device)[0] else images


def known_classes(train: ImageSource, held_out: Sequence[int]) -> ImageSource:
    """Those of the images that are held out whose class is known."""
    return train.subset([index for index in held_out if train.labels[index] >= 0])


def _read_given(path: str, names: Sequence[str], dataset: str) -> tuple[int, ...]:
    file = Path(path).expanduser()
    try:
        require_no_pipe(file)
        text = file.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:  # the latter is also that of what is no UTF-8
        raise InputError(f"split={path} cannot be read ({error}); give a file that lists the labeled images") from None
    return parse_given(f"split={path}", text, names, dataset)


def build_model(recipe: Recipe, dataset: DataSet) -> nn.Module:
    """The recipe's network, with the weights to start from: ``init``'s, or those of its seed.

    It has a classifier, unless the method trains without labels, see :func:`muscle_zoo.methods.trains_classifier`.

    Raises:
        InputError: The architecture does not take the data set's images, or ``init`` is of another one.
        WeightsError: The weights of ``init`` are missing or damaged.
        DownloadError: They could not be downloaded.
    """
    info = dataset.info
    arguments = build_arguments(recipe, info)
    torch.manual_seed(recipe.seed)
    model = with_starting_weights(recipe, arguments) if recipe.init else timm.create_model(recipe.arch, **arguments)
    require_fit(model, recipe, info)
    freeze(model, recipe)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = recipe.bn_momentum
    return model.to(memory_format=torch.channels_last)  # convolutions are faster on CPU and GPU


def build_optimizer(recipe: Recipe, model: nn.Module) -> torch.optim.Optimizer:
    """The recipe's optimizer of what is trained; biases and norms do not decay.

    With ``layer_decay`` each of timm's layer groups is a parameter group, whose ``lr_scale`` its learning rate is to be
    multiplied by.

    Raises:
        InputError: timm has no such optimizer, it refuses a setting, or what it keeps could not be saved with a run.
    """
    known = [name for name in list_optimizers() if isinstance(name, str)]
    if recipe.optimizer not in known:
        raise InputError(f"optimizer={recipe.optimizer} is unknown to timm; {suggest(recipe.optimizer, known)}")
    settings: dict[str, Any] = {
        "opt": recipe.optimizer,
        "lr": recipe.lr,
        "momentum": recipe.momentum,
        "weight_decay": recipe.weight_decay,
        "layer_decay": recipe.layer_decay if recipe.layer_decay < 1 else None,
    }
    if recipe.tune == "head" and recipe.optimizer in ("adam", "adamw"):
        settings["fused"] = True  # one loop over the numbers instead of twelve; other networks keep their bits

    try:  # a lone layer has no layer groups, and timm would warn of it
        _require_state_that_can_be_saved(partial(create_optimizer_v2, **{**settings, "layer_decay": None}))
        return create_optimizer_v2(model, **settings)
    except InputError:
        raise
    except (ValueError, TypeError, AssertionError) as error:
        raise InputError(
            f"optimizer={recipe.optimizer} refuses lr={recipe.lr} momentum={recipe.momentum} "
            f"weight_decay={recipe.weight_decay} ({error}); change one of them"
        ) from None


def _require_state_that_can_be_saved(create: Callable[[nn.Module], torch.optim.Optimizer]) -> None:
    """Takes a step with a small layer, for an optimizer shows what it keeps only then."""
    layer = nn.utils.skip_init(nn.Linear, 2, 2)  # draws nothing: the network's random numbers stay what they were
    for weights in layer.parameters():
        nn.init.ones_(weights)
    optimizer = create(layer)
    layer(torch.ones(1, 2)).sum().backward()
    with suppress(RuntimeError, AssertionError, AttributeError):  # it does not run on a CPU, and need not
        optimizer.step()
    optimizer_state(optimizer)
