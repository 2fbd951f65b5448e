"""Drawn images as files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from weakclip.datasets.images import write_png
from weakclip.datasets.scenes import ScenesDataset


@pytest.fixture
def make_scenes(tmp_path: Path) -> Callable[[int], Path]:
    """Writer of the first images of Scenes val: `make_scenes(5)` is their folder."""

    def make(count: int) -> Path:
        dataset = ScenesDataset("val", count=count)
        for index, name in enumerate(dataset.names):
            write_png(tmp_path / f"scenes/{name}.png", dataset.image(index))
        return tmp_path / "scenes"

    return make
