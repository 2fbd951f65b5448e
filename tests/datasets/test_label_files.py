"""Laws of label tables: every form that people keep means the same, and nothing that is odd becomes a label or a 0."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import pytest

from weakclip.datasets.faults import mistake_line, same_mistakes
from weakclip.datasets.label_files import read_label_file, read_label_rows
from weakclip.errors import DataError

SAID = {"a.png": {"cat"}, "b.png": {"cat", "traffic light"}, "c.png": set()}


def read(path: Path) -> dict[str, set[str]]:
    return {row.image: set(row.labels) for row in read_label_rows(path)}


TEXTS = {
    "labels": "image,labels\na.png,cat\nb.png,cat;traffic light\nc.png,\n",
    "filename and tags": "Filename,Tags\na.png,cat\nb.png,cat;traffic light\nc.png,\n",
    "file_name and classes": 'file_name,classes\na.png,cat\nb.png,"cat, traffic light"\nc.png,\n',
    "path and class": "path\tclass\na.png\tcat\nb.png\tcat;traffic light\nc.png\t\n",
    "one row a label": "Image ID;label\na.png;cat\nb.png;cat\nc.png;\nb.png;traffic light\n",
    "one-hot": "image,cat,traffic light\na.png,1,0\nb.png,1,1\nc.png,0,0\n",
    "one-hot, floats": "image_id;cat;traffic light\na.png;1.0;0.0\nb.png;1.0;1.0\nc.png;;\n",
    "one-hot, words": "file\tcat\ttraffic light\na.png\tTrue\tFalse\nb.png\tyes\tYES\nc.png\tno\tfalse\n",
    "one-hot, crosses": "image,cat,traffic light\na.png,x,\nb.png,x,X\nc.png,,\n",
    "one-hot, row numbers": ",image,cat,traffic light,background\n0,a.png,1,0,1\n1,b.png,1,1,1\n2,c.png,0,0,1\n",
    "a separator inside another name": 'image,labels,"a;b;c;d"\na.png,cat,\nb.png,cat;traffic light,x\nc.png,,\n',
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_every_form_of_a_table_means_the_same(text: str, encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "any.csv"
    path.write_text(text, encoding=encoding)
    assert read(path) == SAID


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_a_workbook_means_the_same(text: str, tmp_path: Path) -> None:
    openpyxl = pytest.importorskip("openpyxl")
    first, *_ = text.splitlines()
    mark = "," if '"' in first else max(",;\t", key=first.count)
    book = openpyxl.Workbook()
    for cells in csv.reader(text.splitlines(), delimiter=mark):
        book.active.append([_value(cell) for cell in cells])
    book.save(tmp_path / "any.xlsx")
    assert read(tmp_path / "any.xlsx") == SAID


def _value(cell: str) -> object:
    """As a spreadsheet keeps it: numbers and truth are no texts."""
    return {"True": True, "False": False, "1": 1, "0": 0, "1.0": 1.0, "0.0": 0.0, "": None}.get(cell, cell)


def test_a_second_sheet_is_noted(tmp_path: Path) -> None:
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    book.active.append(["image", "labels"])
    book.active.append([None, None])
    book.active.append(["a.png", "cat"])
    book.create_sheet("empty")
    book.create_sheet("more photos").append(["image", "labels"])
    book.save(tmp_path / "labels.xlsx")
    found = read_label_file(tmp_path / "labels.xlsx")
    assert [(row.image, row.where) for row in found.rows] == [("a.png", f"{tmp_path / 'labels.xlsx'}, line 3")]
    assert found.notes == (f"{tmp_path / 'labels.xlsx'}: the first sheet is read, not 'more photos'",)


def test_a_workbook_without_openpyxl_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    (tmp_path / "labels.xlsx").write_bytes(b"PK")
    with pytest.raises(DataError, match=r"labels\.xlsx: .*pip install weakclip\[xlsx\]") as caught:
        read_label_file(tmp_path / "labels.xlsx")
    assert "\n" not in str(caught.value)


def test_what_is_no_workbook_is_one_line(tmp_path: Path) -> None:
    openpyxl = pytest.importorskip("openpyxl")
    path = tmp_path / "labels.xlsx"
    openpyxl.Workbook().save(path)
    whole = path.read_bytes()
    for content in (b"", b"image,labels\n", whole[: len(whole) // 2], whole.replace(b"xl/workbook", b"xl/wirkbook")):
        path.write_bytes(content)
        with pytest.raises(DataError) as caught:
            read_label_file(path)
        assert "labels.xlsx" in str(caught.value) and "\n" not in str(caught.value)
    path.write_bytes(whole)
    with pytest.raises(DataError, match="line 1: expected the columns image,labels"):
        read_label_file(path)
    (tmp_path / "labels.ods").write_bytes(whole)
    with pytest.raises(DataError, match=r"labels\.ods: workbooks are read as \.xlsx only"):
        read_label_file(tmp_path / "labels.ods")


def test_a_column_of_labels_goes_before_those_of_zeros_and_ones(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("image,labels,checked\na.png,cat,1\nb.png,dog,0\n")
    assert read(tmp_path / "t.csv") == {"a.png": {"cat"}, "b.png": {"dog"}}


def test_columns_of_no_class_are_noted(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("image,age,cat,site\na.png,41,1,north\nb.png,0,0,south\nc.png,37,1,\n")
    found = read_label_file(tmp_path / "t.csv")
    assert [row.labels for row in found.rows] == [("cat",), (), ("cat",)]
    assert found.notes == (f"{tmp_path / 't.csv'}: columns of no class, not read: 'age', 'site'",)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("c.png,-1,0", "column 'cat': 0 or 1 expected; found '-1'"),
        ("c.png,0.7,0", "column 'cat': 0 or 1 expected; found '0.7'"),
        ("c.png,1,", "column 'dog': 0 or 1 expected; found an empty cell"),
        ("c.png,1", "column 'dog': 0 or 1 expected; found an empty cell"),
        (",1,0", "no image is named"),
    ],
)
def test_what_is_neither_0_nor_1_is_a_mistake(row: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(f"image,cat,dog\na.png,1,0\nb.png,0,1\n{row}\nd.png,1,1\n")
    found = read_label_file(tmp_path / "t.csv")
    assert [row.image for row in found.rows] == ["a.png", "b.png", "d.png"]
    assert [fault.error for fault in found.faults] == [f"{tmp_path / 't.csv'}, line 4: {said}"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("image,tag,class\na.png,cat,dog\n", "the columns 'tag' and 'class' may both be labels"),
        ("image,labels,labels\na.png,cat,dog\n", "the columns 'labels' and 'labels' may both be labels"),
        ("image,cat,cat\na.png,1,0\n", "two columns are called 'cat'"),
        ("image,score\na.png,0.7\n", "expected the columns image,labels, or image and one of 0 and 1 for each class"),
        ("image\na.png\n", "expected the columns image,labels"),
        ("photo,labels\na.png,cat\n", "expected the columns image,labels"),
        ("image;labels\na.png,cat\nb.png,dog\n", "line 1 is separated by ';', the others by ','; use one of them"),
    ],
)
def test_a_table_whose_columns_cannot_be_told_is_refused(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(DataError, match=rf"t\.csv, line [12]: .*{said}"):
        read_label_file(tmp_path / "t.csv")


def test_names_with_the_other_separators_are_names(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("image;labels\na,b.png\nc.png;cat\n")
    assert read(tmp_path / "t.csv") == {"a,b.png": set(), "c.png": {"cat"}}


def test_a_quote_that_is_left_open_is_named(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text('image,labels\na.png,cat\n"b.png,dog\nc.png,cat\n')
    [fault] = read_label_file(tmp_path / "t.csv").faults
    assert "the name of an image goes on in the next line" in fault.error and "is a quote left open?" in fault.error


def test_one_mistake_is_one_line_with_its_count_and_places(tmp_path: Path) -> None:
    rows = [f"{number}.png,{'maybe' if number % 2 else 1}" for number in range(10)]
    (tmp_path / "t.csv").write_text("\n".join(["image,cat", *rows]))
    (same,) = same_mistakes(read_label_file(tmp_path / "t.csv").faults)
    path = tmp_path / "t.csv"
    assert mistake_line(same) == (
        f"column 'cat': 0 or 1 expected; found …: 5 times: {path}, line 3 ('maybe'); line 5 ('maybe'); "
        "line 7 ('maybe'); …"
    )


def test_excels_line_on_the_separator_is_no_header(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("sep=;\nimage;labels\na.png;cat\n")
    (row,) = read_label_rows(tmp_path / "t.csv")
    assert (row.labels, row.where) == (("cat",), f"{tmp_path / 't.csv'}, line 3")


def test_a_table_that_has_changed_is_read_again(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("image,labels\na.png,cat\n")
    assert read(tmp_path / "t.csv") == {"a.png": {"cat"}}
    (tmp_path / "t.csv").write_text("image,labels\na.png,horse\n")
    assert read(tmp_path / "t.csv") == {"a.png": {"horse"}}
