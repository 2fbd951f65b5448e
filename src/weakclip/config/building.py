"""Dataclasses of settings from nested mappings, checked key by key."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import math
import types
import typing
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, cast

import pydantic

from weakclip.errors import ConfigError, WeakCLIPError
from weakclip.store.untrusted_text import is_plain, short

KIND_KEYS = {"dataset", "method"}
"""Fields whose value tells which kind of section it is."""

_hints_of, _validator_of = functools.cache(typing.get_type_hints), functools.cache(pydantic.TypeAdapter)
"""Both take milliseconds to make, and every configuration asks for those of all its sections."""


def build(
    kind: type[Any], values: Any, origin: str, path: tuple[str, ...] = (), kinds: Sequence[type[Any]] = ()
) -> Any:
    """An instance of the dataclass `kind`, one of `kinds`; nested ones come first, so that each error knows its key."""
    where = ".".join(path)
    if not isinstance(values, Mapping):
        raise ConfigError(f"{origin}: {where}: expected keys and values; found {short(values)}")
    hints = _hints_of(cast(Hashable, kind))
    known = [entry.name for entry in dataclasses.fields(kind)]
    built: dict[str, Any] = {}
    for name, value in values.items():
        here = (*path, str(name))
        if name not in known:
            raise ConfigError(f"unknown key {'.'.join(here)!r} in {origin}; {_hint(str(name), kind, kinds)}")
        field = next(entry for entry in dataclasses.fields(kind) if entry.name == name)
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        built[name] = _build_parts(hints[name], value, origin, here, required=required)
    try:
        made = _validator_of(cast(Hashable, kind)).validate_python(built)
    except pydantic.ValidationError as error:
        raise ConfigError(f"{origin}: {_first_problem(error, path)}") from None
    except WeakCLIPError as error:
        raise ConfigError(f"{origin}: {where + ': ' if where else ''}{error}") from None
    for name, value in built.items():  # the text "nan" is a number to pydantic
        if not _is_finite(getattr(made, name)):
            raise ConfigError(f"{origin}: {'.'.join((*path, name))}: a finite number expected; found {value}")
    return made


def _is_finite(value: Any) -> bool:
    """Whether a setting is no NaN or infinity, and has none in it."""
    if isinstance(value, tuple):
        return all(map(_is_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


def _hint(name: str, kind: type[Any], kinds: Sequence[type[Any]]) -> str:
    """Advice about a key that `kind` does not have."""
    known = [entry.name for entry in dataclasses.fields(kind)]
    owners = [_name_of(other) for other in kinds if name in {entry.name for entry in dataclasses.fields(other)}]
    if owners:
        key = kind_key(kinds)
        return f"it is a key of {key}: {' or '.join(owners)}; {key}: {_name_of(kind)} has {', '.join(known)}"
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known)}"


def _build_parts(hint: Any, value: Any, origin: str, path: tuple[str, ...], *, required: bool) -> Any:
    """The value of one field: a dataclass, a list of them, or what is left to pydantic."""
    kinds = dataclasses_in(hint)
    if kinds and value is None and type(None) not in typing.get_args(hint):
        raise ConfigError(f"{origin}: {'.'.join(path)}: expected keys and values; found nothing")
    if kinds and value is not None:
        return build(_kind_of(kinds, value, origin, path, required=required), value, origin, path, kinds)
    items = dataclasses_in(next(iter(typing.get_args(hint)), None))
    if isinstance(value, str) and not is_plain(value):
        raise ConfigError(f"{origin}: {'.'.join(path)}: text without control characters expected; found {short(value)}")
    for here, each in _with_items(path, value):
        if isinstance(each, bool) and {int, float} & _leaves_of(hint):
            raise ConfigError(f"{origin}: {'.'.join(here)}: a number expected; found {str(each).lower()}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{origin}: {'.'.join(path)}: a finite number expected; found {value}")
    if items and isinstance(value, list):
        return tuple(build(items[0], part, origin, (*path, str(index))) for index, part in enumerate(value))
    return value


def _with_items(path: tuple[str, ...], value: Any) -> list[tuple[tuple[str, ...], Any]]:
    """A value with its key path, and those of its items where it is a list."""
    items = enumerate(value) if isinstance(value, list) else ()
    return [(path, value), *(((*path, str(index)), item) for index, item in items)]


def _leaves_of(hint: Any) -> set[Any]:
    """The types that a hint is put together of.

    >>> sorted(each.__name__ for each in _leaves_of(float | tuple[int, int] | None))
    ['NoneType', 'float', 'int']
    """
    parts = typing.get_args(hint)
    return set().union(*map(_leaves_of, parts)) if parts else {hint}


def _kind_of(
    kinds: Sequence[type[Any]], value: Any, origin: str, path: tuple[str, ...], *, required: bool
) -> type[Any]:
    """The class of a section, of those that it can have; the first one where the section may be left out, too."""
    if len(kinds) == 1 or not isinstance(value, Mapping):
        return kinds[0]
    key = kind_key(kinds)
    where, names = ".".join((*path, key)), ", ".join(_name_of(kind) for kind in kinds)
    if key not in value and not required:
        return kinds[0]
    if key not in value:
        raise ConfigError(f"{origin}: {where}: this key is required and missing; one of {names}")
    kind = chosen_kind(kinds, value[key])
    if kind is None:
        raise ConfigError(f"{origin}: {where}: one of {names} expected; found {short(value[key])}")
    return kind


def kind_key(kinds: Sequence[type[Any]]) -> str:
    """The name of the field that tells kinds of a section apart."""
    return next(iter(KIND_KEYS & {entry.name for entry in dataclasses.fields(kinds[0])}))


def _name_of(kind: type[Any]) -> str:
    return next(str(entry.default) for entry in dataclasses.fields(kind) if entry.name in KIND_KEYS)


def chosen_kind(kinds: Sequence[type[Any]], name: Any) -> type[Any] | None:
    """The class of a section whose kind has this name; None where there is none."""
    return next((kind for kind in kinds if _name_of(kind) == name), None)


def dataclasses_in(hint: Any) -> tuple[type[Any], ...]:
    """The dataclasses that a type hint names, alternatives of one section."""
    optional = typing.get_origin(hint) in (typing.Union, types.UnionType)
    candidates = typing.get_args(hint) if optional else (hint,)
    return tuple(part for part in candidates if isinstance(part, type) and dataclasses.is_dataclass(part))


def _first_problem(error: pydantic.ValidationError, path: tuple[str, ...]) -> str:
    """One line for the first of pydantic's errors: the key path, what is wrong, what was found.

    Of a setting that is a value or a list of values, pydantic tells of both, and names their types as if they were
    keys. The one that goes deepest is the one that was meant.
    """
    problem = max(error.errors(include_url=False), key=lambda each: len(each["loc"]))
    field, *places = problem["loc"]
    name = ".".join([*path, str(field), *(str(place) for place in places if isinstance(place, int))])
    if problem["type"].startswith("missing") and len(problem["loc"]) == 1:
        return f"{name}: this key is required and missing"
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return f"{name}: {problem['msg']}; found {short(problem['input'])}{more}"
