"""Seeds refined by AffinityNet: maps of all images, labels of them, a training, and then masks. Each part resumes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from weakclip.config import CAMSeeds
from weakclip.datasets import Sample
from weakclip.datasets.images import write_mask
from weakclip.pipeline.context import RunContext
from weakclip.pipeline.views import SeedsView
from weakclip.seeds import AffinityRefiner, SeedMasks, SeedMethod, affinity_label, seed_masks, sharpened_masks
from weakclip.seeds.affinitynet.storage import load_affinitynet
from weakclip.seeds.affinitynet.train import WEIGHTS_FILE, AffinitySettings, train_affinity
from weakclip.seeds.base import attention_bytes
from weakclip.seeds.cam_files import read_cam, write_cam
from weakclip.store.jobs import Steps, work_through
from weakclip.store.share import current
from weakclip.store.threads import once

CAMS, LABELS, AFFINITYNET = "cams", "affinity_labels", "affinitynet"
"""Folders in the stage's folder: class activation maps, what AffinityNet learns from, and its training."""


def affinity_seeds(
    context: RunContext, view: SeedsView, folder: Path, make_method: Callable[[], SeedMethod]
) -> Callable[[Sample], SeedMasks]:
    """The function from a sample to its refined masks; maps are made and AffinityNet is trained first.

    Args:
        context: the run.
        view: settings of the stage, with those of AffinityNet.
        folder: the stage's folder.
        make_method: what makes the maps; called where labels are missing.
    """
    assert isinstance(view.seeds, CAMSeeds)
    settings, masks, seed = view.seeds.affinity, view.seeds.masks, view.seed
    assert settings is not None
    assert seed is not None
    with current().as_one():  # AffinityNet learns from the maps of all images
        _write_labels(context, folder, settings, make_method)
        train_affinity(context.train, folder / LABELS, folder / AFFINITYNET, settings, device=context.device, seed=seed)
    model = load_affinitynet(folder / AFFINITYNET / WEIGHTS_FILE, device=context.device)
    refiner = AffinityRefiner(model, settings.walk)

    def refined(sample: Sample) -> SeedMasks:
        cam = read_cam(folder / CAMS / f"{sample.name}.png", sample)
        if not cam.classes:
            return seed_masks(sample, cam, masks)
        return sharpened_masks(sample, refiner.probabilities(sample, cam), cam.classes, masks, device=context.device)

    return refined


def _write_labels(
    context: RunContext, folder: Path, settings: AffinitySettings, make_method: Callable[[], SeedMethod]
) -> None:
    """`cams/NAME.png` and `affinity_labels/NAME.png`; maps are used as they are read back, so that a resume differs
    in nothing."""
    dataset, method = context.train, once(make_method)

    def mapped(samples: Iterable[Sample]) -> Iterator[Sample]:
        method()  # also without images left: a training is done by all processes together
        for sample in samples:
            path = folder / CAMS / f"{sample.name}.png"
            if sample.labels and not path.is_file():
                write_cam(path, sample, method().cam(sample))
            yield sample

    def finish(sample: Sample) -> None:
        label = affinity_label(sample, read_cam(folder / CAMS / f"{sample.name}.png", sample), settings.labels)
        write_mask(folder / LABELS / f"{sample.name}.png", label, dataset.class_set.palette)

    def bytes_of(sample: Sample) -> int:
        return attention_bytes(sample.image)

    in_turn = context.has_own_code
    steps = Steps(dataset.__getitem__, mapped, finish, context.device, in_turn=in_turn, bytes_of=bytes_of)
    work_through(
        range(len(dataset)),
        is_done=lambda index: (folder / LABELS / f"{dataset.names[index]}.png").is_file(),
        make=steps.from_items,
        finish=steps.finish,
        description="class activation maps",
    )
