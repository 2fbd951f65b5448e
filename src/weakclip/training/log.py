"""`log.jsonl` of a training: one line for some steps each, in step with the checkpoints."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from weakclip.store.files import append_json, atomic_write
from weakclip.store.untrusted_text import parse_json
from weakclip.training.tensorboard import EventFile, open_event_file


class TrainLog:
    """Means of the losses since the last line, learning rate, gradient norm, images per second.

    Where the extra `tensorboard` is installed, the same numbers are in an event file in `tensorboard/` beside it.

    Args:
        path: `log.jsonl`, or None to write nothing (companion processes).
        every: steps from line to line.
    """

    def __init__(self, path: Path | None, every: int) -> None:
        self.path = path
        self.every = every
        self.sums: dict[str, float] = {}
        self.count = 0
        self._started = time.perf_counter()
        self._images = 0
        self._events: EventFile | None = None

    def add(self, values: dict[str, float], *, images: int) -> None:
        """Take in the losses of one step.

        Args:
            values: name → loss of this step.
            images: images of this step over all processes.
        """
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.count += 1
        self._images += images

    def write(self, step: int, extra: dict[str, float], *, last: bool = False) -> None:
        """Append a line after each `every` steps and after the last one; between them, do nothing.

        Args:
            step: steps done.
            extra: values of this very step (learning rate), not averaged.
            last: whether it was the last step.
        """
        if step % self.every and not last:
            return
        now = time.perf_counter()
        means = {name: value / self.count for name, value in self.sums.items() if self.count}
        rate = self._images / max(now - self._started, 1e-9)
        record = {"step": step, **means, **extra, "images_per_second": round(rate, 2)}
        if self.path is not None:
            append_json(self.path, record)
        if self._events is not None:
            self._events.append(record)
        self.sums, self.count, self._images, self._started = {}, 0, 0, now

    def note(self, step: int, entry: dict[str, Any]) -> None:
        """Append a line about this very step, whatever `every` says."""
        if self.path is not None:
            append_json(self.path, {"step": step, **entry})

    def tensors(self) -> dict[str, Tensor]:
        """The sums since the last line, for the checkpoint."""
        values = {**self.sums, "": float(self.count)}
        return {name or "count": torch.tensor(value, dtype=torch.float64) for name, value in values.items()}

    def restore(self, tensors: dict[str, Tensor], step: int) -> None:
        """Go back to a checkpoint: its sums, and only the lines up to its step."""
        self.sums = {name: float(value) for name, value in tensors.items() if name != "count"}
        self.count = int(tensors["count"])
        if self.path is None:
            return
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else []
        kept = [line for line in lines if _step_of(line) <= step]
        if kept != lines:
            with atomic_write(self.path, "w") as file:
                file.writelines(f"{line}\n" for line in kept)
        self._events = open_event_file(self.path, kept)


def _step_of(line: str) -> float:
    try:
        return float(parse_json(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")  # cut short by a kill
