"""PASCAL VOC 2012 in the layout of its development kit (Everingham et al., IJCV 2010)."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from weakclip.datasets.base import ImageFileDataset
from weakclip.datasets.classes import VOC12
from weakclip.datasets.faults import Fault
from weakclip.datasets.label_tables import reading_text
from weakclip.datasets.voc_labels import CSV, NPY, VOCLabels
from weakclip.errors import DataError

TRAINING_SPLITS = ("train", "train_aug", "trainaug", "trainval")
OFFICIAL_SIZES = {"train": 1464, "train_aug": 10582, "trainaug": 10582, "val": 1449, "trainval": 2913, "test": 1456}
"""Images of the segmentation lists of the development kit, and of the list with SBD's images (Hariharan et al., ICCV
2011) that the field trains on."""

MASK_FOLDERS = ("SegmentationClassAug", "SegmentationClass")


class VOC12Dataset(ImageFileDataset):
    """PASCAL VOC 2012: 20 classes and background.

    Image-level labels come from the first of these that lies in the VOC2012 folder: `image_labels.csv` (columns image
    and labels, class names with spaces between); `cls_labels.npy`, the dictionary of PSA and MCTformer; the XML
    annotations. `notes` says which. Pixel masks are never a source of labels.

    Args:
        root: the VOC2012 folder, the VOCdevkit folder, or the folder that holds VOCdevkit.
        split: a list in ImageSets/Segmentation: train, train_aug (with SBD's images; trainaug is the same), val,
            trainval or test. A line is an image, or a pair of paths, the image first.
        lenient: leave out images that are missing or, in a training split, have no labels that can be used, and list
            them in `faults`.

    Attributes:
        label_source: "image_labels.csv", "cls_labels.npy" or "Annotations".

    Raises:
        DataError: another layout, no such list, a listed image that is missing, or a training split without labels.
    """

    root: Path

    def __init__(self, root: Path | str, split: str, *, lenient: bool = False) -> None:
        self.root = find_voc_root(root)
        list_file = _list_file(self.root, split)
        names = _read_list(list_file)
        faults: list[Fault] = []
        present = {path.stem for path in (self.root / "JPEGImages").glob("*.jpg")}
        missing = [name for name in names if name not in present]
        if missing and not lenient:
            raise DataError(
                f"{self.root / 'JPEGImages'}: {len(missing)} of the {len(names)} images of {list_file.name} are "
                f"missing, the first is {missing[0]}.jpg; unpack the whole archive"
            )
        self._labels = VOCLabels(self.root, faults if lenient else None)
        self.label_source = self._labels.source
        unlabelled = self._labels.missing(names)
        if unlabelled and split in TRAINING_SPLITS and not lenient:
            raise DataError(
                f"{self.root / self.label_source}: no labels for {len(unlabelled)} of the {len(names)} images of "
                f"{list_file.name}, the first is {unlabelled[0]}; training needs {CSV}, {NPY} or the XML annotations"
            )
        if lenient:
            photos, source = self.root / "JPEGImages", self.root / self.label_source
            said = {each.image for each in faults}
            faults += [Fault(f"{photos / name}.jpg: no such file, listed in {list_file}", name) for name in missing]
            useless = set(missing)
            if split in TRAINING_SPLITS:
                silent = [name for name in unlabelled if name not in said]
                faults += [Fault(f"{source}: no labels for {name}, listed in {list_file}", name) for name in silent]
                useless |= {*unlabelled}
            names = [name for name in dict.fromkeys(names) if name not in useless]
        self.faults = tuple(faults)
        notes = [f"image-level labels from {self.label_source}"] if len(unlabelled) < len(names) else []
        super().__init__(VOC12, split, names, notes=notes)
        self.official_size = OFFICIAL_SIZES.get(split)
        stored = {path.stem: path for folder in reversed(MASK_FOLDERS) for path in (self.root / folder).glob("*.png")}
        self._masks = {name: stored[name] for name in self.names if name in stored}
        self.has_masks = bool(self._masks)

    @property
    def truth(self) -> str:
        """The folders that the masks come from; SegmentationClassAug goes before SegmentationClass."""
        found = Counter(path.parent.name for path in self._masks.values())
        first, *others = [folder for folder in MASK_FOLDERS if found[folder]] or [""]
        return " and ".join(
            [
                f"masks of {first}" if first else "",
                *(f"{found[each]:,} of {each}, which {first} lacks" for each in others),
            ]
        )

    def image_path(self, index: int) -> Path:
        """The photo, a JPEG."""
        return self.root / "JPEGImages" / f"{self.names[index]}.jpg"

    def mask_path(self, index: int) -> Path | None:
        """The palette PNG, in SegmentationClassAug (VOC and SBD) before SegmentationClass."""
        return self._masks.get(self.names[index])

    def labels(self, index: int) -> tuple[int, ...]:
        """Ascending indices of the classes that the image shows; empty where nothing is known (val, test)."""
        return self._labels[self.names[index]]


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


def _list_file(root: Path, split: str) -> Path:
    folder = root / "ImageSets" / "Segmentation"
    spellings = {"train_aug": ("train_aug", "trainaug"), "trainaug": ("trainaug", "train_aug")}
    lists = {path.stem: path for path in sorted(folder.glob("*.txt")) if path.is_file()}
    for name in spellings.get(split, (split,)):
        if name in lists:
            return lists[name]
    raise DataError(f"{folder}: no list {split}.txt for split {split!r}; found {', '.join(lists) or 'none'}")


def _read_list(path: Path) -> list[str]:
    """Names from a list with one image a line; of `image.jpg mask.png` pairs, the image."""
    with reading_text(path):
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    return [Path(line.split()[0]).stem for line in lines if line.strip()]
