"""Image files: told apart by their content, opened for decoding, and turned upright. No torch here."""

from __future__ import annotations

import contextlib
import io
import math
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from PIL import Image, UnidentifiedImageError
from PIL import WebPImagePlugin as _WebPImagePlugin  # noqa: F401, of FORMATS the one that Pillow imports late
from PIL.PngImagePlugin import PngImageFile

from weakclip.errors import BrokenFileError, WeakCLIPError
from weakclip.store.trees import StoredPath
from weakclip.store.untrusted_text import one_line

FORMATS = ("BMP", "DIB", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""Formats that are decoded, told from a file's content. Pillow knows many more: of some the decoder is
another program (Ghostscript, of EPS), and of most it is seldom looked at."""

ImageSource = Path | StoredPath | str | IO[bytes]

_EXIF_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""Of each orientation (EXIF 2.3, tag 0x0112), how the pixels are brought upright."""

_PNG_START = b"\x89PNG\r\n\x1a\n"
_PNG_KEPT = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"eXIf")


def upright(image: Image.Image) -> Image.Image:
    """The loaded image upright. `ImageOps.exif_transpose` would write all other tags anew, and fail for an odd one."""
    method = _TURNS.get(orientation(image))
    return image if method is None else image.transpose(method)


def orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1…8; 1 where there is none, or EXIF that cannot be read.

    Raises:
        OSError: the pixels of a PNG are damaged. They are decoded here, for its EXIF may stand after them.
    """
    if isinstance(image, PngImageFile) and "exif" not in image.info:
        try:
            image.load()
        except OSError:  # Pillow takes a second call for a success, with black pixels
            raise
        except Exception:  # nearly any other, of a chunk after the pixels
            pass
    try:
        value = image.getexif().get(_EXIF_ORIENTATION, 1)
    except Exception:  # Pillow's reader of EXIF raises nearly anything
        return 1
    return value if isinstance(value, int) and value in _TURNS else 1


@contextlib.contextmanager
def opened_image(path: ImageSource) -> Iterator[Image.Image]:
    """An image, not decoded yet, while it is worked on.

    Raises:
        BrokenFileError: no such file, not an image, or whatever Pillow says of it meanwhile, in one line.
    """
    try:
        if isinstance(path, Path | str) and Path(path).exists() and not Path(path).is_file():
            raise BrokenFileError(
                f"{path}: cannot be read as an image (it is a folder, pipe or device)"
            )  # a pipe would never end
        name = os.fspath(path) if isinstance(path, Path | str) else ""
        with _opened(path) as file:
            yield _identified(file, name)
    except (WeakCLIPError, MemoryError):
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


def _opened(source: ImageSource) -> contextlib.AbstractContextManager[IO[bytes]]:
    if isinstance(source, StoredPath):
        return source.open("rb")
    return open(source, "rb") if isinstance(source, Path | str) else contextlib.nullcontext(source)


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
            try:
                image = factory(file, name)
            except (SyntaxError, ValueError, EOFError):
                if kind != "PNG":
                    raise
                image = factory(_pixels_of_png(file), "")
            if image.width * image.height > 2 * (Image.MAX_IMAGE_PIXELS or math.inf):
                raise Image.DecompressionBombError
            return image
    raise UnidentifiedImageError


def _pixels_of_png(file: IO[bytes]) -> IO[bytes]:
    """A PNG without the chunks that Pillow may trip over: texts, times and profiles, which every viewer passes over."""
    file.seek(len(_PNG_START))
    kept = [_PNG_START]
    while len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        if kind not in _PNG_KEPT:
            file.seek(length + 4, os.SEEK_CUR)
            continue
        content = file.read(length + 4)
        if kind != b"eXIf" or content[-4:] == struct.pack(">I", zlib.crc32(kind + content[:-4])):
            kept += [head, content]
        if kind == b"IEND":
            break
    return io.BytesIO(b"".join(kept))


def _what_else(path: ImageSource) -> str:
    """The kind of a file that is no image."""
    try:
        empty = isinstance(path, Path | str) and Path(path).stat().st_size == 0
    except (OSError, ValueError):
        empty = False
    return "an empty file" if empty else "not an image that is read"
