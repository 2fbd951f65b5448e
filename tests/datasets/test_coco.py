"""Laws of the COCO data set and of its regions."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from PIL import Image

import weakclip.datasets.coco as coco_module
from weakclip.datasets.classes import COCO14
from weakclip.datasets.coco import COCO14Dataset
from weakclip.datasets.coco_instances import ImageEntry, load_index, read_index
from weakclip.datasets.file_cache import FileCache
from weakclip.datasets.images import read_mask
from weakclip.datasets.regions import decode_runs, draw_regions, fill_polygon, unpack_runs
from weakclip.errors import DataError
from weakclip.pipeline.data import SomeImages
from weakclip.tools.check.dataset import Kind, check_split

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


def test_what_counts_and_how_masks_are_drawn_is_said(tmp_path: Path) -> None:
    write(tmp_path, ANNOTATIONS, "val")
    val = COCO14Dataset(tmp_path, "val")
    said = val.truth
    assert said.startswith(
        "3 images, 1 of them without annotation, which count as background; CLIP-ES scores the others, here "
        f"'{val.labelled_list}'; "
    )
    assert SomeImages(val, [0, 2]).labelled_list == val.labelled_list == "val with labels"
    assert said.endswith("the smaller object on top, crowds unlabelled")
    write(tmp_path, ANNOTATIONS)
    assert COCO14Dataset(tmp_path, "train").truth.startswith("2 images of 3, those with annotation; masks are")
    assert COCO14Dataset(tmp_path, "train").labelled_list == ""
    assert SomeImages(COCO14Dataset(tmp_path, "val"), [0, 1]).truth == said


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


@pytest.mark.parametrize("kind", [str, float, "{:08d}".format])
def test_ids_are_the_same_however_they_are_written(tmp_path: Path, kind: Callable[[int], object]) -> None:
    write(tmp_path, ANNOTATIONS)
    expected = COCO14Dataset(tmp_path, "train")
    labels, mask = [expected.labels(index) for index in range(2)], expected.mask(0)
    changed = [mark | {key: kind(cast(int, mark[key])) for key in ("image_id", "category_id")} for mark in ANNOTATIONS]
    write(tmp_path, changed)
    dataset = COCO14Dataset(tmp_path, "train")
    assert [dataset.labels(index) for index in range(2)] == labels
    assert np.array_equal(dataset.mask(0), mask)


def test_sides_with_fractions_are_whole(tmp_path: Path) -> None:
    write(tmp_path, ANNOTATIONS)
    file = tmp_path / "annotations/instances_train2014.json"
    file.write_text(file.read_text().replace('"height": 8', '"height": 8.0').replace('"width": 10', '"width": 10.0'))
    assert COCO14Dataset(tmp_path, "train").mask(0).shape == SIZE


def test_a_box_is_a_label_and_no_mask(tmp_path: Path) -> None:
    write(tmp_path, [annotation(7, 1, [])])
    dataset = COCO14Dataset(tmp_path, "train")
    assert dataset.labels(0) == (1,)
    with pytest.raises(DataError, match=r"region cannot be drawn .*it has no mask, or a box only; expected polygons"):
        dataset.mask(0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"categories": [*CATEGORIES, {"id": 1, "name": "cat"}]},
            "two categories have the id 1: 'person' and 'cat'; give each an id of its own",
        ),
        (
            {"images": [{"id": 7, "file_name": f"{name}.jpg", "height": 8, "width": 10} for name in "ab"]},
            r"two images have the id 7: .*a\.jpg.* and .*b\.jpg",
        ),
        (
            {"annotations": [*ANNOTATIONS, annotation(3, 1, [])]},
            r"name images that it does not list, by the image_id 3 \(annotation 3\)",
        ),
        (
            {"categories": [*CATEGORIES[:-1], {"id": 90, "name": "comb"}]},
            "category 90 is 'comb'; MS COCO has 'toothbrush'",
        ),
        ({"categories": CATEGORIES[1:]}, "category 1 is None; MS COCO has 'person'"),
        ({"categories": [*CATEGORIES, {"id": 12, "name": "sign"}]}, "category 12 is 'sign'; MS COCO has None"),
        ({"annotations": [annotation(7, 12, [])]}, "category 12, which is not listed"),
        ({"annotations": {}, "images": [{}]}, r"instances_train2014\.json: image lacks 'id'; expected a COCO file"),
        ({"annotations": []}, r"instances_train2014\.json: no image has an annotation"),
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
    with pytest.raises(DataError, match="not a JSON file of the COCO format"):
        COCO14Dataset(tmp_path, "train")


@pytest.mark.parametrize(
    "region",
    [{"size": [8, 9], "counts": [72]}, {"size": SIZE, "counts": [70]}, {"size": SIZE, "counts": "~"}, [[1, 2, 3]], {}],
)
def test_a_region_that_cannot_be_drawn_names_the_image(tmp_path: Path, region: object) -> None:
    write(tmp_path, [annotation(7, 1, region)])
    with pytest.raises(DataError, match=r"instances_train2014\.json, image COCO_train2014_000000000007: region"):
        COCO14Dataset(tmp_path, "train").mask(0)


def refuse(*_: object) -> None:
    raise AssertionError("the instances file was read")


def test_a_file_that_is_cut_off_anywhere_is_refused(tmp_path: Path) -> None:
    write(tmp_path, ANNOTATIONS)
    file = tmp_path / "annotations/instances_train2014.json"
    text = file.read_text()
    for cut in (0, 1, 20, len(text) // 3, len(text) // 2, len(text) - 1):
        file.write_text(text[:cut])
        with pytest.raises(DataError, match=r"instances_train2014\.json: not a JSON file") as caught:
            COCO14Dataset(tmp_path, "train")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["annotations", "info"])
def test_a_deeply_nested_instances_file_is_told(tmp_path: Path, key: str) -> None:
    write(tmp_path, ANNOTATIONS)
    file = tmp_path / "annotations/instances_train2014.json"
    file.write_text(f'{{"{key}": [{"[" * 100_000}{"]" * 100_000}]}}')
    with pytest.raises(DataError, match=r"instances_train2014\.json: not a JSON file .*nested too deeply"):
        COCO14Dataset(tmp_path, "train")


@pytest.mark.parametrize("failing", ["open", "read"])
def test_an_instances_file_that_cannot_be_read_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    def denied(*_: object, **__: object) -> object:
        raise PermissionError(13, "Permission denied")

    write(tmp_path, ANNOTATIONS)
    target = "pathlib.Path.open" if failing == "open" else "weakclip.datasets.coco_lists.stream_lists"
    monkeypatch.setattr(target, denied)
    with pytest.raises(DataError, match=r"instances_train2014\.json: cannot be read \(Permission denied\); expected"):
        COCO14Dataset(tmp_path, "train")


def test_the_instances_file_is_read_once_and_each_mask_drawn_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, ANNOTATIONS)
    first = COCO14Dataset(tmp_path, "train")
    masks = [first.mask(i) for i in range(2)]
    monkeypatch.setattr("weakclip.datasets.coco_instances.read_index", refuse)
    monkeypatch.setattr(coco_module, "read_regions", refuse)
    again = COCO14Dataset(tmp_path, "train")
    assert (again.names, again.notes) == (first.names, first.notes)
    assert [again.labels(i) for i in range(2)] == [first.labels(i) for i in range(2)]
    assert all(np.array_equal(again.mask(i), masks[i]) for i in range(2))
    (stored,) = tmp_path.glob("weakclip_cache/instances_train2014-*/masks/*0007.png")
    assert np.array_equal(read_mask(stored), masks[0])


def test_drawing_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    write(tmp_path, ANNOTATIONS)
    expected = [COCO14Dataset(tmp_path, "train").mask(i) for i in range(2)]
    (gone,) = tmp_path.glob("weakclip_cache/*/masks/*0008.png")
    gone.unlink()
    dataset = COCO14Dataset(tmp_path, "train")
    assert all(np.array_equal(dataset.mask(i), expected[i]) for i in range(2))
    assert gone.is_file()


def test_another_instances_file_never_meets_the_old_index_and_masks(tmp_path: Path) -> None:
    write(tmp_path, ANNOTATIONS)
    assert COCO14Dataset(tmp_path, "train").mask(1).max() == 17
    file = tmp_path / "annotations/instances_train2014.json"
    time = file.stat().st_mtime_ns
    write(tmp_path, [*ANNOTATIONS[:3], annotation(8, 19, ANNOTATIONS[3]["segmentation"])])
    os.utime(file, ns=(time + 1, time + 1))
    dataset = COCO14Dataset(tmp_path, "train")
    assert dataset.labels(1) == (18,)
    assert dataset.mask(1).max() == 18


def test_a_root_that_cannot_be_written_is_cached_elsewhere_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, home = tmp_path / "coco", tmp_path / "home"
    root.mkdir()
    write(root, ANNOTATIONS)
    (root / "weakclip_cache").write_text("in the way of the folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(home))
    expected = COCO14Dataset(root, "train").mask(0)
    assert len(list(home.glob("weakclip/*/instances_train2014-*/masks/*.png"))) == 1
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert np.array_equal(COCO14Dataset(root, "train").mask(0), expected)


@pytest.mark.parametrize("text", ["", "[1, 2]", '[["x"]]', '{"a": 1}', "[[1, 2, 3"])
def test_a_damaged_index_is_made_anew(tmp_path: Path, text: str) -> None:
    write(tmp_path, ANNOTATIONS)
    names = COCO14Dataset(tmp_path, "train").names
    (index,) = tmp_path.glob("weakclip_cache/*/index.json")
    index.write_text(text)
    assert COCO14Dataset(tmp_path, "train").names == names


def test_index_and_its_stored_form_are_equal(tmp_path: Path) -> None:
    write(tmp_path, ANNOTATIONS)
    file = tmp_path / "annotations/instances_train2014.json"
    cache = FileCache(tmp_path, file, version=1)
    entries = load_index(file, cache)
    assert entries[0] == ImageEntry(7, "COCO_train2014_000000000007.jpg", SIZE, (1, 17, 80))
    assert load_index(file, cache) == entries == read_index(file)


def test_the_data_set_travels_to_other_processes(tmp_path: Path) -> None:
    write(tmp_path, ANNOTATIONS)
    dataset = COCO14Dataset(tmp_path, "train")
    mask = dataset.mask(0)
    assert np.array_equal(pickle.loads(pickle.dumps(dataset)).mask(0), mask)


def test_a_photo_of_another_size_than_its_annotations_is_named(tmp_path: Path) -> None:
    write(tmp_path, ANNOTATIONS)
    photo = tmp_path / "train2014/COCO_train2014_000000000007.jpg"
    Image.fromarray(np.zeros((16, 20, 3), np.uint8)).save(photo)
    with pytest.raises(DataError, match=r"image COCO_train2014_000000000007: mask is 10x8 pixels, its image 20x16"):
        COCO14Dataset(tmp_path, "train").mask(0)
    assert not list(tmp_path.glob("weakclip_cache/*/masks/*"))


def test_published_sizes_are_known(tmp_path: Path) -> None:
    """82,783 images, 702 without annotation; 40,504."""
    write(tmp_path, ANNOTATIONS)
    write(tmp_path, ANNOTATIONS, "val")
    assert COCO14Dataset(tmp_path, "train").official_size == 82081
    assert COCO14Dataset(tmp_path, "val").official_size == 40504


def test_the_check_draws_all_masks_and_names_what_is_wrong(tmp_path: Path) -> None:
    """Image 7: a dog that is a crowd has no pixel of its own. Image 8: a region that cannot be drawn."""
    write(tmp_path, [*ANNOTATIONS[:3], annotation(8, 18, {"size": SIZE, "counts": [79]})])
    for number, photo in enumerate(sorted((tmp_path / "train2014").iterdir())):
        Image.new("RGB", SIZE[::-1], (80 * number,) * 3).save(photo)
    found = check_split(COCO14Dataset(tmp_path, "train"), needs_labels=True)
    assert [(each.kind, each.image[-1:], each.detail) for each in found.findings[:2]] == [
        (Kind.COUNT, "", "2 images; the published split has 82,081"),
        (Kind.NO_PIXEL, "7", "dog"),
    ]
    assert [(each.kind, each.image[-1:]) for each in found.findings[2:]] == [(Kind.MASK, "8")]
    assert len(list(tmp_path.glob("weakclip_cache/*/masks/*.png"))) == 1


def inside(corners: np.ndarray, x: float, y: float) -> bool:
    """Even-odd rule for one point, edge by edge; a point on a left or upper edge is inside."""
    result = False
    for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        if (y0 <= y) != (y1 <= y) and x0 + (y - y0) * (x1 - x0) / (y1 - y0) <= x:
            result = not result
    return result


def test_polygons_equal_brute_force() -> None:
    """Crossing themselves, beyond the image, on whole and half numbers, and with repeated corners."""
    rng = np.random.default_rng(0)
    for number in range(120):
        corners = rng.uniform(-4, 16, (int(rng.integers(3, 9)), 2))
        if number % 3:
            corners = np.round(corners * (number % 3)) / (number % 3)
        if number % 4 == 0:
            corners = np.vstack([corners, corners[:1], corners[1:2]])
        expected = [[inside(corners, x + 0.5, y + 0.5) for x in range(12)] for y in range(9)]
        assert np.array_equal(fill_polygon(corners, (9, 12)), expected)


def test_overlaps_do_not_depend_on_the_order_but_for_equal_sizes() -> None:
    rng = np.random.default_rng(0)
    shapes = [np.array(rectangle(0, 0, side, side + 1.0)) for side in range(2, 8)]
    regions = [(index + 1, [shape]) for index, shape in enumerate(shapes)]
    expected = draw_regions(regions, (10, 12))
    for _ in range(5):
        assert np.array_equal(draw_regions([regions[i] for i in rng.permutation(6)], (10, 12)), expected)
    twins = [(1, [shapes[0]]), (2, [shapes[0]])]
    assert draw_regions(twins, (10, 12)).max() == 2
    assert draw_regions(twins[::-1], (10, 12)).max() == 1


def test_regions_agree_with_the_coco_tools() -> None:
    """Run lengths exactly; polygons up to the pixels on the outline, which the tools round in a way of their own."""
    tools = pytest.importorskip("pycocotools.mask")
    rng = np.random.default_rng(0)
    for _ in range(20):
        angles = np.sort(rng.uniform(0, 2 * np.pi, 9))
        corners = np.stack([40 + 30 * np.cos(angles), 30 + 25 * np.sin(angles)], axis=1)
        (code,) = tools.frPyObjects([corners.ravel().tolist()], 60, 80)
        theirs, ours = tools.decode(code).astype(bool), fill_polygon(corners, (60, 80))
        assert np.array_equal(decode_runs(code["counts"], (60, 80)), theirs)
        steps = corners + np.linspace(0, 1, 400)[:, None, None] * (np.roll(corners, -1, axis=0) - corners)
        for y, x in np.argwhere(theirs != ours):
            assert np.abs(steps - (x + 0.5, y + 0.5)).max(axis=-1).min() <= 1.5


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
