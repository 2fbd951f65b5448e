"""Rates of the parts of a run on a machine: a JSON file that `weakclip plan` reads and `--measure` writes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from weakclip.config import RunConfig
from weakclip.errors import ConfigError
from weakclip.store.files import write_json
from weakclip.store.keys import ResultKey, result_settings
from weakclip.store.untrusted_text import parse_json

FREE = (".steps", ".warmup_steps", ".step")
"""Endings of settings that change how much there is to do, and no rate."""


@dataclass(frozen=True, kw_only=True)
class Rates:
    """The costs of the parts of a run, each measured by itself.

    Args:
        settings: the record of the settings that they were measured with.
        machine: processor, versions.
        device: kind of the torch device, such as "cpu".
        cores: usable by the process that measured.
        train_images: of the configuration's training split.
        val_images: of its validation split, where that has true masks.
        seconds: part → seconds. `decode`, `*.crf`, `*.write`, `*.regions` (reading its proposals) and `checkpoint`: of
            one core, an image (a checkpoint); `*.network`: of the device, an image; `*.step` and `*.image`: of the
            device, a training step and each image of its batch; `*.shared.step` and `*.shared.image`: the same in one
            of two processes, for each image of its part, with all that it does for the other and waits for it;
            `*.refine`: PAR on the device, in place of `*.crf`. Where the device is a CPU, its seconds are those of one
            core, too.
        bytes: part → bytes on disk: `image`, the file of an image; `mask`; `strip`; `proposal`; `*.checkpoint`;
            `*.gradients`.
        unknown: stage → why it has no rate.
    """

    settings: Mapping[str, Any]
    machine: Mapping[str, Any]
    device: str
    cores: int
    train_images: int
    val_images: int
    seconds: Mapping[str, float]
    bytes: Mapping[str, float]
    unknown: Mapping[str, str] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        """Write the file, whole or not at all."""
        write_json(path, dataclasses.asdict(self))

    def check(self, config: RunConfig, path: Path) -> None:
        """Refuse rates of other settings.

        Raises:
            ConfigError: they are; the settings that differ are named.
        """
        key = rate_key(config)
        if self.settings.get("key") != key.digest:
            words = "; ".join(key.differences(self.settings)[:3])
            raise ConfigError(f"{path}: measured with other settings ({words}); measure again with --measure")


def rate_key(config: RunConfig) -> ResultKey:
    """The settings that rates depend on: all but the images, the random seed and the numbers of steps."""
    settings = result_settings(config)
    kept = {name: value for name, value in settings.items() if not name.startswith("data.") and name != "seed"}
    return ResultKey(settings={name: value for name, value in kept.items() if not name.endswith(FREE)})


def read_rates(path: Path) -> Rates:
    """Read a file of rates.

    Raises:
        ConfigError: no such file, or another kind of file.
    """
    how = f"measure them: weakclip plan CONFIG --measure --rates {path}"
    if not path.is_file():
        raise ConfigError(f"{path}: no such file, so no rate is known; {how}")
    try:
        found = parse_json(path.read_text(encoding="utf-8"))
        rates = Rates(**{entry.name: found[entry.name] for entry in dataclasses.fields(Rates)})
        numbers = [*rates.seconds.values(), *rates.bytes.values(), rates.cores, rates.train_images, rates.val_images]
        if not all(isinstance(number, int | float) and 0 <= number < 1e18 for number in numbers):
            raise ValueError("a rate that is no number from 0 on")
        dict(rates.settings), dict(rates.unknown)
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path}: no file of rates ({type(error).__name__}: {error}); {how}") from None
    return rates
