"""The image files below a folder, found by their names."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import PurePosixPath

from weakclip.datasets.faults import RowError
from weakclip.datasets.image_names import alike, canonical, grouped
from weakclip.errors import DataError
from weakclip.store.trees import AnyPath, below, walk
from weakclip.store.untrusted_text import is_plain, one_line

_JPEG_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".pjpeg", ".pjp")
IMAGE_SUFFIXES = (
    *_JPEG_SUFFIXES,
    *(".png", ".apng", ".bmp", ".dib", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".pbm", ".pnm"),
)
OTHER_SUFFIXES = (
    *(".avif", ".heic", ".heics", ".heif", ".hif", ".jp2", ".j2k", ".jpf", ".jpx", ".jxl", ".jxr", ".psd", ".svg"),
    *(".tga", ".arw", ".cr2", ".cr3", ".dng", ".nef", ".orf", ".raf", ".raw", ".rw2"),
)
"""Kinds of photo that are not read; a note names them."""

SYSTEM_FOLDERS = frozenset(("@eadir", "@__thumb", "__macosx", "#recycle", "#snapshot", "$recycle.bin", "lost+found"))
"""Folders of thumbnails and waste, in lower case, that file servers and systems make (@eaDir is Synology's)."""

MOST_NEAR = 3
"""Files that are proposed for a name that is none."""

RUN_FILES = {"config.yaml", "manifest.json"}
"""Files of a run folder: masks and pictures in it are results, not images."""


class ImageFolder:
    """The image files below a folder, by relative path with or without the extension.

    Hidden files and folders, those of file servers, run folders, and `masks/` beside the images are passed over; so are
    names that cannot be written to a text file or steer a terminal.

    Args:
        root: a data set's folder; the images are in `images/` where there is one, otherwise anywhere below.

    Attributes:
        folder: the folder that paths are relative to.
        files: sorted paths, with `/`.
        others: how many files of each other kind of photo there are, by ending.
        unnameable: the paths that are passed over for their names.
        copies: of a photo that is there several times, the other paths by the one in `files`; see `join`.

    Raises:
        DataError: no such folder, or no images.
    """

    def __init__(self, root: AnyPath) -> None:
        check_folder(root)
        self.folder = root / "images" if (root / "images").is_dir() else root
        everything = sorted(_files(self.folder))
        found = [file for file in everything if is_plain(file)]
        self.unnameable = [file for file in everything if not is_plain(file)]
        self.files = [file for file in found if file.lower().endswith(IMAGE_SUFFIXES)]
        self.others = Counter(PurePosixPath(file).suffix.lower() for file in found) - Counter(
            PurePosixPath(file).suffix.lower() for file in self.files
        )
        if not self.files:
            expected = f"no images; expected files ending in {', '.join(IMAGE_SUFFIXES)}"
            raise DataError("; ".join([f"{self.folder}: {expected}", *self._left_out()]))
        self.copies: dict[str, tuple[str, ...]] = {}
        self._first: dict[str, str] = {}
        self._by_name = grouped(self.files, lambda file: canonical(stem(file)))
        self._by_path = {canonical(file): file for file in self.files}

    def notes(self) -> list[str]:
        """Sentences on photos that are left out: of a kind that is not read, or with such names; if there are any."""
        return [f"{self.folder}: {said}" for said in self._left_out()]

    def _left_out(self) -> Iterator[str]:
        if self.others:
            kinds = ", ".join(f"{count:,} {suffix}" for suffix, count in sorted(self.others.items()))
            yield f"left out, convert them to JPEG or PNG: {kinds}"
        if self.unnameable:
            first = one_line(self.unnameable[0])
            yield f"left out, rename them: {len(self.unnameable):,} with control characters or no UTF-8, first {first}"

    def twins(self) -> list[tuple[str, ...]]:
        """The files whose names are equal but for their ending."""
        return [tuple(twins) for twins in self._by_name.values() if len(twins) > 1]

    def join(self, groups: Iterable[Sequence[str]]) -> None:
        """Take the files of each group for one photo, the first; whatever names another of them means it."""
        self.copies |= {first: tuple(others) for first, *others in groups}
        self._first = {other: first for first, others in self.copies.items() for other in others}
        self.files = [file for file in self.files if file not in self._first]

    @property
    def others_of_joined(self) -> tuple[str, ...]:
        """The files that are in `copies` only."""
        return tuple(self._first)

    def known(self, reference: str) -> list[str]:
        """The file that a list means by `reference`, or none."""
        try:
            return [self.find(reference)]
        except DataError:
            return []

    def find(self, reference: str) -> str:
        """The file that a list means by `reference`.

        It is named by its path below the folder, or by one that begins higher, with the folder's own name:
        `images/a.png` or `/home/me/photos/images/a.png`. Its ending may be left out, and the case of letters does not
        count where one file is meant.

        Raises:
            RowError: no such image, or a path that leads out of the folder.
        """
        plain = self._by_path.get(reference)  # as nearly all are
        if plain is not None:
            return self._first.get(plain, plain)
        path = self._inside(PurePosixPath(reference.replace("\\", "/")))
        if path.is_absolute() or ".." in path.parts:
            advice = f" leads out of {self.folder}; name images by their path inside it"
            raise RowError("", advice, found=[repr(reference)])
        file = self._named(path.as_posix())
        if file is not None:
            return self._first.get(file, file)
        near = " or ".join(map(repr, self._by_bare_name.get(_bare(path.as_posix()), [])[:MOST_NEAR]))
        no, here, found = "no image ", f" in {self.folder}; ", repr(reference.strip())
        if near:
            raise RowError(no, f"{here}did you mean ", "?", found=[found, near])
        raise RowError(no, f"{here}correct the name, or take the line out", found=[found])

    def _inside(self, path: PurePosixPath) -> PurePosixPath:
        """A path without the folder's own, of which it may hold any last part; one that is of a file stays."""
        if self._named(path.as_posix()) is not None:
            return path
        for count in range(len(path.parts) - 1, 0, -1):
            if path.parts[:count] in (self._own[-count:], self._real[-count:]):
                return PurePosixPath(*path.parts[count:])
        return path

    @functools.cached_property
    def _own(self) -> tuple[str, ...]:
        return self.folder.absolute().parts

    @functools.cached_property
    def _real(self) -> tuple[str, ...]:
        return self.folder.resolve().parts

    def _named(self, path: str) -> str | None:
        """The file of a path with or without its ending: letter by letter, else the only one that looks like it."""
        key = canonical(path)
        if key in self._by_path:
            return self._by_path[key]
        if key in self._by_name:
            return self._by_name[key][0]
        for names, look in ((self._by_look, alike(path)), (self._by_any_case, alike(path).casefold())):
            if len(names.get(look, ())) == 1:
                return names[look][0]
        return None

    @functools.cached_property
    def _by_look(self) -> dict[str, list[str]]:
        """Files by what their paths look like, with and without the ending."""
        names: dict[str, list[str]] = {}
        for file in self.files:
            for look in {alike(file), alike(stem(file))}:
                names.setdefault(look, []).append(file)
        return names

    @functools.cached_property
    def _by_any_case(self) -> dict[str, list[str]]:
        names: dict[str, list[str]] = {}
        for look, files in self._by_look.items():
            names.setdefault(look.casefold(), []).extend(files)
        return names

    @functools.cached_property
    def _by_bare_name(self) -> dict[str, list[str]]:
        return grouped(self.files, _bare)


def check_folder(root: AnyPath) -> None:
    """Raise a `DataError` unless there is such a folder."""
    if not root.is_dir():
        raise DataError(f"{root}: {'is a file; expected a folder of images' if root.exists() else 'no such folder'}")


def stem(file: str) -> str:
    """A relative path without its extension."""
    return PurePosixPath(file).with_suffix("").as_posix()


def _bare(file: str) -> str:
    name = PurePosixPath(file).name
    return alike(stem(name) if name.lower().endswith(IMAGE_SUFFIXES) else name).casefold()


def is_passed_over(folder: str) -> bool:
    """Whether a folder of that name is looked into for no images: hidden, or one of `SYSTEM_FOLDERS`."""
    return folder.startswith(".") or folder.casefold() in SYSTEM_FOLDERS


def _files(folder: AnyPath) -> Iterator[str]:
    """Relative paths of photos of every kind, those that are not read among them."""
    for here, folders, files in walk(folder):
        inside = below(here, folder)
        if set(files) >= RUN_FILES:
            folders.clear()
            continue
        folders[:] = [name for name in folders if not is_passed_over(name)]
        if here == folder and folder.name != "images":
            folders[:] = [name for name in folders if name != "masks"]
        for name in files:
            if name.lower().endswith(IMAGE_SUFFIXES + OTHER_SUFFIXES) and not name.startswith("."):
                yield f"{inside}/{name}" if inside else name
