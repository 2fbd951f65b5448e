"""Images in shards: tars as WebDataset writes them, and Parquet files."""

from __future__ import annotations

import functools
import logging
import re
import threading
from collections.abc import Sequence
from typing import Any

from weakclip.datasets.base import ImageFileDataset
from weakclip.datasets.class_files import CLASS_FILE, Vocabulary, class_set_of_names, own_vocabulary
from weakclip.datasets.classes import BACKGROUND
from weakclip.datasets.faults import Fault, LabelError, noting
from weakclip.datasets.folder_splits import split_of_name
from weakclip.datasets.image_folder import check_folder
from weakclip.datasets.shard_index import PARQUET, TAR, Shard, ShardImage, image_column, parquet_file, read_shard
from weakclip.errors import BrokenFileError, DataError
from weakclip.store.progress import track
from weakclip.store.remote import folder_at
from weakclip.store.trees import AnyPath, Stamp, StoredPath, Tree, below, read_part, stamp_of, walk

logger = logging.getLogger("weakclip")

GROUPS = 2
"""Row groups of Parquet whose images are kept in memory, a thread."""


class ShardDataset(ImageFileDataset):
    """Images in `.tar` and `.parquet` files below a folder or a URL.

    - A tar as WebDataset writes it: `KEY.jpg` (or another ending of images) and `KEY.cls`, names or numbers of classes
      with `;` between, or `KEY.json` with `labels`. The image is called `SHARD/KEY`.
    - A Parquet file: a column of images, bytes or `{bytes, path}` as Hugging Face `datasets` writes them, one of
      `labels`, names or numbers, and, where there is one, `name`. An image without it is called `SHARD/ROW`.

    Shards whose path names a split (`train-0000.tar`, `val/7.parquet`) are of that split; the others are of train.
    Numbers mean the classes of `classes.yaml` from 0 on, or those that `datasets` keeps in a Parquet file. Each shard
    is read once for an index, which is kept beside it or in the user's cache. There are no true masks.

    Args:
        root: the folder or the URL.
        split: train, val or test; None takes every shard.
        class_file: a file like `classes.yaml` elsewhere; None takes the one in the root, or else the labels' names.
        longest_side: pixels of the longer side that larger images are reduced to; None keeps every size.
        lenient: leave out images whose labels are wrong, and list them in `faults`.

    Raises:
        DataError: no such folder or split, no shards, or one that cannot be read.
        LabelError: labels that are no classes.
    """

    def __init__(
        self,
        root: AnyPath | str,
        split: str | None = None,
        *,
        class_file: AnyPath | str | None = None,
        longest_side: int | None = None,
        lenient: bool = False,
    ) -> None:
        self.root, self.longest_side = folder_at(root), longest_side
        check_folder(self.root)
        paths = _shards_of(self.root)
        chosen = _of_split(paths, split, self.root)
        shards = [read_shard(self.root, path) for path in track(paths, "indexing shards", total=len(paths))]
        self._tree = ShardTree(self.root, [shard for shard in shards if shard.path in chosen])
        vocabulary = _vocabulary(self.root, class_file, shards)
        faults: list[Fault] = []
        labels: dict[str, tuple[int, ...]] = {}
        for name, (shard, image) in self._tree.images.items():
            with noting(faults, name, f"{shard.path}, {image.key}"):
                labels[name] = vocabulary.foreground_indices(_named(image, shard, vocabulary))
        if faults and not lenient:
            raise LabelError(faults, self.root)
        self.faults = tuple(faults)
        self._labels = list(labels.values())
        if split in (None, "train"):
            self.untagged = tuple(name for name, indices in labels.items() if not indices)
        super().__init__(vocabulary.class_set, split or "all", list(labels))

    def image_path(self, index: int) -> StoredPath:
        """The image in its shard."""
        return StoredPath(self._tree, self._tree.file_of(self.names[index]))

    def labels(self, index: int) -> tuple[int, ...]:
        """Ascending indices of the classes that the image shows; empty where its shard does not say."""
        return self._labels[index]


class ShardTree(Tree):
    """The images of shards as files.

    Args:
        root: where the shards lie.
        shards: their indices.

    Attributes:
        images: each image's shard and place, by its name.
    """

    def __init__(self, root: AnyPath, shards: Sequence[Shard]) -> None:
        super().__init__(str(root))
        self.images: dict[str, tuple[Shard, ShardImage]] = {}
        for shard in shards:
            stem = below(shard.path, root).removesuffix(shard.path.suffix)
            for image in shard.images:
                own = shard.path.suffix == PARQUET and not image.key.isdecimal()
                name = image.key if own else f"{stem}/{image.key}"
                if name in self.images:
                    both = f"{self.images[name][0].path} and {shard.path}"
                    raise DataError(f"{both}: both have an image {name!r}; image names must differ")
                self.images[name] = shard, image
        self._stamps = {shard.path: stamp_of(shard.path) for shard in shards}

    def file_of(self, name: str) -> str:
        """The path of an image."""
        return f"{name}{self.images[name][1].suffix}"

    def _listed(self) -> dict[str, Stamp]:
        files = {}
        for name, (shard, image) in self.images.items():
            own = image.place[1] if shard.path.suffix == TAR else -1
            files[self.file_of(name)] = Stamp(own, f"{self._stamps[shard.path]} {image.place}")
        return files

    @functools.cached_property
    def _names(self) -> dict[str, str]:
        return {self.file_of(name): name for name in self.images}

    def read(self, file: str, start: int = 0, stop: int | None = None) -> bytes:
        """See `Tree.read`; of Parquet, the whole row group is read, and the last ones are kept."""
        shard, image = self.images[self._names[file]]
        try:
            if shard.path.suffix == TAR:
                offset, size = image.place
                stop = size if stop is None else min(stop, size)
                return read_part(shard.path, offset + start, stop - start)
            content = _group(shard.path, self._stamps[shard.path], image.place[0])[image.place[1]].as_py()
        except OSError as error:
            raise BrokenFileError(f"{shard.path}: cannot be read ({error.strerror or error}); put it back") from None
        content = content.get("bytes") if isinstance(content, dict) else content
        if content is None:
            raise BrokenFileError(f"{shard.path}: row {file} holds no bytes of an image; write them into the file")
        whole: bytes = content
        return whole[start:stop]


_last = threading.local()


def _group(path: AnyPath, stamp: Stamp, group: int) -> Any:
    """The images of a row group; each thread keeps its last ones."""
    kept: dict[Any, Any] = _last.__dict__.setdefault("groups", {})
    key = (path, stamp, group)
    if key not in kept:
        while len(kept) >= GROUPS:
            del kept[next(iter(kept))]
        with parquet_file(path) as file:
            column = image_column(file.schema_arrow)
            kept[key] = file.read_row_group(group, columns=[column]).column(column)
    return kept[key]


def _shards_of(root: AnyPath) -> list[AnyPath]:
    paths = [here / name for here, _, files in walk(root) for name in files if name.lower().endswith((TAR, PARQUET))]
    if not paths:
        raise DataError(f"{root}: no shards; expected files ending in {TAR} or {PARQUET}")
    return sorted(paths, key=str)


def _of_split(paths: Sequence[AnyPath], split: str | None, root: AnyPath) -> set[AnyPath]:
    splits = {path: _split(path, root) for path in paths}
    chosen = {path for path in paths if split in (None, splits[path])}
    if not chosen:
        found = ", ".join(sorted(set(splits.values())))
        raise DataError(f"{root}: no shards of split {split!r}; its shards are of {found}; call some {split}-…{TAR}")
    return chosen


def _split(path: AnyPath, root: AnyPath) -> str:
    """The split that a part of the path names, its file first; train where none does."""
    parts = below(path, root).removesuffix(path.suffix)
    words = reversed([word for word in re.split(r"[^A-Za-z]+", parts) if word])
    return next((found for word in words if (found := split_of_name(word))), "train")


def _vocabulary(root: AnyPath, class_file: AnyPath | str | None, shards: Sequence[Shard]) -> Vocabulary:
    own = own_vocabulary(root, class_file)
    if own is not None:
        return own
    told = list(dict.fromkeys(name for shard in shards for name in shard.names))
    labels = {label for shard in shards for image in shard.images for label in image.labels}
    names = told or sorted(str(label) for label in labels if not isinstance(label, int))
    if not told and any(isinstance(label, int) for label in labels):
        raise DataError(f"{root}: labels are numbers; write {CLASS_FILE} with the names of the classes, number 0 first")
    if not [name for name in names if name != BACKGROUND]:
        raise DataError(f"{root}: its shards name no class; expected KEY.cls or KEY.json, or a column labels")
    return Vocabulary(class_set_of_names(name for name in names if name != BACKGROUND))


def _named(image: ShardImage, shard: Shard, vocabulary: Vocabulary) -> list[str]:
    """Labels by their names."""
    names = shard.names or vocabulary.class_set.names[1:]
    for label in image.labels:
        if isinstance(label, int) and label >= len(names):
            raise DataError(f"class number {label}; the {len(names)} classes are numbered from 0 on")
    return [names[label] if isinstance(label, int) else label for label in image.labels]
