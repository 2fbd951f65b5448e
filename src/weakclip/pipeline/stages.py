"""The stages of a run, each a short function from what is there to a folder of results."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from weakclip.config import RunConfig
from weakclip.inference.evaluation import Scores, describe_crf, describe_scales, score_masks
from weakclip.inference.region_judge import RegionBankSettings
from weakclip.inference.windows import LogitsFunction
from weakclip.modeling import load_weakclip
from weakclip.modeling.train import train_weakclip
from weakclip.pipeline.context import TRAIN_DATA, VAL_DATA, RunContext
from weakclip.pipeline.mask_records import compare_stages
from weakclip.pipeline.mask_stage import make_pseudo_masks
from weakclip.pipeline.networks import load_network, score_on_val
from weakclip.pipeline.pictures import write_pictures
from weakclip.pipeline.seed_stage import make_seeds
from weakclip.pipeline.upper_bound import evaluate_upper_bound, retrain_on_truth, train_weakclip_on_truth
from weakclip.pipeline.verdicts import ReviewedImages
from weakclip.pipeline.views import EvaluateView, MasksView, RetrainView, SeedsView, TrainView, TruthView, View
from weakclip.pipeline.written import finish_scores, write_training
from weakclip.report.chosen import TITLES, TRAINED_BY, Network, choose_network, write_chosen
from weakclip.segmenters.train import WEAKCLIP, retrain
from weakclip.store.files import write_json
from weakclip.store.layout import DENSE, MASKS, SEED_MASKS
from weakclip.store.share import current
from weakclip.training.dataset import TrainingPairs
from weakclip.training.processes import write_once

logger = logging.getLogger("weakclip")

LEFT_OUT = "left_out.json"
"""In the folder of `retrain`: names of the images whose masks were marked bad and not trained on."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A stage: its work, and the things that its result depends on.

    Args:
        purpose: in words, for the user.
        view: the settings that it reads, of those of the run.
        run: from the run's context, the view and the stage's folder, which exists, to the result in that folder.
        data: the sources of data that it reads, as `RunContext.fingerprint` names them.
        upstream: the stages whose results it reads.
        outputs: settings of the view that ask this stage for more files beside its result.
        item_parts: folders of `NAME.png` in its result, where the result of an image depends on no other image.
        code: raised when the same inputs give another result than in the version before.
    """

    purpose: str
    view: Callable[[RunConfig], View]
    run: Callable[[RunContext, Any, Path], None]
    data: tuple[str, ...]
    upstream: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    item_parts: tuple[str, ...] = ()
    code: int = 1


def train_on_seeds(context: RunContext, view: TrainView, folder: Path) -> None:
    """Train WeakCLIP on the seed masks."""
    seeds, verified = context.folder("seeds") / SEED_MASKS, context.verified.names
    pairs = TrainingPairs(context.train, seeds, view.augment, verified=verified)
    torch.manual_seed(view.seed)
    model = view.model.build(context.clip, context.train.class_set)
    result = train_weakclip(model, pairs, folder, view.train, loss=view.loss, device=context.device, seed=view.seed)
    write_training(context, folder, result)


def retrain_on_pseudo_masks(context: RunContext, view: RetrainView, folder: Path) -> None:
    """Train a segmentation network on the pseudo masks; those that a review marked bad are left out."""
    bad, dataset = context.bad, context.train
    if bad:
        logger.info("retrain: %d of %d masks are marked bad and left out", len(bad), len(dataset))
        dataset = ReviewedImages(dataset, left_out=bad)
        write_once(lambda: write_json(folder / LEFT_OUT, list(bad)), context.device)
    masks, verified = context.folder("pseudo_masks") / MASKS, context.verified.names
    pairs = TrainingPairs(dataset, masks, view.retrain.augment, verified=verified)
    start = None
    if view.retrain.model == WEAKCLIP:
        start = load_weakclip(context.folder("train"), clip=context.clip, device=context.device, step=view.step)
    result = retrain(pairs, folder, view.retrain, start=start, device=context.device, seed=view.seed)
    write_training(context, folder, result)


def evaluate(context: RunContext, view: EvaluateView, folder: Path) -> None:
    """Score seeds and pseudo masks on the training split and the networks on the validation split; choose the network
    that the run hands over; compare what seeds, masks and that network say of every training image; draw pictures."""
    dataset, val = context.train, context.val
    seeds, pseudo = context.folder("seeds"), context.folder("pseudo_masks") / MASKS
    scores = _score_masks(context, view) if dataset.has_masks else []
    settings = {network: view.prediction(network) for network in view.networks}
    rows = {  # one after the other: no network is in memory beside another
        network: score_on_val(
            context, _load(context, view, network), folder / network, settings[network], subject=TITLES[network]
        )
        for network in view.networks
    }
    chosen = choose_network(rows)
    taken, how = _load(context, view, chosen.network), settings[chosen.network]
    if chosen.crf is False:
        how = dataclasses.replace(how, crf=None)
    splits = {dataset.split: dataset} | ({val.split: val} if val else {})
    mask_folders: dict[str, dict[str, Path]] = {split: {} for split in splits}
    mask_folders[dataset.split] = {"seed": seeds / SEED_MASKS, "pseudo mask": pseudo}
    current().once(
        lambda: write_pictures(folder, splits, mask_folders, taken, how, count=view.pictures, device=context.device)
    )
    compare_stages(dataset, folder, taken, how.inference, seeds=seeds / SEED_MASKS, masks=pseudo, device=context.device)

    def close() -> None:
        write_chosen(context.out, chosen)
        logger.info("evaluate: the network of this run is its %s", chosen.line)
        finish_scores(context, folder, [*scores, *(row for network in rows for row in rows[network])])

    current().once(close)


def _load(context: RunContext, view: EvaluateView, network: Network) -> LogitsFunction:
    """A network of the run, as it predicts images whose labels nobody knows."""
    how = view.prediction(network)
    return load_network(context, context.folder(TRAINED_BY[network]), match_share=how.match_share, step=how.step)


def _score_masks(context: RunContext, view: EvaluateView) -> list[Scores]:
    """Seeds and pseudo masks on the training split."""
    dataset, masks = context.train, view.pseudo_masks
    made = {"crf": describe_crf(masks.crf), "multi_scale": describe_scales(masks.inference)}
    pseudo, verified = context.folder("pseudo_masks") / MASKS, context.verified
    verified.tell_scored(dataset.names)
    return [
        *score_masks(context.folder("seeds") / DENSE, dataset, subject="seeds", crf=view.seed_crf),
        *score_masks(pseudo, dataset, subject="pseudo masks", verified=verified, **made),
    ]


STAGES = {
    "seeds": Stage(
        purpose="where the classes are, told from the image-level labels",
        view=SeedsView.of,
        run=make_seeds,
        data=(*TRAIN_DATA, "labels from the review", "verified masks"),
        code=2,
    ),
    "train": Stage(
        purpose="training WeakCLIP on the seeds",
        view=TrainView.of,
        run=train_on_seeds,
        data=(*TRAIN_DATA, "CLIP weights"),
        upstream=("seeds",),
    ),
    "pseudo_masks": Stage(
        purpose="pixel masks of the training images",
        view=MasksView.of,
        run=make_pseudo_masks,
        data=(*TRAIN_DATA, "labels from the review", "verified masks"),
        upstream=("train",),
        outputs=("pseudo_masks.confidence",),
        code=2,
    ),
    "retrain": Stage(
        purpose="training a segmentation network on the pseudo masks",
        view=RetrainView.of,
        run=retrain_on_pseudo_masks,
        data=(*TRAIN_DATA, "masks marked bad", "student weights", "student trunk"),
        upstream=("pseudo_masks",),
    ),
    "evaluate": Stage(
        purpose="scores against the true masks, where there are any",
        view=EvaluateView.of,
        run=evaluate,
        data=(*TRAIN_DATA, "train masks", *VAL_DATA, "val masks"),
        upstream=("seeds", "train", "pseudo_masks", "retrain"),
        outputs=("pictures",),
        code=6,
    ),
    "retrain_truth": Stage(
        purpose="training the same network on the true masks, the upper bound",
        view=RetrainView.of,
        run=retrain_on_truth,
        data=(*TRAIN_DATA, "train masks", "labels from the review", "student weights", "student trunk"),
    ),
    "evaluate_truth": Stage(
        purpose="scores of the upper bound",
        view=EvaluateView.of,
        run=evaluate_upper_bound,
        data=(*VAL_DATA, "val masks"),
        upstream=("retrain_truth",),
        code=5,
    ),
}
"""Every stage by its name, in the order in which they run."""


def stages_of(config: RunConfig) -> dict[str, Stage]:
    """The stages that a configuration has, by their names and in their order.

    The seed stage reads what its method reads. The masks are made of the seeds, too, where those have a share in them
    or fill a bank. Without a network to retrain there is no such stage. WeakCLIP's own upper bound repeats the stages
    that train it.
    """
    stages, model = dict(STAGES), config.retrain.model
    clip = ("CLIP weights",) if config.seeds.reads_clip else ()
    read = (*stages["seeds"].data, *clip, "seed method", *config.seeds.sources)
    by_item = (SEED_MASKS, DENSE) if config.seeds.by_item else ()
    stages["seeds"] = dataclasses.replace(stages["seeds"], data=read, item_parts=by_item)
    masks, bank = stages["pseudo_masks"], config.pseudo_masks.region_bank
    drawn: tuple[str, ...] = ("proposals",) if config.pseudo_masks.proposals is not None else ()
    drawn += ("saliency maps",) if config.pseudo_masks.saliency is not None else ()
    second = ("region bank encoder",) if isinstance(bank, RegionBankSettings) and bank.encoder else ()
    reads_seeds = config.pseudo_masks.seed_share or bank is not None
    upstream: tuple[str, ...] = ("seeds", *masks.upstream) if reads_seeds else masks.upstream
    stages["pseudo_masks"] = dataclasses.replace(masks, data=(*masks.data, *drawn, *second), upstream=upstream)
    if model is None:
        del stages["retrain"]
        upstream = tuple(name for name in stages["evaluate"].upstream if name != "retrain")
        stages["evaluate"] = dataclasses.replace(stages["evaluate"], upstream=upstream)
    if model in (None, WEAKCLIP):
        stages["retrain_truth"] = dataclasses.replace(
            stages["retrain_truth"],
            view=TruthView.of,
            run=train_weakclip_on_truth,
            data=(*TRAIN_DATA, "train masks", "labels from the review", "CLIP weights"),
        )
    return stages
