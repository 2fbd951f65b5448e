"""The labels of a folder of images: from a table, or from the folders that images are sorted into."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass

from weakclip.datasets.class_files import Vocabulary, class_set_of_names, own_vocabulary
from weakclip.datasets.classes import BACKGROUND
from weakclip.datasets.faults import Fault, LabelError, RowError, noting
from weakclip.datasets.folder_splits import split_folders
from weakclip.datasets.image_folder import ImageFolder
from weakclip.datasets.label_files import LabelFile, LabelRow, joined_labels, read_label_file
from weakclip.datasets.same_photos import same_photos
from weakclip.errors import DataError
from weakclip.store.remote import file_at
from weakclip.store.trees import AnyPath

LABEL_FILES = ("labels.csv", "labels.tsv", "labels.xlsx", "labels.jsonl")
OTHER_TABLES = (".csv", ".tsv", ".xlsx", ".jsonl")


@dataclass(frozen=True)
class FolderLabels:
    """The labels of a folder of images.

    Args:
        vocabulary: the classes.
        labels: class indices of each file that is tagged.
        broken: files whose labels have a mistake.
        notes: sentences on what is not read, and on photos that are in several class folders.
    """

    vocabulary: Vocabulary
    labels: dict[str, tuple[int, ...]]
    broken: set[str]
    notes: tuple[str, ...]


def read_folder_labels(
    root: AnyPath,
    images: ImageFolder,
    class_file: AnyPath | str | None,
    label_file: AnyPath | str | None,
    faults: list[Fault],
) -> FolderLabels:
    """Reads labels and classes; the same photo in several class folders becomes one of `images`.

    Args:
        root: the data set's folder.
        images: its images.
        class_file: see `FolderDataset`.
        label_file: see `FolderDataset`.
        faults: gets one for every mistake.

    Raises:
        DataError: no labels, or a table or class file that cannot be read.
        LabelError: no class.
    """
    table = label_table(root, label_file)
    if table is None:
        rows, notes = _rows_of_class_folders(root, images)
        read = LabelFile(rows, frozenset(label for row in rows for label in row.labels), notes=tuple(notes))
    else:
        read = read_label_file(table)
        faults += read.faults
    vocabulary, odd = _vocabulary(root, class_file, read, faults)
    labels = _labels(images, (row for row in read.rows if odd.isdisjoint(row.labels)), vocabulary, faults)
    broken = {file for fault in faults if fault.image for file in images.known(fault.image)}
    if odd:
        joined = (row for row in read.rows if not odd.isdisjoint(row.labels))
        broken |= {file for row in joined for file in images.known(row.image)}
    tagged = {file: indices for file, indices in labels.items() if indices and file not in broken}
    return FolderLabels(vocabulary, tagged, broken, read.notes)


def label_table(root: AnyPath, label_file: AnyPath | str | None = None) -> AnyPath | None:
    """The table of labels: the file that is named, the one in the folder, or None where a sub-folder is a class.

    Raises:
        DataError: two tables in the folder.
    """
    if label_file is not None:
        return file_at(label_file)
    tables = [root / name for name in LABEL_FILES if (root / name).is_file()]
    if len(tables) > 1:
        raise DataError(f"{root}: {' and '.join(table.name for table in tables)} are both here; keep one")
    return tables[0] if tables else None


def _rows_of_class_folders(root: AnyPath, images: ImageFolder) -> tuple[list[LabelRow], list[str]]:
    """One row an image, and notes; a photo that lies in several class folders has one row with all their labels."""
    loose = [file for file in images.files if "/" not in file]
    if 2 * len(loose) > len(images.files):
        raise DataError(
            f"{root}: no labels.csv, .tsv, .xlsx or .jsonl, and {loose[0]} lies in no class folder; "
            f"{_named_tables(root)}write labels.csv with the columns image,labels, sort the images of {images.folder} "
            "into one folder a class, or let `weakclip tag` propose labels"
        )
    splits = split_folders([file for file in images.files if "/" in file])
    deep = 1 if splits else 0
    classes = {file: file.split("/")[deep] for file in images.files if file.count("/") > deep}
    if not classes:
        raise DataError(
            f"{images.folder}: its folders are the splits {', '.join(splits)}, without class folders in them; "
            f"{_named_tables(root)}write labels.csv with the columns image,labels, or sort the images of each into one "
            "folder a class"
        )
    groups = list(_in_several_classes(images.folder, classes, splits))
    images.join(groups)
    more = {group[0]: tuple(dict.fromkeys(classes[file] for file in group)) for group in groups}
    rows = [
        LabelRow(file, more.get(file, (classes[file],)), f"{images.folder / file}")
        for file in images.files
        if file in classes
    ]
    said = "; ".join(" = ".join(group) for group in groups[:3]) + ("; …" if len(groups) > 3 else "")
    notes = [f"{len(groups):,} photos in several class folders are one image with all their labels: {said}"]
    return rows, [*(notes if groups else []), *_unread_tables(root)]


def _in_several_classes(folder: AnyPath, classes: dict[str, str], splits: dict[str, str]) -> Iterator[tuple[str, ...]]:
    """Files with the same bytes and other classes, of one split each."""
    for group in same_photos(folder, classes):
        parts: dict[str, list[str]] = {}
        for file in group:
            parts.setdefault(splits.get(file.split("/")[0], ""), []).append(file)
        yield from (tuple(part) for part in parts.values() if len({classes[file] for file in part}) > 1)


def _tables(root: AnyPath) -> list[AnyPath]:
    return sorted(path for path in root.iterdir() if path.suffix.lower() in OTHER_TABLES and path.is_file())


def _named_tables(root: AnyPath) -> str:
    tables = _tables(root)
    return f"name the table of labels with --labels (is it {tables[0]}?), " if tables else ""


def _unread_tables(root: AnyPath) -> list[str]:
    names = ", ".join(path.name for path in _tables(root))
    return [f"{root}: labels are the class folders; not read, --labels names a table: {names}"] if names else []


def _vocabulary(
    root: AnyPath, class_file: AnyPath | str | None, read: LabelFile, faults: list[Fault]
) -> tuple[Vocabulary, Set[str]]:
    """The classes that a file names, or, without one, those in the labels; and labels whose rows are not used.

    `cat dog` and `cat/dog` beside `cat` and `dog` are two labels with the wrong separator, not a class of their own.
    """
    own = own_vocabulary(root, class_file)
    if own is not None:
        return own, set()
    odd = {label: parts for label in read.names if (parts := joined_labels(label, read.names))}
    for row in read.rows if odd else ():
        for label in row.labels:
            if label in odd:
                with noting(faults, row.image, row.where):
                    raise DataError(f"{label!r} looks like {len(odd[label])} classes; separate labels by ';'")
    names = sorted(read.names - odd.keys() - {BACKGROUND})
    if not names:
        raise LabelError(faults or [Fault(f"{root}: its labels name no class; write a row for each image")], root)
    try:
        return Vocabulary(class_set_of_names(names)), odd.keys()
    except DataError as error:
        raise DataError(f"{root}: {error}; the classes are those in the labels") from None


def _labels(
    images: ImageFolder, rows: Iterable[LabelRow], vocabulary: Vocabulary, faults: list[Fault]
) -> dict[str, tuple[int, ...]]:
    """Class indices of each file that a row names; none where its labels are wrong, or where it has none.

    Equal labels are in memory once.
    """
    labels: dict[str, tuple[int, ...]] = {}
    known: dict[tuple[str, ...], tuple[int, ...]] = {}
    for row in rows:
        with noting(faults, row.image, row.where):
            file = images.find(row.image)
            if file in labels:
                raise RowError("image ", " is labelled twice; join the two rows", found=[repr(row.image)])
            labels[file] = ()
            if row.labels not in known:
                known[row.labels] = _indices(row, vocabulary)
            labels[file] = known[row.labels]
    return labels


def _indices(row: LabelRow, vocabulary: Vocabulary) -> tuple[int, ...]:
    try:
        return vocabulary.foreground_indices(row.labels)
    except DataError as error:
        names = vocabulary.class_set.names
        joined = any(" " in label or joined_labels(label, names) for label in row.labels)
        hint = "; labels are separated by ';'" if joined else ""
        raise DataError(f"{error}{hint}") from None
