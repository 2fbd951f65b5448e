"""Proposals that a network draws for a run: once for each image, in files as `ProposalFiles` reads them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from weakclip.datasets import ImageLabelDataset
from weakclip.datasets.images import read_rgb
from weakclip.datasets.regions import encode_runs, pack_runs
from weakclip.inference.proposal_networks import load_proposal_network
from weakclip.inference.pseudo_masks import PseudoMaskSettings
from weakclip.pipeline.context import RunContext
from weakclip.pipeline.data import digest_of
from weakclip.store.files import write_text
from weakclip.store.jobs import Steps, work_through

FOLDER = "proposals"
"""In a run folder: for each network and state of the images a folder of `NAME.json`."""


def with_proposals(context: RunContext, settings: PseudoMaskSettings) -> PseudoMaskSettings:
    """The settings, with a folder of proposals in place of the network that draws them, which is filled first.

    Images whose file is there are passed over, in later runs too.

    Raises:
        WeightsError: the network cannot be loaded.
        DataError: an image cannot be read.
    """
    if settings.proposals is None or settings.proposals.segmenter is None:
        return settings
    digest = digest_of([context.fingerprint("proposals"), context.fingerprint("train images")])
    folder = context.out / FOLDER / digest[:12]
    _draw(context.train, folder, settings.proposals.segmenter, context.device)
    made = dataclasses.replace(settings.proposals, folder=str(folder), segmenter=None)
    return dataclasses.replace(settings, proposals=made)


def _draw(dataset: ImageLabelDataset, folder: Path, source: str, device: str) -> None:
    def path_of(index: int) -> Path:
        return folder / f"{dataset.names[index]}.json"

    def read(index: int) -> tuple[int, np.ndarray]:
        return index, whole_image(dataset, index)

    def regions_of(images: Iterable[tuple[int, np.ndarray]]) -> Iterator[tuple[int, list[np.ndarray]]]:
        network = load_proposal_network(source, device=device)
        return ((index, network.regions(image)) for index, image in images)

    def write(found: tuple[int, list[np.ndarray]]) -> None:
        write_regions(path_of(found[0]), found[1])

    steps = Steps(read, regions_of, write, device, in_turn=True)  # one image takes gigabytes
    work_through(
        range(len(dataset)),
        is_done=lambda index: path_of(index).is_file(),
        make=steps.from_items,
        finish=steps.finish,
        description="proposals",
        name_of=lambda index: dataset.names[index],
    )


def whole_image(dataset: ImageLabelDataset, index: int) -> np.ndarray:
    """The image that proposals are drawn on, `(H, W, 3)` uint8, of its file's size."""
    file = dataset.image_file(index)
    return dataset.image(index) if file is None else read_rgb(file)


def write_regions(path: Path, regions: Sequence[np.ndarray]) -> None:
    """Write the regions of an image, `(H, W)` bool each."""
    entries = [{"size": [*each.shape], "counts": pack_runs(encode_runs(each))} for each in regions]
    write_text(path, json.dumps([{"segmentation": each} for each in entries]))
