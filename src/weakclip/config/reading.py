"""Configurations from YAML, checked key by key, and back."""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pydantic
import yaml

from weakclip.config.sections import RunConfig
from weakclip.crf import CRFParams
from weakclip.errors import ConfigError, WeakCLIPError
from weakclip.store.untrusted_text import is_plain, one_line, parse_yaml, short

Settings = TypeVar("Settings")

SHIPPED = Path(__file__).parents[1] / "configs"


def shipped_configs() -> list[str]:
    """Names of the configurations inside the package."""
    return sorted(path.stem for path in SHIPPED.glob("*.yaml"))


def config_path(source: str | Path) -> Path:
    """The file that `source` names: a path, or the bare name of a shipped configuration.

    Raises:
        ConfigError: neither.
    """
    path = Path(source)
    if path.is_file():
        return path
    if str(source) in shipped_configs():
        return SHIPPED / f"{source}.yaml"
    raise ConfigError(f"{source}: no such file, and no shipped configuration; those are {', '.join(shipped_configs())}")


def load_config(source: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a configuration.

    Args:
        source: a YAML file, or the bare name of a shipped configuration.
        overrides: `KEY.PATH=VALUE`, the value in YAML; they win over the file.

    Raises:
        ConfigError: no such file, no YAML, an unknown key (the nearest one is suggested), a wrong type or range.
    """
    path = config_path(source)
    values = _read_yaml(_read_text(path), str(path))
    _put_all(values, overrides, "train.steps=100")
    return parse_config(values, origin=" with --set ".join([str(path), *map(one_line, overrides)]))


def changed_settings(settings: Settings, overrides: Sequence[str], *, origin: str) -> Settings:
    """A section of settings with some of them changed.

    Args:
        settings: a dataclass of settings.
        overrides: `KEY.PATH=VALUE`, the value in YAML.
        origin: where the settings come from, for the messages.

    Raises:
        ConfigError: as `load_config`.
    """
    values = plain(settings)
    _put_all(values, overrides, "inference.crop=512")
    changed: Settings = _build(type(settings), values, " with --set ".join([origin, *map(one_line, overrides)]))
    return changed


def _put_all(values: dict[str, Any], overrides: Sequence[str], example: str) -> None:
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals:
            raise ConfigError(f"--set {one_line(override)}: expected KEY.PATH=VALUE, for instance {example}")
        _put(values, key.split("."), _read_scalar(value, f"--set {one_line(override)}"))


def parse_config(values: Mapping[str, Any], *, origin: str) -> RunConfig:
    """Check nested values and build the configuration.

    Args:
        values: nested mappings, as YAML gives them.
        origin: where they come from, for the messages.

    Raises:
        ConfigError: as `load_config`.
    """
    config: RunConfig = _build(RunConfig, values, origin)
    return config


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as a text file ({error}); expected YAML") from None


def load_crf(path: str | Path) -> CRFParams:
    """Read a dense CRF from a YAML file: the `crf:` section of a configuration, with or without that key.

    Raises:
        ConfigError: as `load_config`.
    """
    values = _read_yaml(_read_text(Path(path)), str(path))
    params: CRFParams = _build(CRFParams, values["crf"] if set(values) == {"crf"} else values, str(path), ("crf",))
    return params


def dump_config(config: RunConfig) -> str:
    """The complete configuration as YAML; `parse_config` of it gives the same configuration."""
    return yaml.safe_dump(plain(config), sort_keys=False, allow_unicode=True)


def plain(value: Any) -> Any:
    """Dataclasses and tuples as the mappings and lists of YAML and JSON."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {entry.name: plain(getattr(value, entry.name)) for entry in dataclasses.fields(value)}
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    return value


def flat(value: Any, prefix: str) -> dict[str, Any]:
    """Settings by their key path.

    >>> from weakclip.config import ClipSettings
    >>> flat(ClipSettings(source="demo"), "clip")
    {'clip.source': 'demo', 'clip.vocabulary': None}
    """
    return dict(_leaves(plain(value), prefix))


def _leaves(value: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for name, part in value.items():
            yield from _leaves(part, f"{prefix}.{name}")
    else:
        yield prefix, value


def _read_yaml(text: str, origin: str) -> dict[str, Any]:
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


def _put(values: dict[str, Any], path: Sequence[str], value: Any) -> None:
    for name in path[:-1]:
        if not isinstance(values.get(name), dict):
            values[name] = {}
        values = values[name]
    values[path[-1]] = value


def _build(kind: type[Any], values: Any, origin: str, path: tuple[str, ...] = ()) -> Any:
    """An instance of the dataclass `kind`; nested dataclasses are built first, so that each error knows its key."""
    where = ".".join(path)
    if not isinstance(values, Mapping):
        raise ConfigError(f"{origin}: {where}: expected keys and values; found {short(values)}")
    hints = typing.get_type_hints(kind)
    known = [entry.name for entry in dataclasses.fields(kind)]
    built: dict[str, Any] = {}
    for name, value in values.items():
        here = (*path, str(name))
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known)}"
            raise ConfigError(f"unknown key {'.'.join(here)!r} in {origin}; {hint}")
        built[name] = _build_parts(hints[name], value, origin, here)
    try:
        return pydantic.TypeAdapter(kind).validate_python(built)
    except pydantic.ValidationError as error:
        raise ConfigError(f"{origin}: {_first_problem(error, path)}") from None
    except WeakCLIPError as error:
        raise ConfigError(f"{origin}: {where + ': ' if where else ''}{error}") from None


def _build_parts(hint: Any, value: Any, origin: str, path: tuple[str, ...]) -> Any:
    """The value of one field: a dataclass, a list of them, or what is left to pydantic."""
    nested = _dataclass_in(hint)
    if nested is not None and value is not None:
        return _build(nested, value, origin, path)
    item = _dataclass_in(next(iter(typing.get_args(hint)), None))
    if isinstance(value, str) and not is_plain(value):
        raise ConfigError(f"{origin}: {'.'.join(path)}: text without control characters expected; found {short(value)}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{origin}: {'.'.join(path)}: a finite number expected; found {value}")
    if item is not None and isinstance(value, list):
        return tuple(_build(item, part, origin, (*path, str(index))) for index, part in enumerate(value))
    return value


def _dataclass_in(hint: Any) -> type[Any] | None:
    """The dataclass that a type hint names, alone or beside None."""
    optional = typing.get_origin(hint) in (typing.Union, types.UnionType)
    candidates = typing.get_args(hint) if optional else (hint,)
    return next((part for part in candidates if isinstance(part, type) and dataclasses.is_dataclass(part)), None)


def _first_problem(error: pydantic.ValidationError, path: tuple[str, ...]) -> str:
    """One line for the first of pydantic's errors: the key path, what is wrong, what was found."""
    problem = error.errors(include_url=False)[0]
    name = ".".join([*path, *map(str, problem["loc"])])
    if problem["type"].startswith("missing") and len(problem["loc"]) == 1:
        return f"{name}: this key is required and missing"
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return f"{name}: {problem['msg']}; found {short(problem['input'])}{more}"
