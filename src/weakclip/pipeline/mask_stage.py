"""Stage 3: a pseudo mask for every training image."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from weakclip.datasets import ImageLabelDataset
from weakclip.datasets.classes import IGNORE_INDEX
from weakclip.datasets.images import write_mask, write_png
from weakclip.inference.evaluation import describe_crf, describe_scales
from weakclip.inference.mask_statistics import STATISTICS, read_statistics
from weakclip.inference.mask_writing import MaskSteps, mask_steps, work_on_masks
from weakclip.inference.windows import LogitsFunction
from weakclip.pipeline.context import RunContext
from weakclip.pipeline.mask_records import MaskRecorder
from weakclip.pipeline.networks import load_network, on_the_encoder
from weakclip.pipeline.pictures import class_entries
from weakclip.pipeline.proposal_files import with_proposals
from weakclip.pipeline.region_stage import region_judge
from weakclip.pipeline.views import MasksView
from weakclip.report.worse_masks import change_record, seed_change, warning
from weakclip.store.files import append_json, write_json
from weakclip.store.layout import CONFIDENCE, DENSE, LOG, MASKS, SEED_MASKS
from weakclip.store.share import current
from weakclip.store.threads import once

logger = logging.getLogger("weakclip")


def make_pseudo_masks(context: RunContext, view: MasksView, folder: Path) -> None:
    """Predict every training image with WeakCLIP, and sharpen it with the dense CRF."""
    view = MasksView(pseudo_masks=with_proposals(context, view.pseudo_masks))
    settings, dataset = view.pseudo_masks, context.train
    for name in context.verified.names:  # in every process, before it looks at what is there, which is passed over
        mask = context.verified.mask(name)
        if settings.confidence:
            write_png(folder / CONFIDENCE / f"{name}.png", np.where(mask == IGNORE_INDEX, 0, 255).astype(np.uint8))
        write_mask(folder / MASKS / f"{name}.png", mask, dataset.class_set.palette)
    steps, again = _mask_steps(context, view, folder), context.again(_mask_steps, view, folder)
    work_on_masks(steps, dataset, folder, settings, again=again)

    def close() -> None:
        _recorder(context, folder).finish()
        note = {
            "split": dataset.split,
            "images": len(dataset),
            "verified": len(context.verified),
            "classes": class_entries(dataset.class_set),
            "crf": describe_crf(settings.crf),
            "multi_scale": describe_scales(settings.inference),
            **_seed_change(dataset, folder),
            **context.left_out(dataset.split),
        }
        append_json(folder / LOG, {"images": len(dataset)})
        write_json(folder / "metrics.json", note)

    current().once(close)


def _mask_steps(context: RunContext, view: MasksView, folder: Path) -> MaskSteps:
    """The work of `make_pseudo_masks` on an image, in any process."""
    settings, seeds = view.pseudo_masks, context.folder("seeds")
    return mask_steps(
        _weakclip(context, view),
        context.train,
        folder,
        settings,
        device=context.device,
        observe=_recorder(context, folder).add,
        judge=region_judge(context, settings.region_bank, seeds / SEED_MASKS, folder),
        seeds=seeds / DENSE,
    )


def _weakclip(context: RunContext, view: MasksView) -> LogitsFunction:
    """The run's WeakCLIP, loaded at the first call."""
    step, share = view.pseudo_masks.step, view.pseudo_masks.match_share
    network = once(lambda: load_network(context, context.folder("train"), match_share=share, step=step))

    def logits_of(images: Tensor) -> Tensor:
        return network()(images)

    return on_the_encoder(context, logits_of)


def _recorder(context: RunContext, folder: Path) -> MaskRecorder:
    seeds = context.folder("seeds")
    return MaskRecorder(context.train, seeds=seeds / SEED_MASKS, dense=seeds / DENSE, folder=folder)


def _seed_change(dataset: ImageLabelDataset, folder: Path) -> dict[str, Any]:
    """The fate of the seeds, for the metrics; where it looks like harm, the user is told."""
    change, names = seed_change(read_statistics(folder / STATISTICS)), dataset.class_set.names
    said = warning(change, names)
    if said:
        logger.warning("pseudo_masks: %s", said)
    return {"warnings": [said] if said else [], "seed_change": change_record(change, names)}
