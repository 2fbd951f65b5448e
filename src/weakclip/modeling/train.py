"""Train WeakCLIP on seeds: what a batch is, and what the loss is."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weakclip.crf import LOSS_CRF, CRFParams, dense_crf
from weakclip.modeling import WeakCLIP, save_weakclip
from weakclip.modeling.losses import (
    boundary_loss,
    grid_probabilities,
    grid_seeds,
    label_logits,
    matching_loss,
    seeding_loss,
)
from weakclip.store.ranges import check_range
from weakclip.training.dataset import TrainingPairs
from weakclip.training.loading import Batch
from weakclip.training.loop import fit
from weakclip.training.processes import write_once
from weakclip.training.settings import TrainResult, TrainSettings


@dataclass(frozen=True, kw_only=True)
class LossSettings:
    """Numbers of WeakCLIP's loss; the defaults are the published ones.

    Args:
        size: side of the grid that seeding and boundary loss look at, pixels (64 for a crop of 512).
        matching_weight: weight of the matching loss; 0 leaves it out.
        crf: the dense CRF that the prediction is drawn to, on that grid; None leaves the boundary loss out.
        class_balance: whether the classes of an image weigh the same in the seeding loss, however large they are.
        label_share: share of the seeding loss, 0…1, that is computed among the classes of the image's labels; 0 is
            published. It serves masks whose labels are known, and rare classes most.
    """

    size: int = 64
    matching_weight: float = 0.4
    crf: CRFParams | None = LOSS_CRF
    class_balance: bool = False
    label_share: float = 0.0

    def __post_init__(self) -> None:
        check_range(self, "size", least=1)
        check_range(self, "matching_weight", least=0)
        check_range(self, "label_share", least=0, most=1)


class WeakCLIPLoss:
    """`seeding + boundary + 0.4 · matching` of a batch.

    The dense CRF works in another thread, and on other cores, while the losses that do not need it are computed.

    Args:
        settings: grid, weight and dense CRF.
    """

    def __init__(self, settings: LossSettings) -> None:
        self.settings = settings
        self._beside = ThreadPoolExecutor(1, thread_name_prefix="boundary-crf")

    def __call__(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """The total and its parts.

        Args:
            model: a `WeakCLIP`, or a wrapper of one.
            batch: `image` `(B, 3, H, W)` uint8, `mask` `(B, H, W)` uint8, 255 where the seeds say nothing, and, for a
                `label_share`, `shown` `(B, K)` bool.

        Returns:
            Scalars `loss`, `seeding_loss`, `boundary_loss` and `matching_loss`; without those that are left out.
        """
        size, params, weight = (
            (self.settings.size, self.settings.size),
            self.settings.crf,
            self.settings.matching_weight,
        )
        images, seeds = batch["image"], batch["mask"]
        output = model(images)
        probs = grid_probabilities(output.logits, size)
        crf = self._beside.submit(_crf_target, _on_grid(images, size), probs.detach(), params) if params else None
        parts = {"seeding_loss": self._seeding(output.logits, probs, batch)}
        matching = matching_loss(output.match_map, seeds, weight=weight) if weight else None
        if crf is not None:
            parts["boundary_loss"] = boundary_loss(probs, crf.result())
        if matching is not None:
            parts["matching_loss"] = matching
        return {"loss": torch.stack(list(parts.values())).sum(), **parts}

    def _seeding(self, logits: Tensor, probs: Tensor, batch: Batch) -> Tensor:
        """The seeding loss over all classes, over those of the labels, or both by their shares."""
        size = (self.settings.size, self.settings.size)
        seeds, share, balance = grid_seeds(batch["mask"], size), self.settings.label_share, self.settings.class_balance
        loss = seeding_loss(probs, seeds, class_balance=balance) if share < 1 else probs.new_zeros(())
        if share == 0:
            return loss
        known = grid_probabilities(label_logits(logits, batch["shown"]), size)
        return (1 - share) * loss + share * seeding_loss(known, seeds, class_balance=balance)


def _crf_target(images: Tensor, probs: Tensor, params: CRFParams) -> Tensor:
    """The dense CRF of the prediction; NaN where that holds NaN, so that the step counts as a bad one."""
    return dense_crf(images, probs, params) if bool(probs.isfinite().all()) else torch.full_like(probs, torch.nan)


def _on_grid(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Images `(B, 3, H, W)` uint8 at the size of the loss's grid, `(B, 3, *size)` uint8."""
    resized = F.interpolate(images.float(), size=size, mode="bilinear", align_corners=False)
    return resized.round().to(torch.uint8)


def train_weakclip(
    model: WeakCLIP,
    pairs: TrainingPairs,
    folder: Path | str,
    settings: TrainSettings,
    *,
    loss: LossSettings | None = None,
    device: str | torch.device = "cpu",
    seed: int = 0,
) -> TrainResult:
    """Train `model` on seeds and write it to `folder`; a stopped training goes on where it was.

    Args:
        model: freshly built (the same way when a training is to go on); holds the averaged weights afterwards.
        pairs: images and seed masks.
        folder: gets `model.safetensors`, `weakclip.json`, `log.jsonl` and `checkpoint.safetensors`.
        settings: how long and how.
        loss: numbers of the loss; None for the published ones.
        device: where to train.
        seed: of data order, augmentation and dropout.

    Raises:
        WeakCLIPError: as `fit`.
    """
    terms = WeakCLIPLoss(loss or LossSettings())
    result = fit(model, pairs, terms, settings, folder, device=device, seed=seed, description="training WeakCLIP")
    write_once(lambda: save_weakclip(model, folder), device)
    return result
