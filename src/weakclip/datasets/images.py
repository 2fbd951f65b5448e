"""Images and masks on disk. No torch here."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile

from weakclip.datasets.image_files import ImageSource, opened_image, orientation, upright
from weakclip.errors import BrokenFileError
from weakclip.store.files import atomic_write

LONGEST_ASPECT = 8
"""An image is enlarged to fit a crop by its shorter side, but never beyond this many crops along its longer side."""

_DEEP_MODES = ("I", "F")  # and I;16 in either byte order: more than 8 bits
_TIFF_WIDTH, _TIFF_HEIGHT, _TIFF_PHOTOMETRIC = 256, 257, 262


def read_rgb(path: ImageSource, *, longest_side: int | None = None) -> np.ndarray:
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
    with opened_image(path) as image:
        whole = _upright_size(image)
        size = reduced_size(whole, longest_side)
        if size != whole:
            enough = 2 * min(size)  # of a JPEG decoded at 1/2, 1/4 or 1/8; the shorter side may be either
            image.draft(None, (enough, enough))
        image.load()  # Pillow turns a TIFF by itself here, and takes its orientation away
        white_is_zero = isinstance(image, TiffImageFile) and image.tag_v2.get(_TIFF_PHOTOMETRIC) == 0
        colours = _colours(upright(image), white_is_zero=white_is_zero)
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


def _colours(image: Image.Image, *, white_is_zero: bool = False) -> Image.Image:
    """RGB, 8 bits.

    Args:
        image: loaded.
        white_is_zero: whether grey of more than 8 bits counts down from white; Pillow inverts 8 bits by itself.
    """
    if image.mode in _DEEP_MODES or image.mode.startswith("I;16"):
        values = np.asarray(image)
        whole = values.dtype.kind == "u" and values.dtype.itemsize == 2
        grey = _eight_bits(~values if white_is_zero and whole else values)
        image = Image.fromarray(255 - grey if white_is_zero and not whole else grey)
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


def read_mask(path: ImageSource) -> np.ndarray:
    """Read a mask of class indices from a palette or grey PNG of up to 8 bits, a file or what is open already.

    Returns:
        `(H, W)` uint8, `IGNORE_INDEX` where no class is given; turned by its EXIF orientation, if it has one.

    Raises:
        DataError: no such file, not an image, or an image with colour channels.
    """
    return read_palette_mask(path)[0]


def read_palette_mask(path: ImageSource) -> tuple[np.ndarray, np.ndarray | None]:
    """As `read_mask`, and the colours of the palette, `(n, 3)` uint8; None where the image is grey.

    A palette that counts from black to white is a grey image, too.

    Raises:
        DataError: as `read_mask`.
    """
    with opened_image(path) as image:
        scale = _grey_scale(image)
        image.load()
        turned = upright(image)
        if turned.mode not in ("P", "L", "1"):
            raise BrokenFileError(
                f"{path}: a mask is a palette or 8-bit grey image of class indices; found {turned.mode}"
            )
        palette = None
        if turned.mode == "P":
            palette = np.array(turned.getpalette("RGB") or [], dtype=np.uint8).reshape(-1, 3)
            if (palette == np.arange(len(palette))[:, None]).all():
                palette = None
        return np.array(turned, dtype=np.uint8) // scale, palette


def _grey_scale(image: Image.Image) -> int:
    """The factor on the values of a PNG of 2 or 4 bits of grey, which Pillow spreads to 0…255; else 1."""
    if not isinstance(image, PngImageFile) or not image.tile:
        return 1
    name: Any = image.tile[0][3]
    return {"L;2": 85, "L;4": 17}.get(name if isinstance(name, str) else (name or [""])[0], 1)


def image_size(path: ImageSource) -> tuple[int, int]:
    """Height and width of an image as `read_rgb` gives it, from its header."""
    with opened_image(path) as image:
        return _upright_size(image)


def _upright_size(image: Image.Image) -> tuple[int, int]:
    """Height and width after turning, of an image that is not loaded yet."""
    width, height = image.size
    if isinstance(image, TiffImageFile):  # some versions of Pillow have swapped the sides already
        width, height = image.tag_v2[_TIFF_WIDTH], image.tag_v2[_TIFF_HEIGHT]
    return (width, height) if orientation(image) >= 5 else (height, width)


def used_values(mask: np.ndarray) -> list[int]:
    """The values in a mask `(H, W)` uint8, ascending."""
    return np.flatnonzero(np.bincount(mask.ravel(), minlength=256)).tolist()


def mask_digest(mask: np.ndarray) -> str:
    """Thirty-two hex digits of the pixels of a mask, `(H, W)` uint8."""
    return hashlib.sha256(f"{mask.shape} ".encode() + mask.tobytes()).hexdigest()[:32]


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


def write_jpeg(path: Path | str, array: np.ndarray) -> None:
    """Write `(H, W, 3)` RGB uint8 as JPEG, for looking at."""
    with atomic_write(path) as file:
        Image.fromarray(array).save(file, format="JPEG", quality=75, optimize=True)


def resize_rgb(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bilinear (area-aware) resize of `(H, W, 3)` uint8 to `(height, width)`."""
    return np.array(Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BILINEAR))


def resize_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Nearest-neighbour resize of `(H, W)` uint8 to `(height, width)`."""
    return np.array(Image.fromarray(mask).resize((size[1], size[0]), Image.Resampling.NEAREST))
