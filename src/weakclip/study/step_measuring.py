"""Times the steps of a training: those of one process, and those of one of two that share each batch.

What a process has to do in every step whatever its part of the batch, such as encoding the class names, and what it has
to do for its companions (batch norms over all parts, exchanging gradients) shows in the second only. So does what they
cost each other by what they share (memory, the cores of a processor that are two threads of one): theirs is wall time.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from weakclip.config import RunConfig
from weakclip.datasets import ImageLabelDataset, Sample
from weakclip.datasets.images import write_mask
from weakclip.errors import RunError
from weakclip.modeling import WeakCLIP
from weakclip.modeling.train import train_weakclip
from weakclip.pipeline.context import RunContext
from weakclip.pipeline.data import SomeImages
from weakclip.pipeline.given import Given
from weakclip.segmenters.train import WEAKCLIP, retrain
from weakclip.store.share import sharing
from weakclip.store.threads import usable_cores
from weakclip.training.dataset import TrainingPairs
from weakclip.training.launch import launch
from weakclip.training.processes import open_processes
from weakclip.training.settings import TrainResult, TrainSettings

MOST_IMAGES, ROUNDS, STEPS, NEVER = 12, 3, 5, 10**9
"""Images that are worked on, trainings with each batch size, steps of each that are timed, and the step of a checkpoint
that never comes."""
COMPANIONS = 2
"""Processes whose steps are timed together."""
LAST = "last"
"""Folder of the last training with the whole batch."""

Fit = Callable[[TrainSettings, Path], TrainResult]


def few_images(dataset: ImageLabelDataset) -> SomeImages:
    """Images from the whole of a data set, evenly spaced."""
    count = len(dataset)
    return SomeImages(dataset, np.unique(np.linspace(0, count - 1, min(count, MOST_IMAGES), dtype=int)).tolist())


def clock_of(device: str) -> Callable[[], float]:
    """Processor time on a CPU, wall time on an accelerator."""
    return time.process_time if torch.device(device).type == "cpu" else time.perf_counter


def time_weakclip(
    context: RunContext, masks: Path, folder: Path, *, processes: int = 1
) -> tuple[dict[int, float], TrainResult]:
    """`time_steps` of WeakCLIP's training on a folder of masks."""
    config, device = context.config, context.device
    pairs = TrainingPairs(context.train, masks, config.augment)

    def fit(settings: TrainSettings, where: Path) -> TrainResult:
        model = config.model.build(context.clip, context.train.class_set)
        return train_weakclip(model, pairs, where, settings, loss=config.loss, device=device, seed=config.seed)

    return time_steps(fit, config.train, folder, device, processes=processes)


def time_retraining(
    context: RunContext, masks: Path, folder: Path, *, processes: int = 1
) -> tuple[dict[int, float], TrainResult]:
    """`time_steps` of the training of the network that is retrained."""
    settings, device = context.config.retrain, context.device
    pairs = TrainingPairs(context.train, masks, settings.augment)

    def fit(train: TrainSettings, where: Path) -> TrainResult:
        start: WeakCLIP | None = None
        if settings.model == WEAKCLIP:
            start = context.config.model.build(context.clip, context.train.class_set)
        how = dataclasses.replace(settings, train=train)
        return retrain(pairs, where, how, start=start, device=device, seed=context.config.seed)

    return time_steps(fit, settings.train, folder, device, processes=processes)


def time_steps(
    fit: Fit, settings: TrainSettings, folder: Path, device: str, *, processes: int = 1
) -> tuple[dict[int, float], TrainResult]:
    """The median step with all of a batch and with half of it, from one update of the weights to the next.

    Args:
        fit: a training with some settings, in a folder.
        settings: of the training.
        folder: for the trainings; the last one with the whole batch stays in `folder/last`.
        device: of the training.
        processes: that share each batch; all of them call this. With one, the device's clock is taken, with several the
            wall's.

    Returns:
        Seconds by the number of images that this process has of the batch; and the last training's result.

    Raises:
        RunError: no two steps had finite losses.
    """
    now = clock_of(device) if processes == 1 else time.perf_counter
    whole = max(1, settings.batch_size // processes)
    workers = 0 if torch.device(device).type == "cpu" else settings.workers
    short = dataclasses.replace(
        settings, steps=1 + STEPS, warmup_steps=0, checkpoint_every=NEVER, keep_every=None, log_every=NEVER,
        repeat_threshold=None, workers=workers,
    )  # fmt: skip
    found, ends = defaultdict[int, list[float]](list), list[float]()
    hook = register_optimizer_step_post_hook(lambda *_: ends.append(now()))
    try:
        for number in range(ROUNDS):  # in turn: what disturbs one size for a while disturbs the other, too
            for part in sorted({max(1, whole // 2), whole}):
                ends.clear()
                where = folder / f"{part}_{number}"
                result = fit(dataclasses.replace(short, batch_size=part * processes), where)
                found[part] += [after - before for before, after in itertools.pairwise(ends)]
    finally:
        hook.remove()
    if not all(found.values()):
        raise RunError("the training has no two steps with finite losses to be timed; lower its learning_rate")
    (where / "log.jsonl").unlink(missing_ok=True)
    where.rename(folder / LAST)
    return {part: median(seconds) for part, seconds in found.items()}, result


def step_and_image(seconds: dict[int, float]) -> tuple[float, float]:
    """The time of a step itself and the time of each image in it, told apart by two batch sizes.

    Args:
        seconds: of a step, by its images.

    Returns:
        Both, 0 or more. What one size says, or two that contradict each other, is shared by the images.

    >>> step_and_image({4: 3.0, 8: 5.0})
    (1.0, 0.5)
    >>> step_and_image({4: 2.0, 8: 5.0})
    (0.0, 0.625)
    """
    small, large = min(seconds), max(seconds)
    each = seconds[large] / large
    image = (seconds[large] - seconds[small]) / (large - small) if large > small else each
    image = min(max(image, 0.0), each)
    return seconds[large] - image * large, image


def shared_steps(config: RunConfig, folder: Path) -> dict[str, float]:
    """Rates of the steps of one of two processes, `train.shared.step` and so on; nothing where accelerators are too
    few for two.

    Raises:
        WeakCLIPError: as the trainings.
    """
    on_cpu = torch.device(RunContext(config, folder).device).type == "cpu"
    if not on_cpu and torch.accelerator.device_count() < COMPANIONS:
        return {}
    cores = usable_cores() if on_cpu else None
    return launch(functools.partial(_take_part, config, folder, cores), COMPANIONS, preload=__name__)


def seconds_of_one_core(wall: float, threads: int, cores: int) -> float:
    """Seconds of one core that one of two processes takes in a time of the wall's clock.

    Args:
        wall: seconds.
        threads: of each process.
        cores: that both have.

    >>> seconds_of_one_core(3.0, threads=1, cores=2), seconds_of_one_core(3.0, threads=1, cores=1)
    (3.0, 1.5)
    >>> seconds_of_one_core(3.0, threads=8, cores=16)
    24.0
    """
    return wall * min(threads, cores / COMPANIONS)


def _take_part(config: RunConfig, folder: Path, cores: int | None) -> dict[str, float]:
    """The work of each process; `launch` returns the result of the first one. On a CPU they share the `cores`."""
    whole = RunContext(config, folder, trusted=True)
    processes = open_processes(whole.device)
    with sharing(processes):
        context = RunContext(config, folder, given=Given(dataset=few_images(whole.train)), trusted=True)
        masks, rates = folder / f"masks_{processes.rank}", dict[str, float]()
        for sample in (context.train[index] for index in range(len(context.train))):
            write_left_half(masks, sample, context.train.class_set.palette)
        trainings = {"train": time_weakclip} | ({"retrain": time_retraining} if config.retrain.model else {})
        for stage, timed in trainings.items():
            own = folder / f"{stage}_{processes.rank}"
            seconds, _ = timed(context, masks, own, processes=processes.count)
            if cores is not None:
                threads = torch.get_num_threads()
                seconds = {part: seconds_of_one_core(wall, threads, cores) for part, wall in seconds.items()}
            step, image = step_and_image(seconds)
            rates |= {f"{stage}.shared.step": step, f"{stage}.shared.image": image}
    return rates


def write_left_half(folder: Path, sample: Sample, palette: np.ndarray) -> None:
    """Write an invented mask, so that a training has one: a class of the image on the left, background on the right."""
    height, width = sample.image.shape[:2]
    mask = np.zeros((height, width), np.uint8)
    mask[:, : width // 2] = next(iter(sample.labels), 0)
    write_mask(folder / f"{sample.name}.png", mask, palette)
