"""Images and masks on disk, and files that appear whole or not at all. No torch here."""

from __future__ import annotations

import contextlib
import json
import math
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from weakclip.classes import IGNORE_INDEX
from weakclip.errors import DataError


def _read_umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


_UMASK = _read_umask()  # once: reading it means setting it, which other threads must not meet


@contextlib.contextmanager
def atomic_write(path: Path | str, mode: str = "wb") -> Iterator[IO[Any]]:
    """Open a temporary file beside `path`; on success flush it to disk and rename it, on failure remove it.

    >>> import tempfile, pathlib
    >>> target = pathlib.Path(tempfile.mkdtemp()) / "note.txt"
    >>> with atomic_write(target, "w") as file:
    ...     _ = file.write("whole")
    >>> target.read_text()
    'whole'
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name[:40]}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(handle, mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_UMASK)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def write_json(path: Path | str, value: Any) -> None:
    """Write `value` as indented JSON, whole or not at all; numpy values as numbers, NaN and infinity as null."""
    text = json.dumps(_plain(value), indent=2, ensure_ascii=False, allow_nan=False)
    with atomic_write(path, "w") as file:
        file.write(text + "\n")


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_rgb(path: Path | str) -> np.ndarray:
    """Read any image as RGB, turned upright by its EXIF orientation; 16-bit grey is scaled to 8 bits.

    Returns:
        `(H, W, 3)` uint8.

    Raises:
        DataError: no such file, not an image, or a truncated one.
    """
    with _opened(path) as opened:
        image = ImageOps.exif_transpose(opened)
        if image.mode.startswith("I"):
            image = Image.fromarray((np.asarray(image).clip(0, 65535) >> 8).astype(np.uint8))
        if "transparency" in image.info:
            image = image.convert("RGBA")
        return np.array(image.convert("RGB"))


def read_mask(path: Path | str | IO[bytes]) -> np.ndarray:
    """Read a mask of class indices from a palette or 8-bit grey PNG, a file or what is open already.

    Returns:
        `(H, W)` uint8, `IGNORE_INDEX` where no class is given.

    Raises:
        DataError: no such file, not an image, or an image with colour channels.
    """
    with _opened(path) as image:
        if image.mode not in ("P", "L", "1"):
            raise DataError(f"{path}: a mask is a palette or 8-bit grey image of class indices; found {image.mode}")
        return np.array(image if image.mode != "1" else image.convert("L"), dtype=np.uint8)


@contextlib.contextmanager
def _opened(path: Path | str | IO[bytes]) -> Iterator[Image.Image]:
    try:
        with Image.open(path) as image:
            yield image
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except UnidentifiedImageError:
        raise DataError(f"{path}: not an image that Pillow can read") from None
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: cannot be read as an image ({error})") from None


def image_size(path: Path | str) -> tuple[int, int]:
    """Height and width of an image as `read_rgb` gives it, from its header alone."""
    with _opened(path) as image:
        width, height = image.size
        turned = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
        return (width, height) if turned else (height, width)


def write_mask(path: Path | str, mask: np.ndarray, palette: np.ndarray) -> None:
    """Write class indices as a palette PNG.

    Args:
        path: target, replaced whole.
        mask: `(H, W)` uint8, class indices and `IGNORE_INDEX`.
        palette: `(256, 3)` uint8.
    """
    if mask.ndim != 2 or mask.dtype != np.uint8:
        raise TypeError(f"a mask is (H, W) uint8; found {mask.shape} {mask.dtype}")
    image = Image.fromarray(mask).convert("L")
    image.putpalette(np.ascontiguousarray(palette, dtype=np.uint8).tobytes())
    with atomic_write(path) as file:
        image.save(file, format="PNG")


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
