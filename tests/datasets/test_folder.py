"""Laws of the folder data set: every documented form is read, and every mistake is one clear line."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from weakclip.datasets.classes import voc_palette
from weakclip.datasets.faults import LabelError
from weakclip.datasets.folder import FolderDataset
from weakclip.datasets.images import write_mask
from weakclip.errors import DataError


def write_image(path: Path, size: tuple[int, int] = (6, 9)) -> None:
    """Another one at each path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(zlib.crc32(str(path).encode())).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("a.jpg", "b.png", "deep/in side/ü.jpeg"):
        write_image(tmp_path / "images" / name)
    (tmp_path / "labels.csv").write_text(
        "image,labels,score\na.jpg,cat,1\nb,traffic light; dog,0.5\ndeep/in side/ü.jpeg,dog,\n", encoding="utf-8"
    )
    return tmp_path


def labels_of(dataset: FolderDataset) -> dict[str, list[str]]:
    return {name: [dataset.class_set.names[k] for k in dataset.labels(i)] for i, name in enumerate(dataset.names)}


def test_csv_labels_with_spaces_nested_folders_and_names_without_extension(root: Path) -> None:
    dataset = FolderDataset(root)
    assert dataset.class_set.names == ("background", "cat", "dog", "traffic light")
    assert labels_of(dataset) == {"a": ["cat"], "b": ["dog", "traffic light"], "deep/in side/ü": ["dog"]}
    assert dataset[1].image.shape == (6, 9, 3)
    assert dataset.size(1) == (6, 9)
    assert not dataset.has_masks
    assert dataset.mask(0) is None


@pytest.mark.parametrize(
    ("header", "row"),
    [("image;labels", 'b.png;"dog;cat"'), ("image\tlabels", "b.png\tdog;cat"), ("labels,image", '"dog, cat",b.png')],
)
def test_other_separators_mean_the_same(root: Path, header: str, row: str) -> None:
    plain = ["a.jpg", "cat"] if header[0] == "i" else ["cat", "a.jpg"]
    separator = next(mark for mark in "\t;," if mark in header)
    (root / "labels.csv").write_text(f"\ufeff{header}\n{separator.join(plain)}\n{row}\n", encoding="utf-8")
    (root / "val.txt").write_text("deep/in side/ü\n", encoding="utf-8")
    assert labels_of(FolderDataset(root, "train")) == {"a": ["cat"], "b": ["cat", "dog"]}


def test_json_lines_mean_the_same_as_csv(root: Path) -> None:
    expected = labels_of(FolderDataset(root))
    (root / "labels.csv").unlink()
    rows = [{"image": name, "labels": labels} for name, labels in expected.items()]
    (root / "labels.jsonl").write_text("\n".join(json.dumps(row) for row in rows) + "\n\n")
    assert labels_of(FolderDataset(root)) == expected


@pytest.mark.parametrize("inside", ["", "images"])
def test_one_folder_a_class(tmp_path: Path, inside: str) -> None:
    for name in ("dog/1.jpg", "cat/1.jpg", "cat/more/2.jpg"):
        write_image(tmp_path / inside / name)
    write_mask(tmp_path / "masks/cat/1.png", np.ones((6, 9), np.uint8), voc_palette())
    dataset = FolderDataset(tmp_path)
    assert labels_of(dataset) == {"cat/1": ["cat"], "cat/more/2": ["cat"], "dog/1": ["dog"]}
    assert dataset.has_masks
    assert np.array_equal(dataset.mask(0), np.ones((6, 9), np.uint8))
    assert dataset.mask(1) is None


def test_classes_file_gives_order_prompts_and_colours(root: Path) -> None:
    (root / "classes.yaml").write_text(
        "names: [dog, traffic light, cat]\nprompts: {cat: a kitten}\ncolors: {dog: [1, 2, 3]}\n"
        "background_prompts: [sky]\n"
    )
    class_set = FolderDataset(root).class_set
    assert class_set.names == ("background", "dog", "traffic light", "cat")
    assert class_set.prompts == ("background", "dog", "traffic light", "a kitten")
    assert class_set.background_prompts == ("sky",)
    assert class_set.palette[1].tolist() == [1, 2, 3]
    assert class_set.palette[2].tolist() == voc_palette()[2].tolist()


def test_a_class_is_never_held_against_its_own_name(tmp_path: Path) -> None:
    write_image(tmp_path / "tree/1.jpg")
    assert "tree" not in FolderDataset(tmp_path).class_set.background_prompts
    assert "sky" in FolderDataset(tmp_path).class_set.background_prompts


def test_splits_are_lists_and_train_is_the_rest(root: Path) -> None:
    assert FolderDataset.splits(root) == ("train",)
    assert len(FolderDataset(root, "train")) == 3
    (root / "val.txt").write_text("b\n\n")
    assert FolderDataset.splits(root) == ("train", "val")
    assert FolderDataset(root, "val").names == ("b",)
    assert FolderDataset(root, "train").names == ("a", "deep/in side/ü")
    assert FolderDataset(root, "val").class_set == FolderDataset(root, "train").class_set
    (root / "train.txt").write_text("a.jpg\n")
    assert FolderDataset(root, "train").names == ("a",)


def test_validation_images_need_no_labels(root: Path) -> None:
    write_image(root / "images/c.jpg")
    (root / "val.txt").write_text("c\n")
    assert FolderDataset(root, "val").labels(0) == ()
    assert len(FolderDataset(root, "train")) == 3


def test_decomposed_accents_find_the_same_file(root: Path) -> None:
    text = (root / "labels.csv").read_text(encoding="utf-8").replace("ü", "u\u0308")
    (root / "labels.csv").write_text(text, encoding="utf-8")
    assert len(FolderDataset(root)) == 3


def edit(text: str, name: str = "labels.csv"):
    return lambda root: (root / name).write_text(text)


MISTAKES = {
    "unknown class": (edit("names: [cat, dog]\n", "classes.yaml"), "line 3: unknown class 'traffic light'"),
    "near class": (edit("names: [cats, dog, traffic light]\n", "classes.yaml"), "line 2: unknown class 'cat'; did you"),
    "background label": (edit("image,labels\na,background;cat\n"), "line 2: 'background' is not an image-level label"),
    "no labels": (
        edit("image,labels\na.jpg,cat\nb.png, ;\ndeep/in side/ü,cat"),
        "b.png: image without labels; add a row",
    ),
    "no row": (edit("image,labels\na.jpg,cat\n"), "val.txt, or move it away (and 1 more; `weakclip data check"),
    "no such image": (edit("image,labels\nx.jpg,cat\n"), "line 2: no image 'x.jpg'"),
    "twice": (edit("image,labels\na.jpg,cat\na,dog\n"), "line 3: image 'a' is labelled twice"),
    "escape": (edit("image,labels\n../a.jpg,cat\n"), "line 2: '../a.jpg' leads out of"),
    "absolute": (edit("image,labels\n/etc/a.jpg,cat\n"), "line 2: '/etc/a.jpg' leads out of"),
    "too many cells": (edit("image,labels\na.jpg,cat,dog\n"), "line 2: 3 cells for 2 columns"),
    "no header": (edit("a.jpg,cat\n"), "0 and 1 for each class; found 'a.jpg,cat'; name them"),
    "empty": (edit(""), "line 1: expected the columns"),
    "spaces between labels": (edit("image,labels\na,cat\nb,dog\ndeep/in side/ü,cat dog\n"), "line 4: 'cat dog' looks"),
    "two tables": (edit("{}", "labels.jsonl"), "keep one"),
    "unknown key": (edit("names: [cat]\nprompt: {}\n", "classes.yaml"), "unknown key 'prompt'; known: prompts"),
    "yaml": (edit("names: [", "classes.yaml"), "not a YAML file"),
    "yes": (edit("names: [yes]", "classes.yaml"), "quotes"),
    "colour": (edit("names: [cat, dog]\ncolors: {cat: red}", "classes.yaml"), "colour is [r, g, b]"),
    "colour range": (edit("names: [cat, dog]\ncolors: {cat: [0, 0, 256]}", "classes.yaml"), "three numbers 0 to 255"),
    "header alone": (edit("image,labels\n"), "its labels name no class; write a row for each image"),
    "another folder before the name": (edit("image,labels\nphotos/a.jpg,cat\n"), "line 2: no image 'photos/a.jpg' in"),
    "upper case": (edit("image,labels\nA.JPEG,cat\n"), "; did you mean 'a.jpg'?"),
    "listed twice": (edit("a\na.jpg\n", "val.txt"), "val.txt, line 2: 'a.jpg' is listed twice; take one line out"),
    "all in val": (edit("a\nb\ndeep/in side/ü\n", "val.txt"), "list all its images; leave some of them"),
    "list": (edit("nobody\n", "val.txt"), "val.txt, line 1: no image 'nobody'"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_clear_line_with_its_file(root: Path, name: str) -> None:
    spoil, message = MISTAKES[name]
    spoil(root)
    with pytest.raises(DataError) as caught:
        FolderDataset(root, "train")
    assert message in str(caught.value)
    assert str(root) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_json_mistakes_name_the_line(root: Path) -> None:
    (root / "labels.csv").unlink()
    for line in ("{", "[]", '{"image": "a"}', '{"image": "a", "labels": "cat"}', '{"image": "a", "labels": [1]}'):
        (root / "labels.jsonl").write_text('{"image": "b", "labels": ["cat"]}\n' + line)
        with pytest.raises(DataError, match=r"labels\.jsonl, line 2"):
            FolderDataset(root)


def test_not_utf8_is_said(root: Path) -> None:
    (root / "labels.csv").write_bytes("image,labels\na.jpg,kätzchen\n".encode("latin-1"))
    with pytest.raises(DataError, match="save it as UTF-8"):
        FolderDataset(root)


def test_an_image_that_is_no_image_is_named(root: Path) -> None:
    (root / "images/a.jpg").write_text("hello")
    dataset = FolderDataset(root)
    for read in (dataset.image, dataset.size):
        with pytest.raises(DataError, match=r"a\.jpg: not an image"):
            read(0)


def test_a_mask_of_another_size_or_with_a_foreign_index_is_named(root: Path) -> None:
    write_mask(root / "masks/a.png", np.zeros((9, 6), np.uint8), voc_palette())
    with pytest.raises(DataError, match=r"a\.png: mask is 6x9 pixels, its image 9x6"):
        FolderDataset(root).mask(0)
    write_mask(root / "masks/a.png", np.full((6, 9), 4, np.uint8), voc_palette())
    with pytest.raises(DataError, match=r"a\.png: mask holds 4; expected class indices 0 to 3, or 255"):
        FolderDataset(root).mask(0)


def test_a_folder_that_is_missing_empty_or_ambiguous_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        FolderDataset(tmp_path / "nowhere")
    with pytest.raises(DataError, match="no images"):
        FolderDataset(tmp_path)
    write_image(tmp_path / "1.jpg")
    with pytest.raises(DataError, match=r"no labels.csv, .tsv, .xlsx or .jsonl, and 1.jpg lies in no class folder"):
        FolderDataset(tmp_path)
    write_image(tmp_path / "1.png")
    (tmp_path / "labels.csv").write_text("image,labels\n1,cat\n")
    with pytest.raises(DataError, match="differ only in their ending"):
        FolderDataset(tmp_path)


def test_splits_that_share_an_image_or_do_not_exist_are_refused(root: Path) -> None:
    with pytest.raises(DataError, match=r"no val\.txt"):
        FolderDataset(root, "val")
    with pytest.raises(DataError, match="unknown split 'dev'"):
        FolderDataset(root, "dev")
    (root / "train.txt").write_text("a\nb\n")
    (root / "val.txt").write_text("b\n")
    with pytest.raises(DataError, match=r"b\.png is both in train\.txt and in val\.txt"):
        FolderDataset(root, "val")
    (root / "val.txt").write_text("")
    with pytest.raises(DataError, match=r"val\.txt: names no image; write one a line, or remove the file"):
        FolderDataset(root, "val")


def test_an_image_that_is_listed_twice_is_kept_once_where_mistakes_are_left_out(root: Path) -> None:
    (root / "val.txt").write_text("a\na.jpg\n")
    dataset = FolderDataset(root, "val", lenient=True)
    assert dataset.names == ("a",) and [fault.image for fault in dataset.faults] == [""]


def test_masks_that_fit_no_image_are_noted(root: Path) -> None:
    assert FolderDataset(root).notes == ()
    for name in ("a.png", "typo.png", "b.jpg"):
        write_image(root / "masks" / name)
    (note,) = FolderDataset(root).notes
    assert "masks: 2 files left out, the first b.jpg; masks are PNGs called like their image" in note


def test_a_mask_whose_name_is_longer_than_its_images_is_told_the_right_one(root: Path) -> None:
    write_image(root / "masks/a_mask.png")
    (note,) = FolderDataset(root).notes
    assert note.endswith("the first a_mask.png; masks are PNGs called like their image, as a.png")


def test_all_mistakes_are_told_at_once(root: Path) -> None:
    (root / "classes.yaml").write_text("names: [cat, dog]\n")
    (root / "labels.csv").write_text(
        "image,labels\na,cow\nb,horse;dog\nx,cat\nb,dog\n,cat\ndeep/in side/ü,\na,cat,dog\n"
    )
    (root / "val.txt").write_text("nobody\nb\n")
    (root / "test.txt").write_text("b\n")
    with pytest.raises(LabelError) as caught:
        FolderDataset(root, "train")
    expected = (
        *("line 2: unknown class 'cow'", "line 3: unknown class 'horse'", "line 4: no image 'x'"),
        *("line 5: image 'b' is labelled twice", "line 6: no image is named", "line 8: 3 cells"),
        *(
            "ü.jpeg: image without labels",
            "val.txt, line 1: no image 'nobody'",
            "b.png is both in val.txt and in test.txt",
        ),
    )
    assert len(caught.value.faults) == len(expected)
    for message in expected:
        assert sum(message in fault.error for fault in caught.value.faults) == 1, message
    assert f"(and 8 more; `weakclip data check {root}` lists all)" in str(caught.value)


def test_synonyms_in_the_labels_mean_their_class(root: Path) -> None:
    (root / "classes.yaml").write_text("names: [cat, dog]\nsynonyms: {dog: [traffic light, puppy]}\n")
    assert labels_of(FolderDataset(root)) == {"a": ["cat"], "b": ["dog"], "deep/in side/ü": ["dog"]}


def test_labels_and_classes_may_lie_elsewhere(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A folder that is not to be written to; what is named goes before what the folder has."""
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    expected = labels_of(FolderDataset(root))
    (root / "labels.csv").rename(elsewhere / "tags.csv")
    (root / "labels.jsonl").write_text("not read")
    (elsewhere / "mine.yaml").write_text("names: [traffic light, dog, cat]\n")
    dataset = FolderDataset(root, class_file=elsewhere / "mine.yaml", label_file=elsewhere / "tags.csv")
    assert dataset.class_set.names == ("background", "traffic light", "dog", "cat")
    assert {name: sorted(labels) for name, labels in labels_of(dataset).items()} == expected
    with pytest.raises(DataError, match=r"none\.csv: cannot be read \(No such file"):
        FolderDataset(root, label_file=elsewhere / "none.csv")


def test_a_longest_side_reduces_image_size_and_mask_together(root: Path) -> None:
    write_image(root / "images/a.jpg", (300, 400))
    mask = np.zeros((300, 400), np.uint8)
    mask[:, 200:] = 1
    write_mask(root / "masks/a.png", mask, voc_palette())
    whole, reduced = FolderDataset(root), FolderDataset(root, longest_side=100)
    assert (whole.size(0), whole.image(0).shape, whole.mask(0).shape) == ((300, 400), (300, 400, 3), (300, 400))
    assert (reduced.size(0), reduced.image(0).shape, reduced.mask(0).shape) == ((75, 100), (75, 100, 3), (75, 100))
    assert np.array_equal(reduced.mask(0), mask[::4, ::4])
    assert reduced.size(1) == whole.size(1) == (6, 9)
    write_mask(root / "masks/a.png", mask[::4, ::4], voc_palette())
    with pytest.raises(DataError, match="mask is 100x75 pixels, its image 400x300"):
        reduced.mask(0)
