"""Laws of the table: it is read back as it is, a stopped command goes on, and labels by hand are never lost."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from weakclip.clip import FrozenCLIP
from weakclip.datasets import FolderDataset
from weakclip.datasets.classes import ClassSet
from weakclip.datasets.image_folder import ImageFolder
from weakclip.datasets.images import write_png
from weakclip.datasets.label_files import read_label_rows
from weakclip.datasets.scenes import ScenesDataset
from weakclip.errors import DataError, RunError, StorageError
from weakclip.store.share import Shard, sharing
from weakclip.tools.tag import scores
from weakclip.tools.tag.table import merge_labels, write_labels
from weakclip.tools.tag.zero_shot import TagSettings

CLASSES = ClassSet.from_foreground(["cat", "traffic light", "dog"])


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Five noisy images, one in a folder below, with names that a table must quote."""
    for seed, name in enumerate(("a.png", "b, c.png", 'd "e".png', "deep/f.png", "ü.png")):
        pixels = np.random.default_rng(seed).integers(0, 256, (32, 40, 3), dtype=np.uint8)
        write_png(tmp_path / "mine/images" / name, pixels)
    return tmp_path / "mine"


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("threshold", [0.0, 0.3, 1.0])
def test_the_table_is_read_back_as_it_is(root: Path, tiny_clip: FrozenCLIP, threshold: float) -> None:
    out = root / "labels.csv"
    result = write_labels(ImageFolder(root), out, CLASSES, tiny_clip, TagSettings(threshold=threshold))
    rows = rows_of(out)
    assert list(rows[0]) == ["image", "labels", "check", "score: cat", "score: traffic light", "score: dog"]
    read = read_label_rows(out)
    assert [row.image for row in read] == ImageFolder(root).files
    for row, back in zip(rows, read, strict=True):
        scores = {name: float(row[f"score: {name}"]) for name in CLASSES.names[1:]}
        above = [name for name, score in scores.items() if score >= threshold]
        assert list(back.labels) == above
        best = max(scores, key=scores.__getitem__)
        assert row["check"] == ("" if above else f"nothing from {threshold:g} on; best: {best}")
        assert (not above) == (row["image"] in result.unsure)
    assert result.images == 5 and sum(result.classes.values()) == sum(len(row.labels) for row in read)
    if threshold == 0:
        dataset = FolderDataset(root, untagged="skip")
        assert len(dataset) == 5 and dataset.untagged == ()
    assert not list(root.glob("*.partial"))


def count_scored(monkeypatch: pytest.MonkeyPatch, stop_at: str | None = None) -> list[str]:
    """Notes which files are scored; like a kill, it can stop at one. Threads read several at once."""
    scored: list[str] = []
    real = scores.tag_windows

    def spy(path: Path, side: int) -> list[np.ndarray]:
        if path.name == stop_at:
            raise KeyboardInterrupt
        scored.append(path.name)
        return real(path, side)

    monkeypatch.setattr(scores, "tag_windows", spy)
    return scored


def test_a_stopped_command_goes_on_and_ends_with_the_same_bytes(
    root: Path, tiny_clip: FrozenCLIP, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, out = TagSettings(batch_size=2), root / "labels.csv"
    write_labels(ImageFolder(root), out, CLASSES, tiny_clip, settings)
    undisturbed = out.read_bytes()
    out.unlink()
    count_scored(monkeypatch, stop_at="ü.png")
    with pytest.raises(KeyboardInterrupt):
        write_labels(ImageFolder(root), out, CLASSES, tiny_clip, settings)
    assert not out.exists()
    partial = root / "labels.csv.partial"
    partial.write_bytes(partial.read_bytes()[:-9])  # and the last line was torn
    monkeypatch.undo()
    again = count_scored(monkeypatch)
    write_labels(ImageFolder(root), out, CLASSES, tiny_clip, settings)
    assert out.read_bytes() == undisturbed
    assert len(again) == 3  # the batch whose last line was torn, and one that had not begun
    assert not partial.exists()


@pytest.mark.parametrize("change", ["classes", "template", "image"])
def test_kept_scores_of_something_else_are_not_used(
    root: Path, tiny_clip: FrozenCLIP, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    count_scored(monkeypatch, stop_at="ü.png")
    with pytest.raises(KeyboardInterrupt):
        write_labels(ImageFolder(root), root / "labels.csv", CLASSES, tiny_clip, TagSettings(batch_size=2))
    monkeypatch.undo()
    class_set, settings = CLASSES, TagSettings(batch_size=2)
    if change == "classes":
        class_set = ClassSet.from_foreground(["cat", "traffic light", "cow"])
    elif change == "template":
        settings = TagSettings(batch_size=2, prompt_template="{}")
    else:
        write_png(root / "images/a.png", np.zeros((32, 32, 3), np.uint8))
    again = count_scored(monkeypatch)
    write_labels(ImageFolder(root), root / "labels.csv", class_set, tiny_clip, settings)
    assert len(again) == (3 if change == "image" else 5)  # a batch of two, and what had not begun


def test_shards_end_with_the_bytes_of_one_process(root: Path, tiny_clip: FrozenCLIP) -> None:
    """In any order and more than once; a missing one is named."""
    (root / "images/b, c.png").write_text("hello")
    settings, out, tables = TagSettings(batch_size=2), root / "labels.csv", set()
    whole = write_labels(ImageFolder(root), out, CLASSES, tiny_clip, settings)

    def shard(number: int, count: int) -> None:
        with sharing(Shard(number, count, root)):
            assert write_labels(ImageFolder(root), out, CLASSES, tiny_clip, settings) is None

    for count in (2, 3):
        tables.add(out.read_bytes())
        out.unlink()
        shard(0, count)
        with pytest.raises(RunError, match=rf"tagging: images are missing: of shard 1/{count} 1 \(d "):
            merge_labels(out)
        for number in reversed(range(count)):
            shard(number, count)
        assert merge_labels(out) == whole
    assert tables == {out.read_bytes()}
    assert sorted(path.name for path in root.iterdir()) == ["images", "labels.csv"]


def test_images_that_cannot_be_read_are_left_out_and_named(root: Path, tiny_clip: FrozenCLIP) -> None:
    (root / "images/a.png").write_text("hello")
    result = write_labels(ImageFolder(root), root / "labels.csv", CLASSES, tiny_clip, TagSettings())
    assert result.images == 4
    assert len(result.unread) == 1 and "a.png: not an image" in result.unread[0]
    for path in (root / "images").rglob("*.png"):
        path.write_text("hello")
    with pytest.raises(DataError, match="no image can be read"):
        write_labels(ImageFolder(root), root / "other.csv", CLASSES, tiny_clip, TagSettings())


def test_photos_of_other_kinds_are_noted(root: Path, tiny_clip: FrozenCLIP) -> None:
    (root / "images/b.heic").write_bytes(b"")
    result = write_labels(ImageFolder(root), root / "labels.csv", CLASSES, tiny_clip, TagSettings())
    assert len(result.notes) == 1 and "1 .heic" in result.notes[0]


def test_names_that_cannot_stand_in_a_table_are_refused(root: Path, tiny_clip: FrozenCLIP) -> None:
    with pytest.raises(DataError, match="'a, b'"):
        write_labels(ImageFolder(root), root / "l.csv", ClassSet.from_foreground(["a, b"]), tiny_clip, TagSettings())


@pytest.fixture
def scenes(make_scenes: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(make_scenes(8).parent)
    return Path("scenes")


def test_the_command_tags_scenes_and_init_takes_its_table(
    scenes: Path, call: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    names = ScenesDataset("val", count=1).class_set.names[1:]
    command = ("tag", scenes, "--clip", "demo", "--device", "cpu")
    assert call(*command, "--classes", ", ".join(names[:5]), "--classes", ",".join(names[5:])) == 0
    shown = capsys.readouterr().out
    assert "scenes/labels.csv: 8 images" in shown
    assert "next: correct the column `labels`, then weakclip init scenes" in shown
    assert call("init", scenes, "--clip", "demo") == 0
    assert call("data", "check", "scenes.yaml") == 0


@pytest.mark.whole
def test_two_processes_write_the_table_of_one(
    make_scenes: Callable[[int], Path], call: Callable[..., int], tmp_path: Path
) -> None:
    command = ("tag", make_scenes(40), "--clip", "demo", "--device", "cpu", "--classes", "cat,car,boat")
    assert call(*command, "--out", tmp_path / "one.csv") == 0
    assert call(*command, "--out", tmp_path / "two.csv", "--devices", "2") == 0
    assert (tmp_path / "two.csv").read_bytes() == (tmp_path / "one.csv").read_bytes()


def test_labels_by_hand_are_never_replaced_unasked(
    scenes: Path, call: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    command = ("tag", scenes, "--clip", "demo", "--device", "cpu", "--classes", "cat,car")
    (scenes / "labels.csv").write_text("by hand")
    assert call(*command) == 2
    assert "is there already; --overwrite" in capsys.readouterr().err
    (scenes / "labels.csv").rename(scenes / "labels.jsonl")
    assert call(*command) == 2
    assert "has labels already; --out" in capsys.readouterr().err
    assert (scenes / "labels.jsonl").read_text() == "by hand"
    assert call(*command, "--out", "tags/new.csv") == 0
    assert "weakclip init scenes --labels tags/new.csv" in capsys.readouterr().out
    assert call(*command, "--out", "tags/new.csv", "--overwrite", "--threshold", "1") == 0
    assert "threshold: 1; rows without a class from there on, left empty: 8" in capsys.readouterr().out


def test_classes_come_from_the_class_file(
    scenes: Path, call: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    command = ("tag", scenes, "--clip", "demo", "--device", "cpu")
    assert call(*command) == 2
    assert "which classes? --classes" in capsys.readouterr().err
    (scenes / "classes.yaml").write_text("names: [cat, boat]\nbackground_prompts: [sand]\n")
    assert call(*command, "--classes", "cat") == 2
    assert "names the classes already" in capsys.readouterr().err
    assert call(*command) == 0
    assert list(rows_of(scenes / "labels.csv")[0]) == ["image", "labels", "check", "score: cat", "score: boat"]


def test_a_table_that_cannot_be_written_is_one_clear_line(root: Path, tiny_clip: FrozenCLIP, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be written"):
        write_labels(ImageFolder(root), tmp_path / "file/labels.csv", CLASSES, tiny_clip, TagSettings())
