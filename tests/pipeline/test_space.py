"""The disk space of a run: said before the first stage, refused where there is less, and never more than is needed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from weakclip.config import RunConfig, parse_config
from weakclip.errors import StorageError
from weakclip.pipeline import run_pipeline, run_stage, space


@pytest.fixture
def config(tiny_settings: Callable[..., dict[str, Any]]) -> RunConfig:
    return parse_config(tiny_settings(), origin="test")


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """A disk with as much room as told."""
    return lambda free: monkeypatch.setattr(space, "free_bytes", lambda folder: free)


def needed(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [line for line in caplog.messages if "of disk space" in line]


def test_a_run_says_what_it_takes_and_takes_no_less(
    config: RunConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level("INFO", "weakclip")
    told: dict[str, int] = {}
    real = space._needed

    def watched(*args: Any) -> tuple[dict[str, int], int]:
        sizes, growth = real(*args)
        told.update(sizes)
        return sizes, growth

    monkeypatch.setattr(space, "_needed", watched)
    run = tmp_path / "run"
    run_pipeline(config, run)
    (line,) = needed(caplog)
    assert line.startswith(f"{run}: takes at least ") and line.endswith(" are free")
    assert set(told) == {"seeds", "train", "pseudo_masks", "retrain", "evaluate"}
    folders = {"seeds": "1_seeds", "train": "2_train", "pseudo_masks": "3_pseudo_masks", "retrain": "4_retrain"}
    for stage, folder in {**folders, "evaluate": "5_evaluate"}.items():
        taken = space._size_of(run / folder)
        assert (0.75 if "train" in stage else 0.1) * taken < told[stage] <= taken, stage
    caplog.clear()
    run_pipeline(config, run)
    assert needed(caplog) == []


def test_too_small_a_disk_is_one_line_before_the_first_stage(
    config: RunConfig, tmp_path: Path, disk: Callable[[int], None]
) -> None:
    run = tmp_path / "run"
    disk(100_000)
    with pytest.raises(StorageError, match=r"run: the stages need at least .* MB of disk space, and 0\.1 MB are free"):
        run_pipeline(config, run)
    assert not list(run.glob("[1-5]_*"))
    disk(2**40)
    assert run_stage(config, run, "seeds").ran == ("seeds",)


def test_what_is_done_needs_no_room(config: RunConfig, tmp_path: Path, disk: Callable[[int], None]) -> None:
    run_stage(config, tmp_path, "seeds")
    disk(0)
    assert run_stage(config, tmp_path, "seeds").skipped == ("seeds",)
    with pytest.raises(StorageError, match=r"0\.0 MB are free; make room, or choose another --out"):
        run_stage(config, tmp_path, "train")


def test_the_disk_is_that_of_the_nearest_folder(tmp_path: Path) -> None:
    assert space.free_bytes(tmp_path / "a/b/c") == pytest.approx(space.free_bytes(tmp_path), rel=0.1)


def test_counting_changes_no_result(config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The network that is built to be counted takes no random number of another."""
    run_pipeline(config, tmp_path / "counted")
    monkeypatch.setattr("weakclip.pipeline.run.check_space", lambda plan, wanted: None)
    run_pipeline(config, tmp_path / "plain")
    for file in ("2_train/model.safetensors", "4_retrain/model.safetensors"):
        assert (tmp_path / "counted" / file).read_bytes() == (tmp_path / "plain" / file).read_bytes()
