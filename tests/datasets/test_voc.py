"""Laws of the VOC data set, on a tiny devkit written here and on real photos where they are at hand."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from weakclip.classes import VOC12, voc_palette
from weakclip.datasets.voc import VOC12Dataset, find_voc_root, read_xml_labels
from weakclip.errors import DataError
from weakclip.images import write_mask

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


def test_masks_with_sbd_go_before_those_of_the_devkit(devkit: Path) -> None:
    dataset = VOC12Dataset(devkit, "train")
    assert [int(dataset.mask(i)[0, 0]) for i in range(2)] == [3, 2]
    assert dataset.has_masks
    assert not VOC12Dataset(devkit, "val").has_masks
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
