"""Finds unreadable files, lists them in `errors.jsonl`, and excludes their images from every stage.

With `data.on_error: skip`, all that a run will read is read once before its first stage, and again only where files
have changed since. An image that cannot be read, or whose labels or imported seeds are broken, is then no image of the
split for any stage. A broken true mask costs its image the score and nothing else: a data set without masks trains the
same networks. With `stop`, the first file that cannot be used ends the run; all the others are looked for then, so that
they can be corrected in one go.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from weakclip.config import RunConfig
from weakclip.datasets import ImageLabelDataset
from weakclip.errors import DataError
from weakclip.pipeline.data import SomeImages, digest_of, file_dataset, file_stat, files_fingerprint, open_split
from weakclip.seeds import ImportedCAMs, ImportedMasks
from weakclip.store.files import atomic_write, read_json_if_any, write_json, writing
from weakclip.store.layout import ERRORS
from weakclip.store.progress import track
from weakclip.store.threads import in_threads
from weakclip.store.untrusted_text import one_line, parse_json

logger = logging.getLogger("weakclip")

CHECKED = "checked.json"
"""Beside `errors.jsonl`: a digest a split of the sizes and times of the files that were read, and one of that list."""
LIST = "list"

Role = Literal["train", "val"]
FIRST_STAGE: dict[Role, str] = {"train": "seeds", "val": "evaluate"}


@dataclass(frozen=True, kw_only=True)
class BrokenImage:
    """One line of `errors.jsonl`.

    Args:
        image: its name in the data set, or what a row of the labels calls it.
        split: the split.
        stage: the first stage that reads what is broken.
        error: what is wrong, in one line that names the file.
        left_out: whether the image is left out; otherwise it is left out of the scores only.
    """

    image: str
    split: str
    stage: str
    error: str
    left_out: bool


def split_of(config: RunConfig, role: Role) -> tuple[str | None, int | None]:
    """The name of the training or validation split, and its limit."""
    data = config.data
    return (data.train_split, data.train_limit) if role == "train" else (data.val_split, data.val_limit)


def open_sound(config: RunConfig, role: Role, broken: Sequence[BrokenImage], out: Path) -> ImageLabelDataset:
    """A split of a run without the images that are broken.

    Raises:
        DataError: as `open_split`, or no image is left.
    """
    split, limit = split_of(config, role)
    dataset = open_split(config.data, str(split), limit, out=out)
    found = [each for each in broken if each.split == split]
    gone = {each.image for each in found if each.left_out}
    unscored = {each.image for each in found if not each.left_out}
    kept = [index for index, name in enumerate(dataset.names) if name not in gone]
    if not kept:
        raise DataError(f"all {len(dataset)} images of split {split!r} are broken; the first: {found[0].error}")
    if len(kept) == len(dataset) and not unscored:
        return dataset
    return SomeImages(dataset, kept, unscored=unscored)


@dataclass(frozen=True, kw_only=True)
class Screening:
    """The usable and the unusable files of a run.

    Args:
        broken: what cannot be used.
        images: how many images were looked at, now or earlier.
        digests: a digest a split of the files that were read.
    """

    broken: tuple[BrokenImage, ...]
    images: int
    digests: dict[str, str]

    @property
    def left_out(self) -> int:
        """How many images and rows are left out, without those that are left out of the scores only."""
        return sum(each.left_out for each in self.broken)


def find_bad_files(config: RunConfig, out: Path, *, whole: bool = False) -> Screening:
    """Read everything that a run will read, and list the files that cannot be used; nothing is written.

    What earlier calls have read, and has kept its size and time since, is not read again; what was broken then is.

    Args:
        config: the run's settings.
        out: the run folder.
        whole: read everything all the same.

    Raises:
        DataError: a data set that cannot be opened.
    """
    known, before = read_errors(out), {} if whole else _read_digests(out)
    faults: dict[str, BrokenImage] = {}
    broken: list[BrokenImage] = []
    images, digests = 0, dict[str, str]()
    for role in _roles(config):
        dataset = _open(config, role, out)
        for fault in dataset.faults:
            said, stage = one_line(fault.error), FIRST_STAGE[role]
            entry = BrokenImage(image=fault.image, split=dataset.split, stage=stage, error=said, left_out=True)
            faults.setdefault(said, entry)  # both splits read the same table
        digests[role] = _digest(config, role, dataset)
        names: Collection[str] = {each.image for each in known if each.split == dataset.split}
        if before.get(role) != digests[role]:
            names = dataset.names
        images += len(dataset)
        broken += _check(config, role, dataset, names if file_dataset(dataset) else ())
    return Screening(broken=(*faults.values(), *broken), images=images, digests=digests)


def _roles(config: RunConfig) -> tuple[Role, ...]:
    """The splits that are looked at: a validation on the training split itself is looked at as that."""
    return ("train",) if config.data.val_split in (None, config.data.train_split) else ("train", "val")


def _open(config: RunConfig, role: Role, out: Path) -> ImageLabelDataset:
    split, limit = split_of(config, role)
    if len(_roles(config)) == 1 and config.data.val_split is not None:
        limits = (config.data.train_limit, config.data.val_limit)
        limit = None if None in limits else max(each for each in limits if each)
    return open_split(config.data, str(split), limit, out=out)


def _check(config: RunConfig, role: Role, dataset: ImageLabelDataset, names: Collection[str]) -> Iterator[BrokenImage]:
    """Read the named images of a split, with all that belongs to them."""
    wanted = set(names)
    indices = [index for index, name in enumerate(dataset.names) if name in wanted]
    seeds = _imported(config, dataset) if role == "train" else None

    def inspect(index: int) -> BrokenImage | None:
        stage, needed = FIRST_STAGE[role], True
        try:
            sample = dataset[index]
            if seeds is not None:
                seeds(sample)
            stage, needed = "evaluate", role == "val"
            dataset.mask(index)
        except DataError as error:
            said = one_line(str(error))
            return BrokenImage(
                image=dataset.names[index], split=dataset.split, stage=stage, error=said, left_out=needed
            )
        return None

    done = track(in_threads(inspect, indices), f"checking {dataset.split}", total=len(indices))
    yield from (each for each in done if each is not None)


def _imported(config: RunConfig, dataset: ImageLabelDataset) -> Callable[..., object] | None:
    """The reader of the imported seeds of a sample, where there are any."""
    settings = config.seeds
    if settings.method == "imported_cams":
        return ImportedCAMs(str(settings.folder), dataset.class_set, first_class=settings.first_class).cam
    if settings.method == "imported_masks":
        return ImportedMasks(str(settings.folder), dataset.class_set).masks
    return None


def _digest(config: RunConfig, role: Role, dataset: ImageLabelDataset) -> str:
    """Digest of what `_check` depends on: names, labels, and sizes and times of the files."""
    stored = file_dataset(dataset)
    if stored is None:
        return "drawn"
    source, indices = stored
    lines = [repr((dataset.class_set, source.longest_side, dataset.split))]
    for name, index in zip(dataset.names, indices, strict=True):
        try:
            labels: object = source.labels(index)
        except DataError as error:
            labels = str(error)
        mask = source.mask_path(index)
        lines.append(repr((name, labels, file_stat(source.image_path(index)), mask and file_stat(mask))))
    if role == "train":
        lines.append(repr((config.seeds.method, getattr(config.seeds, "first_class", 0))))
        lines.append(files_fingerprint(config.seeds.sources.get("imported seeds")))
    return digest_of(one_line(line) for line in lines)


def save_screening(out: Path, screening: Screening) -> None:
    """Write `errors.jsonl`, or remove it where nothing is broken, and the digests of what was read.

    Raises:
        StorageError: they cannot be written.
    """
    write_errors(out, screening.broken)
    write_json(out / CHECKED, {**screening.digests, LIST: _list_digest(out)})


def broken_of(config: RunConfig, out: Path) -> tuple[BrokenImage, ...]:
    """The files that the stages of a run leave out, as its folder lists them; without a list, the data are read.

    Raises:
        DataError: as `find_bad_files`.
    """
    if config.data.on_error == "stop":
        return ()
    return tuple(read_errors(out)) if _read_digests(out) else find_bad_files(config, out).broken


def drop_screening(out: Path) -> None:
    """Remove what `save_screening` wrote: an earlier call's list is no list of this one's.

    Raises:
        StorageError: it may not be removed.
    """
    for name in (ERRORS, CHECKED):
        with writing(out / name):
            (out / name).unlink(missing_ok=True)


def write_errors(out: Path, broken: Sequence[BrokenImage]) -> None:
    """Write `errors.jsonl`, a line an image; where nothing is broken there is no such file.

    Raises:
        StorageError: it cannot be written.
    """
    if not broken:
        return drop_screening(out)
    with atomic_write(out / ERRORS, "w") as file:
        file.writelines(json.dumps(asdict(each), ensure_ascii=False) + "\n" for each in broken)


def read_errors(out: Path) -> list[BrokenImage]:
    """The lines of `errors.jsonl`; what is no such line is passed over: a changed list has all the data read again."""
    try:
        lines = (out / ERRORS).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    return [entry for line in lines if (entry := _entry(line)) is not None]


def _entry(line: str) -> BrokenImage | None:
    try:
        value = parse_json(line)
        texts = {name: value[name] for name in ("image", "split", "stage", "error")}
        if all(isinstance(text, str) for text in texts.values()):
            return BrokenImage(**texts, left_out=value["left_out"] is not False)
    except (ValueError, TypeError, LookupError):
        pass
    return None


def _list_digest(out: Path) -> str:
    try:
        return digest_of([one_line((out / ERRORS).read_text(encoding="utf-8", errors="replace"))])
    except OSError:
        return "none"


def _read_digests(out: Path) -> dict[str, object]:
    """Digests of the data that were read; none where the list of bad files is another one."""
    found = read_json_if_any(out / CHECKED)
    return found if found.get(LIST) == _list_digest(out) else {}
