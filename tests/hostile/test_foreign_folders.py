"""Run folders, prediction folders and lists that somebody else made: no link in them chooses what is written to, and
what they say of themselves is believed or refused in one line."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from harm import is_one_clear_line
from PIL import Image
from review_case import make_review_run

from weakclip.datasets.classes import ClassSet
from weakclip.errors import DataError, RunError, StorageError, WeakCLIPError
from weakclip.prediction import find_images, predict_files
from weakclip.prediction.predictor import Predictor, PredictSettings
from weakclip.report import render_report
from weakclip.review.folder import Request, ReviewFolder
from weakclip.store.files import append_bytes, append_json
from weakclip.store.lines import LineLog
from weakclip.store.lock import LOCK, FolderLock

pytestmark = pytest.mark.timeout(60)

DEEP = "[" * 200_000
MINE = "the work of years\n"


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A file of this machine that is nobody's business."""
    path = tmp_path / "mine.txt"
    path.write_text(MINE)
    return path


def hold(folder: Path) -> None:
    with FolderLock(folder):
        pass


WRITERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "the lock": (LOCK, lambda path: hold(path.parent)),
    "a line of a log": ("log.jsonl", lambda path: append_json(path, {"step": 1})),
    "a record of TensorBoard": ("events.out.tfevents.1", lambda path: append_bytes(path, b"record")),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_link_in_the_place_of_a_file_that_is_written_to_is_refused(tmp_path: Path, mine: Path, name: str) -> None:
    """Files that are replaced whole need no such care: the link goes, and what it leads to stays."""
    file, write = WRITERS[name]
    path = tmp_path / "run" / file
    path.parent.mkdir()
    for target in (mine, tmp_path / "new", path):
        path.unlink(missing_ok=True)
        path.symlink_to(target)
        with pytest.raises(StorageError, match="a link lies in its place") as caught:
            write(path)
        assert is_one_clear_line(caught.value, path)
    assert mine.read_text() == MINE and not (tmp_path / "new").exists()


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_a_lock_that_is_no_file_is_refused_and_not_waited_for(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / LOCK)
    with pytest.raises(StorageError) as caught:
        hold(tmp_path)
    assert is_one_clear_line(caught.value, tmp_path / LOCK)


def test_marks_and_figures_are_written_through_no_link(tmp_path: Path, mine: Path) -> None:
    """A name of an image can be a line of a shell: `$(…)` in one's own start-up file would be run."""
    run = make_review_run(tmp_path)
    (run / "marks.jsonl").symlink_to(mine)
    (run / "3_pseudo_masks/images.jsonl").symlink_to(mine)
    with pytest.raises(OSError, match="symbolic links"):
        ReviewFolder(run).add(Request(image=0, mark="good"))
    with pytest.raises(StorageError, match="a link lies in its place"):
        LineLog(run / "3_pseudo_masks/images.jsonl").add({"name": "a"})
    assert mine.read_text() == MINE


def test_the_figures_of_tag_are_written_through_no_link(
    tmp_path: Path, mine: Path, call: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (40, 40)).save(tmp_path / "a.png")
    (tmp_path / "labels.csv.partial").symlink_to(mine)
    words = ("--classes", "red circle,blue square", "--clip", "demo", "--out", tmp_path / "labels.csv")
    assert call("tag", tmp_path, *words) == 2
    assert "symbolic links" in capsys.readouterr().err
    assert mine.read_text() == MINE


@pytest.fixture
def predictor() -> Predictor:
    """Bright pixels are cats."""

    def logits_of(images: torch.Tensor) -> torch.Tensor:
        bright = images.float().mean(1) - 128
        return torch.stack([-bright, bright], 1)

    return Predictor(logits_of, ClassSet.from_foreground(["cat"]), PredictSettings(device="cpu"))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    (tmp_path / "photos").mkdir()
    Image.fromarray(np.arange(48, dtype=np.uint8).reshape(6, 8)).save(tmp_path / "photos" / "a.png")
    return tmp_path / "photos"


@pytest.mark.parametrize(
    "key", [DEEP, "[]", "\0", '{"key": 7}', '{"key": "x", "settings": 7}', '{"key": "x", "inputs": [1]}']
)
def test_a_key_of_odd_values_is_none(tmp_path: Path, photos: Path, predictor: Predictor, key: str) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/key.json").write_text(key)
    with pytest.raises(RunError, match="holds no predictions") as caught:
        predict_files(predictor, find_images([str(photos)]), tmp_path / "out", fingerprint="x")
    assert is_one_clear_line(caught.value, tmp_path / "out")


@pytest.mark.parametrize("facts", [DEEP, "[]", "7", '{"image": [1]}', '{"image": "\\u001b[2J\\n"}'])
def test_odd_facts_of_an_image_are_no_proof_that_it_is_done(
    tmp_path: Path, photos: Path, predictor: Predictor, facts: str
) -> None:
    images = find_images([str(photos)])
    predict_files(predictor, images, tmp_path / "out", fingerprint="x")
    (tmp_path / "out/json/a.json").write_text(facts)
    assert predict_files(predictor, images, tmp_path / "out", fingerprint="x").kept == 0
    again = predict_files(predictor, images, tmp_path / "out", fingerprint="x", redo=True)
    assert again.predicted + again.kept == 1


def test_predictions_replace_links_and_write_through_none(
    tmp_path: Path, mine: Path, photos: Path, predictor: Predictor
) -> None:
    images, out = find_images([str(photos)]), tmp_path / "out"
    predict_files(predictor, images, out, fingerprint="x")
    (photos / "b.png").write_bytes(b"no image")
    shutil.copy(photos / "a.png", photos / "c.png")
    for name in ("masks/c.png", "json/c.json", "errors.jsonl"):
        (out / name).unlink(missing_ok=True)
        (out / name).symlink_to(mine)
    done = predict_files(predictor, find_images([str(photos)]), out, fingerprint="x")
    assert (done.predicted, done.kept, done.failed) == (1, 1, 1)
    assert mine.read_text() == MINE


@pytest.mark.parametrize("line", ["a\0b.png", "\x1b[2J.png", "two\u2028lines.png", "caf\udce9.png"])
def test_a_listed_file_whose_name_cannot_be_that_of_a_mask_costs_the_others_nothing(
    tmp_path: Path, photos: Path, predictor: Predictor, line: str
) -> None:
    images = find_images(["-"], listed=[str(photos / line), str(photos / "a.png")])
    done = predict_files(predictor, images, tmp_path / "out", fingerprint="x")
    assert (done.predicted, done.failed) == (1, 1)
    assert [file.name for file in (tmp_path / "out").rglob("*.png")] == ["a.png"]
    (told,) = (tmp_path / "out/errors.jsonl").read_text().splitlines()
    assert "rename it" in told and told.isprintable()


@pytest.mark.parametrize("entry", ["~nobody-of-that-name/a.png", "x" * 5000, "a\0b.png", "~nobody-of-that-name"])
def test_a_file_that_cannot_be_is_not_there(entry: str) -> None:
    with pytest.raises(DataError, match="no such file, folder or pattern"):
        find_images([entry])


def test_a_listed_file_that_cannot_be_is_an_error_of_its_own(
    tmp_path: Path, photos: Path, predictor: Predictor
) -> None:
    listed = [str(photos / "a.png"), "~nobody-of-that-name/a.png", "/proc/self/mem", "/dev/zero", "../../../etc/passwd"]
    done = predict_files(predictor, find_images(["-"], listed=listed), tmp_path / "out", fingerprint="x")
    assert (done.predicted, done.failed) == (1, 4)
    assert sorted(file.name for file in (tmp_path / "out").rglob("*.png")) == ["a.png"]


@pytest.mark.parametrize("home", ["~nobody-of-that-name/data", "~"])
def test_a_home_that_is_not_there_is_one_line(
    tmp_path: Path, call: Callable[..., int], capsys: pytest.CaptureFixture[str], home: str
) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(f"data: {{dataset: folder, root: '{home}/none'}}\nclip: {{source: '{home}/none.pt'}}\n")
    assert call("run", path, "--out", tmp_path / "run") == 2
    assert capsys.readouterr().err.count("\n") == 1


RECORDS = json.dumps(
    {"format": 2, "stages": {stage: {"done": True} for stage in ("train", "pseudo_masks", "evaluate")}}
)
NESTED = ("3_pseudo_masks/strips/captions.json", "5_evaluate/metrics.json")
PASSED_OVER = ("3_pseudo_masks/images.jsonl", "2_train/log.jsonl")


def run_with(folder: Path, name: str) -> Path:
    (folder / "manifest.json").write_text(RECORDS)
    (folder / name).parent.mkdir(parents=True)
    (folder / name).write_text(DEEP)
    return folder


@pytest.mark.parametrize("name", NESTED)
def test_a_report_of_files_that_are_nested_without_end_is_one_line(tmp_path: Path, name: str) -> None:
    with pytest.raises(WeakCLIPError) as caught:
        render_report(run_with(tmp_path, name))
    assert is_one_clear_line(caught.value, tmp_path / name)


@pytest.mark.parametrize("name", PASSED_OVER)
def test_a_line_that_is_nested_without_end_is_passed_over(tmp_path: Path, name: str) -> None:
    assert "</html>" in render_report(run_with(tmp_path, name))
