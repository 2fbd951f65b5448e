"""Settings that each stage reads. A stage is given its view and nothing else of the configuration; its key follows from
the view, so a setting that a stage does not read cannot change its key."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Self

from weakclip.config import AnySeeds, CAMSeeds, ClipSettings, EvaluateSettings, RunConfig
from weakclip.datasets import AugmentSettings
from weakclip.inference.evaluation import NOT_USED, describe_crf
from weakclip.inference.pseudo_masks import PseudoMaskSettings
from weakclip.modeling import ModelSettings
from weakclip.modeling.train import LossSettings
from weakclip.report.chosen import Network
from weakclip.segmenters.train import WEAKCLIP, RetrainSettings
from weakclip.store.keys import MORE_OUTPUT
from weakclip.training.settings import TrainSettings


@dataclass(frozen=True, kw_only=True)
class View:
    """Settings of one stage. Its fields are sections of the configuration, by their names."""

    @classmethod
    def of(cls, config: RunConfig) -> Self:
        """The view of a configuration."""
        return cls(**_shared(cls, config))


@dataclass(frozen=True, kw_only=True)
class SeedsView(View):
    """Settings of the stage `seeds`: the encoder where the method reads it, the seed where it is random."""

    clip: ClipSettings | None
    seeds: AnySeeds
    seed: int | None

    @classmethod
    def of(cls, config: RunConfig) -> Self:
        """The view of a configuration."""
        seeds = config.seeds
        clip = config.clip if seeds.reads_clip else None
        return cls(clip=clip, seeds=seeds, seed=config.seed if seeds.is_random else None)


@dataclass(frozen=True, kw_only=True)
class TrainView(View):
    """Settings of the stage `train`."""

    clip: ClipSettings
    model: ModelSettings
    augment: AugmentSettings
    loss: LossSettings
    train: TrainSettings
    seed: int


@dataclass(frozen=True, kw_only=True)
class MasksView(View):
    """Settings of the stage `pseudo_masks`."""

    pseudo_masks: PseudoMaskSettings


@dataclass(frozen=True, kw_only=True)
class RetrainView(View):
    """Settings of the stage `retrain`; `step` is that of the WeakCLIP that is trained further, where one is."""

    retrain: RetrainSettings
    step: int | None
    seed: int

    @classmethod
    def of(cls, config: RunConfig) -> Self:
        """The view of a configuration."""
        step = config.pseudo_masks.step if config.retrain.model == WEAKCLIP else None
        return cls(retrain=config.retrain, step=step, seed=config.seed)


@dataclass(frozen=True, kw_only=True)
class TruthView(TrainView):
    """Settings of the stage `retrain_truth` where it trains WeakCLIP, as `train` and, where it is set, `retrain` do."""

    retrain: RetrainSettings | None

    @classmethod
    def of(cls, config: RunConfig) -> Self:
        """The view of a configuration."""
        retrain = config.retrain if config.retrain.model is not None else None
        return cls(**_shared(TrainView, config), retrain=retrain)


@dataclass(frozen=True, kw_only=True)
class EvaluateView(View):
    """Settings of the stages that score: how WeakCLIP predicts, and how the retrained network does, where there is one.

    Args:
        pseudo_masks: WeakCLIP predicts as it makes pseudo masks.
        evaluate: how the retrained network predicts; None where there is none.
        seed_crf: the dense CRF of the seeds, in words.
        pictures: rows of the picture sheet, of either split.
    """

    pseudo_masks: PseudoMaskSettings
    evaluate: EvaluateSettings | None
    seed_crf: str
    pictures: int = field(metadata=MORE_OUTPUT)

    @classmethod
    def of(cls, config: RunConfig) -> Self:
        """The view of a configuration."""
        seeds = config.seeds
        return cls(
            pseudo_masks=config.pseudo_masks,
            evaluate=config.evaluate if config.retrain.model is not None else None,
            seed_crf=describe_crf(seeds.masks.crf) if isinstance(seeds, CAMSeeds) else NOT_USED,
            pictures=config.evaluate.pictures,
        )

    @property
    def networks(self) -> tuple[Network, ...]:
        """The networks of the run."""
        return ("weakclip",) if self.evaluate is None else ("weakclip", "retrained")

    def prediction(self, network: Network) -> PseudoMaskSettings:
        """How a network predicts images whose labels nobody knows."""
        return _prediction(self.pseudo_masks, self.evaluate if network == "retrained" else None)


def prediction_settings(config: RunConfig, network: Network) -> PseudoMaskSettings:
    """How a network of a run predicts images whose labels nobody knows; a retrained one may be there, of an earlier
    configuration, where this one retrains none."""
    return _prediction(config.pseudo_masks, config.evaluate if network == "retrained" else None)


def _prediction(weakclip: PseudoMaskSettings, retrained: EvaluateSettings | None) -> PseudoMaskSettings:
    if retrained is None:  # the seeds, which have a share or fill the bank, know the labels
        no_labels = dataclasses.replace(weakclip, restrict_to_labels=False, seed_share=0.0, confidence=False)
        return dataclasses.replace(no_labels, saliency=None, proposals=None, region_bank=None)
    return PseudoMaskSettings(
        inference=retrained.inference,
        crf=retrained.crf,
        winners_only=retrained.winners_only,
        step=retrained.step,
        restrict_to_labels=False,
    )


def _shared(kind: type[Any], config: RunConfig) -> dict[str, Any]:
    """The sections of a configuration that a view has under the same names."""
    return {entry.name: getattr(config, entry.name) for entry in dataclasses.fields(kind)}
