"""`weakclip predict`: in one process, in several that work together, or in shards that a merge completes."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from weakclip.clip import load_encoder
from weakclip.datasets.classes import ClassSet
from weakclip.pipeline.context import usable_device
from weakclip.prediction.files import Outputs, PredictionSummary, predict_files
from weakclip.prediction.folder import FORM, SHARDS, PredictionFolder, error_name
from weakclip.prediction.inputs import find_images
from weakclip.prediction.labels import read_labels
from weakclip.prediction.models import ModelSource
from weakclip.prediction.predictor import Predictor, PredictSettings, load_predictor
from weakclip.store.layout import ERRORS
from weakclip.store.lines import LineLog
from weakclip.store.lock import FolderLock
from weakclip.store.outputs import copy_of, mirrored
from weakclip.store.remote import file_at, folder_at
from weakclip.store.share import Merge, Shard, sharing
from weakclip.store.threads import once
from weakclip.training.processes import open_processes


@dataclass(frozen=True, kw_only=True)
class PredictRequest:
    """The arguments of `weakclip predict`.

    Args:
        model: the network.
        settings: how masks are made.
        inputs: as `find_images` takes them.
        listed: the lines of standard input, where `inputs` name it.
        out: the folder, or its URL.
        outputs: what is written beside masks and JSON.
        labels: a labels file.
        clip: the encoder of a WeakCLIP whose own is no CLIP; empty for its own.
        redo: as for `predict_files`.
        shard: `I/N`, or empty for all images.
    """

    model: ModelSource
    settings: PredictSettings
    inputs: tuple[str, ...]
    listed: tuple[str, ...] = ()
    out: Path | str
    outputs: Outputs
    labels: Path | None = None
    clip: str = ""
    redo: bool = False
    shard: str = ""


def predict_images(request: PredictRequest) -> PredictionSummary:
    """Masks of the images; with a shard, of its own; with companions (`--devices`, `torchrun`), a share.

    Raises:
        ConfigError: a shard that is none.
        WeakCLIPError: as `find_images`, `load_predictor`, `predict_files` and, of a URL, `mirrored`.
    """
    processes = open_processes(usable_device(request.settings.device))
    shard = Shard.read(request.shard, Path(request.out)) if request.shard else None
    with sharing(shard or processes), _folder(request.out, shard, is_main=processes.is_main) as out:
        images = find_images(request.inputs, listed=request.listed, leave_out=out) if processes.is_main else []
        images = processes.tell(images)
        predictor = load_predictor(
            request.model,
            settings=replace(request.settings, device=str(processes.device)),
            clip=load_encoder(request.clip) if request.clip else None,
        )
        done = predict_files(
            predictor,
            images,
            out,
            fingerprint=request.model.fingerprint,
            outputs=request.outputs,
            labels=None if request.labels is None else read_labels(request.labels, images),
            redo=request.redo,
            load=partial(_predictor, request, predictor.class_set),
        )
        processes.wait()
    return replace(done, out=folder_at(request.out))


def _folder(out: Path | str, shard: Shard | None, *, is_main: bool) -> contextlib.AbstractContextManager[Path]:
    """The folder on this machine, which of several processes the main one has to itself."""
    if is_main:
        return mirrored(out, shard.name if shard else "", form=FORM)
    return contextlib.nullcontext(copy_of(out))


def _predictor(request: PredictRequest, class_set: ClassSet, device: str) -> Predictor:
    """The same predictor in another process, whose network is loaded when it first predicts."""
    settings = replace(request.settings, device=device)
    network = once(
        lambda: load_predictor(
            request.model, settings=settings, clip=load_encoder(request.clip) if request.clip else None
        )
    )
    return Predictor(lambda images: network().logits_of(images), class_set, settings)


def is_sharded(out: Path | str) -> bool:
    """Whether predictions are being made in shards in a folder, or at a URL."""
    return file_at(f"{out}/{SHARDS}").is_file()


def merge_predictions(out: Path | str) -> PredictionSummary:
    """Prove that every image of all shards has a mask or a line in `errors.jsonl`, which becomes one file.

    Args:
        out: the folder, or its URL.

    Raises:
        FolderInUseError: a shard is at work.
        RunError: images are missing: those and their shards are named.
    """
    with mirrored(out, form=FORM) as path, FolderLock(path):
        folder = PredictionFolder(path)
        shards, images = folder.listed()
        log = LineLog(folder.path / ERRORS)
        left = [(position, image) for position, image in enumerate(images) if not folder.is_there(image)]
        missing = [(position, image.name) for position, image in left if error_name(image) not in log]
        Merge(shards=shards).check(missing, "predicting")
        folder.close(log, [image for _, image in left])
    return PredictionSummary(folder_at(out), len(images), 0, len(images) - len(left), len(left))
