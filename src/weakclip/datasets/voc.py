"""PASCAL VOC 2012 in the layout of its development kit (Everingham et al., IJCV 2010)."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from weakclip.classes import VOC12
from weakclip.datasets.base import ImageFileDataset
from weakclip.errors import DataError

TRAINING_SPLITS = ("train", "train_aug", "trainaug", "trainval")
MASK_FOLDERS = ("SegmentationClassAug", "SegmentationClass")


class VOC12Dataset(ImageFileDataset):
    """PASCAL VOC 2012: 20 classes and background.

    Image-level labels come from `image_labels.csv` in the VOC2012 folder (columns image and labels, class names with
    spaces between) where there is one, else from the XML annotations. Pixel masks are never a source of labels.

    Args:
        root: the VOC2012 folder, the VOCdevkit folder, or the folder that holds VOCdevkit.
        split: a list in ImageSets/Segmentation: train, train_aug (with SBD's images; trainaug is the same), val,
            trainval or test.

    Raises:
        DataError: another layout, no such list, a listed image that is missing, or a training split without labels.
    """

    def __init__(self, root: Path | str, split: str) -> None:
        self.root = find_voc_root(root)
        list_file = _list_file(self.root, split)
        names = _read_list(list_file)
        self._check_images(names, list_file)
        super().__init__(VOC12, split, names)
        self._labels, self._source = self._label_sources()
        if split in TRAINING_SPLITS:
            self._check_labels(list_file)
        stored = {path.stem: path for folder in reversed(MASK_FOLDERS) for path in (self.root / folder).glob("*.png")}
        self._masks = {name: stored[name] for name in self.names if name in stored}
        self.has_masks = bool(self._masks)

    def image_path(self, index: int) -> Path:
        """The photo, a JPEG."""
        return self.root / "JPEGImages" / f"{self.names[index]}.jpg"

    def mask_path(self, index: int) -> Path | None:
        """The palette PNG, in SegmentationClassAug (VOC and SBD) before SegmentationClass."""
        return self._masks.get(self.names[index])

    def labels(self, index: int) -> tuple[int, ...]:
        """Ascending indices of the classes that the image shows; empty where nothing is known (val, test)."""
        name = self.names[index]
        if name in self._labels:
            return self._labels[name]
        path = self.root / "Annotations" / f"{name}.xml"
        return read_xml_labels(path) if self._source == "Annotations" and path.exists() else ()

    def _label_sources(self) -> tuple[dict[str, tuple[int, ...]], str]:
        table = self.root / "image_labels.csv"
        if table.exists():
            return read_label_csv(table), table.name
        return {}, "Annotations"

    def _check_images(self, names: Sequence[str], list_file: Path) -> None:
        present = {path.stem for path in (self.root / "JPEGImages").glob("*.jpg")}
        missing = [name for name in names if name not in present]
        if missing:
            raise DataError(
                f"{self.root / 'JPEGImages'}: {len(missing)} of the {len(names)} images of {list_file.name} are "
                f"missing, the first is {missing[0]}.jpg; unpack the whole archive"
            )

    def _check_labels(self, list_file: Path) -> None:
        if self._source == "Annotations":
            known = {path.stem for path in (self.root / "Annotations").glob("*.xml")}
        else:
            known = {name for name, labels in self._labels.items() if labels}
        missing = [name for name in self.names if name not in known]
        if missing:
            raise DataError(
                f"{self.root / self._source}: no labels for {len(missing)} of the {len(self.names)} images of "
                f"{list_file.name}, the first is {missing[0]}; training needs image_labels.csv or the XML annotations"
            )


def find_voc_root(root: Path | str) -> Path:
    """The VOC2012 folder in or below `root`.

    Raises:
        DataError: none of the three places has JPEGImages and ImageSets/Segmentation.
    """
    for candidate in (Path(root), Path(root) / "VOC2012", Path(root) / "VOCdevkit" / "VOC2012"):
        if (candidate / "JPEGImages").is_dir() and (candidate / "ImageSets" / "Segmentation").is_dir():
            return candidate
    raise DataError(
        f"{root}: no PASCAL VOC 2012 here; expected JPEGImages and ImageSets/Segmentation in it, in VOC2012 or in "
        "VOCdevkit/VOC2012"
    )


def read_label_csv(path: Path) -> dict[str, tuple[int, ...]]:
    """Image-level labels from a CSV with the columns image and labels (class names with spaces between).

    Raises:
        DataError: other columns, an unknown class, or an image twice; with the line.
    """
    labels: dict[str, tuple[int, ...]] = {}
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = csv.DictReader(file)
        if not {"image", "labels"} <= set(rows.fieldnames or ()):
            raise DataError(f"{path}: expected the columns image,labels; found {','.join(rows.fieldnames or ())!r}")
        for row in rows:
            try:
                indices = VOC12.foreground_indices((row["labels"] or "").split())
            except DataError as error:
                raise DataError(f"{path}, line {rows.line_num}: {error}") from None
            if row["image"] in labels:
                raise DataError(f"{path}, line {rows.line_num}: image {row['image']!r} is listed twice")
            labels[row["image"]] = indices
    return labels


def read_xml_labels(path: Path) -> tuple[int, ...]:
    """Image-level labels from an XML annotation: the class of every object, difficult ones too, parts left out.

    Raises:
        DataError: not well-formed, a document type declaration (which could define entities), or an unknown class.
    """
    data = path.read_bytes()
    if b"<!DOCTYPE" in data or b"<!ENTITY" in data:
        raise DataError(f"{path}: a VOC annotation has no document type declaration; refused")
    try:
        tree = ElementTree.fromstring(data)
        return VOC12.foreground_indices(name.text or "" for name in tree.findall("object/name"))
    except ElementTree.ParseError as error:
        raise DataError(f"{path}: not a well-formed XML annotation ({error})") from None
    except DataError as error:
        raise DataError(f"{path}: {error}") from None


def _list_file(root: Path, split: str) -> Path:
    folder = root / "ImageSets" / "Segmentation"
    spellings = {"train_aug": ("train_aug", "trainaug"), "trainaug": ("trainaug", "train_aug")}
    lists = {path.stem: path for path in sorted(folder.glob("*.txt"))}
    for name in spellings.get(split, (split,)):
        if name in lists:
            return lists[name]
    raise DataError(f"{folder}: no list {split}.txt for split {split!r}; found {', '.join(lists) or 'none'}")


def _read_list(path: Path) -> list[str]:
    """Names from a list with one image a line; of `image.jpg mask.png` pairs, the image."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [Path(line.split()[0]).stem for line in lines if line.strip()]
