"""The images that a command names: files, folders, patterns, and a list on standard input."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from weakclip.datasets.image_folder import IMAGE_SUFFIXES, is_passed_over
from weakclip.errors import DataError
from weakclip.store.files import expand_home

STANDARD_INPUT = "-"


@dataclass(frozen=True)
class InputImage:
    """An image to be predicted.

    Args:
        path: the file, absolute; it need not be there.
        file_name: its path below the folder that all images have in common.
        name: what its results are called: the file name without its ending, or with it where two would be the same.
    """

    path: Path
    file_name: str
    name: str


def find_images(
    inputs: Sequence[str], *, listed: Iterable[str] = (), leave_out: Path | None = None
) -> list[InputImage]:
    """The images that are named, each once, in the order in which they are named; a folder's sorted.

    Args:
        inputs: files, folders (with all folders in them), patterns such as `photos/**/*.jpg`, and "-" for `listed`.
        listed: one image file a line.
        leave_out: a folder whose images are not meant: the one that the results go to.

    Raises:
        DataError: nothing at a path, or no image that fits.
    """
    paths: dict[Path, None] = {}
    for entry in inputs:
        lines = (line.strip() for line in listed) if entry == STANDARD_INPUT else None
        found = _expanded(entry) if lines is None else (Path(line) for line in lines if line)
        paths |= dict.fromkeys(Path(os.path.abspath(expand_home(path))) for path in found)
    own = None if leave_out is None else Path(os.path.abspath(leave_out))
    kept = [path for path in paths if own is None or own not in path.parents]
    if not kept:
        why = f"all images are in {leave_out}, where the results go; choose another --out"
        if not paths:
            why = f"no images; expected files ending in {', '.join(IMAGE_SUFFIXES)}"
        raise DataError(f"{' '.join(inputs)}: {why}")
    root = Path(os.path.commonpath([path.parent for path in kept]))
    files = [path.relative_to(root).as_posix() for path in kept]
    return [InputImage(*parts) for parts in zip(kept, files, _names(files), strict=True)]


def _expanded(entry: str) -> Iterator[Path]:
    path = expand_home(entry)
    if os.path.isdir(path):  # unlike `Path.is_dir`, of a name that is too long too
        yield from _images_below(path)
    elif os.path.exists(path):
        yield path
    else:
        found = sorted(glob.glob(str(path), recursive=True))
        if not found:
            raise DataError(f"{entry}: no such file, folder or pattern")
        for match in map(Path, found):
            if match.is_file() and match.suffix.lower() in IMAGE_SUFFIXES:
                yield match


def _images_below(folder: Path) -> list[Path]:
    found = []
    for current, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not is_passed_over(name)]
        shown = (name for name in files if name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith("."))
        found += [Path(current) / name for name in shown]
    return sorted(found)


def _names(files: Sequence[str]) -> list[str]:
    """Of every file, its path without the ending; with it where two would be called the same."""
    names = [PurePosixPath(file).with_suffix("").as_posix() for file in files]
    while True:
        counts = Counter(names)
        if max(counts.values()) == 1:
            return names
        names = [file if counts[name] > 1 else name for file, name in zip(files, names, strict=True)]
