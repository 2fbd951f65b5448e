"""The masks of a folder of images, found by the names of the images."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Generic, TypeVar, cast

from weakclip.datasets.image_names import alike, canonical
from weakclip.store.trees import AnyPath, below, walk

_ENDING = ".png"

Place = TypeVar("Place", bound=AnyPath)


class MaskFolder(Generic[Place]):
    """PNGs that are called like their images. Names that look the same are the same: é as one sign or two, any space.

    Args:
        folder: where they are; it need not exist.
        names: of the images, without their endings. A file that is called exactly like one is of no other.
    """

    def __init__(self, folder: Place, names: Iterable[str]) -> None:
        self.folder, self._names = folder, frozenset(names)
        self._files = sorted(_files_below(folder))
        stems = [(file[: -len(_ENDING)], file) for file in self._files if file.lower().endswith(_ENDING)]
        self._exact = dict(stems)
        self._alike: dict[str, list[str]] = {}
        for name, file in stems:
            if name in self._names:
                continue
            self._alike.setdefault(_key(name), []).append(file)

    def find(self, name: str) -> Place | None:
        """The mask of an image, by its name without the ending; None where there is none."""
        file = self._file(name)
        return None if file is None else cast(Place, self.folder / file)

    def _file(self, name: str) -> str | None:
        if name in self._exact:
            return self._exact[name]
        found = self._alike.get(_key(name), ())
        return found[0] if len(found) == 1 else None

    def notes(self) -> list[str]:
        """A sentence on files that are the mask of none of the images, if there are any."""
        used = {self._file(name) for name in self._names}
        stray = [file for file in self._files if file not in used and not file.split("/")[-1].startswith(".")]
        if not stray:
            return []
        count = f"{len(stray)} file{'s' if len(stray) > 1 else ''}"
        first = stray[0].removesuffix(_ENDING)
        longer = [name for name in self._names if first.startswith((f"{name}_", f"{name}-", f"{name}."))]
        named = f", as {max(longer, key=len)}{_ENDING}" if longer else ""
        return [f"{self.folder}: {count} left out, the first {stray[0]}; masks are PNGs called like their image{named}"]


def _key(name: str) -> str:
    return "/".join(alike(part) for part in canonical(name).split("/"))


def _files_below(folder: AnyPath) -> Iterable[str]:
    for here, _, files in walk(folder):
        inside = below(here, folder)
        yield from (f"{inside}/{file}" for file in files) if inside else files
