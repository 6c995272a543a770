"""Tables as other programs write them: a column for each class, lists with blanks, JSON, flags of the test."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from muscle_zoo.data.picture_folder import find_pictures
from muscle_zoo.errors import InputError
from tests.test_folder import put, write

ROWS = [(f"img/{label} {n}.png", label) for label in ("cat", "dog") for n in (1, 2, 3)]


def csv_of(header: str, *cells: str) -> str:
    """A row for each picture: p is its path, c and d say if it is a cat or a dog, t and n if its number is 3."""
    values = [
        {
            "p": path,
            "l": label,
            "c": int(label == "cat"),
            "d": int(label == "dog"),
            "t": "3" in path,
            "n": "3" not in path,
        }
        for path, label in ROWS
    ]
    return "\n".join([*([header] if header else []), *(",".join(cells).format(**of) for of in values)]) + "\n"


def pairs(form: str) -> str:
    return "".join(form.format(p=path, l=label) + "\n" for path, label in ROWS)


COCO = {
    "images": [{"id": i, "file_name": path} for i, (path, _) in enumerate(ROWS)],
    "annotations": [{"image_id": i, "category_id": int(label == "dog")} for i, (_, label) in enumerate(ROWS)] * 2,
    "categories": [{"id": 0, "name": "cat"}, {"id": 1, "name": "dog"}],
}
# Name of the file, its text, and how many labeled, unlabeled and test pictures there are, of cats and dogs alike.
READ: dict[str, tuple[str, str, tuple[int, int, int]]] = {
    "one-hot": ("a.csv", csv_of("path,cat,dog", "{p}", "{c}", "{d}"), (6, 0, 0)),
    "one-hot, fractions and another column": (
        "a.csv",
        csv_of("age,path,cat,dog", "31", "{p}", "{c}.0", "{d}.0"),
        (6, 0, 0),
    ),
    "one-hot with a split": ("a.csv", csv_of("path,dog,cat,is_test", "{p}", "{d}", "{c}", "{t}"), (4, 0, 2)),
    "label with a flag of training": ("a.csv", csv_of("path,label,is_train", "{p}", "{l}", "{n}"), (4, 0, 2)),
    "words for nothing": ("a.csv", csv_of("path,label", "{p}", "{l}").replace("3.png,cat", "3.png,NaN"), (5, 1, 0)),
    "brackets": ("a.csv", csv_of("path,label", "{p}", "['{l}']"), (6, 0, 0)),
    "single quotes": ("a.csv", pairs("'{p}','{l}'").join(("path,label\n", "")), (6, 0, 0)),
    "blanks": ("a.txt", pairs("{p} {l}"), (6, 0, 0)),
    "blanks, label first": ("a.txt", pairs("{l}   {p}"), (6, 0, 0)),
    "blanks and quotes in a csv": ("a.csv", "path label\n" + pairs('"{p}" {l}'), (6, 0, 0)),
    "tabs in a list": ("a.lst", pairs("{p}\t{l}"), (6, 0, 0)),
    "objects": ("a.json", json.dumps([{"file_name": p, "category": label} for p, label in ROWS]), (6, 0, 0)),
    "a label for each path": ("a.json", json.dumps(dict(ROWS)), (6, 0, 0)),
    "paths for each label": (
        "a.json",
        json.dumps({label: [p for p, of in ROWS if of == label] for label in ("cat", "dog")}),
        (6, 0, 0),
    ),
    "columns": ("a.json", json.dumps({"path": [p for p, _ in ROWS], "label": [label for _, label in ROWS]}), (6, 0, 0)),
    "pairs": ("a.json", json.dumps({"labels": [*map(list, ROWS)]}), (6, 0, 0)),
    "COCO's": ("a.json", json.dumps(COCO), (6, 0, 0)),
    "lines in a .json": ("a.json", "\n".join(json.dumps({"path": p, "label": label}) for p, label in ROWS), (6, 0, 0)),
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return put(tmp_path / "mine", *(path for path, _ in ROWS))


@pytest.mark.parametrize("kind", READ)
@pytest.mark.parametrize("whole", [False, True], ids=["file", "folder"])
def test_tables_that_are_read(root: Path, kind: str, whole: bool) -> None:
    """The file itself, or the folder that it lies in."""
    name, text, numbers = READ[kind]
    path = write(root / name, text)
    listing = find_pictures(root if whole else path)
    assert listing.class_names == ("cat", "dog")
    counts = Counter("unlabeled" if label < 0 else "labeled" for _, label in listing.train)
    assert (counts["labeled"], counts["unlabeled"], len(listing.test)) == numbers
    for picture, label in listing.train + listing.test:
        assert label == -1 or picture == f"img/{listing.class_names[label]} {picture[-5]}.png"


REFUSED = {
    "two ones": ("a.csv", csv_of("path,cat,dog", "{p}", "1", "{d}"), "line 5: 'cat' and 'dog' are both 1"),
    "probabilities": ("a.csv", csv_of("path,cat,dog", "{p}", "0.7", "0.3"), "hold probabilities"),
    "paths alone": ("a.txt", pairs("{p}").replace(" ", "_"), "no path and no label"),
    "a workbook called a CSV": ("a.csv", "PK\3\4....", "an Excel workbook or a ZIP archive; save it as a CSV"),
    "an archive": ("a.tar.gz", "", "is an archive; unpack it"),
    "a Parquet file": ("a.parquet", "", "save it as a CSV"),
    "two categories": (
        "a.json",
        json.dumps({**COCO, "annotations": [{"image_id": 0, "category_id": i} for i in (0, 1)]}),
        "'img/cat 1.png' has annotations of 'cat' and 'dog'",
    ),
    "two labels in a list": (
        "a.json",
        json.dumps([{"path": p, "label": [label, p]} for p, label in ROWS]),
        "a list of 2",
    ),
    "two labels": ("a.csv", csv_of("path,label", "{p}", "{l}") + "img/x.png,cat+dog\n", "names 2 classes"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_tables_that_are_refused(root: Path, kind: str) -> None:
    name, text, message = REFUSED[kind]
    with pytest.raises(InputError) as error:
        find_pictures(write(root / name, text))
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_table_beside_classes_is_said_not_to_be_read(tmp_path: Path) -> None:
    root = put(tmp_path, "a/1.png", "b/1.png")
    write(root / "labels.csv", "path,label\na/1.png,b\nb/1.png,a\n")
    write(root / "classes.txt", "0 a\n1 b\n")  # no list of pictures
    listing = find_pictures(root)
    assert listing.class_names == ("a", "b")
    (note,) = listing.notes
    assert note.names == ("labels.csv",) and "is not read" in note.text
