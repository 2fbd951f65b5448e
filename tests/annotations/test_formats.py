"""What goes out to an annotation tool comes back as it was; and each file is what the tool documents."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from weakclip.annotations import (
    AnnotatedImage,
    MaskEntry,
    Shapes,
    annotation_labels,
    draw_image,
    read_coco,
    read_cvat,
    read_label_studio,
    write_coco,
    write_cvat,
    write_label_studio,
)
from weakclip.annotations.brush_code import decode_brush, encode_brush
from weakclip.datasets.classes import COCO14, ClassSet
from weakclip.errors import DataError, StorageError

FORMATS = {
    "coco": (write_coco, read_coco, "masks.json"),
    "label-studio": (write_label_studio, read_label_studio, "tasks.json"),
    "cvat": (write_cvat, read_cvat, "annotations.xml"),
}
CLASSES = ClassSet.from_foreground(["cat & dog", 'a "quoted" <name>', "Ä hut", "tree"])


def random_masks(class_set: ClassSet, count: int = 4) -> list[MaskEntry]:
    """Blocky masks of odd sizes, with pixels of 255, and one of background alone."""
    rng = np.random.default_rng(3)
    entries = []
    for number in range(count):
        height, width = 17 + 2 * number, 23 + number
        values = np.array([0, 0, 255, *range(1, class_set.num_classes)], np.uint8)
        mask = np.repeat(np.repeat(rng.choice(values, (6, 7)), 7, axis=0), 6, axis=1)[:height, :width]
        entries.append(MaskEntry(f"in a folder/phöto {number}.jpg", mask if number else np.zeros_like(mask)))
    return entries


def written(kind: str, folder: Path, entries: list[MaskEntry], class_set: ClassSet, shapes: Shapes) -> Path:
    write, _, name = FORMATS[kind]
    assert write(folder / name, iter(entries), class_set, shapes) == len(entries)
    return folder / name


def read_back(kind: str, path: Path, entries: list[MaskEntry], class_set: ClassSet) -> list[np.ndarray]:
    images = list(FORMATS[kind][1](path))
    assert [image.file_name for image in images] == [entry.file_name for entry in entries]
    labels = annotation_labels(class_set)
    return [draw_image(image, labels, entry.mask.shape, path) for image, entry in zip(images, entries, strict=True)]


@pytest.mark.parametrize("shapes", [Shapes(), Shapes(kind="polygons", tolerance=0)], ids=lambda shapes: shapes.kind)
@pytest.mark.parametrize("class_set", [CLASSES, COCO14, ClassSet.from_foreground(["one"])], ids=["four", "81", "two"])
@pytest.mark.parametrize("kind", FORMATS)
def test_masks_come_back_as_they_were(kind: str, class_set: ClassSet, shapes: Shapes, tmp_path: Path) -> None:
    entries = random_masks(class_set)
    path = written(kind, tmp_path, entries, class_set, shapes)
    for mask, entry in zip(read_back(kind, path, entries, class_set), entries, strict=True):
        assert np.array_equal(mask, entry.mask)


@pytest.mark.parametrize("kind", FORMATS)
def test_polygons_come_back_within_their_tolerance(kind: str, tmp_path: Path) -> None:
    y, x = np.mgrid[:61, :83]
    mask = np.zeros((61, 83), np.uint8)
    mask[(y - 30) ** 2 + (x - 40) ** 2 < 25**2] = 1
    mask[(y - 30) ** 2 + (x - 40) ** 2 < 12**2] = 2
    entries = [MaskEntry("a.png", mask)]
    path = written(kind, tmp_path, entries, CLASSES, Shapes(kind="polygons", tolerance=1))
    (found,) = read_back(kind, path, entries, CLASSES)
    distance = np.sqrt((y - 30) ** 2 + (x - 40) ** 2)
    edge = np.minimum(abs(distance - 25), abs(distance - 12))
    assert (edge[found != mask] <= 1 + 2**0.5).all()
    assert (found != mask).mean() < 0.05


@pytest.mark.parametrize("kind", FORMATS)
def test_the_same_masks_give_the_same_bytes(kind: str, tmp_path: Path) -> None:
    first, second = (
        written(kind, tmp_path / name, random_masks(CLASSES), CLASSES, Shapes()).read_bytes() for name in ("a", "b")
    )
    assert first == second


@pytest.mark.parametrize("shapes", [Shapes(), Shapes(kind="polygons", tolerance=0)], ids=lambda shapes: shapes.kind)
def test_pycocotools_reads_the_coco_file(shapes: Shapes, tmp_path: Path) -> None:
    tools = pytest.importorskip("pycocotools.coco")
    entries = random_masks(COCO14)
    path = written("coco", tmp_path, entries, COCO14, shapes)
    api = tools.COCO(str(path))
    assert [api.cats[identity]["name"] for identity in COCO14.ids[1:]] == list(COCO14.names[1:])
    for image, entry in zip(api.dataset["images"], entries, strict=True):
        assert (image["height"], image["width"]) == entry.mask.shape
        for annotation in api.loadAnns(api.getAnnIds(imgIds=image["id"])):
            name = api.cats[annotation["category_id"]]["name"]
            expected = entry.mask == annotation_labels(COCO14)[name]
            found = api.annToMask(annotation).astype(bool)
            rows, columns = np.nonzero(expected)
            box = [columns.min(), rows.min(), columns.max() + 1 - columns.min(), rows.max() + 1 - rows.min()]
            assert annotation["area"] == expected.sum() and annotation["bbox"] == box
            if shapes.kind == "masks":
                assert np.array_equal(found, expected)
            else:  # its polygons are rounded to a fifth of a pixel: pixels along the outline may differ
                assert (found != expected).sum() <= 0.5 * (np.abs(np.diff(expected.astype(int))).sum() + 2 * len(rows))


def test_coco_annotations_in_any_order_are_put_together(tmp_path: Path) -> None:
    entries = random_masks(CLASSES)
    path = written("coco", tmp_path, entries, CLASSES, Shapes())
    content = json.loads(path.read_text())
    content["annotations"].reverse()
    path.write_text(json.dumps(dict(reversed(content.items()))))
    for mask, entry in zip(read_back("coco", path, entries, CLASSES), entries, strict=True):
        assert np.array_equal(mask, entry.mask)


def test_coco_file_without_room_for_its_regions_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written("coco", tmp_path, random_masks(CLASSES), CLASSES, Shapes())
    with Path("/dev/full").open("r+b", buffering=0) as full:
        monkeypatch.setattr("tempfile.TemporaryFile", lambda: full)
        with pytest.raises(StorageError, match="cannot be written"):
            list(read_coco(path))


def test_the_brush_code_is_that_of_label_studio() -> None:
    """Two pixels, the second one inside, written by hand: lengths of 3 bits, four times 0 and four times 255."""
    bits = f"{8:032b}{7:05b}" + "".join(f"{size - 1:04b}" for size in (3, 4, 8, 16))
    bits += f"1{0:02b}{3:03b}{0:08b}" + f"1{0:02b}{3:03b}{255:08b}"
    bits += "0" * (-len(bits) % 8)
    code = [int(bits[at : at + 8], 2) for at in range(0, len(bits), 8)]
    assert encode_brush(np.array([[False, True]])) == code
    literal = f"{8:032b}{7:05b}" + "".join(f"{size - 1:04b}" for size in (3, 4, 8, 16))
    literal += f"0{0:02b}{7:03b}" + "".join(f"{value:08b}" for value in (9, 9, 9, 0, 9, 9, 9, 1))
    literal += "0" * (-len(literal) % 8)
    packed = [int(literal[at : at + 8], 2) for at in range(0, len(literal), 8)]
    assert decode_brush(packed, (1, 2)).tolist() == [[False, True]]
    large = np.zeros((300, 401), bool)
    large[17:290, 3:] = True
    assert np.array_equal(decode_brush(encode_brush(large), large.shape), large)
    for damaged in (code[:-3], code[:3], []):
        with pytest.raises(ValueError, match="cut off"):
            decode_brush(damaged, (1, 2))
    with pytest.raises(ValueError, match="8 values; expected 4 for each of 3x1"):
        decode_brush(code, (1, 3))


def test_label_studio_tasks_have_the_documented_fields(tmp_path: Path) -> None:
    entries = random_masks(CLASSES)
    path = written("label-studio", tmp_path, entries, CLASSES, Shapes())
    tasks = json.loads(path.read_text())
    assert tasks[1]["data"]["image"] == "/data/local-files/?d=in%20a%20folder/ph%C3%B6to%201.jpg"
    interface = ElementTree.parse(tmp_path / "tasks.labels.xml").getroot()
    control, image = interface.find("BrushLabels"), interface.find("Image")
    assert control is not None and image is not None
    assert [label.get("value") for label in control] == list(annotation_labels(CLASSES))
    for result in tasks[1]["predictions"][0]["result"]:
        assert (result["from_name"], result["to_name"]) == (control.get("name"), image.get("name"))
        assert result["type"] == "brushlabels" and result["value"]["format"] == "rle"
        assert (result["original_height"], result["original_width"]) == entries[1].mask.shape
    polygons = written("label-studio", tmp_path / "p", entries, CLASSES, Shapes(kind="polygons"))
    for task in json.loads(polygons.read_text()):
        for result in task["predictions"][0]["result"]:
            points = np.array(result["value"]["points"])
            assert result["type"] == "polygonlabels" and points.min() >= 0 and points.max() <= 100


def test_a_persons_annotation_goes_before_the_prediction(tmp_path: Path) -> None:
    """Of a task: the last annotation that was not cancelled, else the last prediction; a task with neither is left."""
    square = {"points": [[0, 0], [50, 0], [50, 100], [0, 100]], "polygonlabels": ["tree"]}
    shape = {"type": "polygonlabels", "original_width": 4, "original_height": 2, "value": square}
    empty: dict[str, Any] = {"result": [{"type": "choices", "value": {"choices": ["good"]}}]}
    tasks = [
        {"data": {"image": "/data/upload/1/a%20b.png"}, "predictions": [{"result": [shape]}]},
        {"data": {"image": "c.png"}, "annotations": [empty], "predictions": [{"result": [shape]}]},
        {"data": {"image": "d.png"}, "annotations": [{"result": [shape]}, {**empty, "was_cancelled": True}]},
        {"data": {"image": "e.png"}, "annotations": [], "predictions": []},
    ]
    path = tmp_path / "export.json"
    path.write_text(json.dumps(tasks))
    images = list(read_label_studio(path))
    assert [image.file_name for image in images] == ["/data/upload/1/a b.png", "c.png", "d.png"]
    tree = annotation_labels(CLASSES)["tree"]
    drawn = [draw_image(image, annotation_labels(CLASSES), (2, 4), path).tolist() for image in images]
    half = [[tree, tree, 0, 0]] * 2
    assert drawn == [half, [[0] * 4] * 2, half]


def test_tasks_that_several_people_annotated_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    once, cancelled = {"result": []}, {"result": [], "was_cancelled": True}
    tasks = [
        {"data": {"image": "a.png"}, "annotations": [once, cancelled]},
        {"data": {"image": "b.png"}, "annotations": [once, once]},
    ]
    (tmp_path / "tasks.json").write_text(json.dumps(tasks))
    assert len(list(read_label_studio(tmp_path / "tasks.json"))) == 2
    assert "1 tasks have several annotations, of which the last counts: b.png" in caplog.text


def test_later_and_higher_shapes_of_cvat_lie_above(tmp_path: Path) -> None:
    path = tmp_path / "a.xml"
    whole = 'left="0" top="0" width="3" height="1" rle="0, 3"'
    path.write_text(
        '<annotations><image id="0" name="x/a.png" width="3" height="1">'
        f'<mask label="one" {whole} z_order="1"/><mask label="two" {whole} z_order="0"/><tag label="seen"/>'
        '<polygon label="two" points="0.00,0.00;1.00,0.00;1.00,1.00;0.00,1.00" z_order="1"/></image></annotations>'
    )
    (image,) = read_cvat(path)
    assert draw_image(image, {"one": 1, "two": 2}, (1, 3), path).tolist() == [[2, 1, 1]]


@pytest.mark.parametrize(
    ("reader", "text", "message"),
    [
        (read_coco, "[]", "not a JSON file of the COCO format"),
        (read_coco, '{"images": []}', "it has no categories"),
        (read_coco, '{"images": [{"id": 1}], "categories": [], "annotations": []}', "lacks 'file_name'"),
        (read_label_studio, "{}", "not a JSON list of Label Studio's tasks"),
        (read_label_studio, '[{"a": 1}]', "a task lacks 'data'"),
        (read_label_studio, '[{"data": {"image": "a"}', "cut off"),
        (read_cvat, "{}", "cannot be read as XML"),
        (read_cvat, "<a/>", "its root is <a>"),
        (read_cvat, "<annotations><track/></annotations>", "annotations of a video"),
        (
            read_cvat,
            '<annotations><image name="a" width="3" height="2"><box label="b"/></image></annotations>',
            "image a: it has a box; expected masks and polygons",
        ),
        (
            read_cvat,
            '<annotations><image name="a" width="3" height="2">'
            '<mask label="b" rle="1, 2" left="2" top="0" width="3" height="1"/></image></annotations>',
            "a mask of 3 pixels in a box of 3x1 at 2, 0",
        ),
    ],
)
def test_a_wrong_file_is_one_line(reader: Callable[[Path], Any], text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        [draw_image(image, {"b": 1}, image.size or (1, 1), path) for image in reader(path)]
    with pytest.raises(DataError, match="cannot be read"):
        list(reader(tmp_path / "missing"))


def test_a_label_that_others_cover_is_named(caplog: pytest.LogCaptureFixture) -> None:
    whole, left = np.ones((1, 2), bool), np.array([[True, False]])
    draw_image(
        AnnotatedImage("a.png", (1, 2), (("tree", whole), ("Ä hut", left))), annotation_labels(CLASSES), (1, 2), ""
    )
    assert not caplog.text
    hidden = AnnotatedImage("a.png", (1, 2), (("Ä hut", left), ("tree", left), ("tree", whole)))
    draw_image(hidden, annotation_labels(CLASSES), (1, 2), "b.json")
    assert "b.json: a.png: other regions cover all of Ä hut, of which nothing is left" in caplog.text


def test_unknown_labels_and_other_sizes_are_named() -> None:
    image = AnnotatedImage("a.png", (2, 3), (("lion", np.ones((2, 3), bool)),))
    with pytest.raises(DataError, match=r"tasks\.json: a\.png has the unknown label 'lion'; expected cat & dog"):
        draw_image(image, annotation_labels(CLASSES), (2, 3), "tasks.json")
    with pytest.raises(DataError, match=r"a\.png is annotated at 3x2 pixels; the image has 4x2"):
        draw_image(image, annotation_labels(CLASSES), (2, 4), "tasks.json")
    with pytest.raises(DataError, match="the name is kept for pixels without a class"):
        annotation_labels(ClassSet.from_foreground(["undecided"]))
