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
from weakclip.pipeline.networks import load_network, network_settings, score_on_val
from weakclip.pipeline.verdicts import ReviewedImages
from weakclip.pipeline.written import finish_scores, write_training
from weakclip.report.chosen import Network
from weakclip.segmenters.train import WEAKCLIP, retrain
from weakclip.store.progress import track
from weakclip.training.dataset import TrainingPairs

logger = logging.getLogger("weakclip")

TRUE_MASKS, FIRST = "true_masks", "first_training"
"""In the stage's folder: the masks; and, where WeakCLIP is trained twice, what the first training ends with."""


def retrain_on_truth(context: RunContext, folder: Path) -> None:
    """Train the network of the stage `retrain` on the true masks, in the same way."""
    dataset, masks = _true_masks(context, folder)
    settings = context.config.retrain
    pairs = TrainingPairs(dataset, masks, settings.augment)
    result = retrain(pairs, folder, settings, device=context.device, seed=context.config.seed)
    write_training(context, folder, result)


def train_weakclip_on_truth(context: RunContext, folder: Path) -> None:
    """Train WeakCLIP on the true masks as the run trains it: in place of the seeds and, where it is trained further, in
    place of the pseudo masks; from the same start, with the same steps and losses."""
    dataset, masks = _true_masks(context, folder)
    config, device, seed = context.config, context.device, context.config.seed
    further = config.retrain.model == WEAKCLIP
    pairs = TrainingPairs(dataset, masks, config.augment)
    torch.manual_seed(seed)
    model = config.model.build(context.clip, dataset.class_set)
    first = folder / FIRST if further else folder
    result = train_weakclip(model, pairs, first, config.train, loss=config.loss, device=device, seed=seed)
    if further:
        pairs = TrainingPairs(dataset, masks, config.retrain.augment)
        result = retrain(pairs, folder, config.retrain, start=model, device=device, seed=seed)
    write_training(context, folder, result)


def evaluate_upper_bound(context: RunContext, folder: Path) -> None:
    """Score the network that was trained on the true masks."""
    network: Network = "weakclip" if context.config.retrain.model is None else "retrained"
    share = network_settings(context.config, network).match_share
    logits_of = load_network(context, context.folder("retrain_truth"), match_share=share)
    finish_scores(context, folder, score_on_val(context, network, logits_of, folder, subject="network (true masks)"))


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
    for index in track(range(len(dataset)), "true masks", total=len(dataset)):
        mask = dataset.mask(index)
        if mask is None:
            raise DataError(f"{dataset.names[index]}: has no true mask; the upper bound of --full needs one an image")
        path = masks / f"{dataset.names[index]}.png"
        if not path.is_file():
            write_mask(path, mask, dataset.class_set.palette)
    return dataset, masks
