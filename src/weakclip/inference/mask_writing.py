"""Pseudo masks of a data set, as files: read, predict, refine, write, and go on where a stopped run has left off."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from weakclip.datasets.base import ImageLabelDataset, Sample
from weakclip.datasets.images import read_mask, write_mask, write_png
from weakclip.errors import BrokenFileError, ConfigError
from weakclip.inference.label_probabilities import with_seeds
from weakclip.inference.proposal_files import ProposalFiles
from weakclip.inference.pseudo_masks import Judge, PseudoMaskSettings, RefinedMask, possible_classes, refine_mask
from weakclip.inference.region_judge import RegionJudge
from weakclip.inference.saliency import SaliencyMaps
from weakclip.inference.windows import (
    LogitsFunction,
    OutOfMemoryRetry,
    SharedNetwork,
    predict_batch,
    probabilities_bytes,
    resized_images,
)
from weakclip.store.jobs import Again, Steps, work_through
from weakclip.store.layout import CONFIDENCE, MASKS
from weakclip.store.untrusted_text import some

logger = logging.getLogger("weakclip")

MaskObserver = Callable[[Sample, RefinedMask], None]
"""Told of every mask before it is written, from several threads."""

_Read = tuple[Sample, list[Tensor], np.ndarray | None]
"""A sample, its image at every scale, and its dense seeds where they have a share."""


def write_pseudo_masks(
    logits_of: LogitsFunction,
    dataset: ImageLabelDataset,
    folder: Path | str,
    settings: PseudoMaskSettings,
    *,
    device: str | torch.device = "cpu",
    description: str = "pseudo masks",
    observe: MaskObserver | None = None,
    seeds: Path | str | None = None,
) -> int:
    """Write `masks/NAME.png` (palette), and `confidence/NAME.png` if asked for, for every image of a data set.

    Images that have their files already are passed over, so that a stopped run goes on; a mask that is there stays.
    The network predicts an image while threads read the next ones and do the dense CRFs of those before; never more
    than a few images are in memory.

    Args:
        logits_of: the network in evaluation mode, `(B, 3, h, w)` uint8 to logits `(B, K, h', w')`. On a CPU a
            `SharedNetwork` predicts several images at once.
        dataset: images and labels; its pixel labels are not read.
        folder: where to.
        settings: inference, restriction and dense CRF; `region_bank` and the segmenter of `proposals`, which want a
            run, are off.
        device: where the network is.
        description: shown before the progress bar.
        observe: told of every mask that is written in this call.
        seeds: folder of the dense seeds, `NAME.png`, that `settings.seed_share` asks for.

    Returns:
        How many images this process predicted in this call.

    Raises:
        ConfigError: settings that ask for seeds which are not given, or for parts of a run.
        DataError: an image, its seed or its proposals cannot be read, and the masks before it are kept; or none has
            proposals.
    """
    given = None if seeds is None else Path(seeds)
    steps = mask_steps(logits_of, dataset, Path(folder), settings, device=device, observe=observe, seeds=given)
    return work_on_masks(steps, dataset, Path(folder), settings, description=description)


class GivenFiles:
    """The proposals and saliency maps that masks are made with, opened once.

    Args:
        settings: what masks are made with; proposals that a network draws are there for all images, and not looked for.

    Raises:
        DataError: no such folder or file.
    """

    def __init__(self, settings: PseudoMaskSettings) -> None:
        proposals, saliency = settings.proposals, settings.saliency
        folder = None if proposals is None else proposals.folder
        self.proposals = None if folder is None else ProposalFiles(folder)
        self.maps = None if saliency is None else SaliencyMaps(saliency.folder)

    def lacking(self, names: Sequence[str]) -> list[str]:
        """Lines on the images that lack proposals or a saliency map where the others have some.

        Raises:
            DataError: none of the images has any.
        """
        given: dict[str, ProposalFiles | SaliencyMaps] = {}
        if self.proposals is not None:
            given[f"{self.proposals.path}: no proposals"] = self.proposals
        if self.maps is not None:
            given[f"{self.maps.folder}: no saliency map"] = self.maps
        return [
            f"{nothing} of {len(without):,} of {len(names):,} images ({some(without)}); their masks are made without"
            for nothing, files in given.items()
            if (without := files.missing(names))
        ]


@dataclass(frozen=True, kw_only=True)
class MaskSteps(Steps[int, Any, Any]):
    """The steps from positions in a data set to masks, with the files that they read."""

    files: GivenFiles


def work_on_masks(
    steps: MaskSteps,
    dataset: ImageLabelDataset,
    folder: Path,
    settings: PseudoMaskSettings,
    *,
    description: str = "pseudo masks",
    again: Again | None = None,
) -> int:
    """`write_pseudo_masks` with the steps of `mask_steps`; `again` makes them in other processes, as `work_through` has
    it."""
    names = dataset.names
    parts = (MASKS, CONFIDENCE) if settings.confidence else (MASKS,)
    for line in steps.files.lacking(names):
        logger.warning(line)
    return work_through(
        range(len(dataset)),
        is_done=lambda index: all((folder / part / f"{names[index]}.png").is_file() for part in parts),
        make=steps.from_items,
        finish=steps.finish,
        description=description,
        name_of=names.__getitem__,
        again=again,
    )


def mask_steps(
    logits_of: LogitsFunction,
    dataset: ImageLabelDataset,
    folder: Path,
    settings: PseudoMaskSettings,
    *,
    device: str | torch.device = "cpu",
    observe: MaskObserver | None = None,
    judge: RegionJudge | None = None,
    seeds: Path | None = None,
) -> MaskSteps:
    """From positions in a data set to the files of their images; arguments as for `write_pseudo_masks`, with the judge
    of `settings.region_bank`."""
    _check_given(settings, judge, seeds)
    files = GivenFiles(settings)

    def finish(predicted: tuple[Sample, np.ndarray, Judge | None]) -> None:
        sample, probs, judged = predicted
        regions = [] if files.proposals is None else files.proposals.of_sample(dataset, sample)
        salient = None if files.maps is None else files.maps.of_sample(dataset, sample)
        refined = refine_mask(
            probs, sample, settings, regions, only_possible=True, judge=judged, saliency=salient, device=device
        )
        if settings.confidence:
            write_png(folder / CONFIDENCE / f"{sample.name}.png", np.rint(refined.confidence * 255).astype(np.uint8))
        path = folder / MASKS / f"{sample.name}.png"
        if path.is_file():  # of a call that did not ask for confidence
            return
        if observe is not None:
            observe(sample, refined)
        write_mask(path, refined.mask, dataset.class_set.palette)

    network, shared = OutOfMemoryRetry(logits_of), isinstance(logits_of, SharedNetwork)

    def read(index: int) -> _Read:
        sample = dataset[index]
        dense = None if seeds is None or not settings.seed_share else _dense_seed(seeds, sample)
        return sample, resized_images(sample.image, settings.inference, device=device), dense

    def predicted(images: Iterable[_Read]) -> Iterator[tuple[Sample, np.ndarray, Judge | None]]:
        for sample, resized, dense in images:
            classes, how = possible_classes(sample, settings), settings.inference
            (probs,) = predict_batch(network, [sample.image], how, device=device, classes=classes, resized=[resized])
            if dense is not None:
                probs = with_seeds(probs, dense, classes or range(len(probs)), settings.seed_share)
            judged = None if judge is None else functools.partial(judge.judge, sample, judge.features(sample))
            yield sample, probs, judged

    def bytes_of(read: _Read) -> int:
        return probabilities_bytes(read[0].image, dataset.class_set.num_classes)

    return MaskSteps(read, predicted, finish, device, in_turn=not shared, bytes_of=bytes_of, files=files)


def _dense_seed(folder: Path, sample: Sample) -> np.ndarray:
    path, expected = folder / f"{sample.name}.png", sample.image.shape[:2]
    dense = read_mask(path)
    if dense.shape != expected:
        raise BrokenFileError(f"{path}: {dense.shape} found, the image's {expected} expected; make the seed again")
    return dense


def _check_given(settings: PseudoMaskSettings, judge: RegionJudge | None, seeds: Path | None) -> None:
    """Raise a `ConfigError` where settings ask for what is not given."""
    if settings.seed_share and seeds is None:
        raise ConfigError(
            f"pseudo_masks.seed_share: {settings.seed_share} found, but no seeds; give their folder, or set it to 0"
        )
    if settings.region_bank is not None and judge is None:
        raise ConfigError("pseudo_masks.region_bank: settings found, but no run that fills the bank; set it to null")
    if settings.proposals is not None and settings.proposals.folder is None:
        raise ConfigError(
            f"pseudo_masks.proposals: segmenter {settings.proposals.segmenter} found, but no run that it draws for; "
            "give a folder of proposals"
        )
