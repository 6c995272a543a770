"""Pictures become embeddings with names and labels, to use elsewhere."""

from __future__ import annotations

import json
import warnings
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from timm.data import resolve_data_config
from torch import Tensor

from ..checkpoints.card import pretrained_cfg_of
from ..checkpoints.factory import create_model, normalization_of
from ..checkpoints.target import checkpoint_name
from ..data import DataConfig, DataSetInfo, load_dataset
from ..data.images import UNKNOWN, ImageFiles, ImageSource
from ..data.picture_folder import list_folder
from ..data.shard_files import PictureRoot
from ..engine.backbone import split_network
from ..engine.embeddings import PLAIN, Pictures, embed_pictures
from ..engine.options import process_state
from ..engine.processes import device_for
from ..errors import InputError
from ..files import write_json
from .predict import list_pictures

SUFFIXES = (".safetensors", ".npy")


@dataclass(frozen=True)
class Embeddings:
    """Embeddings of pictures.

    Attributes:
        embeddings: ``(N, D)`` float32, mapped into memory.
        labels: ``(N,)`` int64: places in ``class_names``, negative where the class is not known.
        names: What each picture is called: below the folder, or with the part of a data set, ``train/0``.
        class_names: In the order of the labels.
    """

    embeddings: Tensor
    labels: Tensor
    names: tuple[str, ...]
    class_names: tuple[str, ...]

    def save(self, path: Path) -> None:
        """Writes them: ``.safetensors`` with names in the metadata, or ``.npy`` and beside it ``.json``.

        Raises:
            InputError: The ending is another, or the file cannot be written; then nothing is left of it.
        """
        check_suffix(path)
        part = path.with_name(path.name + ".part")
        facts = {"names": list(self.names), "class_names": list(self.class_names)}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.suffix == ".npy":
                with part.open("wb") as file:
                    np.save(file, self.embeddings.numpy())
                write_json(path.with_suffix(".json"), {**facts, "labels": self.labels.tolist()})
            else:
                tensors = {"embeddings": self.embeddings.contiguous(), "labels": self.labels.contiguous()}
                save_file(tensors, part, {"format": "pt", **{key: json.dumps(value) for key, value in facts.items()}})
            part.replace(path)
        except (OSError, SafetensorError) as error:
            with suppress(OSError):
                part.unlink(missing_ok=True)
            raise InputError(f"{path} cannot be written ({error}); free space, or give another file") from error


def check_suffix(path: Path) -> None:
    """Refuses a file that would be neither kind, before hours of work."""
    if path.suffix not in SUFFIXES:
        raise InputError(f"{path} has no ending that is known; give {' or '.join(SUFFIXES)}")


def embed_checkpoint(
    target: str,
    config: DataConfig,
    dataset: str = "folder",
    image_size: int = 0,
    cpu: bool = False,
    progress: bool = True,
) -> Embeddings:
    """Embeds pictures by a pretrained network: its features before the classifier, in evaluation mode.

    Args:
        target: A checkpoint of the zoo or of timm's, a run folder, ``local-dir:PATH`` or ``hf-hub:REPO``.
        config: Where the pictures are: a folder or a CSV, or where data sets are.
        dataset: ``folder``, or a data set's name: its training images, then its test images.
        image_size: Side in pixels; 0 for the network's own, or of a data set.
        cpu: Stay on the CPU.
        progress: Say how long it takes.

    Raises:
        InputError: There are no such weights or pictures, or the embeddings cannot be kept in the cache.
        TrainingError: A picture cannot be read.
    """
    process_state(cpu)
    name, device = checkpoint_name(target), device_for(cpu)
    network = create_model(name, pretrained=True).to(device)
    network = network.to(memory_format=torch.channels_last)
    cfg = resolve_data_config({}, pretrained_cfg=pretrained_cfg_of(network))
    if dataset == "folder":
        side = image_size or max(cfg["input_size"][1:])
        sources, info = _pictures(config, (cfg["input_size"][0], side, side))
    else:
        loaded = load_dataset(dataset, config, image_size)
        sources, info = {"train/": loaded.train, "test/": loaded.test}, loaded.info
    if (channels := info.input_size[0]) != cfg["input_size"][0]:  # gray images, or a network of gray ones
        network = create_model(name, pretrained=True, in_chans=channels).to(device)
        network = network.to(memory_format=torch.channels_last)
    mean, std = normalization_of(name, info)
    info = replace(info, mean=mean, std=std)  # the network's own, whatever the pictures
    backbone = split_network(network, info.input_size, classifier=False)
    parts = [embed_pictures(backbone, Pictures.of(images, info), (PLAIN,), progress)[0] for images in sources.values()]
    names = [
        prefix + (images.names[i] if images.names else str(i))
        for prefix, images in sources.items()
        for i in range(len(images))
    ]
    labels = torch.cat([images.labels for images in sources.values()])
    return Embeddings(parts[0] if len(parts) == 1 else torch.cat(parts), labels, tuple(names), info.class_names)


def _pictures(config: DataConfig, input_size: tuple[int, int, int]) -> tuple[dict[str, ImageSource], DataSetInfo]:
    """A user's pictures, each with its class where the folders or the CSV say it."""
    if config.root is None:
        raise InputError("embed: say which pictures (--data my_pictures)")
    given = config.root
    root: PictureRoot = given
    classes: tuple[str, ...] = ()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pictures without a class: here none is needed
            listing = list_folder(given)
        root, classes = listing.root, listing.class_names
        named = [*listing.train, *listing.validation, *listing.test]
    except InputError:
        if not given.is_dir():
            raise
        named = [(Path(file).relative_to(given).as_posix(), UNKNOWN) for file in list_pictures([str(given)])]
    labels = torch.tensor([label for _, label in named])
    files = ImageFiles(root, tuple(name for name, _ in named), labels, input_size, config.workers)
    return {"": files}, DataSetInfo("folder", "pictures", input_size, classes, (), (), len(files), 0, "", "")
