"""The seed method "mctformer": settings, training, and maps of the trained network."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, Self

from weakclip.errors import ConfigError
from weakclip.seeds.kinds import CAMSeeds, SeedRun
from weakclip.seeds.mctformer.cam import MCTformerCAM
from weakclip.seeds.mctformer.storage import load_mctformer
from weakclip.seeds.mctformer.train import DEIT_START, WEIGHTS_FILE, MCTformerSettings, train_mctformer
from weakclip.store.files import expand_home
from weakclip.store.share import current
from weakclip.training.settings import TrainSettings, no_start

FOLDER = "mctformer"
"""In the folder of the stage: the training."""


@dataclass(frozen=True, kw_only=True)
class MCTformerSeeds(CAMSeeds):
    """Maps of an MCTformer+, which is trained on the labels first, or which is there already.

    Args:
        mctformer: which MCTformer+, how it is trained, and how its maps are made.
    """

    method: Literal["mctformer"] = "mctformer"
    mctformer: MCTformerSettings = field(default_factory=MCTformerSettings)

    @property
    def is_random(self) -> bool:
        """Its training is random."""
        return self.mctformer.checkpoint is None or super().is_random

    @property
    def sources(self) -> dict[str, str | None]:
        """The weights that it has, or that its training starts from."""
        return {"MCTformer+ weights": self.mctformer.source, **super().sources}

    def check_start(self) -> None:
        """MCTformer+ starts from DeiT, or from the image tower of a CLIP."""
        super().check_start()
        if self.mctformer.source is None and not self.mctformer.from_scratch:
            raise ConfigError(no_start("seeds.mctformer", "MCTformer+ starts from DeiT", DEIT_START))

    def limited(self, limit: Callable[[TrainSettings], TrainSettings]) -> Self:
        """The same with shorter trainings."""
        mctformer = dataclasses.replace(self.mctformer, train=limit(self.mctformer.train))
        return dataclasses.replace(super().limited(limit), mctformer=mctformer)

    def make(self, run: SeedRun) -> MCTformerCAM:
        """The method with these settings; without a checkpoint, an MCTformer+ is trained, or its training finished."""
        path = run.folder / FOLDER / WEIGHTS_FILE
        if self.mctformer.checkpoint is not None:
            path = expand_home(self.mctformer.checkpoint)
        else:
            assert run.seed is not None
            with current().as_one():
                train_mctformer(run.dataset, path.parent, self.mctformer, device=run.device, seed=run.seed)
        return MCTformerCAM(load_mctformer(path, device=run.device), run.dataset.class_set, self.mctformer.cams)
