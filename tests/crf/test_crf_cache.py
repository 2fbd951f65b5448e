"""Machine code on disk is used again, and never after an edit of any file that it was made from."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import weakclip

SCRIPT = """
import numpy as np
from weakclip.crf.cpu.jit import jit
from weakclip.crf.cpu.simd import load, size_of, store
from weakclip.crf.cpu.vector_math import exp

EIGHT = size_of(8)

@jit
def exponentials(values):
    store(values, 0, exp(load(values, 0, EIGHT)))

values = np.ones(8, np.float32)
exponentials(values)
print(values[0], sum(exponentials.stats.cache_hits.values()))
"""


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A folder with a copy of the package's code, and a script whose compiled function calls the copy's `exp`."""
    source = Path(weakclip.__file__).parent
    needed = (source / name for name in ("__init__.py", "errors.py", "store/__init__.py", "store/keys.py"))
    for path in (*needed, *(source / "crf").rglob("*.py")):
        target = tmp_path / "weakclip" / path.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    (tmp_path / "script.py").write_text(SCRIPT)
    return tmp_path


def _run(folder: Path) -> tuple[float, int]:
    """What the script computes as e, and how often it found machine code on disk."""
    environment = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"}
    environment["PYTHONPATH"] = str(folder)
    command = [sys.executable, "script.py"]
    ran = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True)
    value, hits = ran.stdout.split()
    return float(value), int(hits)


def test_an_edit_of_a_leaf_is_seen_though_the_cache_is_warm(copy: Path) -> None:
    """`script.py` does not change: numba itself would go on to use its machine code."""
    assert _run(copy) == (pytest.approx(2.7182817), 0)
    assert _run(copy) == (pytest.approx(2.7182817), 1)
    leaf = copy / "weakclip" / "crf" / "cpu" / "vector_math.py"
    leaf.write_text(leaf.read_text().replace("_HIGHEST = _F(89.0)", "_HIGHEST = _F(0.0)"))
    assert _run(copy) == (1.0, 0)


def test_where_numba_keeps_its_cache_ours_lies(copy: Path) -> None:
    _run(copy)
    kept = list((copy / "__pycache__").rglob("*.nbc"))
    assert kept
    assert all(path.parents[1].name.startswith("dense-crf-") for path in kept)
