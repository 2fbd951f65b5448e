"""The form of a format: how its files are written, told from others, and read; and what formats of many files share."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from weakclip.annotations.entries import AnnotatedImage, MaskEntry, Shapes
from weakclip.datasets.classes import ClassSet
from weakclip.datasets.images import write_png
from weakclip.errors import DataError
from weakclip.store.files import check_inside
from weakclip.store.trees import StoredPath

logger = logging.getLogger("weakclip")

FLAT = "__"
"""Stands for the `/` of an image's name where all files lie in one folder."""


@dataclass(frozen=True, kw_only=True)
class KnownImages:
    """The images that masks are read for.

    Args:
        size_of: from the name of a file to height and width of its image; None where there is no such image.
        class_set: their classes.
    """

    size_of: Callable[[str], tuple[int, int] | None]
    class_set: ClassSet


@dataclass(frozen=True, kw_only=True)
class Format:
    """A format of masks for annotation tools.

    Args:
        name: as given to `weakclip export masks --format`.
        ending: of its file, with the dot; empty for a folder.
        write: from path, masks, classes and shapes (masks, one a class, or polygons, one a connected region) to how
            many images were written. The images are taken one at a time; the file or folder appears whole or not at
            all.
        is_at: whether a path that exists has this format; later ones in `FORMATS` are asked after earlier ones.
        read: the images of a path.
    """

    name: str
    ending: str
    write: Callable[[Path, Iterable[MaskEntry], ClassSet, Shapes], int]
    is_at: Callable[[Path], bool]
    read: Callable[[Path, KnownImages], Iterator[AnnotatedImage]]


def starts_with(path: Path, sign: str) -> bool:
    """Whether a text file begins with a sign, after a byte order mark and spaces."""
    if not path.is_file():
        return False
    with path.open(encoding="utf-8-sig") as file, contextlib.suppress(UnicodeDecodeError):
        return file.read(4096).lstrip()[:1] == sign
    return False


def files_below(folder: Path, ending: str, *, but: Sequence[str] = ()) -> list[str]:
    """Paths of the files with an ending, relative to the folder; hidden files and linked folders are passed over."""
    found = []
    for current, _, names in os.walk(folder):
        for name in names:
            path = Path(current) / name
            if name.lower().endswith(ending) and not name.startswith(".") and name not in but:
                found.append(path.relative_to(folder).as_posix())
    return sorted(found)


def annotations_below(folder: Path, ending: str) -> list[str]:
    """As `files_below`, of files that are read.

    Raises:
        DataError: a link that leads out of the folder.
    """
    found = files_below(folder, ending)
    for name in found:
        check_inside(folder / name, folder)
    return found


def tell_strays(folder: Path, read: Iterable[str]) -> None:
    """Name files in a folder of annotations that are not read."""
    known = set(read)
    strays = [name for name in files_below(folder, "") if name not in known]
    if strays:
        logger.warning("%s: %d files are no annotations and are left out, the first %s", folder, len(strays), strays[0])


def tell_unlabelled(folder: Path, images: Sequence[str]) -> None:
    """Name images of a folder that have no annotations."""
    if images:
        logger.warning(
            "%s: %d images have no annotations, and nothing is taken for them, the first %s",
            *(folder, len(images), images[0]),
        )


def flat_name(name: str) -> str:
    """The name of an image or its file where all lie in one folder.

    >>> flat_name("cats/one.jpg")
    'cats__one.jpg'
    """
    return name.replace("/", FLAT)


def check_flat(names: Iterable[str]) -> None:
    """Refuse names that would be one name in a flat folder, or on a disk that does not tell A from a.

    Raises:
        DataError: there are two such names.
    """
    seen: dict[str, str] = {}
    for name in names:
        key = flat_name(name).casefold()
        if key in seen:
            raise DataError(
                f"images {seen[key]} and {name} would both be called {flat_name(name)} in one folder; rename one of "
                "them, or export coco, label-studio or cvat, which keep folders"
            )
        seen[key] = name


def place_photo(entry: MaskEntry, target: Path) -> None:
    """Put an image where its tool expects it: a link to its file, else a copy; as PNG where it is drawn."""
    if entry.photo is None:
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(entry.photo, StoredPath):
        target.write_bytes(entry.photo.read_bytes())
        return
    if not isinstance(entry.photo, Path):
        write_png(target, entry.photo())
        return
    try:
        target.symlink_to(entry.photo.resolve())
    except OSError:
        shutil.copyfile(entry.photo, target)
