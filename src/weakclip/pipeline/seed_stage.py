"""Stage 1: a seed mask and a dense mask for every training image."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from weakclip.config import SeedStageSettings
from weakclip.datasets import ImageLabelDataset, Sample
from weakclip.datasets.classes import IGNORE_INDEX
from weakclip.datasets.images import write_json, write_mask
from weakclip.errors import ConfigError
from weakclip.pipeline.affinity_stage import affinity_seeds
from weakclip.pipeline.context import RunContext
from weakclip.pipeline.given import OWN
from weakclip.seeds import (
    BatchedSeedMethod,
    ClipGradCAM,
    CosineSeeds,
    ImportedCAMs,
    ImportedMasks,
    MCTformerCAM,
    PatchText,
    SeedMasks,
    SeedMethod,
    seed_masks,
)
from weakclip.seeds.mctformer.storage import load_mctformer
from weakclip.seeds.mctformer.train import WEIGHTS_FILE, train_mctformer
from weakclip.store.files import append_json, expand_home
from weakclip.store.progress import track
from weakclip.store.untrusted_text import parse_json

SEEDS, DENSE = "masks", "dense"
"""Folders in the stage's folder: seed masks with 255 between, and the most probable class everywhere."""

MCTFORMER = "mctformer"
"""The folder beside them in which an MCTformer+ is trained, where the settings ask for one."""

SHARES = ("foreground", "background", "undecided")
"""Of the pixels of a seed mask; they sum to 1."""


@dataclass(frozen=True)
class SeedMaker:
    """What turns samples into masks.

    Args:
        masks: of several samples, in their order.
        batch_size: how many samples are worth giving to it at once.
    """

    masks: Callable[[Sequence[Sample]], Iterable[SeedMasks]]
    batch_size: int = 1


@dataclass(frozen=True)
class SeedShares:
    """One line of the stage's log: what a seed mask is made of.

    Args:
        name: the image.
        foreground: share of its pixels, 0…1.
        background: share of its pixels, 0…1.
        undecided: share of its pixels, 0…1.
        missing: classes among the labels without a single seed pixel.
    """

    name: str
    foreground: float
    background: float
    undecided: float
    missing: tuple[str, ...]


def make_seeds(context: RunContext, folder: Path) -> None:
    """Write `masks/NAME.png` and `dense/NAME.png`; images that have both are passed over."""
    dataset = context.train
    left = [index for index, name in enumerate(dataset.names) if not _is_done(folder, name)]
    if left:
        made = _made(dataset, left, seed_maker(context, folder))
        log = folder / "log.jsonl"
        for sample, masks in track(made, "seeds", total=len(dataset), done=len(dataset) - len(left)):
            append_json(log, asdict(_shares(sample, masks.seed, dataset)))
            write_mask(folder / SEEDS / f"{sample.name}.png", masks.seed, dataset.class_set.palette)
            write_mask(folder / DENSE / f"{sample.name}.png", masks.dense, dataset.class_set.palette)
    left_out = context.left_out(dataset.split)
    write_json(folder / "metrics.json", {**_summary(folder / "log.jsonl", dataset), **left_out})


def _made(dataset: ImageLabelDataset, left: Sequence[int], maker: SeedMaker) -> Iterator[tuple[Sample, SeedMasks]]:
    """The samples that are left, with their masks. Batches are cut from the whole data set, so that a run that goes on
    has the same ones as a run that nobody disturbed."""
    size, wanted = maker.batch_size, set(left)
    for first in sorted({index // size * size for index in left}):
        batch = range(first, min(first + size, len(dataset)))
        samples = [dataset[index] for index in batch]
        for index, sample, masks in zip(batch, samples, maker.masks(samples), strict=True):
            if index in wanted:
                yield sample, masks


def seed_maker(context: RunContext, folder: Path) -> SeedMaker:
    """The function from samples to their masks that the settings ask for; what it needs to learn first, it learns."""
    settings: SeedStageSettings = context.config.seeds
    if settings.method == "imported_masks":
        return _one_by_one(ImportedMasks(str(settings.folder), context.train.class_set).masks)
    if settings.affinity is not None:
        return _one_by_one(affinity_seeds(context, folder, settings.affinity, lambda: _seed_method(context, folder)))
    method = _seed_method(context, folder)
    if not isinstance(method, BatchedSeedMethod):
        return _one_by_one(lambda sample: seed_masks(sample, method.cam(sample), settings.masks))
    cams, masks = method.cams, settings.masks
    return SeedMaker(
        lambda samples: (seed_masks(*each, masks) for each in zip(samples, cams(samples), strict=True)),
        method.batch_size,
    )


def _one_by_one(masks_of: Callable[[Sample], SeedMasks]) -> SeedMaker:
    return SeedMaker(lambda samples: map(masks_of, samples))


def _seed_method(context: RunContext, folder: Path) -> SeedMethod:
    """What makes class activation maps; an MCTformer+ is trained first, where the settings ask for one."""
    settings: SeedStageSettings = context.config.seeds
    class_set = context.train.class_set
    if settings.method == OWN:
        if context.given.seed_method is None:
            raise ConfigError("seeds.method own: names an object of a Python program; pass run_pipeline(seed_method=…)")
        return context.given.seed_method
    if settings.method == "imported_cams":
        return ImportedCAMs(str(settings.folder), class_set, first_class=settings.first_class)
    if settings.method == "mctformer":
        model = load_mctformer(_mctformer_weights(context, folder / MCTFORMER), device=context.device)
        return MCTformerCAM(model, class_set, settings.mctformer.cams)
    if settings.method == "cosine":
        return CosineSeeds(context.clip, class_set, settings.cosine)
    if settings.method == "patch_text":
        return PatchText(context.clip, class_set, settings.patch_text, seed=context.config.seed)
    return ClipGradCAM(context.clip, class_set, settings.gradcam)


def _mctformer_weights(context: RunContext, folder: Path) -> Path:
    """The file that the settings name; without one, an MCTformer+ is trained in `folder` (or its training finished)."""
    settings = context.config.seeds.mctformer
    if settings.checkpoint is not None:
        return expand_home(settings.checkpoint)
    train_mctformer(context.train, folder, settings, device=context.device, seed=context.config.seed)
    return folder / WEIGHTS_FILE


def _is_done(folder: Path, name: str) -> bool:
    return all((folder / part / f"{name}.png").is_file() for part in (SEEDS, DENSE))


def _shares(sample: Sample, seed: np.ndarray, dataset: ImageLabelDataset) -> SeedShares:
    counts = np.bincount(seed.ravel(), minlength=256) / seed.size
    missing = tuple(dataset.class_set.names[label] for label in sample.labels if counts[label] == 0)
    background, undecided = round(float(counts[0]), 5), round(float(counts[IGNORE_INDEX]), 5)
    foreground = round(max(0.0, 1.0 - background - undecided), 5)
    return SeedShares(sample.name, foreground, background, undecided, missing)


def _summary(log: Path, dataset: ImageLabelDataset) -> dict[str, Any]:
    """Mean shares over the images, null where the log is gone; a torn line is passed over, and of two lines on an image
    the last one counts."""
    wanted, shares, missing = set(dataset.names), dict[str, tuple[float, ...]](), dict[str, bool]()
    with log.open("rb") if log.is_file() else nullcontext(()) as lines:
        for line in lines:
            try:
                entry = parse_json(line.decode())
                if entry["name"] in wanted:
                    shares[entry["name"]] = tuple(float(entry[key]) for key in SHARES)
                    missing[entry["name"]] = bool(entry["missing"])
            except (ValueError, KeyError, TypeError):
                continue
    known = [shares[name] for name in dataset.names if name in shares]
    means = np.mean(known, axis=0).round(5).tolist() if known else [None] * len(SHARES)
    return {
        "split": dataset.split,
        "images": len(dataset),
        "mean_shares": dict(zip(SHARES, means, strict=True)),
        "images_with_a_class_without_seeds": sum(missing.values()),
    }
