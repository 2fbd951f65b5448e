"""Configurations as nested mappings: a shipped one as the base, a file that differs from it, and single settings."""

from __future__ import annotations

import copy
import dataclasses
import functools
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from weakclip.config.building import KIND_KEYS, chosen_kind, dataclasses_in, kind_key
from weakclip.config.sections import RunConfig
from weakclip.config.shipped import SHIPPED, shipped_configs
from weakclip.errors import ConfigError
from weakclip.store.untrusted_text import one_line, parse_yaml, short


def _sections_of_kinds(kind: type[Any], path: tuple[str, ...] = ()) -> dict[tuple[str, ...], tuple[type[Any], ...]]:
    found: dict[tuple[str, ...], tuple[type[Any], ...]] = {}
    for name, hint in typing.get_type_hints(kind).items():
        kinds, here = dataclasses_in(hint), (*path, name)
        found |= {here: kinds} if len(kinds) > 1 else {}
        for each in kinds:
            found |= _sections_of_kinds(each, here)
    return found


KINDS = _sections_of_kinds(RunConfig)
"""Sections of several kinds: where they are, and the classes that they can have."""


def layers(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """The files of a configuration by their names, the base before what differs from it."""
    values = copy.deepcopy(_shipped(path)) if path.parent == SHIPPED else read_yaml(read_text(path), str(path))
    base = values.pop("base", None)
    name = path.stem if path.parent == SHIPPED else path.name
    if base is None:
        return [(name, values)]
    if base not in shipped_configs():
        raise ConfigError(
            f"{path}: base: a shipped configuration expected ({', '.join(shipped_configs())}); found {short(base)}"
        )
    return [*layers(SHIPPED / f"{base}.yaml"), (name, values)]


@functools.cache
def _shipped(path: Path) -> dict[str, Any]:
    """A file of the package, which is read once."""
    return read_yaml(read_text(path), str(path))


def merge(values: dict[str, Any], over: Mapping[str, Any], path: tuple[str, ...] = ()) -> None:
    """Put the values of one configuration over those of another; keys of another kind of section are dropped.

    >>> values = {"data": {"dataset": "folder", "root": "a", "longest_side": 512}}
    >>> merge(values, {"data": {"dataset": "voc12"}})
    >>> values
    {'data': {'dataset': 'voc12', 'root': 'a'}}
    """
    for name, value in over.items():
        here = (*path, name)
        if isinstance(value, Mapping) and isinstance(values.get(name), dict):
            merge(values[name], value, here)
        else:
            values[name] = copy.deepcopy(value)
            _drop_other_kinds(values, here, over)


def _drop_other_kinds(values: dict[str, Any], path: tuple[str, ...], kept: Mapping[str, Any]) -> None:
    """Where `path` is the key that tells the kind of a section, drop what other kinds have and this one has not; `path`
    may begin at an inner section, as `crf.method` of predictions does."""
    if len(path) < 2:
        return
    ends = [kinds for place, kinds in KINDS.items() if place[-len(path) + 1 :] == path[:-1]]
    kinds = next((kinds for kinds in ends if path[-1] == kind_key(kinds)), ())
    if kinds:
        known = {entry.name for entry in dataclasses.fields(chosen_kind(kinds, values[path[-1]]) or kinds[0])}
        others = {entry.name for kind in kinds for entry in dataclasses.fields(kind)} - known
        for name in others & set(values) - set(kept):
            del values[name]


def put_all(values: dict[str, Any], overrides: Sequence[str], example: str) -> None:
    """Put `KEY.PATH=VALUE` settings over those of a configuration; keys that tell the kind of a section come first.

    Args:
        values: the configuration, changed in place.
        overrides: the settings, the value in YAML.
        example: a setting for the message about one that cannot be read.

    Raises:
        ConfigError: no `=`, or a value that is no YAML.
    """
    given: list[tuple[tuple[str, ...], Any]] = []
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals:
            raise ConfigError(f"--set {one_line(override)}: expected KEY.PATH=VALUE, for instance {example}")
        if key == "base":
            raise ConfigError(f"--set {one_line(override)}: a file says its base; or give the configuration's name")
        given.append((tuple(key.split(".")), _read_scalar(value, f"--set {one_line(override)}")))
    kinds_first = sorted(given, key=lambda each: each[0][-1] not in KIND_KEYS)
    for path, value in kinds_first:
        section = _put(values, path, value)
        _drop_other_kinds(section, path, {})


def _put(values: dict[str, Any], path: Sequence[str], value: Any) -> dict[str, Any]:
    """Set the value at a key path; the section that it is in."""
    for name in path[:-1]:
        if not isinstance(values.get(name), dict):
            values[name] = {}
        values = values[name]
    values[path[-1]] = value
    return values


def read_text(path: Path) -> str:
    """The content of a text file.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as a text file ({error}); expected YAML") from None


def read_yaml(text: str, origin: str) -> dict[str, Any]:
    """The keys and values of a YAML document.

    Raises:
        ConfigError: no YAML, or no keys and values.
    """
    try:
        values = parse_yaml(text)
    except ValueError as error:
        raise ConfigError(f"{origin}: not valid YAML; {error}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{origin}: expected keys and values; found {type(values).__name__}")
    return values


def _read_scalar(text: str, origin: str) -> Any:
    try:
        return parse_yaml(text)
    except ValueError as error:
        raise ConfigError(f"{origin}: the value is not valid YAML; {error}") from None


def paths_of(values: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """The key paths of nested values: `train.steps`, …"""
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from paths_of(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"
