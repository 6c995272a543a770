"""The pictures of a finished run, as its network sees them: embeddings and calibrated probabilities."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ..checkpoints import weights
from ..checkpoints.card import calibration_of, normalization_said, read_config
from ..checkpoints.factory import create_model
from ..checkpoints.target import checkpoint_name, require_run
from ..data import DataConfig, DataSet, load_dataset
from ..data.catalog import FOLDER
from ..data.decoding import open_picture
from ..data.picture_folder import find_pictures
from ..data.shard_files import PictureRoot
from ..engine.backbone import Backbone, split_network
from ..engine.embeddings import PLAIN, Pictures, embed_pictures
from ..engine.frozen import backbone_of, logits_of
from ..engine.network import backbone_weights
from ..engine.options import process_state
from ..engine.processes import device_for
from ..engine.run_folder import RunFolder
from ..engine.state import load_generations
from ..errors import InputError
from ..publishing.export import trained_network
from ..recipes import Recipe
from ..recipes.defaults import EMBEDDED
from ..sessions.evaluate import read_recipe, remembered_data


@dataclass(frozen=True)
class RunPictures:
    """The training pictures of a run.

    Attributes:
        run: The run folder.
        recipe: What was trained.
        config: Of the exported network.
        dataset: The pictures; their labels are those of today, which may be more than the run knew.
        source: The user's folder or table; None for a data set with a name.
        class_names: Of the network, in the order of its outputs.
        labeled: Positions of the pictures whose label is known, ``(L,)`` int64.
        unlabeled: Positions of the others, ``(U,)`` int64.
        embeddings: ``(N, D)`` float32.
        probabilities: ``(N, C)`` float32, calibrated as the exported network is.
    """

    run: Path
    recipe: Recipe
    config: dict[str, Any]
    dataset: DataSet
    source: Path | None
    class_names: tuple[str, ...]
    labeled: Tensor
    unlabeled: Tensor
    embeddings: Tensor
    probabilities: Tensor

    @cached_property
    def names(self) -> tuple[str, ...]:
        """What each picture is called: its path below the folder, or its position in a data set with a name."""
        return tuple(self.dataset.train.names) or tuple(str(i) for i in range(len(self.dataset.train)))

    @cached_property
    def root(self) -> PictureRoot | None:
        """The folder that the names are below; None where the pictures are no files."""
        return None if self.source is None else find_pictures(self.source).root

    def picture(self, position: int) -> Image.Image:
        """A picture to look at: upright and whole, or an image of the data set.

        Raises:
            OSError: It cannot be read.
        """
        if self.root is not None:
            return open_picture(self.root / self.names[position], 3)
        image = next(iter(self.dataset.train.batches([torch.tensor([position])])))[0]
        return Image.fromarray(image.permute(1, 2, 0).squeeze(2).numpy())


@torch.no_grad()
def load_run_pictures(
    run: Path, data: DataConfig | None = None, cpu: bool = False, loaded: DataSet | None = None
) -> RunPictures:
    """Embeds a run's pictures by its own network; what the cache has is not embedded again.

    Args:
        run: The folder of a finished run.
        data: Where its pictures are now, and how they are read; by default where they were.
        cpu: Stay on the CPU.
        loaded: The pictures, if they are read already.

    Raises:
        InputError: It is no finished run folder, has no network, or its pictures are not there or are others.
        TrainingError: A picture cannot be read.
    """
    process_state(cpu)
    recipe, config = read_run(run)
    target = checkpoint_name(str(run))
    data = data or DataConfig()
    if recipe.dataset == FOLDER and data.root is None:
        data = remembered_data(target, data)
    if recipe.dataset == FOLDER and data.root is None:
        raise InputError(f"{run} does not say where its pictures are; say it (--data my_data)")
    network = create_model(target, pretrained=True).eval().to(device_for(cpu))
    network = network.to(memory_format=torch.channels_last)
    dataset = _dataset(run, recipe, config, data, loaded)
    backbone = _unrounded(recipe, dataset, split_network(network, dataset.info.input_size))
    (embeddings,) = embed_pictures(backbone, Pictures.of(dataset.train, dataset.info), (PLAIN,), data.progress)
    probabilities = logits_of(backbone, embeddings).softmax(dim=1)
    labeled = _labeled(run, recipe, dataset)
    without = torch.ones(len(dataset.train), dtype=torch.bool)
    without[labeled] = False
    source = data.root.resolve() if recipe.dataset == FOLDER and data.root is not None else None
    class_names = tuple(config.get("label_names") or dataset.info.class_names)
    unlabeled = without.nonzero().flatten()
    return RunPictures(run, recipe, config, dataset, source, class_names, labeled, unlabeled, embeddings, probabilities)


def _unrounded(recipe: Recipe, dataset: DataSet, exported: Backbone) -> Backbone:
    """A frozen backbone in float32, as it embedded the pictures for the comparison, with the exported classifier.

    Parameters are exported in float16, so the cache has no embeddings of theirs: to make them is a tenth of the time of
    a first run, for a difference in the fourth digit. Only of weights that a package holds: others may not be at hand.
    """
    if recipe.tune != "head" or recipe.init not in EMBEDDED.values():
        return exported
    backbone = backbone_of(recipe, dataset, next(exported.network.parameters()).device)
    return replace(backbone, classifier=exported.classifier)


def read_run(run: Path, any_network: bool = False) -> tuple[Recipe, dict[str, Any]]:
    """The recipe and the config.json of a finished run.

    Args:
        run: Its folder.
        any_network: A network without a classifier will do.

    Raises:
        InputError: It is none, or has no network.
    """
    require_run(run)
    if why := RunFolder(run).read_status().get("without_network"):
        raise InputError(f"{run} has no network: {why}; give another run")
    target = checkpoint_name(str(run))
    config = read_config(Path(target.removeprefix(weights.LOCAL_DIR)))
    if config.get("num_classes") == 0 and not any_network:
        raise InputError(f"{run} has no classifier: it was pre-trained without labels; train another with init={run}")
    return read_recipe(str(run), config), config


def _dataset(run: Path, recipe: Recipe, config: dict[str, Any], data: DataConfig, loaded: DataSet | None) -> DataSet:
    """The run's pictures, at the size and with the normalization of its network."""
    cfg = config["pretrained_cfg"]
    channels, height, width = cfg["input_size"]
    side = height if recipe.dataset == FOLDER and height == width else recipe.image_size
    dataset = loaded or load_dataset(recipe.dataset, data, side)
    if tuple(dataset.info.input_size) != (channels, height, width):
        shapes = "x".join(map(str, dataset.info.input_size)), f"{channels}x{height}x{width}"
        raise InputError(f"{run} takes pictures of {shapes[1]}, and these become {shapes[0]}; give the run's own")
    if (said := normalization_said(config)) is not None:
        dataset = replace(dataset, info=replace(dataset.info, mean=said[0], std=said[1]))
    return dataset


def _labeled(run: Path, recipe: Recipe, dataset: DataSet) -> Tensor:
    """Positions of the labeled pictures: of the user's own all that have a label today, else those of the run."""
    if recipe.dataset == FOLDER:
        return (dataset.train.labels >= 0).nonzero().flatten()
    split = RunFolder(run).read_split() or {}
    return torch.tensor(split.get("labelled", []), dtype=torch.int64)


@torch.no_grad()
def snapshot_probabilities(pictures: RunPictures, positions: Tensor, cpu: bool = False) -> tuple[Tensor, list[Tensor]]:
    """What the averaged weights and the plain ones of the saved states say of some pictures.

    A run keeps two states: those of its last step and of a save before it, each with both kinds of weights.

    Args:
        pictures: Of a run.
        positions: Which pictures, ``(n,)``.
        cpu: Stay on the CPU.

    Returns:
        The probabilities ``(n, C)`` of the averaged weights of the last step, and of the plain weights of each state;
        all at the temperature of the exported network.

    Raises:
        InputError: The run keeps no state.
    """
    folder = RunFolder(pictures.run).state_dir
    states = load_generations(folder, ("model", "ema"))
    if not states:
        raise InputError(f"--rule disagreement: {folder} has no saved weights to compare; give another rule")
    temperature = float(calibration_of(pictures.config)["temperature"])
    info = replace(pictures.dataset.info, class_names=pictures.class_names)
    dataset = replace(pictures.dataset, info=info)

    def probabilities(state: dict[str, Tensor]) -> Tensor:
        network = trained_network(pictures.recipe, dataset, backbone_weights(state)).to(device_for(cpu))
        backbone = split_network(network, info.input_size)
        (embeddings,) = embed_pictures(backbone, Pictures.of(dataset.train, info), (PLAIN,))
        return (logits_of(backbone, embeddings[positions]) / temperature).softmax(dim=1)

    return probabilities(states[0]["ema"]), [probabilities(state["model"]) for state in states]
