"""MS COCO 2014 read from its instances files (Lin et al., ECCV 2014)."""

from __future__ import annotations

import json
import os
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from weakclip.classes import COCO14, IGNORE_INDEX
from weakclip.datasets.base import ImageFileDataset, check_mask
from weakclip.datasets.regions import decode_runs, fill_polygon
from weakclip.errors import DataError

Region = tuple[int, Any]
"""Class index (255 for a crowd) and its area: polygons as arrays x0, y0, x1, y1 …, or a run-length code."""


class COCO14Dataset(ImageFileDataset):
    """MS COCO 2014: 80 things and background.

    Expects `annotations/instances_train2014.json` and `instances_val2014.json` below the root, and the photos in
    `train2014` and `val2014`, in the same folders below `images`, or all in `images`. An image's labels are the classes
    of its annotations, crowds included. Images without any annotation are left out of train and kept in val; `notes`
    says how many. Masks are drawn from the regions when first asked for: larger regions first, so that small objects
    stay visible, and a crowd is 255 wherever no single object lies on it.

    Args:
        root: the folder with `annotations`.
        split: train or val.

    Raises:
        DataError: another layout, a category table that is not COCO's, missing images, or an unreadable file.
    """

    has_masks = True

    def __init__(self, root: Path | str, split: str) -> None:
        if split not in ("train", "val"):
            raise DataError(f"{root}: MS COCO 2014 has the splits train and val with annotations; found {split!r}")
        self.annotation_file = Path(root) / "annotations" / f"instances_{split}2014.json"
        instances = read_instances(self.annotation_file)
        labels = _labels_of_images(instances, self.annotation_file)
        images = sorted(instances["images"], key=lambda entry: entry["file_name"])
        kept = [entry for entry in images if split != "train" or entry["id"] in labels]
        left_out = len(images) - len(kept)
        self._files = [entry["file_name"] for entry in kept]
        self._ids = [entry["id"] for entry in kept]
        self._labels = [labels.get(identity, ()) for identity in self._ids]
        self._regions: dict[int, list[Region]] | None = None
        note = f"{left_out:,} of {len(images):,} images of {split} have no annotation and are left out"
        names = [str(PurePosixPath(file).with_suffix("")) for file in self._files]
        super().__init__(COCO14, split, names, notes=[note] if left_out else [])
        self._folder = _image_folder(Path(root), split, self._files)

    def image_path(self, index: int) -> Path:
        """The photo, a JPEG."""
        return self._folder / self._files[index]

    def labels(self, index: int) -> tuple[int, ...]:
        """Ascending indices of the classes that the image shows; empty where it has no annotation (val)."""
        return self._labels[index]

    def mask(self, index: int) -> np.ndarray:
        """Pixel labels `(H, W)` uint8 drawn from the annotated regions, 255 on crowds. Read by evaluation only.

        Raises:
            DataError: a region that cannot be decoded, or that is made for another image size.
        """
        if self._regions is None:
            self._regions = _regions_of_images(read_instances(self.annotation_file), set(self._ids))
        size = self.size(index)
        source = f"{self.annotation_file}, image {self.names[index]}"
        try:
            mask = draw_regions(self._regions.get(self._ids[index], []), size)
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise DataError(f"{source}: region cannot be drawn ({error})") from None
        check_mask(mask, size, self.class_set.num_classes, source)
        return mask


def read_instances(path: Path) -> dict[str, Any]:
    """An instances file whose categories are COCO's 80.

    Raises:
        DataError: no such file, not JSON, parts that are missing, or other categories.
    """
    try:
        with path.open(encoding="utf-8") as file:
            instances = json.load(file)
        found = {category["id"]: category["name"] for category in instances["categories"]}
        complete = all({"id", "file_name"} <= entry.keys() for entry in instances["images"])
        annotated = all({"image_id", "category_id"} <= entry.keys() for entry in instances["annotations"])
    except FileNotFoundError:
        raise DataError(
            f"{path}: no such file; unpack annotations_trainval2014.zip into {path.parent.parent}"
        ) from None
    except ValueError as error:
        raise DataError(f"{path}: not a JSON file ({error})") from None
    except (KeyError, TypeError, AttributeError):
        complete = annotated = False
    if not (complete and annotated):
        raise DataError(
            f"{path}: not an instances file; expected images, annotations and categories of the COCO format"
        )
    expected = dict(zip(COCO14.ids[1:], COCO14.names[1:], strict=True))
    for identity in sorted(expected.keys() | found.keys()):
        if expected.get(identity) != found.get(identity):
            raise DataError(
                f"{path}: category {identity} is {found.get(identity)!r}; MS COCO has {expected.get(identity)!r}. "
                "For classes of your own use the folder data set"
            )
    return instances


def draw_regions(regions: list[Region], size: tuple[int, int]) -> np.ndarray:
    """One mask from regions that may overlap: crowds below, then single objects, the larger ones first.

    Args:
        regions: class index (255 for a crowd) with polygons or a run-length code.
        size: height and width of the image.

    Returns:
        `(H, W)` uint8; 0 where no region lies.
    """
    drawn = [(index, _region_pixels(area, size)) for index, area in regions]
    mask = np.zeros(size, dtype=np.uint8)
    for index, pixels in sorted(drawn, key=lambda item: (item[0] != IGNORE_INDEX, -int(item[1].sum()))):
        mask[pixels] = index
    return mask


def _region_pixels(area: Any, size: tuple[int, int]) -> np.ndarray:
    if isinstance(area, dict):
        if tuple(area["size"]) != size:
            raise ValueError(f"region is {area['size'][1]}x{area['size'][0]} pixels, the image {size[1]}x{size[0]}")
        return decode_runs(area["counts"], size)
    pixels = np.zeros(size, dtype=bool)
    for numbers in area:
        pixels |= fill_polygon(numbers.reshape(-1, 2), size)
    return pixels


def _labels_of_images(instances: dict[str, Any], path: Path) -> dict[int, tuple[int, ...]]:
    index_of = {identity: index for index, identity in enumerate(COCO14.ids) if index}
    classes: dict[int, set[int]] = {}
    for annotation in instances["annotations"]:
        category = annotation["category_id"]
        if category not in index_of:
            raise DataError(f"{path}: annotation {annotation.get('id')} has category {category!r}, which is not listed")
        classes.setdefault(annotation["image_id"], set()).add(index_of[category])
    return {image: tuple(sorted(found)) for image, found in classes.items()}


def _regions_of_images(instances: dict[str, Any], wanted: set[int]) -> dict[int, list[Region]]:
    index_of = {identity: index for index, identity in enumerate(COCO14.ids)}
    regions: dict[int, list[Region]] = {}
    for annotation in instances["annotations"]:
        area = annotation.get("segmentation")
        if area is None or annotation["image_id"] not in wanted:
            continue
        if isinstance(area, list):
            area = [np.asarray(polygon, dtype=np.float32) for polygon in area]
        index = IGNORE_INDEX if annotation.get("iscrowd") else index_of[annotation["category_id"]]
        regions.setdefault(annotation["image_id"], []).append((index, area))
    return regions


def _image_folder(root: Path, split: str, files: list[str]) -> Path:
    folders = [root / f"{split}2014", root / "images" / f"{split}2014", root / "images"]
    for folder in folders:
        if (folder / files[0]).is_file():
            present = set(os.listdir(folder))
            missing = [file for file in files if file not in present]
            if missing:
                raise DataError(f"{folder}: {len(missing):,} of {len(files):,} images are missing, first {missing[0]}")
            return folder
    searched = ", ".join(str(folder.relative_to(root)) for folder in folders)
    raise DataError(f"{root}: the image {files[0]} is in none of {searched}; unpack {split}2014.zip there")
