"""The export is what `datasets` reads: images as they are, masks, labels, class names; a stopped export goes on."""

from __future__ import annotations

import json
import shutil
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from weakclip.config import dump_config, parse_config
from weakclip.datasets import ScenesDataset, ShardDataset
from weakclip.datasets.classes import VOC12
from weakclip.datasets.images import read_mask, write_mask
from weakclip.errors import ConfigError, DataError, RunError
from weakclip.store.keys import ResultKey
from weakclip.store.manifest import Manifest
from weakclip.tools.export import hf_dataset
from weakclip.tools.export.hf_dataset import ExportedDataset, export_hf_dataset

datasets = pytest.importorskip("datasets", reason="the extra datasets is not installed")
Builder = Callable[..., dict[str, Any]]


def make_run(folder: Path, settings: dict[str, Any], masks: dict[str, np.ndarray], key: str = "one") -> Path:
    """A run folder that has pseudo masks and nothing else."""
    manifest = Manifest.open(folder)
    stage = manifest.start("pseudo_masks", ResultKey(settings={"key": key}))
    for name, mask in masks.items():
        write_mask(stage / "masks" / f"{name}.png", mask, VOC12.palette)
    manifest.finish("pseudo_masks", 1.0)
    (folder / "config.yaml").write_text(dump_config(parse_config(settings, origin="test")))
    return folder


@pytest.fixture
def voc_run(voc_root: Path, tiny_settings: Builder, tmp_path: Path) -> Path:
    """A run on three photos of VOC, whose masks hold the photo's number."""
    masks = {f"2007_{n:06d}": np.full((8 + n, 12), n, np.uint8) for n in (1, 2, 3)}
    return make_run(tmp_path / "run", tiny_settings(dataset="voc12", root=str(voc_root)), masks)


def load(folder: Path, split: str, tmp_path: Path) -> Any:
    return datasets.load_dataset(str(folder), split=split, cache_dir=str(tmp_path / "cache"))


def test_datasets_reads_images_masks_labels_and_names(voc_run: Path, voc_root: Path, tmp_path: Path) -> None:
    out = tmp_path / "export"
    assert export_hf_dataset(voc_run, out) == ExportedDataset(out, "train", 3, 1)
    loaded = load(out, "train", tmp_path)
    assert loaded.column_names == ["image", "mask", "labels", "name"]
    assert loaded.features["labels"].feature.names == list(VOC12.names)
    for number, row in enumerate(loaded, 1):
        assert row["name"] == f"2007_{number:06d}"
        assert row["labels"] == [number]
        assert np.array_equal(row["mask"], np.full((8 + number, 12), number))
        with Image.open(voc_root / "JPEGImages" / f"{row['name']}.jpg") as photo:
            assert np.array_equal(row["image"], photo)
    stored = loaded.cast_column("image", datasets.Image(decode=False))[0]["image"]
    assert stored["bytes"] == (voc_root / "JPEGImages/2007_000001.jpg").read_bytes()


def test_tars_hold_what_parquet_holds_and_are_read_as_shards(
    voc_run: Path, voc_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hf_dataset, "SHARD_IMAGES", 2)
    out = tmp_path / "export"
    assert export_hf_dataset(voc_run, out, form="webdataset").shards == 2
    read = ShardDataset(out, "train")
    assert read.class_set.names == VOC12.names and len(read) == 3
    assert read.names[2] == "data/train-00001-of-00002/00000002"
    for number in (1, 2, 3):
        assert read.labels(number - 1) == (number,)
        photo = voc_root / f"JPEGImages/2007_{number:06d}.jpg"
        assert read.image_path(number - 1).read_bytes() == photo.read_bytes()
    with tarfile.open(out / "data/train-00000-of-00002.tar") as tar:
        names = [f"0000000{number}{ending}" for number in (0, 1) for ending in (".jpg", ".mask.png", ".json")]
        assert tar.getnames() == names
        assert np.array_equal(Image.open(tar.extractfile(names[1])), np.full((9, 12), 1))
        assert json.load(tar.extractfile(names[2]))["name"] == "2007_000001"
    first = (out / "data/train-00000-of-00002.tar").read_bytes()
    shutil.rmtree(out)
    export_hf_dataset(voc_run, out, form="webdataset")
    assert (out / "data/train-00000-of-00002.tar").read_bytes() == first
    export_hf_dataset(voc_run, out)
    assert not list(out.rglob("*.tar"))


def test_images_that_are_drawn_and_limits(tiny_settings: Builder, tmp_path: Path) -> None:
    scenes = ScenesDataset("train", size=64, count=6)
    run = make_run(tmp_path / "run", tiny_settings(), {name: scenes.mask(i) for i, name in enumerate(scenes.names)})
    out = tmp_path / "export"
    export_hf_dataset(run, out)
    rows = list(datasets.load_dataset(str(out), split="train", streaming=True))
    assert len(rows) == 6
    for index, row in enumerate(rows):
        assert np.array_equal(row["image"], scenes.image(index))
        assert np.array_equal(row["mask"], scenes.mask(index))
        assert tuple(row["labels"]) == scenes.labels(index)


def test_the_rows_do_not_depend_on_the_shards_and_a_stopped_export_goes_on(
    voc_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export_hf_dataset(voc_run, tmp_path / "one")
    monkeypatch.setattr(hf_dataset, "SHARD_IMAGES", 2)
    monkeypatch.setattr(hf_dataset, "GROUP_IMAGES", 1)
    two = tmp_path / "two"
    photo = voc_run / "3_pseudo_masks/masks/2007_000003.png"
    mask = read_mask(photo)
    photo.unlink()
    with pytest.raises(DataError, match=r"2007_000003\.png: cannot be read"):
        export_hf_dataset(voc_run, two)
    (first,) = (two / "data").iterdir()
    before = first.stat().st_mtime_ns
    write_mask(photo, mask, VOC12.palette)
    assert export_hf_dataset(voc_run, two).shards == 2
    assert first.stat().st_mtime_ns == before
    names = ["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"]
    assert sorted(path.name for path in (two / "data").iterdir()) == names
    one, other = (load(tmp_path / name, "train", tmp_path).to_list() for name in ("one", "two"))
    assert [row["name"] for row in one] == [row["name"] for row in other]
    assert [row["labels"] for row in one] == [row["labels"] for row in other]


def test_other_masks_are_exported_anew(voc_run: Path, voc_root: Path, tiny_settings: Builder, tmp_path: Path) -> None:
    out = tmp_path / "export"
    export_hf_dataset(voc_run, out)
    (shard,) = (out / "data").iterdir()
    before = shard.stat().st_mtime_ns
    export_hf_dataset(voc_run, out)
    assert shard.stat().st_mtime_ns == before
    masks = {f"2007_{n:06d}": np.zeros((8 + n, 12), np.uint8) for n in (1, 2, 3)}
    make_run(voc_run, tiny_settings(dataset="voc12", root=str(voc_root)), masks, key="two")
    export_hf_dataset(voc_run, out)
    assert not np.array(load(out, "train", tmp_path)[0]["mask"]).any()


def test_what_the_user_can_mend_is_said(voc_run: Path, voc_root: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("precious")
    with pytest.raises(RunError, match="no export of weakclip"):
        export_hf_dataset(voc_run, tmp_path / "mine")
    with pytest.raises(RunError, match="not a run folder"):
        export_hf_dataset(tmp_path, tmp_path / "out")
    moved = voc_root.rename(tmp_path / "moved")
    assert export_hf_dataset(voc_run, tmp_path / "out", root=str(moved)).images == 3
    record = json.loads((voc_run / "manifest.json").read_text())
    record["stages"]["pseudo_masks"]["done"] = False
    (voc_run / "manifest.json").write_text(json.dumps(record))
    with pytest.raises(RunError, match="its pseudo masks are not made"):
        export_hf_dataset(voc_run, tmp_path / "other")


def test_without_the_extra_one_line_says_what_to_install(
    voc_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ConfigError, match=r"pip install weakclip\[datasets\]"):
        export_hf_dataset(voc_run, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_command_exports_and_answers(
    voc_run: Path, tmp_path: Path, call: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("export", "dataset", voc_run, "--out", tmp_path / "out") == 0
    assert "3 images of train, 1 files" in capsys.readouterr().out
    assert call("export", "dataset", voc_run, "--out", tmp_path / "out", "--json") == 0
    value = json.loads(capsys.readouterr().out)
    assert value == {"folder": str(tmp_path / "out"), "split": "train", "images": 3, "shards": 1}


def test_masks_of_reduced_photos_fit_the_photos(voc_root: Path, tiny_settings: Builder, tmp_path: Path) -> None:
    """A run that worked on smaller images: image and mask of a row are of one size."""
    root = tmp_path / "photos"
    (root / "images").mkdir(parents=True)
    Image.new("RGB", (20, 12)).save(root / "images" / "a.png")
    (root / "labels.csv").write_text("image,labels\na.png,cat\n")
    settings = tiny_settings(dataset="folder", root=str(root), longest_side=10)
    mask = np.arange(60, dtype=np.uint8).reshape(6, 10) % 2
    out = tmp_path / "export"
    export_hf_dataset(make_run(tmp_path / "run", settings, {"a": mask}), out)
    (row,) = load(out, "train", tmp_path)
    assert row["image"].size == row["mask"].size == (20, 12)
    assert np.array_equal(row["mask"], np.repeat(np.repeat(mask, 2, axis=0), 2, axis=1))
