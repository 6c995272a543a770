"""Tar files that are broken or hostile, and patterns that mean none: named, refused, or left out."""

from __future__ import annotations

import gzip
import tarfile
import warnings
from pathlib import Path

import pytest

from muscle_zoo.data import DataConfig, load_dataset
from muscle_zoo.data.addresses import local_pictures
from muscle_zoo.data.check import check_pictures
from muscle_zoo.errors import InputError
from tests.shards import encoded, listed, said, samples, shard


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUSCLE_ZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def test_what_cannot_be_a_sample_is_named_and_left_out() -> None:
    """Twice, two pictures, names that lead upward or move the cursor, links, other files; as `data check` says it."""
    files = [
        *samples(range(6)),
        *(("twice.png", encoded("cat", 1)), ("twice.png", encoded("cat", 2)), ("twice.cls", b"1")),
        *(("label.png", encoded("cat", 3)), ("label.cls", b"1"), ("label.cls", b"0")),
        *(("two.png", encoded("cat", 4)), ("two.jpg", encoded("cat", 4, "JPEG")), ("two.cls", b"0")),
        *(("../../up\x1b[2J.png", encoded("cat", 5)), ("../../up\x1b[2J.cls", b"0")),
        *(("bad.png", b"\x89PNG\r\n\x1a\nno more"), ("bad.cls", b"0"), ("lone.cls", b"1"), ("000.mask.png", b"m")),
        *(("._000.png", b"Apple's"), ("__index__.json", b"[]"), ("no suffix", b"?")),
    ]
    shard(Path("s/train-0.tar"), files)
    with tarfile.open("s/train-0.tar", "a") as tar:
        link = tarfile.TarInfo("link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    shard(Path("s/train-1.tar"), [])
    report = check_pictures(local_pictures(Path("wds:s")))
    texts = [note.text for note in report.listing.notes]
    for expected in (
        "2 samples have a file twice in a shard and are left out (train-0.tar/twice, train-0.tar/label)",
        "1 samples have several pictures and are left out (train-0.tar/two)",
        "1 shards hold no picture that is taken (train-1.tar)",
        "2 files of the samples are not used (mask.png: 1, without a suffix: 1)",
        "1 links and the like in the shards are left out",
        "1 samples without a picture are left out",
    ):
        assert expected in texts, texts
    names = report.listing.names
    assert len(names) == 8 and "train-0.tar/%2E%2E/%2E%2E/up%1B[2J.png" in names
    assert list(report.headers.bad) == ["train-0.tar/bad.png"] and report.needs_a_decision
    assert all(line.isprintable() for line in report.lines())
    with pytest.warns(UserWarning, match=r"train-0.tar/bad.png \("):
        assert len(load_dataset("folder", DataConfig(local_pictures(Path("wds:s")), stream=True), 16).train) == 7
    with warnings.catch_warnings(), pytest.raises(InputError, match="have a file twice"):
        load_dataset("folder", DataConfig(local_pictures(Path("wds:s")), strict=True), 16)


def gzipped(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(gzip.compress(content))


def cut(path: Path) -> None:
    with tarfile.open(path) as tar:
        last = tar.getmembers()[-2]
    path.write_bytes(path.read_bytes()[: last.offset_data + 100])


def damage(path: Path) -> None:
    with tarfile.open(path) as tar:
        header = tar.getmembers()[4].offset
    content = bytearray(path.read_bytes())
    content[header : header + 200] = b"?" * 200
    path.write_bytes(content)


def oversize(path: Path) -> None:
    """A header that asks for a gigabyte of names."""
    member = tarfile.TarInfo("x")
    member.type, member.size = tarfile.GNUTYPE_LONGNAME, 1 << 30
    path.write_bytes(member.tobuf(tarfile.GNU_FORMAT) + bytes(1024))


FAULTS = {
    "compressed by gzip, so no picture": gzipped,
    "cut within 005.png": cut,
    "damaged at byte": damage,
    "an empty file": lambda path: path.write_bytes(b""),
    "another one is joined to it": lambda path: path.write_bytes(path.read_bytes() * 2),
    "nothing but zeros after byte": lambda path: path.write_bytes(path.read_bytes() + bytes(3 << 20)),
    "a header of 1073741824 bytes": oversize,
    "invalid header": lambda path: path.write_bytes(b"GIF89a" + bytes(range(256)) * 4),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_shard_that_cannot_be_read_is_refused_by_name(fault: str) -> None:
    shard(Path("s/train-0.tar"), samples(range(6)))
    FAULTS[fault](shard(Path("s/train-1.tar"), samples(range(6))))
    with pytest.raises(InputError, match=r"1 of 2 shards cannot be read: train-1\.tar") as error:
        listed("wds:s")
    assert fault in str(error.value) and "\n" not in str(error.value) and "fetch them again" in str(error.value)
    shard(Path("s/train-1.tar"), samples(range(8, 10)))  # fetched again
    assert len(listed("wds:s").train) == 8


def test_a_shard_without_its_end_may_be_cut() -> None:
    path = shard(Path("s/train-0.tar"), samples(range(6)))
    with tarfile.open(path) as tar:
        last = tar.getmembers()[-1]
    path.write_bytes(path.read_bytes()[: last.offset_data + 512])
    found = listed("wds:s")
    assert (
        len(found.train) == 6 and "1 shards are without the mark of a tar file's end, and may be cut" in said(found)[0]
    )


@pytest.mark.parametrize(
    "text, message",
    [
        ("wds:s/val-{0..3}.tar", "no shard is s/val-0.tar nor 3 others of it; write wds:"),
        ("wds:s/*.zip", r"no shard is s/\*.zip; write wds:"),
        ("wds:nowhere", "no shard is nowhere; write wds:"),
        ("wds:", "names no shards; write wds:FOLDER"),
        ("wds:s/{0..99999999999}.tar", "names more than 100,000 shards"),
        ("wds:s/{0..99999}{0..99999}{0..99999}.tar", "names more than 100,000 shards"),
        ("wds:https://host/a.tar", "from this machine's disk alone; download them"),
        ("wds:pipe:curl x", "from this machine's disk alone"),
        ("wds:packed", r"train-0.tar.gz is compressed \(1 of 1 are\).*unpack it to a .tar"),
        ("wds:s", "labels of fewer than two classes in the training part; add KEY.cls"),
        ("wds:words", r"words/0.tar: 000.cls: label='cat' is no whole number; write names of classes into KEY.txt"),
        ("wds:lists", r"lists/0.tar: 000.json: label=\[1, 2\] is no class; write one number or name"),
        ("wds:broken", r"broken/0.tar: 000.json cannot be read"),
        ("wds:deep", r"deep/0.tar: 000.json cannot be read"),
        ("wds:unknown", r"test-0.tar/007.png: class 'owl' has no training picture"),
        ("wds:tests", "labels of fewer than two classes in the training part"),
    ],
)
def test_what_is_no_set_of_shards_is_refused(text: str, message: str) -> None:
    shard(Path("s/train-0.tar"), samples([0, 2, 4]))
    shard(Path("packed/train-0.tar.gz"), [])
    for name, kind, content in (
        ("words", "cls", b"cat"),
        ("lists", "json", b'{"label": [1, 2]}'),
        ("broken", "json", b'{"label": '),
        ("deep", "json", b"[" * 100_000),
    ):
        shard(Path(name, "0.tar"), [("000.png", b"?"), (f"000.{kind}", content)])
    shard(Path("unknown/train-0.tar"), samples(range(4), "txt"))
    shard(Path("unknown/test-0.tar"), [("007.png", encoded("owl", 7)), ("007.txt", b"owl")])
    shard(Path("tests/test-0.tar"), samples(range(4)))
    with pytest.raises(InputError, match=message) as error:
        listed(text)
    assert "\n" not in str(error.value)


def test_shards_of_no_known_part_are_not_trained_on_beside_train() -> None:
    shard(Path("s/train-0.tar"), samples(range(4)))
    shard(Path("s/extra-0.tar"), samples(range(4, 8)))
    shard(Path("s/test-0.tar"), [*samples(range(8, 10)), *samples([10], label="")])
    found = listed("wds:s")
    assert len(found.train) == 4 and len(found.test) == 2
    assert "1 shards are of no part that is known beside train, and not used (extra-0.tar)" in said(found)
    assert "1 picture of the test or validation part without a label, left out (test-0.tar/010.png)" in said(found)
