"""Laws of the VOC data set, on a tiny devkit written here and on real photos where they are at hand."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from weakclip.datasets.classes import VOC12, voc_palette
from weakclip.datasets.images import write_mask
from weakclip.datasets.voc import OFFICIAL_SIZES, VOC12Dataset, find_voc_root
from weakclip.datasets.voc_labels import read_label_csv, read_xml_labels
from weakclip.errors import DataError

XML = """<annotation><filename>x.jpg</filename>
<object><name>person</name><difficult>0</difficult><part><name>head</name></part></object>
<object><name>dog</name><difficult>1</difficult></object>
<object><name>person</name></object></annotation>"""


@pytest.fixture
def devkit(tmp_path: Path) -> Path:
    root = tmp_path / "VOCdevkit" / "VOC2012"
    for folder in ("JPEGImages", "ImageSets/Segmentation", "Annotations", "SegmentationClass", "SegmentationClassAug"):
        (root / folder).mkdir(parents=True)
    for name in ("2007_000001", "2007_000002", "2008_000003"):
        Image.fromarray(np.zeros((5, 7, 3), np.uint8)).save(root / "JPEGImages" / f"{name}.jpg")
        (root / "Annotations" / f"{name}.xml").write_text(XML)
    lists = root / "ImageSets" / "Segmentation"
    (lists / "train.txt").write_text("2007_000001\n2007_000002\n")
    (lists / "trainaug.txt").write_text("/JPEGImages/2007_000001.jpg /SegmentationClassAug/2007_000001.png\n")
    (lists / "val.txt").write_text("2008_000003\n")
    write_mask(root / "SegmentationClass/2007_000001.png", np.full((5, 7), 1, np.uint8), voc_palette())
    write_mask(root / "SegmentationClass/2007_000002.png", np.full((5, 7), 2, np.uint8), voc_palette())
    write_mask(root / "SegmentationClassAug/2007_000001.png", np.full((5, 7), 3, np.uint8), voc_palette())
    return root


@pytest.mark.parametrize("up", [0, 1, 2])
def test_the_root_is_found_from_three_places(devkit: Path, up: int) -> None:
    assert find_voc_root([devkit, *devkit.parents][up]) == devkit


def test_labels_are_the_classes_of_the_objects_without_their_parts(devkit: Path) -> None:
    dataset = VOC12Dataset(devkit, "train")
    assert dataset.labels(0) == (VOC12.index("dog"), VOC12.index("person"))
    assert dataset[1].image.shape == (5, 7, 3)
    assert dataset.size(1) == (5, 7)


def test_a_csv_goes_before_the_annotations(devkit: Path) -> None:
    (devkit / "image_labels.csv").write_text("image,labels\n2007_000001,cat\n2007_000002,tvmonitor aeroplane\nx,cat\n")
    dataset = VOC12Dataset(devkit, "train")
    assert [dataset.labels(i) for i in range(2)] == [(8,), (1, 20)]
    assert VOC12Dataset(devkit, "val").labels(0) == ()


def vector(*indices: int, dtype: type = np.float32) -> np.ndarray:
    """20 numbers, 1 at the classes."""
    return np.isin(np.arange(1, 21), indices).astype(dtype)


def text_key(name: str) -> np.str_:
    return np.str_(name)


def irn_key(name: str) -> int:
    return int(name.replace("_", ""))


@pytest.mark.parametrize("key", [str, text_key, irn_key])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint8])
def test_cls_labels_npy_goes_before_the_annotations_and_after_the_csv(
    devkit: Path, key: Callable[[str], Any], dtype: type
) -> None:
    rows = {"2007_000001": vector(8, dtype=dtype), "2007_000002": vector(20, 1, dtype=dtype)}
    np.save(devkit / "cls_labels.npy", {key(name): value for name, value in rows.items()})
    dataset = VOC12Dataset(devkit, "train")
    assert [dataset.labels(i) for i in range(2)] == [(8,), (1, 20)]
    assert dataset.label_source == "cls_labels.npy"
    assert dataset.notes == ("image-level labels from cls_labels.npy",)
    (devkit / "image_labels.csv").write_text("image,labels\n2007_000001,bird\n2007_000002,bird\n")
    assert VOC12Dataset(devkit, "train").labels(0) == (3,)
    assert VOC12Dataset(devkit, "train").notes == ("image-level labels from image_labels.csv",)


def test_cls_labels_made_from_the_annotations_are_what_the_annotations_say(devkit: Path) -> None:
    """As PSA makes them: 1 for every name of a class in the file, difficult or not."""
    before = [VOC12Dataset(devkit, "train").labels(i) for i in range(2)]
    names = VOC12.names[1:]
    rows = {
        path.stem: np.array([float(f"<name>{name}</name>" in path.read_text()) for name in names])
        for path in (devkit / "Annotations").glob("*.xml")
    }
    np.save(devkit / "cls_labels.npy", rows)
    assert [VOC12Dataset(devkit, "train").labels(i) for i in range(2)] == before


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (np.zeros((2, 20)), "expected a dictionary"),
        ({"2007_000001": np.zeros(21)}, r"2007_000001: expected 20 numbers, one a class; found \(21,\)"),
        ({"2007_000001": [0.0] * 20}, "expected 20 numbers, one a class; found list"),
        ({"2007_000001": np.full(20, 0.5)}, "expected zeros and ones; found 0.5"),
        ({"2007_000001": np.full(20, np.nan)}, "expected zeros and ones; found nan"),
        ({7: vector(1)}, "expected image names"),
        ({"2007_000001": vector(1)}, r"no labels for 1 of the 2 images of train\.txt, the first is 2007_000002"),
        ({"2007_000001": vector(1), "2007_000002": vector()}, "no labels for 1 of the 2 images"),
    ],
)
def test_mistakes_in_cls_labels_npy_are_one_line(devkit: Path, content: Any, message: str) -> None:
    np.save(devkit / "cls_labels.npy", content)
    with pytest.raises(DataError, match=rf"cls_labels\.npy: .*{message}") as caught:
        VOC12Dataset(devkit, "train")
    assert "\n" not in str(caught.value)


def test_published_sizes_are_known(devkit: Path) -> None:
    assert VOC12Dataset(devkit, "trainaug").official_size == OFFICIAL_SIZES["train_aug"] == 10582
    (devkit / "ImageSets/Segmentation/mine.txt").write_text("2007_000001\n")
    assert VOC12Dataset(devkit, "mine").official_size is None


@pytest.mark.parametrize("file", ["train_aug.txt", "trainaug.txt"])
@pytest.mark.parametrize("line", ["{0}", "{0}.jpg", "JPEGImages/{0}.jpg SegmentationClassAug/{0}.png", "{0} {0}\r"])
def test_lists_of_research_repositories_are_read(devkit: Path, file: str, line: str) -> None:
    lists = devkit / "ImageSets" / "Segmentation"
    (lists / "trainaug.txt").unlink()
    names = ("2007_000002", "2007_000001")
    (lists / file).write_text("\ufeff" + "\n".join(line.format(name) for name in names) + "\n\n", encoding="utf-8")
    assert VOC12Dataset(devkit, "train_aug").names == names


def test_masks_with_sbd_go_before_those_of_the_devkit(devkit: Path) -> None:
    dataset = VOC12Dataset(devkit, "train")
    assert [int(dataset.mask(i)[0, 0]) for i in range(2)] == [3, 2]
    assert dataset.has_masks
    assert dataset.truth == "masks of SegmentationClassAug and 1 of SegmentationClass, which SegmentationClassAug lacks"
    assert VOC12Dataset(devkit, "train_aug").truth == "masks of SegmentationClassAug"
    assert not VOC12Dataset(devkit, "val").has_masks
    assert VOC12Dataset(devkit, "val").truth == ""
    assert VOC12Dataset(devkit, "val").mask(0) is None


def test_train_aug_has_two_spellings_and_lists_may_be_pairs(devkit: Path) -> None:
    for split in ("train_aug", "trainaug"):
        assert VOC12Dataset(devkit, split).names == ("2007_000001",)


def test_training_works_without_masks_and_never_reads_them_for_labels(devkit: Path) -> None:
    before = [VOC12Dataset(devkit, "train").labels(i) for i in range(2)]
    for mask in [*devkit.glob("SegmentationClass*/*.png")]:
        mask.unlink()
    dataset = VOC12Dataset(devkit, "train")
    assert [dataset.labels(i) for i in range(2)] == before
    assert not dataset.has_masks


def test_a_training_split_without_labels_is_refused_and_val_is_not(devkit: Path) -> None:
    for name in ("2007_000002", "2008_000003"):
        (devkit / "Annotations" / f"{name}.xml").unlink()
    assert VOC12Dataset(devkit, "val").labels(0) == ()
    with pytest.raises(
        DataError, match=r"Annotations: no labels for 1 of the 2 images of train\.txt, the first is 2007"
    ):
        VOC12Dataset(devkit, "train")
    (devkit / "image_labels.csv").write_text("image,labels\n2007_000001,cat\n2007_000002,\n")
    with pytest.raises(DataError, match=r"image_labels\.csv: no labels for 1 of the 2"):
        VOC12Dataset(devkit, "train")


def test_wrong_places_lists_and_images_are_named(devkit: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no PASCAL VOC 2012 here"):
        VOC12Dataset(tmp_path / "elsewhere", "train")
    with pytest.raises(DataError, match=r"no list test\.txt for split 'test'; found train, trainaug, val"):
        VOC12Dataset(devkit, "test")
    (devkit / "JPEGImages/2007_000002.jpg").unlink()
    with pytest.raises(DataError, match=r"1 of the 2 images of train\.txt are missing, the first is 2007_000002\.jpg"):
        VOC12Dataset(devkit, "train")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,classes\n", "expected the columns image,labels; found 'image,classes'"),
        ("image,labels\n2007_000001,dogg\n", "line 2: unknown class 'dogg'; did you mean 'dog'"),
        ("image,labels\n2007_000001,dog\n2007_000001,cat\n", "line 3: image '2007_000001' is listed twice"),
    ],
)
def test_mistakes_in_the_csv_name_the_line(devkit: Path, text: str, message: str) -> None:
    (devkit / "image_labels.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        VOC12Dataset(devkit, "train")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (XML.replace("dog", "dragon"), "unknown class 'dragon'"),
        (XML[:60], "not a well-formed XML annotation"),
        ('<!DOCTYPE a [<!ENTITY b "dog">]><annotation><object><name>&b;</name></object></annotation>', "refused"),
    ],
)
def test_mistakes_in_an_annotation_name_the_file(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "x.xml").write_text(text)
    with pytest.raises(DataError, match=rf"x\.xml: .*{message}"):
        read_xml_labels(tmp_path / "x.xml")


def test_real_photos_agree_with_their_masks() -> None:
    fixtures = Path(os.environ.get("WEAKCLIP_FIXTURES", Path(__file__).parents[2] / "../shared/fixtures"))
    root = fixtures.parent / "voc12_dev"
    if not root.exists():
        pytest.skip(f"{root} is absent")
    for split, count in (("train_aug", 355), ("val", 103)):
        dataset = VOC12Dataset(root, split)
        assert len(dataset) == count
        for index in range(0, count, 20):
            sample, mask = dataset[index], dataset.mask(index)
            assert mask.shape == sample.image.shape[:2] == dataset.size(index)
            assert set(np.unique(mask)) - {0, 255} <= set(sample.labels)


@pytest.mark.parametrize("content", ["image,labels\n".encode("utf-16"), b'image,labels\n"' + b"x" * 140_000])
def test_a_label_file_that_is_no_csv_in_utf8_is_one_line(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "image_labels.csv"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"image_labels\.csv: not (UTF-8 text|a CSV file)"):
        read_label_csv(path)


def test_an_annotation_of_an_unknown_encoding_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "a.xml"
    path.write_bytes(b"<?xml version='1.0' encoding='nonsense'?><annotation/>")
    with pytest.raises(DataError, match=r"a\.xml: not a well-formed"):
        read_xml_labels(path)


def test_a_list_that_is_no_utf8_is_one_line(devkit: Path) -> None:
    (devkit / "ImageSets/Segmentation/train.txt").write_bytes(b"2007_000001\n\xff\n")
    with pytest.raises(DataError, match=r"train\.txt: not UTF-8 text"):
        VOC12Dataset(devkit, "train")
