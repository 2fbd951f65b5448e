"""The part of the work that this process does: all of it, a shard, or the share of one of several that work together.

`work_through` takes the items of the process's own share, and a stage writes what is written once by `once`: nothing
else in the package asks how many processes there are.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from weakclip.errors import ConfigError, RunError
from weakclip.store.lock import START, FolderLock
from weakclip.store.outputs import url_open
from weakclip.store.untrusted_text import some

Value = TypeVar("Value")

NAMED = 3
"""Missing items that an error names, of each shard."""


@dataclass(frozen=True)
class Share:
    """The work of a process that has no companions: all of it.

    Args:
        rank: number of this share, from 0.
        count: how many shares there are.
    """

    rank: int = 0
    count: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process shows progress and, where several work together, writes what is written once."""
        return True

    @property
    def passes_on(self) -> bool:
        """Whether another process finishes what this one makes: no network should go with it."""
        return False

    def positions(self, items: int) -> range:
        """The positions of this share among a number of items.

        >>> list(Share(1, 3).positions(8))
        [1, 4, 7]
        """
        return range(self.rank, items, self.count)

    def any(self, flag: bool) -> bool:
        """Whether `flag` is set in any of the processes that work together. Every one of them must ask."""
        return flag

    def sum(self, values: np.ndarray) -> np.ndarray:
        """The sum of an array of integers over the processes that work together. Every one of them must ask."""
        return values

    def tell(self, value: Value) -> Value:
        """The value that the main one of the processes that work together has. Every one of them must ask."""
        return value

    def wait(self) -> None:
        """Return when every process that works together with this one has come here."""

    def once(self, write: Callable[[], object]) -> None:
        """Write what one process writes; its companions return when it is written.

        Args:
            write: writes files, and does nothing that the companions need in memory.
        """
        if self.is_main:
            write()
        self.wait()

    @contextlib.contextmanager
    def as_one(self) -> Iterator[None]:
        """Within it, work is done that is not shared: a training, by all companions together."""
        yield

    def check(self, missing: Sequence[tuple[int, str]], description: str) -> None:
        """Told of the items that are left to do: position among all items, and name."""

    def part(self, path: Path) -> Path:
        """The file of this process's own lines beside a file that is written in parts, which `parts` finds.

        >>> Share().part(Path("log.jsonl")).name, Share(1, 4).part(Path("log.jsonl")).name
        ('log.jsonl', 'log.1-of-4.jsonl')
        """
        return path if self.count == 1 else path.with_name(f"{path.stem}.{self.rank}-of-{self.count}{path.suffix}")


@dataclass(frozen=True)
class Shard(Share):
    """One of several shares whose processes know nothing of each other, on one machine or many.

    Args:
        folder: which they have in common.
    """

    folder: Path = Path()

    @classmethod
    def read(cls, text: str, folder: Path) -> Shard:
        """`--shard i/n`, counted from 0 as the tasks of `sbatch --array=0-3` are.

        Raises:
            ConfigError: anything else.

        >>> Shard.read("3/4", Path()).name
        '3-of-4'
        """
        number, slash, count = text.partition("/")
        if not (slash and number.isdecimal() and count.isdecimal() and int(number) < int(count)):
            last = f"0/{count} to {int(count) - 1}/{count}" if count.isdecimal() and int(count) else "0/4 to 3/4"
            raise ConfigError(f"--shard: {last} expected, counted from 0 (sbatch --array=0-3); found {text!r}")
        return cls(int(number), int(count), folder)

    @property
    def name(self) -> str:
        """As file names have it."""
        return f"{self.rank}-of-{self.count}"

    def once(self, write: Callable[[], object]) -> None:
        """Nothing: what is written once is written when all shards are there, by `Merge`."""

    @contextlib.contextmanager
    def as_one(self) -> Iterator[None]:
        """The shard that comes first trains; the others wait for it, and find it done. If it dies, the next goes on.

        Raises:
            ConfigError: at a URL, where shards cannot wait for each other.
        """
        if url_open():
            raise ConfigError(f"{url_open()}: here shards would train, each for itself; leave --shard out")
        with FolderLock(self.folder, START, wait=True), sharing(Share()):
            yield


@dataclass(frozen=True)
class Merge(Share):
    """Makes no item: proves that all shards have made theirs, and writes what is written once.

    Args:
        shards: how many there are.
    """

    shards: int = 1

    def check(self, missing: Sequence[tuple[int, str]], description: str) -> None:
        """Refuse to merge.

        Raises:
            RunError: items are missing.
        """
        by_shard: dict[int, list[str]] = {}
        for position, name in missing:
            by_shard.setdefault(position % self.shards, []).append(name)
        if by_shard:
            said = [
                f"of shard {n}/{self.shards} {len(names):,} ({some(names, NAMED)})"
                for n, names in sorted(by_shard.items())
            ]
            raise RunError(f"{description}: images are missing: {'; '.join(said)}; run these shards again, then merge")


_shares = [Share()]


def current() -> Share:
    """The share of this process."""
    return _shares[-1]


@contextlib.contextmanager
def sharing(share: Share) -> Iterator[None]:
    """Within it, `current` is `share`; for the main thread."""
    _shares.append(share)
    try:
        yield
    finally:
        _shares.remove(share)


def parts(path: Path) -> list[Path]:
    """The files that hold lines of `path`: itself, then those of shares, where they are there."""
    found = sorted(path.parent.glob(f"{path.stem}.*-of-*{path.suffix}")) if path.parent.is_dir() else []
    return [each for each in (path, *found) if each.is_file()]
