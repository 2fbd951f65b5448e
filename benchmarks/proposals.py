"""The effect of proposals on the masks of a finished run: good ones, bad ones, and superpixels.

    python benchmarks/proposals.py runs/demo --images 150 --out runs/proposals

Regions are drawn for the first training images and written as `NAME.png`; then the run's WeakCLIP predicts them with
`pseudo_masks.proposals`. "True" are the connected parts of the true mask, "shifted" the same, grown or shrunk by 1 or 2
pixels and moved by up to 2, "superpixels" SLIC (Achanta et al., PAMI 2012), "random" the cells of random points, which
know nothing of the image. Scores are mIoU in per cent. What is there already is not made again. The run's seeds keep
their share in the masks (`pseudo_masks.seed_share`); its region bank (`pseudo_masks.region_bank`) is left out.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from weakclip.datasets.images import read_mask
from weakclip.inference.mask_writing import write_pseudo_masks
from weakclip.inference.metrics import ConfusionMatrix
from weakclip.inference.proposals import ProposalSettings
from weakclip.modeling import load_weakclip, mixed_logits
from weakclip.pipeline.context import open_run
from weakclip.pipeline.data import SomeImages
from weakclip.store.files import write_json
from weakclip.store.layout import DENSE, MASKS

Drawer = Callable[[np.ndarray, np.ndarray, np.random.Generator], np.ndarray]
"""From image and true mask to `(H, W)` region numbers, 0 for none."""


def parts(mask: np.ndarray) -> np.ndarray:
    """Connected pixels of one value, numbered from 1 on."""
    numbers = np.zeros(mask.shape, dtype=int)
    for start in np.ndindex(mask.shape):
        if numbers[start]:
            continue
        numbers[start] = number = numbers.max() + 1
        waiting = [start]
        while waiting:
            row, column = waiting.pop()
            for near in ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)):
                inside = 0 <= near[0] < mask.shape[0] and 0 <= near[1] < mask.shape[1]
                if inside and not numbers[near] and mask[near] == mask[start]:
                    numbers[near] = number
                    waiting.append(near)
    return numbers


def grown(region: np.ndarray, steps: int) -> np.ndarray:
    """A region with its neighbours, `steps` times; without its rim where negative."""
    for _ in range(abs(steps)):
        padded = np.pad(region if steps > 0 else ~region, 1)
        wide = padded[1:-1, 1:-1] | padded[:-2, 1:-1] | padded[2:, 1:-1] | padded[1:-1, :-2] | padded[1:-1, 2:]
        region = wide if steps > 0 else ~wide
    return region


def shifted(image: np.ndarray, truth: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """The true objects, each off by a few pixels."""
    numbers, objects = np.zeros(truth.shape, dtype=int), parts(truth)
    for number in np.unique(objects[(truth != 0) & (truth != 255)]):
        region = grown(objects == number, int(random.choice([-2, -1, 1, 2])))
        numbers[np.roll(region, random.integers(-2, 3, size=2), axis=(0, 1))] = number
    return numbers


def cells(count: int) -> Drawer:
    """The cells of random points."""

    def draw(image: np.ndarray, truth: np.ndarray, random: np.random.Generator) -> np.ndarray:
        points, grid = random.random((count, 2)) * truth.shape, np.indices(truth.shape)
        return np.argmin([((grid - point[:, None, None]) ** 2).sum(axis=0) for point in points], axis=0) + 1

    return draw


def superpixels(step: int, *, compactness: float = 10.0, rounds: int = 5) -> Drawer:
    """SLIC: k-means of colour and place, each centre among the pixels around it."""

    def draw(image: np.ndarray, truth: np.ndarray, random: np.random.Generator) -> np.ndarray:
        height, width = truth.shape
        side = max(8, min(height, width) // step)
        pixels = np.concatenate(
            [np.indices(truth.shape) * (compactness / side), np.moveaxis(image.astype(float), 2, 0)]
        )
        centres = [pixels[:, y, x] for y in range(side // 2, height, side) for x in range(side // 2, width, side)]
        for _ in range(rounds):
            nearest, numbers = np.full(truth.shape, np.inf), np.zeros(truth.shape, dtype=int)
            for number, centre in enumerate(centres):
                y, x = (int(value * side / compactness) for value in centre[:2])
                place = np.s_[max(0, y - side) : y + side + 1, max(0, x - side) : x + side + 1]
                distance = ((pixels[:, *place] - centre[:, None, None]) ** 2).sum(axis=0)
                closer = distance < nearest[place]
                nearest[place][closer], numbers[place][closer] = distance[closer], number
            inside = [numbers == number for number in range(len(centres))]
            centres = [pixels[:, each].mean(axis=1) for each in inside if each.any()]
        return numbers + 1

    return draw


KINDS: dict[str, Drawer] = {
    "true": lambda image, truth, random: parts(truth),
    "shifted": shifted,
    "superpixels": superpixels(12),
    "large superpixels": superpixels(6),
    "random, 60": cells(60),
    "random, 12": cells(12),
}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a run folder whose training split has true masks")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--images", type=int, default=150)
    parser.add_argument("--agreement", type=float, action="append")
    arguments = parser.parse_args(argv)
    context = open_run(arguments.run)
    settings = dataclasses.replace(context.config.pseudo_masks, region_bank=None)
    dataset = SomeImages(context.train, range(arguments.images))
    truths = {name: context.train.mask(index) for index, name in enumerate(dataset.names)}
    model = load_weakclip(context.folder("train"), clip=context.clip)

    def network(images: torch.Tensor) -> torch.Tensor:
        return mixed_logits(model(images), settings.match_share)

    def score(folder: Path, proposals: ProposalSettings | None) -> float:
        how, seeds = dataclasses.replace(settings, proposals=proposals), context.folder("seeds") / DENSE
        write_pseudo_masks(network, dataset, folder, how, seeds=seeds)
        matrix = ConfusionMatrix(dataset.class_set.num_classes)
        for name, truth in truths.items():
            matrix.update(read_mask(folder / MASKS / f"{name}.png"), truth)
        return round(100 * matrix.mean_iou(), 2)

    scores: dict[str, object] = {"none": score(arguments.out / "none", None)}
    for kind, draw in KINDS.items():
        files = arguments.out / "proposals" / kind
        files.mkdir(parents=True, exist_ok=True)
        random = np.random.default_rng(0)
        for index, (name, truth) in enumerate(truths.items()):
            numbers = draw(dataset.image(index), truth, random)
            Image.fromarray(numbers.astype(np.uint16)).save(files / f"{name}.png")
        scores[kind] = {
            value: score(arguments.out / f"{kind} {value}", ProposalSettings(folder=str(files), agreement=value))
            for value in arguments.agreement or [0.95]
        }
        write_json(arguments.out / "proposals.json", scores)
    for kind, value in scores.items():
        print(f"{kind}: {value}")


if __name__ == "__main__":
    main()
