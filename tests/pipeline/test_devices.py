"""Several processes: they end with the results of one, take over from one and hand over to one, and die in one line."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from damage import Command, Commands, broken_files, results, strays

from weakclip.config import load_config
from weakclip.pipeline.context import RunContext
from weakclip.store.share import sharing
from weakclip.training.processes import Processes

STEPS = 24


@pytest.fixture
def config(tiny_settings: Callable[..., dict[str, Any]], kept: Path) -> Path:
    """The tiny run with a longer training, without the random numbers of dropout.

    By SGD: AdamW's first steps are the signs of gradients, and rounding turns the sign of one that is nearly 0.
    """
    settings = tiny_settings()
    settings["model"]["dropout"] = 0.0
    settings["train"] = {**settings["train"], "steps": STEPS, "optimizer": "sgd", "learning_rate": 1e-4}
    settings["retrain"] = {"model": None}
    path = kept / "devices.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


@pytest.fixture
def by_one(commands: Commands, config: Path, kept: Path) -> Path:
    """The folder of the run that one process did; to be read only."""
    return commands.whole(config, kept / "by_one")


def log(run: Path) -> list[dict[str, float]]:
    """The lines of the training's log, without times."""
    lines = (run / "2_train/log.jsonl").read_text().splitlines()
    return [{name: value for name, value in json.loads(line).items() if name != "images_per_second"} for line in lines]


def steps_done(run: Path) -> int:
    path = run / "2_train/log.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


def begin(commands: Commands, *argv: str | Path, out: Path) -> Command:
    """Start a run, and wait until some steps of its training are done."""
    before = steps_done(out)
    command, end = commands.start("run", *argv, "--out", out), time.monotonic() + 60
    while steps_done(out) < before + 2:
        assert command.alive() and time.monotonic() < end, command.said()
        time.sleep(0.01)
    return command


def ranks(command: Command) -> list[int]:
    """The processes that the launcher started: each leads a group of its own."""
    files = Path(f"/proc/{command.pid}/task").glob("*/children")
    return sorted(int(pid) for file in files for pid in file.read_text().split() if os.getpgid(int(pid)) == int(pid))


def check_same(out: Path, by_one: Path) -> None:
    """Whether the training went as in one process: seeds byte for byte, every loss to 1e-5.

    The norm of the gradient depends on the kernels that the processor has for a batch of one and of two: with and
    without oneDNN it differs by 5e-5 of itself in the first step, in one process.
    """
    for part in ("masks", "dense"):
        for path in (by_one / "1_seeds" / part).iterdir():
            assert (out / "1_seeds" / part / path.name).read_bytes() == path.read_bytes()
    assert (out / "1_seeds/log.jsonl").read_bytes() == (by_one / "1_seeds/log.jsonl").read_bytes()
    assert len(log(out)) == STEPS
    for own, expected in zip(log(out), log(by_one), strict=True):
        assert own.pop("gradient_norm") == pytest.approx(expected.pop("gradient_norm"), rel=1e-3), own
        assert own == pytest.approx(expected, rel=1e-5, abs=1e-5), own
    assert broken_files(out) == strays(out) == []


@pytest.mark.parametrize("rank", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_a_process_that_dies_ends_the_run_in_one_line_and_one_process_finishes_it(
    rank: int, commands: Commands, config: Path, by_one: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    command = begin(commands, config, "--devices", "2", out=out)
    pids = ranks(command)
    assert len(pids) == 2
    os.kill(pids[rank], signal.SIGKILL)
    assert command.wait() == 2, command.said()
    (line,) = [line for line in command.said().splitlines() if line.startswith("weakclip: ")]
    assert "of 2 (number " in line and "has died (signal SIGKILL)" in line
    assert "Traceback" not in command.said()
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    assert steps_done(out) < STEPS
    done = commands.run("run", config, "--out", out)
    assert done.code == 0, done.said()
    check_same(out, by_one)


def test_a_run_that_one_process_began_is_finished_by_two(
    commands: Commands, config: Path, by_one: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    command = begin(commands, config, out=out)
    command.signal(signal.SIGTERM)
    assert command.wait() == 143, command.said()
    again = begin(commands, config, "--devices", "2", out=out)
    again.signal(signal.SIGTERM)
    assert again.wait() == 143, again.said()
    assert again.said().endswith("weakclip: terminated; the same command continues\n")
    done = commands.run("run", config, "--out", out, "--devices", "2")
    assert done.code == 0, done.said()
    check_same(out, by_one)


def test_masks_and_scores_of_two_processes_are_those_of_one(
    call: Callable[..., int], config: Path, by_one: Path, tmp_path: Path
) -> None:
    """Of the same network, so that nothing but the sharing may differ."""
    out = Path(shutil.copytree(by_one, tmp_path / "run", ignore=shutil.ignore_patterns("[35]_*")))
    assert call("run", config, "--out", out, "--devices", "2") == 0
    assert results(out) == results(by_one)
    for name in ("3_pseudo_masks/statistics.jsonl", "5_evaluate/statistics.jsonl", "5_evaluate/log.jsonl"):
        assert (out / name).read_bytes() == (by_one / name).read_bytes()
    assert broken_files(out) == strays(out) == []


def test_a_file_that_one_process_cannot_read_is_named_once(
    commands: Commands, image_folder: Path, tmp_path: Path, tiny_settings: Callable[..., Any]
) -> None:
    settings = tiny_settings(dataset="folder", root=str(image_folder), val_split=None)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
    broken = image_folder / "images/n3.png"
    broken.write_bytes(broken.read_bytes()[:-200])
    ended = commands.run("seeds", tmp_path / "config.yaml", "--out", tmp_path / "run", "--devices", "2")
    assert ended.code == 2, ended.said()
    (line,) = [line for line in ended.said().splitlines() if line.startswith("weakclip: ")]
    assert str(broken) in line and "of 8 images 1 cannot be used" in line, ended.said()
    assert "Traceback" not in ended.said()


def test_a_file_that_breaks_during_a_run_is_left_out_by_the_next_command(
    commands: Commands, image_folder: Path, tmp_path: Path, tiny_settings: Callable[..., Any]
) -> None:
    settings = tiny_settings(dataset="folder", root=str(image_folder), val_split=None, on_error="skip")
    settings["retrain"] = {"model": None}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
    run, out = (tmp_path / "config.yaml", "--out", tmp_path / "run", "--devices", "2"), tmp_path / "run"
    assert commands.run("seeds", *run).code == 0
    broken = image_folder / "images/n3.png"
    stat, content = broken.stat(), broken.read_bytes()
    broken.write_bytes(content[:100] + bytes(len(content) - 100))
    os.utime(broken, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # the same size and time: no check sees it
    ended = commands.run("run", *run)
    assert ended.code == 2, ended.said()
    (line,) = [line for line in ended.said().splitlines() if line.startswith("weakclip: ")]
    assert str(broken) in line and "left out from here on: give the same command again, with --redo" in line, (
        ended.said()
    )
    again = commands.run("run", *run, "--redo")  # the seeds of all images are finished
    assert again.code == 0, again.said()
    (entry,) = map(json.loads, (out / "errors.jsonl").read_text().splitlines())
    assert entry["image"] == "n3"
    assert sorted(path.stem for path in (out / "3_pseudo_masks/masks").iterdir()) == [
        f"n{n}" for n in range(8) if n != 3
    ]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--devices", "none"), "--devices: a number from 1 on, or all, expected; found 'none'"),
        (("--devices", "2", "--shard", "0/2"), "leave --devices or --shard out"),
    ],
)
def test_what_cannot_be_shared_is_said(
    options: tuple[str, ...], said: str, call: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("seeds", "demo", "--out", tmp_path / "run", *options) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_each_of_several_processes_works_on_its_own_device(tmp_path: Path) -> None:
    config = load_config("demo", ["device=cpu"])
    with sharing(Processes(1, 2, torch.device("meta", 1))):
        assert RunContext(config, tmp_path).device == "meta:1"
    with sharing(Processes(0, 1, torch.device("meta"))):
        assert RunContext(config, tmp_path).device == "cpu"
