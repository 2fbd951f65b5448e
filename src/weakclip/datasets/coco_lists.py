"""The lists of a COCO file, `images`, `annotations` and `categories`: their entries, and the ids that join them.

Tools write ids as 1, 1.0, "1" and "000000000001"; all of these are the same id. An entry that cannot be joined is an
error and is never passed over.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from weakclip.datasets.json_stream import stream_lists
from weakclip.errors import DataError
from weakclip.store.untrusted_text import one_line, short, some

Id = int | str

SINGULAR = {"images": "image", "annotations": "annotation", "categories": "category"}
"""Names of the lists, and of one entry."""

_MOST_DIGITS = 18
_MOST_SHOWN = 5


def list_entries(path: Path | str, names: Collection[str]) -> Iterator[tuple[str, Any]]:
    """`(name of the list, entry)` in the order of the file.

    Raises:
        DataError: cannot be read, not JSON, or one of the lists is missing.
    """
    seen: set[str] = set()
    try:
        with Path(path).open(encoding="utf-8-sig") as file:
            for name, entry in stream_lists(file, names):
                if name in seen:
                    yield name, entry
                seen.add(name)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error}); expected a readable file") from None
    except ValueError as error:
        raise DataError(f"{path}: not a JSON file of the COCO format ({error})") from None
    missing = [name for name in names if name not in seen]
    if missing:
        raise DataError(f"{path}: not a COCO file; it has no {' and no '.join(missing)}")


@contextlib.contextmanager
def naming_entry(path: Path | str, name: str, entry: Any) -> Iterator[None]:
    """Turn an error in an entry of the list `name` into one line that names both.

    Raises:
        DataError: the entry is no object, lacks a field, or has a value of another kind.
    """
    try:
        if not isinstance(entry, Mapping):
            raise ValueError(f"expected an object with fields; found {short(entry)}")
        yield
    except KeyError as error:
        raise DataError(f"{path}: {entry_name(name, entry)} lacks {error}; expected a COCO file") from None
    except (ValueError, TypeError, OverflowError) as error:
        raise DataError(f"{path}: {entry_name(name, entry)}: {one_line(str(error))}") from None


def entry_name(name: str, entry: Any) -> str:
    """The words for an entry of the list `name`, for messages: `annotation 7`."""
    key = entry.get("id") if isinstance(entry, Mapping) else None
    return SINGULAR[name] if key is None else f"{SINGULAR[name]} {short(key)}"


def identity(value: Any) -> Id:
    """An id as ids are compared.

    Raises:
        ValueError: neither a whole number nor text.

    >>> identity(1), identity(1.0), identity("0001"), identity("cat_1")
    (1, 1, 1, 'cat_1')
    """
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str):
        number = value.isascii() and value.isdecimal() and len(value) <= _MOST_DIGITS
        return int(value) if number else value
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise ValueError(f"an id is a whole number or text; found {short(value)}")


def whole_number(value: Any, name: str) -> int:
    """A length in pixels; 60.0 is 60.

    Raises:
        ValueError: another kind of value.
    """
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise ValueError(f"expected a whole number as its {name}; found {short(value)}")


def add_once(table: dict[Id, Any], key: Id, value: Any, name: str) -> None:
    """Add an entry of the list `name`; an equal one that is there already changes nothing.

    Raises:
        ValueError: another entry has the id.
    """
    if table.setdefault(key, value) != value:
        raise ValueError(
            f"two {name} have the id {short(key)}: {short(table[key])} and {short(value)}; give each an id of its own, "
            "in the annotations too"
        )


def check_listed(path: Path | str, annotated: Mapping[Id, str], known: Collection[Id]) -> None:
    """Raise a `DataError` if annotations name images that the file does not list.

    Args:
        path: the file.
        annotated: `image_id` of annotations → the name of one of them.
        known: ids of its images.
    """
    strays = [f"{short(key)} ({name})" for key, name in annotated.items() if key not in known]
    if strays:
        named = some(strays, _MOST_SHOWN, more=f" and {len(strays) - _MOST_SHOWN:,} more")
        listed = f"{short(next(iter(known)))} among them" if known else "none"
        raise DataError(
            f"{path}: annotations name images that it does not list, by the image_id {named}; ids of its "
            f"{len(known):,} images: {listed}; list these images, or take their annotations out"
        )


def categories_line(names: Mapping[Id, str]) -> str:
    """Ids and names of categories, for messages."""
    return some([f"{short(key)} ({short(name)})" for key, name in names.items()], _MOST_SHOWN) or "none is listed"
