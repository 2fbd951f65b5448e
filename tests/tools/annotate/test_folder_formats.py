"""Formats of a folder: YOLO, LabelMe and FiftyOne hold the same pixels, and name what they do not read."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from weakclip.annotations import FORMATS, Shapes
from weakclip.cli.exchange import Tool
from weakclip.datasets.images import read_mask, write_mask
from weakclip.errors import ConfigError, DataError, RunError, StorageError
from weakclip.pipeline.context import open_run
from weakclip.tools.annotate import TOOLS, export_masks, import_masks, verify_masks

FOLDERS = [tool for tool, ending in TOOLS.items() if not ending]
CASES = [("yolo", "masks"), ("yolo", "polygons"), ("labelme", "masks"), ("labelme", "polygons"), ("fiftyone", "masks")]


@pytest.fixture
def ring_run(tmp_path: Path) -> Path:
    """A run on one photo of 83 x 61 pixels with a disk in a hole of a ring, a square that touches a corner, and 255."""
    root = tmp_path / "photos"
    (root / "images" / "more").mkdir(parents=True)
    for name in ("more/rings.jpg", "plain.jpg"):
        Image.new("RGB", (83, 61), (90, 120, 60)).save(root / "images" / name)
    (root / "labels.csv").write_text("image,labels\nmore/rings.jpg,cat;dog\nplain.jpg,cat\n")
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text(yaml.safe_dump({"data": {"dataset": "folder", "root": str(root)}}))
    palette = open_run(run).train.class_set.palette
    write_mask(run / "3_pseudo_masks/masks/more/rings.png", rings(), palette)
    write_mask(run / "3_pseudo_masks/masks/plain.png", np.zeros((61, 83), np.uint8), palette)
    return run


def rings() -> np.ndarray:
    y, x = np.mgrid[:61, :83]
    distance = np.hypot(y - 30, x - 40)
    mask = np.zeros((61, 83), np.uint8)
    mask[distance < 26] = 1
    mask[distance < 18] = 0
    mask[distance < 9] = 2
    mask[distance < 4] = 1
    mask[0:3, 0:3] = mask[3:5, 3:6] = 2
    mask[50:, 70:] = 255
    return mask


def exported(run: Path, out: Path, tool: str, kind: str = "masks", **more: Any) -> Path:
    shapes = Shapes(kind="polygons" if kind == "polygons" else "masks", tolerance=more.pop("tolerance", 0))
    export_masks(run, out, tool, shapes, **more)
    return out


def changed(run: Path, name: str, mask: np.ndarray) -> None:
    write_mask(run / f"3_pseudo_masks/masks/{name}.png", mask, open_run(run).train.class_set.palette)


def test_the_command_knows_all_formats() -> None:
    assert {tool.value for tool in Tool} == set(FORMATS)


@pytest.mark.parametrize(("tool", "kind"), CASES)
def test_holes_islands_and_undecided_pixels_come_back_exactly(
    tool: str, kind: str, ring_run: Path, tmp_path: Path
) -> None:
    folder = exported(ring_run, tmp_path / "out", tool, kind)
    assert import_masks(folder, ring_run, tmp_path / "back").drawn == 2
    assert np.array_equal(read_mask(tmp_path / "back/more/rings.png"), rings())
    assert not read_mask(tmp_path / "back/plain.png").any()


@pytest.mark.parametrize("tool", ["yolo", "labelme"])
def test_polygons_with_a_tolerance_agree_on_nearly_all_pixels(tool: str, ring_run: Path, tmp_path: Path) -> None:
    folder = exported(ring_run, tmp_path / "out", tool, "polygons", tolerance=1)
    import_masks(folder, ring_run, tmp_path / "back")
    back, mask = read_mask(tmp_path / "back/more/rings.png"), rings()
    assert (back == mask).mean() > 0.96
    for value in (1, 2):
        assert ((back == value) & (mask == value)).sum() / ((back == value) | (mask == value)).sum() > 0.8


@pytest.mark.parametrize("tool", FOLDERS)
def test_unchanged_masks_are_not_verified_and_changed_ones_are(tool: str, ring_run: Path, tmp_path: Path) -> None:
    made = verify_masks(exported(ring_run, tmp_path / "same", tool), ring_run)
    assert (made.verified, made.unchanged, made.foreign) == (0, 2, ())
    noted = (ring_run / "exported.jsonl").read_bytes()
    changed(ring_run, "more/rings", np.full((61, 83), 2, np.uint8))
    corrected = exported(ring_run, tmp_path / "corrected", tool)
    changed(ring_run, "more/rings", rings())
    (ring_run / "exported.jsonl").write_bytes(noted)
    made = verify_masks(corrected, ring_run)
    assert (made.verified, made.unchanged) == (1, 1)
    assert (read_mask(ring_run / "verified/more/rings.png") == 2).all()


@pytest.mark.parametrize("tool", TOOLS)
def test_small_regions_are_left_out_and_their_absence_is_no_correction(
    tool: str, ring_run: Path, tmp_path: Path
) -> None:
    out = exported(ring_run, tmp_path / f"out{TOOLS[tool]}", tool, min_area=10)
    made = verify_masks(out, ring_run)
    assert (made.verified, made.unchanged) == (0, 2)
    import_masks(out, ring_run, tmp_path / "back")
    back, mask = read_mask(tmp_path / "back/more/rings.png"), rings()
    assert not back[:6, :6].any() and np.array_equal(back[6:], mask[6:])  # 9 and 6 pixels, which touch at a corner


@pytest.mark.parametrize("tool", FOLDERS)
def test_names_that_would_be_one_are_refused_before_anything_is_written(
    tool: str, ring_run: Path, tmp_path: Path
) -> None:
    root = tmp_path / "photos"
    Image.new("RGB", (83, 61)).save(root / "images/more__rings.jpg")
    (root / "labels.csv").write_text("image,labels\nmore/rings.jpg,cat;dog\nplain.jpg,cat\nmore__rings.jpg,cat\n")
    changed(ring_run, "more__rings", rings())
    with pytest.raises(DataError, match="images more/rings and more__rings would both be called more__rings"):
        exported(ring_run, tmp_path / "out", tool)
    assert not (tmp_path / "out").exists()
    exported(ring_run, tmp_path / "a.json", "coco")


@pytest.mark.parametrize("tool", FOLDERS)
def test_a_folder_appears_whole_or_not_at_all(tool: str, ring_run: Path, tmp_path: Path) -> None:
    (ring_run / "3_pseudo_masks/masks/plain.png").unlink()
    with pytest.raises(RunError, match="no such mask"):
        exported(ring_run, tmp_path / "out", tool)
    assert {path.name for path in tmp_path.iterdir()} == {"photos", "run"}
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine.txt").touch()
    with pytest.raises(StorageError, match="is there already and not an empty folder"):
        exported(ring_run, tmp_path / "full", tool)


def test_the_layout_of_yolo(ring_run: Path, tmp_path: Path) -> None:
    folder = exported(ring_run, tmp_path / "out", "yolo")
    content = yaml.safe_load((folder / "data.yaml").read_text())
    assert content == {
        "train": "images/train",
        "val": "images/train",
        "names": {0: "cat", 1: "dog", 2: "undecided"},
    }
    rows = (folder / "labels/train/more__rings.txt").read_text().splitlines()
    assert [row.split()[0] for row in rows] == ["0", "0", "1", "1", "1", "2"]
    for row in rows:
        numbers = np.array(row.split()[1:], dtype=float)
        assert len(numbers) % 2 == 0 and len(numbers) >= 6 and numbers.min() >= 0 and numbers.max() <= 1
    assert (folder / "labels/train/plain.txt").read_text() == ""
    with Image.open(folder / "images/train/more__rings.jpg") as photo:
        assert photo.size == (83, 61)


def test_the_layout_of_labelme(ring_run: Path, tmp_path: Path) -> None:
    folder = exported(ring_run, tmp_path / "out", "labelme")
    content = json.loads((folder / "more__rings.json").read_text())
    assert (content["imagePath"], content["imageData"]) == ("more__rings.jpg", None)
    assert (content["imageHeight"], content["imageWidth"]) == (61, 83)
    assert (folder / "more__rings.jpg").is_file() and (folder / "labels.txt").read_text() == "cat\ndog\nundecided\n"
    shape = content["shapes"][0]
    assert set(shape) == {"label", "points", "group_id", "description", "shape_type", "flags", "mask"}
    (left, top), (right, bottom) = shape["points"]
    with Image.open(io.BytesIO(base64.b64decode(shape["mask"]))) as box:
        assert (box.mode, box.size) == ("L", (right - left + 1, bottom - top + 1))
        assert np.array_equal(np.array(box) > 0, (rings() == 1)[int(top) : int(bottom) + 1, int(left) : int(right) + 1])


def test_the_layout_of_fiftyone(ring_run: Path, tmp_path: Path) -> None:
    folder = exported(ring_run, tmp_path / "out", "fiftyone")
    with Image.open(folder / "labels/more__rings.png") as mask:
        assert mask.mode == "L"  # of a palette image FiftyOne would take the colours
    targets = json.loads((folder / "mask_targets.json").read_text())
    assert targets == {"0": "background", "1": "cat", "2": "dog", "255": "undecided"}
    assert (folder / "data/more__rings.jpg").is_file()
    with pytest.raises(ConfigError, match="masks only"):
        exported(ring_run, tmp_path / "b", "fiftyone", "polygons")


def test_classes_go_by_their_names_and_not_by_their_order(ring_run: Path, tmp_path: Path) -> None:
    yolo = exported(ring_run, tmp_path / "yolo", "yolo")
    (yolo / "data.yaml").write_text("names: [dog, cat, undecided]\n")
    fiftyone = exported(ring_run, tmp_path / "fiftyone", "fiftyone")
    (fiftyone / "mask_targets.json").write_text('{"1": "dog", "2": "cat", "255": "undecided"}')
    for folder in (yolo, yolo / "data.yaml", fiftyone):
        import_masks(folder, ring_run, tmp_path / "back")
        assert np.array_equal(read_mask(tmp_path / "back/more/rings.png"), np.array([0, 2, 1, *[255] * 253])[rings()])


def test_images_of_the_run_are_found_with_and_without_their_folders(ring_run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "yolo/train"
    (folder / "labels").mkdir(parents=True)
    (folder / "labels/rings_jpg.rf.0a1b2c.txt").write_text("0 0 0 1 0 1 1 0 1\n")
    (tmp_path / "yolo/data.yaml").write_text("names: [cat]\n")
    import_masks(tmp_path / "yolo", ring_run, tmp_path / "back")
    assert (read_mask(tmp_path / "back/more/rings.png") == 1).all()
    shape = {"label": "dog", "points": [[0, 0], [83, 61]], "shape_type": "rectangle"}
    (tmp_path / "labelme").mkdir()
    content = {"imagePath": "..\\images\\more\\rings.jpg", "shapes": [shape]}  # without a size
    (tmp_path / "labelme/a.json").write_text(json.dumps(content))
    import_masks(tmp_path / "labelme", ring_run, tmp_path / "back")
    assert (read_mask(tmp_path / "back/more/rings.png") == 2).all()


def test_files_of_no_image_and_images_without_annotations_are_named(
    ring_run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    yolo = exported(ring_run, tmp_path / "yolo", "yolo")
    (yolo / "labels/train/plain.txt").rename(yolo / "labels/train/stranger.txt")
    (yolo / "labels/train/notes.csv").touch()
    assert verify_masks(yolo, ring_run).foreign == ("train/stranger.txt",)
    assert (
        "1 images have no annotations, and nothing is taken for them, the first images/train/plain.jpg" in caplog.text
    )
    assert "1 files are no annotations and are left out, the first train/notes.csv" in caplog.text
    labelme = exported(ring_run, tmp_path / "labelme", "labelme")
    (labelme / "plain.json").unlink()
    assert import_masks(labelme, ring_run, tmp_path / "back").kept == 1
    assert "labelme: 1 images have no annotations, and nothing is taken for them, the first plain.jpg" in caplog.text
    fiftyone = exported(ring_run, tmp_path / "fiftyone", "fiftyone")
    (fiftyone / "labels/plain.jpg").touch()
    import_masks(fiftyone, ring_run, tmp_path / "back")
    assert "1 files are no annotations and are left out, the first plain.jpg" in caplog.text


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("7 0 0 1 0 1 1", r"row 1 cannot be drawn: class 7; data\.yaml names 0, 1, 2, …, 2"),
        ("-1 0 0 1 0 1 1", "class -1"),
        ("0.5 0 0 1 0 1 1", "class 0.5"),
        ("cat 0 0 1 0 1 1", "could not convert"),
        ("0 0.5 0.5 1 1", "it is a box; expected a polygon"),
        ("0 0 0 1 0 1", "5 numbers behind the class"),
        ("0 0 0 40 0 40 30", "corners beyond 0…1; expected shares"),
        ("0 0 0 nan 0 1 1", "corners beyond 0…1"),
    ],
)
def test_a_wrong_row_of_yolo_is_one_line_and_changes_nothing(
    row: str, message: str, ring_run: Path, tmp_path: Path
) -> None:
    folder = exported(ring_run, tmp_path / "out", "yolo")
    (folder / "labels/train/plain.txt").write_text(row)
    with pytest.raises(DataError, match=message) as error:
        verify_masks(folder, ring_run)
    assert "plain.txt" in str(error.value) and not (ring_run / "verified").exists()


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({"label": "lion", "points": [[0, 0], [9, 0], [9, 9]]}, "unknown label 'lion'; expected cat, dog, undecided"),
        ({"label": "cat", "points": [[0, 0], [9, 0]], "shape_type": "circle"}, "it is a 'circle'; expected a polygon"),
        ({"label": "cat", "points": [[0, 0], [9, 0]]}, "it has 2 corners"),
        ({"label": 3, "points": [[0, 0], [9, 0], [9, 9]]}, "its label is 3; expected text"),
        ({"points": []}, "lacks 'label'"),
        ({"label": "cat", "points": [[0, 0], [9, 9]], "shape_type": "mask", "mask": "??"}, "no PNG in base64"),
        ({"label": "cat", "points": [[0, 0], [9, 9]], "shape_type": "mask"}, "lacks 'mask'"),
    ],
)
def test_a_wrong_shape_of_labelme_is_one_line(
    shape: dict[str, Any], message: str, ring_run: Path, tmp_path: Path
) -> None:
    (tmp_path / "plain.json").write_text(json.dumps({"imagePath": "plain.jpg", "shapes": [shape]}))
    (tmp_path / "photos").rename(tmp_path / "elsewhere")
    (tmp_path / "in").mkdir()
    (tmp_path / "plain.json").rename(tmp_path / "in/plain.json")
    (tmp_path / "elsewhere").rename(tmp_path / "photos")
    with pytest.raises(DataError, match=message):
        verify_masks(tmp_path / "in", ring_run)


def test_other_mistakes_are_one_line(ring_run: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty: no data\.yaml, JSON or PNG in it"):
        verify_masks(tmp_path / "empty", ring_run)
    (tmp_path / "empty/data.yaml").write_text("names: 3\n")
    with pytest.raises(DataError, match=r"data\.yaml: no list of class names"):
        verify_masks(tmp_path / "empty", ring_run)
    (tmp_path / "empty/data.yaml").write_text("names: [cat]\n")
    with pytest.raises(DataError, match=r"no labels/…/NAME\.txt"):
        verify_masks(tmp_path / "empty", ring_run)
    (tmp_path / "other").mkdir()
    (tmp_path / "other/a.json").write_text("[1]")
    with pytest.raises(DataError, match="not LabelMe's JSON"):
        verify_masks(tmp_path / "other", ring_run)
    fiftyone = exported(ring_run, tmp_path / "fiftyone", "fiftyone")
    (fiftyone / "mask_targets.json").write_text('{"1": "cat"}')
    with pytest.raises(DataError, match=r"rings\.png: holds 2, which is of no class in mask_targets\.json"):
        verify_masks(fiftyone, ring_run)
    (fiftyone / "labels/plain.png").unlink()
    (fiftyone / "labels/plain.png").symlink_to("/etc/hostname")
    with pytest.raises(DataError, match="a link that leads out"):
        verify_masks(fiftyone, ring_run)


def test_a_folder_of_plain_masks_is_read(ring_run: Path, tmp_path: Path) -> None:
    changed(ring_run, "plain", np.ones((61, 83), np.uint8))
    made = verify_masks(ring_run / "3_pseudo_masks/masks", ring_run)
    assert (made.verified, made.unchanged) == (0, 2)
    Image.fromarray(np.full((61, 83), 2, np.uint8)).save(tmp_path / "plain.png")
    (tmp_path / "grey").mkdir()
    (tmp_path / "plain.png").rename(tmp_path / "grey/plain.png")
    assert verify_masks(tmp_path / "grey", ring_run).relabelled == {"plain": ("dog",)}


def test_the_commands(call: Callable[..., int], ring_run: Path, tmp_path: Path, capsys: Any) -> None:
    for tool in FOLDERS:
        words = ("--format", tool, "--min-area", "10", "--out", tmp_path / tool)
        assert call("export", "masks", ring_run, *words) == 0
        assert call("import", tmp_path / tool, "--run", ring_run) == 0
    assert "2 masks of the file are as" in capsys.readouterr().out
