"""Scores of many images: shared among processes or shards, and kept beside the table until that is there.

Images go through the encoder in batches that are cut from the list of all of them: a score does not depend on who
computes it, nor on what was done before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from weakclip.errors import DataError
from weakclip.store.jobs import work_through
from weakclip.store.lines import LineLog, read_lines
from weakclip.store.share import Merge, current, parts
from weakclip.store.threads import in_threads
from weakclip.store.trees import stamp_of
from weakclip.tools.tag.zero_shot import Tagger, tag_windows

Batch = Sequence[str]
Scored = Sequence[tuple[str, list[float] | str]]
"""Files, each with its scores or with what is wrong with it."""


class KeptScores:
    """Scores of the images so far, a line each, in `NAME.partial` beside the table; of each share in a part of it.

    Args:
        out: the table.
        key: digest of what the scores depend on, beside the images.
        folder: of the images.
    """

    def __init__(self, out: Path, key: str, folder: Path) -> None:
        self.path = out.with_name(f"{out.name}.partial")
        self.key, self.folder = key, folder
        self._log = LineLog(self.path)
        self.refresh()

    def refresh(self) -> None:
        """Look at what other processes have added meanwhile; what was scored for something else is passed over."""
        lines = (line for path in parts(self.path) for line in read_lines(path) if line.get("key") == self.key)
        self._lines = {line["name"]: line for line in lines}

    def find(self, file: str) -> list[float] | str | None:
        """The scores of an image that is as it was, or what was wrong with it; None where it is to be scored."""
        line = self._lines.get(file, {})
        found: list[float] | str | None = (
            line.get("scores") if line.get("stamp") == str(stamp_of(self.folder / file)) else None
        )
        return found

    def add(self, scored: Scored) -> None:
        """Keep the scores of some images.

        Raises:
            StorageError: a path that cannot be written.
        """
        for file, scores in scored:
            line = {"name": file, "key": self.key, "stamp": str(stamp_of(self.folder / file)), "scores": scores}
            self._log.add(line)

    def remove(self) -> None:
        """The table is there."""
        for path in parts(self.path):
            path.unlink()


def score_images(kept: KeptScores, files: Sequence[str], make_tagger: Callable[[], Tagger], *, batch_size: int) -> None:
    """Score the images of this process's share that have no scores yet; see `weakclip.store.share`.

    Args:
        kept: where scores are found and put. An image that could not be read is tried again.
        files: all images.
        make_tagger: called where any process has something to score.
        batch_size: images that are scored together, cut from all of them.

    Raises:
        StorageError: a path that cannot be written.
        RunError: in a merge, images without scores; named are they and their shards.
    """
    settled = (list, str) if isinstance(current(), Merge) else (list,)

    def is_done(batch: Batch) -> bool:
        return all(isinstance(kept.find(file), settled) for file in batch)

    def make(left: Sequence[Batch]) -> Iterator[Scored]:
        tagger = make_tagger()
        side = tagger.clip.image_size
        for batch, windows in in_threads(lambda batch: (batch, _read(kept.folder, batch, side)), left):
            good = [image for image in windows if not isinstance(image, str)]
            scores = iter(tagger.scores(good).tolist() if good else [])
            yield [
                (file, image if isinstance(image, str) else [round(score, 4) for score in next(scores)])
                for file, image in zip(batch, windows, strict=True)
            ]

    work_through(
        [files[first : first + batch_size] for first in range(0, len(files), batch_size)],
        is_done=is_done,
        make=make,
        finish=kept.add,
        description="tagging",
        name_of=lambda batch: f"{batch[0]} to {batch[-1]}",
    )


def _read(folder: Path, batch: Batch, side: int) -> list[list[np.ndarray] | str]:
    """The windows of each image, or what is wrong with it."""
    read: list[list[np.ndarray] | str] = []
    for file in batch:
        try:
            read.append(tag_windows(folder / file, side))
        except DataError as error:
            read.append(str(error))
    return read
