"""`weakclip predict` in shards and in several processes: the files of one process, byte for byte."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from folders import bytes_in


@pytest.fixture
def predict(call: Callable[..., int], trained_run: Path, photos: Path, tmp_path: Path) -> Callable[..., int]:
    """The exit code of the command on the photos, of which one cannot be read: `predict("folder", *options)`."""

    def run(out: str, *words: str | Path) -> int:
        return call("predict", trained_run, photos, "--out", tmp_path / out, "--set", "device=cpu", *words)

    return run


def test_shards_end_with_the_files_of_one_process(
    predict: Callable[..., int], call: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, overlays = tmp_path / "out", ("--also", "overlays")
    assert predict("one", *overlays) == 1
    assert [predict("out", *overlays, "--shard", shard) for shard in ("2/3", "0/3")] == [1, 0]
    assert "next, when all are there: weakclip merge" in capsys.readouterr().out
    assert call("merge", out) == 2
    assert "predicting: images are missing: of shard 1/3 2 (a.png, d); run these shards" in capsys.readouterr().err
    (out / "json/b/c.json").unlink()  # as a kill leaves it
    assert [predict("out", *overlays, "--shard", shard) for shard in ("1/3", "0/3")] == [0, 0]
    assert call("merge", out) == 1
    assert "5 done before, 1 failed" in capsys.readouterr().out
    assert bytes_in(out) == bytes_in(tmp_path / "one")
    assert predict("out", "--also", "coco-masks") == predict("one", "--also", "coco-masks") == 1
    assert bytes_in(out) == bytes_in(tmp_path / "one")


def test_two_processes_end_with_the_files_of_one(predict: Callable[..., int], tmp_path: Path) -> None:
    words = ("--also", "overlays", "--also", "coco-masks")
    assert predict("one", *words) == predict("two", *words, "--devices", "2") == 1
    assert bytes_in(tmp_path / "two") == bytes_in(tmp_path / "one")


def test_what_shards_do_not_make_is_said(
    predict: Callable[..., int], call: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict("out", "--shard", "0/2", "--also", "coco-masks") == 2
    assert "without --shard when all shards are there" in capsys.readouterr().err
    assert predict("out", "--shard", "2/2") == 2
    assert "--shard: 0/2 to 1/2 expected" in capsys.readouterr().err
    assert predict("out", "--shard", "0/2", "--devices", "2") == 2
    assert not (tmp_path / "out").exists()
