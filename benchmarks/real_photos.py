"""The whole method on real photographs, with a stand-in for CLIP (`stand_in.py`): masks against seeds.

    python benchmarks/real_photos.py --root VOC2012 --weights efficientnet-lite0.pth --texts texts.npy --out runs/photos

The image-level labels of the training photos fit the stand-in's projection, and the stages of a run do the rest, with
the recipe of `folder` at a size for two CPU cores. No pixel label is read before all masks are written: the run works
on a folder without masks. What is there already is not made again: a stopped call goes on. The scores are not those of
CLIP, and not the VOC figure. `pseudo_masks.seed_share` is 0 in masks that are made without labels, which seeds know;
`pseudo_masks.region_bank` counts in the run only, not in the masks that are scored beside it.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from photo_scores import EVERY, SUBJECTS, WITH_SALIENCY, Truth, gain, score, sheet, table
from stand_in import CosineMaps, StandIn, fit_projection, load_trunk

from weakclip.config import RunConfig, VOC12Data, limit_training, load_config
from weakclip.datasets import ImageLabelDataset, VOC12Dataset
from weakclip.datasets.classes import VOC12
from weakclip.datasets.images import write_mask
from weakclip.datasets.voc import find_voc_root
from weakclip.inference.mask_writing import write_pseudo_masks
from weakclip.inference.saliency import SaliencySettings
from weakclip.modeling import load_weakclip, mixed_logits
from weakclip.pipeline import run_stage
from weakclip.pipeline.data import SomeImages
from weakclip.seeds import seed_masks
from weakclip.store.files import write_json
from weakclip.store.layout import DENSE, MASKS, STAGE_FOLDERS
from weakclip.store.manifest import Manifest
from weakclip.store.progress import track

RECIPE = (
    "data.dataset=voc12", "data.train_split=train_aug", "data.val_split=null",
    "seeds.masks.background_power=3",
    "model={co_attention_width: 128, co_attention_layers: 2, decoder_channels: 64}",
    "augment={crop_size: 288, scale: [0.9, 1.5], photometric: true}",
    "train.steps=400", "train.batch_size=8", "train.learning_rate=1.0e-3", "train.warmup_steps=40",
    "train.ema_decay=0.99", "train.precision=bf16", "train.checkpoint_every=50", "train.workers=0",
    "pseudo_masks.inference={scales: [1.0], flip: false, crop: 480, stride: 320}",
    "device=cpu",
)  # fmt: skip
"""On top of the recipe of `folder`: what makes it small enough for two cores."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run, score, and write `results.json`, `results.md` and `sheet.jpg`."""
    given = _parser().parse_args(arguments)
    data = gather(given.root, given.out / "data", given.limit, given.ids)
    train = VOC12Dataset(data, "train_aug")
    texts = torch.from_numpy(np.load(given.texts, allow_pickle=False)).float()
    encoder = StandIn(load_trunk(given.weights), VOC12.names[1:], texts, source=f"stand-in of {given.weights.name}")
    fit_projection(encoder, [train], given.out / "features")
    runs = []
    for seed in range(given.seeds):
        overrides = (*RECIPE, f"data.root={data}", f"seed={seed}", *given.set)
        config = load_config("folder", overrides)
        config = limit_training(config, given.limit_steps) if given.limit_steps else config
        if given.saliency and config.pseudo_masks.region_bank:
            raise SystemExit("--saliency: compared with masks without pseudo_masks.region_bank; leave one of them out")
        runs.append(run_one(config, encoder, given.out, seed, saliency=given.saliency))
    truth = {split: Truth(given.root, VOC12Dataset(data, split)) for split in ("train_aug", "val")}
    subjects = (*SUBJECTS, *(WITH_SALIENCY if given.saliency else ()))
    rows = [score(subject, runs[:1] if subject.some else runs, truth[subject.split]) for subject in subjects]
    plain = {each.split: each for each in SUBJECTS if each.name == "pseudo masks"}
    gains = {
        each.split: gain(each, plain[each.split], runs[0], truth[each.split]) for each in subjects[len(SUBJECTS) :]
    }
    images = {split: len(each) for split, each in truth.items()}
    write_json(given.out / "results.json", {"images": images, "rows": rows, "gain of saliency": gains})
    (given.out / "results.md").write_text(table(rows), encoding="utf-8")
    for split, shown in truth.items():
        sheet(given.out / f"sheet_{split}.jpg", runs[0], split, shown)
    print(table(rows), *(f"gain of saliency, {split}: {gains[split]}" for split in gains), sep="\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, action="append", required=True, help="VOC2012 folder; may be given again")
    parser.add_argument("--weights", type=Path, required=True, help="MobileNetV2 (.npz) or EfficientNet-Lite0 (.pth)")
    parser.add_argument(
        "--texts", type=Path, required=True, help="(20, E) .npy: CLIP's embeddings of VOC's class names"
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--ids", type=Path, help="a list of photos that takes the place of val")
    parser.add_argument("--seeds", type=int, default=1, help="random seeds, from 0 on")
    parser.add_argument("--limit", type=int, help="number of photos of each list, for a quick try")
    parser.add_argument("--limit-steps", type=int, help="of the training, for a quick try")
    parser.add_argument("--saliency", type=Path, help="a folder of saliency_maps.py: masks with it are scored, too")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a setting")
    return parser


def gather(roots: Sequence[Path], out: Path, limit: int | None, ids: Path | None) -> Path:
    """One folder in VOC's layout with the photos, lists and image-level labels of several, and without their masks."""
    lists, rows = dict[str, list[str]](train_aug=[], val=[]), list[str]()
    (out / "JPEGImages").mkdir(parents=True, exist_ok=True)
    (out / "ImageSets" / "Segmentation").mkdir(parents=True, exist_ok=True)
    for root in map(find_voc_root, roots):
        header, *labels = (root / "image_labels.csv").read_text(encoding="utf-8").splitlines()
        rows += labels
        for split, names in lists.items():
            path = root / "ImageSets" / "Segmentation" / f"{split}.txt"
            path = ids if ids and split == "val" else path
            found = path.read_text(encoding="utf-8").split() if path.is_file() else []
            found = [name for name in found if (root / "JPEGImages" / f"{name}.jpg").is_file()][:limit]
            names += [name for name in found if name not in names]
            for name in found:
                _same_file(root / "JPEGImages" / f"{name}.jpg", out / "JPEGImages" / f"{name}.jpg")
    for split, names in lists.items():
        (out / "ImageSets" / "Segmentation" / f"{split}.txt").write_text("\n".join(names) + "\n", encoding="utf-8")
    (out / "image_labels.csv").write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return out


def _same_file(source: Path, target: Path) -> None:
    if target.exists():
        return
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copyfile(source, target)


def run_one(config: RunConfig, encoder: StandIn, out: Path, seed: int, *, saliency: Path | None) -> Path:
    """The run of one random seed, and the masks that the scores want besides; its folder."""
    run, first = out / f"seed_{seed}", out / "seed_0"
    if run != first and not run.exists():  # the seeds are the same for all
        run.mkdir(parents=True)
        Manifest(run, {"seeds": Manifest.open(first).records["seeds"]}).save()
        shutil.copytree(first / STAGE_FOLDERS["seeds"], run / STAGE_FOLDERS["seeds"])
    for stage in ("seeds", "train", "pseudo_masks"):
        run_stage(config, run, stage, clip=encoder, seed_method=CosineMaps(encoder))
    model = load_weakclip(run / STAGE_FOLDERS["train"], clip=encoder)
    assert isinstance(config.data, VOC12Data)

    def network(images: torch.Tensor) -> torch.Tensor:
        return mixed_logits(model(images), config.pseudo_masks.match_share)

    for split in ("train_aug", "val") if run == first else ("val",):
        whole = VOC12Dataset(config.data.root, split)
        dataset = whole if split == "val" else SomeImages(whole, range(0, len(whole), EVERY))
        folder = run / "scored" / split
        _write_seeds(config, encoder, dataset, folder, with_crf=split == "val")
        seeds = folder / "seeds" / MASKS if split == "val" else run / STAGE_FOLDERS["seeds"] / DENSE
        known = dataclasses.replace(config.pseudo_masks, region_bank=None)
        without = dataclasses.replace(known, crf=None)
        unknown = dataclasses.replace(known, restrict_to_labels=False, seed_share=0.0)
        wanted = {"weakclip": without, "masks_no_labels": unknown}
        if split == "val":
            wanted |= {"masks": known, "weakclip_no_labels": dataclasses.replace(unknown, crf=None)}
        if saliency:
            maps = SaliencySettings(folder=str(saliency))
            wanted["masks_with_saliency"] = dataclasses.replace(known, saliency=maps)
        for name, settings in wanted.items():
            note = f"{name}, {split}"
            write_pseudo_masks(network, dataset, folder / name, settings, description=note, seeds=seeds)
    return run


def _write_seeds(
    config: RunConfig, encoder: StandIn, dataset: ImageLabelDataset, folder: Path, *, with_crf: bool
) -> None:
    """Dense seeds of a split, before the dense CRF and, where the run has not made them, after it."""
    method, settings = CosineMaps(encoder), config.seeds.masks
    variants = {"seeds_without_crf": dataclasses.replace(settings, crf=None)} | (
        {"seeds": settings} if with_crf else {}
    )
    for name, variant in variants.items():
        left = [i for i, image in enumerate(dataset.names) if not (folder / name / MASKS / f"{image}.png").is_file()]
        for index in track(left, f"{name}, {dataset.split}", total=len(left)):
            sample = dataset[index]
            mask = seed_masks(sample, method.cam(sample), variant).dense
            write_mask(folder / name / MASKS / f"{sample.name}.png", mask, dataset.class_set.palette)


if __name__ == "__main__":
    main()
