"""From the probabilities of an image to its mask: labels, saliency, dense CRF, proposals, region bank."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
import torch

from weakclip.crf import VOC_CRF, Refinement, refine
from weakclip.datasets.base import Sample
from weakclip.inference.label_probabilities import label_probabilities
from weakclip.inference.mask_statistics import ByClass
from weakclip.inference.proposals import ProposalSettings, snap
from weakclip.inference.region_judge import RegionBankSettings
from weakclip.inference.saliency import SaliencySettings, with_saliency
from weakclip.inference.windows import InferenceSettings
from weakclip.store.keys import ADDED, MORE_OUTPUT
from weakclip.store.ranges import check_range


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
    seed_share: float = field(default=0.0, metadata=ADDED)
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
