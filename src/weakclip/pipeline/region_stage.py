"""The region bank of a run: the vectors of its seeds' regions, an image a file, made before the masks; it resumes.

The bank is of the seeds and not of the masks: they are all there before the first mask, with 255 where they are not
sure, so that a mask depends on no other mask, and shards and a stopped run end with the same ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import torch

from weakclip.datasets import Sample
from weakclip.datasets.images import read_mask
from weakclip.inference.region_bank import RegionBank, pool_regions, pruned
from weakclip.inference.region_judge import RegionBankSettings, RegionJudge
from weakclip.inference.region_search import search_of
from weakclip.pipeline.context import RunContext
from weakclip.seeds.base import attention_bytes
from weakclip.seeds.refinement import image_tensor
from weakclip.seeds.second_encoder import load_second_encoder
from weakclip.store.files import atomic_write
from weakclip.store.jobs import Steps, work_through
from weakclip.store.share import current
from weakclip.store.untrusted_npy import read_npy

REGIONS = "regions"
"""Folder in the stage's folder: `NAME.npy`, `(R, 1+D)` float32, class and vector of each region of an image's seeds."""


def region_judge(
    context: RunContext, settings: RegionBankSettings | None, seeds: Path, folder: Path
) -> RegionJudge | None:
    """The bank of all seeds, made where it is missing, with the encoder that describes regions; None without settings.

    Args:
        context: the run: its training images, encoder and device.
        settings: of the bank.
        seeds: folder of the seed masks.
        folder: gets the vectors.

    Raises:
        WeightsError: a second encoder that cannot be loaded or has no patches.
    """
    if settings is None:
        return None
    dataset, features = context.train, _features(context, settings)
    paths = [folder / REGIONS / f"{name}.npy" for name in dataset.names]

    def read(index: int) -> tuple[int, Sample]:
        return index, dataset[index]

    def described(images: Iterable[tuple[int, Sample]]) -> Iterator[tuple[int, np.ndarray]]:
        if settings.encoder is None:
            _ = context.clip  # loaded before several threads ask for it
        return ((index, features(sample)) for index, sample in images)

    def finish(made: tuple[int, np.ndarray]) -> None:
        regions = pool_regions(read_mask(seeds / f"{dataset.names[made[0]]}.png"), made[1])
        with atomic_write(paths[made[0]]) as file:
            np.save(file, np.column_stack([regions.classes.astype(np.float32), regions.vectors]))

    def bytes_of(image: tuple[int, Sample]) -> int:
        return attention_bytes(image[1].image)

    steps = Steps(read, described, finish, context.device, in_turn=context.has_own_code, bytes_of=bytes_of)
    with current().as_one():  # every mask asks the regions of all images
        work_through(
            range(len(dataset)),
            is_done=lambda index: paths[index].is_file(),
            make=steps.from_items,
            finish=steps.finish,
            description="regions",
            name_of=dataset.names.__getitem__,
        )
    rows = [read_npy(path) for path in paths]
    whole = np.concatenate(rows)
    owners = np.repeat(np.arange(len(rows)), [len(each) for each in rows])
    bank = RegionBank(vectors=np.ascontiguousarray(whole[:, 1:]), classes=whole[:, 0].astype(np.uint8), owners=owners)
    bank = pruned(bank)
    return RegionJudge(
        settings=settings,
        bank=bank,
        search=search_of(bank),
        positions={name: index for index, name in enumerate(dataset.names)},
        classes=dataset.class_set.num_classes,
        features=features,
    )


def _features(context: RunContext, settings: RegionBankSettings) -> Callable[[Sample], np.ndarray]:
    """From an image to the patches of the encoder that describes regions, `(D, h, w)` float32."""
    if settings.encoder is not None:
        second = load_second_encoder(settings.encoder)

        def patches(sample: Sample) -> np.ndarray:
            grid = second.grid(sample.image.shape[:2])
            return second.patches(sample, grid, torch.device(context.device)).T.unflatten(1, grid).cpu().numpy()

        return patches

    def frozen(sample: Sample) -> np.ndarray:
        found = context.clip.encode_image(image_tensor(sample, 1.0, torch.device(context.device)))
        return found.patches[0].float().T.unflatten(1, found.grid).cpu().numpy()

    return frozen
