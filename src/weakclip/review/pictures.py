"""Pictures for the page, made when they are asked for; the last ones are kept in memory, up to a number of bytes."""

from __future__ import annotations

import hashlib
import io
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from weakclip.datasets.classes import IGNORE_INDEX
from weakclip.datasets.images import resize_mask, resize_rgb
from weakclip.datasets.looks import HALO, outlines, overlay, screen_palette
from weakclip.errors import DataError
from weakclip.review.folder import PSEUDO, SEED, ReviewFolder

THUMB_SIDE, VIEW_SIDE = 192, 1280
"""Longest sides, pixels; smaller images stay as they are."""

CACHE_BYTES = 64 * 2**20
_PALE, _HALO = 150, 190  # opacity of pixels without a class, and of the dark line round an outline, 0…255


@dataclass(frozen=True)
class Picture:
    """An encoded picture.

    Args:
        content: the file's bytes.
        media_type: "image/jpeg" or "image/png".
    """

    content: bytes
    media_type: str

    @property
    def etag(self) -> str:
        """A digest of the bytes, in quotes, as HTTP wants it."""
        return f'"{hashlib.sha256(self.content).hexdigest()[:24]}"'


class PictureCache:
    """The pictures that were asked for last. Safe to use from several threads.

    Args:
        limit: bytes that are kept at most.
    """

    def __init__(self, limit: int = CACHE_BYTES) -> None:
        self.limit, self.size = limit, 0
        self._lock = threading.Lock()
        self._pictures: OrderedDict[tuple[object, ...], Picture] = OrderedDict()

    def get(self, key: tuple[object, ...], make: Callable[[], Picture]) -> Picture:
        """The picture under `key`; made where it is not kept, outside the lock."""
        with self._lock:
            if key in self._pictures:
                self._pictures.move_to_end(key)
                return self._pictures[key]
        picture = make()
        with self._lock:
            old = self._pictures.pop(key, None)
            self.size += len(picture.content) - (len(old.content) if old else 0)
            self._pictures[key] = picture
            while self.size > self.limit:
                self.size -= len(self._pictures.popitem(last=False)[1].content)
        return picture


class Pictures:
    """Thumbnails, images and layers of a run folder.

    Args:
        folder: the run.
    """

    def __init__(self, folder: ReviewFolder) -> None:
        self.folder = folder
        self.cache = PictureCache()
        self._palette = screen_palette(folder.dataset.class_set)

    def thumb(self, index: int) -> Picture:
        """A small image with its pseudo mask, or else its seed, laid over it; JPEG.

        Raises:
            DataError: the image or the mask cannot be read.
        """
        versions = {layer: self.folder.layer_version(index, layer) for layer in (PSEUDO, SEED)}
        shown = next((layer for layer, version in versions.items() if version), None)
        return self.cache.get(("thumb", index, shown, shown and versions[shown]), lambda: self._thumb(index, shown))

    def _thumb(self, index: int, layer: str | None) -> Picture:
        image = self.folder.image(index)
        size = _fitted(image.shape[:2], THUMB_SIDE)
        small = resize_rgb(image, size)
        if layer is not None:
            small = overlay(small, resize_mask(self._fitting(index, layer, image.shape[:2]), size), self._palette)
        return _jpeg(small, quality=80)

    def image(self, index: int, *, own_size: bool = False) -> Picture:
        """The image for the large view; JPEG.

        Args:
            index: of the image.
            own_size: whether it keeps its size; else it is reduced to `VIEW_SIDE`.

        Raises:
            DataError: it cannot be read.
        """

        def make() -> Picture:
            image = self.folder.image(index)
            side = max(image.shape) if own_size else VIEW_SIDE
            return _jpeg(resize_rgb(image, _fitted(image.shape[:2], side)), quality=92)

        return self.cache.get(("image", index, own_size), make)

    def layer(self, index: int, layer: str, *, own_size: bool = False) -> Picture:
        """A mask to be laid over the image: opaque class colours, pale where no class is given, else nothing; PNG.

        Raises:
            DataError: there is none, or it cannot be read.
        """
        key = (layer, index, self.folder.layer_version(index, layer), own_size)
        return self.cache.get(key, lambda: self._coloured(self._sized(index, layer, own_size=own_size)))

    def lines(self, index: int, layer: str, *, own_size: bool = False) -> Picture:
        """The outlines of a mask, opaque in the class colours with a dark line outside; PNG.

        Raises:
            DataError: as `layer`.
        """
        key = ("lines", layer, index, self.folder.layer_version(index, layer), own_size)
        return self.cache.get(key, lambda: self._lines(self._sized(index, layer, own_size=own_size)))

    def _sized(self, index: int, layer: str, *, own_size: bool) -> np.ndarray:
        mask = self.folder.layer(index, layer)
        return mask if own_size else resize_mask(mask, _fitted(mask.shape, VIEW_SIDE))

    def _fitting(self, index: int, layer: str, size: tuple[int, ...]) -> np.ndarray:
        mask = self.folder.layer(index, layer)
        if mask.shape != size:
            raise DataError(f"{self.folder.dataset.names[index]}: {layer} of {mask.shape}, but the image has {size}")
        return mask

    def _coloured(self, mask: np.ndarray) -> Picture:
        palette, opacity = self._palette.copy(), np.full(256, 255, np.uint8)
        palette[IGNORE_INDEX], opacity[IGNORE_INDEX], opacity[0] = 255, _PALE, 0
        return _png(mask, palette, opacity)

    def _lines(self, mask: np.ndarray) -> Picture:
        palette, opacity = self._palette.copy(), np.full(256, 255, np.uint8)
        palette[IGNORE_INDEX], opacity[IGNORE_INDEX], opacity[0] = HALO, _HALO, 0
        return _png(outlines(mask), palette, opacity)


def _png(mask: np.ndarray, palette: np.ndarray, opacity: np.ndarray) -> Picture:
    picture = Image.fromarray(mask).convert("L")
    picture.putpalette(palette.tobytes())
    file = io.BytesIO()
    picture.save(file, format="PNG", transparency=opacity.tobytes())
    return Picture(file.getvalue(), "image/png")


def _fitted(size: tuple[int, ...], side: int) -> tuple[int, int]:
    height, width = size
    factor = min(1.0, side / max(height, width))
    return max(1, round(height * factor)), max(1, round(width * factor))


def _jpeg(image: np.ndarray, *, quality: int) -> Picture:
    file = io.BytesIO()
    Image.fromarray(image).save(file, format="JPEG", quality=quality)
    return Picture(file.getvalue(), "image/jpeg")
