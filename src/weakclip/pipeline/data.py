"""The data sets that a configuration names, and cheap fingerprints of what results depend on."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path

import numpy as np

from weakclip.config import DataSettings
from weakclip.datasets import ImageFileDataset, ImageLabelDataset
from weakclip.datasets.folder import untagged_note
from weakclip.datasets.folder_masks import MaskFolder
from weakclip.errors import DataError, WeightsError
from weakclip.inference.proposals import ProposalSettings
from weakclip.store.files import expand_home
from weakclip.store.layout import VERIFIED
from weakclip.store.trees import AnyPath, stamp_of

WEIGHT_SUFFIXES = (".pt", ".pth", ".bin", ".safetensors")

SMALL_FILE = 16 * 2**20
"""Bytes up to which a weights file is read whole for its fingerprint; a larger one is known by size and time."""


class SomeImages(ImageLabelDataset):
    """Some images of a data set.

    Args:
        whole: the data set.
        indices: which of its images, in what order.
        unscored: names of images whose masks are passed over.
    """

    def __init__(self, whole: ImageLabelDataset, indices: Sequence[int], *, unscored: Collection[str] = ()) -> None:
        self.indices = tuple(indices)
        super().__init__(whole.class_set, whole.split, [whole.names[i] for i in self.indices], notes=whole.notes)
        self.whole = whole
        self.faults, self.longest_side, self.untagged = whole.faults, whole.longest_side, whole.untagged
        self.labelled_list = whole.labelled_list
        self.unscored = frozenset(unscored)
        self.has_masks = whole.has_masks and any(map(self._has_mask, range(len(self))))

    @property
    def truth(self) -> str:
        """That of the whole."""
        return self.whole.truth

    def _has_mask(self, index: int) -> bool:
        """Whether `mask` gives pixel labels of this image; nothing is read."""
        source, position = origin(self, index)
        stored = not isinstance(source, ImageFileDataset) or source.mask_path(position) is not None
        return stored and self.names[index] not in self.unscored

    def image(self, index: int) -> np.ndarray:
        """`(H, W, 3)` uint8 RGB."""
        return self.whole.image(self.indices[index])

    def labels(self, index: int) -> tuple[int, ...]:
        """Ascending foreground indices."""
        return self.whole.labels(self.indices[index])

    def size(self, index: int) -> tuple[int, int]:
        """Height and width of the image."""
        return self.whole.size(self.indices[index])

    def mask(self, index: int) -> np.ndarray | None:
        """Pixel labels, or None; for scoring only."""
        return None if self.names[index] in self.unscored else self.whole.mask(self.indices[index])

    def image_file(self, index: int) -> AnyPath | None:
        """The file of the image, or None."""
        return self.whole.image_file(self.indices[index])


def origin(dataset: ImageLabelDataset, index: int) -> tuple[ImageLabelDataset, int]:
    """The data set that an image comes from, and its index there."""
    while isinstance(dataset, SomeImages):
        index = dataset.indices[index]
        dataset = dataset.whole
    return dataset, index


def file_dataset(dataset: ImageLabelDataset) -> tuple[ImageFileDataset, list[int]] | None:
    """The data set of files that some images come from, and their indices there; None where they are drawn."""
    indices = list(range(len(dataset)))
    while isinstance(dataset, SomeImages):
        indices = [dataset.indices[index] for index in indices]
        dataset = dataset.whole
    return (dataset, indices) if isinstance(dataset, ImageFileDataset) else None


def open_split(settings: DataSettings, split: str, limit: int | None, *, out: Path | None = None) -> ImageLabelDataset:
    """A split of the data set that the settings name, without images that nobody has tagged.

    A verified mask says what an image shows as well as a label does.

    Args:
        settings: which data set, where it lies, and whether what is wrong with its labels and lists is left out.
        split: name of the split.
        limit: the number of images, from the first on; None for all.
        out: the run folder, whose verified masks count beside those of the settings.

    Raises:
        DataError: no such folder or split, an empty split, an unknown class, or no image with labels.
    """
    whole = settings.open(split, limit)
    if whole.untagged:
        whole = _tagged(whole, verified_folders(settings.verified, out))
    return whole if limit is None or limit >= len(whole) else SomeImages(whole, range(limit))


def _tagged(whole: ImageLabelDataset, verified: Sequence[Path]) -> ImageLabelDataset:
    masks = [MaskFolder(folder, whole.names) for folder in verified]
    gone = {name for name in whole.untagged if all(each.find(name) is None for each in masks)}
    kept = [index for index, name in enumerate(whole.names) if name not in gone]
    if not kept:
        raise DataError(
            f"split {whole.split!r}: none of its {len(whole):,} images has labels; `weakclip tag` proposes some"
        )
    tagged = SomeImages(whole, kept)
    tagged.untagged = tuple(name for name in whole.untagged if name in gone)
    tagged.notes = (*filter(None, [untagged_note(tagged.untagged)]), *whole.notes)
    return tagged


def verified_folders(named: str | None, out: Path | None) -> list[Path]:
    """The folders with verified masks that a run reads, a later one winning: the one of its settings, and its own.

    Raises:
        DataError: no such folder.
    """
    own = [out / VERIFIED] if out is not None and (out / VERIFIED).is_dir() else []
    if named is None:
        return own
    folder = expand_home(named)
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; data.verified is a folder of NAME.png, or null")
    return [folder, *own]


def dataset_fingerprint(dataset: ImageLabelDataset) -> str:
    """Digest of a split: its list, its labels and its images."""
    return digest_of((list_fingerprint(dataset), label_fingerprint(dataset), image_fingerprint(dataset)))


def list_fingerprint(dataset: ImageLabelDataset) -> str:
    """Digest of the names of the images."""
    return digest_of([dataset.split, *dataset.names])


def label_fingerprint(dataset: ImageLabelDataset) -> str:
    """Digest of the classes and, where images are files, of the labels of each."""
    stored = file_dataset(dataset) is not None
    return digest_of([repr(dataset.class_set), *(str(dataset.labels(i)) for i in range(len(dataset)) if stored)])


def image_fingerprint(dataset: ImageLabelDataset) -> str:
    """Digest of the sizes and times of the image files; none is read. Some seconds for 100,000 images.

    Of a data set that is drawn, not stored, the first image stands for all.
    """
    stored = file_dataset(dataset)
    if stored is None:
        return digest_of([hashlib.sha256(dataset.image(0).tobytes()).hexdigest()])
    source, indices = stored
    return digest_of([f"longest side {source.longest_side}", *(file_stat(source.image_path(i)) for i in indices)])


def mask_fingerprint(dataset: ImageLabelDataset) -> str:
    """Digest of the sizes and times of the mask files; for the stages that score, or train the upper bound."""
    stored = file_dataset(dataset)
    if stored is None:
        return digest_of([repr(dataset.has_masks)])
    source, indices = stored
    paths = (source.mask_path(index) for index in indices)
    passed_over = sorted(dataset.unscored) if isinstance(dataset, SomeImages) else ()
    return digest_of([*(file_stat(path) if path else "" for path in paths), *passed_over])


def source_fingerprint(source: str | None, package_demo: Path) -> str:
    """Digest of weights that a configuration names: the content of a file or a folder, or else the name (hub id).

    Args:
        source: what the configuration says.
        package_demo: where the weights called "demo" lie.

    Raises:
        WeightsError: a path at which there is nothing: what it was made with cannot be told.
    """
    if not source:
        return "none"
    return _digest_at(source, package_demo if source == "demo" else expand_home(source), _content)


def files_fingerprint(folder: str | None) -> str:
    """Digest of the names, sizes and times of the files in a folder (imported seeds, proposals); no file is read.

    Raises:
        WeightsError: as `source_fingerprint`.
    """
    return _digest_at(folder, expand_home(folder), file_stat) if folder else "none"


def proposals_fingerprint(settings: ProposalSettings | None, package_demo: Path) -> str:
    """`files_fingerprint` of a folder or file of proposals, or `source_fingerprint` of the network that draws them.

    Raises:
        DataError: no such folder or file.
        WeightsError: no such network.
    """
    if settings is not None and settings.segmenter is not None:
        return source_fingerprint(settings.segmenter, package_demo)
    folder = settings.folder if settings else None
    if folder and not expand_home(folder).exists():
        raise DataError(f"{folder}: no such folder or file; expected proposals (pseudo_masks.proposals.folder)")
    return files_fingerprint(folder)


def _digest_at(source: str, path: Path, stamp: Callable[[Path], str]) -> str:
    """Digest of the stamps of what lies at a path; of the source's name where nothing can lie there."""
    if path.is_file():
        return digest_of([stamp(path)])
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file())
        return digest_of(f"{file.relative_to(path)} {stamp(file)}" for file in files)
    if _is_path(source):
        raise WeightsError(
            f"{source}: no such file or folder; bring it back (is a disk missing?) or correct the configuration; "
            "nothing that is finished was touched"
        )
    return digest_of([source])


def _is_path(source: str) -> bool:
    """Whether a name can only be that of a file or folder, and not an id on the hub (`model` or `owner/model`)."""
    return source.startswith(("/", "~", ".")) or source.count("/") > 1 or Path(source).suffix in WEIGHT_SUFFIXES


def _content(path: Path) -> str:
    if path.stat().st_size > SMALL_FILE:
        return file_stat(path)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def file_stat(path: AnyPath) -> str:
    """Size and time of a file; a missing one is left to the stage that reads it, which names it."""
    try:
        return str(stamp_of(path))
    except OSError:
        return "missing"


def digest_if_any(lines: Iterable[str]) -> str:
    """Thirty-two hex digits of some lines; empty where there are none, so that a run without them keeps its keys."""
    content = "\n".join(lines)
    return hashlib.sha256(content.encode()).hexdigest()[:32] if content else ""


def digest_of(lines: Iterable[str]) -> str:
    """Thirty-two hex digits of some lines."""
    digest = hashlib.sha256()
    for line in lines:
        digest.update(line.encode() + b"\n")
    return digest.hexdigest()[:32]
