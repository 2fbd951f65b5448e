"""The pipeline on data sets other than Scenes: a folder without any pixel label, and real photos of PASCAL VOC."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from weakclip.config import ClipSettings, FolderData, load_config, parse_config
from weakclip.datasets.images import read_mask, write_mask, write_png
from weakclip.datasets.scenes import ScenesDataset
from weakclip.errors import ConfigError, DataError, WeightsError
from weakclip.pipeline import run_pipeline
from weakclip.pipeline.context import RunContext
from weakclip.pipeline.data import (
    dataset_fingerprint,
    files_fingerprint,
    mask_fingerprint,
    open_split,
    source_fingerprint,
)
from weakclip.report import read_images
from weakclip.report.chosen import TITLES

Builder = Callable[..., dict[str, Any]]


@pytest.fixture
def tagged_folder(tmp_path: Path) -> Path:
    """Three drawn images with labels in a CSV file, and no masks."""
    root, dataset = tmp_path / "mine", ScenesDataset("train", size=64, count=3)
    rows = []
    for index, name in enumerate(dataset.names):
        write_png(root / f"images/{name}.png", dataset.image(index))
        rows.append([f"{name}.png", " ".join(dataset.class_set.names[label] for label in dataset.labels(index))])
    with (root / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["image", "labels"], *rows])
    return root


def test_run_without_any_pixel_label(tagged_folder: Path, tiny_settings: Builder, tmp_path: Path) -> None:
    """The whole job works, nothing is scored, and the report says so."""
    settings = tiny_settings(dataset="folder", root=str(tagged_folder), val_split=None)
    result = run_pipeline(parse_config(settings, origin="test"), tmp_path / "run")
    assert result.scores == ()
    assert len(list((tmp_path / "run/3_pseudo_masks/masks").glob("*.png"))) == 3
    page = result.report.read_text()
    assert "Nothing has been scored" in page and "No pixel label was read" in page
    assert "Network disagrees" in page
    assert "True IoU" not in page and "Lowest true score" not in page
    run = read_images(tmp_path / "run")
    assert [strips.captions for strips in run.strips][1] == ("prediction",)
    assert all(image.mask_prediction and not image.mask_truth for image in run.images)


def test_upper_bound_without_masks_is_one_clear_line(
    tagged_folder: Path, tiny_settings: Builder, tmp_path: Path
) -> None:
    settings = tiny_settings(dataset="folder", root=str(tagged_folder), val_split=None)
    with pytest.raises(DataError, match="has no true masks"):
        run_pipeline(parse_config(settings, origin="test"), tmp_path / "run", full=True)
    assert not (tmp_path / "run").exists()


def test_voc12_runs_on_real_photos(tiny_settings: Builder, clip_folder: Path, tmp_path: Path) -> None:
    """JPEGs, palette masks and the shipped configuration. The numbers of four images mean nothing."""
    shared = Path(os.environ.get("WEAKCLIP_FIXTURES", Path(__file__).parents[3] / "shared/fixtures"))
    root = shared.parent / "voc12_dev"
    if not root.is_dir():
        pytest.skip(f"no VOC photos at {root}")
    tiny = tiny_settings()
    small = {f"model.{name}": value for name, value in tiny["model"].items()}
    small |= {f"{stage}.train.{name}": value for stage in ("retrain",) for name, value in tiny["train"].items()}
    small |= {f"train.{name}": value for name, value in tiny["train"].items()}
    small |= {"data.root": root, "data.train_limit": 2, "data.val_limit": 2, "clip.source": clip_folder}
    small |= {"augment.crop_size": 64, "retrain.augment.crop_size": 64, "retrain.model": "small", "device": "cpu"}
    small |= {
        "train.workers": 0,
        "retrain.train.workers": 0,
        "seeds.gradcam.scale": 0.25,
        "seeds.masks.crf": "null",
        "evaluate.pictures": 1,
    }
    for stage in ("pseudo_masks", "evaluate"):
        small |= {f"{stage}.inference.{name}": value for name, value in tiny["evaluate"]["inference"].items()}
    config = load_config("voc12", [f"{name}={value}" for name, value in small.items()])
    result = run_pipeline(config, tmp_path / "run")
    assert {score.subject for score in result.scores} == {"seeds", "pseudo masks", *TITLES.values()}
    assert all(score.images == 2 for score in result.scores)
    for path in (tmp_path / "run/3_pseudo_masks/masks").glob("*.png"):
        assert read_mask(path).max() <= 20


@pytest.mark.parametrize(
    ("override", "error", "message"),
    [
        ("clip.source=./no/such/clip", WeightsError, "no/such/clip"),
        ("clip.source=demo.pt", WeightsError, "demo.pt"),
        ("data.train_split=tarin", DataError, "tarin"),
        ("device=flux", ConfigError, "device: 'flux' cannot be used"),
    ],
)
def test_what_is_missing_is_one_clear_line(
    config_file: Path, tmp_path: Path, override: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message) as caught:
        run_pipeline(load_config(config_file, [override]), tmp_path / "run")
    assert "\n" not in str(caught.value)


def open_folder(root: Path, limit: int | None = None) -> FolderData:
    return FolderData(root=str(root), val_split=None, train_limit=limit)


def test_limited_data_set_is_its_beginning(tagged_folder: Path) -> None:
    whole = open_split(open_folder(tagged_folder), "train", None)
    first = open_split(open_folder(tagged_folder), "train", 2)
    assert list(first.names) == list(whole.names[:2])
    assert np.array_equal(first.image(1), whole.image(1))
    assert (first.labels(1), first.size(1), first.mask(1)) == (whole.labels(1), whole.size(1), None)
    assert len(open_split(open_folder(tagged_folder), "train", 99)) == 3


def test_fingerprint_follows_images_labels_and_limit(tagged_folder: Path) -> None:
    def fingerprint(limit: int | None = None) -> str:
        return dataset_fingerprint(open_split(open_folder(tagged_folder), "train", limit))

    seen = [fingerprint(), fingerprint(2)]
    assert fingerprint() == seen[0]
    os.utime(next((tagged_folder / "images").iterdir()), (1, 1))
    seen.append(fingerprint())
    lines = (tagged_folder / "labels.csv").read_text().splitlines()
    (tagged_folder / "labels.csv").write_text("\n".join([lines[0], lines[1] + " dragon", *lines[2:]]))
    seen.append(fingerprint())
    assert len(set(seen)) == len(seen)


def test_fingerprint_follows_what_changes_images_and_labels_and_nothing_else(
    tagged_folder: Path, tmp_path: Path
) -> None:
    """A smaller size and another class file make stages anew; a synonym that no label uses does not."""
    (tmp_path / "labels.csv").write_text((tagged_folder / "labels.csv").read_text().replace(" ", ";"))
    names = sorted(ScenesDataset("train", count=1).class_set.names[1:])

    def fingerprint(text: str, longest_side: int | None = None) -> str:
        (tmp_path / "mine.yaml").write_text(text)
        files = {"class_file": str(tmp_path / "mine.yaml"), "label_file": str(tmp_path / "labels.csv")}
        settings = FolderData(root=str(tagged_folder), longest_side=longest_side, **files)
        return dataset_fingerprint(open_split(settings, "train", None))

    plain = fingerprint(f"names: {names}")
    assert fingerprint(f"names: {names}\nsynonyms: {{{names[0]}: [other]}}") == plain
    assert fingerprint(f"names: {names}", longest_side=32) != plain
    assert fingerprint(f"names: {names[::-1]}") != plain


def test_masks_have_a_fingerprint_of_their_own(tagged_folder: Path) -> None:
    """Pixel labels that come or go change no stage but the scoring."""

    def fingerprints() -> tuple[str, str]:
        dataset = open_split(open_folder(tagged_folder), "train", None)
        return dataset_fingerprint(dataset), mask_fingerprint(dataset)

    before, dataset = fingerprints(), ScenesDataset("train", size=64, count=3)
    write_mask(tagged_folder / f"masks/{dataset.names[0]}.png", np.zeros((64, 64), np.uint8), dataset.class_set.palette)
    after = fingerprints()
    assert before[0] == after[0]
    assert before[1] != after[1]


def test_fingerprint_of_weights_follows_their_content(tmp_path: Path) -> None:
    weights = tmp_path / "clip/model.safetensors"
    weights.parent.mkdir()
    weights.write_bytes(b"one")
    first = source_fingerprint(str(weights.parent), tmp_path)
    os.utime(weights, (1, 1))
    assert source_fingerprint(str(weights.parent), tmp_path) == first
    weights.write_bytes(b"two")
    assert source_fingerprint(str(weights.parent), tmp_path) != first
    assert source_fingerprint(ClipSettings().source, tmp_path) != source_fingerprint(None, tmp_path)


def test_fingerprint_of_imported_seeds_reads_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names, sizes and times say what there is, as of images: the maps of a large data set are many gigabytes."""
    maps = tmp_path / "cams/one.npy"
    maps.parent.mkdir()
    maps.write_bytes(b"one")
    os.utime(maps, (1, 1))
    for name in ("open", "read_bytes"):
        monkeypatch.setattr(Path, name, lambda path, *_, **__: pytest.fail(f"{path} is read"))
    first = files_fingerprint(str(maps.parent))
    os.utime(maps, (2, 2))
    assert files_fingerprint(str(maps.parent)) != first
    os.utime(maps, (1, 1))
    assert files_fingerprint(str(maps.parent)) == first
    maps.rename(maps.with_name("two.npy"))
    assert files_fingerprint(str(maps.parent)) != first
    assert files_fingerprint(None) == source_fingerprint(None, tmp_path)
    with pytest.raises(WeightsError, match="no such file or folder; bring it back"):
        files_fingerprint(str(tmp_path / "gone"))


def test_changed_time_of_imported_seeds_changes_the_key_of_the_seeds(tiny_settings: Builder, tmp_path: Path) -> None:
    folder = tmp_path / "cams"
    folder.mkdir()
    (folder / "one.npy").write_bytes(b"one")
    config = parse_config(
        {**tiny_settings(), "seeds": {"method": "imported_cams", "folder": str(folder)}}, origin="test"
    )
    before = RunContext(config, tmp_path / "out").fingerprint("imported seeds")
    os.utime(folder / "one.npy", (1, 1))
    assert RunContext(config, tmp_path / "out").fingerprint("imported seeds") != before


@pytest.mark.parametrize("model", ["small", "deeplab_resnet38"])
def test_a_folder_called_like_a_network_changes_no_key(
    model: str, tiny_settings: Builder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = parse_config({**tiny_settings(), "retrain": {"model": model}}, origin="test")
    before = RunContext(config, tmp_path / "out").fingerprint("student weights")
    (tmp_path / model).mkdir()
    (tmp_path / model / "config.json").write_text("{}")
    assert RunContext(config, tmp_path / "out").fingerprint("student weights") == before
