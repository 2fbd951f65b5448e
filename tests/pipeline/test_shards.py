"""A stage in shards: processes that know nothing of each other end with the files of one process."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest
import yaml
from damage import Commands
from folders import bytes_in

from weakclip.config import parse_config
from weakclip.errors import ConfigError
from weakclip.pipeline.shards import run_shard
from weakclip.store.lock import LOCK, START, FolderInUseError, FolderLock, at_work
from weakclip.store.share import Shard

TIMES = ("seconds",)


def record(run: Path, stage: str) -> dict[str, Any]:
    found = json.loads((run / "manifest.json").read_text())["stages"][stage]
    return {name: value for name, value in found.items() if name not in TIMES}


def test_shards_that_run_at_once_end_with_the_files_of_one_process(
    commands: Commands, kept_config: Path, undisturbed: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"

    def start(command: str, shard: str) -> Any:
        return commands.start(command, kept_config, "--out", out, "--shard", shard)

    at_once = [start("seeds", shard) for shard in ("0/3", "2/3")]
    assert [each.wait() for each in at_once] == [0, 0], [each.said() for each in at_once]
    refused = commands.run("merge", out)
    assert refused.code == 2
    assert "seeds: images are missing: of shard 1/3 " in refused.said()
    assert refused.said().count("weakclip: ") == 1, refused.said()
    early = commands.run("train", kept_config, "--out", out)
    assert early.code == 2
    assert "not merged; run `weakclip merge" in early.said()
    again = [start("seeds", shard) for shard in ("1/3", "0/3")]  # one that is there already, too
    assert [each.wait() for each in again] == [0, 0], [each.said() for each in again]
    assert commands.run("merge", out).code == 0
    assert bytes_in(out / "1_seeds") == bytes_in(undisturbed / "1_seeds")
    assert record(out, "seeds") == record(undisturbed, "seeds")

    assert commands.run("train", kept_config, "--out", out).code == 0
    at_once = [start("pseudo-masks", shard) for shard in ("1/2", "0/2")]
    assert [each.wait() for each in at_once] == [0, 0], [each.said() for each in at_once]
    done = commands.run("pseudo-masks", kept_config, "--out", out)  # one process takes over what shards have made
    assert done.code == 0, done.said()
    assert bytes_in(out / "3_pseudo_masks") == bytes_in(undisturbed / "3_pseudo_masks")
    assert record(out, "pseudo_masks") == record(undisturbed, "pseudo_masks")
    nothing = commands.run("merge", out)
    assert nothing.code == 2
    assert "no stage is being made in shards" in nothing.said()


def test_the_first_shard_trains_and_the_others_find_it_done(
    call: Callable[..., int], tiny_settings: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    from weakclip.seeds.mctformer.train import WEIGHTS_FILE

    small = {"patch_size": 8, "width": 16, "depth": 2, "heads": 2}
    train = {"steps": 2, "batch_size": 2}
    settings = tiny_settings()
    mctformer = {"from_scratch": True, "model": small, "train": train, "augment": {"crop_size": 48}}
    settings["seeds"] = {"method": "mctformer", "mctformer": mctformer}
    config, out = tmp_path / "config.yaml", tmp_path / "run"
    config.write_text(yaml.safe_dump(settings))
    assert call("seeds", config, "--out", out, "--shard", "0/2") == 0
    (weights,) = out.rglob(WEIGHTS_FILE)
    first, log = weights.read_bytes(), (weights.parent / "log.jsonl").read_bytes()
    assert call("seeds", config, "--out", out, "--shard", "1/2") == 0
    assert weights.read_bytes() == first
    assert (weights.parent / "log.jsonl").read_bytes() == log
    assert call("merge", out) == 0
    assert call("seeds", config, "--out", tmp_path / "one") == 0
    for part in ("masks", "dense"):
        assert bytes_in(out / "1_seeds" / part) == bytes_in(tmp_path / "one/1_seeds" / part)


def test_shards_and_whole_runs_keep_out_of_each_others_way(tmp_path: Path) -> None:
    with FolderLock(tmp_path, "0-of-2"):
        with FolderLock(tmp_path, "1-of-2"), FolderLock(tmp_path, START):
            assert at_work(tmp_path, but="1-of-2")
        assert not at_work(tmp_path, but="0-of-2")
        with pytest.raises(FolderInUseError, match="works here"):
            FolderLock(tmp_path, "0-of-2").__enter__()
        with pytest.raises(FolderInUseError, match="works here"):
            FolderLock(tmp_path).__enter__()
    with FolderLock(tmp_path), pytest.raises(FolderInUseError, match="works here"):
        FolderLock(tmp_path, "0-of-2").__enter__()
    (tmp_path / f"{LOCK}.0-of-2").write_text('{"pid": 1, "host": "other", "since": "then"}')  # of a dead process
    with FolderLock(tmp_path):
        pass


@pytest.mark.parametrize("learned", ["mctformer", "affinity"])
def test_shards_at_a_url_learn_no_seeds(
    learned: str, tiny_settings: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one folder the others wait for the shard that trains; at a URL each would train for itself."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    seeds = {
        "mctformer": {"method": "mctformer", "mctformer": {"from_scratch": True}},
        "affinity": {"affinity": {"from_scratch": True}},
    }
    config, url = parse_config({**tiny_settings(), "seeds": seeds[learned]}, origin="tiny"), "memory://of-shards/x"
    with pytest.raises(ConfigError, match=f"^{url}: here shards would train, each for itself; leave --shard out"):
        run_shard(config, url, "seeds", Shard(0, 2, tmp_path))
    fsspec.filesystem("memory").store.clear()
