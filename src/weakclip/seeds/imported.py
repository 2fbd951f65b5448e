"""Seeds that were made elsewhere: class activation maps in `.npy` or `.npz` files, or masks in palette PNGs."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from weakclip.datasets import Sample
from weakclip.datasets.base import missing_classes
from weakclip.datasets.class_masks import ClassMasks
from weakclip.datasets.classes import IGNORE_INDEX, ClassSet
from weakclip.datasets.images import used_values
from weakclip.errors import BrokenFileError, ConfigError, DataError
from weakclip.seeds.base import CAM, SeedMasks
from weakclip.seeds.kinds import CAMSeeds, SeedRun, SeedStageSettings
from weakclip.store.files import expand_home
from weakclip.store.untrusted_npy import find_arrays, read_npy, read_npz
from weakclip.store.untrusted_text import short

logger = logging.getLogger("weakclip")

_COCO_PREFIX = re.compile(r"^COCO_(train|val)2014_")
_MAPS_KEYS = ("attn_highres", "high_res", "highres", "cams", "cam")


class ImportedCAMs:
    """Class activation maps from a folder with one file an image: `NAME.npy` or `NAME.npz`.

    A `.npy` holds a dictionary `{class: CAM}`, or IRN's and CLIP-ES's `{"keys": classes, "high_res": CAMs}`; it is read
    without running its pickle. A `.npz` holds one array a class, named by it. A class is a number or a name of the
    class set. Maps are at the size of the image; negative values count as 0, and a map that exceeds 1 is divided by
    its maximum.

    Args:
        folder: where the files are.
        class_set: the classes.
        first_class: the number that the files give to the first foreground class: 0 as in the field, whose files count
            foreground classes only, or 1 where they count the background as 0.

    Raises:
        DataError: no such folder.
    """

    def __init__(self, folder: Path | str, class_set: ClassSet, *, first_class: int = 0) -> None:
        self.folder = _existing(folder)
        self.class_set = class_set
        self.first_class = first_class

    def cam(self, sample: Sample) -> CAM:
        """Maps of the sample's classes; maps of other classes in the file are left out.

        Raises:
            DataError: no file, a class of the labels without a map, an unknown class, a map of another size than the
                image, or one that is not finite.
        """
        path = self._path(sample.name)
        found = {self._index(path, key): value for key, value in _class_maps(path).items()}
        missing = [self.class_set.names[label] for label in sample.labels if label not in found]
        if missing:
            raise BrokenFileError(f"{path}: no CAM of {', '.join(missing)}, which the image's labels name")
        size = sample.image.shape[:2]
        maps = [_checked(path, self.class_set.names[label], found[label], size) for label in sample.labels]
        stacked = np.stack(maps) if maps else np.zeros((0, *size), dtype=np.float32)
        return CAM(classes=tuple(sample.labels), maps=stacked)

    def _path(self, name: str) -> Path:
        path = find_arrays(self.folder, name)
        if path is None:
            expected = f"no such file, nor .npz; expected the CAMs of image {name}"
            raise BrokenFileError(f"{self.folder / name}.npy: {expected}")
        return path

    def _index(self, path: Path, key: Any) -> int:
        """The index in the class set of a file's key."""
        if isinstance(key, str) and key in self.class_set.names[1:]:
            return self.class_set.names.index(key)
        try:
            index = int(key) - self.first_class + 1
        except (TypeError, ValueError, OverflowError):
            index = 0
        if not 1 <= index < self.class_set.num_classes:
            last = self.first_class + self.class_set.num_classes - 2
            raise BrokenFileError(
                f"{path}: unknown class {short(key)}; expected {self.first_class} to {last}, or a class name"
            )
        return index


class ImportedMasks:
    """Seed masks from a folder with one palette or grey PNG an image: `NAME.png`, class indices and 255.

    Of palette images whose colours an editor has put into another order, the colours count (`ClassMasks`).

    Masks of MS COCO may be called by the number: `000000000009.png` for `COCO_train2014_000000000009`.

    Args:
        folder: where the files are.
        class_set: the classes.

    Raises:
        DataError: no such folder.
    """

    def __init__(self, folder: Path | str, class_set: ClassSet) -> None:
        self.folder = _existing(folder)
        self.class_set = class_set
        self._read = ClassMasks(class_set, self.folder).read
        self._told = False

    def masks(self, sample: Sample) -> SeedMasks:
        """The file's mask as seeds; classes that the labels do not name become 255.

        Returns:
            `SeedMasks`; in `dense`, which is scored, pixels without a seed count as background.

        Raises:
            DataError: no file, another size than the image, an unknown class, or a colour of no class.
        """
        path = self._path(sample.name)
        mask = self._read(path)
        if mask.shape != sample.image.shape[:2]:
            raise BrokenFileError(f"{path}: mask {mask.shape} for an image of {sample.image.shape[:2]}")
        unknown = [value for value in used_values(mask) if self.class_set.num_classes <= value != IGNORE_INDEX]
        if unknown:
            last = self.class_set.num_classes - 1
            raise BrokenFileError(f"{path}: unknown class {unknown[0]}; expected 0 to {last} and {IGNORE_INDEX}")
        missing = missing_classes(mask, sample.labels, self.class_set)
        if missing and not self._told:
            self._told = True
            logger.warning("%s: %s (said of the first such mask)", path, missing)
        seed = np.where(np.isin(mask, [0, *sample.labels]), mask, IGNORE_INDEX).astype(np.uint8)
        return SeedMasks(seed=seed, dense=np.where(seed == IGNORE_INDEX, 0, seed).astype(np.uint8))

    def _path(self, name: str) -> Path:
        """The image's file; under its whole name, or, where there is none, without COCO's prefix."""
        whole = self.folder / f"{name}.png"
        short_name = _COCO_PREFIX.sub("", name)
        return whole if short_name == name or whole.is_file() else self.folder / f"{short_name}.png"


def _existing(folder: Path | str) -> Path:
    folder = expand_home(folder)
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; expected imported seeds")
    return folder


def _class_maps(path: Path) -> dict[Any, Any]:
    """`{key: map}` of a file, the keys as the file has them."""
    content: Any = read_npy(path) if path.suffix == ".npy" else read_npz(path)
    if not isinstance(content, Mapping):
        raise BrokenFileError(f"{path}: expected a dictionary {{class: CAM}}; found {type(content).__name__}")
    if "keys" not in content:
        return dict(content)
    keys, maps = content["keys"], next((content[key] for key in _MAPS_KEYS if key in content), ())
    listed = isinstance(keys, np.ndarray) and keys.ndim == 1 and keys.dtype.kind in "iuU"
    listed = listed or (isinstance(keys, list | tuple) and all(isinstance(key, int | str) for key in keys))
    many = isinstance(maps, list | tuple) or (isinstance(maps, np.ndarray) and maps.ndim > 0)
    if not listed or not many or len(maps) != len(keys):
        raise BrokenFileError(f"{path}: expected `keys`, and as many CAMs ({', '.join(_MAPS_KEYS)})")
    return dict(zip(keys if isinstance(keys, list | tuple) else keys.tolist(), maps, strict=True))


def _checked(path: Path, name: str, value: Any, size: tuple[int, ...]) -> np.ndarray:
    """One map `(H, W)` float32, 0…1."""
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "biuf":
        raise BrokenFileError(f"{path}: CAM of {name}: expected an array of numbers; found {type(value).__name__}")
    if value.shape != size:
        raise BrokenFileError(f"{path}: CAM of {name} is {value.shape}; expected the size of the image, {size}")
    if not np.isfinite(value).all():
        raise BrokenFileError(f"{path}: CAM of {name} has values that are not finite; expected 0…1")
    positive = np.maximum(value.astype(np.float32), 0)
    return positive / max(1.0, float(positive.max(initial=0)))


@dataclass(frozen=True, kw_only=True)
class ImportedCAMSeeds(CAMSeeds):
    """Class activation maps that another program made.

    Args:
        folder: one file an image.
        first_class: the number that the files give to the first foreground class: 0 or 1.
    """

    method: Literal["imported_cams"] = "imported_cams"
    folder: str
    first_class: int = 0

    def __post_init__(self) -> None:
        if self.first_class not in (0, 1):
            raise ConfigError(f"first_class: 0 or 1 expected; found {self.first_class}")

    @property
    def sources(self) -> dict[str, str | None]:
        """The folder of the maps."""
        return {"imported seeds": self.folder, **super().sources}

    def make(self, run: SeedRun) -> ImportedCAMs:
        """The reader of the folder."""
        return ImportedCAMs(self.folder, run.dataset.class_set, first_class=self.first_class)


@dataclass(frozen=True, kw_only=True)
class ImportedMaskSeeds(SeedStageSettings):
    """Seed masks that another program made.

    Args:
        folder: one file an image.
    """

    method: Literal["imported_masks"] = "imported_masks"
    folder: str

    @property
    def sources(self) -> dict[str, str | None]:
        """The folder of the masks."""
        return {"imported seeds": self.folder}
