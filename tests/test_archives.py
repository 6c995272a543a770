"""Published sets in small: found in torchvision's layout, downloaded from a server of our own, damaged on disk."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import pickle
import socket
import tarfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.datasets import CIFAR10, CIFAR100, MNIST, STL10, SVHN, FashionMNIST

from muscle_zoo import InputError
from muscle_zoo.data import DataConfig, DataSet, archives, catalog, dataset_info, load_dataset
from muscle_zoo.errors import DownloadError, MissingDataError

CLASSES = {"mnist": MNIST, "fashion_mnist": FashionMNIST, "cifar10": CIFAR10, "cifar100": CIFAR100}
CLASSES |= {"svhn": SVHN, "svhn_extra": SVHN, "stl10": STL10}
IDX_FILES = [f"{part}-{kind}-ubyte.gz" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]
Patch = pytest.MonkeyPatch
Part = tuple[np.ndarray, np.ndarray]  # (N, C, H, W) and the classes


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def halved(content: bytes) -> bytes:
    return content[: len(content) // 2]


def tree(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.suffix != ".lock"}


def one_line(error: pytest.ExceptionInfo[Exception], *words: object) -> None:
    text = str(error.value)
    assert "\n" not in text
    for word in words:
        assert str(word) in text, text


def draw(name: str, size: int, seed: int) -> Part:
    """Noise, for it shows what is turned or mirrored; the first image is red where there are colors."""
    info = dataset_info(name)
    rng = np.random.default_rng([seed, *name.encode()])
    images = rng.integers(0, 256, (size, *info.input_size), dtype=np.uint8)
    if info.input_size[0] == 3:
        images[0] = np.array([255, 0, 0], dtype=np.uint8)[:, None, None]
    return images, rng.permutation(np.arange(size) % info.num_classes)


@dataclass
class Site:
    """What stands in the publishers' place: serves a folder, and keeps the paths that were asked for."""

    folder: Path
    monkeypatch: Patch
    asked: list[str] = field(default_factory=list)
    fault: str = ""
    meanwhile: Callable[[], object] = lambda: None

    def direct(self, base: str) -> None:
        """Has torchvision ask this address for everything."""
        for cls in CIFAR10, CIFAR100, STL10:
            self.monkeypatch.setattr(cls, "url", f"{base}/{cls.__name__}/{cls.filename}")
        for cls in MNIST, FashionMNIST:
            self.monkeypatch.setattr(cls, "mirrors", [f"{base}/{cls.__name__}/"])
        for part, (_, file, checksum) in SVHN.split_list.items():
            self.monkeypatch.setitem(SVHN.split_list, part, [f"{base}/SVHN/{file}", file, checksum])

    def publish(self, name: str) -> tuple[Part, Part]:
        """Makes a set, packed as its publisher packs it."""
        cls = CLASSES[name]
        place = self.folder / cls.__name__
        made = make(self.monkeypatch, place, name)
        if issubclass(cls, MNIST):
            self.monkeypatch.setattr(cls, "resources", [(file, md5(place / file)) for file, _ in cls.resources])
        elif cls is not SVHN:
            with tarfile.open(place / cls.filename, "w:gz") as tar:
                tar.add(place / cls.base_folder, cls.base_folder)
            self.monkeypatch.setattr(cls, "tgz_md5", md5(place / cls.filename))
        return made


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        site: Site = self.server.site
        site.asked.append(self.path)
        meanwhile, site.meanwhile = site.meanwhile, lambda: None  # once
        meanwhile()
        path = site.folder / self.path[1:]
        if not path.is_file():
            return self.send_error(404)
        content = path.read_bytes()
        start = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(content)
        chunk = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n" % len(content)
        answer = {
            "cut short": start + halved(content),
            "cut short in a chunk": chunk + halved(content),
            "no answer of HTTP": b"login first\r\n\r\n",
        }
        with contextlib.suppress(OSError):  # torchvision asks for redirections first, and hangs up
            self.wfile.write(answer.get(site.fault, start + content))

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@pytest.fixture(scope="module")
def server() -> Iterator[ThreadingHTTPServer]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture(autouse=True)
def site(server: ThreadingHTTPServer, tmp_path_factory: pytest.TempPathFactory, monkeypatch: Patch) -> Site:
    """For every test, so that none can ask the internet."""
    server.site = Site(tmp_path_factory.mktemp("site"), monkeypatch)
    server.site.direct(f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.delenv("MUSCLE_ZOO_DATA", raising=False)
    return server.site


def make(monkeypatch: Patch, place: Path, name: str) -> tuple[Part, Part]:
    """Writes a small set as torchvision keeps it, and makes its size and checksums the published ones."""
    classes = dataset_info(name).num_classes
    train, test = draw(name, 2 * classes, 1), draw(name, 10, 2)
    if name == "stl10":
        train = np.concatenate([train[0], draw(name, 5, 3)[0]]), np.concatenate([train[1], [-1] * 5])
    facts = replace(catalog.CATALOG[name], train_size=len(train[0]), test_size=len(test[0]))
    monkeypatch.setitem(catalog.CATALOG, name, facts)
    place.mkdir(parents=True, exist_ok=True)
    write = {MNIST: write_idx, FashionMNIST: write_idx, SVHN: write_svhn, STL10: write_stl10}
    write.get(CLASSES[name], write_cifar)(monkeypatch, place, name, train, test)
    return train, test


def write_idx(monkeypatch: Patch, place: Path, name: str, train: Part, test: Part) -> None:
    arrays = [train[0][:, 0], train[1].astype(np.uint8), test[0][:, 0], test[1].astype(np.uint8)]
    for file, values in zip(IDX_FILES, arrays, strict=True):
        header = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, dtype=">u4").tobytes()
        (place / file).write_bytes(gzip.compress(header + values.tobytes()))
    digest = hashlib.sha256(b"".join(values.tobytes() for values in arrays))
    monkeypatch.setitem(archives._IDX_SHA256, name, digest.hexdigest())


def write_cifar(monkeypatch: Patch, place: Path, name: str, train: Part, test: Part) -> None:
    cls = CLASSES[name]
    folder = place / cls.base_folder
    folder.mkdir()
    for attribute, (images, labels) in (("train_list", train), ("test_list", test)):
        files = [file for file, _ in getattr(cls, attribute)]
        for file, positions in zip(files, np.array_split(np.arange(len(images)), len(files)), strict=True):
            batch = {"data": images[positions].reshape(len(positions), -1), "coarse_labels": [0] * len(positions)}
            batch["labels" if name == "cifar10" else "fine_labels"] = labels[positions].tolist()
            (folder / file).write_bytes(pickle.dumps(batch))
        monkeypatch.setattr(cls, attribute, [[file, md5(folder / file)] for file in files])
    meta = folder / cls.meta["filename"]
    meta.write_bytes(pickle.dumps({cls.meta["key"]: list(dataset_info(name).class_names)}))
    monkeypatch.setattr(cls, "meta", {**cls.meta, "md5": md5(meta)})


def write_stl10(monkeypatch: Patch, place: Path, name: str, train: Part, test: Part) -> None:
    folder = place / STL10.base_folder
    folder.mkdir()
    known = train[1] >= 0
    images = {"train_X.bin": train[0][known], "unlabeled_X.bin": train[0][~known], "test_X.bin": test[0]}
    for file, values in images.items():
        (folder / file).write_bytes(values.transpose(0, 1, 3, 2).tobytes())  # column by column
    for file, labels in (("train_y.bin", train[1][known]), ("test_y.bin", test[1])):
        (folder / file).write_bytes((labels + 1).astype(np.uint8).tobytes())
    for attribute in ("train_list", "test_list"):
        monkeypatch.setattr(STL10, attribute, [[file, md5(folder / file)] for file, _ in getattr(STL10, attribute)])


def write_svhn(monkeypatch: Patch, place: Path, name: str, train: Part, test: Part) -> None:
    from scipy import io as matlab

    first = 8 if name == "svhn_extra" else len(train[0])
    parts = {"train": (slice(0, first), train), "extra": (slice(first, None), train), "test": (slice(None), test)}
    for part, (which, (images, labels)) in parts.items():
        url, file, _ = SVHN.split_list[part]
        if len(labels[which]):
            numbers = np.where(labels == 0, 10, labels).astype(np.uint8)
            matlab.savemat(place / file, {"X": images[which].transpose(2, 3, 1, 0), "y": numbers[which, None]})
            monkeypatch.setitem(SVHN.split_list, part, [url, file, md5(place / file)])


def load(name: str, root: Path) -> DataSet:
    return load_dataset(name, DataConfig(root=root))


def assert_is(data: DataSet, made: tuple[Part, Part]) -> None:
    for part, (images, labels) in zip((data.train, data.test), made, strict=True):
        assert part.images.dtype == torch.uint8 and part.labels.dtype == torch.int64
        assert np.array_equal(part.images.numpy(), images)
        assert part.labels.tolist() == labels.tolist()
        if images.shape[1] == 3:
            red = part.images[0].flatten(1)
            assert red.amin(dim=1).tolist() == red.amax(dim=1).tolist() == [255, 0, 0]


@pytest.mark.parametrize("where", ["", "NAME"])
@pytest.mark.parametrize("name", CLASSES)
def test_files_of_torchvision_are_found(name: str, where: str, tmp_path: Path, site: Site, monkeypatch: Patch) -> None:
    with pytest.raises(MissingDataError, match=name):
        load_dataset(name, DataConfig(tmp_path, download=False))
    made = make(monkeypatch, tmp_path / where.replace("NAME", name), name)
    before = tree(tmp_path)
    data = load(name, tmp_path)
    assert_is(data, made)
    assert data.info == dataset_info(name)
    assert tree(tmp_path) == before and site.asked == []


@pytest.mark.parametrize("folder", [".", "NAME", "NAME/TORCHVISION/raw", "TORCHVISION/raw"])
@pytest.mark.parametrize("unpacked", [False, True])
@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_layouts_of_idx_files(name: str, unpacked: bool, folder: str, tmp_path: Path, monkeypatch: Patch) -> None:
    place = tmp_path / folder.replace("NAME", name).replace("TORCHVISION", CLASSES[name].__name__)
    made = make(monkeypatch, place, name)
    if unpacked:
        for path in place.glob("*.gz"):
            path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
            path.unlink()
    assert_is(load(name, tmp_path), made)


def test_the_two_idx_sets_in_one_place_are_told_apart(tmp_path: Path, monkeypatch: Patch) -> None:
    digits = make(monkeypatch, tmp_path, "mnist")
    clothes = make(monkeypatch, tmp_path / "FashionMNIST" / "raw", "fashion_mnist")
    assert_is(load("mnist", tmp_path), digits)
    assert_is(load("fashion_mnist", tmp_path), clothes)


@pytest.mark.parametrize("before", ["nothing", "an empty folder", "a link to an empty folder", "a part"])
@pytest.mark.parametrize("name", CLASSES)
def test_a_set_that_is_missing_is_downloaded_once(name: str, before: str, tmp_path: Path, site: Site) -> None:
    made = site.publish(name)
    root = tmp_path / "root"
    root.mkdir()
    (root / "mine.txt").write_text("mine")
    if before == "an empty folder":
        (root / name).mkdir()
    if before == "a link to an empty folder":  # of a larger disk
        (tmp_path / "disk").mkdir()
        (root / name).symlink_to(tmp_path / "disk")
    if before == "a part":  # of a download that was interrupted
        (root / f"{name}.part").mkdir()
        (root / f"{name}.part" / "junk").write_text("junk")
    assert_is(load(name, root), made)
    assert names(root) == {name, "mine.txt"}
    assert not (root / name / "junk").exists()
    site.asked.clear()
    assert_is(load(name, root), made)
    assert site.asked == []


def test_two_processes_download_at_the_same_time(tmp_path: Path, site: Site) -> None:
    made = site.publish("cifar10")
    loaded: list[DataSet] = []
    other = threading.Thread(target=lambda: loaded.append(load("cifar10", tmp_path)), daemon=True)
    site.meanwhile = lambda: (other.start(), other.join(timeout=1))  # it ends, or waits for the first
    loaded.append(load("cifar10", tmp_path))
    other.join(timeout=60)
    assert len(loaded) == 2
    for data in (*loaded, load("cifar10", tmp_path)):
        assert_is(data, made)
    assert names(tmp_path) == {"cifar10"}


def test_what_was_put_there_during_a_download_is_kept(tmp_path: Path, site: Site) -> None:
    site.publish("cifar10")
    mine = tmp_path / "cifar10" / "mine.txt"
    site.meanwhile = lambda: (mine.parent.mkdir(parents=True), mine.write_text("mine"))
    with contextlib.suppress(InputError, DownloadError):
        load("cifar10", tmp_path)
    assert mine.read_text() == "mine"


FAULTS = {"not found": "404", "no server": "refused", "another file": "corrupted", "no answer of HTTP": "login first"}
FAULTS |= {"cut short": "corrupted|Incomplete", "cut short in a chunk": "corrupted|Incomplete"}
FILES = {"mnist": "train-images-idx3-ubyte", "cifar10": "cifar-10-batches-py", "stl10": "stl10_binary"}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("fault", FAULTS)
def test_downloads_that_fail(name: str, fault: str, tmp_path: Path, site: Site) -> None:
    if fault == "no server":
        with socket.create_server(("127.0.0.1", 0)) as closed:
            port = closed.getsockname()[1]
        site.direct(f"http://127.0.0.1:{port}")
    elif fault != "not found":
        site.publish(name)
        site.fault = fault
    if fault == "another file":
        for path in (site.folder / CLASSES[name].__name__).glob("*.gz"):
            path.write_bytes(path.read_bytes() + b"\0")
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(DownloadError, match=FAULTS[fault]) as caught:
        load(name, tmp_path)
    one_line(caught, dataset_info(name).title, FILES[name], tmp_path / name, "--data", "MUSCLE_ZOO_DATA")
    assert {path.name for path in tmp_path.iterdir()} == {"mine.txt"}  # no lock either


def test_a_mistyped_folder_is_not_made(tmp_path: Path, site: Site) -> None:
    with pytest.raises(DownloadError):  # the site has nothing
        load("mnist", tmp_path / "no" / "such")
    assert not list(tmp_path.iterdir())


def test_cifar10_jpeg_that_is_nowhere(tmp_path: Path) -> None:
    with pytest.raises(DownloadError) as caught:
        load("cifar10_jpeg", tmp_path)
    one_line(caught, "CIFAR-10", FILES["cifar10"], "train/CLASS/", "test/CLASS/", tmp_path / "cifar10_jpeg")


PAGE = b"<html>not found</html>"
HEADER = bytes([0, 0, 8, 1, 0, 0, 0, 10])
DAMAGE: dict[str, tuple[str, str, Callable[[bytes], bytes] | None]] = {  # None: the file is missing
    "a batch cut short": ("cifar10", "cifar-10-batches-py/data_batch_2", halved),
    "a batch missing": ("cifar10", "cifar-10-batches-py/data_batch_3", None),
    "the names missing": ("cifar10", "cifar-10-batches-py/batches.meta", None),
    "the test batch missing": ("cifar100", "cifar-100-python/test", None),
    "unlabeled images missing": ("stl10", "stl10_binary/unlabeled_X.bin", None),
    "labels cut short": ("stl10", "stl10_binary/train_y.bin", halved),
    "the test missing": ("svhn", "test_32x32.mat", None),
    "the extra images cut short": ("svhn_extra", "extra_32x32.mat", halved),
    "gzip cut short": ("mnist", IDX_FILES[0], halved),
    "gzip damaged": ("mnist", IDX_FILES[0], lambda content: content[:10] + b"\xff" * 99),
    "no gzip": ("mnist", IDX_FILES[1], lambda content: PAGE),
    "IDX cut short": ("mnist", IDX_FILES[2], lambda content: gzip.compress(HEADER + b"123")),
    "header cut short": ("mnist", IDX_FILES[2], lambda content: gzip.compress(HEADER[:6])),
    "no IDX": ("mnist", IDX_FILES[3], lambda content: gzip.compress(PAGE)),
    "labels missing": ("fashion_mnist", IDX_FILES[3], None),
    "another image": ("fashion_mnist", IDX_FILES[2], lambda old: gzip.compress(gzip.decompress(old)[:-1] + b"?")),
}


SAYS = {"IDX cut short": "is truncated", "no IDX": "is no IDX file", "labels missing": "all four files"}


@pytest.mark.parametrize("where", ["", "NAME"])
@pytest.mark.parametrize("what", DAMAGE)
def test_damage_is_said_and_kept(what: str, where: str, tmp_path: Path, site: Site, monkeypatch: Patch) -> None:
    name, file, damage = DAMAGE[what]
    place = tmp_path / where.replace("NAME", name)
    make(monkeypatch, place, name)
    path = place / file
    if damage is None:
        path.unlink()
    else:
        path.write_bytes(damage(path.read_bytes()))
    before = tree(tmp_path)
    with pytest.raises(InputError, match=r"delete|add the missing") as caught:
        load(name, tmp_path)
    one_line(caught, tmp_path, SAYS.get(what, "delete"))
    assert tree(tmp_path) == before and site.asked == []


# In the set's own folder it is a mistake; where every set may be, it is none.
@pytest.mark.parametrize(("folder", "error"), [("fashion_mnist", InputError), (".", DownloadError)])
def test_the_other_idx_set(folder: str, error: type[Exception], tmp_path: Path, monkeypatch: Patch) -> None:
    make(monkeypatch, tmp_path / folder, "mnist")
    before = tree(tmp_path)
    with pytest.raises(error) as caught:
        load("fashion_mnist", tmp_path)
    one_line(caught, tmp_path / "fashion_mnist", "Fashion-MNIST")
    assert tree(tmp_path) == before


@pytest.mark.parametrize(("fact", "says"), [("train_size", "20 training"), ("class_names", "10 classes")])
def test_another_set_under_a_name(fact: str, says: str, tmp_path: Path, monkeypatch: Patch) -> None:
    make(monkeypatch, tmp_path, "cifar10")
    other = replace(dataset_info("cifar10"), **{fact: {"train_size": 21, "class_names": ("a", "b")}[fact]})
    monkeypatch.setitem(catalog.CATALOG, "cifar10", other)
    with pytest.raises(InputError, match=says) as caught:
        load("cifar10", tmp_path)
    one_line(caught, "cifar10", tmp_path)
