"""Published data sets: found on disk, or downloaded by torchvision and checked."""

from __future__ import annotations

import gzip
import hashlib
import io
import shutil
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from PIL import Image
from torch import Tensor

from ..errors import DownloadError, InputError, MissingDataError
from .catalog import DataSetInfo
from .images import LabeledImages

Parts = tuple[LabeledImages, LabeledImages]  # training and test images


@dataclass(frozen=True)
class Archive:
    """How one of torchvision's data sets is read.

    Attributes:
        read: Takes the set's name, a folder and whether to download into it; None where the folder has nothing of it.
        files: The files that somebody without a network puts there, for the error messages.
    """

    read: Callable[[str, Path, bool], Parts | None]
    files: str


# What reading and downloading archives may raise.
_READ_ERRORS = (OSError, EOFError, RuntimeError, HTTPException, zlib.error, tarfile.TarError)

# sha256 of training images, training labels, test images, test labels: the values, since archives differ by packer.
_IDX_SHA256 = {
    "mnist": "06b0d1f124c4e5fa796686ade41a9b778edacc8622f2195a352ef479ad44fc16",
    "fashion_mnist": "ca3ab2a37f845e1b8ae23cab1b51749a3011ba3bf1d9016176d75cbaabac376f",
}
_IDX_FOLDERS = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST"}


def load_archive(info: DataSetInfo, root: Path, download: bool = True) -> Parts:
    """Loads one of torchvision's data sets; downloads it into ``root/NAME`` where it is not there.

    Args:
        info: Which one.
        root: Where data sets are; files directly in it or in ``root/NAME`` are found.
        download: False to leave a set that is not there.

    Raises:
        InputError: Files are there, but damaged or not all.
        MissingDataError: It is not there and was not to be downloaded.
        DownloadError: It is not there and could not be downloaded.
    """
    if (parts := _find(info, root)) is not None:
        return parts
    if not download:
        raise MissingDataError(
            f"{info.name} is not in {root}; put its files ({ARCHIVES[info.name].files}) into {root / info.name}"
        )
    target = root / info.name
    try:
        with _alone(root, info.name):  # of several processes one downloads, the others then find it
            if (parts := _find(info, root)) is not None:
                return parts
            return _download(info, target)
    except _READ_ERRORS as error:
        raise DownloadError(
            f"{info.title} could not be downloaded ({_explain(error)}); put its files ({ARCHIVES[info.name].files}) "
            f"into {target}, or say with --data or MUSCLE_ZOO_DATA where they are"
        ) from None


@contextmanager
def _alone(root: Path, name: str) -> Iterator[None]:
    """One process at a time; where it fails, the folder is left as it was found: it may have been mistyped."""
    made = [folder for folder in (root, *root.parents) if not folder.exists()]
    root.mkdir(parents=True, exist_ok=True)
    lock = root / f".{name}.lock"
    with FileLock(lock):
        try:
            yield
        except BaseException:
            lock.unlink(missing_ok=True)
            with suppress(OSError):  # one that holds something else by now stays
                for folder in made:
                    folder.rmdir()
            raise


def _find(info: DataSetInfo, root: Path) -> Parts | None:
    target = root / info.name
    for place in (target, root):
        try:
            if (parts := ARCHIVES[info.name].read(info.name, place, False)) is not None:
                return parts
        except InputError:
            raise
        except PermissionError as error:
            raise InputError(f"{error.filename} cannot be read ({error.strerror}); check its permissions") from None
        except (*_READ_ERRORS, ValueError, KeyError) as error:
            raise InputError(
                f"{info.title} in {place} is damaged or not whole ({_explain(error)}); restore its files "
                f"({ARCHIVES[info.name].files}), or delete them to download them again"
            ) from None
    if target.is_dir() and any(target.iterdir()):
        raise InputError(
            f"{target} does not hold {info.title}; put its files ({ARCHIVES[info.name].files}) there, or empty the "
            "folder to download them"
        )
    return None


def _download(info: DataSetInfo, target: Path) -> Parts:
    part = target.with_name(f"{info.name}.part")
    shutil.rmtree(part, ignore_errors=True)  # of a download that was interrupted
    part.mkdir()
    try:
        parts = ARCHIVES[info.name].read(info.name, part, True)
        target.mkdir(exist_ok=True)  # it may be there, empty, or a link to an empty folder
        for path in part.iterdir():
            if not path.name.endswith(".tar.gz"):  # it is unpacked
                shutil.move(path, target / path.name)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    assert parts is not None
    return parts


def _explain(error: Exception) -> str:
    """What an error says, in one line; torchvision's advice is for those who call it."""
    return " ".join(str(error).split()).partition(" You can use download=True")[0] or type(error).__name__


def _labeled(images: np.ndarray, labels: Any) -> LabeledImages:
    return LabeledImages(torch.from_numpy(np.ascontiguousarray(images)), torch.as_tensor(labels).long())


def _read_idx(name: str, place: Path, download: bool) -> Parts | None:
    if download:
        from torchvision import datasets

        getattr(datasets, _IDX_FOLDERS[name])(place, download=True)
    for folder in (place, place / _IDX_FOLDERS[name] / "raw"):
        files = [_idx_file(folder, f"{p}-{k}-ubyte") for p in ("train", "t10k") for k in ("images-idx3", "labels-idx1")]
        if not any(files):
            continue
        if not all(files):
            raise InputError(
                f"{folder} does not hold all four files of {name} ({ARCHIVES[name].files}); add the missing ones"
            )
        arrays = [_idx(path) for path in files if path is not None]
        digest = hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()
        if digest == _IDX_SHA256[name]:
            return _labeled(arrays[0][:, None], arrays[1]), _labeled(arrays[2][:, None], arrays[3])
        if digest not in _IDX_SHA256.values():  # it may be the other set of the same file names
            raise InputError(f"{folder} holds other images than {name}'s; move or delete them, or give another --data")
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
    train, test = (_labeled(part.data.transpose(0, 3, 1, 2), part.targets) for part in parts)
    return train, test


def _read_svhn(name: str, place: Path, download: bool) -> Parts | None:
    from torchvision.datasets import SVHN

    subsets = ("train", "test", "extra") if name == "svhn_extra" else ("train", "test")
    if not download and not any((place / SVHN.split_list[part][1]).is_file() for part in subsets):
        return None
    parts = {part: SVHN(place, split=part, download=download) for part in subsets}
    images = [parts[part].data for part in subsets if part != "test"]
    labels = np.concatenate([parts[part].labels for part in subsets if part != "test"])
    return _labeled(np.concatenate(images), labels), _labeled(parts["test"].data, parts["test"].labels)


def _read_stl10(name: str, place: Path, download: bool) -> Parts | None:
    from torchvision.datasets import STL10

    if not download and not (place / STL10.base_folder).is_dir():
        return None
    # Classes of the unlabeled images are -1 there, as they are here.
    train, test = (STL10(place, split=part, download=download) for part in ("train+unlabeled", "test"))
    return _labeled(train.data, train.labels), _labeled(test.data, test.labels)


# Every set that torchvision has a reader for: a new one is a function above and a row here.
ARCHIVES: dict[str, Archive] = {
    "mnist": Archive(_read_idx, "train-images-idx3-ubyte.gz and three more"),
    "fashion_mnist": Archive(_read_idx, "train-images-idx3-ubyte.gz and three more"),
    "cifar10": Archive(_read_cifar, "cifar-10-batches-py/, unpacked from cifar-10-python.tar.gz"),
    "cifar100": Archive(_read_cifar, "cifar-100-python/, unpacked from cifar-100-python.tar.gz"),
    "svhn": Archive(_read_svhn, "train_32x32.mat and test_32x32.mat"),
    "svhn_extra": Archive(_read_svhn, "train_32x32.mat, test_32x32.mat and extra_32x32.mat"),
    "stl10": Archive(_read_stl10, "stl10_binary/, unpacked from stl10_binary.tar.gz"),
}


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
