"""Configurations from YAML, checked key by key, and back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml

from weakclip.config.building import build
from weakclip.config.layers import layers, merge, paths_of, put_all, read_text, read_yaml
from weakclip.config.sections import RunConfig
from weakclip.config.shipped import config_path
from weakclip.crf import CRFParams
from weakclip.errors import ConfigError
from weakclip.store.files import check_inside
from weakclip.store.keys import plain
from weakclip.store.layout import CONFIG
from weakclip.store.untrusted_text import one_line

Settings = TypeVar("Settings")


def load_config(source: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a configuration.

    Args:
        source: a YAML file, or the bare name of a shipped configuration. A file that says `base: NAME`, the name of a
            shipped one, holds what differs from it.
        overrides: `KEY.PATH=VALUE`, the value in YAML; they win over the file.

    Raises:
        ConfigError: no such file, no YAML, an unknown key (the nearest one is suggested), a wrong type or range.
    """
    path = config_path(source)
    values: dict[str, Any] = {}
    for _, layer in layers(path):
        merge(values, layer)
    put_all(values, overrides, "train.steps=100")
    return parse_config(values, origin=" with --set ".join([str(path), *map(one_line, overrides)]))


def load_run_config(folder: Path | str, overrides: Sequence[str] = ()) -> RunConfig:
    """Read the `config.yaml` of a run folder, which holds every setting.

    A base is refused in it: another version of the package may have other values there than the run was made with.

    Raises:
        ConfigError: as `load_config`, or a base.
        DataError: a link that leads out of the folder.
    """
    path = Path(folder) / CONFIG
    check_inside(path, Path(folder))
    if "base" in read_yaml(read_text(path), str(path)):
        raise ConfigError(
            f"{path}: base: the settings of a run hold every value and have no base; put back the file that "
            "`weakclip run` wrote, or move this one elsewhere and give it to `weakclip run`"
        )
    return load_config(path, overrides)


def explain_config(source: str | Path, overrides: Sequence[str] = ()) -> str:
    """The complete configuration as YAML, each value with where it comes from: a file, `--set`, or the default.

    Raises:
        ConfigError: as `load_config`.
    """
    config = load_config(source, overrides)
    origins: dict[str, str] = {}
    values: dict[str, Any] = {}
    for name, layer in layers(config_path(source)):
        merge(values, layer)
        origins = _still_there(origins, values) | dict.fromkeys(paths_of(layer), name)
    for override in overrides:
        key = override.partition("=")[0]
        put_all(values, [override], "train.steps=100")
        origins = {path: name for path, name in origins.items() if not f"{path}.".startswith(f"{key}.")}
        set_now = [path for path in paths_of(values) if f"{path}.".startswith(f"{key}.")]
        origins = _still_there(origins, values) | dict.fromkeys(set_now, "--set")
    return "\n".join(_explained(plain(config), origins, ())) + "\n"


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
    put_all(values, overrides, "inference.crop=512")
    changed: Settings = build(type(settings), values, " with --set ".join([origin, *map(one_line, overrides)]))
    return changed


def parse_config(values: Mapping[str, Any], *, origin: str) -> RunConfig:
    """Check nested values and build the configuration.

    Args:
        values: nested mappings, as YAML gives them.
        origin: where they come from, for the messages.

    Raises:
        ConfigError: as `load_config`.
    """
    config: RunConfig = build(RunConfig, values, origin)
    return config


def load_crf(path: str | Path) -> CRFParams:
    """Read a dense CRF from a YAML file: the `crf:` section of a configuration, with or without that key.

    Raises:
        ConfigError: as `load_config`.
    """
    values = read_yaml(read_text(Path(path)), str(path))
    params: CRFParams = build(CRFParams, values["crf"] if set(values) == {"crf"} else values, str(path), ("crf",))
    return params


def dump_config(config: RunConfig) -> str:
    """The complete configuration as YAML; `parse_config` of it gives the same configuration."""
    return yaml.safe_dump(plain(config), sort_keys=False, allow_unicode=True)


def _still_there(origins: Mapping[str, str], values: Mapping[str, Any]) -> dict[str, str]:
    """The origins of values that no later file has dropped with their section."""
    there = set(paths_of(values))
    return {path: name for path, name in origins.items() if path in there}


def _explained(values: Mapping[str, Any], origins: Mapping[str, str], path: tuple[str, ...]) -> Iterator[str]:
    for name, value in values.items():
        here, indent = (*path, name), "  " * len(path)
        if isinstance(value, Mapping) and value:
            yield f"{indent}{name}:"
            yield from _explained(value, origins, here)
            continue
        text = yaml.safe_dump(value, default_flow_style=True, width=10_000, allow_unicode=True).removesuffix("...\n")
        origin = next(
            (origins[".".join(here[:n])] for n in range(len(here), 0, -1) if ".".join(here[:n]) in origins), ""
        )
        yield f"{indent}{name}: {text.strip()}  # {origin or 'default'}"
