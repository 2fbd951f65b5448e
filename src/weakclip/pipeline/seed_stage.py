"""Stage 1: a seed mask and a dense mask for every training image."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from weakclip.clip import Encoder
from weakclip.config import ImportedMaskSeeds
from weakclip.datasets import ImageLabelDataset, Sample
from weakclip.datasets.classes import IGNORE_INDEX
from weakclip.datasets.images import write_mask
from weakclip.pipeline.affinity_stage import affinity_seeds
from weakclip.pipeline.context import RunContext
from weakclip.pipeline.views import SeedsView
from weakclip.seeds import CAM, BatchedSeedMethod, ImportedMasks, SeedMasks, seed_masks
from weakclip.seeds.base import attention_bytes
from weakclip.seeds.kinds import SeedRun
from weakclip.store.files import write_json
from weakclip.store.jobs import Steps, work_through
from weakclip.store.layout import DENSE, LOG, SEED_MASKS
from weakclip.store.lines import LineLog, read_lines
from weakclip.store.share import current
from weakclip.store.threads import once

SHARES = ("foreground", "background", "undecided")
"""Of the pixels of a seed mask; they sum to 1."""


@dataclass(frozen=True)
class SeedMaker:
    """Turns samples into masks.

    Args:
        masks: for each of several samples, in their order, the rest of the work: from its maps, which are there, to its
            masks.
        batch_size: how many samples are worth giving to it at once.
    """

    masks: Callable[[Sequence[Sample]], Iterable[Callable[[], SeedMasks]]]
    batch_size: int = 1


def make_seeds(context: RunContext, view: SeedsView, folder: Path) -> None:
    """Write `masks/NAME.png` and `dense/NAME.png`; images that have both are passed over.

    The seeds of an image with a verified mask are that mask.
    """
    dataset, steps = context.train, seed_steps(context, view, folder)
    work_through(
        range(len(dataset)),
        is_done=lambda index: _is_done(folder, dataset.names[index]),
        make=steps.from_items,
        finish=steps.finish,
        description="seeds",
        name_of=dataset.names.__getitem__,
        again=context.again(seed_steps, view, folder),
    )

    def close() -> None:
        log = LineLog(folder / LOG)
        log.finish(dataset.names)
        write_json(folder / "metrics.json", {**_summary(log.path, dataset), **context.left_out(dataset.split)})

    current().once(close)


MadeSeeds = tuple[Sample, Callable[[], SeedMasks] | None]
"""A sample with the rest of the work on it; None where its seeds are its verified mask."""


def seed_steps(context: RunContext, view: SeedsView, folder: Path) -> Steps[int, tuple[int, Sample], MadeSeeds]:
    """From positions in the training split to the files of their images."""
    dataset, log, palette = context.train, LineLog(folder / LOG), context.train.class_set.palette
    verified, maker = context.verified, once(lambda: seed_maker(context, view, folder))
    drawn = all(name in verified for name in dataset.names)

    def read(index: int) -> tuple[int, Sample]:
        return index, dataset[index]

    def made(images: Iterable[tuple[int, Sample]]) -> Iterator[MadeSeeds]:
        if view.seeds.is_random and not drawn:
            maker()  # also without images left: trainings are done by all processes together
        for batch in _batches(dataset, images, lambda: 1 if drawn else maker().batch_size):
            by_hand = all(sample.name in verified for sample, wanted in batch if wanted)
            rest: Iterable[Callable[[], SeedMasks] | None] = itertools.repeat(None, len(batch))
            if not by_hand:
                rest = maker().masks([sample for sample, _ in batch])
            for (sample, wanted), masks_of in zip(batch, rest, strict=True):
                if wanted:
                    yield sample, None if sample.name in verified else masks_of

    def finish(made: MadeSeeds) -> None:
        sample, masks_of = made
        masks = verified.seeds(sample.name) if masks_of is None else masks_of()
        log.add(_shares(sample, masks.seed, dataset))
        write_mask(folder / SEED_MASKS / f"{sample.name}.png", masks.seed, palette)
        write_mask(folder / DENSE / f"{sample.name}.png", masks.dense, palette)

    def batch_of(image: tuple[int, Sample]) -> int:
        return current().positions(len(dataset)).index(image[0]) // (1 if drawn else maker().batch_size)

    def bytes_of(image: tuple[int, Sample]) -> int:
        return attention_bytes(image[1].image)

    in_turn = context.has_own_code
    return Steps(read, made, finish, context.device, in_turn=in_turn, together=batch_of, bytes_of=bytes_of)


def _batches(
    dataset: ImageLabelDataset, images: Iterable[tuple[int, Sample]], size_of: Callable[[], int]
) -> Iterator[list[tuple[Sample, bool]]]:
    """Batches of samples, and which of them were asked for; each comes as soon as its last image is there.

    They are cut from all of this process's share: a run that goes on has the same ones as one that nobody disturbed.
    """
    own, left = current().positions(len(dataset)), dict[int, Sample]()

    def batch(number: int) -> list[tuple[Sample, bool]]:
        positions, read = own[number * size_of() : (number + 1) * size_of()], left.copy()
        left.clear()
        return [(read.get(index) or dataset[index], index in read) for index in positions]

    number = 0
    for index, sample in images:
        before, (number, place) = number, divmod(own.index(index), size_of())
        if left and number != before:
            yield batch(before)
        left[index] = sample
        if place == size_of() - 1:
            yield batch(number)
    if left:
        yield batch(number)


def seed_maker(context: RunContext, view: SeedsView, folder: Path) -> SeedMaker:
    """The function from samples to their masks that the settings ask for; what it needs to learn first, it learns."""
    settings, dataset = view.seeds, context.train
    if isinstance(settings, ImportedMaskSeeds):
        return _one_by_one(ImportedMasks(settings.folder, dataset.class_set).masks)

    def clip() -> Encoder:
        assert view.clip is not None, f"{settings.method}: its reads_clip is false, so the encoder is not in its key"
        return context.clip

    run = SeedRun(
        clip=clip,
        dataset=dataset,
        device=context.device,
        folder=folder,
        seed=view.seed,
        given=context.given.seed_method,
    )
    if settings.affinity is not None:
        refined = affinity_seeds(context, view, folder, lambda: settings.make(run))
        if current().passes_on:
            return SeedMaker(lambda samples: (functools.partial(_same, refined(each)) for each in samples))
        return _one_by_one(refined)
    method, masks, device = settings.make(run), settings.masks, context.device

    def sharpening(sample: Sample, cam: CAM) -> Callable[[], SeedMasks]:
        return functools.partial(seed_masks, sample, cam, masks, device=device)

    if not isinstance(method, BatchedSeedMethod):
        return SeedMaker(lambda samples: (sharpening(each, method.cam(each)) for each in samples))
    cams = method.cams
    return SeedMaker(
        lambda samples: (sharpening(*each) for each in zip(samples, cams(samples), strict=True)), method.batch_size
    )


def _one_by_one(masks_of: Callable[[Sample], SeedMasks]) -> SeedMaker:
    return SeedMaker(lambda samples: (functools.partial(masks_of, each) for each in samples))


def _same(masks: SeedMasks) -> SeedMasks:
    return masks


def _is_done(folder: Path, name: str) -> bool:
    return all((folder / part / f"{name}.png").is_file() for part in (SEED_MASKS, DENSE))


def _shares(sample: Sample, seed: np.ndarray, dataset: ImageLabelDataset) -> dict[str, Any]:
    """A line of the stage's log: shares of a seed mask's pixels, 0…1, and the labels without a single one."""
    counts = np.bincount(seed.ravel(), minlength=256) / seed.size
    background, undecided = round(float(counts[0]), 5), round(float(counts[IGNORE_INDEX]), 5)
    foreground = round(max(0.0, 1.0 - background - undecided), 5)
    missing = [dataset.class_set.names[label] for label in sample.labels if counts[label] == 0]
    shares = dict(zip(SHARES, (foreground, background, undecided), strict=True))
    return {"name": sample.name, **shares, "missing": missing}


def _summary(log: Path, dataset: ImageLabelDataset) -> dict[str, Any]:
    """Mean shares over the images, null where the log is gone; a torn line is passed over, and of two lines on an image
    the last one counts."""
    wanted, shares, missing = set(dataset.names), dict[str, tuple[float, ...]](), dict[str, bool]()
    for entry in read_lines(log):
        try:
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
