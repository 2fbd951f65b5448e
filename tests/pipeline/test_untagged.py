"""Images that nobody has tagged: left out of a run and listed, unless somebody has drawn their mask."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from weakclip.config import RunConfig, parse_config
from weakclip.datasets.classes import voc_palette
from weakclip.datasets.images import write_mask
from weakclip.errors import DataError
from weakclip.pipeline import run_stage
from weakclip.pipeline.context import RunContext
from weakclip.store.layout import UNTAGGED
from weakclip.store.marks import MARKS


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Four photos; c and d have no labels."""
    (tmp_path / "photos/images").mkdir(parents=True)
    for number, name in enumerate("abcd"):
        noise = np.random.default_rng(number).integers(0, 256, (48, 64, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / f"photos/images/{name}.png")
    (tmp_path / "photos/labels.csv").write_text("image,labels\na,cat\nb,dog\nc,\n")
    return tmp_path / "photos"


@pytest.fixture
def config(tiny_settings: Callable[..., dict[str, Any]], root: Path) -> RunConfig:
    return parse_config(tiny_settings(dataset="folder", root=str(root), val_split=None), origin="test")


def draw(path: Path, *classes: int) -> None:
    mask = np.zeros((48, 64), np.uint8)
    for position, each in enumerate(classes):
        mask[8 * position : 8 * position + 6] = each
    write_mask(path, mask, voc_palette())


def names(run: Path) -> list[str]:
    return sorted(path.stem for path in (run / "1_seeds/masks").glob("*.png"))


def test_they_are_left_out_and_listed(
    config: RunConfig, root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = tmp_path / "run"
    run_stage(config, run, "seeds")
    assert names(run) == ["a", "b"]
    assert (run / UNTAGGED).read_text() == "c\nd\n"
    assert f"2 images have no labels and are left out; {run / UNTAGGED} lists them" in caplog.text
    (root / "labels.csv").write_text("image,labels\na,cat\nb,dog\nc,cat\nd,dog\n")
    run_stage(config, run, "seeds", redo=True)
    assert names(run) == ["a", "b", "c", "d"] and not (run / UNTAGGED).exists()


def test_stop_takes_them_for_a_mistake(tiny_settings: Callable[..., dict[str, Any]], root: Path) -> None:
    data = {"dataset": "folder", "root": str(root), "val_split": None, "untagged": "stop"}
    with pytest.raises(DataError, match=r"c\.png: image without labels"):
        _ = RunContext(parse_config(tiny_settings(**data), origin="test"), root / "run").train


@pytest.mark.parametrize("own", [True, False], ids=["of the run", "of another folder"])
def test_a_verified_mask_is_a_label(
    own: bool, config: RunConfig, tiny_settings: Callable[..., dict[str, Any]], root: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    if own:
        draw(run / "verified/c.png", 1, 2)
    else:
        draw(tmp_path / "drawn/c.png", 1, 2)
        data = {"dataset": "folder", "root": str(root), "val_split": None, "verified": str(tmp_path / "drawn")}
        config = parse_config(tiny_settings(**data), origin="test")
    train = RunContext(config, run).train
    assert train.names == ("a", "b", "c") and train.labels(2) == (1, 2) and train.untagged == ("d",)
    draw((run / "verified" if own else tmp_path / "drawn") / "d.png", 2)
    train = RunContext(config, run).train
    assert train.names == ("a", "b", "c", "d") and train.untagged == ()


def test_a_verified_mask_that_is_marked_bad_is_none(config: RunConfig, tmp_path: Path) -> None:
    """Without it nothing is known of the image: it must not be trained on as background."""
    run = tmp_path / "run"
    draw(run / "verified/c.png", 1)
    draw(run / "verified/a.png", 1)
    marks = [f'{{"image": "{name}", "mark": "bad", "time": "2999-01-01T00:00:00+00:00"}}' for name in "ac"]
    (run / MARKS).write_text("\n".join(marks))
    context = RunContext(config, run)
    assert context.verified.rejected == ("a", "c")
    assert context.train.names == ("a", "b") and context.train.untagged == ("d", "c")


def test_a_limit_counts_tagged_images(tiny_settings: Callable[..., dict[str, Any]], root: Path) -> None:
    (root / "labels.csv").write_text("image,labels\na,\nb,dog\nc,\nd,dog\n")
    data = {"dataset": "folder", "root": str(root), "val_split": None, "train_limit": 2}
    train = RunContext(parse_config(tiny_settings(**data), origin="test"), root / "run").train
    assert train.names == ("b", "d") and train.untagged == ("a", "c")


def test_no_labels_at_all_are_one_line(config: RunConfig, root: Path) -> None:
    (root / "classes.yaml").write_text("names: [cat]\n")
    (root / "labels.csv").write_text("image,labels\na,\n")
    with pytest.raises(DataError, match="none of its 4 images has labels"):
        _ = RunContext(config, root / "run").train
