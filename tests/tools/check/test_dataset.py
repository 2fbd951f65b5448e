"""The check finds each thing that is wrong, says where, and finds nothing else."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from weakclip.datasets import FolderDataset, ScenesDataset, VOC12Dataset
from weakclip.datasets.classes import VOC12
from weakclip.datasets.images import write_mask
from weakclip.tools.check.dataset import Kind, SplitCheck, check_split, shared_images

FIRST = "2007_000001"


def check(root: Path, split: str = "train") -> SplitCheck:
    return check_split(VOC12Dataset(root, split), needs_labels=split == "train")


def kinds(found: SplitCheck) -> list[tuple[Kind, str]]:
    return [(finding.kind, finding.image) for finding in found.findings if finding.kind != Kind.COUNT]


def test_a_sound_split_has_no_finding_but_its_size(voc_root: Path) -> None:
    found = check(voc_root)
    assert [(each.kind, each.detail) for each in found.findings] == [
        (Kind.COUNT, "3 images; the published split has 1,464")
    ]
    assert (found.labelled, found.masks, len(found.facts)) == (3, 3, 3)
    counts = found.images_of_classes()
    assert counts["background"] == (0, 3)
    assert [counts[name] for name in VOC12.names[1:5]] == [(1, 1), (1, 1), (1, 1), (0, 0)]


def test_a_split_without_labels_and_masks_is_sound_where_it_needs_none(voc_root: Path) -> None:
    found = check(voc_root, "test")
    assert kinds(found) == []
    assert (found.labelled, found.masks) == (0, 0)


@pytest.mark.parametrize("size", [0, 100, -40])
def test_a_truncated_photo_is_found(voc_root: Path, size: int) -> None:
    photo = voc_root / f"JPEGImages/{FIRST}.jpg"
    photo.write_bytes(photo.read_bytes()[:size])
    found = check(voc_root)
    assert kinds(found) == [(Kind.IMAGE, FIRST)]
    assert f"{FIRST}.jpg" in found.findings[-1].detail


def test_a_truncated_mask_is_found(voc_root: Path) -> None:
    path = voc_root / f"SegmentationClass/{FIRST}.png"
    path.write_bytes(path.read_bytes()[:-30])
    assert kinds(check(voc_root)) == [(Kind.MASK, FIRST)]


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.ones((12, 9), np.uint8), "mask is 9x12 pixels, its image 12x9"),
        (np.full((9, 12), 21, np.uint8), "mask holds 21; expected class indices 0 to 20, or 255"),
        (np.full((9, 12), 254, np.uint8), "mask holds 254"),
    ],
)
def test_a_mask_of_another_size_or_with_an_unknown_class_is_found(
    voc_root: Path, mask: np.ndarray, message: str
) -> None:
    write_mask(voc_root / f"SegmentationClass/{FIRST}.png", mask, VOC12.palette)
    found = check(voc_root)
    assert kinds(found) == [(Kind.MASK, FIRST)]
    assert message in found.findings[-1].detail


def test_a_mask_with_colours_is_found(voc_root: Path) -> None:
    Image.new("RGB", (12, 9)).save(voc_root / f"SegmentationClass/{FIRST}.png")
    assert kinds(check(voc_root)) == [(Kind.MASK, FIRST)]


def test_labels_and_masks_that_disagree_are_found_both_ways(voc_root: Path) -> None:
    mask = np.full((9, 12), 255, np.uint8)
    mask[0] = VOC12.index("cow")
    write_mask(voc_root / f"SegmentationClass/{FIRST}.png", mask, VOC12.palette)
    found = check(voc_root)
    assert kinds(found) == [(Kind.NO_PIXEL, FIRST), (Kind.NO_LABEL, FIRST)]
    assert [each.detail for each in found.findings[-2:]] == ["aeroplane", "cow"]


def test_damaged_and_empty_annotations_are_found(voc_root: Path) -> None:
    (voc_root / f"Annotations/{FIRST}.xml").write_text("<annotation>")
    (voc_root / "Annotations/2007_000002.xml").write_text("<annotation></annotation>")
    assert kinds(check(voc_root)) == [(Kind.LABELS, FIRST), (Kind.NO_LABELS, "2007_000002")]


def test_one_photo_under_two_names_is_found(voc_root: Path) -> None:
    shutil.copy(voc_root / f"JPEGImages/{FIRST}.jpg", voc_root / "JPEGImages/2007_000003.jpg")
    (voc_root / "SegmentationClass/2007_000003.png").unlink()
    found = check(voc_root)
    assert kinds(found) == [(Kind.NO_MASK, "2007_000003"), (Kind.SAME_CONTENT, "2007_000003")]
    assert found.findings[-1].detail == f"is {FIRST}, byte for byte"


def test_images_in_both_splits_are_found_by_name_and_by_content(voc_root: Path) -> None:
    train, val = check(voc_root), check(voc_root, "val")
    assert shared_images(train, val) == ()
    assert [each.image for each in shared_images(train, train)] == [fact.name for fact in train.facts]
    shutil.copy(voc_root / f"JPEGImages/{FIRST}.jpg", voc_root / "JPEGImages/2007_000004.jpg")
    (shared,) = shared_images(train, check(voc_root, "val"))
    assert (shared.kind, shared.image, shared.detail) == (Kind.SHARED, "2007_000004", f"is {FIRST} of train")


def test_an_image_without_a_mask_among_images_with_masks_is_found(voc_root: Path) -> None:
    (voc_root / f"SegmentationClass/{FIRST}.png").unlink()
    found = check(voc_root)
    assert kinds(found) == [(Kind.NO_MASK, FIRST)]
    assert found.findings[-1].detail == "no mask; 2 of the 3 images have one"
    for path in (voc_root / "SegmentationClass").glob("*.png"):
        path.unlink()
    assert kinds(check(voc_root)) == []


def test_a_mask_that_cannot_be_read_counts_as_a_mask(voc_root: Path) -> None:
    for number in (2, 3):
        (voc_root / f"SegmentationClass/2007_00000{number}.png").unlink()
    (voc_root / f"SegmentationClass/{FIRST}.png").write_bytes(b"")
    assert kinds(check(voc_root)) == [
        (Kind.MASK, FIRST),
        (Kind.NO_MASK, "2007_000002"),
        (Kind.NO_MASK, "2007_000003"),
    ]


def test_the_mask_of_a_photo_that_cannot_be_read_is_not_missed(voc_root: Path) -> None:
    (voc_root / f"JPEGImages/{FIRST}.jpg").write_bytes(b"")
    (voc_root / f"SegmentationClass/{FIRST}.png").unlink()
    assert kinds(check(voc_root)) == [(Kind.IMAGE, FIRST)]


def test_the_order_of_findings_does_not_depend_on_threads(voc_root: Path) -> None:
    for number in (1, 2, 3):
        (voc_root / f"JPEGImages/2007_00000{number}.jpg").write_bytes(b"")
    assert {tuple(kinds(check(voc_root))) for _ in range(5)} == {
        tuple((Kind.IMAGE, f"2007_00000{number}") for number in (1, 2, 3))
    }


def test_scenes_are_sound() -> None:
    found = check_split(ScenesDataset("val", size=64, count=12), needs_labels=True)
    assert [each for each in found.findings if each.kind != Kind.NO_PIXEL] == []
    assert found.official is None
    assert found.masks == found.labelled == 12


def test_a_folder_is_checked_with_and_without_masks(tmp_path: Path) -> None:
    for name, grey in (("cat/a", 10), ("cat/b", 90), ("dog/c", 200)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (6, 5), (grey,) * 3).save(tmp_path / f"{name}.png")
    assert check_split(FolderDataset(tmp_path), needs_labels=True).findings == ()
    mask = np.zeros((5, 6), np.uint8)
    mask[0, 0] = 2
    write_mask(tmp_path / "masks/cat/a.png", mask, VOC12.palette)
    found = check_split(FolderDataset(tmp_path), needs_labels=True)
    disagreeing = [(Kind.NO_PIXEL, "cat/a"), (Kind.NO_LABEL, "cat/a")]
    assert kinds(found) == [*disagreeing, (Kind.NO_MASK, "cat/b"), (Kind.NO_MASK, "dog/c")]
    assert found.images_of_classes() == {"background": (0, 1), "cat": (2, 0), "dog": (1, 1)}


def test_every_kind_of_finding_has_a_mend() -> None:
    assert all(kind.advice for kind in Kind)


def test_classes_that_differ_in_case_or_spaces_alone_are_found(tmp_path: Path) -> None:
    for grey, name in enumerate(("Cat", "cat", "traffic light", "traffic_light", "dog")):
        (tmp_path / name).mkdir()
        Image.new("RGB", (6, 5), (grey,) * 3).save(tmp_path / name / "a.png")
    found = check_split(FolderDataset(tmp_path), needs_labels=True)
    assert [(each.kind, each.detail) for each in found.findings] == [
        (Kind.NEAR_NAMES, "'Cat' and 'cat'"),
        (Kind.NEAR_NAMES, "'traffic light' and 'traffic_light'"),
    ]
