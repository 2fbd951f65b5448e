"""Files of proposals: what SAM and SAM 2 write for an image, results in the format of COCO, or PNGs."""

from __future__ import annotations

import json
import re
import tempfile
import threading
from array import array
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import IO, Any

import numpy as np

from weakclip.datasets.base import ImageLabelDataset, Sample
from weakclip.datasets.image_files import opened_image
from weakclip.datasets.image_folder import IMAGE_SUFFIXES
from weakclip.datasets.images import resize_mask
from weakclip.datasets.json_stream import stream_list
from weakclip.datasets.regions import region_pixels
from weakclip.errors import BrokenFileError, DataError, first_line
from weakclip.store.files import expand_home
from weakclip.store.untrusted_text import short

_COCO_PREFIX = re.compile(r"^COCO_[a-z]+\d{4}_(?=\d)")
_READING = (OSError, ValueError, KeyError, TypeError, IndexError, RecursionError)


class ProposalFiles:
    """Regions of each image, from a folder or from one file for all images.

    In a folder, an image `NAME` has one of

    - `NAME.json`: a list of `{"segmentation": …}`, or an object with such a list as `annotations`, as the mask
      generators of SAM and SAM 2 and the data set SA-1B have them; run lengths, polygons, or rows of true and false;
    - `NAME.png`: the number of each pixel's region, 0 for none; three channels count as R + 256 G + 65536 B;
    - `NAME/`: a folder of PNGs, each one region: its pixels are not 0.

    A file is COCO's list of results, `[{"image_id": …, "segmentation": …}, …]`; an `image_id` is the image's name, or
    the number that its name is, with or without COCO's prefix. It is read once, and waits in a temporary file.

    An image without proposals has no regions.

    Args:
        path: the folder, or the `.json` file.

    Raises:
        DataError: no such folder or file, or no list of results.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = expand_home(path)
        self._results: _Results | None = None
        if self.path.is_file():
            self._results = _Results(self.path)
        elif not self.path.is_dir():
            raise DataError(f"{self.path}: no such folder or file; expected proposals")

    def regions(self, name: str, size: tuple[int, int]) -> list[np.ndarray]:
        """The regions of an image.

        Args:
            name: of the image, without an ending.
            size: its height and width.

        Returns:
            `(H, W)` bool each.

        Raises:
            BrokenFileError: a file that cannot be read, or regions of another size.
        """
        return self._found(name, size) or []

    def of_sample(self, dataset: ImageLabelDataset, sample: Sample) -> list[np.ndarray]:
        """The regions of an image, which are of its file's size, at the size that it is read with."""
        stored, size = dataset.stored_size(dataset.index_of(sample.name)), sample.image.shape[:2]
        regions = self.regions(sample.name, stored)
        return regions if stored == size else [resize_mask(each.astype(np.uint8), size) != 0 for each in regions]

    def missing(self, names: Sequence[str]) -> list[str]:
        """The images without proposals.

        Raises:
            DataError: none of them has any: another folder was meant, or other names.
        """
        without = [name for name in names if not self._is_there(name)]
        if names and len(without) == len(names):
            found = sorted(path.name for path in self.path.iterdir())[:3] if self.path.is_dir() else []
            expected = f"{names[0]}.json, {names[0]}.png or {names[0]}/*.png"
            said = f"; found {short(found)}" if found else ""
            raise DataError(f"{self.path}: proposals of none of the {len(names):,} images; expected {expected}{said}")
        return without

    def _is_there(self, name: str) -> bool:
        if self._results is not None:
            return self._results.has(name)
        return any((self.path / f"{name}{ending}").exists() for ending in (".json", ".png", ""))

    def _found(self, name: str, size: tuple[int, int]) -> list[np.ndarray] | None:
        if self._results is not None:
            return self._results.regions(name, size)
        whole = self.path / name
        written, numbered = whole.with_name(f"{whole.name}.json"), whole.with_name(f"{whole.name}.png")
        if written.is_file():
            return _written(written, size)
        if numbered.is_file():
            numbers = _numbers(numbered, size)
            return [numbers == number for number in np.unique(numbers) if number]
        if whole.is_dir():
            return [_numbers(path, size) != 0 for path in sorted(whole.glob("*.png"))]
        return None


class _Results:
    """COCO's list of results, each region a line of a temporary file, of which only the places are in memory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._store: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  # as long as this object
        self._places: dict[str, array[int]] = {}
        self._reading = threading.Lock()
        try:
            with path.open(encoding="utf-8-sig") as file:
                for entry in stream_list(file):
                    key = _key(entry["image_id"])
                    self._places.setdefault(key, array("Q")).append(self._store.tell())
                    self._store.write(json.dumps(entry["segmentation"]).encode() + b"\n")
        except _READING as error:
            reason = f"an entry lacks {error}" if isinstance(error, KeyError) else first_line(error)
            raise DataError(f'{path}: {reason}; expected a list of {{"image_id": …, "segmentation": …}}') from None

    def has(self, name: str) -> bool:
        return name in self._places or _key(name) in self._places

    def regions(self, name: str, size: tuple[int, int]) -> list[np.ndarray] | None:
        places = self._places.get(name) or self._places.get(_key(name))
        return None if places is None else _drawn(f"{self.path}, {name}", [self._area(place) for place in places], size)

    def _area(self, place: int) -> Any:
        with self._reading:  # masks are finished in several threads
            self._store.seek(place)
            return json.loads(self._store.readline())


def _key(name: Any) -> str:
    """One spelling of an image's name or number.

    >>> [_key(each) for each in (9, 9.0, "000000000009", "COCO_val2014_000000000009.jpg", "2007_000033")]
    ['9', '9', '9', '9', '2007_000033']
    """
    whole = int(name) if isinstance(name, float) and name.is_integer() else name
    text = _COCO_PREFIX.sub("", str(whole))
    text = PurePosixPath(text).with_suffix("").as_posix() if text.lower().endswith(IMAGE_SUFFIXES) else text
    return str(int(text)) if text.isascii() and text.isdigit() else text


def _written(path: Path, size: tuple[int, int]) -> list[np.ndarray]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
        listed = content["annotations"] if isinstance(content, dict) else content
        areas = [entry["segmentation"] for entry in listed]
    except _READING as error:
        reason = f"an entry lacks {error}" if isinstance(error, KeyError) else short(first_line(error))
        raise BrokenFileError(f'{path}: {reason}; expected a list of {{"segmentation": …}}, as SAM writes it') from None
    return _drawn(str(path), areas, size)


def _drawn(place: str, areas: list[Any], size: tuple[int, int]) -> list[np.ndarray]:
    regions = []
    for number, area in enumerate(areas, start=1):
        try:
            regions.append(np.array(area) if _is_dense(area, size) else region_pixels(area, size))
        except (*_READING, OverflowError) as error:
            raise BrokenFileError(f"{place}: region {number}: {short(first_line(error))}") from None
    return regions


def _is_dense(area: Any, size: tuple[int, int]) -> bool:
    """Whether a region is `(H, W)` rows of true and false, as SAM's `binary_mask` becomes in JSON."""
    if not (isinstance(area, list) and len(area) == size[0]):
        return False
    return all(isinstance(row, list) and len(row) == size[1] and {True, False} >= {*row} for row in area)


def _numbers(path: Path, size: tuple[int, int]) -> np.ndarray:
    """`(H, W)` integers."""
    with opened_image(path) as image:
        values = np.asarray(image if image.mode in ("P", "L", "1", "I") or ";" in image.mode else image.convert("RGB"))
    if values.shape[:2] != size:
        raise BrokenFileError(f"{path}: proposals of {values.shape[:2]}; expected the size of the image, {size}")
    if values.ndim == 2:
        return values.astype(np.int64)
    return values.astype(np.int64) @ np.array([1, 256, 65536])
