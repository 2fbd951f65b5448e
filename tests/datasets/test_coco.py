"""Laws of the COCO data set and of its regions."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from weakclip.classes import COCO14
from weakclip.datasets.coco import COCO14Dataset
from weakclip.datasets.regions import decode_runs, fill_polygon, unpack_runs
from weakclip.errors import DataError

SIZE = (8, 10)
CATEGORIES = [{"id": i, "name": n} for i, n in zip(COCO14.ids[1:], COCO14.names[1:], strict=True)]


def rectangle(left: float, top: float, right: float, bottom: float) -> list[float]:
    return [left, top, right, top, right, bottom, left, bottom]


def annotation(image: int, category: int, segmentation: object, crowd: int = 0) -> dict[str, object]:
    return {"image_id": image, "category_id": category, "segmentation": segmentation, "iscrowd": crowd, "id": image}


def write(root: Path, marks: list[dict[str, object]], split: str = "train", **changes: object) -> None:
    images = [{"id": i, "file_name": f"COCO_{split}2014_{i:012d}.jpg", "height": 8, "width": 10} for i in (9, 7, 8)]
    for entry in images:
        path = root / f"{split}2014" / entry["file_name"]
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.zeros((*SIZE, 3), np.uint8)).save(path)
    (root / "annotations").mkdir(exist_ok=True)
    content = {"images": images, "annotations": marks, "categories": CATEGORIES} | changes
    (root / f"annotations/instances_{split}2014.json").write_text(json.dumps(content))


ANNOTATIONS = [
    annotation(7, 90, [rectangle(1, 1, 3, 3)]),
    annotation(7, 1, [rectangle(0, 0, 6, 6)]),
    annotation(7, 18, {"size": SIZE, "counts": [0, 40, 40]}, crowd=1),
    annotation(8, 18, [rectangle(0, 0, 2, 2), rectangle(8, 6, 10, 8)]),
]


def test_labels_are_indices_of_the_category_ids_and_unlabelled_images_leave_training(tmp_path: Path) -> None:
    write(tmp_path, ANNOTATIONS)
    dataset = COCO14Dataset(tmp_path, "train")
    assert dataset.names == ("COCO_train2014_000000000007", "COCO_train2014_000000000008")
    assert [[COCO14.names[k] for k in dataset.labels(i)] for i in range(2)] == [
        ["person", "dog", "toothbrush"],
        ["dog"],
    ]
    assert dataset.labels(0) == (1, 17, 80)
    assert dataset.notes == ("1 of 3 images of train have no annotation and are left out",)
    assert dataset[0].image.shape == (*SIZE, 3)


def test_validation_keeps_images_without_annotations(tmp_path: Path) -> None:
    write(tmp_path, ANNOTATIONS, "val")
    dataset = COCO14Dataset(tmp_path, "val")
    assert len(dataset) == 3
    assert dataset.labels(2) == ()
    assert dataset.notes == ()
    assert not dataset.mask(2).any()


def test_small_objects_lie_on_large_ones_and_crowds_below_all(tmp_path: Path) -> None:
    write(tmp_path, ANNOTATIONS)
    expected = np.zeros(SIZE, np.uint8)
    expected[:, :5] = 255
    expected[:6, :6] = 1
    expected[1:3, 1:3] = 80
    dataset = COCO14Dataset(tmp_path, "train")
    assert np.array_equal(dataset.mask(0), expected)
    write(tmp_path, ANNOTATIONS[::-1])
    assert np.array_equal(COCO14Dataset(tmp_path, "train").mask(0), expected)
    assert (dataset.mask(1) == 17).sum() == 8


@pytest.mark.parametrize("folder", ["images/train2014", "images"])
def test_photos_may_lie_below_images(tmp_path: Path, folder: str) -> None:
    write(tmp_path, ANNOTATIONS)
    (tmp_path / folder).parent.mkdir(exist_ok=True)
    (tmp_path / "train2014").rename(tmp_path / folder)
    assert COCO14Dataset(tmp_path, "train")[0].image.shape == (*SIZE, 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"categories": [*CATEGORIES[:-1], {"id": 90, "name": "comb"}]},
            "category 90 is 'comb'; MS COCO has 'toothbrush'",
        ),
        ({"categories": CATEGORIES[1:]}, "category 1 is None; MS COCO has 'person'"),
        ({"categories": [*CATEGORIES, {"id": 12, "name": "sign"}]}, "category 12 is 'sign'; MS COCO has None"),
        ({"annotations": [annotation(7, 12, [])]}, "category 12, which is not listed"),
        ({"annotations": {}, "images": [{}]}, "not an instances file"),
        ({"annotations": []}, "no images"),
    ],
)
def test_a_foreign_file_is_named(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    write(tmp_path, ANNOTATIONS, **changes)
    with pytest.raises(DataError, match=message):
        COCO14Dataset(tmp_path, "train")


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"instances_val2014\.json: no such file"):
        COCO14Dataset(tmp_path, "val")
    with pytest.raises(DataError, match="splits train and val"):
        COCO14Dataset(tmp_path, "test")
    write(tmp_path, ANNOTATIONS)
    (tmp_path / "train2014/COCO_train2014_000000000008.jpg").unlink()
    with pytest.raises(DataError, match=r"1 of 2 images are missing, first COCO_train2014_000000000008\.jpg"):
        COCO14Dataset(tmp_path, "train")
    (tmp_path / "train2014").rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=r"is in none of train2014, images/train2014, images"):
        COCO14Dataset(tmp_path, "train")
    (tmp_path / "annotations/instances_train2014.json").write_text("{")
    with pytest.raises(DataError, match="not a JSON file"):
        COCO14Dataset(tmp_path, "train")


@pytest.mark.parametrize(
    "region",
    [{"size": [8, 9], "counts": [72]}, {"size": SIZE, "counts": [70]}, {"size": SIZE, "counts": "~"}, [[1, 2, 3]], {}],
)
def test_a_region_that_cannot_be_drawn_names_the_image(tmp_path: Path, region: object) -> None:
    write(tmp_path, [annotation(7, 1, region)])
    with pytest.raises(DataError, match=r"instances_train2014\.json, image COCO_train2014_000000000007: region"):
        COCO14Dataset(tmp_path, "train").mask(0)


def test_runs_of_the_coco_tools_are_unpacked() -> None:
    mask = np.zeros((6, 10), bool)
    mask[3, 0] = mask[2:5, 3] = mask[0:3, 9] = True
    assert np.array_equal(decode_runs("31`02?0TO", mask.shape), mask)
    assert np.array_equal(decode_runs(unpack_runs(b"31`02?0TO"), mask.shape), mask)
    with pytest.raises(ValueError, match="cut off"):
        unpack_runs("31`")
    with pytest.raises(ValueError, match="not part of"):
        unpack_runs("3 1")


def test_polygons_that_share_an_edge_tile_the_plane() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        angles = np.sort(rng.uniform(0, 2 * np.pi, 7))
        corners = np.stack([20 + 15 * np.cos(angles), 15 + 12 * np.sin(angles)], axis=1)
        whole = fill_polygon(corners, (30, 40))
        fan = [fill_polygon(corners[[0, i, i + 1]], (30, 40)) for i in range(1, 6)]
        assert np.array_equal(np.sum(fan, axis=0), whole.astype(int))


def test_a_polygon_fills_its_area_and_stays_within_the_image() -> None:
    corners = np.array([[3.3, 2.1], [95.7, 10.4], [60.2, 70.9]])
    (x0, y0), (x1, y1), (x2, y2) = corners
    area = abs((x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)) / 2
    assert fill_polygon(corners, (80, 100)).sum() == pytest.approx(area, rel=0.01)
    assert np.array_equal(fill_polygon(corners, (80, 100))[:30, :40], fill_polygon(corners, (30, 40)))
    moved = corners - [50, 30]
    assert np.array_equal(fill_polygon(corners, (80, 100))[30:, 50:], fill_polygon(moved, (50, 50)))
    assert not fill_polygon(corners + 500, (80, 100)).any()
