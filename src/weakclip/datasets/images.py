"""Images and masks on disk. No torch here."""

from __future__ import annotations

import contextlib
import io
import math
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL import WebPImagePlugin as _WebPImagePlugin  # noqa: F401, of FORMATS the one that Pillow imports late
from PIL.TiffImagePlugin import TiffImageFile

from weakclip.datasets.classes import IGNORE_INDEX
from weakclip.errors import BrokenFileError, DataError
from weakclip.store.files import atomic_write
from weakclip.store.untrusted_text import one_line

FORMATS = ("BMP", "DIB", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""Formats that are decoded, told from a file's content. Pillow knows many more: of some the decoder is
another program (Ghostscript, of EPS), and of most it is seldom looked at."""

LONGEST_ASPECT = 8
"""An image is enlarged to fit a crop by its shorter side, but never beyond this many crops along its longer side."""

_DEEP_MODES = ("I", "F")  # and I;16 in either byte order: more than 8 bits
_EXIF_ORIENTATION, _TIFF_WIDTH, _TIFF_HEIGHT = 0x0112, 256, 257


def read_rgb(path: Path | str, *, longest_side: int | None = None) -> np.ndarray:
    """Read any image as RGB, turned upright by its EXIF orientation.

    Transparency is dropped and the colour under it kept. Grey of more than 8 bits is read as 10, 12, 14 or 16 bits
    deep, whichever is the least that holds its brightest pixel; beyond 16 bits, below 0 or with fractions, it is
    stretched from its darkest to its brightest pixel. A reduction goes along with decoding where the format can
    (JPEG), so that a huge photo is never in memory whole.

    Args:
        path: the file; of several frames the first is read.
        longest_side: pixels of the longer side that a larger image is reduced to; None keeps its size.

    Returns:
        `(H, W, 3)` uint8; its size is `reduced_size(image_size(path), longest_side)`.

    Raises:
        DataError: no such file, not an image, a truncated one, or one of too many pixels for Pillow.
    """
    with _opened(path) as image:
        whole = _upright_size(image)
        size = reduced_size(whole, longest_side)
        if size != whole:
            enough = 2 * min(size)  # of a JPEG decoded at 1/2, 1/4 or 1/8; the shorter side may be either
            image.draft(None, (enough, enough))
        image.load()  # Pillow turns a TIFF by itself here, and takes its orientation away
        ImageOps.exif_transpose(image, in_place=True)
        colours = _colours(image)
        if colours.size != (size[1], size[0]):
            colours = colours.resize((size[1], size[0]), Image.Resampling.BILINEAR, reducing_gap=3.0)
        return np.array(colours)


def reduced_size(size: tuple[int, int], longest_side: int | None) -> tuple[int, int]:
    """Height and width after the longer side has been brought to at most `longest_side`, if that is given.

    >>> reduced_size((3000, 4000), 1024), reduced_size((3, 500), 100), reduced_size((3, 5), None)
    ((768, 1024), (1, 100), (3, 5))
    """
    if longest_side is None or max(size) <= longest_side:
        return size
    factor = longest_side / max(size)
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def fit_factor(size: tuple[int, ...], crop: int) -> float:
    """The factor that brings the shorter side of `size` to `crop`, or the longer to `LONGEST_ASPECT` crops if less.

    >>> fit_factor((375, 500), 512) == 512 / 375, fit_factor((3, 512), 64)
    (True, 1.0)
    """
    return min(crop / min(size), LONGEST_ASPECT * crop / max(size))


def _colours(image: Image.Image) -> Image.Image:
    """RGB, 8 bits."""
    if image.mode in _DEEP_MODES or image.mode.startswith("I;16"):
        image = Image.fromarray(_eight_bits(np.asarray(image)))
    if "transparency" in image.info:
        image = image.convert("RGBA")
    return image if image.mode == "RGB" else image.convert("RGB")


def _eight_bits(values: np.ndarray) -> np.ndarray:
    """Grey values of any depth as uint8; what is no number is black."""
    if values.dtype.kind == "f":
        values = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
    darkest, brightest = values.min(), values.max()
    if values.dtype.kind == "f" or darkest < 0 or brightest > 65535:
        span = float(brightest) - float(darkest) or 1.0
        stretched = (values.astype(np.float32) - np.float32(darkest)) * np.float32(255 / span)
        return np.rint(stretched).clip(0, 255).astype(np.uint8)
    depth = next(bits for bits in (8, 10, 12, 14, 16) if brightest < 2**bits)
    return (values >> (depth - 8)).astype(np.uint8)


def read_mask(path: Path | str | IO[bytes]) -> np.ndarray:
    """Read a mask of class indices from a palette or 8-bit grey PNG, a file or what is open already.

    Returns:
        `(H, W)` uint8, `IGNORE_INDEX` where no class is given; turned by its EXIF orientation, if it has one.

    Raises:
        DataError: no such file, not an image, or an image with colour channels.
    """
    with _opened(path) as image:
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
        if image.mode not in ("P", "L", "1"):
            raise BrokenFileError(
                f"{path}: a mask is a palette or 8-bit grey image of class indices; found {image.mode}"
            )
        return np.array(image if image.mode != "1" else image.convert("L"), dtype=np.uint8)


@contextlib.contextmanager
def _opened(path: Path | str | IO[bytes]) -> Iterator[Image.Image]:
    try:
        if isinstance(path, Path | str) and Path(path).exists() and not Path(path).is_file():
            raise BrokenFileError(
                f"{path}: cannot be read as an image (it is a folder, pipe or device)"
            )  # a pipe would never end
        name = os.fspath(path) if isinstance(path, Path | str) else ""
        with open(path, "rb") if isinstance(path, Path | str) else contextlib.nullcontext(path) as file:
            yield _identified(file, name)
    except (DataError, MemoryError):
        raise
    except FileNotFoundError:
        raise BrokenFileError(f"{path}: no such file; put it back, and give the same command again") from None
    except PermissionError:
        raise BrokenFileError(f"{path}: may not be read; give yourself the right to (chmod u+r)") from None
    except UnidentifiedImageError:
        raise BrokenFileError(f"{path}: {_what_else(path)}; expected {', '.join(FORMATS)}") from None
    except Image.DecompressionBombError:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0) // 10**6
        raise BrokenFileError(f"{path}: more than {limit} megapixels; make it smaller, or cut it into tiles") from None
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged files
        reason = one_line(str(error)) or type(error).__name__
        raise BrokenFileError(
            f"{path}: cannot be read as an image ({reason}); save it anew from the original"
        ) from None


def _identified(file: IO[bytes], name: str) -> Image.Image:
    """`Image.open` without its warning: Pillow warns from 89 megapixels and refuses from twice as many, and only the
    second is a limit. A filter of warnings would be one of the whole program.

    Args:
        file: read from its beginning; it stays open.
        name: its path, from which Pillow maps uncompressed pixels into memory; empty where there is none.
    """
    Image.preinit()  # registers the common formats; the others are imported above
    file.seek(0)
    start = file.read(16)
    for kind in FORMATS:
        factory, accept = Image.OPEN[kind]
        with contextlib.suppress(SyntaxError, IndexError, TypeError, struct.error):  # so the readers say: it is none
            if accept is not None and accept(start) is not True:
                continue
            file.seek(0)
            image = factory(file, name)
            if image.width * image.height > 2 * (Image.MAX_IMAGE_PIXELS or math.inf):
                raise Image.DecompressionBombError
            return image
    raise UnidentifiedImageError


def _what_else(path: Path | str | IO[bytes]) -> str:
    """The kind of a file that is no image."""
    try:
        empty = isinstance(path, Path | str) and Path(path).stat().st_size == 0
    except (OSError, ValueError):
        empty = False
    return "an empty file" if empty else "not an image that is read"


def image_size(path: Path | str) -> tuple[int, int]:
    """Height and width of an image as `read_rgb` gives it, from its header."""
    with _opened(path) as image:
        return _upright_size(image)


def _upright_size(image: Image.Image) -> tuple[int, int]:
    """Height and width after turning, of an image that is not loaded yet."""
    width, height = image.size
    if isinstance(image, TiffImageFile):  # some versions of Pillow have swapped the sides already
        width, height = image.tag_v2[_TIFF_WIDTH], image.tag_v2[_TIFF_HEIGHT]
    turned = image.getexif().get(_EXIF_ORIENTATION, 1) in (5, 6, 7, 8)
    return (width, height) if turned else (height, width)


def write_mask(path: Path | str, mask: np.ndarray, palette: np.ndarray) -> None:
    """Write class indices as a palette PNG.

    Args:
        path: target, replaced whole.
        mask: `(H, W)` uint8, class indices and `IGNORE_INDEX`.
        palette: `(256, 3)` uint8.
    """
    with atomic_write(path) as file:
        file.write(mask_png(mask, palette))


def mask_png(mask: np.ndarray, palette: np.ndarray) -> bytes:
    """The bytes of a palette PNG; arguments as for `write_mask`."""
    if mask.ndim != 2 or mask.dtype != np.uint8:
        raise TypeError(f"a mask is (H, W) uint8; found {mask.shape} {mask.dtype}")
    image = Image.fromarray(mask).convert("L")
    image.putpalette(np.ascontiguousarray(palette, dtype=np.uint8).tobytes())
    content = io.BytesIO()
    image.save(content, format="PNG")
    return content.getvalue()


def write_png(path: Path | str, array: np.ndarray) -> None:
    """Write `(H, W)` grey or `(H, W, 3)` RGB uint8 as PNG."""
    with atomic_write(path) as file:
        Image.fromarray(array).save(file, format="PNG")


def write_jpeg(path: Path | str, array: np.ndarray, *, quality: int = 75) -> None:
    """Write `(H, W, 3)` RGB uint8 as JPEG, for looking at."""
    with atomic_write(path) as file:
        Image.fromarray(array).save(file, format="JPEG", quality=quality, optimize=True)


def resize_rgb(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bilinear (area-aware) resize of `(H, W, 3)` uint8 to `(height, width)`."""
    return np.array(Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BILINEAR))


def resize_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Nearest-neighbour resize of `(H, W)` uint8 to `(height, width)`."""
    return np.array(Image.fromarray(mask).resize((size[1], size[0]), Image.Resampling.NEAREST))


def overlay(image: np.ndarray, mask: np.ndarray, palette: np.ndarray, *, alpha: float = 0.55) -> np.ndarray:
    """Class colours laid over a photo; background and ignored pixels keep the photo.

    Args:
        image: `(H, W, 3)` uint8.
        mask: `(H, W)` uint8.
        palette: `(256, 3)` uint8.
        alpha: weight of the colour, 0…1.

    Returns:
        `(H, W, 3)` uint8.
    """
    shown = (mask != 0) & (mask != IGNORE_INDEX)
    mixed = (1 - alpha) * image + alpha * palette[mask]
    return np.where(shown[..., None], mixed, image).astype(np.uint8)
