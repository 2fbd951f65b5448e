"""Cases of the parity tests: of the fixtures' folder, and made by an oracle; and how numbers are compared.

Layout of a system's folder `WEAKCLIP_FIXTURES/<system>`: `config.json` with `expected.safetensors` and the checkpoint
beside it. `config.json` is one case (an object), or a list of cases, each with its name under `case`; the tensors of
case0 are then `case0.<name>`, and a file of its own lies in the folder `case0`. A system may have several folders, each
laid out so: all of `<system>*`. Whatever a test needs to know of sizes it reads from the configuration.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

FIXTURES = Path(os.environ.get("WEAKCLIP_FIXTURES", Path(__file__).parents[3] / "shared" / "fixtures"))
TOLERANCE = 1e-4
"""Of the largest magnitude."""


@dataclass(frozen=True)
class Case:
    """One configuration, its expected tensors as they are stored, and where its files lie."""

    name: str
    folder: Path
    config: dict[str, Any]
    tensors: dict[str, Tensor]

    def file(self, pattern: str) -> Path:
        """The case's own file, or else the one that the cases of the folder share."""
        for folder in (self.folder / self.name, self.folder):
            found = sorted(folder.glob(pattern))
            if found:
                return found[0]
        raise FileNotFoundError(f"{self.folder}: no {pattern} for {self.name}")


def read_cases(folder: Path) -> list[Case]:
    """All cases of one folder."""
    content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    stored = load_file(folder / "expected.safetensors")
    if isinstance(content, dict):
        return [Case(folder.name, folder, content, stored)]
    return [
        Case(
            config["case"],
            folder,
            config,
            {name.removeprefix(prefix): value for name, value in stored.items() if name.startswith(prefix)},
        )
        for config in content
        for prefix in [f"{config['case']}."]
    ]


def write_case(folder: Path, config: dict[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """One case as a folder of the fixtures' layout."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    save_file({name: value.contiguous() for name, value in tensors.items()}, folder / "expected.safetensors")


def case_params(system: str, made: Mapping[str, Callable[[Path], None]]) -> list[Any]:
    """Parameters for a fixture: functions from a temporary folder to a `Case`.

    Args:
        system: name of the folder.
        made: name of a case -> function that writes it as a folder.
    """
    given: list[Any] = []
    for folder in sorted(FIXTURES.glob(f"{system}*")):
        if (folder / "config.json").is_file():
            given += [pytest.param(lambda _, case=case: case, id=case.name) for case in read_cases(folder)]
    if not given:
        reason = f"no {system} fixtures in {FIXTURES}; name their folder with WEAKCLIP_FIXTURES"
        given = [pytest.param(None, id="given", marks=pytest.mark.skip(reason=reason))]

    def maker(name: str, write: Callable[[Path], None]) -> Callable[[Path], Case]:
        def make(folder: Path) -> Case:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(sum(map(ord, name)))
                write(folder / name)
            return read_cases(folder / name)[0]

        return make

    return given + [pytest.param(maker(name, write), id=f"made-{name}") for name, write in made.items()]


def assert_parity(found: Tensor, expected: Tensor, tolerance: float = TOLERANCE) -> None:
    """Equal to within `tolerance` of the largest magnitude, and within the rounding of the type that is stored.

    A scalar may be stored as a tensor of one number.
    """
    if expected.numel() == found.numel() == 1:
        found = found.reshape(expected.shape)
    assert found.shape == expected.shape
    stored = expected.double()
    half = expected.dtype in (torch.float16, torch.bfloat16)
    limit = tolerance + (torch.finfo(expected.dtype).eps / 2 if half else 0.0)
    assert (found.double() - stored).abs().max() <= limit * stored.abs().max()


def as_float(tensors: Mapping[str, Tensor], name: str) -> Tensor:
    """An input in float32, whatever type it is stored in."""
    return tensors[name].float()
