"""Masks that other people or programs have saved: which class a pixel of a palette image means.

A grey image has class indices. A palette image has them, too, but an editor may have put the colours into another order
and the indices with them. So the colours decide where they differ from the class set's palette: each colour that is
used must be that of a class.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from weakclip.datasets.classes import IGNORE_INDEX, ClassSet
from weakclip.datasets.images import read_palette_mask, used_values
from weakclip.errors import BrokenFileError

logger = logging.getLogger("weakclip")


class ClassMasks:
    """Reads masks of a class set; of a folder, one line is said when the first mask is read by its colours.

    Args:
        class_set: the classes and their colours.
        folder: where the masks lie, for the message.
    """

    def __init__(self, class_set: ClassSet, folder: Path) -> None:
        self._class_set, self._folder, self._told = class_set, folder, False
        self._palette = class_set.palette
        self._classes: dict[tuple[int, ...], int | None] = {}
        for value in (*range(class_set.num_classes), IGNORE_INDEX):
            color = tuple(self._palette[value].tolist())
            self._classes[color] = None if color in self._classes else value  # None: of two classes

    def read(self, path: Path) -> np.ndarray:
        """`(H, W)` uint8, class indices and 255.

        Raises:
            DataError: as `read_mask`, or a palette image that uses a colour of no class.
        """
        return self.read_either(path)[0]

    def read_either(self, path: Path) -> tuple[np.ndarray, bool]:
        """As `read`, and whether the file has a palette of colours."""
        mask, palette = read_palette_mask(path)
        if palette is None:
            return mask, False
        used = used_values(mask)
        colors = {value: tuple(palette[value].tolist()) for value in used if value < len(palette)}
        own = {value: tuple(self._palette[value].tolist()) for value in used}
        if all(value == IGNORE_INDEX or colors.get(value) == own[value] for value in used):
            return mask, True  # 255 is 255, whatever its colour is
        table = np.zeros(256, dtype=np.uint8)
        for value in used:
            table[value] = self._class_of(value, colors, path)
        if len(set(table[used].tolist())) < len(used):
            raise BrokenFileError(f"{path}: two indices of its palette have the same colour; {_ADVICE}")
        self._tell(path, {value: int(table[value]) for value in used})
        return table[mask], True

    def _class_of(self, value: int, colors: Mapping[int, tuple[int, ...]], path: Path) -> int:
        found = self._classes.get(colors.get(value, ()))
        if found is not None:
            return found
        color = "#{:02x}{:02x}{:02x}".format(*colors[value]) if value in colors else "none"
        names = self._class_set.names
        expected = "#{:02x}{:02x}{:02x}".format(*self._palette[value])
        meant = f" ({names[value]} has {expected})" if value < len(names) else ""
        raise BrokenFileError(
            f"{path}: index {value} of its palette has the colour {color}, of no class{meant}; {_ADVICE}"
        )

    def _tell(self, path: Path, table: Mapping[int, int]) -> None:
        if self._told:
            return
        self._told = True
        changed = ", ".join(f"{old} is {new}" for old, new in table.items() if old != new)
        logger.warning(
            "%s: its palette has the classes' colours in another order, and the colours are followed (%s); said of the "
            "first such mask in %s",
            *(path, changed, self._folder),
        )


_ADVICE = "save it with the palette of the run's masks, or as a grey image of class indices"
