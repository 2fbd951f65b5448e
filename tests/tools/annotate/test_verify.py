"""Corrected masks come back as verified masks of their run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from weakclip.annotations import Shapes
from weakclip.datasets.images import read_mask, write_mask
from weakclip.errors import DataError
from weakclip.pipeline.context import open_run
from weakclip.tools.annotate import TOOLS, export_masks, verify_masks
from weakclip.tools.annotate.exported import EXPORTED

Call = Callable[..., int]


def correct(run: Path, out: Path, tool: str, name: str, value: int) -> Path:
    """An exported file in which a person has made one image wholly of one class; the run is as after the export."""
    path, file = run / "3_pseudo_masks/masks" / f"{name}.png", out / f"masks{TOOLS[tool]}"
    before, palette = read_mask(path), open_run(run).train.class_set.palette
    export_masks(run, file, tool, Shapes())
    noted = (run / EXPORTED).read_bytes()
    write_mask(path, np.full_like(before, value), palette)
    export_masks(run, file, tool, Shapes())
    write_mask(path, before, palette)
    (run / EXPORTED).write_bytes(noted)
    return file


@pytest.mark.parametrize("tool", ["coco", "cvat"])
def test_what_a_person_changed_is_verified(tool: str, folder_run: Path, tmp_path: Path) -> None:
    dataset = open_run(folder_run).train
    before = dataset.labels(dataset.index_of("one"))
    new = next(index for index in range(1, dataset.class_set.num_classes) if index not in before)
    made = verify_masks(correct(folder_run, tmp_path, tool, "one", new), folder_run)
    assert (made.verified, made.unchanged, made.foreign) == (1, 2, ())
    assert made.relabelled == {"one": (dataset.class_set.names[new],)}
    assert (read_mask(folder_run / "verified/one.png") == new).all()
    assert [path.name for path in (folder_run / "verified").rglob("*.png")] == ["one.png"]
    after = open_run(folder_run).train
    assert after.labels(after.index_of("one")) == (new,)
    own = read_mask(folder_run / "3_pseudo_masks/masks/one.png")
    assert made.agreement is not None and made.agreement.images == 1
    assert made.agreement.mean_iou == pytest.approx((own == new).mean() / len(np.unique([*np.unique(own), new])))
    low, high = made.agreement.interval
    assert low == high == pytest.approx(made.agreement.mean_iou)


def test_of_label_studio_what_was_submitted_counts_and_no_prediction(folder_run: Path, tmp_path: Path) -> None:
    export_masks(folder_run, tmp_path / "a.json", "label-studio", Shapes())
    tasks = json.loads((tmp_path / "a.json").read_text())
    tasks[0]["annotations"] = [tasks[0]["predictions"][0]]  # approved as it was
    tasks[1]["annotations"] = [{"was_cancelled": True, "result": []}]
    (tmp_path / "a.json").write_text(json.dumps(tasks))
    made = verify_masks(tmp_path / "a.json", folder_run)
    assert (made.verified, made.unchanged) == (1, 2)
    name = open_run(folder_run).train.names[0]
    assert [
        path.relative_to(folder_run / "verified").as_posix() for path in (folder_run / "verified").rglob("*.png")
    ] == [f"{name}.png"]
    assert made.agreement is not None and made.agreement.mean_iou == 1.0


def test_a_second_import_replaces_and_keeps(folder_run: Path, tmp_path: Path) -> None:
    first = verify_masks(correct(folder_run, tmp_path, "coco", "one", 1), folder_run)
    again = verify_masks(correct(folder_run, tmp_path, "coco", "one", 0), folder_run)
    other = verify_masks(correct(folder_run, tmp_path, "cvat", "two", 1), folder_run)
    assert first.verified == again.verified == other.verified == 1
    assert (first.replaced, again.replaced, other.replaced) == ((), ("one",), ())
    assert again.agreement is None  # the network has seen this image's mask
    assert not read_mask(folder_run / "verified/one.png").any() and read_mask(folder_run / "verified/two.png").all()


@pytest.mark.parametrize("tool", ["coco", "cvat"])
def test_masks_of_an_earlier_run_are_not_verified_and_replace_none(tool: str, folder_run: Path, tmp_path: Path) -> None:
    file = correct(folder_run, tmp_path, tool, "one", 1)
    export_masks(folder_run, tmp_path / f"old{TOOLS[tool]}", tool, Shapes())
    verify_masks(file, folder_run)
    dataset = open_run(folder_run).train
    for name in dataset.names:  # the run is made anew: the verified mask is its own, the others are others
        own = folder_run / "3_pseudo_masks/masks" / f"{name}.png"
        write_mask(own, np.ones_like(read_mask(own)), dataset.class_set.palette)
    made = verify_masks(tmp_path / f"old{TOOLS[tool]}", folder_run)
    assert (made.verified, made.unchanged) == (0, 3)
    assert (read_mask(folder_run / "verified/one.png") == 1).all()
    assert [path.name for path in (folder_run / "verified").rglob("*.png")] == ["one.png"]


def test_images_that_nobody_drew_in_keep_masks_and_labels(folder_run: Path, tmp_path: Path) -> None:
    dataset = open_run(folder_run).train
    images = [
        {"id": number, "file_name": f"{name}.jpg", "height": size[0], "width": size[1]}
        for number, (name, size) in enumerate(zip(dataset.names, map(dataset.size, range(3)), strict=True))
    ]
    drawn = {"id": 1, "image_id": 0, "category_id": 1, "segmentation": [[0, 0, 9, 0, 9, 9]], "iscrowd": 0}
    categories = [{"id": 1, "name": dataset.class_set.names[1]}]
    content = {"images": images, "annotations": [drawn], "categories": categories}
    (tmp_path / "other.json").write_text(json.dumps(content))
    made = verify_masks(tmp_path / "other.json", folder_run)
    assert (made.verified, made.unchanged, made.empty) == (1, 0, dataset.names[1:])
    assert [open_run(folder_run).train.labels(index) for index in (1, 2)] == [dataset.labels(1), dataset.labels(2)]
    made = verify_masks(correct(folder_run, tmp_path, "coco", dataset.names[1], 0), folder_run)
    assert (made.verified, made.empty) == (1, ())  # a person took away what the run had drawn


def test_nothing_agrees_with_what_is_undecided_everywhere(folder_run: Path, tmp_path: Path) -> None:
    made = verify_masks(correct(folder_run, tmp_path, "coco", "one", 255), folder_run)
    assert (made.verified, made.agreement) == (1, None)


def test_a_wrong_file_changes_nothing(folder_run: Path, tmp_path: Path) -> None:
    file = correct(folder_run, tmp_path, "coco", "one", 1)
    text = json.loads(file.read_text())
    text["images"][-1]["width"] += 1
    (tmp_path / "wrong.json").write_text(json.dumps(text))
    with pytest.raises(DataError, match="is annotated at"):
        verify_masks(tmp_path / "wrong.json", folder_run)
    assert not (folder_run / "verified").exists() and not list(folder_run.glob(".verified*"))


def test_the_command(call: Call, folder_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = correct(folder_run, tmp_path, "coco", "one", 2)
    assert call("import", file, "--run", folder_run) == 0
    shown = capsys.readouterr().out
    assert "1 masks of" in shown and "2 masks of the file are as" in shown
    assert f"next: weakclip run {folder_run / 'config.yaml'} --out {folder_run} --redo\n" in shown
    assert call("import", file, "--run", folder_run, "--json") == 0
    assert json.loads(capsys.readouterr().out)["verified"] == 1
