"""Measures the parts of a run, each by itself, on a few of a configuration's images.

Work on cores is told in processor time, which other programs on the machine do not lengthen; that of an accelerator in
wall time. Each part is done once before it is timed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from weakclip.config import RunConfig
from weakclip.datasets import Sample
from weakclip.datasets.images import write_mask, write_png
from weakclip.inference.pseudo_masks import PseudoMaskSettings, refine_mask
from weakclip.inference.windows import LogitsFunction, OutOfMemoryRetry, predict_probs
from weakclip.modeling import WeakCLIP, mixed_logits
from weakclip.modeling.train import train_weakclip
from weakclip.pipeline.context import RunContext
from weakclip.pipeline.data import SomeImages, file_dataset
from weakclip.pipeline.given import Given
from weakclip.pipeline.mask_records import MaskRecorder
from weakclip.pipeline.networks import load_network
from weakclip.pipeline.seed_stage import seed_maker
from weakclip.pipeline.views import EvaluateView, SeedsView
from weakclip.segmenters.train import WEAKCLIP, retrain
from weakclip.store.layout import CONFIDENCE, DENSE, MASKS, SEED_MASKS, strip_path
from weakclip.store.threads import usable_cores
from weakclip.store.trees import AnyPath, stamp_of
from weakclip.study.cost import machine
from weakclip.study.rates import Rates, rate_key
from weakclip.training.checkpoint import load_checkpoint, save_checkpoint
from weakclip.training.dataset import TrainingPairs
from weakclip.training.loop import CHECKPOINT_NAME
from weakclip.training.settings import TrainResult, TrainSettings

MOST_IMAGES, STEPS, NEVER = 12, 4, 10**9
"""Images that are timed, steps of each training, and the step of a checkpoint that never comes."""

Fit = Callable[[TrainSettings, Path], TrainResult]


def measure_rates(config: RunConfig) -> Rates:
    """Time every part of a run.

    Args:
        config: of the run; its images are read, and a network with fresh weights is trained for some steps.

    Raises:
        WeakCLIPError: as the parts.
    """
    with tempfile.TemporaryDirectory(prefix="weakclip-rates-") as folder:
        return _Measuring(config, Path(folder)).run()


class _Measuring:
    """The parts of one configuration, on some of its images."""

    def __init__(self, config: RunConfig, folder: Path) -> None:
        self.config, self.folder = config, folder
        self.whole = RunContext(config, folder, trusted=True)
        count = len(self.whole.train)
        positions = np.unique(np.linspace(0, count - 1, min(count, MOST_IMAGES), dtype=int)).tolist()
        self.few = SomeImages(self.whole.train, positions)
        self.context = RunContext(config, folder, given=Given(dataset=self.few), trusted=True)
        self.on_cpu = torch.device(self.context.device).type == "cpu"
        self.seconds: dict[str, float] = defaultdict(float)
        self.bytes: dict[str, float] = {}
        self.unknown: dict[str, str] = {}
        self._timed = False

    def run(self) -> Rates:
        """All parts, in the order of the stages."""
        self._seeds()
        model = self._training()
        self._masks("masks", self._logits_of(model), self.config.pseudo_masks, record=True)
        one_pass = dataclasses.replace(self.config.pseudo_masks.inference, scales=(1.0,), flip=False)
        compared = PseudoMaskSettings(inference=one_pass, crf=None, restrict_to_labels=False)
        self._masks("compare", self._logits_of(model), compared, record=True)
        view = EvaluateView.of(self.config)
        self._masks("evaluate", self._logits_of(model), view.prediction("weakclip"), record=False)
        if self.config.retrain.model is not None:
            self._retraining(model)
            network = load_network(self.context, self.folder / "retrain")
            self._masks("retrained", network, view.prediction("retrained"), record=False)
        val = self.whole.val
        self._measure_files()
        return Rates(
            settings=rate_key(self.config).record(),
            machine=machine(),
            device=torch.device(self.context.device).type,
            cores=usable_cores(),
            train_images=len(self.whole.train),
            val_images=len(val) if val is not None and val.has_masks else 0,
            seconds=dict(self.seconds),
            bytes=self.bytes,
            unknown=self.unknown,
        )

    @contextlib.contextmanager
    def _clock(self, part: str, *, device: bool = False) -> Iterator[None]:
        """Add the time of a part, divided by the images; on a device, it ends with a result on the CPU."""
        now = self._now if device else time.process_time
        started = now()
        yield
        if self._timed:
            self.seconds[part] += (now() - started) / len(self.few)

    @property
    def _now(self) -> Callable[[], float]:
        return time.process_time if self.on_cpu else time.perf_counter

    def _twice(self, work: Callable[[Sequence[int]], None]) -> None:
        """First untimed, on one image; then on all."""
        self._timed = False
        work(range(1))
        self._timed = True
        work(range(len(self.few)))

    def _seeds(self) -> None:
        settings = self.config.seeds
        learns = settings.is_random or not settings.by_item
        if learns:
            self.unknown["seeds"] = (
                f"seeds.method {settings.method} is trained on all images first; time `weakclip seeds` on some of them"
            )
        masks = self._left_halves if learns else self._seed_masks
        self._twice(masks)

    def _seed_masks(self, positions: Sequence[int]) -> None:
        maker = seed_maker(self.context, SeedsView.of(self.config), self.folder)
        for batch in (positions[first : first + maker.batch_size] for first in positions[:: maker.batch_size]):
            with self._clock("decode"):
                samples = [self.few[index] for index in batch]
            with self._clock("seeds.network", device=True):
                rest = list(maker.masks(samples))
            for sample, masks_of in zip(samples, rest, strict=True):
                with self._clock("seeds.crf"):
                    masks = masks_of()
                with self._clock("seeds.write"):
                    self._write_seeds(sample, masks.seed, masks.dense)

    def _left_halves(self, positions: Sequence[int]) -> None:
        """Seeds of nobody, so that trainings have some."""
        for index in positions:
            with self._clock("decode"):
                sample = self.few[index]
            height, width = sample.image.shape[:2]
            mask = np.zeros((height, width), np.uint8)
            mask[:, : width // 2] = next(iter(sample.labels), 0)
            with self._clock("seeds.write"):
                self._write_seeds(sample, mask, mask)

    def _write_seeds(self, sample: Sample, seed: np.ndarray, dense: np.ndarray) -> None:
        for part, mask in ((SEED_MASKS, seed), (DENSE, dense)):
            write_mask(self.folder / "seeds" / part / f"{sample.name}.png", mask, self.few.class_set.palette)

    def _training(self) -> WeakCLIP:
        """The steps of WeakCLIP's training; the trained network."""
        config, made = self.config, list[WeakCLIP]()
        pairs = TrainingPairs(self.few, self.folder / "seeds" / SEED_MASKS, config.augment)

        def fit(settings: TrainSettings, folder: Path) -> TrainResult:
            made[:] = [config.model.build(self.context.clip, self.few.class_set)]
            device = self.context.device
            return train_weakclip(made[0], pairs, folder, settings, loss=config.loss, device=device, seed=config.seed)

        self._steps("train", config.train, fit)
        return made[0]

    def _retraining(self, model: WeakCLIP) -> None:
        settings = self.config.retrain
        pairs = TrainingPairs(self.few, self.folder / "masks" / MASKS, settings.augment)

        def fit(train: TrainSettings, folder: Path) -> TrainResult:
            start = model if settings.model == WEAKCLIP else None
            how = dataclasses.replace(settings, train=train)
            return retrain(pairs, folder, how, start=start, device=self.context.device, seed=self.config.seed)

        self._steps("retrain", settings.train, fit)

    def _steps(self, stage: str, settings: TrainSettings, fit: Fit) -> None:
        """A step costs a time of its own and one for each image: two batch sizes tell them apart."""
        sizes = sorted({max(1, settings.batch_size // 2), settings.batch_size})
        short = dataclasses.replace(settings, warmup_steps=0, checkpoint_every=NEVER, keep_every=None, log_every=NEVER)
        workers, steps = 0 if self.on_cpu else settings.workers, dict[int, float]()
        for size in sizes:
            ends = []
            for count in (1, 1 + STEPS):
                folder = self.folder / f"{stage}_{size}_{count}"
                how = dataclasses.replace(short, batch_size=size, steps=count, workers=workers)
                started = self._now()
                result = fit(how, folder)
                ends.append(self._now() - started)
            steps[size] = max(0.0, ends[1] - ends[0]) / STEPS
        image = (steps[sizes[-1]] - steps[sizes[0]]) / (sizes[-1] - sizes[0]) if len(sizes) > 1 else steps[sizes[0]]
        image = min(max(image, 0.0), steps[sizes[-1]] / sizes[-1])
        self.seconds |= {f"{stage}.image": image, f"{stage}.step": steps[sizes[-1]] - image * sizes[-1]}
        (folder / "log.jsonl").unlink(missing_ok=True)
        folder.rename(self.folder / stage)
        path = self.folder / stage / CHECKPOINT_NAME
        checkpoint, started = load_checkpoint(path), time.perf_counter()
        save_checkpoint(path, checkpoint)
        self.seconds[f"{stage}.checkpoint"] = time.perf_counter() - started
        self.bytes |= {f"{stage}.checkpoint": path.stat().st_size, f"{stage}.gradients": 4 * result.trained_parameters}

    def _logits_of(self, model: WeakCLIP) -> LogitsFunction:
        return lambda images: mixed_logits(model(images), self.config.pseudo_masks.match_share)

    def _masks(self, part: str, logits_of: LogitsFunction, settings: PseudoMaskSettings, *, record: bool) -> None:
        """Prediction, CRF and files of each image, as a stage writes them.

        Args:
            part: what the rates are called.
            logits_of: the network.
            settings: how masks are made.
            record: whether strips and statistics are written beside them.
        """
        network, folder, seeds = OutOfMemoryRetry(logits_of), self.folder / part, self.folder / "seeds"
        recorder = MaskRecorder(self.few, seeds=seeds / SEED_MASKS, dense=seeds / DENSE, folder=folder)

        def work(positions: Sequence[int]) -> None:
            for sample in (self.few[index] for index in positions):
                with self._clock(f"{part}.network", device=True):
                    probs = predict_probs(network, sample.image, settings.inference, device=self.context.device)
                with self._clock(f"{part}.crf"):
                    refined = refine_mask(probs, sample, settings)
                with self._clock(f"{part}.write"):
                    write_mask(folder / MASKS / f"{sample.name}.png", refined.mask, self.few.class_set.palette)
                    if settings.confidence:
                        grey = np.rint(refined.confidence * 255).astype(np.uint8)
                        write_png(folder / CONFIDENCE / f"{sample.name}.png", grey)
                    if record:
                        recorder.add(sample, refined)

        self._twice(work)

    def _measure_files(self) -> None:
        """Mean sizes of the files that a stage reads and writes."""
        stored, masks, names = file_dataset(self.few), self.folder / "masks", self.few.names
        if stored is not None:
            self.bytes["image"] = _mean([stored[0].image_path(position) for position in stored[1]])
        self.bytes["mask"] = _mean([masks / MASKS / f"{name}.png" for name in names])
        self.bytes["strip"] = _mean([strip_path(masks, name) for name in names])
        if self.config.pseudo_masks.confidence:
            self.bytes["confidence"] = _mean([masks / CONFIDENCE / f"{name}.png" for name in names])


def _mean(paths: Sequence[AnyPath]) -> float:
    return float(np.mean([stamp_of(path).size for path in paths]))
