"""The content of a shard: images of a tar as WebDataset writes them, or of a Parquet file, and where each one lies."""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from weakclip.datasets.file_cache import FileCache
from weakclip.datasets.image_folder import IMAGE_SUFFIXES
from weakclip.errors import ConfigError, DataError, WeakCLIPError, first_line
from weakclip.store.files import atomic_write
from weakclip.store.trees import AnyPath, below
from weakclip.store.untrusted_text import parse_json, short

TAR, PARQUET = ".tar", ".parquet"

INDEX_VERSION = 1
LABELS = ("labels", "label", "cls", "class")
"""Keys of a JSON member, and names of a column, that hold the labels; the first that is there counts."""
_MOST_TEXT = 2**20


@dataclass(frozen=True)
class ShardImage:
    """One image of a shard.

    Args:
        key: unique in the shard.
        labels: class names, or numbers of classes.
        place: of a tar, the offset and size of its bytes; of Parquet, its row group and its row there.
        suffix: the ending of its file, with the dot; empty where that is not known.
    """

    key: str
    labels: tuple[str | int, ...]
    place: tuple[int, int]
    suffix: str


@dataclass(frozen=True)
class Shard:
    """A shard.

    Args:
        path: its file.
        images: what is in it.
        names: the classes that numbers in `labels` mean, from 0 on; empty where it does not say.
    """

    path: AnyPath
    images: tuple[ShardImage, ...]
    names: tuple[str, ...] = ()


def read_shard(root: AnyPath, path: AnyPath) -> Shard:
    """The index of a shard, which is made once and kept (`FileCache`) as long as the shard stays as it is.

    Raises:
        DataError: no tar or Parquet file, or no images in it.
        ConfigError: the reader of Parquet is not installed.
    """
    cache = FileCache(root, path, version=INDEX_VERSION)
    name = f"{below(path, root).replace('/', '__')}.json"
    kept = _kept(path, cache.find(name))
    if kept is not None:
        return kept
    try:
        shard = _of_tar(path) if path.suffix == TAR else _of_parquet(path)
    except (WeakCLIPError, MemoryError):
        raise
    except Exception as error:  # tarfile and pyarrow let through many kinds
        expected = "an uncompressed tar" if path.suffix == TAR else "a Parquet file"
        raise DataError(f"{path}: cannot be read ({first_line(error)}); expected {expected}") from None
    if not shard.images:
        raise DataError(f"{path}: no images; expected NAME.jpg (or another ending) in a tar, or a column of images")

    def write(target: Path) -> None:
        with atomic_write(target, "w") as file:
            json.dump({"names": shard.names, "images": [list(asdict(each).values()) for each in shard.images]}, file)

    cache.keep(name, write)
    return shard


def _kept(path: AnyPath, index: Path | None) -> Shard | None:
    if index is None:
        return None
    try:
        found = parse_json(index.read_bytes())
        images = ((key, tuple(labels), tuple(place), suffix) for key, labels, place, suffix in found["images"])
        return Shard(path, tuple(ShardImage(*each) for each in images), tuple(found["names"]))
    except (OSError, ValueError, TypeError, LookupError):
        return None


def _of_tar(path: AnyPath) -> Shard:
    """Members are of one image where their paths are equal up to the first dot of the name."""
    photos: dict[str, tuple[int, int, str]] = {}
    labels: dict[str, tuple[str | int, ...]] = {}
    with path.open("rb") as content, tarfile.open(fileobj=content, mode="r:") as archive:
        for member in archive:
            folder, slash, name = member.name.removeprefix("./").rpartition("/")
            stem, _, ending = name.partition(".")
            key = f"{folder}{slash}{stem}"
            if not member.isreg() or member.sparse is not None or not stem:
                continue
            if f".{ending.lower()}" in IMAGE_SUFFIXES:
                photos.setdefault(key, (member.offset_data, member.size, f".{ending.lower()}"))
            elif ending.lower() in ("cls", "json") and member.size <= _MOST_TEXT:
                file = archive.extractfile(member)
                found = _labels_of_text(file.read() if file else b"", ending.lower(), f"{path}, {member.name}")
                labels[key] = found or labels.get(key, ())
    rows = ((key, labels.get(key, ()), place[:2], place[2]) for key, place in photos.items())
    return Shard(path, tuple(ShardImage(*row) for row in rows))


def _labels_of_text(content: bytes, ending: str, where: str) -> tuple[str | int, ...]:
    try:
        value = parse_json(content) if ending == "json" else content.decode()
    except ValueError as error:
        raise DataError(
            f"{where}: cannot be read ({error}); expected {'JSON' if ending == 'json' else 'text'}"
        ) from None
    if isinstance(value, dict):
        value = next((value[name] for name in LABELS if value.get(name) is not None), ())
    elif isinstance(value, str):
        value = re.split("[;,\n]", value)
    return _plain(value if isinstance(value, list | tuple) else [value], where)


def _plain(values: Any, where: str) -> tuple[str | int, ...]:
    """Labels as names or numbers; text of digits is a number."""
    found: list[str | int] = []
    for value in values:
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise DataError(f"{where}: label {short(value)}; expected the name or number of a class")
        text = value.strip() if isinstance(value, str) else value
        found += [int(text) if isinstance(text, str) and text.isdecimal() else text] if text != "" else []
    return tuple(dict.fromkeys(found))


def parquet_file(path: AnyPath) -> Any:
    """A Parquet file, opened by pyarrow.

    Raises:
        ConfigError: pyarrow is not installed.
    """
    try:
        from pyarrow import parquet
    except ImportError:
        raise ConfigError(f"{path}: reading Parquet needs pyarrow; `pip install weakclip[datasets]`") from None
    return parquet.ParquetFile(path if isinstance(path, Path) else path.pieces())


def image_column(columns: Any) -> str:
    """The column of images, bytes or a struct with `bytes`; called image, or else the first of these."""
    return next(iter(sorted((field.name for field in columns if _is_image(field.type)), key="image".__ne__)), "")


def _is_image(kind: Any) -> bool:
    from pyarrow import types

    if types.is_struct(kind):
        return any(part.name == "bytes" and _is_image(part.type) for part in kind.fields)
    return bool(types.is_binary(kind) or types.is_large_binary(kind))


def _of_parquet(path: AnyPath) -> Shard:
    with parquet_file(path) as file:
        schema = file.schema_arrow
        image, labels = image_column(schema), next((name for name in LABELS if name in schema.names), "")
        if not image:
            raise DataError(f"{path}: no column of images, bytes or {{bytes, path}}; found {', '.join(schema.names)}")
        wanted = [name for name in (labels, "name" if "name" in schema.names else "") if name]
        if _has_path(schema.field(image).type):
            wanted.append(f"{image}.path")
        images: list[ShardImage] = []
        for group in range(file.num_row_groups):
            columns = file.read_row_group(group, columns=wanted).to_pydict() if wanted else {}
            for row in range(file.metadata.row_group(group).num_rows):
                told = {name: values[row] for name, values in columns.items()}
                where = f"{path}, row {len(images) + 1}"
                images.append(_row_image(told, (group, row), len(images), (image, labels), where))
    return Shard(path, tuple(images), _feature_names(schema, labels))


def _row_image(
    told: dict[str, Any], place: tuple[int, int], number: int, columns: tuple[str, str], where: str
) -> ShardImage:
    (image, labels), file = columns, ""
    if isinstance(told.get(image), dict):
        file = str(told[image].get("path") or "")
    value = told.get(labels)
    values = () if value is None else value if isinstance(value, list | tuple) else [value]
    suffix = PurePosixPath(file).suffix.lower()
    return ShardImage(
        str(told.get("name") or f"{number:08d}"),
        _plain(values, where),
        place,
        suffix if suffix in IMAGE_SUFFIXES else "",
    )


def _has_path(kind: Any) -> bool:
    from pyarrow import types

    return types.is_struct(kind) and any(part.name == "path" for part in kind.fields)


def _feature_names(schema: Any, labels: str) -> tuple[str, ...]:
    """The names of Hugging Face's `ClassLabel` of a column, which `datasets` keeps in the schema."""
    try:
        features = parse_json((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
        found = list(_names_in(features[labels]))
    except (ValueError, TypeError, LookupError):
        return ()
    return tuple(map(str, found[0])) if found else ()


def _names_in(feature: Any) -> Iterator[list[Any]]:
    if isinstance(feature, dict):
        if isinstance(feature.get("names"), list):
            yield feature["names"]
        yield from _names_in(feature.get("feature"))
