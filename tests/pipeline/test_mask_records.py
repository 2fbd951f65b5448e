"""Laws of the figures that a run keeps of its images: one line and two strips each, whatever happened on the way."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from by_path import load_script
from PIL import Image

from weakclip.config import RunConfig, load_config
from weakclip.datasets.images import read_mask, write_mask
from weakclip.datasets.scenes import ScenesDataset
from weakclip.inference.mask_statistics import (
    ImageStatistics,
    class_iou,
    class_kept,
    class_shares,
    mean_over_classes,
    read_statistics,
)
from weakclip.pipeline import run_pipeline, run_stage
from weakclip.report import read_images, read_run, render_report

LINES = ("3_pseudo_masks/statistics.jsonl", "5_evaluate/statistics.jsonl")


@pytest.fixture
def config(config_file: Path) -> RunConfig:
    return load_config(config_file)


@pytest.fixture
def dataset() -> ScenesDataset:
    return ScenesDataset("train", size=64, count=6)


def unfinished(folder: Path, *stages: str) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    for stage in stages:
        manifest["stages"][stage]["done"] = False
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_figures_are_those_of_the_masks_on_disk(ran: Path, dataset: ScenesDataset) -> None:
    images = read_images(ran).images
    assert [image.name for image in images] == list(dataset.names)
    for index, image in enumerate(images):
        folders = ("1_seeds/masks", "1_seeds/dense", "3_pseudo_masks/masks", "5_evaluate/train_predictions/masks")
        seed, dense, mask, prediction = (read_mask(ran / folder / f"{image.name}.png") for folder in folders)
        assert image.labels == dataset.labels(index)
        assert image.shares == class_shares(mask)
        assert image.seed_shares == class_shares(seed)
        assert image.dense_shares == class_shares(dense)
        assert image.seed_kept == class_kept(seed, mask)
        assert image.seed_mask == class_iou(seed, mask)
        assert image.mask_prediction == class_iou(mask, prediction)
        assert image.mask_truth == class_iou(mask, dataset.mask(index))
        assert image.confidence is not None and 0 < image.confidence <= 1
        assert image.crf_change is not None and 0 <= image.crf_change <= 1
        weighted = sum(image.shares[index] * image.class_confidence[index] for index in image.shares)
        assert image.confidence == pytest.approx(weighted, abs=1e-3)


def test_every_image_has_its_strips(ran: Path, dataset: ScenesDataset) -> None:
    strips = read_images(ran).strips
    assert [each.captions for each in strips] == [("image", "seed", "pseudo mask"), ("prediction", "truth")]
    for each in strips:
        for index, name in enumerate(dataset.names):
            with Image.open(ran / each.folder / f"{name}.jpg") as strip:
                assert strip.size == (64 * len(each.captions), 64)
                first = np.asarray(strip.convert("RGB"))[:, :64].astype(int)
            if each.captions[0] == "image":
                assert np.abs(first - dataset.image(index)).mean() < 12


def figures(path: Path) -> dict[str, ImageStatistics]:
    return {of.name: of for of in read_statistics(path)}


def test_lost_and_torn_lines_are_made_again(config: RunConfig, ran: Path) -> None:
    """What the masks tell is told again; how they came about, confidence and CRF, is lost with the lines alone."""
    before = {name: figures(ran / name) for name in LINES}
    unfinished(ran, "pseudo_masks", "evaluate")
    for name in LINES:
        lines = (ran / name).read_bytes().splitlines(keepends=True)
        (ran / name).write_bytes(b"".join(lines[:-2]) + lines[-2][:20])
    run_pipeline(config, ran)
    for name in LINES:
        after = figures(ran / name)
        assert list(after) == list(before[name])
        for image, of in after.items():
            assert of.shares == before[name][image].shares
            assert of.seed_mask == before[name][image].seed_mask
    assert sum(of.confidence is None for of in figures(ran / LINES[0]).values()) == 2


def test_run_of_an_earlier_version_gets_the_figures_that_its_masks_tell(config: RunConfig, ran: Path) -> None:
    """Its masks are kept, and the evaluation, which is done again, compares them."""
    (ran / LINES[0]).unlink()
    manifest = json.loads((ran / "manifest.json").read_text())
    manifest["stages"]["pseudo_masks"]["files"] = 0
    manifest["stages"]["evaluate"]["key"] = "of an earlier version"
    (ran / "manifest.json").write_text(json.dumps(manifest))
    times = {path: path.stat().st_mtime_ns for path in ran.glob("3_pseudo_masks/masks/*")}
    run_pipeline(config, ran, redo=True)
    assert times == {path: path.stat().st_mtime_ns for path in ran.glob("3_pseudo_masks/masks/*")}
    images = read_images(ran).images
    assert len(images) == 6
    assert all(image.seed_mask and image.mask_prediction and image.crf_change is None for image in images)


def test_report_scores_images_and_classes(ran: Path) -> None:
    page = (ran / "report.html").read_text()
    content = json.loads(re.search(r'id="report-data">(.*?)</script>', page, flags=re.DOTALL).group(1))
    for row, image in zip(content["images"], read_images(ran).images, strict=True):
        assert row[0] == image.name
        assert row[9] == round(1000 * mean_over_classes(image.mask_truth))
    assert "True IoU" in page and "Lowest true score" in page


def test_masks_that_lost_their_classes_are_warned_of(
    config: RunConfig, ran: Path, dataset: ScenesDataset, caplog: pytest.LogCaptureFixture
) -> None:
    """In one line while the stage runs, in its metrics, in the result of this and the next call, and on the page."""
    for path in (ran / "3_pseudo_masks/masks").iterdir():
        seed = read_mask(ran / "1_seeds/masks" / path.name)
        write_mask(path, np.where(seed == 255, 0, seed).astype(np.uint8), dataset.class_set.palette)
    assert warned(config, ran, caplog) == []
    for path in (ran / "3_pseudo_masks/masks").iterdir():
        write_mask(path, np.zeros((64, 64), np.uint8), dataset.class_set.palette)
    (line,) = warned(config, ran, caplog)
    note = json.loads((ran / "3_pseudo_masks/metrics.json").read_text())
    assert note["warnings"] == [line]
    assert "foreground seeds" in note["seed_change"]["signs"]
    assert run_stage(config, ran, "pseudo_masks").warnings == (line,)
    assert 'id="warnings"' in (ran / "report.html").read_text()


def warned(config: RunConfig, run: Path, caplog: pytest.LogCaptureFixture) -> list[str]:
    """The warnings of stage 3 on the masks that lie there."""
    (run / LINES[0]).unlink()
    unfinished(run, "pseudo_masks")
    caplog.clear()
    result = run_stage(config, run, "pseudo_masks")
    lines = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert [f"pseudo_masks: {line}" for line in result.warnings] == lines
    return list(result.warnings)


def test_a_warning_of_masks_that_are_out_of_date_is_not_shown(config: RunConfig, ran: Path) -> None:
    path = ran / "3_pseudo_masks/metrics.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "warnings": ["look <b>here</b>", 5]}))
    assert read_run(ran).warnings == ("look <b>here</b>",)
    assert "look &lt;b&gt;here&lt;/b&gt;" in render_report(ran)
    manifest = json.loads((ran / "manifest.json").read_text())
    manifest["stages"]["train"]["key"] = "newer"
    (ran / "manifest.json").write_text(json.dumps(manifest))
    (said,) = read_run(ran).warnings
    assert "do not belong together" in said and "look" not in said


def test_the_benchmark_of_the_signs_reads_a_run(ran: Path, capsys: pytest.CaptureFixture[str]) -> None:
    benchmark = load_script("benchmarks/seed_signs.py")
    benchmark.main([str(ran)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("6 images; true mean IoU: seeds 0.")
    assert lines[-1].startswith("over images and classes: ")
