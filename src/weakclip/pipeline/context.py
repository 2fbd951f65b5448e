"""The objects that the stages of a run share: settings, data sets, CLIP and device, each made when first asked for."""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

import weakclip.clip
from weakclip.clip import Encoder, FrozenCLIP, load_clip, load_encoder
from weakclip.clip.own import is_code
from weakclip.clip.vision import resizing_note
from weakclip.config import RunConfig, load_run_config
from weakclip.datasets import ImageLabelDataset
from weakclip.errors import ConfigError, first_line
from weakclip.pipeline.bad_files import BrokenImage, broken_of, open_sound
from weakclip.pipeline.data import (
    digest_if_any,
    digest_of,
    files_fingerprint,
    image_fingerprint,
    label_fingerprint,
    list_fingerprint,
    mask_fingerprint,
    proposals_fingerprint,
    source_fingerprint,
    verified_folders,
)
from weakclip.pipeline.given import Given, dataset_digest, encoder_digest
from weakclip.pipeline.verdicts import Review, ReviewedImages, mark_files, read_review
from weakclip.pipeline.verified import VerifiedMasks, tell_marks
from weakclip.segmenters.segmenter import BUILT_IN
from weakclip.segmenters.train import WEAKCLIP
from weakclip.store.jobs import Again, Steps
from weakclip.store.layout import STAGE_FOLDERS
from weakclip.store.marks import Mark
from weakclip.store.paths import check_run
from weakclip.store.share import current
from weakclip.store.standing import mixture
from weakclip.training.processes import Processes

logger = logging.getLogger("weakclip")

TRAIN_DATA = ("train list", "train labels", "train images")
VAL_DATA = ("val list", "val labels", "val images")
"""Sources of data: all of a split but its masks."""


class RunContext:
    """The objects that the stages of a run share.

    Args:
        config: the run's settings.
        out: the run folder.
        given: what takes the place of parts of the settings.
        trusted: whether the settings are the user's own. Those that lie in a run folder may be somebody else's, and no
            code that they name is run.
    """

    def __init__(self, config: RunConfig, out: Path, *, given: Given | None = None, trusted: bool = False) -> None:
        self.given = given or Given()
        self.config = self.given.settings(config)
        self.out = out
        self.trusted = trusted
        self._fingerprints: dict[str, str] = {}

    def folder(self, stage: str) -> Path:
        """The folder of a stage's artefacts."""
        return self.out / STAGE_FOLDERS[stage]

    def on(self, device: str) -> RunContext:
        """The same run on another torch device, with nothing made yet."""
        config = dataclasses.replace(self.config, device=device)
        return RunContext(config, self.out, given=self.given, trusted=self.trusted)

    def again(self, steps: Callable[[RunContext, Any, Path], Steps[Any, Any, Any]], view: Any, folder: Path) -> Again:
        """The steps of a stage as another process makes them, for `work_through`."""
        return functools.partial(_steps_on, self.on(self.config.device), steps, view, folder)

    @functools.cached_property
    def device(self) -> str:
        """The torch device that work is done on; of several processes, each has its own."""
        share = current()
        if isinstance(share, Processes) and share.count > 1:
            return str(share.device)
        return usable_device(self.config.device)

    @functools.cached_property
    def train(self) -> ImageLabelDataset:
        """The training split: images, and labels as review and verified masks left them. Its masks are for scoring and
        for the upper bound."""
        labels, given = self.corrected_labels, self._given_train
        untold = [name for name in self.verified.rejected if not (name in labels or given.labels(given.index_of(name)))]
        if not (labels or untold):
            return given
        train = ReviewedImages(given, labels=labels, left_out=untold)
        train.untagged = (*given.untagged, *untold)
        return train

    @functools.cached_property
    def review(self) -> Review:
        """The changes that marks make: those of `data.marks` and, on top of them, those of the run folder."""
        return read_review(self._given_train, mark_files(self.config.data.marks, self.out))

    @functools.cached_property
    def verified(self) -> VerifiedMasks:
        """The verified masks of the training split: those of `data.verified` and, on top of them, the run's own."""
        labels = self.review.labels
        dataset = ReviewedImages(self._given_train, labels=labels) if labels else self._given_train
        folders = verified_folders(self.config.data.verified, self.out)
        verified = VerifiedMasks(dataset, folders, marked_bad=self.review.bad)
        tell_marks(verified, self.review)
        return verified

    @functools.cached_property
    def corrected_labels(self) -> dict[str, tuple[int, ...]]:
        """Image name → labels in place of the data set's: those of marks, and of verified masks before them."""
        labels = {**self.review.labels, **self.verified.labels}
        given = self._given_train
        return {name: each for name, each in labels.items() if each != given.labels(given.index_of(name))}

    @functools.cached_property
    def bad(self) -> dict[str, Mark]:
        """The masks that are marked bad and have no verified one in their place, as `Review.bad`."""
        return {name: mark for name, mark in self.review.bad.items() if name not in self.verified}

    @functools.cached_property
    def broken(self) -> tuple[BrokenImage, ...]:
        """The files that are left out, where `data.on_error` asks for that."""
        return broken_of(self.config, self.out)

    def left_out(self, *splits: str | None) -> dict[str, int]:
        """`{"left_out": n}` for the metrics of a stage that reads some splits; nothing where nothing is left out."""
        count = sum(each.split in splits for each in self.broken)
        return {"left_out": count} if count else {}

    @functools.cached_property
    def _given_train(self) -> ImageLabelDataset:
        """The training split as the data set has it, without what is broken."""
        return _noted(self.given.dataset or open_sound(self.config, "train", self.broken, self.out))

    @functools.cached_property
    def val(self) -> ImageLabelDataset | None:
        """The validation split, where the settings name one, without what is broken."""
        if self.config.data.val_split is None:
            return None
        return _noted(self.given.val_dataset or open_sound(self.config, "val", self.broken, self.out))

    @functools.cached_property
    def clip(self) -> Encoder:
        """The frozen encoder, on the device."""
        if self.given.clip is not None:
            cast(nn.Module, self.given.clip).to(self.device)
            return self.given.clip
        settings = self.config.clip
        logger.info("loading CLIP %s", settings.source)
        load = load_encoder if self.trusted else load_clip
        encoder = load(
            settings.source, device=self.device, tap_layers=self.config.model.tap_layers, vocabulary=settings.vocabulary
        )
        if isinstance(encoder, FrozenCLIP):
            sides = {
                "augment.crop_size": self.config.augment.crop_size,
                "pseudo_masks.inference.crop": self.config.pseudo_masks.inference.crop,
            }
            for name, side in sides.items():
                if note := resizing_note(name, side, encoder.patch_size):
                    logger.info(note)
        return encoder

    def fingerprints(self, sources: Iterable[str]) -> dict[str, str]:
        """Digests of sources of data by their names; a review that changes nothing is left out."""
        digests = {source: self.fingerprint(source) for source in sources}
        return {source: digest for source, digest in digests.items() if digest}

    def fingerprint(self, source: str) -> str:
        """Digest of a source of data: "train list", "train labels", "train images", "train masks", "CLIP weights", …"""
        if source not in self._fingerprints:
            self._fingerprints[source] = self._fingerprint_makers()[source]()
        return self._fingerprints[source]

    @property
    def has_own_code(self) -> bool:
        """Whether an encoder or a seed method of the user's own is at work, which may keep something of an image."""
        own = self.given.clip is not None or self.given.seed_method is not None
        return own or is_code(self.config.clip.source)

    def _clip_fingerprint(self, demo: Path) -> str:
        if self.given.clip is not None or is_code(self.config.clip.source):
            return encoder_digest(self.clip)
        weights, vocabulary = source_fingerprint(self.config.clip.source, demo), self.config.clip.vocabulary
        return digest_of([weights, source_fingerprint(vocabulary, demo)]) if vocabulary else weights

    @functools.cached_property
    def given_digest(self) -> str:
        """Digest of the training split that a caller gave; all of it is read for that, once."""
        return dataset_digest(self._given_train)

    def _image_fingerprint(self, dataset: ImageLabelDataset) -> str:
        known = image_fingerprint(dataset)
        if self.given.dataset is None:
            return known
        own = self.given_digest if dataset is self._given_train else dataset_digest(dataset)
        return digest_of([known, own])

    def _segmenter_fingerprint(self, demo: Path) -> str:
        """Digest of the weights that retraining starts from, unless they are the run's own."""
        model = self.config.retrain.model
        if model in BUILT_IN:  # a folder of that name is not what it means
            return digest_of([model])
        return source_fingerprint(None if model == WEAKCLIP else model, demo)

    def _fingerprint_makers(self) -> dict[str, Callable[[], str]]:
        demo = Path(weakclip.clip.__file__).parent / "demo"
        proposals, bank = self.config.pseudo_masks.proposals, self.config.pseudo_masks.region_bank
        saliency = self.config.pseudo_masks.saliency
        seeds: dict[str, Callable[[], str]] = {
            name: functools.partial(source_fingerprint, source, demo)
            for name, source in self.config.seeds.sources.items()
        }
        if "imported seeds" in seeds:
            seeds["imported seeds"] = lambda: files_fingerprint(self.config.seeds.sources["imported seeds"])
        return seeds | {
            "train list": lambda: list_fingerprint(self._given_train),
            "train labels": lambda: label_fingerprint(self._given_train),
            "train images": lambda: self._image_fingerprint(self._given_train),
            "train masks": lambda: mask_fingerprint(self._given_train),
            "labels from the review": lambda: digest_if_any(
                f"{name} {labels}" for name, labels in sorted(self.corrected_labels.items())
            ),
            "masks marked bad": lambda: digest_if_any(sorted(self.bad)),
            "verified masks": lambda: self.verified.fingerprint,
            "proposals": lambda: proposals_fingerprint(proposals, demo),
            "saliency maps": lambda: files_fingerprint(saliency.folder if saliency else None),
            "region bank encoder": lambda: source_fingerprint(bank.encoder if bank else None, demo),
            "val list": lambda: list_fingerprint(self.val) if self.val else "none",
            "val labels": lambda: label_fingerprint(self.val) if self.val else "none",
            "val images": lambda: self._image_fingerprint(self.val) if self.val else "none",
            "val masks": lambda: mask_fingerprint(self.val) if self.val else "none",
            "CLIP weights": lambda: self._clip_fingerprint(demo),
            "seed method": lambda: self.given.seed_method_fingerprint,
            "student weights": lambda: self._segmenter_fingerprint(demo),
            "student trunk": lambda: source_fingerprint(self.config.retrain.pretrained, demo),
        }


def _steps_on(
    context: RunContext,
    steps: Callable[[RunContext, Any, Path], Steps[Any, Any, Any]],
    view: Any,
    folder: Path,
    device: str,
) -> Steps[Any, Any, Any]:
    return steps(context.on(device), view, folder)


def open_run(folder: Path | str, overrides: Sequence[str] = ()) -> RunContext:
    """The context of a run that is there already, with its own settings; the log names results of different settings.

    Args:
        folder: the run folder.
        overrides: `KEY.PATH=VALUE`, over the settings of the run.

    Raises:
        RunError: not a run folder.
    """
    folder = Path(folder)
    check_run(folder)
    if mixed := mixture(folder):
        logger.warning("%s", mixed)
    return RunContext(load_run_config(folder, overrides), folder)


def _noted(dataset: ImageLabelDataset) -> ImageLabelDataset:
    for note in dataset.notes:
        logger.info("%s: %s", dataset.split, note)
    return dataset


def usable_device(name: str) -> str:
    """The name of a torch device, if tensors can be made there; "auto" is an accelerator where there is one, else cpu.

    Raises:
        ConfigError: no such device, or none here.
    """
    if name == "auto":
        accelerator = torch.accelerator.current_accelerator(check_available=True)
        return accelerator.type if accelerator else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"device: {name!r} cannot be used ({first_line(error)})") from None
    return name
