"""Pictures of the report: a sheet of some images, and a strip of every training image, masks laid over them."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from weakclip.datasets import ImageLabelDataset, Sample
from weakclip.datasets.classes import IGNORE_INDEX, ClassSet
from weakclip.datasets.images import read_mask, resize_mask, resize_rgb, write_jpeg, write_png
from weakclip.datasets.looks import overlay, screen_palette
from weakclip.inference.pseudo_masks import PseudoMaskSettings, pseudo_mask
from weakclip.inference.windows import LogitsFunction, OutOfMemoryRetry, predict_probs
from weakclip.store.files import write_json

PICTURES = "pictures"
LONGEST_SIDE = 192
STRIP_SIDE = 160
"""Longest side of one picture of a strip, pixels: there is a strip of every image."""


def write_pictures(
    folder: Path,
    splits: Mapping[str, ImageLabelDataset],
    mask_folders: Mapping[str, Mapping[str, Path]],
    logits_of: LogitsFunction,
    settings: PseudoMaskSettings,
    *,
    count: int,
    device: str,
) -> None:
    """Write `pictures/N_CAPTION.png` and `pictures.json`, which names them, the classes and their colours.

    Args:
        folder: the evaluation's folder.
        splits: data sets to take images from, evenly spread over each.
        mask_folders: split → caption → folder of masks to show.
        logits_of: the network whose prediction is shown.
        settings: how it predicts.
        count: images of each split.
        device: where the network is.
    """
    shutil.rmtree(folder / PICTURES, ignore_errors=True)  # of a sheet with other rows
    rows: list[dict[str, object]] = []
    network = OutOfMemoryRetry(logits_of)
    for split, dataset in splits.items():
        for index in np.unique(np.linspace(0, len(dataset) - 1, num=min(count, len(dataset)), dtype=int)).tolist():
            name, image = dataset.names[index], dataset.image(index)
            masks = {caption: read_mask(where / f"{name}.png") for caption, where in mask_folders[split].items()}
            probs = predict_probs(network, image, settings.inference, device=device)
            masks["prediction"] = pseudo_mask(probs, Sample(name, image, dataset.labels(index)), settings)[0]
            truth = dataset.mask(index)
            if truth is not None:
                masks["truth"] = truth
            files = _write_row(folder / PICTURES, len(rows), image, masks, dataset.class_set)
            labels = [dataset.class_set.names[label] for label in dataset.labels(index)]
            rows.append({"name": name, "split": split, "labels": labels, "pictures": files})
    class_set = next(iter(splits.values())).class_set
    write_json(folder / "pictures.json", {"classes": class_entries(class_set), "rows": rows})


def class_entries(class_set: ClassSet) -> list[dict[str, object]]:
    """Names of the classes and their colours on the screen, for JSON."""
    colors = screen_palette(class_set)[: class_set.num_classes].tolist()
    return [{"name": name, "color": color} for name, color in zip(class_set.names, colors, strict=True)]


def write_strip(path: Path, image: np.ndarray, masks: Sequence[np.ndarray | None], class_set: ClassSet) -> None:
    """Write masks over one image, `(H, W)` and `(H, W, 3)` uint8, small and side by side as one JPEG; None: no mask."""
    small, palette = _small(image, STRIP_SIDE), screen_palette(class_set)
    pictures = [small if mask is None else laid_over(small, mask, palette) for mask in masks]
    write_jpeg(path, np.concatenate(pictures, axis=1))


def _write_row(
    folder: Path, row: int, image: np.ndarray, masks: Mapping[str, np.ndarray], class_set: ClassSet
) -> dict[str, str]:
    small, palette = _small(image, LONGEST_SIDE), screen_palette(class_set)
    files = {}
    for caption, mask in {"image": None, **masks}.items():
        files[caption] = f"{row}_{caption.replace(' ', '_')}.png"
        write_png(folder / files[caption], small if mask is None else laid_over(small, mask, palette))
    return files


def laid_over(image: np.ndarray, mask: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """A mask over an image, in the size of the image; pale where no class is given."""
    mask = resize_mask(mask, (image.shape[0], image.shape[1]))
    pale = np.where((mask == IGNORE_INDEX)[..., None], 160 + image // 3, image).astype(np.uint8)
    return overlay(pale, mask, palette)


def _small(picture: np.ndarray, side: int) -> np.ndarray:
    height, width = picture.shape[:2]
    factor = min(1.0, side / max(height, width))
    return resize_rgb(picture, (max(1, round(height * factor)), max(1, round(width * factor))))
