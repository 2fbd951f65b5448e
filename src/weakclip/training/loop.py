"""The one training loop, `fit`: optimiser, schedule, averaged weights, checkpoints, exact resume."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from weakclip.errors import ConfigError, DataError, RunError, WeakCLIPError, WeightsError
from weakclip.store.events import Meter
from weakclip.store.keys import result_settings
from weakclip.store.progress import track
from weakclip.training import checkpoint as checkpoints
from weakclip.training.averaging import AveragedWeights
from weakclip.training.bad_steps import NonFiniteGuard
from weakclip.training.interrupt import StopRequest
from weakclip.training.loading import Batch, TrainingData, load_batches
from weakclip.training.log import TrainLog
from weakclip.training.memory_order import memory_order, set_memory_format
from weakclip.training.optimizer import FACTOR, build_optimizer
from weakclip.training.precision import autocast_dtype, float32_as
from weakclip.training.processes import Processes, open_processes
from weakclip.training.sampler import step_seed
from weakclip.training.sampling import repeats_of
from weakclip.training.settings import TrainResult, TrainSettings, learning_rate_at
from weakclip.training.snapshots import write_snapshot

CHECKPOINT_NAME = "checkpoint.safetensors"
LOG_NAME = "log.jsonl"

LossFunction = Callable[[nn.Module, Batch], dict[str, Tensor]]
"""Model (as wrapped for several processes) and batch → scalars, of which `loss` is the one to minimise."""


def fit(
    model: nn.Module,
    dataset: TrainingData,
    loss_fn: LossFunction,
    settings: TrainSettings,
    folder: Path | str,
    *,
    device: str | torch.device = "cpu",
    seed: int = 0,
    description: str = "training",
) -> TrainResult:
    """Train `model` in place, or go on where `folder` says that an earlier call stopped.

    Data order, augmentation and dropout depend only on the seed and the step: a run stopped at any moment and called
    again ends with the same weights as an undisturbed one (bit for bit on a CPU), whatever the number of workers.
    At the end the model holds the averaged weights and is in evaluation mode. torch's global random state is used.
    A step whose loss or gradient is not finite is skipped: it changes neither weights nor averages nor buffers, and
    `log.jsonl` names its images.

    Args:
        model: only parameters with `requires_grad` are trained.
        dataset: asked with `(index, rng_seed)`; may be smaller than a batch. Where the settings ask for repeats of rare
            classes, it is `LabelledData`.
        loss_fn: `(model, batch)` → scalars; `loss` is minimised, the others are logged.
        settings: how long and how.
        folder: gets `checkpoint.safetensors`, `log.jsonl`, and `snapshots` where the settings ask for them.
        device: where to train.
        seed: of data order, augmentation and dropout.
        description: shown before the progress bar.

    Raises:
        DataError: an empty data set, or what the data set itself raises (a process without companions saves first).
        ConfigError: a batch size that the processes cannot share, or repeats without labels.
        RunError: `max_bad_steps` steps in a row were not finite, a data worker died, or the checkpoint in `folder` was
            made with other settings.
        StorageError: the checkpoint or the log cannot be written; the last checkpoint stays.
        WeightsError: the checkpoint in `folder` is broken, or of another model.
        KeyboardInterrupt, SystemExit: on SIGINT and SIGTERM, after saving.
    """
    if len(dataset) == 0:
        raise DataError("the data set is empty; nothing to train on")
    processes = open_processes(device)
    if settings.batch_size % processes.count:
        raise ConfigError(
            f"batch_size: {settings.batch_size} cannot be shared by {processes.count} processes; set a multiple of that"
        )
    repeats = repeats_of(dataset, settings.repeat_threshold, settings.verified_repeats, log=processes.is_main)
    run_key = {"seed": seed, "images": len(dataset), "repeats": repeats.describe() if repeats else None}
    set_memory_format(model, memory_order(processes.device))
    wrapped = processes.wrap(model)
    run = _Run(model, settings, Path(folder), processes, run_key)
    run.resume()
    first, started = run.step, time.perf_counter()
    wrapped.train()
    loaded = load_batches(dataset, settings, processes, start=first, seed=seed, repeats=repeats)
    with contextlib.closing(loaded) as batches, float32_as(settings.precision, processes.device):
        shown = track(batches, description, total=settings.steps, done=first) if processes.is_main else batches
        meter = Meter(description, ("data", "steps"), settings.batch_size)
        _take_steps(run, wrapped, loss_fn, shown, meter)
        meter.tell()
    seconds = time.perf_counter() - started
    run.averages.copy_to_model()
    set_memory_format(model, torch.contiguous_format)
    model.eval()
    return TrainResult(
        steps=run.step,
        seconds=round(seconds, 3),
        images_per_second=round((run.step - first) * settings.batch_size / max(seconds, 1e-9), 2),
        trained_parameters=sum(parameter.numel() for parameter in run.parameters),
        total_parameters=sum(parameter.numel() for parameter in model.parameters()),
        skipped_steps=run.bad_steps.total,
    )


def _take_steps(run: _Run, model: nn.Module, loss_fn: LossFunction, batches: Iterable[Batch], meter: Meter) -> None:
    settings, processes = run.settings, run.processes
    with StopRequest() as stop:
        for batch in meter.taken(batches):
            if isinstance(batch, WeakCLIPError):
                if processes.count == 1:  # companions are in the middle of their step, and save nothing with it
                    run.save()
                raise batch
            torch.manual_seed(step_seed(run.run_key["seed"], run.step, processes.rank))
            run.take_step(model, loss_fn, batch)
            meter.finished()
            run.keep()
            stopping = processes.any(stop.received is not None)
            if stopping or run.step % settings.checkpoint_every == 0 or run.step == settings.steps:
                run.save()
            if stopping:
                stop.leave()


class _Run:
    """The state of a training: it changes from step to step, and is written to and read from a checkpoint."""

    def __init__(
        self, model: nn.Module, settings: TrainSettings, folder: Path, processes: Processes, run_key: dict[str, Any]
    ) -> None:
        self.settings, self.processes, self.step = settings, processes, 0
        self.path = folder / CHECKPOINT_NAME
        self.tensors = checkpoints.trained_tensors(model)
        named = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        if not named:
            raise ConfigError("the model has no parameter to train")
        self.parameters = list(named.values())
        self.names: dict[Tensor, str] = {parameter: name for name, parameter in named.items()}
        self.optimizer = build_optimizer(named, settings)
        self.averages = AveragedWeights(self.tensors, settings.ema_decay)
        self.bad_steps = NonFiniteGuard(self.tensors.values())
        folder.mkdir(parents=True, exist_ok=True)
        self.log = TrainLog(folder / LOG_NAME if processes.is_main else None, settings.log_every)
        self.run_key = {**result_settings(settings), **run_key}
        self.dtype = autocast_dtype(settings.precision, processes.device)

    def take_step(self, model: nn.Module, loss_fn: LossFunction, batch: Batch) -> None:
        """One step of the optimiser and of the averages, and a line of the log when it is due."""
        device = self.processes.device
        rate = learning_rate_at(self.step, self.settings)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group[FACTOR]
        self.bad_steps.before_step()
        moved = {k: v.to(device, non_blocking=True) if isinstance(v, Tensor) else v for k, v in batch.items()}
        self.optimizer.zero_grad(set_to_none=True)  # before the forward pass, which needs the memory
        with torch.autocast(device.type, self.dtype) if self.dtype else contextlib.nullcontext():
            parts = loss_fn(model, moved)
        parts["loss"].backward()
        bound = self.settings.clip_grad_norm if self.settings.clip_grad_norm is not None else math.inf
        norm = nn.utils.clip_grad_norm_(self.parameters, bound)
        values = self.processes.mean(torch.stack([part.detach().float() for part in (*parts.values(), norm)]))
        named = dict(zip((*parts, "gradient_norm"), values.tolist(), strict=True))  # one device sync
        if not (math.isfinite(named["loss"]) and math.isfinite(named["gradient_norm"])):  # in any process
            self._skip(named, batch)
        else:
            self.optimizer.step()
            self.averages.update(self.step)
            self.bad_steps.good()
            self.log.add(named, images=self.settings.batch_size)
        self.step += 1
        self.log.write(self.step, {"learning_rate": rate}, last=self.step == self.settings.steps)

    def _skip(self, values: dict[str, float], batch: Batch) -> None:
        """Leave weights, averages and buffers as they were, and note the images; too many such steps are the end."""
        self.bad_steps.bad()
        images = self.processes.gather(list(batch.get("name", ())))
        found = f"loss {values['loss']}, gradient's norm {values['gradient_norm']}"
        self.log.note(self.step + 1, {"skipped": found, "images": images})
        settings, count = self.settings, self.bad_steps.in_a_row
        if count >= settings.max_bad_steps:
            raise RunError(
                f"step {self.step + 1}: not finite ({found}), as in all of the last {count} steps; now the images "
                f"{', '.join(images)}; look at them (all are in {self.log.path}), lower learning_rate "
                f"({settings.learning_rate}) or set precision to fp32; the last good checkpoint is {self.path}"
            )

    def keep(self) -> None:
        """Write the weights of this step, where they are to be kept; before its checkpoint, so that none is missed."""
        every = self.settings.keep_every
        if every and self.step % every == 0 and self.processes.is_main:
            write_snapshot(self.path.parent, self.step, self.averages.averages or self.tensors)

    def save(self) -> None:
        """Write the checkpoint; companions wait for process 0."""
        if self.processes.is_main:
            groups = {
                "model": self.tensors,
                "average": self.averages.averages,
                "optimizer": checkpoints.optimizer_tensors(self.optimizer, self.names),
                "log": self.log.tensors(),
                "bad_steps": self.bad_steps.tensors(),
            }
            checkpoints.save_checkpoint(self.path, checkpoints.Checkpoint(self.step, groups, self.run_key))
        self.processes.wait()

    def resume(self) -> None:
        """Take up the checkpoint, where there is one."""
        if not self.path.exists():
            self.log.restore({"count": torch.tensor(0.0)}, step=0)
            return
        found = checkpoints.load_checkpoint(self.path)
        differing = [key for key in self.run_key if found.settings.get(key) != self.run_key[key]]
        if differing:
            key = differing[0]
            raise RunError(
                f"{self.path}: made with {key} {found.settings.get(key)}, now {self.run_key[key]}; "
                "restore the setting, or train into another folder"
            )
        checkpoints.copy_tensors(found.tensors["model"], self.tensors, self.path)
        checkpoints.copy_tensors(found.tensors["average"], self.averages.averages, self.path)
        try:
            checkpoints.restore_optimizer(self.optimizer, self.names, found.tensors["optimizer"])
        except (KeyError, ValueError) as error:
            raise WeightsError(f"{self.path}: broken optimiser state ({error}); move it away to start again") from None
        self.log.restore(found.tensors["log"], found.step)
        self.bad_steps.restore(found.tensors["bad_steps"])
        self.step = found.step
