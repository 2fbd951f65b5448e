"""Pseudo masks go to an annotation tool and come back as seeds."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

from weakclip.annotations import Shapes
from weakclip.datasets.images import read_mask, resize_mask, write_mask
from weakclip.errors import DataError, RunError
from weakclip.pipeline.context import open_run
from weakclip.seeds import ImportedMasks
from weakclip.store.marks import MARKS, Mark, MarkFile
from weakclip.tools.annotate import TOOLS, ImportResult, export_masks, import_masks

NAMES = ("more/one", "one", "two")


def mask_of(run: Path, name: str) -> np.ndarray:
    return read_mask(run / "3_pseudo_masks/masks" / f"{name}.png")


@pytest.mark.parametrize(
    ("tool", "shapes"),
    [
        (tool, shapes)
        for tool in TOOLS
        for shapes in (Shapes(), Shapes(kind="polygons", tolerance=0))
        if (tool, shapes.kind) != ("fiftyone", "polygons")
    ],
    ids=str,
)
def test_out_and_in_again_are_the_same_masks(tool: str, shapes: Shapes, folder_run: Path, tmp_path: Path) -> None:
    file = tmp_path / f"masks{TOOLS[tool]}"
    assert export_masks(folder_run, file, tool, shapes) == 3
    assert import_masks(file, folder_run, tmp_path / "back") == ImportResult(drawn=3, kept=0, foreign=())
    dataset = open_run(folder_run).train
    seeds = ImportedMasks(tmp_path / "back", dataset.class_set)
    for sample in dataset:
        expected = mask_of(folder_run, sample.name)
        assert np.array_equal(read_mask(tmp_path / "back" / f"{sample.name}.png"), expected)
        named = np.isin(expected, [0, *sample.labels])
        assert np.array_equal(seeds.masks(sample).seed, np.where(named, expected, 255))


def test_images_are_named_by_their_files(folder_run: Path, tmp_path: Path) -> None:
    export_masks(folder_run, tmp_path / "a.json", "coco", Shapes())
    files = [image["file_name"] for image in json.loads((tmp_path / "a.json").read_text())["images"]]
    assert files == ["more/one.JPG", "one.jpg", "two.png"]


def test_what_was_not_corrected_stays_as_it_was(folder_run: Path, tmp_path: Path) -> None:
    """One image corrected, one of somebody else's, and the folder is whole."""
    export_masks(folder_run, tmp_path / "a.json", "label-studio", Shapes())
    tasks = json.loads((tmp_path / "a.json").read_text())
    tasks[1]["annotations"] = [{"result": []}]
    tasks[2]["data"] = {"image": "s3://bucket/of/others/three.png"}
    tasks[1]["data"] = {"image": "s3://bucket/images/one.jpg"}
    (tmp_path / "b.json").write_text(json.dumps(tasks[1:]))
    result = import_masks(tmp_path / "b.json", folder_run, tmp_path / "back")
    assert result == ImportResult(drawn=1, kept=2, foreign=("s3://bucket/of/others/three.png",))
    assert not read_mask(tmp_path / "back/one.png").any()
    for name in ("more/one", "two"):
        assert np.array_equal(read_mask(tmp_path / "back" / f"{name}.png"), mask_of(folder_run, name))


def test_an_import_may_be_repeated_but_takes_no_folder_of_others(folder_run: Path, tmp_path: Path) -> None:
    export_masks(folder_run, tmp_path / "a.xml", "cvat", Shapes())
    for _ in range(2):
        import_masks(tmp_path / "a.xml", folder_run, tmp_path / "back")
    with pytest.raises(RunError, match="is not empty and no folder of imported masks"):
        import_masks(tmp_path / "a.xml", folder_run, folder_run / "3_pseudo_masks/masks")


@pytest.mark.parametrize("tool", [tool for tool, ending in TOOLS.items() if ending])
def test_a_byte_order_mark_changes_nothing(tool: str, folder_run: Path, tmp_path: Path) -> None:
    """Editors on Windows put one there."""
    file = tmp_path / f"a{TOOLS[tool]}"
    export_masks(folder_run, file, tool, Shapes())
    file.write_text("\ufeff" + file.read_text(encoding="utf-8"), encoding="utf-8")
    assert import_masks(file, folder_run, tmp_path / "back").drawn == 3


def test_a_source_that_is_none_leaves_the_folder_as_it_was(folder_run: Path, tmp_path: Path) -> None:
    (tmp_path / "photo.json").write_bytes(b"\xff\xd8\xff")
    messages = {"none.json": r"none\.json: cannot be read \(No such file", "photo.json": "neither JSON nor XML"}
    for name, message in messages.items():
        with pytest.raises(DataError, match=message):
            import_masks(tmp_path / name, folder_run, tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_mistakes_are_one_line(folder_run: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"a\.xml: ends in \.xml; expected \.json for coco"):
        export_masks(folder_run, tmp_path / "a.xml", "coco", Shapes())
    with pytest.raises(RunError, match="not a run folder"):
        export_masks(tmp_path, tmp_path / "a.json", "coco", Shapes())
    export_masks(folder_run, tmp_path / "a.json", "coco", Shapes())
    text = (tmp_path / "a.json").read_text()
    (tmp_path / "b.json").write_text(text.replace("one.", "other.").replace("two.", "other2."))
    with pytest.raises(DataError, match="none of its 3 images is of"):
        import_masks(tmp_path / "b.json", folder_run, tmp_path / "b")
    (tmp_path / "c.json").write_text(text.replace("two.png", "one.png"))
    with pytest.raises(DataError, match="image one is annotated twice"):
        import_masks(tmp_path / "c.json", folder_run, tmp_path / "c")
    (tmp_path / "d.txt").write_text("hello")
    with pytest.raises(DataError, match="neither JSON nor XML"):
        import_masks(tmp_path / "d.txt", folder_run, tmp_path / "d")
    (folder_run / "3_pseudo_masks/masks/one.png").unlink()
    with pytest.raises(RunError, match=r"one\.png: no such mask; run `weakclip pseudo-masks`"):
        export_masks(folder_run, tmp_path / "e.json", "coco", Shapes())
    assert not (tmp_path / "e.json").exists()


def test_the_commands(call: Callable[..., int], folder_run: Path, tmp_path: Path, capsys) -> None:
    file = tmp_path / "tasks.json"
    words = ("--format", "label-studio", "--shapes", "polygons", "--tolerance", "0.5", "--image-prefix", "s3://b/")
    assert call("export", "masks", folder_run, *words, "--out", file) == 0
    assert json.loads(file.read_text())[0]["data"]["image"] == "s3://b/more/one.JPG"
    assert call("import", file, "--run", folder_run, "--out", tmp_path / "back") == 0
    shown = capsys.readouterr().out
    config, seeds = (
        folder_run / "config.yaml",
        f"--set seeds.method=imported_masks --set seeds.folder={tmp_path / 'back'}",
    )
    assert "3 masks of" in shown and f"next: weakclip run {config} {seeds} --out runs/back\n" in shown
    (folder_run / "marks.jsonl").touch()
    assert call("import", file, "--run", folder_run, "--out", tmp_path / "back") == 0
    assert f" --set data.marks={folder_run / 'marks.jsonl'} --out" in capsys.readouterr().out
    assert call("import", tmp_path / "none.json", "--run", folder_run, "--out", tmp_path / "back") == 2


@pytest.mark.parametrize("tool", TOOLS)
def test_masks_of_reduced_photos_fit_the_photos(tool: str, folder_run: Path, tmp_path: Path) -> None:
    """A run that worked on smaller images: the tool gets masks of the photo's size, the next run its own size."""
    settings = yaml.safe_load((folder_run / "config.yaml").read_text())
    settings["data"]["longest_side"] = 12
    (folder_run / "config.yaml").write_text(yaml.safe_dump(settings))
    dataset = open_run(folder_run).train
    for index, name in enumerate(dataset.names):
        assert dataset.size(index) != dataset.stored_size(index)
        mask = resize_mask(mask_of(folder_run, name), dataset.size(index))
        write_mask(folder_run / "3_pseudo_masks/masks" / f"{name}.png", mask, dataset.class_set.palette)
    file = tmp_path / f"masks{TOOLS[tool]}"
    export_masks(folder_run, file, tool, Shapes())
    if tool == "coco":
        sizes = [(image["height"], image["width"]) for image in json.loads(file.read_text())["images"]]
        assert sizes == [dataset.stored_size(index) for index in range(len(dataset))]
    import_masks(file, folder_run, tmp_path / "back")
    for index, name in enumerate(dataset.names):
        back, mask = read_mask(tmp_path / "back" / f"{name}.png"), mask_of(folder_run, name)
        assert back.shape == dataset.size(index)
        assert (back == mask).mean() > 0.95  # enlarged and reduced by nearest neighbours


def test_a_relabelled_run_still_names_its_files(folder_run: Path, tmp_path: Path) -> None:
    MarkFile(folder_run / MARKS).add(Mark(image="two", mark="relabel", labels=("dog",)))
    assert open_run(folder_run).review.labels
    export_masks(folder_run, tmp_path / "a.json", "coco", Shapes())
    files = [image["file_name"] for image in json.loads((tmp_path / "a.json").read_text())["images"]]
    assert files == ["more/one.JPG", "one.jpg", "two.png"]
