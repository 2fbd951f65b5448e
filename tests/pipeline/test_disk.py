"""Never lose work: a full disk, a read-only one, files that vanish or may not be read. All damage is real."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from damage import Command, Commands, broken_files, results, strays

from weakclip.pipeline.stages import STAGES


def refused(command: Command, *words: str) -> None:
    """The command ended with code 2 and one line of error that has these words."""
    said = command.said()
    assert command.wait() == 2, said
    assert "Traceback" not in said
    last = [line for line in said.splitlines() if line.startswith("weakclip: ")]
    assert len(last) == 1, said
    assert all(word in last[0] for word in words), last[0]


def fill(commands: Commands, config: Path, disk: Any, sizes: list[int]) -> list[Command]:
    """Run on a disk that grows after every failure; the failed runs."""
    failed = []
    for size in sizes:
        disk.remount(f"size={size}k")
        command = commands.run("run", config, "--out", disk.folder / "run")
        assert broken_files(disk.folder) == []
        if command.code == 0:
            return failed
        refused(command, str(disk.folder), "cannot be written (No space left on device)", "make room")
        failed.append(command)
    raise AssertionError("the largest disk was too small")


def test_full_disk_costs_nothing(commands: Commands, kept_config: Path, undisturbed: Path, small_disk: Any) -> None:
    failed = fill(commands, kept_config, small_disk, [8, 200, 1500, 9000, 60_000])
    assert len(failed) >= 3
    assert results(small_disk.folder / "run") == results(undisturbed)
    assert strays(small_disk.folder) == []


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_disk_that_is_full_in_many_places(
    commands: Commands, kept_config: Path, undisturbed: Path, small_disk: Any
) -> None:
    failed = fill(commands, kept_config, small_disk, [round(8 * 1.18**step) for step in range(60)])
    assert len(failed) > 25
    assert len({command.said().splitlines()[-1] for command in failed}) > 10
    assert results(small_disk.folder / "run") == results(undisturbed)
    assert strays(small_disk.folder) == []


def test_read_only_disk_costs_nothing(
    commands: Commands, kept_config: Path, undisturbed: Path, small_disk: Any
) -> None:
    small_disk.remount("size=64m")
    out = small_disk.folder / "run"
    stopped = commands.start("run", kept_config, "--out", out)
    assert stopped.until(f"pseudo_masks: {STAGES['pseudo_masks'].purpose}")
    stopped.signal(signal.SIGKILL)
    stopped.wait()
    before = results(out)
    small_disk.remount("ro")
    refused(commands.run("run", kept_config, "--out", out), str(out), "Read-only file system", "mount the disk")
    refused(commands.run("report", out), "report.html", "Read-only file system")
    assert results(out) == before
    small_disk.remount("rw")
    assert commands.run("run", kept_config, "--out", out).code == 0
    assert results(out) == results(undisturbed)


def test_folder_without_permission_costs_nothing(
    commands: Commands, kept_config: Path, undisturbed: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    stopped = commands.start("run", kept_config, "--out", out)
    while not list(out.glob("1_seeds/dense/*.png")):
        assert stopped.alive(), stopped.said()
    stopped.kill()
    masks = out / "1_seeds/masks"
    leftover = masks / f".n1.png.{stopped.pid}.x.tmp"  # of a process that was killed while it wrote
    for folder, left in ((out, False), (masks, False), (masks, True)):
        if left:
            leftover.touch()
        folder.chmod(0o500)
        command = commands.run("run", kept_config, "--out", out, capabilities=False)
        folder.chmod(0o700)
        refused(command, str(folder), "Permission denied", "chmod u+w")
    assert commands.run("run", kept_config, "--out", out).code == 0
    assert results(out) == results(undisturbed)


@pytest.fixture
def folder_config(tiny_settings: Callable[..., dict[str, Any]], image_folder: Path, tmp_path: Path) -> Path:
    """The tiny run on image files, without a second network."""
    path = tmp_path / "folder.yaml"
    settings = tiny_settings(dataset="folder", root=str(image_folder), val_split=None)
    path.write_text(yaml.safe_dump({**settings, "retrain": {"model": None}}))
    return path


def test_source_that_vanishes_costs_nothing(
    commands: Commands, folder_config: Path, image_folder: Path, tmp_path: Path
) -> None:
    """The images are moved away in the middle of three stages, and back again."""
    whole, out, images = tmp_path / "whole", tmp_path / "run", image_folder / "images"
    assert commands.run("run", folder_config, "--out", whole).code == 0
    for stage in ("seeds", "train", "pseudo_masks"):
        command = commands.start("run", folder_config, "--out", out)
        assert command.until(f"{stage}: {STAGES[stage].purpose}")
        images.rename(tmp_path / "away")
        command.wait()
        refused(command, str(images), "no such file; put it back")
        before = results(out)
        refused(commands.run("run", folder_config, "--out", out), str(image_folder))
        assert results(out) == before
        assert broken_files(out) == strays(out) == []
        (tmp_path / "away").rename(images)
    assert commands.run("run", folder_config, "--out", out).code == 0
    assert results(out) == results(whole)


def test_image_without_permission_is_named(commands: Commands, folder_config: Path, image_folder: Path) -> None:
    closed, out = image_folder / "images" / "n5.png", image_folder / "run"
    closed.chmod(0)
    refused(
        commands.run("seeds", folder_config, "--out", out, capabilities=False), str(closed), "may not be read", "chmod"
    )
    kept = {path.name for path in (out / "1_seeds/masks").iterdir()}
    assert kept == {f"n{number}.png" for number in range(5)}
    closed.chmod(0o600)
    assert commands.run("seeds", folder_config, "--out", out, capabilities=False).code == 0


def test_weights_that_vanish_cost_nothing(
    commands: Commands, kept_config: Path, undisturbed: Path, clip_folder: Path, tmp_path: Path
) -> None:
    """Weights that are missing are not other weights: what was made with them stays."""
    out, clip = tmp_path / "run", tmp_path / "clip"
    shutil.copytree(undisturbed, out)
    shutil.copytree(clip_folder, clip)
    changed = ("run", kept_config, "--out", out, "--set", f"clip.source={clip}")
    assert commands.run(*changed, "--redo").code == 0
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.png")}
    clip.rename(tmp_path / "away")
    refused(commands.run(*changed), str(clip), "bring it back")
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.png")} == before
    (tmp_path / "away").rename(clip)
    assert commands.run(*changed).code == 0
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.png")} == before
    assert os.path.samefile(clip, tmp_path / "clip")
