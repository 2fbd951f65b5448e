"""Which file a configuration's name means. Nothing heavy is imported here."""

from __future__ import annotations

from pathlib import Path

from weakclip.errors import ConfigError
from weakclip.store.files import expand_home

SHIPPED = Path(__file__).parents[1] / "configs"


def shipped_configs() -> list[str]:
    """Names of the configurations inside the package."""
    return sorted(path.stem for path in SHIPPED.glob("*.yaml"))


def config_path(source: str | Path) -> Path:
    """The file that `source` names: a path, or the bare name of a shipped configuration.

    Raises:
        ConfigError: neither.
    """
    path = expand_home(source)
    if path.is_file():
        return path
    if str(source) in shipped_configs():
        return SHIPPED / f"{source}.yaml"
    raise ConfigError(f"{source}: no such file, and no shipped configuration; those are {', '.join(shipped_configs())}")
