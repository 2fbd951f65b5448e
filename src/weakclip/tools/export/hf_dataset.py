"""A finished run as a data set: images, pseudo masks, labels and class names, in Parquet or in tars.

    out/README.md                                    the data set's card: which files, what the columns are
    out/data/SPLIT-00000-of-00083.parquet, …         1,000 images each, 100 a row group; or .tar
    out/classes.yaml                                 with tars: the names of the classes

Hugging Face's `datasets.load_dataset(out)` reads Parquet, also streamed. WebDataset reads the tars, in which an image
is `NUMBER.jpg` (or another ending), `NUMBER.mask.png`, and `NUMBER.json` with its name and labels. Image files are
taken as they are, not encoded again. Memory holds one row group; a stopped export goes on after the last finished file.
"""

from __future__ import annotations

import html
import io
import json
import logging
import math
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from weakclip import __version__
from weakclip.datasets import ImageLabelDataset
from weakclip.datasets.class_files import CLASS_FILE
from weakclip.datasets.images import mask_png, read_mask, resize_mask
from weakclip.errors import ConfigError, DataError, RunError
from weakclip.pipeline.context import RunContext, open_run
from weakclip.pipeline.data import dataset_fingerprint
from weakclip.store import forms
from weakclip.store.files import atomic_write, write_json, write_text
from weakclip.store.keys import ResultKey
from weakclip.store.layout import MASKS
from weakclip.store.manifest import read_records
from weakclip.store.outputs import mirrored, sending
from weakclip.store.progress import track
from weakclip.store.remote import folder_at
from weakclip.store.trees import AnyPath
from weakclip.tools.export.tar_shards import write_class_names, write_tar

logger = logging.getLogger("weakclip")

SHARD_IMAGES, GROUP_IMAGES = 1000, 100

Form = Literal["parquet", "webdataset"]
_ENDINGS: dict[Form, str] = {"parquet": ".parquet", "webdataset": ".tar"}

KEY = ".weakclip.json"
"""The key of the files in the folder; a name that `load_dataset` ignores."""

CARD = "README.md"

FORM = forms.Form("export of weakclip", KEY, results=frozenset({"data"}), others=frozenset({CARD, CLASS_FILE}))
"""Of the folder, where it is at a URL."""


@dataclass(frozen=True)
class ExportedDataset:
    """The result of an export.

    Args:
        folder: what `datasets.load_dataset` is given.
        split: the name of its one split.
        images: rows.
        shards: Parquet files.
    """

    folder: AnyPath
    split: str
    images: int
    shards: int


def export_hf_dataset(
    run: Path | str, out: Path | str, *, root: str | None = None, form: Form = "parquet"
) -> ExportedDataset:
    """Write images, pseudo masks and labels of a run's training split as a folder of Parquet files or of tars.

    Columns: `image` and `mask` (an 8-bit palette PNG of class indices), both decoded by `datasets` to Pillow images;
    `labels`, the image-level labels as class indices; `name`. The names of the classes, background first, are those of
    `labels`' feature, and count for the mask too.

    Args:
        run: a run folder whose pseudo masks are made.
        out: the folder, or its URL; an export of the same masks that is there already is continued, another one is
            made anew.
        root: the data set's folder; the one of the run where left out.
        form: of the files.

    Raises:
        ConfigError: Parquet is asked for, and the extra `datasets` is not installed.
        RunError: no run, one without pseudo masks, or `out` is a folder with something else in it.
        DataError: an image or a mask that is missing.
        RemoteError, FolderInUseError: of a URL, as `weakclip.store.outputs.mirrored`.
    """
    schema_of = _schema_maker() if form == "parquet" else None
    context, made = _context(Path(run), root)
    settings = {} if form == "parquet" else {"form": form}
    inputs = {"pseudo_masks": made, "images": dataset_fingerprint(context.train)}
    with mirrored(out, form=FORM) as folder:
        _prepare(folder, ResultKey(inputs=inputs, settings=settings))
        with sending():
            shards = _write_files(context, folder, form, schema_of)
    return ExportedDataset(folder_at(out), context.train.split, len(context.train), shards)


def _write_files(context: RunContext, out: Path, form: Form, schema_of: Any) -> int:
    """Write the files that are missing; how many there are of images."""
    dataset = context.train
    shards = math.ceil(len(dataset) / SHARD_IMAGES)
    paths = [out / "data" / f"{dataset.split}-{number:05d}-of-{shards:05d}{_ENDINGS[form]}" for number in range(shards)]
    missing = [number for number, path in enumerate(paths) if not path.is_file()]
    left = sum(len(_images_of(number, dataset)) for number in missing)
    rows = _rows(dataset, context.folder("pseudo_masks") / MASKS, missing)
    shown = track(rows, "exporting", total=len(dataset), done=len(dataset) - left)
    for number in missing:
        images = _images_of(number, dataset)
        if schema_of is not None:
            _write_shard(paths[number], shown, len(images), schema_of(dataset))
        else:
            write_tar(paths[number], zip(images, shown, strict=False), dataset.class_set)
    if form == "webdataset":
        write_class_names(out, dataset.class_set)
    write_text(out / CARD, _card(dataset, _ENDINGS[form]))
    return shards


def _schema_maker() -> Any:
    try:
        import datasets
    except ImportError:
        raise ConfigError("Hugging Face datasets is not installed; `pip install weakclip[datasets]`") from None

    def schema_of(dataset: ImageLabelDataset) -> Any:
        labels = datasets.Sequence(datasets.ClassLabel(names=list(dataset.class_set.names)))
        features = {"image": datasets.Image(), "mask": datasets.Image(), "labels": labels}
        return datasets.Features(features | {"name": datasets.Value("string")}).arrow_schema

    return schema_of


def _context(run: Path, root: str | None) -> tuple[RunContext, str]:
    """The run, and the key of its pseudo masks."""
    context = open_run(run, [f"data.root={json.dumps(root)}"] if root else [])
    record = read_records(run).get("pseudo_masks", {})
    if not record.get("done"):
        raise RunError(f"{run}: its pseudo masks are not made; run `weakclip pseudo-masks` or `weakclip run` first")
    return context, str(record.get("key"))


def _prepare(out: Path, key: ResultKey) -> None:
    """Make the folder ours; what lies there under another key is removed."""
    known = out / KEY
    if out.is_file() or (out.is_dir() and any(out.iterdir()) and not known.is_file()):
        raise RunError(f"{out}: is not empty and no export of weakclip; choose a new or empty folder")
    if known.is_file() and key.digest not in known.read_text(encoding="utf-8"):
        logger.info("%s: masks or images have changed; exports anew", out)
        shutil.rmtree(out / "data", ignore_errors=True)
    write_json(known, key.record())


def _images_of(shard: int, dataset: ImageLabelDataset) -> range:
    return range(len(dataset))[shard * SHARD_IMAGES : (shard + 1) * SHARD_IMAGES]


def _rows(dataset: ImageLabelDataset, masks: Path, shards: list[int]) -> Iterator[dict[str, Any]]:
    for shard in shards:
        for index in _images_of(shard, dataset):
            name = dataset.names[index]
            mask = {"bytes": _mask(dataset, index, masks / f"{name}.png"), "path": f"{name}.png"}
            labels = list(dataset.labels(index))
            yield {"image": _image(dataset, index), "mask": mask, "labels": labels, "name": name}


def _image(dataset: ImageLabelDataset, index: int) -> dict[str, Any]:
    """The image file as it is, or a PNG of an image that is drawn, not stored."""
    path = dataset.image_file(index)
    if path is not None:
        return {"bytes": _content(path), "path": f"{dataset.names[index]}{path.suffix}"}
    file = io.BytesIO()
    Image.fromarray(dataset.image(index)).save(file, format="PNG")
    return {"bytes": file.getvalue(), "path": f"{dataset.names[index]}.png"}


def _mask(dataset: ImageLabelDataset, index: int, path: Path) -> bytes:
    """The mask file as it is, or enlarged to the image file where the run has reduced the image."""
    content, size = _content(path), dataset.stored_size(index)
    mask = read_mask(io.BytesIO(content))
    return content if mask.shape == size else mask_png(resize_mask(mask, size), dataset.class_set.palette)


def _content(path: AnyPath) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror}); run `weakclip run` again, or repair the data"
        ) from None


def _write_shard(path: Path, rows: Iterator[dict[str, Any]], count: int, schema: Any) -> None:
    import pyarrow
    from pyarrow import parquet

    with atomic_write(path) as file, parquet.ParquetWriter(file, schema) as writer:
        for start in range(0, count, GROUP_IMAGES):
            group = [next(rows) for _ in range(min(GROUP_IMAGES, count - start))]
            writer.write_table(pyarrow.Table.from_pylist(group, schema=schema))


def _card(dataset: ImageLabelDataset, ending: str) -> str:
    """README.md of the data set, with the head that tells `datasets` which files hold the split."""
    classes = "\n".join(f"- {index}: {html.escape(name)}" for index, name in enumerate(dataset.class_set.names))
    return f"""---
task_categories:
- image-segmentation
configs:
- config_name: default
  data_files:
  - split: {dataset.split}
    path: data/{dataset.split}-*{ending}
---
# Pseudo masks of {len(dataset):,} images

Made by weakclip {__version__} from image-level labels: a program drew these masks, nobody corrected them.

- `image`: the image as it was given; its owner's terms apply
- `mask`: class index of every pixel
- `labels`: the image-level labels, class indices
- `name`: of the image in its data set

Classes:

{classes}
"""
