"""How long and how to train, and what a finished training says about itself."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import get_args

from weakclip.errors import ConfigError
from weakclip.store.keys import NO_EFFECT
from weakclip.store.ranges import check_range
from weakclip.training.precision import Precision

OPTIMIZERS, SCHEDULES, PRECISIONS = ("adamw", "sgd"), ("cosine", "poly"), get_args(Precision)
"""Words of the settings `optimizer`, `schedule` and `precision`."""

POLY_POWER = 0.9  # github.com/Yingyue-L/deeplabv1-resnet38, tools/config.py


@dataclass(frozen=True, kw_only=True)
class RateFactor:
    """A factor on the learning rate of some parameters.

    Args:
        part: text in the names of the parameters ("decode_head").
        factor: 0 or more; 0 leaves the parameters as they are.
    """

    part: str
    factor: float

    def __post_init__(self) -> None:
        if not self.part or self.factor < 0:
            found = f"part {self.part!r}, factor {self.factor}"
            raise ConfigError(f"rate_factors: a part of a name, and a factor of 0 or more, expected; found {found}")


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """How long and how to train. The defaults are the published recipe of WeakCLIP on PASCAL VOC 2012.

    Args:
        steps: number of optimiser steps.
        batch_size: images a step, over all processes together.
        optimizer: "adamw", or "sgd" with `momentum`.
        schedule: of the learning rate after the warm-up: "cosine", or "poly", `(1 - t)^0.9`.
        learning_rate: after the warm-up.
        rate_factors: factors on the learning rate by the names of parameters; where several fit, their product counts.
        momentum: of "sgd", 0…1.
        weight_decay: for tensors of two and more dimensions (not for biases, norms and temperatures).
        warmup_steps: steps over which the learning rate rises linearly from nearly 0.
        min_learning_rate: where the schedule ends.
        clip_grad_norm: upper bound of the gradient's Euclidean norm; None for no bound.
        ema_decay: decay of the averaged weights, which are the result, 0…1; 0 keeps the last weights.
        precision: "fp32"; "tf32", float32 whose products are rounded on GPUs; "bf16" (autocast); or "auto": bf16 where
            it pays, on GPUs and on CPUs with AMX.
        checkpoint_every: steps from checkpoint to checkpoint.
        keep_every: steps from kept weights to kept weights, in files of their own beside the result: averaged ones, or,
            with `ema_decay` 0, those of the step; None keeps none.
        log_every: steps from line to line of `log.jsonl`.
        workers: processes that load data; 0 loads in the training process. The result does not depend on it.
        max_bad_steps: steps in a row whose loss or gradient is not finite that end the training; fewer are skipped.
        repeat_threshold: images of classes that fewer images show than this share of the mean of all classes come more
            than once an epoch (`training.sampling`); 0.75 leaves even data sets as they are. None: each image once.
        verified_repeats: how many times an epoch an image with a verified mask comes, 1 or more; fewer times where
            verified images would be more than half of the epoch. Where no mask is verified, it has no effect.
    """

    steps: int = 20_000
    batch_size: int = 16
    optimizer: str = "adamw"
    schedule: str = "cosine"
    learning_rate: float = 1e-4
    rate_factors: tuple[RateFactor, ...] = ()
    momentum: float = 0.9
    weight_decay: float = 3e-5
    warmup_steps: int = 1500
    min_learning_rate: float = 1e-6
    clip_grad_norm: float | None = 1.0
    ema_decay: float = 0.999
    precision: str = "auto"
    checkpoint_every: int = field(default=500, metadata=NO_EFFECT)
    keep_every: int | None = field(default=None, metadata=NO_EFFECT)
    log_every: int = field(default=20, metadata=NO_EFFECT)
    workers: int = field(default=0, metadata=NO_EFFECT)
    max_bad_steps: int = field(default=10, metadata=NO_EFFECT)
    repeat_threshold: float | None = None
    verified_repeats: float = 4.0

    def __post_init__(self) -> None:
        counts = "steps", "batch_size", "checkpoint_every", "keep_every", "log_every", "max_bad_steps"
        check_range(self, *counts, "verified_repeats", least=1)
        check_range(self, "learning_rate", "weight_decay", "warmup_steps", "min_learning_rate", "workers", least=0)
        check_range(self, "ema_decay", "momentum", least=0, below=1)
        check_range(self, "clip_grad_norm", "repeat_threshold", above=0)
        for name, words in (("optimizer", OPTIMIZERS), ("schedule", SCHEDULES), ("precision", PRECISIONS)):
            if getattr(self, name) not in words:
                raise ConfigError(f"{name}: {', '.join(words)} expected; found {getattr(self, name)!r}")


def no_start(section: str, what: str, file: str) -> str:
    """The message about a network that would be trained from random weights unasked.

    >>> no_start("retrain", "x starts from ImageNet", "x.params")
    'retrain.pretrained: x starts from ImageNet: name the file, x.params; random weights: retrain.from_scratch: true'
    """
    return f"{section}.pretrained: {what}: name the file, {file}; random weights: {section}.from_scratch: true"


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """Figures of a finished training.

    Args:
        steps: steps done, over all starts.
        seconds: time spent in this start.
        images_per_second: rate in this start; 0 where nothing was left to do.
        trained_parameters: number of parameters that were trained.
        total_parameters: number of parameters of the model.
        skipped_steps: steps whose loss or gradient was not finite, over all starts; they changed no weight.
    """

    steps: int
    seconds: float
    images_per_second: float
    trained_parameters: int
    total_parameters: int
    skipped_steps: int


def learning_rate_at(step: int, settings: TrainSettings) -> float:
    """Learning rate of a step, counted from 0: linear warm-up, then a half cosine, or `(1 - t)^0.9`, to the floor.

    >>> settings = TrainSettings(steps=30, warmup_steps=10, learning_rate=1.0, min_learning_rate=0.0)
    >>> [round(learning_rate_at(step, settings), 3) for step in (0, 9, 10, 20, 29)]
    [0.1, 1.0, 1.0, 0.5, 0.006]
    """
    if step < settings.warmup_steps:
        return settings.learning_rate * (step + 1) / settings.warmup_steps
    progress = (step - settings.warmup_steps) / max(1, settings.steps - settings.warmup_steps)
    span = settings.learning_rate - settings.min_learning_rate
    share = (1 - progress) ** POLY_POWER if settings.schedule == "poly" else 0.5 * (1 + math.cos(math.pi * progress))
    return settings.min_learning_rate + span * share
