"""Data sets by name: ``load_dataset`` finds, downloads or makes the images of any of them."""

from __future__ import annotations

import hashlib
import math
import os
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path

import numpy as np
import torch
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor

from ..errors import DownloadError, InputError, suggest
from .archives import ARCHIVES, load_archive, through_jpeg
from .catalog import FOLDER, SYNTHETIC, DataSetInfo, dataset_info, dataset_names
from .data_root import DataConfig, data_root
from .images import BAD_SHARE, OUTSIDE, ImageFiles, ImageSource, LabeledImages, report_unreadable
from .listing import Listing
from .machine import free_memory
from .picture_folder import class_folders, list_folder
from .picture_sets import Pictures, check_sizes, list_classes, list_mini_imagenet
from .picture_survey import Survey, survey
from .shard_files import PictureRoot

_READ_AT_SIZE = (FOLDER, "mini_imagenet", "imagenet")  # others are kept as they are, and enlarged as views
RAM_SHARE = 0.5  # of what is free: a larger set is streamed
SIZES = (8, 1024)  # least and largest side of an image, in pixels
# Of the published archive's training pixels.
CIFAR10_JPEG_SHA256 = "f12bc101717acd0df836682c335adf2f0f589f6a84917c61c9d2512d7b4bae09"


@dataclass(frozen=True)
class DataSet:
    """A data set.

    Attributes:
        info: Its facts.
        train: Its training images, labeled or not.
        test: Its test images; perhaps none.
        validation: Images of a validation part of its own, beside a test part; None where it has none.
    """

    info: DataSetInfo
    train: ImageSource
    test: ImageSource
    validation: ImageSource | None = None


def load_dataset(name: str, config: DataConfig | None = None, image_size: int = 0) -> DataSet:
    """Loads a data set.

    Args:
        name: One of :func:`muscle_zoo.data.dataset_names`.
        config: Where the data are, and how they are read.
        image_size: Side in pixels that pictures are resized and cropped to; 0 for the set's own. Only for sets of
            picture files: folder, mini_imagenet, imagenet.

    Raises:
        InputError: There is no such data set, or it is missing, damaged or not whole.
        MissingDataError: It is not there, and was not to be downloaded or cannot be.
        DownloadError: It is not there and could not be downloaded.

    Example:
        >>> load_dataset("digits").train.images.shape
        torch.Size([1437, 1, 8, 8])
    """
    config = config or DataConfig()
    if image_size and not SIZES[0] <= image_size <= SIZES[1]:
        raise InputError(f"image_size={image_size} is out of range; give {SIZES[0]} to {SIZES[1]}")
    loader = LOADERS.get(SYNTHETIC if name.startswith(f"{SYNTHETIC}:") else name)
    if loader is None:
        raise InputError(f"dataset={name} is unknown; {suggest(name, dataset_names())}")
    dataset = loader(name, data_root(name, config), config, image_size)
    return replace(dataset, info=resized(dataset.info, image_size))


def at_size(dataset: DataSet, image_size: int) -> DataSet:
    """A data set that is loaded already, as :func:`load_dataset` would give it at a size.

    Args:
        dataset: All of it.
        image_size: Side in pixels of a recipe; 0 for the set's own: of the user's own pictures that is the one they
            were loaded at.

    Raises:
        InputError: Its pictures were read at another size. (Images in memory are enlarged only later.)

    Example:
        >>> at_size(load_dataset("digits"), 16).info.input_size
        (1, 16, 16)
    """
    info, train = dataset.info, dataset.train
    if info.name in _READ_AT_SIZE:
        own = info if info.name == FOLDER else dataset_info(info.name)
        height, width = resized(own, image_size).input_size[1:]
        if info.input_size[1:] != (height, width):
            there = "x".join(map(str, info.input_size[1:]))
            raise InputError(
                f"image_size={image_size}: the pictures of {info.name} were read as {there} and not as {height}x{width}"
                f"; load them with load_dataset({info.name!r}, config, image_size={image_size})"
            )
        return dataset
    pixels = train.input_size if isinstance(train, ImageFiles) else info.input_size
    if isinstance(train, LabeledImages):
        channels, height, width = train.images.shape[1:]
        pixels = channels, height, width
    return replace(dataset, info=resized(replace(info, input_size=pixels), image_size))


def images_sha256(images: Tensor) -> str:
    """sha256 of the bytes of uint8 images ``(N, C, H, W)``."""
    return hashlib.sha256(images.contiguous().numpy().data).hexdigest()


def restrict(dataset: DataSet, classes: Sequence[int]) -> DataSet:
    """Makes some classes the task: they are counted from 0, training images of others become OUTSIDE.

    Args:
        dataset: All of it.
        classes: The task's classes, at least two.

    Returns:
        The data set with fewer classes; test images of other classes are left out.

    Raises:
        InputError: A class does not exist, comes twice, or there are fewer than two.
    """
    if len(classes) < 2 or len(set(classes)) < len(classes) or not set(classes) <= set(range(dataset.info.num_classes)):
        raise InputError(
            f"classes={'+'.join(map(str, classes))} is wrong: give two or more of 0 to {dataset.info.num_classes - 1}, "
            "each once, as 2+3+4"
        )
    table = torch.full((dataset.info.num_classes,), OUTSIDE)
    table[list(classes)] = torch.arange(len(classes))

    def renumber(labels: torch.Tensor) -> torch.Tensor:
        return torch.where(labels < 0, labels, table[labels.clamp(min=0)])

    def of_the_task(images: ImageSource) -> ImageSource:
        images = images.with_labels(renumber(images.labels))
        return images.subset(torch.nonzero(images.labels >= 0).flatten().tolist())

    test = of_the_task(dataset.test)
    validation = None if dataset.validation is None else of_the_task(dataset.validation)
    names = tuple(dataset.info.class_names[label] for label in classes)
    info = replace(dataset.info, class_names=names, test_size=len(test))
    return DataSet(info, dataset.train.with_labels(renumber(dataset.train.labels)), test, validation)


def _load_digits(name: str, root: Path, config: DataConfig, image_size: int) -> DataSet:
    info = dataset_info(name)
    with resources.files(__package__).joinpath("digits.npz").open("rb") as file, np.load(file) as arrays:
        parts = {
            part: LabeledImages(
                torch.from_numpy(arrays[f"{part}_images"]).unsqueeze(1),
                torch.from_numpy(arrays[f"{part}_labels"]).long(),
            )
            for part in ("train", "test")
        }
    return DataSet(info, parts["train"], parts["test"])


def _make_synthetic(name: str, root: Path, config: DataConfig, image_size: int) -> DataSet:
    info = dataset_info(name)
    generator = torch.Generator().manual_seed(0)
    parts = []
    for size in (info.train_size, info.test_size):
        images = torch.randint(0, 256, (size, *info.input_size), dtype=torch.uint8, generator=generator)
        parts.append(LabeledImages(images, torch.arange(size) % info.num_classes))
    return DataSet(info, parts[0], parts[1])


def _load_archive(name: str, root: Path, config: DataConfig, image_size: int) -> DataSet:
    info = dataset_info(name)
    return _checked(info, root, *load_archive(info, root, config.download))


def _load_cifar10_jpeg(name: str, root: Path, config: DataConfig, image_size: int) -> DataSet:
    info = dataset_info(name)
    folders = [place / "train" for place in (root / info.name, root) if (place / "train").is_dir()]
    if any(set(info.class_names) & set(class_folders(folder)) for folder in folders):
        place, (train, test) = list_classes(info, root, "train", "test")
        data = _from_files(info, place, train, test, config)
    else:
        try:
            parts = load_archive(dataset_info("cifar10"), root, config.download)
        except DownloadError as error:
            raise DownloadError(f"{error}; or put train/CLASS/ and test/CLASS/ into {root / info.name}") from None
        data = _checked(info, root, *map(_as_jpeg, parts))
    if isinstance(data.train, LabeledImages) and images_sha256(data.train.images) != CIFAR10_JPEG_SHA256:
        warnings.warn(
            f"cifar10_jpeg in {root}: its training pixels are not those of the published archive (another "
            "JPEG decoder, or other pictures); compare its figures with care",
            stacklevel=2,
        )
    return data


def _as_jpeg(images: LabeledImages) -> LabeledImages:
    """Canonical order: class by class, within a class as in the official batches."""
    order = images.labels.argsort(stable=True)
    return LabeledImages(through_jpeg(images.images[order]), images.labels[order])


def _load_imagenet(name: str, root: Path, config: DataConfig, image_size: int) -> DataSet:
    info = dataset_info(name)
    place, (train, test) = list_classes(info, root, "train", "val")
    return _from_files(resized(info, image_size), place, train, test, config)


def _load_mini_imagenet(name: str, root: Path, config: DataConfig, image_size: int) -> DataSet:
    info = dataset_info(name)
    place, (train, test) = list_mini_imagenet(info, root)
    return _from_files(resized(info, image_size), place, train, test, config)


def own_info(root: Path, image_size: int) -> DataSetInfo:
    """What is known of a user's pictures once their headers were read.

    Args:
        root: Their folder or CSV.
        image_size: Side in pixels of the squares they become; 0 where they all have one size.

    Raises:
        InputError: They cannot be understood, or none can be read.
    """
    listing = list_folder(root.expanduser())
    headers = survey(listing.root, listing.names)
    if not headers.sizes:
        raise InputError(f"--data {root}: none of {len(headers.bad)} pictures can be read; give others")
    return _folder_info(root if root.is_dir() else root.parent, listing, headers, image_size)


def _load_folder(name: str, root: Path, config: DataConfig, image_size: int) -> DataSet:
    listing = list_folder(root, config.strict)
    headers = survey(listing.root, listing.names)
    if not headers.sizes:
        picture, reason = next(iter(headers.bad.items()))
        raise InputError(
            f"--data {root}: none of {len(headers.bad)} pictures can be read, the first is {picture} ({reason}); "
            "give others"
        )
    _require_readable(listing, headers.bad, config.strict)
    folder = root if root.is_dir() else root.parent  # of a CSV: its own, not where the pictures are
    info = _folder_info(folder, listing, headers, image_size)
    share = 0.0 if config.strict else 1.0
    data = _from_files(info, listing.root, listing.train, listing.test, config, headers.bad, share)
    if not listing.validation:
        return data
    others = _from_files(info, listing.root, listing.validation, [], config, headers.bad, share)
    return replace(data, validation=others.train)


def _require_readable(listing: Listing, bad: dict[str, str], strict: bool) -> None:
    """Unreadable pictures are left out, but no class may be left without a labeled one."""
    if bad and strict:
        name, why = next(iter(bad.items()))
        raise InputError(
            f"{len(bad)} of {len(listing.names)} pictures in {listing.root} cannot be read, the first is {name} "
            f"({why}); replace them or take them away, or leave --strict out"
        )
    for label, class_name in enumerate(listing.class_names):
        names = [name for name, of in listing.train if of == label]
        if names and all(name in bad for name in names):
            raise InputError(
                f"{listing.root}: no picture of class {class_name!r} can be read, the first is {names[0]} "
                f"({bad[names[0]]}); give others"
            )


def _folder_info(folder: Path, listing: Listing, headers: Survey, image_size: int) -> DataSetInfo:
    """What is known of the user's own pictures once their headers were read."""
    gray = headers.gray == sum(headers.sizes.values())
    return DataSetInfo(
        name=FOLDER,
        title=f"pictures of {folder.name or folder}",
        input_size=(1 if gray else 3, *_height_and_width(headers.sizes, image_size)),
        class_names=listing.class_names,
        # Not the pictures' own: so that a model keeps its normalization when pictures are added.
        mean=(0.449,) if gray else IMAGENET_DEFAULT_MEAN,
        std=(0.226,) if gray else IMAGENET_DEFAULT_STD,
        train_size=len(listing.train),
        test_size=len(listing.test),
        license="the user's own pictures",
        homepage=folder.name,  # not the whole path: cards are published
    )


def _height_and_width(sizes: Counter[tuple[int, int]], image_size: int) -> tuple[int, int]:
    """What the pictures become: squares of image_size, or, where that is 0, what they all are."""
    if image_size:
        return image_size, image_size
    if len(sizes) > 1:
        smallest, *_, largest = sorted(sizes, key=lambda size: (math.prod(size), size))
        raise InputError(
            "image_size=0: the pictures have {} sizes, from {}x{} to {}x{}; say the side of the images they become, "
            "such as image_size=64".format(len(sizes), *smallest, *largest)
        )
    width, height = next(iter(sizes))
    if not all(SIZES[0] <= side <= SIZES[1] for side in (height, width)):
        raise InputError(
            f"image_size=0: the pictures are {width}x{height}; give image_size={SIZES[0]} to {SIZES[1]}, such as 64"
        )
    return height, width


Loader = Callable[[str, Path, DataConfig, int], DataSet]  # takes the name, the root, the config and image_size

# Every data set: a new one is a function above and a row here, beside its facts in catalog.py.
LOADERS: dict[str, Loader] = {
    "digits": _load_digits,
    **dict.fromkeys(ARCHIVES, _load_archive),
    "cifar10_jpeg": _load_cifar10_jpeg,
    "mini_imagenet": _load_mini_imagenet,
    "imagenet": _load_imagenet,
    FOLDER: _load_folder,
    SYNTHETIC: _make_synthetic,
}


def _from_files(
    info: DataSetInfo,
    root: PictureRoot,
    train: Pictures,
    test: Pictures,
    config: DataConfig,
    unreadable: dict[str, str] | None = None,
    bad_share: float = BAD_SHARE,
) -> DataSet:
    """Pictures in files as a data set, streamed or in memory; those that cannot be read (name -> why) are left out."""
    files = [
        ImageFiles(
            root,
            tuple(name for name, _ in part),
            torch.tensor([label for _, label in part], dtype=torch.int64),
            info.input_size,
            config.workers,
            bad_share,
        )
        for part in (train, test)
    ]
    stream = config.stream
    if stream is None:
        copies = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # each process on this machine holds its own
        stream = copies * sum(part.nbytes() for part in files) > RAM_SHARE * free_memory()
    parts: list[ImageSource] = []
    for part in files:
        if stream and unreadable:
            bad = [(name, unreadable[name]) for name in part.names if name in unreadable]
            report_unreadable(root, bad, len(part), bad_share)
            part = part.subset([i for i, name in enumerate(part.names) if name not in unreadable])
        parts.append(part if stream else part.load(config.progress))
    return DataSet(replace(info, train_size=len(parts[0]), test_size=len(parts[1])), parts[0], parts[1])


def _checked(info: DataSetInfo, root: Path, train: LabeledImages, test: LabeledImages) -> DataSet:
    """Images of an archive as a data set, if their numbers, shape and classes are the published ones."""
    check_sizes(info, root, len(train), len(test))
    shape = tuple(train.images.shape[1:])
    if shape != info.input_size or int(train.labels.max()) + 1 != info.num_classes:
        raise InputError(
            f"{root} has images of {shape} and {int(train.labels.max()) + 1} classes, so these are not the files of "
            f"{info.name}; give another --data"
        )
    return DataSet(info, train, test)


def resized(info: DataSetInfo, image_size: int) -> DataSetInfo:
    """What is known of a data set whose pictures become squares of a side; 0 leaves them as they are."""
    return replace(info, input_size=(info.input_size[0], image_size, image_size)) if image_size else info
