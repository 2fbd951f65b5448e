"""A bank of a finished run's regions: what it brings to the masks, and whether it finds wrong tags.

    python benchmarks/region_bank.py runs/draw7 --out runs/bank --images 300
    python benchmarks/region_bank.py runs/draw7 --out runs/bank --images 300 --plant wrong.jsonl

The run has masks without a bank (`pseudo_masks.region_bank: null`), and its training split true ones: the masks are
corrected as the run would have done it, and scored before and after, mIoU in per cent, with a 95 % interval of the
difference by a bootstrap over the images. `--plant` only writes marks with wrong tags for every tenth image: a third
are exchanged, a third dropped, a third added. A run with `data.marks=wrong.jsonl` has learned from them; asked without
`--plant`, the script then says how many of the images whose tags look wrong are among them.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from weakclip.datasets import ImageLabelDataset
from weakclip.datasets.images import read_mask, write_mask
from weakclip.inference.mask_statistics import ImageStatistics, compare_masks
from weakclip.inference.metrics import ConfusionMatrix, bootstrap_iou, iou_of
from weakclip.inference.region_judge import RegionBankSettings
from weakclip.pipeline.context import RunContext, open_run
from weakclip.pipeline.region_stage import region_judge
from weakclip.report.doubts import look_wrong
from weakclip.store.layout import MASKS, SEED_MASKS

AGREEMENTS = (0.6, 0.7, 0.8, 0.9, 0.95)
KINDS = ("exchanged", "dropped", "added")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a run folder whose training split has true masks")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--images", type=int, help="the first of the training split; all where left out")
    parser.add_argument("--encoder", help="a second encoder that describes the regions; the run's own where left out")
    parser.add_argument("--plant", type=Path, help="write marks with wrong tags here, and nothing else")
    given = parser.parse_args(argv)
    context = open_run(given.run)
    count = min(given.images or len(context.train), len(context.train))
    if given.plant:
        plant(context.train, count, given.plant)
        return
    measure(context, count, given.out, encoder=given.encoder)


def plant(dataset: ImageLabelDataset, count: int, path: Path) -> None:
    """Write marks that give a tenth of the images wrong tags, drawn at random."""
    random, lines = np.random.default_rng(0), list[str]()
    wanted = {kind: round(count / 30) for kind in KINDS}
    for index in random.permutation(count).tolist():
        labels = list(dataset.labels(index))
        absent = [each for each in range(1, dataset.class_set.num_classes) if each not in labels]
        kind = next((each for each in KINDS if wanted[each] and (each != "dropped" or len(labels) > 1)), None)
        if kind is None or not labels or not absent:
            continue
        wanted[kind] -= 1
        if kind != "added":
            labels.remove(random.choice(labels))
        if kind != "dropped":
            labels.append(int(random.choice(absent)))
        names = [dataset.class_set.names[label] for label in sorted(labels)]
        lines.append(json.dumps({"image": dataset.names[index], "mark": "relabel", "labels": names}) + "\n")
    path.write_text("".join(lines), encoding="utf-8")


def measure(context: RunContext, count: int, out: Path, *, encoder: str | None = None) -> None:
    """Print the scores, and what is known of the tags; the masks that change are in `out`, by their agreement."""
    dataset, masks = context.train, context.folder("pseudo_masks") / MASKS
    matrices: dict[float, list[np.ndarray]] = {value: [] for value in (0.0, *AGREEMENTS)}
    images: list[ImageStatistics] = []
    judge = region_judge(context, RegionBankSettings(encoder=encoder), context.folder("seeds") / SEED_MASKS, out)
    assert judge is not None
    for index in range(count):
        sample, before = dataset[index], read_mask(masks / f"{dataset.names[index]}.png")
        features, possible = judge.features(sample), np.array([0, *sample.labels])
        for agreement, found in matrices.items():
            after = before
            if agreement:
                settings = RegionBankSettings(agreement=agreement)
                after, votes = dataclasses.replace(judge, settings=settings).judge(sample, features, before, possible)
            if (after != before).any():
                write_mask(out / str(agreement) / f"{sample.name}.png", after, dataset.class_set.palette)
            truth, matrix = dataset.mask(index), ConfusionMatrix(dataset.class_set.num_classes)
            assert truth is not None, f"{sample.name} has no true mask"
            matrix.update(after, truth)
            found.append(matrix.overlaps())
        figures = compare_masks(sample.name, sample.labels, {"mask": before})
        images.append(dataclasses.replace(figures, votes=votes))
    _tell_scores(matrices)
    if context.review.labels:
        _tell_tags(images, set(context.review.labels))


def _tell_scores(matrices: dict[float, list[np.ndarray]]) -> None:
    drawn, plain = {}, np.stack(matrices[0.0])
    for agreement, each in matrices.items():
        overlaps = np.stack(each)
        drawn[agreement] = np.nanmean(bootstrap_iou(overlaps), axis=1)  # the same images at every call
        low, high = 100 * np.percentile(drawn[agreement] - drawn[0.0], [2.5, 97.5])
        changed = sum((one != other).any() for one, other in zip(overlaps, plain, strict=True))
        name = f"agreement {agreement}" if agreement else "without"
        miou = 100 * np.nanmean(iou_of(overlaps.sum(axis=0)))
        print(f"{name}: mIoU {miou:.2f}, difference {low:+.2f} to {high:+.2f}, masks changed {changed}")


def _tell_tags(images: Sequence[ImageStatistics], planted: set[str]) -> None:
    order = sorted(images, key=lambda image: -(image.tag_doubt or 0))
    wrong = [each for each in order if look_wrong(each)]
    for name, listed in (("look wrong", wrong), ("first", order[: len(planted)])):
        right = np.array([each.name in planted for each in listed], dtype=float)
        if not len(right):
            continue
        random = np.random.default_rng(0)
        means = [right[random.integers(len(right), size=len(right))].mean() for _ in range(1000)]
        low, high = np.percentile(means, [2.5, 97.5])
        shares = f"planted {right.mean():.2f} ({low:.2f} to {high:.2f}), {right.sum():.0f} of {len(planted)}"
        print(f"tags, {name}: {len(listed)} of {len(images)} images, {shares}")


if __name__ == "__main__":
    main()
