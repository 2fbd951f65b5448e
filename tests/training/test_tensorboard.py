"""The event file of a training is its `log.jsonl`, once, however the training was stopped."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from weakclip.training.log import TrainLog
from weakclip.training.tensorboard import FOLDER

pytest.importorskip("tensorboard", reason="the extra tensorboard is not installed")


def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard itself reads: name → (step, value)."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(folder / FOLDER))
    accumulator.Reload()
    names = accumulator.Tags()["scalars"]
    return {name: [(event.step, event.value) for event in accumulator.Scalars(name)] for name in names}


def logged(folder: Path) -> dict[str, list[tuple[int, float]]]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    names = [name for name in lines[0] if name != "step"]
    return {name: [(line["step"], pytest.approx(line[name], rel=1e-6)) for line in lines] for name in names}


def take_steps(log: TrainLog, first: int, last: int) -> None:
    for step in range(first, last + 1):
        log.add({"loss": 1 / step, "gradient_norm": 2.0}, images=4)
        log.write(step, {"learning_rate": 0.1 * step}, last=step == 9)


def test_every_number_of_the_log_is_a_curve(tmp_path: Path) -> None:
    log = TrainLog(tmp_path / "log.jsonl", every=2)
    log.restore(log.tensors(), step=0)
    take_steps(log, 1, 9)
    found = curves(tmp_path)
    assert found.keys() == {"loss", "gradient_norm", "learning_rate", "images_per_second"}
    assert found == logged(tmp_path)
    assert [step for step, _ in found["loss"]] == [2, 4, 6, 8, 9]


def test_a_resumed_training_continues_the_curves_without_doubles(tmp_path: Path) -> None:
    log = TrainLog(tmp_path / "log.jsonl", every=1)
    log.restore(log.tensors(), step=0)
    take_steps(log, 1, 4)
    saved = log.tensors()
    take_steps(log, 5, 7)  # lost by a kill after step 7: the checkpoint is that of step 4
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 8, "lo')
    again = TrainLog(tmp_path / "log.jsonl", every=1)
    again.restore(saved, step=4)
    take_steps(again, 5, 9)
    assert len(list((tmp_path / FOLDER).iterdir())) == 1
    assert [step for step, _ in curves(tmp_path)["loss"]] == list(range(1, 10))
    assert curves(tmp_path) == logged(tmp_path)


def test_a_skipped_step_in_the_log_does_not_stop_the_next_start(tmp_path: Path) -> None:
    log = TrainLog(tmp_path / "log.jsonl", every=1)
    log.restore(log.tensors(), step=0)
    take_steps(log, 1, 2)
    log.note(2, {"skipped": "the loss is nan", "images": ["a", "b"]})
    again = TrainLog(tmp_path / "log.jsonl", every=1)
    again.restore(log.tensors(), step=2)
    take_steps(again, 3, 4)
    assert [step for step, _ in curves(tmp_path)["loss"]] == [1, 2, 3, 4]


def test_without_the_extra_there_is_no_event_file_and_the_log_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find_spec = importlib.util.find_spec

    def absent(name: str, package: str | None = None) -> Any:
        return None if name == "tensorboard" else find_spec(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", absent)
    log = TrainLog(tmp_path / "log.jsonl", every=1)
    log.restore(log.tensors(), step=0)
    take_steps(log, 1, 9)
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 9
    assert not (tmp_path / FOLDER).exists()


def test_tensorflow_is_not_imported_for_it(tmp_path: Path) -> None:
    log = TrainLog(tmp_path / "log.jsonl", every=1)
    log.restore(log.tensors(), step=0)
    take_steps(log, 1, 2)
    assert "tensorflow" not in sys.modules
