"""The scripts in examples/ run as they are."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pytest

from weakclip.classes import ClassSet
from weakclip.images import read_mask, write_png
from weakclip.segmenter import SMALL, build_segmenter, save_segmenter

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture
def arguments(tmp_path: Path) -> dict[str, list[str]]:
    """What each script is called with."""
    save_segmenter(build_segmenter(SMALL, ClassSet.from_foreground(["cat", "dog"])), tmp_path / "network")
    write_png(tmp_path / "photo.png", np.random.default_rng(0).integers(0, 256, (45, 67, 3), dtype=np.uint8))
    crf = [str(tmp_path / name) for name in ("network", "photo.png", "mask.png")]
    return {"own_dataset": [], "own_clip": ["demo"], "crf_of_any_network": crf}


def test_every_example_is_tested(arguments: dict[str, list[str]]) -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(arguments)


@pytest.mark.parametrize("name", ["own_dataset", "own_clip", "crf_of_any_network"])
def test_an_example_runs(
    name: str,
    arguments: dict[str, list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sys.argv", [name, *arguments[name]])
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    said = capsys.readouterr().out
    expected = {
        "own_dataset": "batch (3, 3, 64, 64)",
        "own_clip": "logits (1, 4, 48, 64)",
        "crf_of_any_network": "of the pixels changed their class",
    }
    assert expected[name] in said
    if name == "crf_of_any_network":
        mask = read_mask(tmp_path / "mask.png")
        assert mask.shape == (45, 67) and mask.max() < 3
