"""Runs whose folder is in an S3-compatible store, a real server on this machine: as in a folder, on any machine."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from damage import Commands, results
from object_store import LOGIN, at_the_url

URL = "s3://my-runs/of mine/tiny"


def test_a_run_that_is_killed_goes_on_from_its_url_on_another_machine(
    commands: Commands, kept_config: Path, undisturbed: Path, store: Any, tmp_path: Path
) -> None:
    login = {name: os.environ[name] for name in LOGIN}
    one, two = ({**login, "XDG_CACHE_HOME": str(tmp_path / machine)} for machine in ("one", "two"))
    command = commands.start("run", kept_config, "--out", URL, environment=one)
    assert command.until("pseudo_masks: pixel masks")
    while not store.glob(f"{URL}/3_pseudo_masks/masks/*.png"):
        time.sleep(0.01)
        store.invalidate_cache()
    assert command.kill() == -signal.SIGKILL
    last = commands.run("run", kept_config, "--out", URL, environment=two)
    assert last.code == 0, last.said()
    assert "seeds: done already" in last.said() and "train: done already" in last.said()
    assert f"report: {URL}/report.html" in last.said() and str(tmp_path) not in last.said()
    found = at_the_url(store, URL)
    for name, content in found.items():
        (tmp_path / "found" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "found" / name).write_bytes(content)
    assert results(tmp_path / "found") == results(undisturbed)
    names = {path.relative_to(undisturbed).as_posix() for path in undisturbed.rglob("*") if path.is_file()}
    whole = {name for name in names if "/tensorboard/" not in name} | {".weakclip.writer"}  # those have times as names
    assert {name for name in found if "/tensorboard/" not in name} == whole
    assert not any(str(tmp_path).encode() in content for content in found.values())


def test_shards_on_machines_of_their_own_are_merged_at_the_url(
    on: Callable[..., int], kept_config: Path, undisturbed: Path, store: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    for shard in ("0/2", "1/2"):
        assert on(shard[0], "seeds", kept_config, "--out", URL, "--shard", shard) == 0
    assert f"{URL}: the shard is there; next, when all are there: weakclip merge '{URL}'" in capsys.readouterr().out
    assert on("2", "merge", URL) == 0
    capsys.readouterr()
    assert on("3", "seeds", kept_config, "--out", URL, "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["folder"], said["report"], said["skipped"]) == (URL, f"{URL}/report.html", ["seeds"])
    assert said["stage_folders"] == {"seeds": f"{URL}/1_seeds"}
    found = at_the_url(store, URL)
    made = {path: path.relative_to(undisturbed).as_posix() for path in (undisturbed / "1_seeds").rglob("*")}
    assert {found.pop(name) == path.read_bytes() for path, name in made.items() if path.is_file()} == {True}
    assert not any(name.startswith("1_seeds") for name in found)
    assert on("4", "report", URL) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"{URL}/report.html"
    assert on("4", "seeds", kept_config, "--out", URL, "--shard", "0/2", "--set", "data.train_limit=5", "--redo") == 2
    assert "shards replace no result at a URL" in capsys.readouterr().err


def test_what_is_wrong_is_one_line(
    call: Callable[..., int], kept_config: Path, store: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    for out, words in {
        "s3://no-such-bucket/x": "s3://no-such-bucket/x: no such bucket; make it, or correct the address",
        "s3://me:word@my-runs/x": "--out: the address s3://…@my-runs/x holds a password",
        "https://127.0.0.1:9/x": "https://127.0.0.1:9/x",
    }.items():
        assert call("seeds", kept_config, "--out", out) == 2
        assert f"weakclip: {words}" in capsys.readouterr().err
    assert call("report", "s3://my-runs/nothing") == 2
    assert "weakclip: s3://my-runs/nothing: not a run folder (no manifest.json)" in capsys.readouterr().err
