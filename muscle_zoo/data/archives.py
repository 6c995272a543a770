"""Published data sets: found on disk, or downloaded by torchvision and checked."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import os
import shutil
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..errors import DownloadError, InputError
from .folder import class_folders, pictures_of_classes
from .images import LabelledImages
from .info import DataSetInfo
from .splits import hash_order

Parts = tuple[LabelledImages, LabelledImages]
Listed = tuple[list[tuple[str, int]], list[tuple[str, int]]]

# sha256 of training images, training labels, test images, test labels: the values, since archives differ by packer.
_IDX_SHA256 = {
    "mnist": "06b0d1f124c4e5fa796686ade41a9b778edacc8622f2195a352ef479ad44fc16",
    "fashion_mnist": "ca3ab2a37f845e1b8ae23cab1b51749a3011ba3bf1d9016176d75cbaabac376f",
}
_IDX_FOLDERS = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST"}


def data_root(root: Path | None) -> Path:
    """Where data sets are: ``--data``, the environment variable MUSCLE_ZOO_DATA, or ``data``."""
    return Path(root or os.environ.get("MUSCLE_ZOO_DATA") or "data").expanduser()


def load_archive(info: DataSetInfo, root: Path) -> Parts:
    """Loads one of torchvision's data sets; downloads it into ``root/NAME`` where it is not there.

    Args:
        info: Which one.
        root: Where data sets are; files directly in it or in ``root/NAME`` are found.

    Raises:
        InputError: Files are there, but damaged or not all.
        DownloadError: It is not there and could not be downloaded.
    """
    read = _READERS[info.name]
    places = [root / info.name, root]
    try:
        for place in places:
            if (parts := read(info.name, place, False)) is not None:
                return parts
        if (root / info.name).is_dir() and any((root / info.name).iterdir()):
            raise InputError(f"{root / info.name} does not hold {info.title} whole; delete it to download it again")
        return _download(info, root, read)
    except (OSError, EOFError, RuntimeError, ValueError, KeyError) as error:
        if isinstance(error, (InputError, DownloadError)):
            raise
        first_line = str(error).partition("\n")[0]
        raise InputError(
            f"{info.title} in {root} is damaged ({first_line}); delete it to download it again, or give another --data"
        ) from None


def _download(info: DataSetInfo, root: Path, read: Callable[[str, Path, bool], Parts | None]) -> Parts:
    part = root / f"{info.name}.part"
    try:
        shutil.rmtree(part, ignore_errors=True)  # of a download that was interrupted
        part.mkdir(parents=True)
        parts = read(info.name, part, True)
    except (OSError, RuntimeError) as error:
        shutil.rmtree(part, ignore_errors=True)
        first_line = str(error).partition("\n")[0]
        raise DownloadError(
            f"{info.title} could not be downloaded ({first_line}); put its files ({_FILES[info.name]}) into "
            f"{root / info.name}, or say with --data or MUSCLE_ZOO_DATA where they are"
        ) from None
    assert parts is not None
    shutil.rmtree(root / info.name, ignore_errors=True)  # empty: checked above
    part.rename(root / info.name)
    return parts


def _labelled(images: np.ndarray, labels: Any) -> LabelledImages:
    return LabelledImages(torch.from_numpy(np.ascontiguousarray(images)), torch.as_tensor(labels).long())


def _read_idx(name: str, place: Path, download: bool) -> Parts | None:
    if download:
        from torchvision import datasets

        getattr(datasets, _IDX_FOLDERS[name])(place, download=True)
    for folder in (place, place / _IDX_FOLDERS[name] / "raw"):
        files = [_idx_file(folder, f"{p}-{k}-ubyte") for p in ("train", "t10k") for k in ("images-idx3", "labels-idx1")]
        if not any(files):
            continue
        if not all(files):
            raise InputError(f"{folder} does not hold all four files of {name} ({_FILES[name]}); add the missing ones")
        arrays = [_idx(path) for path in files if path is not None]
        found = hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()
        if found == _IDX_SHA256[name]:
            return _labelled(arrays[0][:, None], arrays[1]), _labelled(arrays[2][:, None], arrays[3])
        if found not in _IDX_SHA256.values():  # it may be the other set of the same file names
            raise InputError(f"{folder} holds other images than {name}'s; delete them to download it again")
    return None


def _idx_file(folder: Path, name: str) -> Path | None:
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)


def _idx(path: Path) -> np.ndarray:
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        header = file.read(4)
        if len(header) < 4 or header[:3] != b"\0\0\x08":
            raise InputError(f"{path} is no IDX file of bytes; delete it to download it again")
        shape = np.frombuffer(file.read(4 * header[3]), dtype=">u4").astype(int)
        values = np.frombuffer(bytearray(file.read()), dtype=np.uint8)  # a tensor wants to write
    if values.size != shape.prod():
        raise InputError(f"{path} is truncated; delete it to download it again")
    return values.reshape(shape)


def _read_cifar(name: str, place: Path, download: bool) -> Parts | None:
    from torchvision import datasets

    cls = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    if not download and not (place / cls.base_folder).is_dir():
        return None
    parts = [cls(place, train=train, download=download) for train in (True, False)]
    # torchvision shows (N, H, W, C) of memory that is (N, C, H, W): turned back, nothing is copied.
    train, test = (_labelled(part.data.transpose(0, 3, 1, 2), part.targets) for part in parts)
    return train, test


def _read_svhn(name: str, place: Path, download: bool) -> Parts | None:
    from torchvision.datasets import SVHN

    if find_spec("scipy") is None:
        raise InputError(f"dataset={name}: its files are MATLAB's, which scipy reads; pip install scipy")
    wanted = ("train", "test", "extra") if name == "svhn_extra" else ("train", "test")
    there = [(place / SVHN.split_list[part][1]).is_file() for part in wanted]
    if not download and not any(there):
        return None
    parts = {part: SVHN(place, split=part, download=download) for part in wanted}
    images = [parts[part].data for part in wanted if part != "test"]
    labels = np.concatenate([parts[part].labels for part in wanted if part != "test"])
    return _labelled(np.concatenate(images), labels), _labelled(parts["test"].data, parts["test"].labels)


def _read_stl10(name: str, place: Path, download: bool) -> Parts | None:
    from torchvision.datasets import STL10

    if not download and not (place / STL10.base_folder).is_dir():
        return None
    # Classes of the unlabelled images are -1 there, as they are here.
    train, test = (STL10(place, split=part, download=download) for part in ("train+unlabeled", "test"))
    return _labelled(train.data, train.labels), _labelled(test.data, test.labels)


_READERS: dict[str, Callable[[str, Path, bool], Parts | None]] = {
    "mnist": _read_idx,
    "fashion_mnist": _read_idx,
    "cifar10": _read_cifar,
    "cifar100": _read_cifar,
    "svhn": _read_svhn,
    "svhn_extra": _read_svhn,
    "stl10": _read_stl10,
}
_FILES = {
    "mnist": "train-images-idx3-ubyte.gz and three more",
    "fashion_mnist": "train-images-idx3-ubyte.gz and three more",
    "cifar10": "cifar-10-batches-py/, unpacked from cifar-10-python.tar.gz",
    "cifar100": "cifar-100-python/, unpacked from cifar-100-python.tar.gz",
    "svhn": "train_32x32.mat and test_32x32.mat",
    "svhn_extra": "train_32x32.mat, test_32x32.mat and extra_32x32.mat",
    "stl10": "stl10_binary/, unpacked from stl10_binary.tar.gz",
}


def list_classes(info: DataSetInfo, root: Path, train: str, test: str) -> tuple[Path, Listed]:
    """Lists a published set of pictures in ``TRAIN/CLASS/`` and ``TEST/CLASS/``.

    Args:
        info: Its facts: other classes or numbers of pictures are errors.
        root: Where data sets are; it is found in ``root/NAME`` or root itself.
        train: Folder of the training pictures.
        test: Folder of the test pictures.

    Returns:
        The folder, and the pictures of both parts with their classes.

    Raises:
        InputError: It is not there, or not whole.
    """
    for place in (root / info.name, root):
        if (place / train).is_dir() and (place / test).is_dir():
            names = class_folders(place / train)
            if place == root and names != info.class_names:
                break  # another set
            if names != info.class_names:
                raise InputError(
                    f"{place / train} has {len(names)} folders, not the {info.num_classes} classes of {info.name}"
                )
            listed = tuple(pictures_of_classes(place, place / part, names) for part in (train, test))
            check_sizes(info, place, len(listed[0]), len(listed[1]))
            return place, (listed[0], listed[1])
    raise InputError(
        f"{info.name} is not in {root}: put its pictures into {root / info.name / train}/CLASS/ and "
        f"{root / info.name / test}/CLASS/, or say with --data or MUSCLE_ZOO_DATA where they are"
    )


def check_sizes(info: DataSetInfo, place: Path, train: int, test: int) -> None:
    """Compares numbers of images with the published ones.

    Raises:
        InputError: They differ.
    """
    if (train, test) != (info.train_size, info.test_size):
        raise InputError(
            f"{place} holds {train} training and {test} test images, {info.name} has {info.train_size} and "
            f"{info.test_size}; it is not whole: unpack it again"
        )


def list_mini_imagenet(info: DataSetInfo, root: Path) -> tuple[Path, Listed]:
    """Lists mini-ImageNet: ``images/`` and CSVs of ``filename,label``.

    With the usual few-shot CSVs (train.csv, val.csv, test.csv of 64, 16 and 20 classes) each class's first 500 pictures
    in the order of ``sha256("mini_imagenet/test/POSITION")`` are the training pictures, as few-label work splits the
    600 by 500 and 100 (Iscen et al. 2019, arXiv 1904.04717, draw them at random; their draw is not known here). A
    train.csv and test.csv that share their classes are taken as they are.

    Raises:
        InputError: It is not there, or not whole.
    """
    place = next((p for p in (root / info.name, root) if (p / "train.csv").is_file() and (p / "images").is_dir()), None)
    if place is None:
        raise InputError(
            f"{info.name} is not in {root}: put images/, train.csv, val.csv and test.csv (filename,label) into "
            f"{root / info.name}, or say with --data or MUSCLE_ZOO_DATA where they are"
        )
    parts = {part: list(_csv_rows(place, part, info)) for part in ("train", "val", "test")}
    if {label for _, label in parts["train"]} & {label for _, label in parts["test"]}:
        listed = sorted(parts["train"] + parts["val"]), sorted(parts["test"])
    else:
        rows = sorted((row for part in parts.values() for row in part), key=lambda row: (row[1], row[0]))
        test: set[int] = set()
        for label in range(info.num_classes):
            members = [i for i, row in enumerate(rows) if row[1] == label]
            test |= set(hash_order(f"{info.name}/test", members)[500:])
        listed = [row for i, row in enumerate(rows) if i not in test], [rows[i] for i in sorted(test)]
    listed[0].sort(key=lambda row: (row[1], row[0]))
    listed[1].sort(key=lambda row: (row[1], row[0]))
    check_sizes(info, place, len(listed[0]), len(listed[1]))
    return place, listed


def _csv_rows(place: Path, part: str, info: DataSetInfo) -> Iterator[tuple[str, int]]:
    path = place / f"{part}.csv"
    if not path.is_file():
        return
    with path.open(newline="", encoding="utf-8") as file:
        for line, row in enumerate(csv.DictReader(file), start=2):
            if row.get("label") not in info.class_names or not row.get("filename"):
                raise InputError(f"{path} line {line}: {row} is no filename,label of a class of {info.name}")
            name = f"images/{row['filename']}"
            if not (place / name).is_file():
                raise InputError(f"{path} line {line}: {place / name} does not exist; unpack the images again")
            yield name, info.class_names.index(row["label"])


def through_jpeg(images: Tensor) -> Tensor:
    """Sends each image once through Pillow's default JPEG encoder, as cifar10_jpeg is defined from CIFAR-10.

    Args:
        images: uint8 ``(N, 3, H, W)``.

    Returns:
        New images.
    """
    out = torch.empty_like(images)
    for position, image in enumerate(images):
        buffer = io.BytesIO()
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(buffer, format="JPEG")
        with Image.open(buffer) as decoded:
            out[position] = torch.from_numpy(np.array(decoded.convert("RGB"))).permute(2, 0, 1)
    return out


def is_there(name: str, root: Path | None) -> bool:
    """Whether a data set is on disk (or is made, or bundled), so that loading it downloads nothing."""
    if name in ("digits",) or name.startswith("synthetic"):
        return True
    places = (data_root(root) / name, data_root(root))
    return any((place / file).exists() for place in places for file in _MARKS.get(name, ()))


_MARKS = {
    "mnist": ("train-images-idx3-ubyte.gz", "train-images-idx3-ubyte", "MNIST"),
    "fashion_mnist": ("train-images-idx3-ubyte.gz", "train-images-idx3-ubyte", "FashionMNIST"),
    "cifar10": ("cifar-10-batches-py",),
    "cifar10_jpeg": ("train",),
    "cifar100": ("cifar-100-python",),
    "svhn": ("train_32x32.mat",),
    "svhn_extra": ("extra_32x32.mat",),
    "stl10": ("stl10_binary",),
    "mini_imagenet": ("train.csv",),
    "imagenet": ("val",),
}
