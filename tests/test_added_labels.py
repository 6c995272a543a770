"""Labels that come back: a filled table or Label Studio's export, added to the folder that they are about."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from muscle_zoo.data.picture_folder import find_pictures
from muscle_zoo.errors import InputError
from tests.conftest import run
from tests.pictures import make_folder

A, B, C = (f"unlabeled/{i % 3}/{i:03}.png" for i in range(3))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "mine", labeled=2, unlabeled=6, test=1)


def classes_of(source: Path) -> dict[str, str]:
    listing = find_pictures(source)
    pictures = [*listing.train, *listing.test]
    return {name: listing.class_names[label] if label >= 0 else "" for name, label in pictures}


def texts(source: Path) -> str:
    return "\n".join(note.text for note in find_pictures(source).notes)


def test_a_table_adds_labels_to_a_folder(folder: Path) -> None:
    """Wherever the table lies, and however it writes the paths; a class may be new."""
    before = classes_of(folder)
    expected = {**before, A: "dog", B: "auk"}
    for table, to, prefix in (
        (folder.parent / "next.csv", "mine", "mine/"),
        (folder / "next.csv", ".", ""),
        (folder.parent / "lists" / "next.tsv", "../mine", "../mine/"),
        (folder.parent / "lists" / "names.csv", str(folder), ""),
        (folder.parent / "lists" / "moved.csv", "../mine", "/elsewhere/mine/"),
    ):
        table.parent.mkdir(exist_ok=True)
        rows = [("path", "label", "suggested_label", "adds_to"), (prefix + A, "dog", "cat", to)]
        rows += [(prefix + B, "auk", "cat", to), (prefix + C, "", "cat", to)]
        table.write_text("".join("\t".join(row) + "\n" for row in rows))
        assert classes_of(table) == expected
        assert find_pictures(table).root.resolve() == folder and find_pictures(table).class_names[0] == "auk"
        assert f"{table} adds labels to 2 pictures of" in texts(table)
        # In the same places, so that what was embedded of them is found again.
        assert [name for name, _ in find_pictures(table).train] == [name for name, _ in find_pictures(folder).train]
    assert classes_of(folder) == before  # a table with suggestions that lies in the folder is not its table


def test_a_class_of_one_picture_that_is_called_nearly_as_another_is_refused(folder: Path) -> None:
    table = folder.parent / "next.csv"
    for words in ((A, "dogg"), (A, "Dog")):
        table.write_text(f"path,label,adds_to\nmine/{words[0]},{words[1]},mine\nmine/{B},cat,mine\n")
        with pytest.raises(InputError, match=rf"{A} has the new class '{words[1]}'; did you mean 'dog'\?"):
            find_pictures(table)
    table.write_text(f"path,label,adds_to\nmine/{A},dogg,mine\nmine/{B},dogg,mine\n")
    assert "dogg" in find_pictures(table).class_names


def test_a_second_table_adds_to_the_first(folder: Path) -> None:
    first, second = folder.parent / "1.csv", folder.parent / "2.csv"
    first.write_text(f"path,label,adds_to\nmine/{A},dog,mine\n")
    second.write_text(f"path,label,adds_to\nmine/{B},cat,1.csv\nmine/{A},cat,1.csv\n")
    assert classes_of(second) == {**classes_of(folder), A: "cat", B: "cat"}
    assert f"2.csv changes 1 labels: {A}: dog -> cat" in texts(second)
    first.write_text(f"path,label,adds_to\nmine/{A},dog,2.csv\n")
    with pytest.raises(InputError, match="adds labels to itself"):
        find_pictures(second)


def test_what_a_table_gets_wrong_is_said(folder: Path) -> None:
    table = folder.parent / "next.csv"
    rows = [f"{A},cat,mine", f"{A},dog,mine", "gone.png,dog,mine", "test/cat/000.png,dog,mine"]
    table.write_text("path,label,adds_to\n" + "\n".join(rows))
    assert classes_of(table) == classes_of(folder)
    said = texts(table)
    assert "1 picture not among those of" in said and "(gone.png)" in said
    assert f"1 picture with two labels, of which none is taken: {A}: 'cat' and 'dog'" in said
    assert "1 picture of the test or validation part (test/cat/000.png)" in said
    for adds_to, message in (("mine\nb.png,,other", "write the same folder into every row"), ("no", "does not exist")):
        table.write_text(f"path,label,adds_to\na.png,,{adds_to}\n")
        with pytest.raises(InputError, match=message):
            find_pictures(table)


def test_a_table_that_nobody_filled_in_is_said(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = folder.parent / "next.csv"
    for columns, message in (
        ("label", f"{table} adds no labels: its column label is empty; fill it in"),
        ("lable", "column 'lable' may be meant for label; rename it"),
    ):
        table.write_text(f"path,{columns},probability,score,adds_to\nmine/{A},,0.5,0.25,mine\nmine/{B},,0.5,0.7,mine\n")
        code, said, _ = run(["data", "check", str(table)], capsys)
        assert code == 1 and message in said
        code, _, err = run(["train", str(table), "--out", str(folder.parent / "out")], capsys)
        assert code == 2 and message in err and err.count("\n") == 1, err
    table.write_text("file_pth,lable,score,x\na,cat,3,4\nb,dog,7,8\n")
    with pytest.raises(InputError, match="column 'lable' may be meant for label"):
        find_pictures(table)


def task(picture: str, *choices: str, **more: object) -> dict[str, object]:
    annotations = [
        {"was_cancelled": False, "result": [{"type": "choices", "value": {"choices": [choice]}}]} for choice in choices
    ]
    return {"data": {"image": picture, **more}, "annotations": annotations}


def test_label_studios_export_adds_labels(folder: Path) -> None:
    export = folder.parent / "export.json"
    local = "/data/local-files/?d="
    tasks = [task(local + A, "dog", adds_to="mine"), task(local + B, adds_to="mine"), task(local + C, adds_to="mine")]
    tasks[1]["predictions"] = [{"result": [{"type": "choices", "value": {"choices": ["dog"]}}]}]
    tasks[2]["annotations"] = [{"was_cancelled": True, "result": task(C, "dog")["annotations"][0]["result"]}]  # type: ignore[index]
    export.write_text(json.dumps(tasks))
    assert classes_of(export) == {**classes_of(folder), A: "dog"}
    small = [{"image": local + A, "label": "dog", "adds_to": "mine"}, {"image": local + B, "adds_to": "mine"}]
    export.write_text(json.dumps(small))  # its JSON-MIN
    assert classes_of(export) == {**classes_of(folder), A: "dog"}
    export.write_text(json.dumps([task(local + A, "dog", "cat", adds_to="mine")]))
    assert classes_of(export) == classes_of(folder) and "with two labels" in texts(export)


def test_label_studios_export_of_any_project(folder: Path) -> None:
    """Of pictures that were uploaded, or lie somewhere else: found by their names below the export's folder."""
    export = folder / "export.json"
    tasks = [task("/data/upload/3/0a1b2c3d-000.png"), task(f"https://example.org/x/{B}", "dog")]
    tasks += [task(f"s3://bucket/{C}", "cat"), task("/data/local-files/?d=labeled%2Fcat%2F001.png", "cat")]
    export.write_text(json.dumps(tasks))
    found = classes_of(export)
    assert {name: label for name, label in found.items() if label} == {B: "dog", C: "cat", "labeled/cat/001.png": "cat"}
    two = {"data": {"image": A}, "annotations": [{"result": [{"type": "choices", "value": {"choices": ["a", "b"]}}]}]}
    for text, message in (
        ("{}", "holds no table of pictures"),
        ("[", "is not JSON"),
        ("[3]", "holds no table of pictures"),
        ('[{"data": {}}]', "task 1 names no picture"),
        (json.dumps([task(A), two]), "task 2 has"),
    ):
        export.write_text(text)
        with pytest.raises(InputError, match=message):
            find_pictures(export)
