"""The search for the dense CRF that makes the best pseudo masks: kernel widths and weights, by successive halving."""

from __future__ import annotations

import dataclasses
import logging
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from weakclip.config import RunConfig
from weakclip.crf import VOC_CRF, CRFParams, Kernel, PARParams
from weakclip.crf.params import PRESETS
from weakclip.datasets import ImageLabelDataset
from weakclip.errors import ConfigError, DataError
from weakclip.inference.metrics import ConfusionMatrix
from weakclip.inference.pseudo_masks import PseudoMaskSettings, pseudo_mask
from weakclip.pipeline.context import TRAIN_DATA, RunContext
from weakclip.store.keys import ResultKey, result_settings
from weakclip.store.progress import track
from weakclip.store.threads import in_threads
from weakclip.study.halving import rung_sizes, successive_halving
from weakclip.study.pages import describe_rung, write_pages
from weakclip.study.probabilities import ProbabilityFolder, check_seeds, weights_fingerprint, write_probabilities
from weakclip.study.record import Candidate, CRFStudy, finished_rungs, save, study_folder, with_rung

logger = logging.getLogger("weakclip")

PROBABILITIES = "probabilities"
"""Folder of what a run's WeakCLIP predicted; another study can be given it as `probs`."""

ETA = 3
"""A third of the candidates goes on, to three times as many images."""

SPATIAL = {"sxy": (0.5, 12.0), "weight": (0.5, 20.0)}
BILATERAL = {"sxy": (15.0, 240.0), "srgb": (1.5, 40.0), "weight": (0.5, 20.0)}
"""Where the random kernels are drawn from: the presets' values and a few times less and more."""


def study_crf(
    config: RunConfig,
    out: Path | str,
    *,
    run: Path | str | None = None,
    probs: Path | str | None = None,
    candidates: int = 81,
) -> CRFStudy:
    """Search the dense CRF of `pseudo_masks` on the training split, whose true masks are read: a tuning set.

    Candidates are the configuration's own dense CRF, none at all, the presets, and random ones, log-uniform in the
    ranges above. All are scored on a few images, the better third of them on three times as many, to the end; a score
    is the mIoU of one confusion matrix over the images. The configuration's own stays to the end, to be compared with.
    Written are `study.json` after every rung, and in the end `table.md`, `study.svg` and `best.yaml`.

    Args:
        config: data set, seed, and the `pseudo_masks` that are tuned; its number of iterations is kept.
        out: the study's folder; a study of the same settings and data that is there already is continued.
        run: run folder whose WeakCLIP gives the probabilities; they are kept in `out`, in float16.
        probs: instead of `run`, a folder with one `.npy` or `.npz` an image, `(K, H, W)`.
        candidates: how many in all; the random ones are those that are missing to it.

    Returns:
        The study; the first of its `standing()` is the best.

    Raises:
        ConfigError: not exactly one of `run` and `probs`, or PAR in place of the dense CRF.
        RunError: `out` holds something else, or another process works there.
        DataError: no true masks, no seeds that are to have a share, or probabilities that are missing or do not fit.
        WeightsError: a run without a fitting WeakCLIP.
    """
    if (run is None) == (probs is None):
        raise ConfigError("the probabilities come from a run or from a folder; give either --run or --probs")
    out, settings = Path(out), config.pseudo_masks
    if isinstance(settings.crf, PARParams):
        raise ConfigError(
            "pseudo_masks.crf: method par found; the study searches a dense CRF, set method dense or null"
        )
    own, context = settings.crf, RunContext(config, Path(run or out), trusted=True)
    dataset = context.train
    given = ProbabilityFolder(probs, dataset) if probs else None
    source = given.fingerprint() if given else weights_fingerprint(context)
    key = _study_key(context, source, candidates)
    with study_folder(out, key):
        kernel_rng, image_rng = np.random.default_rng(config.seed).spawn(2)
        tried = crf_candidates(own, candidates, kernel_rng)
        order = image_rng.permutation(_with_masks(dataset)).tolist()
        if given is None:
            check_seeds(context, out / PROBABILITIES, order)
        study = CRFStudy(
            folder=out, split=dataset.split, images=len(order), candidates=tried, rungs=finished_rungs(out)
        )
        save(study, key)
        if given is None:
            write_probabilities(context, out / PROBABILITIES, order)
            given = ProbabilityFolder(out / PROBABILITIES, dataset)
        given.check(order)
        sizes = rung_sizes(len(tried), len(order), ETA)

        def score(chosen: Sequence[int], images: int) -> list[float]:
            return score_crfs([tried[number].params for number in chosen], given, order[:images], settings)

        for rung in successive_halving(sizes, score, done=study.rungs, always=(0,)):
            study = with_rung(study, rung)
            save(study, key)
            logger.info("rung %d of %d: %s", len(study.rungs), len(sizes), describe_rung(rung))
        write_pages(study)
        return study


def crf_candidates(own: CRFParams | None, count: int, rng: np.random.Generator) -> tuple[Candidate, ...]:
    """The dense CRFs to try, all different and with as many iterations.

    Args:
        own: the configuration's; None for none.
        count: how many; where the named ones are more, those.
        rng: draws the random ones.

    Returns:
        The configuration's own ("config"), none ("none"), the presets by name, and "random" ones.
    """
    iterations = (own or VOC_CRF).iterations
    none = CRFParams(kernels=(), iterations=iterations)
    named = [("config", own or none), ("none", none), *PRESETS.items()]
    origins: dict[CRFParams, str] = {}
    for origin, params in named:
        origins.setdefault(dataclasses.replace(params, iterations=iterations), origin)
    while len(origins) < count:
        origins.setdefault(_random_crf(iterations, rng), "random")
    return tuple(Candidate(origin, params) for params, origin in origins.items())


def score_crfs(
    crfs: Sequence[CRFParams], probabilities: ProbabilityFolder, indices: Sequence[int], settings: PseudoMaskSettings
) -> list[float]:
    """mIoU of the pseudo masks that each dense CRF makes, over the same images.

    Every image is read once; in memory are as many images as there are threads.

    Args:
        crfs: the dense CRFs.
        probabilities: of the images, with their data set.
        indices: which images, all with true masks.
        settings: whether absent classes are ruled out; its own dense CRF is not used.

    Returns:
        A number in 0…1 for each dense CRF; NaN where no pixel has a class.
    """
    dataset = probabilities.dataset
    matrices = [ConfusionMatrix(dataset.class_set.num_classes) for _ in crfs]
    lock = threading.Lock()

    def add(index: int) -> None:
        sample, probs, target = dataset[index], probabilities.read(index), dataset.mask(index)
        assert target is not None
        for crf, matrix in zip(crfs, matrices, strict=True):
            mask, _ = pseudo_mask(probs, sample, dataclasses.replace(settings, crf=crf))
            counts = ConfusionMatrix(matrix.num_classes)
            counts.update(mask, target)
            with lock:
                matrix.merge(counts)

    for _ in track(in_threads(add, indices), f"{len(crfs)} CRFs", total=len(indices)):
        pass
    return [matrix.mean_iou() for matrix in matrices]


def _random_crf(iterations: int, rng: np.random.Generator) -> CRFParams:
    spatial, bilateral = (
        Kernel(**{name: _log_uniform(low, high, rng) for name, (low, high) in ranges.items()})
        for ranges in (SPATIAL, BILATERAL)
    )
    return CRFParams(kernels=(spatial, bilateral), iterations=iterations)


def _log_uniform(low: float, high: float, rng: np.random.Generator) -> float:
    """A number of three digits, so that what is printed is what was scored."""
    return float(f"{low * (high / low) ** rng.random():.3g}")


def _study_key(context: RunContext, source: str, candidates: int) -> ResultKey:
    """All that the result depends on: settings, images, masks and probabilities."""
    settings = {
        **result_settings(context.config.pseudo_masks, "pseudo_masks"),
        "seed": context.config.seed,
        "candidates": candidates,
    }
    inputs = context.fingerprints((*TRAIN_DATA, "train masks", "labels from the review"))
    return ResultKey(settings=settings, inputs=inputs | {"probabilities": source})


def _with_masks(dataset: ImageLabelDataset) -> list[int]:
    """The images with a true mask; every mask is read, so that a damaged one is known before the search."""
    indices = range(len(dataset) if dataset.has_masks else 0)
    found = [index for index in track(indices, "true masks", total=len(indices)) if dataset.mask(index) is not None]
    if not found:
        raise DataError(f"split {dataset.split!r} has no true masks to tune on; name another one: data.train_split")
    return found
