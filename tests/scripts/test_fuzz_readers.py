"""The fuzzer of the readers: its seeds are read, random damage to them is refused, and atheris finds nothing anew."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from by_path import load_script

SCRIPT = Path(__file__).parents[2] / "scripts" / "fuzz_readers.py"
FUZZER = load_script("scripts/fuzz_readers.py")


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """A file of which some bytes are changed, some are cut out, and some are there twice."""
    data = bytearray(content)
    for _ in range(int(rng.integers(1, 6))):
        at = int(rng.integers(0, len(data) + 1))
        length = int(rng.integers(1, 9))
        match int(rng.integers(0, 4)):
            case 0:
                data[at : at + length] = rng.bytes(length)
            case 1:
                del data[at : at + length]
            case 2:
                data[at:at] = data[at : at + length]
            case _:
                data[at : at + 4] = b"\xff\xff\xff\x7f"
    return bytes(data)


@pytest.mark.parametrize("name", FUZZER.TARGETS)
def test_damaged_files_are_read_or_refused_in_one_line(tmp_path: Path, name: str) -> None:
    """Random damage that is the same in every run; it needs no atheris."""
    target, rng = FUZZER.TARGETS[name], np.random.default_rng(0)
    seeds = target.seeds()
    for content in (b"", *seeds):
        FUZZER.attempt(target, content, tmp_path)
    for number in range(100):
        FUZZER.attempt(target, damaged(seeds[number % len(seeds)], rng), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", FUZZER.TARGETS)
def test_the_fuzzer_finds_nothing(tmp_path: Path, name: str) -> None:
    """Twenty seconds of every reader; atheris is no dependency of the package."""
    if importlib.util.find_spec("atheris") is None:
        pytest.skip("atheris is not installed; see scripts/fuzz_readers.py")
    command = [sys.executable, str(SCRIPT), name, "--seconds", "20", "--findings", str(tmp_path / "findings")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=250)
    assert done.returncode == 0, done.stderr[-4000:]
    assert list((tmp_path / "findings").iterdir()) == []
