"""From a trained network to one mask an image: probabilities, labels, dense CRF, PNG."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from weakclip.crf import VOC_CRF, Refinement, refine
from weakclip.datasets.base import ImageLabelDataset, Sample
from weakclip.datasets.images import read_mask, write_mask, write_png
from weakclip.inference.label_probabilities import label_probabilities, with_seeds
from weakclip.inference.mask_statistics import ByClass
from weakclip.inference.proposal_files import ProposalFiles
from weakclip.inference.proposals import ProposalSettings, snap
from weakclip.inference.region_judge import RegionBankSettings, RegionJudge
from weakclip.inference.saliency import SaliencyMaps, SaliencySettings, with_saliency
from weakclip.inference.windows import (
    InferenceSettings,
    LogitsFunction,
    OutOfMemoryRetry,
    predict_batch,
    resized_images,
)
from weakclip.store.jobs import Again, Steps, work_through
from weakclip.store.keys import MORE_OUTPUT
from weakclip.store.layout import CONFIDENCE, MASKS
from weakclip.store.ranges import check_range
from weakclip.store.threads import in_threads

READERS = 2
"""Threads that read images ahead of the network, each two: a network on a GPU takes less time than one reader."""


@dataclass(frozen=True, kw_only=True)
class PseudoMaskSettings:
    """How a network's probabilities become masks.

    Args:
        inference: scales, flip and windows.
        crf: the dense CRF, or PAR, at the image's own resolution; None for none.
        restrict_to_labels: whether classes that the image's labels do not name are ruled out. The background never is;
            an image without labels becomes background.
        match_share: share of WeakCLIP's match map in its probabilities, 0…1; see `mixed_logits`. Networks that have no
            match map are not asked for it.
        seed_share: share of the dense seeds, where a run has made some, in the probabilities; see `with_seeds`.
        keep_foreground: whether the probability of the classes that are ruled out goes to the image's own classes, by
            their shares; otherwise it is dropped, and the background gains as much as they do.
        balance: power of a class's mean over the image by which its probabilities are divided, 0 for none; see
            `label_probabilities`. It counts where the masks are restricted to the labels.
        temperature: divisor of the log-probabilities before the dense CRF, above 0; above 1 a network that is too sure
            of itself leaves more to the edges of the image.
        winners_only: whether the dense CRF is told only the classes that win some pixel before it.
        saliency: maps of what stands out, made elsewhere, which the probabilities are multiplied by before the dense
            CRF; None for none.
        proposals: regions that another program drew, whose edges the masks take after the dense CRF; None for none.
        region_bank: regions of all seeds that correct the masks last and judge the tags; None for none.
        step: the step of the network's training whose weights predict, of those that its `keep_every` kept; None for
            the result of the training.
        confidence: whether the probability of the chosen class is written too, as 8-bit grey PNG (255 = certain).
    """

    inference: InferenceSettings = field(default_factory=InferenceSettings)
    crf: Refinement | None = VOC_CRF
    restrict_to_labels: bool = True
    match_share: float = 0.0
    seed_share: float = 0.0
    keep_foreground: bool = False
    balance: float = 0.0
    temperature: float = 1.0
    winners_only: bool = False
    saliency: SaliencySettings | None = None
    proposals: ProposalSettings | None = None
    region_bank: RegionBankSettings | None = None
    step: int | None = None
    confidence: bool = field(default=False, metadata=MORE_OUTPUT)

    def __post_init__(self) -> None:
        check_range(self, "match_share", "seed_share", least=0, most=1)
        check_range(self, "step", least=1)
        check_range(self, "balance", least=0)
        check_range(self, "temperature", above=0)


@dataclass(frozen=True, kw_only=True)
class RefinedMask:
    """The mask of one image, and how it came about.

    Args:
        mask: `(H, W)` uint8 class indices, every pixel of a class.
        confidence: `(H, W)` float32, 0…1: the probability of that class after the dense CRF.
        network_mask: `(H, W)` uint8, the most probable class before the dense CRF.
        network_confidence: `(H, W)` float32, 0…1: the probability of the class of `mask` before the dense CRF.
        votes: what a bank of regions says of the image's tags; see `RegionJudge.judge`.
    """

    mask: np.ndarray
    confidence: np.ndarray
    network_mask: np.ndarray
    network_confidence: np.ndarray
    votes: ByClass = field(default_factory=dict)


Judge = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, ByClass]]
MaskObserver = Callable[[Sample, RefinedMask], None]
"""Told of every mask before it is written, from several threads."""


def pseudo_mask(
    probs: np.ndarray, sample: Sample, settings: PseudoMaskSettings, *, device: str | torch.device = "cpu"
) -> tuple[np.ndarray, np.ndarray]:
    """Mask and confidence of `refine_mask`."""
    refined = refine_mask(probs, sample, settings, device=device)
    return refined.mask, refined.confidence


def possible_classes(sample: Sample, settings: PseudoMaskSettings) -> list[int] | None:
    """The classes that an image's mask can show, the background first; None for all."""
    return [0, *sample.labels] if settings.restrict_to_labels else None


def refine_mask(
    probs: np.ndarray,
    sample: Sample,
    settings: PseudoMaskSettings,
    regions: Iterable[np.ndarray] = (),
    *,
    only_possible: bool = False,
    judge: Judge | None = None,
    saliency: np.ndarray | None = None,
    device: str | torch.device = "cpu",
) -> RefinedMask:
    """The mask of one image from its probabilities.

    Classes that the labels rule out are taken away before the dense CRF; `label_probabilities` says how. Regions, if
    there are any, correct the mask after it; `snap` says how.

    Args:
        probs: `(K, H, W)` float, summing to 1 over K.
        sample: the image, `(H, W, 3)` uint8, and its labels.
        settings: restriction, dense CRF and the agreement that a region needs.
        regions: proposals of the image, `(H, W)` bool each.
        only_possible: whether `probs` has no rows but those of `possible_classes`.
        judge: from a mask and its possible classes to the corrected one and the votes on its tags; None for none.
        saliency: the map of the image, `(H, W)` float, 0…1; see `with_saliency`. None for none.
        device: where PAR runs, if the settings ask for it.
    """
    possible = possible_classes(sample, settings)
    kept = np.arange(len(probs)) if possible is None else np.array(possible)
    balance = settings.balance if settings.restrict_to_labels else 0.0
    places = np.arange(len(probs)) if only_possible else kept
    rows = label_probabilities(probs, places, keep_foreground=settings.keep_foreground, balance=balance)
    if settings.saliency is not None and saliency is not None:  # before the temperature, which the weight outlives
        weight = settings.saliency.weight * settings.temperature
        rows = with_saliency(rows, saliency, weight, known=settings.restrict_to_labels)
    if settings.temperature != 1:
        rows **= np.float32(1 / settings.temperature)
        rows /= rows.sum(axis=0, keepdims=True)
    if settings.winners_only:
        winners = np.unique(rows.argmax(axis=0))
        kept, rows = kept[winners], rows[winners]
        rows /= rows.sum(axis=0, keepdims=True)
    crf = settings.crf if len(kept) > 1 else None
    refined = rows if crf is None else refine(sample.image, rows, crf, device=str(device))
    classes, chosen = kept.astype(np.uint8), refined.argmax(axis=0)
    if settings.proposals is not None:
        chosen = snap(refined, regions, settings.proposals.agreement)
    mask, votes = classes[chosen], ByClass()
    if judge is not None:
        mask, votes = judge(mask, classes)
        chosen = np.searchsorted(classes, mask)
    return RefinedMask(
        mask=mask,
        confidence=np.take_along_axis(refined, chosen[None], axis=0)[0],
        network_mask=classes[rows.argmax(axis=0)],
        network_confidence=np.take_along_axis(rows, chosen[None], axis=0)[0],
        votes=votes,
    )


def write_pseudo_masks(
    logits_of: LogitsFunction,
    dataset: ImageLabelDataset,
    folder: Path | str,
    settings: PseudoMaskSettings,
    *,
    device: str | torch.device = "cpu",
    description: str = "pseudo masks",
    observe: MaskObserver | None = None,
) -> int:
    """Write `masks/NAME.png` (palette), and `confidence/NAME.png` if asked for, for every image of a data set.

    Images that have their files already are passed over, so that a stopped run goes on; a mask that is there stays.
    The network predicts an image while threads read the next ones and do the dense CRFs of those before; never more
    than a few images are in memory.

    Args:
        logits_of: the network in evaluation mode, `(B, 3, h, w)` uint8 to logits `(B, K, h', w')`.
        dataset: images and labels; its pixel labels are not read.
        folder: where to.
        settings: inference, restriction and dense CRF.
        device: where the network is.
        description: shown before the progress bar.
        observe: told of every mask that is written in this call.

    Returns:
        How many images this process predicted in this call.

    Raises:
        DataError: an image or its proposals cannot be read, and the masks before it are kept; or none has proposals.
    """
    steps = mask_steps(logits_of, dataset, Path(folder), settings, device=device, observe=observe)
    return work_on_masks(steps, dataset, Path(folder), settings, description=description)


def work_on_masks(
    steps: Steps[int, Any],
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
    if settings.proposals is not None:
        ProposalFiles(settings.proposals.files).check(names)
    if settings.saliency is not None:
        SaliencyMaps(settings.saliency.folder).check(names)
    return work_through(
        range(len(dataset)),
        is_done=lambda index: all((folder / part / f"{names[index]}.png").is_file() for part in parts),
        make=steps.make,
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
) -> Steps[int, tuple[Sample, np.ndarray, Judge | None]]:
    """From positions in a data set to the files of their images; arguments as for `write_pseudo_masks`, with the judge
    of `settings.region_bank` and the folder of the dense seeds of `settings.seed_share`."""
    assert (judge is None) == (settings.region_bank is None), "pseudo_masks.region_bank asks for a judge"
    assert seeds or not settings.seed_share, "pseudo_masks.seed_share asks for seeds"
    proposals = None if settings.proposals is None else ProposalFiles(settings.proposals.files)
    maps = None if settings.saliency is None else SaliencyMaps(settings.saliency.folder)

    def finish(predicted: tuple[Sample, np.ndarray, Judge | None]) -> None:
        sample, probs, judged = predicted
        regions = [] if proposals is None else proposals.of_sample(dataset, sample)
        salient = None if maps is None else maps.of_sample(dataset, sample)
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

    network = OutOfMemoryRetry(logits_of)

    def read(index: int) -> tuple[Sample, list[Tensor]]:
        sample = dataset[index]
        return sample, resized_images(sample.image, settings.inference, device=device)

    def predicted(indices: Sequence[int]) -> Iterator[tuple[Sample, np.ndarray, Judge | None]]:
        for sample, resized in in_threads(read, indices, threads=READERS):
            classes, how = possible_classes(sample, settings), settings.inference
            (probs,) = predict_batch(network, [sample.image], how, device=device, classes=classes, resized=[resized])
            if seeds is not None and settings.seed_share:
                dense = read_mask(seeds / f"{sample.name}.png")
                probs = with_seeds(probs, dense, classes or range(len(probs)), settings.seed_share)
            judged = None if judge is None else functools.partial(judge.judge, sample, judge.features(sample))
            yield sample, probs, judged

    return Steps(predicted, finish)
