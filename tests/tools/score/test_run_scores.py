"""Seeds and masks of a run are scored on another split, with and without labels; stale results are not."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from weakclip.config import load_config
from weakclip.datasets.classes import VOC12
from weakclip.datasets.images import read_mask, write_mask
from weakclip.errors import ConfigError, DataError, RunError
from weakclip.inference.evaluation import score_masks
from weakclip.pipeline import proposal_files, run_stage
from weakclip.pipeline.context import open_run
from weakclip.tools.score.run_scores import score_run

NAMES = [f"2007_00000{number}" for number in range(1, 7)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("score")


@pytest.fixture
def root(folder: Path) -> Path:
    """VOC with six images: all in train_aug, two in train, one of val; every class pair shown half and half."""
    root = folder / "VOC2012"
    if root.is_dir():
        return root
    rng = np.random.default_rng(0)
    lists = {"train_aug": NAMES[:5], "train": NAMES[:2], "val": NAMES[5:]}
    for split, names in lists.items():
        (root / "ImageSets/Segmentation").mkdir(parents=True, exist_ok=True)
        (root / f"ImageSets/Segmentation/{split}.txt").write_text("\n".join(names) + "\n")
    lines = ["image,labels"]
    for number, name in enumerate(NAMES):
        image = rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)
        mask = np.zeros((24, 32), dtype=np.uint8)
        mask[:, 16:] = number + 1
        write_jpeg(root / f"JPEGImages/{name}.jpg", image)
        write_mask(root / f"SegmentationClass/{name}.png", mask, VOC12.palette)
        lines.append(f"{name},{VOC12.names[number + 1]}")
    (root / "image_labels.csv").write_text("\n".join(lines) + "\n")
    return root


def write_jpeg(path: Path, image: np.ndarray) -> None:
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


@pytest.fixture
def config_file(root: Path, folder: Path, tiny_settings: Callable[..., dict[str, Any]]) -> Path:
    path = folder / "config.yaml"
    settings = tiny_settings(dataset="voc12", root=str(root), train_split="train_aug")
    settings["retrain"] = {"model": None}
    path.write_text(yaml.safe_dump(settings))
    return path


@pytest.fixture
def run(config_file: Path, folder: Path) -> Path:
    """A run of three stages, made once for all tests; masks are restricted to the labels."""
    for stage in ("seeds", "train", "pseudo_masks"):
        run_stage(load_config(config_file), folder / "run", stage)
    return folder / "run"


def test_seeds_and_masks_are_scored_on_the_images_of_another_split(run: Path) -> None:
    dataset = open_run(run).train
    for what, stage, masks in (("seeds", "1_seeds", "dense"), ("masks", "3_pseudo_masks", "masks")):
        own, train = score_run(run, what), score_run(run, what, split="train")
        assert (own.scores.split, own.scores.images) == ("train_aug", 5)
        assert (train.scores.split, train.scores.images) == ("train", 2)
        assert own.labels and train.labels
        assert own.labelled is train.labelled is None
        assert own.truth == train.truth == "masks of SegmentationClass"
        (expected,) = score_masks(run / stage / masks, dataset, subject=own.scores.subject)
        assert own.scores.mean_iou == expected.mean_iou
        counted = [np.bincount(read_mask(run / stage / f"{masks}/{name}.png").ravel()) for name in NAMES[:2]]
        assert train.scores.pixel_accuracy == pytest.approx(accuracy(run / stage / masks))
        assert len(counted) == train.scores.images


def accuracy(folder: Path) -> float:
    """Of the two images of train, by hand."""
    right = 0
    for number, name in enumerate(NAMES[:2]):
        mask = read_mask(folder / f"{name}.png")
        right += (mask[:, :16] == 0).sum() + (mask[:, 16:] == number + 1).sum()
    return round(float(right) / (2 * 24 * 32), 6)


def test_the_crf_and_the_scales_of_a_score_are_named(run: Path) -> None:
    score = score_run(run, "masks").scores
    assert score.crf == "sxy 3 weight 3, sxy 83 srgb 5 weight 3, 10 iterations" and score.multi_scale == "no"
    assert score_run(run, "seeds").scores.crf.startswith("sxy 1 weight 3, sxy 67 srgb 3 weight 4")


def test_masks_without_labels_are_predicted_anew_and_kept(run: Path) -> None:
    free = score_run(run, "masks", split="train", labels=False)
    assert not free.labels and (free.scores.split, free.scores.images) == ("train", 2)
    folder = run / "scored/train_any_class/masks"
    assert sorted(path.stem for path in folder.iterdir()) == NAMES[:2]
    found = {int(value) for name in NAMES[:2] for value in np.unique(read_mask(folder / f"{name}.png"))}
    assert found - {0, 1, 2}, "random weights draw classes that the labels do not name"
    times = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert score_run(run, "masks", split="train", labels=False) == free
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == times
    record = json.loads((folder.parent / "key.json").read_text())
    (folder.parent / "key.json").write_text(json.dumps(record | {"key": "another"}))
    score_run(run, "masks", split="train", labels=False)
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} != times
    assert score_run(run, "masks", split="train", labels=True).labels
    assert not (run / "scored/train_labels").exists()


def test_masks_without_labels_are_made_without_the_seeds_that_know_them(
    run: Path, config_file: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    again, said = Path(shutil.copytree(run, tmp_path / "run")), "seeds know the image-level labels"
    plain = score_run(again, "masks", split="train", labels=False)
    assert said not in caplog.text
    config = load_config(config_file, ["pseudo_masks.seed_share=0.5", "pseudo_masks.region_bank={}"])
    run_stage(config, again, "pseudo_masks", redo=True)
    assert score_run(again, "masks", split="train", labels=False) == plain
    assert f"train: masks are made without pseudo_masks.seed_share: {said}" in caplog.text
    assert "train: masks are made without pseudo_masks.region_bank: the stage of the masks fills it" in caplog.text


def test_masks_with_labels_keep_the_share_of_the_seeds(run: Path, config_file: Path, tmp_path: Path) -> None:
    """With nothing but the seeds in the probabilities, and no CRF behind, the masks are the seeds."""
    again = Path(shutil.copytree(run, tmp_path / "run"))
    how = ["pseudo_masks.seed_share=1.0", "pseudo_masks.crf=null", "pseudo_masks.restrict_to_labels=false"]
    run_stage(load_config(config_file, how), again, "pseudo_masks", redo=True)
    assert score_run(again, "masks", split="train", labels=True).labels
    for name in NAMES[:2]:
        made = again / f"scored/train_labels/masks/{name}.png"
        assert made.read_bytes() == (again / f"1_seeds/dense/{name}.png").read_bytes()


def test_regions_that_a_network_draws_for_the_run_are_those_of_the_score(
    run: Path, config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Network:
        def regions(self, image: np.ndarray) -> list[np.ndarray]:
            return [np.ones(image.shape[:2], bool)]

    monkeypatch.setattr(proposal_files, "load_proposal_network", lambda source, device: Network())
    again = Path(shutil.copytree(run, tmp_path / "run"))
    config = load_config(config_file, ["pseudo_masks.proposals={segmenter: facebook/sam2.1-hiera-small}"])
    run_stage(config, again, "pseudo_masks", redo=True)
    assert not score_run(again, "masks", split="train", labels=False).labels
    assert len(list((again / "proposals").rglob("*.json"))) == 5


def test_the_command_says_all_that_a_comparison_needs(
    run: Path, call: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("score", "masks", run, "--split", "train") == 0
    said = capsys.readouterr().out
    assert "% mIoU on train, 2 images\n" in said
    assert said.endswith("true masks: masks of SegmentationClass\n")
    assert "only classes of the image-level labels: yes\n" in said
    assert "dense CRF: sxy 3 weight 3" in said and "multi-scale: no" in said
    assert call("score", "seeds", run, "--json") == 0
    record = json.loads(capsys.readouterr().out)
    assert record["scores"]["split"] == "train_aug" and record["labels"] is True


def test_data_that_changed_since_are_named(run: Path, root: Path, caplog: pytest.LogCaptureFixture) -> None:
    def refused(file: str, before: str, after: str, named: str) -> None:
        path, text = root / file, (root / file).read_text()
        assert before in text
        path.write_text(text.replace(before, after))
        for what, stage in (("seeds", "seeds"), ("masks", "pseudo_masks")):
            with pytest.raises(RunError, match=rf"changed since its {stage} were made: {named}; bring the data back"):
                score_run(run, what)
        path.write_text(text)

    refused("image_labels.csv", f"{NAMES[0]},{VOC12.names[1]}", f"{NAMES[0]},{VOC12.names[9]}", "train labels")
    refused("ImageSets/Segmentation/train_aug.txt", f"{NAMES[4]}\n", "", "train list, train labels, train images")
    assert score_run(run, "masks").scores.images == 5 and "other sizes or times" not in caplog.text
    photo = root / f"JPEGImages/{NAMES[0]}.jpg"
    times = photo.stat().st_atime_ns, photo.stat().st_mtime_ns
    os.utime(photo, (1, 1))  # as a copy of the data set has them
    assert score_run(run, "masks").scores.images == 5
    assert "image files have other sizes or times than when its pseudo_masks were made" in caplog.text
    os.utime(photo, ns=times)


def test_the_evaluation_names_the_masks_too(run: Path, config_file: Path, tmp_path: Path) -> None:
    again = Path(shutil.copytree(run, tmp_path / "run"))
    run_stage(load_config(config_file), again, "evaluate")
    truth = json.loads((again / "5_evaluate/metrics.json").read_text())["truth"]
    assert truth == dict.fromkeys(("train_aug", "val"), "masks of SegmentationClass")


def test_masks_of_earlier_results_are_not_scored(run: Path, config_file: Path, tmp_path: Path) -> None:
    again = Path(shutil.copytree(run, tmp_path / "run"))
    run_stage(load_config(config_file, ["seeds.gradcam.box_threshold=0.7"]), again, "seeds", redo=True)
    with pytest.raises(RunError, match="its pseudo_masks were made of earlier results than are there now"):
        score_run(again, "masks")
    assert score_run(again, "seeds").scores.images == 5


def test_what_cannot_be_scored_is_one_line(run: Path, config_file: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="val: none of its 1 images is in train_aug, of which the run has masks"):
        score_run(run, "masks", split="val")
    with pytest.raises(ConfigError, match="seeds are made of the image-level labels; leave --no-labels out"):
        score_run(run, "seeds", labels=False)
    with pytest.raises(RunError, match="not a run folder"):
        score_run(tmp_path, "seeds")
    run_stage(load_config(config_file), tmp_path / "new", "seeds")
    assert score_run(tmp_path / "new", "seeds").scores.images == 5
    with pytest.raises(RunError, match="its pseudo_masks are not finished; run `weakclip pseudo-masks` or"):
        score_run(tmp_path / "new", "masks")
    text = (tmp_path / "new/config.yaml").read_text()
    assert "box_threshold: 0.4" in text
    (tmp_path / "new/config.yaml").write_text(text.replace("box_threshold: 0.4", "box_threshold: 0.5"))
    with pytest.raises(RunError, match=r"its seeds were made with other settings than its config\.yaml has"):
        score_run(tmp_path / "new", "seeds")
