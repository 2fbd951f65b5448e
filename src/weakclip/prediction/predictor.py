"""A trained network, and all that it takes to make masks of images with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from torch import Tensor

from weakclip.clip import Encoder
from weakclip.crf import Refinement
from weakclip.datasets import Sample
from weakclip.datasets.classes import ClassSet
from weakclip.datasets.images import read_rgb
from weakclip.inference.pseudo_masks import PseudoMaskSettings, pseudo_mask
from weakclip.inference.windows import InferenceSettings, LogitsFunction, SharedNetwork, predict_batch
from weakclip.modeling import load_weakclip, mixed_logits
from weakclip.pipeline.context import usable_device
from weakclip.pipeline.views import prediction_settings
from weakclip.prediction.models import ModelSource, find_model
from weakclip.report.chosen import Network
from weakclip.segmenters.segmenter import load_segmenter


@dataclass(frozen=True, kw_only=True)
class PredictSettings:
    """How a network's logits become masks.

    Args:
        inference: scales, flip and windows; one pass where nothing is said.
        crf: the dense CRF, or PAR, at the image's own resolution; None for none.
        match_share: share of the match map in the probabilities of a WeakCLIP, 0…1.
        keep_foreground: where labels are known, whether the probability of the classes that they rule out goes to the
            others but the background.
        balance: where labels are known, as for pseudo masks.
        temperature: divisor of the log-probabilities before the dense CRF, above 0.
        device: "auto" takes an accelerator where there is one; "cpu", or a torch device name.
    """

    inference: InferenceSettings = field(default_factory=lambda: InferenceSettings(scales=(1.0,), flip=False))
    crf: Refinement | None = None
    match_share: float = 0.0
    keep_foreground: bool = False
    balance: float = 0.0
    temperature: float = 1.0
    device: str = "auto"

    def __post_init__(self) -> None:
        self.masks(restrict_to_labels=False)  # which checks the numbers

    def masks(self, *, restrict_to_labels: bool) -> PseudoMaskSettings:
        """The same as pseudo masks are told it."""
        return PseudoMaskSettings(
            inference=self.inference,
            crf=self.crf,
            restrict_to_labels=restrict_to_labels,
            match_share=self.match_share,
            keep_foreground=self.keep_foreground,
            balance=self.balance,
            temperature=self.temperature,
        )


@dataclass(frozen=True)
class Prediction:
    """The mask of one image.

    Args:
        mask: `(H, W)` uint8 class indices, every pixel of a class.
        confidence: `(H, W)` float32, 0…1: the probability of that class.
    """

    mask: np.ndarray
    confidence: np.ndarray


class Predictor:
    """A network that makes masks of images.

    Args:
        logits_of: the network in evaluation mode, `(B, 3, h, w)` uint8 RGB to logits `(B, K, h', w')`. On a CPU a
            `SharedNetwork` predicts several files at once.
        class_set: its classes.
        settings: how masks are made; the network is on their device.

    Raises:
        ConfigError: a device that is not here.
    """

    def __init__(self, logits_of: LogitsFunction, class_set: ClassSet, settings: PredictSettings) -> None:
        self.logits_of = logits_of
        self.class_set = class_set
        self.settings = settings
        self.device = usable_device(settings.device)

    def __call__(self, image: np.ndarray | Path | str, labels: Sequence[str] | None = None) -> Prediction:
        """The mask of one image.

        Args:
            image: `(H, W, 3)` uint8 RGB, or an image file.
            labels: names of the classes that it shows, where they are known: no other class is drawn then.

        Raises:
            DataError: a file that is no image, or an unknown class.
        """
        pixels = image if isinstance(image, np.ndarray) else read_rgb(image)
        indices = None if labels is None else self.class_set.foreground_indices(labels)
        return self.finish(pixels, self.probabilities([pixels])[0], indices)

    def probabilities(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Class probabilities `(K, H, W)` float32 of each of some images of one size, before any dense CRF."""
        return predict_batch(self.logits_of, images, self.settings.inference, device=self.device)

    def finish(self, image: np.ndarray, probs: np.ndarray, labels: tuple[int, ...] | None = None) -> Prediction:
        """The mask that the probabilities of an image make.

        Args:
            image: `(H, W, 3)` uint8 RGB.
            probs: `(K, H, W)`, from `probabilities`.
            labels: indices of the foreground classes that may be drawn; None for all.
        """
        how = self.settings.masks(restrict_to_labels=labels is not None)
        return Prediction(*pseudo_mask(probs, Sample("", image, labels or ()), how, device=self.device))


def load_predictor(
    source: Path | str | ModelSource,
    *,
    settings: PredictSettings | None = None,
    network: Network | None = None,
    clip: Encoder | None = None,
) -> Predictor:
    """Load a network to make masks with.

    Args:
        source: what `find_model` takes: a run folder, its `4_retrain` or `2_train`, a folder of any
            `AutoModelForSemanticSegmentation`, or a released WeakCLIP checkpoint. Class 0 counts as the background.
        settings: how masks are made, and where; `default_settings` where left out.
        network: of a run folder, "weakclip" or "retrained"; the one that its evaluation chose where left out.
        clip: the encoder of a WeakCLIP, in place of the one that its folder names; needed where that is no CLIP. A
            retrained network needs none.

    Raises:
        WeightsError: no such network, or one that cannot be loaded.
        ConfigError: a device that is not here.
        DataError: a network whose classes have no names of their own.
    """
    model = source if isinstance(source, ModelSource) else find_model(source, network=network)
    settings = settings or default_settings(model)
    device = usable_device(settings.device)
    if model.kind == "segmenter":
        segmenter = load_segmenter(model.path, device=device, step=model.step)
        return Predictor(SharedNetwork(segmenter), model.class_set(segmenter.class_names), settings)
    vocabulary = model.config.clip.vocabulary if model.config else None
    weakclip = load_weakclip(model.path, vocabulary=vocabulary, clip=clip, device=device, step=model.step)
    share = settings.match_share

    def logits_of(images: Tensor) -> Tensor:
        return mixed_logits(weakclip(images), share)

    # a given encoder may keep something of an image
    return Predictor(SharedNetwork(logits_of) if clip is None else logits_of, weakclip.class_set, settings)


def default_settings(model: ModelSource) -> PredictSettings:
    """How the run of a network makes its masks: `pseudo_masks` for its WeakCLIP, `evaluate` for a retrained one.

    The dense CRF is left out where the run's evaluation found its network better without. Without a run: one pass and
    no dense CRF.
    """
    if model.config is None:
        return PredictSettings()
    how = prediction_settings(model.config, model.network)
    without = model.chosen is not None and model.chosen.crf is False
    return PredictSettings(
        inference=how.inference,
        crf=None if without else how.crf,
        match_share=how.match_share,
        keep_foreground=how.keep_foreground,
        balance=how.balance,
        temperature=1.0 if without else how.temperature,
    )
