"""The worth of AffinityNet on Scenes: mIoU of seeds before and after its refinement, with and without the dense CRF.

    python benchmarks/affinity.py --out runs/affinity

Each seed draws its own images and trains its own network. What is there already is not made again: a stopped call goes
on. The settings below were chosen on another draw of Scenes (`data.scene_seed=7`), whose masks scored them.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

from weakclip.config import RunConfig, limit_training, load_config
from weakclip.datasets import ImageLabelDataset, Sample
from weakclip.datasets.images import read_mask
from weakclip.inference.metrics import ConfusionMatrix
from weakclip.pipeline import run_stage
from weakclip.pipeline.affinity_stage import AFFINITYNET, CAMS
from weakclip.pipeline.data import open_split
from weakclip.seeds import AffinityRefiner, SeedMasks, seed_masks, sharpened_masks
from weakclip.seeds.affinitynet.storage import load_affinitynet
from weakclip.seeds.affinitynet.train import WEIGHTS_FILE
from weakclip.seeds.cam_files import read_cam
from weakclip.store.files import write_json
from weakclip.store.layout import DENSE, STAGE_FOLDERS
from weakclip.store.progress import track

AFFINITY = """seeds.affinity={
  widths: [16, 16, 32, 32, 64, 64, 64], reductions: [16, 16, 32],
  labels: {low_power: 0.5, high_power: 4, crf: {
    kernels: [{sxy: 1, weight: 3, srgb: null}, {sxy: 67, weight: 4, srgb: 3}], iterations: 10}},
  train: {steps: 600, batch_size: 8, learning_rate: 2.0e-3, weight_decay: 5.0e-4, warmup_steps: 40,
    min_learning_rate: 0.0, clip_grad_norm: 1.0, ema_decay: 0.99, precision: fp32, checkpoint_every: 100},
  augment: {crop_size: 128, scale: [0.75, 1.5], fit_crop: true, max_class_share: 1.0},
  walk: {beta: 32, log_steps: 4, background: 0.43}}"""
"""The CRF of the labels is that of the demo's seeds."""

ROWS = {
    "plain": "maps, dense CRF: the demo's seeds",
    "refined": "refined by AffinityNet, dense CRF",
    "plain without CRF": "maps, no CRF",
    "refined without CRF": "refined by AffinityNet, no CRF",
}


def measure(out: Path, seed: int, *, limit_steps: int | None, overrides: Sequence[str]) -> dict[str, float]:
    """mIoU of the four kinds of seeds on the training split, 0…1."""
    drawn = (f"seed={seed}", f"data.scene_seed={seed}", "device=cpu", *overrides)
    plain, refined = load_config("demo", drawn), load_config("demo", (*drawn, AFFINITY))
    if limit_steps:
        refined = limit_training(refined, limit_steps)
    for name, config in (("plain", plain), ("refined", refined)):
        run_stage(config, out / name, "seeds")
    dataset = open_split(plain.data, plain.data.train_split, plain.data.train_limit)
    makers = {"plain": _stored(out / "plain"), "refined": _stored(out / "refined")} | _without_crf(
        out / "refined", refined
    )
    return {name: _mean_iou(dataset, maker, name) for name, maker in makers.items()}


def _stored(run: Path) -> Callable[[Sample], SeedMasks]:
    """The masks that a run wrote."""

    def read(sample: Sample) -> SeedMasks:
        mask = read_mask(run / STAGE_FOLDERS["seeds"] / DENSE / f"{sample.name}.png")
        return SeedMasks(seed=mask, dense=mask)

    return read


def _without_crf(run: Path, config: RunConfig) -> dict[str, Callable[[Sample], SeedMasks]]:
    """From the maps and the network that a run wrote."""
    folder, affinity = run / STAGE_FOLDERS["seeds"], config.seeds.affinity
    assert affinity is not None
    refiner = AffinityRefiner(load_affinitynet(folder / AFFINITYNET / WEIGHTS_FILE), affinity.walk)
    masks = dataclasses.replace(config.seeds.masks, crf=None)

    def plain(sample: Sample) -> SeedMasks:
        return seed_masks(sample, read_cam(folder / CAMS / f"{sample.name}.png", sample), masks)

    def refined(sample: Sample) -> SeedMasks:
        cam = read_cam(folder / CAMS / f"{sample.name}.png", sample)
        return sharpened_masks(sample, refiner.probabilities(sample, cam), cam.classes, masks)

    return {"plain without CRF": plain, "refined without CRF": refined}


def _mean_iou(dataset: ImageLabelDataset, maker: Callable[[Sample], SeedMasks], name: str) -> float:
    matrix = ConfusionMatrix(dataset.class_set.num_classes)
    for index in track(range(len(dataset)), f"scoring {name}", total=len(dataset)):
        matrix.update(maker(dataset[index]).dense, dataset.mask(index))
    return matrix.mean_iou()


def table(results: dict[int, dict[str, float]]) -> str:
    """Markdown, in per cent: a column a seed, then mean and standard deviation of the sample."""
    lines = [f"| seeds, train | {' | '.join(f'seed {seed}' for seed in results)} | mean ± standard deviation |"]
    lines.append("|" + "---|" * (len(results) + 2))
    for key, row in ROWS.items():
        values = [100 * result[key] for result in results.values()]
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        cells = " | ".join(f"{value:.1f}" for value in values)
        lines.append(f"| {row} | {cells} | {statistics.mean(values):.1f} ± {spread:.1f} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, write `results.json`, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3, help="how many, from 0 on")
    parser.add_argument("--limit-steps", type=int, help="of AffinityNet's training, for a quick try")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a setting of the demo")
    given = parser.parse_args(arguments)
    results = {
        seed: measure(given.out / f"seed_{seed}", seed, limit_steps=given.limit_steps, overrides=given.set)
        for seed in range(given.seeds)
    }
    write_json(given.out / "results.json", {str(seed): result for seed, result in results.items()})
    print(table(results))


if __name__ == "__main__":
    main()
