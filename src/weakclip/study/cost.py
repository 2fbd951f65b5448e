"""Measures a training step: WeakCLIP against AffinityNet on ResNet38, in turn, each time in a fresh process."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import platform
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from weakclip.errors import RunError
from weakclip.pipeline.context import usable_device
from weakclip.store.files import write_json
from weakclip.store.keys import ResultKey, plain
from weakclip.store.progress import track
from weakclip.study.cost_pages import write_cost_pages
from weakclip.study.cost_sides import Side, Training, drawn_batch
from weakclip.study.record import RECORD, read_record, study_folder
from weakclip.training.loading import Batch
from weakclip.training.precision import autocast_dtype


@dataclass(frozen=True, kw_only=True)
class CostSettings:
    """How both sides are measured.

    Args:
        crop: side of the images, pixels.
        num_classes: `K`, with the background.
        batch_size: images a step.
        steps: timed steps of a process, after one that is not timed.
        repetitions: processes of each side.
        precision: "fp32", or "bf16" (autocast).
        device: torch device.
    """

    crop: int = 512
    num_classes: int = 21
    batch_size: int = 2
    steps: int = 2
    repetitions: int = 3
    precision: str = "fp32"
    device: str = "cpu"


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """The measurements of one process.

    Args:
        side: its name.
        seconds: wall time of each timed step.
        cpu_seconds: processor time of each, over all threads.
        before_bytes: memory before the model was made: the interpreter and its libraries; 0 on a GPU.
        peak_bytes: the most memory that the process had (on a GPU, that its tensors had).
        total_parameters: of the model.
        trained_parameters: those with a gradient.
    """

    side: str
    seconds: tuple[float, ...]
    cpu_seconds: tuple[float, ...]
    before_bytes: int
    peak_bytes: int
    total_parameters: int
    trained_parameters: int


def study_cost(out: Path | str, sides: Sequence[Side], settings: CostSettings) -> list[Measurement]:
    """Measure the sides in turn; `study.json`, `table.md` and `study.svg` are in `out` afterwards.

    Args:
        out: the study's folder; measurements of the same settings on the same machine that are there stay.
        sides: what is compared; the last is what the others are held against.
        settings: how.

    Raises:
        ConfigError: a device that cannot be used.
        RunError: `out` holds something else, another process works there, or a process was killed (for want of memory).
    """
    out = Path(out)
    usable_device(settings.device)
    described = {type(side).__name__: plain(side) for side in sides}
    key = ResultKey(settings={"sides": described, "machine": machine(), **asdict(settings)})
    with study_folder(out, key):
        known = read_record(out, "measurements") if (out / RECORD).is_file() else []
        found = [_measurement(entry) for entry in known]
        order = [side for _ in range(settings.repetitions) for side in sides]
        _save(out, key, found)
        for side in track(order[len(found) :], "training steps", total=len(order), done=len(found)):
            found.append(_in_fresh_process(side, settings))
            _save(out, key, found)
        write_cost_pages(out, found, settings.batch_size, f"{settings.precision}, {machine()['processor']}")
        return found


def machine() -> dict[str, Any]:
    """The machine and the versions that the numbers depend on."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def measure(side: Side, settings: CostSettings) -> Measurement:
    """Build a side and take its steps, in this process."""
    device = torch.device(settings.device)
    torch.manual_seed(0)
    before = _memory(device, "VmRSS")
    training = side.build(device)
    batch = drawn_batch(settings.batch_size, settings.crop, settings.num_classes, device)
    dtype = autocast_dtype(settings.precision, device)
    times = [_timed_step(training, batch, dtype) for _ in range(1 + settings.steps)][1:]
    parameters = list(training.model.parameters())
    return Measurement(
        side=side.name,
        seconds=tuple(wall for wall, _ in times),
        cpu_seconds=tuple(cpu for _, cpu in times),
        before_bytes=before,
        peak_bytes=_memory(device, "VmHWM"),
        total_parameters=sum(parameter.numel() for parameter in parameters),
        trained_parameters=sum(parameter.numel() for parameter in parameters if parameter.requires_grad),
    )


def _timed_step(training: Training, batch: Batch, dtype: torch.dtype | None) -> tuple[float, float]:
    """Forward, loss, backward, bound and optimiser; wall and processor seconds."""
    device = batch["image"].device
    wall, cpu = time.perf_counter(), time.process_time()
    training.optimizer.zero_grad(set_to_none=True)
    with torch.autocast(device.type, dtype) if dtype else contextlib.nullcontext():
        loss = training.loss(training.model, batch)["loss"]
    loss.backward()
    if training.clip_grad_norm is not None:
        nn.utils.clip_grad_norm_(training.model.parameters(), training.clip_grad_norm)
    training.optimizer.step()
    if device.type != "cpu":
        torch.get_device_module(device).synchronize(device)
    return time.perf_counter() - wall, time.process_time() - cpu


def _memory(device: torch.device, field: str) -> int:
    """Bytes: the tensors' peak on a GPU; the process's present (VmRSS) or highest (VmHWM) memory. Linux counts the
    latter for each program anew, unlike `getrusage`, whose peak begins with that of the parent."""
    if device.type != "cpu":
        return int(torch.get_device_module(device).max_memory_allocated(device))
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        raise RunError("the cost study reads memory from /proc/self/status, which only Linux has") from None
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def _in_fresh_process(side: Side, settings: CostSettings) -> Measurement:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(measure, side, settings).result()
        except BrokenProcessPool:
            raise RunError(
                f"{side.name}: its process was killed, perhaps for want of memory; lower the batch size "
                f"({settings.batch_size})"
            ) from None


def _save(out: Path, key: ResultKey, found: Sequence[Measurement]) -> None:
    write_json(out / RECORD, {"key": key.record(), "measurements": [asdict(each) for each in found]})


def _measurement(entry: dict[str, Any]) -> Measurement:
    values: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in entry.items()}
    return Measurement(**values)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
