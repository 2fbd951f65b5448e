"""The upper bound of a run: its network, trained on true masks. Nothing else trains on pixel labels."""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from weakclip.datasets import ImageLabelDataset
from weakclip.datasets.images import write_mask
from weakclip.errors import DataError
from weakclip.modeling.train import train_weakclip
from weakclip.pipeline.context import RunContext
from weakclip.pipeline.networks import load_network, score_on_val
from weakclip.pipeline.verdicts import ReviewedImages
from weakclip.pipeline.views import EvaluateView, RetrainView, TruthView
from weakclip.pipeline.written import finish_scores, write_training
from weakclip.segmenters.train import retrain
from weakclip.store.jobs import work_through
from weakclip.store.share import current
from weakclip.training.dataset import TrainingPairs

logger = logging.getLogger("weakclip")

TRUE_MASKS, FIRST = "true_masks", "first_training"
"""In the stage's folder: the masks; and, where WeakCLIP is trained twice, what the first training ends with."""


def retrain_on_truth(context: RunContext, view: RetrainView, folder: Path) -> None:
    """Train the network of the stage `retrain` on the true masks, in the same way."""
    dataset, masks = _true_masks(context, folder)
    pairs = TrainingPairs(dataset, masks, view.retrain.augment)
    result = retrain(pairs, folder, view.retrain, device=context.device, seed=view.seed)
    write_training(context, folder, result)


def train_weakclip_on_truth(context: RunContext, view: TruthView, folder: Path) -> None:
    """Train WeakCLIP on the true masks as the run trains it: in place of the seeds and, where it is trained further, in
    place of the pseudo masks; from the same start, with the same steps and losses."""
    dataset, masks = _true_masks(context, folder)
    device, seed = context.device, view.seed
    pairs = TrainingPairs(dataset, masks, view.augment)
    torch.manual_seed(seed)
    model = view.model.build(context.clip, dataset.class_set)
    first = folder / FIRST if view.retrain else folder
    result = train_weakclip(model, pairs, first, view.train, loss=view.loss, device=device, seed=seed)
    if view.retrain:
        pairs = TrainingPairs(dataset, masks, view.retrain.augment)
        result = retrain(pairs, folder, view.retrain, start=model, device=device, seed=seed)
    write_training(context, folder, result)


def evaluate_upper_bound(context: RunContext, view: EvaluateView, folder: Path) -> None:
    """Score the network that was trained on the true masks."""
    settings = view.prediction(view.networks[-1])
    logits_of = load_network(context, context.folder("retrain_truth"), match_share=settings.match_share)
    scores = score_on_val(context, logits_of, folder, settings, subject="network (true masks)")
    current().once(lambda: finish_scores(context, folder, scores))


def _true_masks(context: RunContext, folder: Path) -> tuple[ImageLabelDataset, Path]:
    """The training split, without images whose true mask cannot be read, and the folder that its masks are written to.

    Raises:
        DataError: an image without a true mask.
    """
    dataset = context.train
    unscored = [each.image for each in context.broken if each.split == dataset.split and not each.left_out]
    if unscored:
        logger.info("retrain_truth: %d true masks cannot be read; their images are left out", len(unscored))
        dataset = ReviewedImages(dataset, left_out=unscored)
    masks = folder / TRUE_MASKS

    def path_of(index: int) -> Path:
        return masks / f"{dataset.names[index]}.png"

    def write(index: int) -> None:
        mask = dataset.mask(index)
        if mask is None:
            raise DataError(f"{dataset.names[index]}: has no true mask; the upper bound of --full needs one an image")
        write_mask(path_of(index), mask, dataset.class_set.palette)

    work_through(
        range(len(dataset)),
        is_done=lambda index: path_of(index).is_file(),
        make=iter,
        finish=write,
        description="true masks",
    )
    return dataset, masks
