"""The splits of a folder of images: lists of images, or folders that are called like splits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from weakclip.datasets.faults import Fault, RowError, noting
from weakclip.datasets.image_folder import ImageFolder, stem
from weakclip.datasets.label_tables import reading_text
from weakclip.errors import DataError
from weakclip.store.remote import file_at
from weakclip.store.trees import AnyPath

SPLITS = ("train", "val", "test")

_FOLDERS = {
    "train": ("train", "training", "train_set", "training_set"),
    "val": ("val", "valid", "validation", "dev", "val_set", "valid_set", "validation_set"),
    "test": ("test", "testing", "test_set"),
}
_SPLIT_OF = {name: split for split, names in _FOLDERS.items() for name in names}


def split_folders(files: Sequence[str]) -> dict[str, str]:
    """The first folders that are splits, as torchvision and ImageNet have them: `train/CLASS`, `val/CLASS`.

    Returns:
        Folder → split; empty where one of the first folders is called otherwise, or the only one may be a class.

    >>> split_folders(["train/cat/1.png", "validation/cat/2.png"]), split_folders(["train/1.png", "bus/2.png"])
    ({'train': 'train', 'validation': 'val'}, {})
    """
    first = {file.split("/")[0] if "/" in file else "" for file in files}
    splits = {name: _SPLIT_OF[_plain(name)] for name in sorted(first) if _plain(name) in _SPLIT_OF}
    lone = len(splits) == 1 and all(file.count("/") == 1 for file in files)
    return {} if lone or len(splits) < len(first) else splits


def split_of_name(name: str) -> str | None:
    """The split that a word names, in any of its usual spellings; None where it names none."""
    return _SPLIT_OF.get(_plain(name))


def _plain(name: str) -> str:
    return name.casefold().replace("-", "_").replace(" ", "_")


def split_names(root: AnyPath, images: ImageFolder) -> tuple[str, ...]:
    """The splits that a folder offers: train always, val and test where their lists or folders exist."""
    folders = _folders(root, images).values()
    return ("train", *(name for name in SPLITS[1:] if _list(root, name).is_file() or name in folders))


def _list(root: AnyPath, split: str) -> AnyPath:
    return root / f"{split}.txt"


def _folders(root: AnyPath, images: ImageFolder) -> dict[str, str]:
    """Folders that are splits, where there is no list."""
    listed = any(_list(root, name).is_file() for name in SPLITS)
    return {} if listed else split_folders(images.files)


def split_files(
    root: AnyPath, split: str | None, images: ImageFolder, faults: list[Fault], val_file: AnyPath | str | None = None
) -> list[str]:
    """The images of a split, all of them for None.

    Args:
        root: the data set's folder.
        split: train, val, test or None.
        images: its images.
        faults: gets one for every mistake in the lists.
        val_file: a list of the images of val, which are then in no other split; None for `val.txt` or a folder.

    Raises:
        DataError: no such split, or one without images.
    """
    if split is None:
        return images.files
    if split not in SPLITS:
        raise DataError(f"{root}: unknown split {split!r}; a folder has {', '.join(SPLITS)}")
    if val_file is None:
        return _own_split(root, split, images, faults)
    path = file_at(val_file)
    val = _read_split(path, images, faults)
    if val is None:
        raise DataError(f"{path}: no such file; data.val_file is a list of image names, or null")
    if split == "val":
        return _filled(val, path, faults)
    gone = set(val)
    left = [file for file in _own_split(root, split, images, faults) if file not in gone]
    if not left:
        raise DataError(f"{path}: lists all images of {split!r}; leave some of them")
    return left


def _filled(files: list[str], path: AnyPath, faults: list[Fault]) -> list[str]:
    if not files and not faults:
        raise DataError(f"{path}: names no image; write one a line, or remove the file")
    return files


def _own_split(root: AnyPath, split: str, images: ImageFolder, faults: list[Fault]) -> list[str]:
    """The images of a split, as the folder itself has it."""
    folders = _folders(root, images)
    if folders and split in (*folders.values(), "train"):
        return _of_folders(root, split, folders, images)
    lists = {name: _read_split(_list(root, name), images, faults) for name in SPLITS}
    placed: dict[str, str] = {}
    for name, files in lists.items():
        for file in files or ():
            if placed.setdefault(file, name) != name:
                both = f" is both in {placed[file]}.txt and in {name}.txt; keep splits apart"
                with noting(faults, stem(file), str(root)):
                    raise RowError("", both, found=[file])
    chosen = lists[split]
    if chosen is None and split != "train":
        raise DataError(f"{root}: no {split}.txt; write one image name a line to make the split {split!r}")
    if chosen is None:
        chosen = [file for file in images.files if file not in placed]
        if not chosen:
            raise DataError(f"{root}: val.txt and test.txt list all its images; leave some of them for the training")
    return _filled(chosen, _list(root, split), faults)


def _of_folders(root: AnyPath, split: str, folders: dict[str, str], images: ImageFolder) -> list[str]:
    found = [file for file in images.files if folders[file.split("/")[0]] == split]
    if not found:
        raise DataError(f"{root}: its folders are the splits {', '.join(folders)}, and none is for {split!r}; add one")
    return found


def listed_twice(root: AnyPath, images: ImageFolder) -> set[str]:
    """Files that are in more than one list."""
    lists = (_read_split(_list(root, name), images, []) for name in SPLITS)
    counts = Counter(file for files in lists for file in set(files or ()))
    return {file for file, count in counts.items() if count > 1}


def _read_split(path: AnyPath, images: ImageFolder, faults: list[Fault]) -> list[str] | None:
    """The files of a list; None where there is no list."""
    if not path.is_file():
        return None
    with reading_text(path):
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    files: dict[str, None] = {}
    for number, line in enumerate(lines, 1):
        if line.strip():
            where = f"{path}, line {number}"
            with noting(faults, line, where):
                file = images.find(line)
                if file in files and file not in images.copies:
                    with noting(faults, where=where):
                        raise RowError("", " is listed twice; take one line out", found=[repr(line.strip())])
                files[file] = None
    return list(files)
