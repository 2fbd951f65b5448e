"""The settings of a run: one section for each part, composed of dataclasses that live beside their owners."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

from weakclip.config.clip_settings import ClipSettings
from weakclip.config.data import AnyData, ScenesData
from weakclip.config.seeds import AnySeeds, ClipGradCAMSeeds
from weakclip.crf import VOC_CRF, Refinement
from weakclip.datasets import AugmentSettings
from weakclip.errors import ConfigError
from weakclip.inference.pseudo_masks import PseudoMaskSettings
from weakclip.inference.windows import InferenceSettings
from weakclip.modeling import ModelSettings
from weakclip.modeling.train import LossSettings
from weakclip.segmenters.train import RetrainSettings
from weakclip.store.keys import MORE_OUTPUT
from weakclip.store.ranges import check_range
from weakclip.training.settings import TrainSettings


@dataclass(frozen=True, kw_only=True)
class EvaluateSettings:
    """How the retrained network predicts; for WeakCLIP, `pseudo_masks` says it.

    Args:
        inference: scales, flip and windows.
        crf: dense CRF or PAR on its predictions, which are scored without it, too; None for none.
        winners_only: whether that dense CRF is told only the classes that win some pixel before it.
        step: the step of its training whose weights predict, of those that `retrain.train.keep_every` kept; None for
            the result of the training.
        pictures: rows of the report's picture sheet, of either split.
    """

    inference: InferenceSettings = field(default_factory=InferenceSettings)
    crf: Refinement | None = VOC_CRF
    winners_only: bool = False
    step: int | None = None
    pictures: int = field(default=8, metadata=MORE_OUTPUT)

    def __post_init__(self) -> None:
        check_range(self, "step", least=1)
        check_range(self, "pictures", least=0)


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything that decides what a run computes.

    Args:
        data: the images.
        clip: the frozen CLIP.
        seeds: where the seeds come from.
        model: the numbers of WeakCLIP.
        augment: the augmentation of WeakCLIP's training.
        loss: WeakCLIP's loss.
        train: how WeakCLIP is trained on the seeds.
        pseudo_masks: how its predictions become masks.
        retrain: which network is trained on those masks, and how.
        evaluate: how that network predicts.
        seed: of everything random.
        device: "auto" takes an accelerator where there is one; "cpu", or a torch device name.
    """

    data: AnyData
    clip: ClipSettings = field(default_factory=ClipSettings)
    seeds: AnySeeds = field(default_factory=ClipGradCAMSeeds)
    model: ModelSettings = field(default_factory=ModelSettings)
    augment: AugmentSettings = field(default_factory=AugmentSettings)
    loss: LossSettings = field(default_factory=LossSettings)
    train: TrainSettings = field(default_factory=TrainSettings)
    pseudo_masks: PseudoMaskSettings = field(default_factory=PseudoMaskSettings)
    retrain: RetrainSettings = field(default_factory=RetrainSettings)
    evaluate: EvaluateSettings = field(default_factory=EvaluateSettings)
    seed: int = 0
    device: str = "auto"

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**32:
            raise ConfigError(f"seed: a whole number from 0 to 2³² − 1 expected; found {self.seed}")
        if not isinstance(self.data, ScenesData):  # which shows the parts at work in minutes, with weak networks
            self.seeds.check_start()
            self.retrain.check_start()


def limit_training(config: RunConfig, steps: int) -> RunConfig:
    """The same run with at most `steps` steps in each training that it holds, and warm-ups that fit."""

    def limited(settings: TrainSettings) -> TrainSettings:
        count = min(steps, settings.steps)
        return dataclasses.replace(settings, steps=count, warmup_steps=min(settings.warmup_steps, count))

    retrain = dataclasses.replace(config.retrain, train=limited(config.retrain.train))
    seeds = config.seeds.limited(limited)
    return dataclasses.replace(config, train=limited(config.train), retrain=retrain, seeds=seeds)
