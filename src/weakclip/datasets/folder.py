"""A folder of your own images with image-level labels."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from weakclip.classes import BACKGROUND, ClassSet
from weakclip.datasets.base import ImageFileDataset
from weakclip.datasets.label_files import LabelRow, class_set_of_names, read_class_file, read_label_rows, reading_text
from weakclip.errors import DataError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp")
SPLITS = ("train", "val", "test")
ALL = "all"


class FolderDataset(ImageFileDataset):
    """Images in a folder, and who shows what in one of two forms.

    - `images/` (nested folders are fine) and `labels.csv` or `labels.jsonl`: see `read_label_rows`;
    - one sub-folder a class, in `images/` or directly in the root: each image shows the class of its folder.

    Optional: `classes.yaml` (see `read_class_file`; without it the classes are those in the labels, sorted by name);
    `masks/NAME.png`, palette or grey PNGs of class indices for scoring (255: not scored); and `train.txt`, `val.txt`,
    `test.txt` with one image a line. Without `train.txt`, train is every image in no other list. Images of val and test
    need no labels. An image is named by its path below the image folder, with or without the extension.

    Args:
        root: the folder.
        split: train, val or test; None takes every image.

    Raises:
        DataError: no images, no labels, an unknown class or image, or an image without labels; with file and line.
    """

    def __init__(self, root: Path | str, split: str | None = None) -> None:
        self.root = Path(root)
        if not self.root.is_dir():
            raise DataError(f"{self.root}: no such folder")
        self.image_folder = self.root / "images" if (self.root / "images").is_dir() else self.root
        images = _Images(self.image_folder)
        rows = _label_rows(self.root, self.image_folder, images)
        class_set, labels = _read_labels(self.root, images, rows)
        chosen = _split_files(self.root, split, images)
        unlabelled = [file for file in chosen if file not in labels]
        if unlabelled and split in (None, "train"):
            raise DataError(
                f"{self.image_folder / unlabelled[0]}: image without labels"
                + (f", as are {len(unlabelled) - 1} more" if len(unlabelled) > 1 else "")
                + "; add a row to the labels file, list it in val.txt, or move it away"
            )
        self._files = chosen
        self._labels = [labels.get(file, ()) for file in chosen]
        names = [_stem(file) for file in chosen]
        stored = {path.relative_to(self.root / "masks").with_suffix("").as_posix(): path for path in _masks(self.root)}
        self._masks = [stored.get(name) for name in names]
        self.has_masks = any(self._masks)
        super().__init__(class_set, split or ALL, names, notes=_stray_masks(self.root, images))

    @staticmethod
    def splits(root: Path | str) -> tuple[str, ...]:
        """The splits that a folder offers: train always, val and test where their lists exist."""
        return ("train", *(name for name in SPLITS[1:] if (Path(root) / f"{name}.txt").is_file()))

    def image_path(self, index: int) -> Path:
        """The image file."""
        return self.image_folder / self._files[index]

    def mask_path(self, index: int) -> Path | None:
        """`masks/NAME.png`, or None where there is none."""
        return self._masks[index]

    def labels(self, index: int) -> tuple[int, ...]:
        """Ascending indices of the classes that the image shows; empty where nothing is known (val, test)."""
        return self._labels[index]


class _Images:
    """The image files below a folder, found by relative path with or without the extension."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files = sorted(_image_files(folder))
        if not self.files:
            raise DataError(f"{folder}: no images; expected files ending in {', '.join(IMAGE_SUFFIXES)}")
        self._by_name: dict[str, list[str]] = {}
        for file in self.files:
            self._by_name.setdefault(_key(_stem(file)), []).append(file)
        for twins in self._by_name.values():
            if len(twins) > 1:
                raise DataError(f"{folder}: {twins[0]} and {twins[1]} differ in their ending alone; rename one")
        self._by_path = {_key(file): file for file in self.files}

    def find(self, reference: str, where: str) -> str:
        """The file that a list means by `reference`."""
        path = PurePosixPath(reference.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts:
            raise DataError(f"{where}: {reference!r} leads out of {self.folder}; name images by their path inside it")
        key = _key(path.as_posix())
        if key in self._by_path:
            return self._by_path[key]
        if key in self._by_name:
            return self._by_name[key][0]
        raise DataError(f"{where}: no image {reference!r} in {self.folder}")


def _key(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def _stem(file: str) -> str:
    return PurePosixPath(file).with_suffix("").as_posix()


def _image_files(folder: Path) -> Iterable[str]:
    for current, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        if Path(current) == folder and folder.name != "images":
            folders[:] = [name for name in folders if name != "masks"]
        for name in files:
            if name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith("."):
                yield (Path(current) / name).relative_to(folder).as_posix()


def _stray_masks(root: Path, images: _Images) -> list[str]:
    """A note if `masks/` holds files that belong to no image of any split."""
    names = {_stem(file) for file in images.files}
    files = [path.relative_to(root / "masks") for path in (root / "masks").rglob("*") if path.is_file()]
    stray = [path for path in files if path.suffix != ".png" or path.with_suffix("").as_posix() not in names]
    stray = sorted(path for path in stray if not path.name.startswith("."))
    if not stray:
        return []
    count = f"{len(stray)} file{'s' if len(stray) > 1 else ''}"
    return [f"{root / 'masks'}: {count} left out, the first {stray[0]}; masks are PNGs called like their image"]


def _masks(root: Path) -> Iterable[Path]:
    return (root / "masks").rglob("*.png") if (root / "masks").is_dir() else ()


def _label_rows(root: Path, folder: Path, images: _Images) -> list[LabelRow]:
    tables = [root / name for name in ("labels.csv", "labels.jsonl") if (root / name).is_file()]
    if len(tables) > 1:
        raise DataError(f"{root}: labels.csv and labels.jsonl are both here; keep one")
    if tables:
        return read_label_rows(tables[0])
    loose = [file for file in images.files if "/" not in file]
    if loose:
        raise DataError(
            f"{root}: no labels.csv or labels.jsonl, and {loose[0]} lies in no class folder; write labels.csv with the "
            f"columns image,labels or sort the images of {folder} into one folder a class"
        )
    return [LabelRow(file, (file.split("/")[0],), f"{folder / file}") for file in images.files]


def _read_labels(root: Path, images: _Images, rows: list[LabelRow]) -> tuple[ClassSet, dict[str, tuple[int, ...]]]:
    class_file = root / "classes.yaml"
    written = sorted({label for row in rows for label in row.labels})
    if class_file.is_file():
        class_set = read_class_file(class_file)
    else:
        _refuse_joined(written, rows)
        class_set = _class_set_of_labels(root, written)
    labels: dict[str, tuple[int, ...]] = {}
    for row in rows:
        file = images.find(row.image, row.where)
        if file in labels:
            raise DataError(f"{row.where}: image {row.image!r} is labelled twice; join the two rows")
        try:
            labels[file] = class_set.foreground_indices(row.labels)
        except DataError as error:
            hint = "; labels are separated by ';'" if any(" " in label for label in row.labels) else ""
            raise DataError(f"{row.where}: {error}{hint}") from None
    return class_set, labels


def _class_set_of_labels(root: Path, written: list[str]) -> ClassSet:
    try:
        return class_set_of_names(name for name in written if name != BACKGROUND)
    except DataError as error:
        raise DataError(f"{root}: {error}; the classes are those named in the labels") from None


def _refuse_joined(written: list[str], rows: list[LabelRow]) -> None:
    """`cat dog` beside `cat` and `dog` is two labels with the wrong separator, not a class of its own."""
    for row in rows:
        for label in row.labels:
            parts = label.split()
            if len(parts) > 1 and all(part in written for part in parts):
                raise DataError(f"{row.where}: {label!r} looks like {len(parts)} classes; separate labels by ';'")


def _split_files(root: Path, split: str | None, images: _Images) -> list[str]:
    if split is None:
        return images.files
    if split not in SPLITS:
        raise DataError(f"{root}: unknown split {split!r}; a folder has {', '.join(SPLITS)}")
    lists = {name: _read_split(root / f"{name}.txt", images) for name in SPLITS if (root / f"{name}.txt").is_file()}
    placed: dict[str, str] = {}
    for name, files in lists.items():
        for file in files:
            if placed.setdefault(file, name) != name:
                raise DataError(f"{root}: {file} is both in {placed[file]}.txt and in {name}.txt; keep splits apart")
    if split in lists:
        return lists[split]
    if split != "train":
        raise DataError(f"{root}: no {split}.txt; write one image name a line to make the split {split!r}")
    return [file for file in images.files if file not in placed]


def _read_split(path: Path, images: _Images) -> list[str]:
    with reading_text(path):
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    return [images.find(line.strip(), f"{path}, line {number}") for number, line in enumerate(lines, 1) if line.strip()]
