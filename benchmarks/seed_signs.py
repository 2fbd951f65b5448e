"""The statements of the report on seeds and training without pixel labels, beside what the true masks say.

    python benchmarks/seed_signs.py runs/demo
    python benchmarks/seed_signs.py --seeds SEEDS --dense DENSE --masks MASKS --truth TRUTH

First the signs that training made masks worse than their seeds, and mean and class-wise IoU of both. Then, for every
class, how much of the sure seeds the masks contradict and how much of them is truly wrong, with the correlations of the
two over the classes and over the pairs of image and class: how good an estimate the contradicted share is. The run's
training split, or the folders of PNGs, have true masks.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from weakclip.datasets.classes import IGNORE_INDEX
from weakclip.datasets.images import read_mask
from weakclip.inference.mask_statistics import ImageStatistics, compare_masks
from weakclip.inference.metrics import ConfusionMatrix
from weakclip.pipeline.context import open_run
from weakclip.report.doubts import ranks
from weakclip.report.sure_seeds import contradicted
from weakclip.report.worse_masks import NEARLY_NONE, seed_change, warning

CLASSES = IGNORE_INDEX
"""Class indices are below this, whatever the data set."""


@dataclass(frozen=True)
class Measured:
    """Figures of the images, the true shares of right seeds by image and class, and both confusion matrices."""

    images: list[ImageStatistics]
    right: list[dict[int, float]]
    seeds: ConfusionMatrix
    masks: ConfusionMatrix


def measure(folders: dict[str, Path], truths: dict[str, np.ndarray]) -> Measured:
    """Compare the masks of every image that has a true one.

    Args:
        folders: of `NAME.png`: "seed", "dense" and "mask".
        truths: name → true mask.
    """
    measured = Measured([], [], ConfusionMatrix(CLASSES), ConfusionMatrix(CLASSES))
    for name, truth in truths.items():
        found = {kind: read_mask(folder / f"{name}.png") for kind, folder in folders.items()}
        labels = tuple(sorted({*found["dense"].ravel().tolist()} - {0, IGNORE_INDEX}))
        measured.images.append(compare_masks(name, labels, found))
        known = truth != IGNORE_INDEX
        measured.right.append(
            {
                index: float((truth[where] == index).mean())
                for index in labels
                if (where := (found["seed"] == index) & known).any()
            }
        )
        measured.seeds.update(found["dense"], truth)
        measured.masks.update(found["mask"], truth)
    return measured


def pairs(measured: Measured) -> np.ndarray:
    """`(n, 2)`: of each image and foreground class that has not gone from its mask, the share of the sure seed that is
    contradicted and the share that is wrong."""
    rows = [
        (1 - image.seed_kept[index], 1 - share)
        for image, right in zip(measured.images, measured.right, strict=True)
        for index, share in right.items()
        if image.shares.get(index, 0.0) >= NEARLY_NONE * image.seed_shares[index]
    ]
    return np.array(rows).reshape(-1, 2)


def correlations(rows: np.ndarray) -> str:
    """Pearson's and Spearman's correlation of two columns, in words."""
    if len(rows) < 3 or not np.ptp(rows, axis=0).all():
        return "too few, or all equal"
    pearson = np.corrcoef(rows.T)[0, 1]
    spearman = np.corrcoef(ranks(rows[:, 0]), ranks(rows[:, 1]))[0, 1]
    return f"Pearson {pearson:+.2f}, Spearman {spearman:+.2f} ({len(rows)})"


def lines(measured: Measured, names: Sequence[str]) -> list[str]:
    """The findings, a line each."""
    change = seed_change(measured.images)
    before, after = measured.seeds.iou(), measured.masks.iou()
    found = [
        f"{len(measured.images)} images; true mean IoU: seeds {np.nanmean(before):.3f}, masks {np.nanmean(after):.3f}",
        f"signs: {', '.join(change.signs) or 'none'}",
        warning(change, names) or "no warning",
        "class: images, gone; contradicted, truly wrong; true IoU of seeds, of masks",
    ]
    known = []
    for each in change.classes:
        wrong = [1 - right[each.index] for right in measured.right if each.index in right]
        if each.index and wrong:
            guess, truth = contradicted(each), float(np.mean(wrong))
            if guess is not None:
                known.append((guess, truth))
            shown = "-" if guess is None else f"{guess:.2f}"
            ious = f"{before[each.index]:.2f}, {after[each.index]:.2f}"
            found.append(f"{names[each.index]}: {each.images}, {each.gone}; {shown}, {truth:.2f}; {ious}")
    rows = np.array(known).reshape(-1, 2)
    if len(rows):
        means = rows.mean(axis=0)
        found.append(f"mean over the classes: contradicted {means[0]:.2f}, truly wrong {means[1]:.2f}")
    found.append(f"over the classes: {correlations(rows)}")
    found.append(f"over images and classes: {correlations(pairs(measured))}")
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, nargs="?", help="a run folder whose training split has true masks")
    for kind in ("seeds", "dense", "masks", "truth"):
        parser.add_argument(f"--{kind}", type=Path, help="without a run: a folder of PNGs")
    options = parser.parse_args(arguments)
    if options.run:
        train = open_run(options.run).train
        names, masks = train.class_set.names, (train.mask(index) for index in range(len(train)))
        truths = {name: mask for name, mask in zip(train.names, masks, strict=True) if mask is not None}
        stages = {"seed": "1_seeds/masks", "dense": "1_seeds/dense", "mask": "3_pseudo_masks/masks"}
        folders = {kind: options.run / folder for kind, folder in stages.items()}
    elif all((options.seeds, options.dense, options.masks, options.truth)):
        names = tuple(f"class {index}" for index in range(CLASSES))
        truths = {path.stem: read_mask(path) for path in sorted(options.truth.glob("*.png"))}
        folders = {"seed": options.seeds, "dense": options.dense, "mask": options.masks}
    else:
        parser.error("a run folder, or --seeds, --dense, --masks and --truth")
    print("\n".join(lines(measure(folders, truths), names)))


if __name__ == "__main__":
    main()
