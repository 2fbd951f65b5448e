"""Data sets of a Python program in a run: `run_pipeline(dataset=…, val_dataset=…)`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import weakclip
from weakclip.config import RunConfig, dump_config, limit_training, load_config, parse_config
from weakclip.datasets import ImageLabelDataset
from weakclip.datasets.classes import ClassSet
from weakclip.datasets.scenes import ScenesDataset
from weakclip.errors import ConfigError, RunError
from weakclip.pipeline import run_pipeline, run_stage

CLASSES = ClassSet.from_foreground(["cat", "boat"])


class Squares(ImageLabelDataset):
    """Squares on noise, in memory.

    Args:
        split: its name.
        count: how many.
        label: the class of the first image; the others are boats.
        version: what `fingerprint` gives.
        class_set: the classes.
    """

    has_masks = True

    def __init__(
        self, split: str, count: int = 4, *, label: int = 1, version: str = "1", class_set: ClassSet = CLASSES
    ) -> None:
        super().__init__(class_set, split, [f"{split}{number}" for number in range(count)])
        self.label, self.version, self.asked = label, version, 0

    def fingerprint(self) -> str:
        self.asked += 1
        return self.version

    def image(self, index: int) -> np.ndarray:
        image = np.random.default_rng(index).integers(0, 90, (64, 64, 3), dtype=np.uint8)
        image[16:48, 16:48] = (250, 40 * index, 40)
        return image

    def labels(self, index: int) -> tuple[int, ...]:
        return (self.label if index == 0 else 2,)

    def size(self, index: int) -> tuple[int, int]:
        return 64, 64

    def mask(self, index: int) -> np.ndarray:
        mask = np.zeros((64, 64), np.uint8)
        mask[16:48, 16:48] = self.labels(index)[0]
        return mask


@pytest.fixture
def config(tiny_settings: Callable[..., dict[str, Any]]) -> RunConfig:
    return parse_config(tiny_settings(), origin="test")


def test_a_run_on_given_data_sets(config: RunConfig, tmp_path: Path) -> None:
    given = {"dataset": Squares("shelf"), "val_dataset": Squares("table", 2)}
    result = run_pipeline(config, tmp_path, **given)
    assert [each.asked for each in given.values()] == [1, 1], "a fingerprint may read all the data"
    assert {(row.subject, row.split) for row in result.scores} >= {("seeds", "shelf"), ("WeakCLIP", "table")}
    assert len(list((tmp_path / "3_pseudo_masks/masks").glob("shelf*.png"))) == 4
    assert "squares" not in result.report.read_text()
    assert run_pipeline(config, tmp_path, **given).ran == ()
    noted = load_config(tmp_path / "config.yaml")
    assert (noted.data.dataset, noted.data.train_split, noted.data.val_split) == ("own", "shelf", "table")
    assert weakclip.load_predictor(tmp_path)(Squares("x", 1).image(0)).mask.shape == (64, 64)
    with pytest.raises(ConfigError, match=r"run_pipeline\(dataset="):
        run_stage(noted, tmp_path, "seeds")


@pytest.mark.parametrize("other", [Squares("shelf", 5), Squares("shelf", label=2), Squares("shelf", version="2")])
def test_another_data_set_is_a_change(config: RunConfig, tmp_path: Path, other: Squares) -> None:
    run_stage(config, tmp_path, "seeds", dataset=Squares("shelf"))
    with pytest.raises(RunError, match="train images"):
        run_stage(config, tmp_path, "seeds", dataset=other)
    assert run_stage(config, tmp_path, "seeds", dataset=other, redo=True).ran == ("seeds",)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"dataset": [1]}, "dataset: an ImageLabelDataset expected; found list"),
        ({"val_dataset": Squares("a")}, "val_dataset: given without dataset"),
        ({"dataset": Squares("a"), "val_dataset": Squares("a")}, "'a'"),
        ({"dataset": Squares("a"), "val_dataset": ScenesDataset("val", count=1)}, "has the classes"),
    ],
)
def test_what_is_no_data_set(config: RunConfig, tmp_path: Path, given: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        run_pipeline(config, tmp_path, **given)
    assert list(tmp_path.iterdir()) == []


def test_run_takes_a_configuration_or_its_name(config: RunConfig, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(dump_config(limit_training(config, 2)))
    assert weakclip.run(str(tmp_path / "mine.yaml"), tmp_path / "run").ran[0] == "seeds"
    assert weakclip.run(limit_training(config, 2), tmp_path / "run").ran == ()
