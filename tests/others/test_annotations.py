"""Annotation files of others: what a person drew becomes pixels, or is named in one line; it never gets lost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from weakclip.datasets.images import read_mask
from weakclip.datasets.regions import encode_runs
from weakclip.errors import DataError
from weakclip.tools.annotate import import_masks

CAT, DOG = [10, 5, 30, 5, 30, 25, 10, 25], [0, 0, 60, 0, 60, 40, 0, 40]
BOTH = {"a": {0: 2000, 1: 400}, "b": {2: 2400}}
"""Pixels of the two regions: a cat of 20 x 20 in a, a dog all over b."""


def pixels(folder: Path, name: str) -> dict[int, int]:
    values, counts = np.unique(read_mask(folder / f"{name}.png"), return_counts=True)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))


def imported(source: Path, run: Path) -> dict[str, dict[int, int]]:
    """Pixels of every mask that the file drew, by image."""
    out = source.parent / "imported" if source.is_relative_to(run.parent) else run.parent / "imported"
    import_masks(source, run, out)
    found = {name: pixels(out, name) for name in ("a", "b", "d e", "sub/c")}
    return {name: counts for name, counts in found.items() if set(counts) != {0}}


def coco(
    first: dict[str, Any] | None = None,
    *,
    names: tuple[str, str] = ("a.png", "b.png"),
    ids: tuple[Any, Any] = (1, 2),
    **lists: Any,
) -> dict[str, Any]:
    """A COCO file of both regions; `first` changes the first annotation."""
    images = [{"id": key, "file_name": n, "width": 60, "height": 40} for key, n in zip(ids, names, strict=True)]
    marks: list[dict[str, Any]] = [
        {"id": 1, "image_id": ids[0], "category_id": 1, "segmentation": [CAT], "bbox": [10, 5, 20, 20]},
        {"id": 2, "image_id": ids[1], "category_id": 2, "segmentation": [DOG], "bbox": [0, 0, 60, 40]},
    ]
    marks[0] |= first or {}
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    return {"images": images, "annotations": marks, "categories": categories} | lists


def relisted(change: dict[str, Any], kind: str = "annotations", index: int = 0, **more: Any) -> dict[str, Any]:
    """The COCO file with one entry of one list changed."""
    content = coco(**more)
    content[kind][index] |= change
    return content


def task(image: str, label: str = "cat", **changes: Any) -> dict[str, Any]:
    """A task of Label Studio with the region of that label."""
    corners = (
        [[50 / 3, 12.5], [50, 12.5], [50, 62.5], [50 / 3, 62.5]]
        if label == "cat"
        else [[0, 0], [100, 0], [100, 100], [0, 100]]
    )
    region = {
        "id": "r1",
        "type": "polygonlabels",
        "original_width": 60,
        "original_height": 40,
        "value": {"points": corners, "closed": True, "polygonlabels": [label]},
    }
    return {"data": {"image": image}, "annotations": [{"result": [region | changes]}]}


READ = [
    "coco_image_id_types/02_annotation_string_ids.json",
    "coco_image_id_types/right.json",
    "coco_names/28_name_query.json",
    "coco_names/30_name_case.json",
    "coco_unhelpful/40_string_category_ids.json",
    "label_studio_names/02_localfiles_root.json",
    "label_studio_names/04_upload_hash.json",
]


@pytest.mark.parametrize("name", READ)
def test_a_found_file_is_read(cases: Path, base_run: Path, name: str) -> None:
    assert imported(cases / name, base_run) == BOTH


def test_an_escaped_name_is_found(cases: Path, base_run: Path) -> None:
    found = imported(cases / "coco_names/26_name_url_escaped.json", base_run)
    assert found == {"d e": BOTH["a"], "b": BOTH["b"]}


REFUSED = {
    "coco_boxes_alone/06_bbox_only_empty_segmentation.json": (
        r"06_.*\.json, a\.png: annotation 1 cannot be drawn: it is a box, as are 2 annotations of the file; expected"
    ),
    "coco_boxes_alone/07_bbox_only_no_segmentation.json": "annotation 1 cannot be drawn: it is a box, as are 2",
    "coco_doubled_ids/05_merged_same_image_id.json": r"two images have the id 1: .*a\.png.* and .*b\.png",
    "coco_unhelpful/09_poly_odd.json": r"a\.png: annotation 1 .*a polygon of 7 numbers; expected x and y",
    "coco_unhelpful/10_poly_flat.json": r"a\.png: annotation 1 .*its segmentation is \[10, 5, .*expected polygons",
    "coco_unhelpful/13_string_size.json": "image 1: expected a whole number as its height; found '40'",
    "coco_unhelpful/16_unknown_category.json": (
        r"annotation 1: it is of a\.png and has the category_id 7, which is not listed; expected 1 \('cat'\), 2"
    ),
    "coco_unhelpful/42_results_list.json": "it is a list of COCO results, which names no files: give the file",
    "label_studio_region_without_label/33_unlabelled_polygonlabels.json": (
        r"a\.png: region r2 cannot be drawn: it has no label; choose one in Label Studio, or delete the region"
    ),
}


@pytest.mark.parametrize(("name", "message"), REFUSED.items(), ids=REFUSED)
def test_a_found_file_is_refused_in_a_line_that_helps(cases: Path, base_run: Path, name: str, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        imported(cases / name, base_run)
    assert "\n" not in str(caught.value) and name.split("/")[1] in str(caught.value)


RUNS = {"size": [40.0, 60.0], "counts": [float(run) for run in encode_runs(np.indices((40, 60))[0] < 5)]}
TOP = {0: 2100, 1: 300}
OWN_READ = {
    "ids of images as text": (relisted({"id": "1"}, "images"), BOTH),
    "ids of annotations with fractions": (relisted({"image_id": 1.0}), BOTH),
    "ids with zeros before": (coco(ids=("000000000139", 2)) | {}, BOTH),
    "ids that are words": (coco(ids=("first", "second")), BOTH),
    "ids of categories with fractions": (relisted({"category_id": 1.0}), BOTH),
    "an entry that stands there twice": (coco(categories=[*coco()["categories"], *coco()["categories"]]), BOTH),
    "sizes with fractions": (relisted({"width": 60.0, "height": 40.0}, "images"), BOTH),
    "run lengths with fractions": (coco({"segmentation": RUNS}), {"a": TOP, "b": BOTH["b"]}),
    "a line beside a polygon": (coco({"segmentation": [CAT, [1, 1, 5, 5]]}), BOTH),
    "names without their folder": (coco(names=("a.png", "b.png")), BOTH),
    "names in a query": (coco(names=("https://host/get?d=photos%2Fa.png&x=1", "B.PNG")), BOTH),
    "names of Roboflow": (coco(names=(f"a_png.rf.{'0' * 32}.jpg", f"b_png.rf.{'1' * 32}.jpg")), BOTH),
    "names of uploads": ([task("/data/upload/1/0a1b2c3d-a.png"), task("0a1b2c3d-b.png", "dog")], BOTH),
    "an upload without an address": (
        [{**task("a.png"), "data": {"photo": "x"}, "file_upload": "0a1b2c3d-a.png"}],
        {"a": BOTH["a"]},
    ),
    "shape and label of two controls": (
        [
            {
                "data": {"image": "a.png"},
                "annotations": [
                    {
                        "result": [
                            {**task("a.png")["annotations"][0]["result"][0], "type": kind, "value": value}
                            for kind, value in (
                                ("polygon", {"points": [[0, 0], [100, 0], [100, 12.5], [0, 12.5]]}),
                                ("labels", {"points": [[0, 0], [100, 0], [100, 12.5], [0, 12.5]], "labels": ["cat"]}),
                                ("choices", {"points": [[0, 0], [100, 0]], "choices": ["sure"]}),
                            )
                        ]
                    }
                ],
            }
        ],
        {"a": TOP},
    ),
}


@pytest.mark.parametrize(("content", "expected"), OWN_READ.values(), ids=OWN_READ)
def test_relatives_of_the_found_files_are_read(content: Any, expected: Any, base_run: Path, tmp_path: Path) -> None:
    (tmp_path / "file.json").write_text(json.dumps(content))
    assert imported(tmp_path / "file.json", base_run) == expected


OWN_REFUSED = {
    "an image that is not listed": (
        relisted({"image_id": 9}),
        r"annotations name images that it does not list, by the image_id 9 \(annotation 1\); ids of its 2 images: 1",
    ),
    "no image listed": (coco(images=[]), "ids of its 0 images: none; list these images, or take their"),
    "an id of another kind": (
        relisted({"image_id": None}),
        "annotation 1: an id is a whole number or text; found None",
    ),
    "a truth as id": (relisted({"id": True}, "images"), "image True: an id is a whole number or text; found True"),
    "text and number of one id": (coco(ids=(1, "1")), r"two images have the id 1: .*a\.png.* and .*b\.png"),
    "two names of a category": (
        relisted({"id": 1}, "categories", 1),
        "category 1: two categories have the id 1: 'cat' and 'dog'; give each an id of its own",
    ),
    "one box among masks": (coco({"segmentation": None}), r"a\.png: annotation 1 .*a box, as are 1 annotations"),
    "a box as a polygon": (
        coco({"segmentation": [[10, 5, 20, 20]]}),
        "it is a polygon of 4 numbers; expected 6 at least, x and y of three corners",
    ),
    "a polygon without corners": (coco({"segmentation": [[]]}), "it is a polygon of 0 numbers; expected 6 at least"),
    "corners in pairs": (
        coco({"segmentation": [[[10, 5], [30, 5], [30, 25]]]}),
        r"annotation 1 .*a polygon of shape \(3, 2\); expected x and y of each corner in turn",
    ),
    "corners in words": (
        coco({"segmentation": [["a", "b"]]}),
        r"annotation 1 .*a polygon \['a', 'b'\]; expected a list",
    ),
    "text": (coco({"segmentation": "abc"}), "annotation 1 .*its segmentation is 'abc'; expected polygons"),
    "half a code": (
        coco({"segmentation": {"counts": [2400]}}),
        r"annotation 1 .*has `size` and `counts`; found \['counts",
    ),
    "a code of another size": (
        coco({"segmentation": {"size": [60, 40], "counts": [2400]}}),
        r"annotation 1 .*of height and width \[60, 40\]; expected \[40, 60\]",
    ),
    "fractions in a code": (
        coco({"segmentation": {"size": [40, 60], "counts": [0.5, 2399.5]}}),
        "annotation 1 .*run lengths are whole numbers in a list; found 0.5",
    ),
    "a category that is text": (
        relisted({"category_id": "cat"}),
        "annotation 1: it is of a.png and has the category_id 'cat', which is not listed; expected 1",
    ),
    "a category that is missing": (
        coco(annotations=[{"id": 5, "image_id": 1, "segmentation": [CAT]}]),
        "annotation 5 lacks 'category_id'; expected a COCO file",
    ),
    "a width in words": (relisted({"width": "wide"}, "images"), "image 1: expected a whole number as its width; found"),
    "annotations in an object": (
        coco(annotations={"1": {}}),
        r"of the COCO format \(annotations begins with '{'; expected",
    ),
    "a panoptic file": (
        coco(annotations=[{"image_id": 1, "file_name": "a.png", "segments_info": [{"id": 1, "category_id": 1}]}]),
        "annotation: it is of COCO's panoptic format; expected a segmentation for each object",
    ),
    "an image in two spellings": (
        coco(names=("a.png", "images/A.png")),
        r"image a is annotated twice, as a\.png and as images/A\.png; keep one of the two",
    ),
    "results of Label Studio's short form": ([{"image": "a.png", "label": []}], "it looks like JSON-MIN: export JSON"),
    "a region whose labels are none": (
        [task("a.png", value={"points": [[0, 0], [9, 0], [9, 9]], "polygonlabels": []})],
        "a.png: region r1 cannot be drawn: it has no label; choose one in Label Studio",
    ),
    "a shape without a label": (
        [task("a.png", type="polygon", value={"points": [[0, 0], [9, 0], [9, 9]]})],
        "region r1 cannot be drawn: it has no label; choose one in Label Studio",
    ),
    "a rectangle": (
        [task("a.png", type="rectanglelabels", value={"x": 1, "y": 1, "width": 9, "rectanglelabels": ["cat"]})],
        "region r1 cannot be drawn: it is of type 'rectanglelabels'; expected brushlabels or polygonlabels",
    ),
}


@pytest.mark.parametrize(("content", "message"), OWN_REFUSED.values(), ids=OWN_REFUSED)
def test_relatives_of_the_found_files_are_refused_in_a_line_that_helps(
    content: Any, message: str, base_run: Path, tmp_path: Path
) -> None:
    (tmp_path / "file.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=message) as caught:
        imported(tmp_path / "file.json", base_run)
    assert "\n" not in str(caught.value) and str(tmp_path / "file.json") in str(caught.value)


def test_images_that_are_left_out_are_named(base_run: Path, tmp_path: Path, call: Any, capsys: Any) -> None:
    (tmp_path / "file.json").write_text(json.dumps(coco(names=("elsewhere.png", "b.png"))))
    assert call("import", tmp_path / "file.json", "--run", base_run, "--out", tmp_path / "out") == 0
    assert "has no such images: 1, elsewhere.png\n" in capsys.readouterr().out
    (tmp_path / "file.json").write_text(json.dumps(coco(names=("x.png", "y.png"))))
    assert call("import", tmp_path / "file.json", "--run", base_run, "--out", tmp_path / "out") == 2
    assert "none of its 2 images is of" in capsys.readouterr().err


def test_a_region_beyond_the_image_is_named(base_run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Corners as fractions of the image's sides are a common mistake."""
    (tmp_path / "file.json").write_text(json.dumps(coco({"segmentation": [[0.1, 0.1, 0.4, 0.1, 0.4, 0.4]]})))
    assert imported(tmp_path / "file.json", base_run) == {"b": BOTH["b"]}
    assert "a.png: 1 regions cover no pixel and are not drawn (cat)" in caplog.text
