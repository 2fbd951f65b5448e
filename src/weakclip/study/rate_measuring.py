"""Measures the parts of a run, each by itself, on a few of a configuration's images.

Work on cores is told in processor time; that of an accelerator, and steps that two processes share, in wall time. Each
part is done once before it is timed, with the network as its stage loads it; images are timed one after the other.
Programs beside this one slow its work on cores down for seconds: so images are timed in rounds through all parts, and
the median counts, of each image.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import mean, median

import numpy as np
import torch

from weakclip.config import CAMSeeds, RunConfig
from weakclip.crf import PARParams, Refinement
from weakclip.datasets import Sample
from weakclip.datasets.images import write_mask, write_png
from weakclip.inference.mask_writing import GivenFiles
from weakclip.inference.proposal_networks import load_proposal_network
from weakclip.inference.pseudo_masks import PseudoMaskSettings, possible_classes, refine_mask
from weakclip.inference.windows import LogitsFunction, OutOfMemoryRetry, predict_probs
from weakclip.pipeline.context import RunContext
from weakclip.pipeline.data import file_dataset
from weakclip.pipeline.given import Given
from weakclip.pipeline.mask_records import MaskRecorder
from weakclip.pipeline.networks import load_network
from weakclip.pipeline.proposal_files import FOLDER as PROPOSALS
from weakclip.pipeline.proposal_files import whole_image, write_regions
from weakclip.pipeline.seed_stage import SeedMaker, seed_maker
from weakclip.pipeline.views import EvaluateView, SeedsView
from weakclip.store.jobs import made_at_once, torch_threads
from weakclip.store.layout import CONFIDENCE, DENSE, MASKS, SEED_MASKS, strip_path
from weakclip.store.threads import usable_cores
from weakclip.store.trees import AnyPath, stamp_of
from weakclip.study.cost import machine
from weakclip.study.rates import Rates, rate_key
from weakclip.study.step_measuring import (
    LAST,
    clock_of,
    few_images,
    shared_steps,
    step_and_image,
    time_retraining,
    time_weakclip,
    write_left_half,
)
from weakclip.training.checkpoint import load_checkpoint, save_checkpoint
from weakclip.training.loop import CHECKPOINT_NAME
from weakclip.training.settings import TrainResult

ROUNDS, ENOUGH = 5, 60.0
"""How often each image is timed, at most, and seconds after which no further round begins."""

Work = Callable[[Sequence[int]], None]
"""Times the parts of a stage on the images at some positions."""


def measure_rates(config: RunConfig) -> Rates:
    """Time every part of a run.

    Args:
        config: of the run; its images are read, and a network with fresh weights is trained for some steps.

    Raises:
        WeakCLIPError: as the parts.
    """
    with tempfile.TemporaryDirectory(prefix="weakclip-rates-") as folder:
        rates = _Measuring(config, Path(folder)).run()
        shared = shared_steps(config, Path(folder) / "shared")
    return dataclasses.replace(rates, seconds={**rates.seconds, **shared})


class _Measuring:
    """The parts of one configuration, on some of its images."""

    def __init__(self, config: RunConfig, folder: Path) -> None:
        self.config, self.folder = config, folder
        self.whole = RunContext(config, folder, trusted=True)
        self.few = few_images(self.whole.train)
        self.context = RunContext(config, folder, given=Given(dataset=self.few), trusted=True)
        self.now = clock_of(self.context.device)
        self.seconds: dict[str, float] = {}
        self.bytes: dict[str, float] = {}
        self.unknown: dict[str, str] = {}
        self.times: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))

    def run(self) -> Rates:
        """Measure all parts, in the order of the stages."""
        self.seconds["decode"] = self._decoding()
        works, everything = [self._seeds()], range(len(self.few))
        works[0](everything)
        self._training("train", time_weakclip, self.folder / "seeds" / SEED_MASKS)
        logits_of = self._network("train")
        settings = self.config.pseudo_masks
        if settings.proposals is not None and settings.proposals.segmenter is not None:
            works.append(self._proposals(settings.proposals.segmenter))
            works[-1](everything)
            drawn = dataclasses.replace(settings.proposals, folder=str(self.folder / PROPOSALS), segmenter=None)
            settings = dataclasses.replace(settings, proposals=drawn)
        works.append(self._masks("masks", logits_of, settings, record=True))
        works[-1](everything)
        one_pass = dataclasses.replace(self.config.pseudo_masks.inference, scales=(1.0,), flip=False)
        compared = PseudoMaskSettings(inference=one_pass, crf=None, restrict_to_labels=False)
        works.append(self._masks("compare", logits_of, compared, record=True))
        view = EvaluateView.of(self.config)
        works.append(self._masks("evaluate", logits_of, view.prediction("weakclip"), record=False))
        if self.config.retrain.model is not None:
            self._training("retrain", time_retraining, self.folder / "masks" / MASKS)
            how = view.prediction("retrained")
            works.append(self._masks("retrained", self._network("retrain"), how, record=False))
        self._rounds(works)
        val = self.whole.val
        self._measure_files()
        return Rates(
            settings=rate_key(self.config).record(),
            machine=machine(),
            device=torch.device(self.context.device).type,
            cores=usable_cores(),
            train_images=len(self.whole.train),
            val_images=len(val) if val is not None and val.has_masks else 0,
            seconds=self.seconds,
            bytes=self.bytes,
            unknown=self.unknown,
        )

    def _decoding(self) -> float:
        """Seconds of an image that is read for the first time: a data set may keep what it has read. The first one
        does not count, where there are others."""
        clock = [time.process_time()]
        for index in range(len(self.few)):
            self.few[index]
            clock.append(time.process_time())
        found = [after - before for before, after in itertools.pairwise(clock)]
        return mean(found[1:] or found)

    def _rounds(self, works: Sequence[Work]) -> None:
        """Run all parts on all images in rounds, after an untimed run on one image, and keep the seconds an image."""
        for work in works:
            work(range(1))
        self.times.clear()
        started = time.perf_counter()
        with torch_threads(made_at_once(self.context.device)[1]):  # as in a run
            for _ in range(ROUNDS):
                for work in works:
                    work(range(len(self.few)))
                if time.perf_counter() - started > ENOUGH:
                    break
        for part, by_image in self.times.items():
            self.seconds[part] = sum(map(median, by_image.values())) / len(self.few)

    @contextlib.contextmanager
    def _clock(self, part: str, index: int, *, device: bool = False) -> Iterator[None]:
        """Note the time of a part of an image, or of a batch by its first; on a device, it ends with a result on the
        CPU."""
        now = self.now if device else time.process_time
        started = now()
        yield
        self.times[part][index].append(now() - started)

    def _seeds(self) -> Work:
        settings = self.config.seeds
        if settings.is_random or not settings.by_item:
            self.unknown["seeds"] = (
                f"seeds.method {settings.method} is trained on all images first; time `weakclip seeds` on some of them"
            )
            return self._left_halves
        return functools.partial(self._seed_masks, seed_maker(self.context, SeedsView.of(self.config), self.folder))

    def _seed_masks(self, maker: SeedMaker, positions: Sequence[int]) -> None:
        refining = _part_of(self.config.seeds.masks.crf) if isinstance(self.config.seeds, CAMSeeds) else "crf"
        for batch in (positions[first : first + maker.batch_size] for first in positions[:: maker.batch_size]):
            samples = [self.few[index] for index in batch]
            with self._clock("seeds.network", batch[0], device=True):
                rest = list(maker.masks(samples))
            for index, sample, masks_of in zip(batch, samples, rest, strict=True):
                with self._clock(f"seeds.{refining}", index, device=refining == "refine"):
                    masks = masks_of()
                with self._clock("seeds.write", index):
                    self._write_seeds(sample, masks.seed, masks.dense)

    def _left_halves(self, positions: Sequence[int]) -> None:
        """Write invented seeds, so that trainings have some."""
        for index in positions:
            sample = self.few[index]
            with self._clock("seeds.write", index):
                for part in (SEED_MASKS, DENSE):
                    write_left_half(self.folder / "seeds" / part, sample, self.few.class_set.palette)

    def _write_seeds(self, sample: Sample, seed: np.ndarray, dense: np.ndarray) -> None:
        for part, mask in ((SEED_MASKS, seed), (DENSE, dense)):
            write_mask(self.folder / "seeds" / part / f"{sample.name}.png", mask, self.few.class_set.palette)

    def _training(self, stage: str, timed: Callable[..., tuple[dict[int, float], TrainResult]], masks: Path) -> None:
        seconds, result = timed(self.context, masks, self.folder / stage)
        step, image = step_and_image(seconds)
        path = self.folder / stage / LAST / CHECKPOINT_NAME
        checkpoint, started = load_checkpoint(path), time.perf_counter()
        save_checkpoint(path, checkpoint)
        saving = time.perf_counter() - started
        self.seconds |= {f"{stage}.step": step, f"{stage}.image": image, f"{stage}.checkpoint": saving}
        self.bytes |= {f"{stage}.checkpoint": path.stat().st_size, f"{stage}.gradients": 4 * result.trained_parameters}

    def _network(self, stage: str) -> LogitsFunction:
        share = self.config.pseudo_masks.match_share
        return OutOfMemoryRetry(load_network(self.context, self.folder / stage / LAST, match_share=share))

    def _proposals(self, source: str) -> Work:
        network = load_proposal_network(source, device=self.context.device)

        def work(positions: Sequence[int]) -> None:
            for index in positions:
                image = whole_image(self.few, index)
                with self._clock("proposals.network", index, device=True):
                    regions = network.regions(image)
                with self._clock("proposals.write", index):
                    write_regions(self.folder / PROPOSALS / f"{self.few.names[index]}.json", regions)

        return work

    def _masks(self, part: str, logits_of: LogitsFunction, settings: PseudoMaskSettings, *, record: bool) -> Work:
        """Prediction, CRF and files of each image, as a stage writes them.

        Args:
            part: what the rates are called.
            logits_of: the network.
            settings: how masks are made.
            record: whether strips and statistics are written beside them.
        """
        folder, seeds = self.folder / part, self.folder / "seeds"
        recorder = MaskRecorder(self.few, seeds=seeds / SEED_MASKS, dense=seeds / DENSE, folder=folder)
        how, device, refining = settings.inference, self.context.device, _part_of(settings.crf)
        proposals = GivenFiles(settings).proposals

        def work(positions: Sequence[int]) -> None:
            for index, sample in ((index, self.few[index]) for index in positions):
                classes = possible_classes(sample, settings)
                with self._clock(f"{part}.network", index, device=True):
                    probs = predict_probs(logits_of, sample.image, how, device=device, classes=classes)
                regions = list[np.ndarray]()
                if proposals is not None:
                    with self._clock(f"{part}.regions", index):
                        regions = proposals.of_sample(self.few, sample)
                with self._clock(f"{part}.{refining}", index, device=refining == "refine"):
                    refined = refine_mask(probs, sample, settings, regions, only_possible=True, device=device)
                with self._clock(f"{part}.write", index):
                    write_mask(folder / MASKS / f"{sample.name}.png", refined.mask, self.few.class_set.palette)
                    if settings.confidence:
                        grey = np.rint(refined.confidence * 255).astype(np.uint8)
                        write_png(folder / CONFIDENCE / f"{sample.name}.png", grey)
                    if record:
                        recorder.add(sample, refined)

        return work

    def _measure_files(self) -> None:
        """Mean sizes of the files that a stage reads and writes."""
        stored, masks, names = file_dataset(self.few), self.folder / "masks", self.few.names
        if stored is not None:
            self.bytes["image"] = _mean([stored[0].image_path(position) for position in stored[1]])
        self.bytes["mask"] = _mean([masks / MASKS / f"{name}.png" for name in names])
        self.bytes["strip"] = _mean([strip_path(masks, name) for name in names])
        if "proposals.write" in self.seconds:
            self.bytes["proposal"] = _mean([self.folder / PROPOSALS / f"{name}.json" for name in names])
        if self.config.pseudo_masks.confidence:
            self.bytes["confidence"] = _mean([masks / CONFIDENCE / f"{name}.png" for name in names])


def _part_of(how: Refinement | None) -> str:
    """The name of the rate of sharpening. PAR runs on the device, the dense CRF on cores."""
    return "refine" if isinstance(how, PARParams) else "crf"


def _mean(paths: Sequence[AnyPath]) -> float:
    return float(np.mean([stamp_of(path).size for path in paths]))
