"""Settings of the seed stage: one class for each seed method, told apart by `method`, which makes the method, too.

A new method is one file with its class of settings, derived from `CAMSeeds`, and one line in `config/seeds.py`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Self

from weakclip.clip import Encoder
from weakclip.datasets import ImageLabelDataset
from weakclip.errors import ConfigError
from weakclip.seeds.affinitynet.train import AFFINITY_START, AffinitySettings
from weakclip.seeds.base import SeedMethod, SeedSettings
from weakclip.training.settings import TrainSettings, no_start


@dataclass(frozen=True, kw_only=True)
class SeedRun:
    """The parts of a run that a seed method can use.

    Args:
        clip: loads the frozen encoder, at the first call; for methods whose `reads_clip` is true.
        dataset: the training images and their labels.
        device: where networks run.
        folder: of the stage; a method that trains something keeps it in a folder of its own there.
        seed: the random seed; None for settings whose `is_random` is false.
        given: the object of `run_pipeline(seed_method=…)`, where there is one.
    """

    clip: Callable[[], Encoder]
    dataset: ImageLabelDataset
    device: str
    folder: Path
    seed: int | None
    given: SeedMethod | None = None


@dataclass(frozen=True, kw_only=True)
class SeedStageSettings:
    """Settings of every seed method.

    Args:
        method: the kind.
    """

    method: str

    @property
    def reads_clip(self) -> bool:
        """Whether the run's frozen encoder makes the maps."""
        return False

    @property
    def is_random(self) -> bool:
        """Whether the random seed of the run has a part in the result."""
        return False

    @property
    def by_item(self) -> bool:
        """Whether the seeds of an image depend on no other image."""
        return not self.is_random

    @property
    def sources(self) -> dict[str, str | None]:
        """Files and folders that the method reads, beside the images: what each is, in words, and its name."""
        return {}

    def check_start(self) -> None:
        """Refuse a network that would start from random weights unasked.

        Raises:
            ConfigError: it would.
        """

    def limited(self, limit: Callable[[TrainSettings], TrainSettings]) -> Self:
        """The same settings with every training in them cut short by `limit`."""
        return self


@dataclass(frozen=True, kw_only=True)
class CAMSeeds(SeedStageSettings):
    """Seeds that are made of class activation maps.

    Args:
        affinity: an AffinityNet that is trained on the maps and spreads them; None for none. The `background` of its
            walk then takes the place of the `background_power` of `masks`.
        masks: how class activation maps become seed masks.
    """

    affinity: AffinitySettings | None = None
    masks: SeedSettings = field(default_factory=SeedSettings)

    @property
    def is_random(self) -> bool:
        """AffinityNet's training is random."""
        return self.affinity is not None

    @property
    def sources(self) -> dict[str, str | None]:
        """The checkpoint that AffinityNet starts from."""
        return {"ResNet38 weights": self.affinity.pretrained} if self.affinity else {}

    def check_start(self) -> None:
        """AffinityNet starts from a checkpoint of ResNet38."""
        if self.affinity and self.affinity.pretrained is None and not self.affinity.from_scratch:
            raise ConfigError(no_start("seeds.affinity", "AffinityNet starts from a trained ResNet38", AFFINITY_START))

    def limited(self, limit: Callable[[TrainSettings], TrainSettings]) -> Self:
        """The same with a shorter training of AffinityNet."""
        if self.affinity is None:
            return self
        affinity = dataclasses.replace(self.affinity, train=limit(self.affinity.train))
        return dataclasses.replace(self, affinity=affinity)

    def make(self, run: SeedRun) -> SeedMethod:
        """The method with these settings, trained first where it has to learn."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class EncoderSeeds(CAMSeeds):
    """Seeds whose maps the run's frozen encoder makes."""

    @property
    def reads_clip(self) -> bool:
        """The encoder is an input of the stage."""
        return True


@dataclass(frozen=True, kw_only=True)
class OwnSeeds(CAMSeeds):
    """Maps of an object that a Python program gives to `run_pipeline(seed_method=…)`."""

    method: Literal["own"] = "own"

    @property
    def by_item(self) -> bool:
        """Nobody knows."""
        return False

    def make(self, run: SeedRun) -> SeedMethod:
        """The object.

        Raises:
            ConfigError: there is none.
        """
        if run.given is None:
            raise ConfigError("seeds.method own: names an object of a Python program; pass run_pipeline(seed_method=…)")
        return run.given
