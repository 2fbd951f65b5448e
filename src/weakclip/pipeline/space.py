"""The disk space that the stages of a run will take: said before the first of them, and refused where there is less.

What is counted: masks, strips and the weights of trainings, of images whose sizes their headers tell. It is a lower
bound: files of a seed method's own training are not counted, nor is a network from the hub.
"""

from __future__ import annotations

import contextlib
import logging
import math
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from weakclip.datasets import ImageLabelDataset
from weakclip.errors import DataError, StorageError, WeakCLIPError
from weakclip.pipeline.context import RunContext
from weakclip.pipeline.plan import Plan
from weakclip.segmenters.segmenter import DEEPLAB, SMALL, build_segmenter
from weakclip.segmenters.train import WEAKCLIP
from weakclip.training.checkpoint import trained_tensors
from weakclip.training.settings import TrainSettings

logger = logging.getLogger("weakclip")

BLOCK = 4096
"""Bytes that a small file takes on most disks."""
MASK_BYTES = 0.01
"""Of a pixel of a palette PNG, on top of its 900 bytes of head and palette."""
CONFIDENCE_BYTES = 0.1
"""Of a pixel of a grey PNG of confidences."""
STRIP = BLOCK
CHECKPOINT = 4
"""A checkpoint holds weights, their averages and two moments of the optimiser; beside it stands the result."""
MOST_HEADERS = 200


def check_space(plan: Plan, wanted: Sequence[str]) -> None:
    """Say what the stages that are not done will take.

    Raises:
        StorageError: more than the disk has.
    """
    left = [stage for stage in wanted if plan.state(stage) != "done"]
    sizes, growth = _needed(plan, left)
    if not sizes:
        return
    out, needed = plan.context.out, sum(sizes.values()) + growth
    free = free_bytes(out)
    if needed > free:
        raise StorageError(
            f"{out}: the stages need at least {size_text(needed)} of disk space, and {size_text(free)} are free; make "
            "room, or choose another --out"
        )
    each = ", ".join(f"{stage} {size_text(size)}" for stage, size in sizes.items())
    logger.info("%s: takes at least %s of disk space (%s); %s are free", out, size_text(needed), each, size_text(free))


def free_bytes(folder: Path) -> int:
    """Free bytes of the disk that a folder is on, or will be."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(there).free


def size_text(size: float) -> str:
    """A size for people.

    >>> size_text(1_500_000_000), size_text(2_000_000), size_text(10)
    ('1.5 GB', '2.0 MB', '0.0 MB')
    """
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def _needed(plan: Plan, stages: Sequence[str]) -> tuple[dict[str, int], int]:
    """Bytes that each stage adds to what is there, and those that one of them needs for a while."""
    context, sizes, growth = plan.context, dict[str, int](), 0
    for stage in stages:
        whole = _image_bytes(context, stage)
        with contextlib.suppress(WeakCLIPError):  # what a training lacks is said where it starts
            weights, settings = _weights(context, stage)
            kept = settings.steps // settings.keep_every if settings and settings.keep_every else 0
            whole += (CHECKPOINT + 1 + kept) * weights
            growth = max(growth, CHECKPOINT * weights)  # the old checkpoint stays until the new one stands
        there = _size_of(context.folder(stage)) if plan.state(stage) == "unfinished" else 0
        if whole:
            sizes[stage] = max(0, whole - there)
    return sizes, growth


def _size_of(folder: Path) -> int:
    return sum(blocks(path.stat().st_size) for path in folder.rglob("*") if path.is_file())


def _image_bytes(context: RunContext, stage: str) -> int:
    """Bytes of the masks and pictures of a stage."""
    train, settings = context.train, context.config.pseudo_masks
    pixels = _pixels(train)
    mask, confidence = blocks(900 + MASK_BYTES * pixels), blocks(CONFIDENCE_BYTES * pixels)
    each = {
        "seeds": 2 * mask,
        "pseudo_masks": mask + STRIP + (confidence if settings.confidence else 0),
        "evaluate": mask + STRIP,
    }
    return each.get(stage, 0) * len(train)


def blocks(size: float) -> int:
    """The bytes that a file of a size takes on a disk: whole blocks."""
    return math.ceil(size / BLOCK) * BLOCK


def _pixels(dataset: ImageLabelDataset) -> float:
    """Pixels of the median image, of some whose headers can be read."""
    found = []
    for index in np.unique(np.linspace(0, len(dataset) - 1, num=min(len(dataset), MOST_HEADERS), dtype=int)).tolist():
        with contextlib.suppress(DataError):
            found.append(math.prod(dataset.size(index)))
    return float(np.median(found)) if found else 0.0


def _weights(context: RunContext, stage: str) -> tuple[int, TrainSettings | None]:
    """Bytes of the weights that a stage trains; nothing is computed for them. 0 where it trains none."""
    config, classes = context.config, context.train.class_set
    model = config.retrain.model
    if stage == "train" or (stage in ("retrain", "retrain_truth") and model in (None, WEAKCLIP)):
        with torch.random.fork_rng(devices=[]):  # the stage sets the seeds of all devices
            network: nn.Module = config.model.build(context.clip, classes, outline=True)
    elif stage in ("retrain", "retrain_truth") and model in (SMALL, DEEPLAB):
        with torch.device("meta"):
            network = build_segmenter(model, classes)
    else:
        return 0, None
    size = sum(tensor.numel() * tensor.element_size() for tensor in trained_tensors(network).values())
    return size, config.train if stage == "train" else config.retrain.train
