"""Never lose work: runs that are killed, interrupted or started twice end as an undisturbed run does."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from damage import Command, Commands, broken_files, results, strays

from weakclip.pipeline.stages import STAGES
from weakclip.training.checkpoint import load_checkpoint

MAIN = ("seeds", "train", "pseudo_masks", "retrain", "evaluate")


def seconds(folder: Path, stage: str) -> float:
    return float(json.loads((folder / "manifest.json").read_text())["stages"][stage]["seconds"])


def kill_in(command: Command, stage: str, delay: float) -> bool:
    """Kill the command some time after it began a stage; False if it ended without it."""
    if not command.until(f"{stage}: {STAGES[stage].purpose}"):
        assert command.wait() == 0, command.said()
        return False
    time.sleep(delay)
    return command.kill() == -signal.SIGKILL


def test_run_killed_in_every_stage_ends_as_if_undisturbed(
    commands: Commands, kept_config: Path, undisturbed: Path, tmp_path: Path
) -> None:
    out, chance = tmp_path / "run", random.Random(0)
    command = commands.start("run", kept_config, "--out", out)
    time.sleep(0.2)  # while it plans
    command.kill()
    for stage in MAIN:
        kill_in(commands.start("run", kept_config, "--out", out), stage, chance.uniform(0, seconds(undisturbed, stage)))
        assert broken_files(out) == []
    last = commands.run("run", kept_config, "--out", out)
    assert last.code == 0, last.said()
    assert results(out) == results(undisturbed)
    assert broken_files(out) == strays(out) == []


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("stage", MAIN)
def test_twenty_kills_and_more_in_every_stage(
    stage: str, commands: Commands, kept_config: Path, undisturbed: Path, tmp_path: Path
) -> None:
    before = tmp_path / "before"
    for earlier in MAIN[: MAIN.index(stage)]:
        assert commands.run(earlier.replace("_", "-"), kept_config, "--out", before).code == 0
    expected, chance, kills, starts = results(undisturbed), random.Random(stage), 0, 0
    while kills < 21:
        out, starts = tmp_path / f"run{starts}", starts + 1
        if before.exists():
            shutil.copytree(before, out)
        for _ in range(6):
            delay = chance.uniform(0, 1.2 * seconds(undisturbed, stage))
            killed = kill_in(commands.start("run", kept_config, "--out", out), stage, delay)
            assert broken_files(out) == []
            kills += killed
            if not killed:
                break
        last = commands.run("run", kept_config, "--out", out)
        assert last.code == 0, last.said()
        assert results(out) == expected
        assert broken_files(out) == strays(out) == []
        shutil.rmtree(out)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_kills_where_the_seeds_are_trained(
    commands: Commands, tiny_settings: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    """The longest seed stage: an MCTformer+, its maps, an AffinityNet on them, and then masks."""
    train = {"steps": 4, "batch_size": 2, "warmup_steps": 1, "checkpoint_every": 2, "log_every": 1}
    augment = {"crop_size": 64, "max_class_share": 1.0}
    model = {"patch_size": 16, "width": 16, "depth": 3, "heads": 2}
    mctformer = {"model": model, "train": train, "augment": {"crop_size": 64}}
    affinity = {"widths": [4, 4, 8, 8, 16, 16, 32], "reductions": [4, 4, 8], "radius": 3, "train": train}
    seeds = {"method": "mctformer", "mctformer": mctformer, "affinity": {**affinity, "augment": augment}}
    config, whole, out, chance = tmp_path / "c.yaml", tmp_path / "whole", tmp_path / "run", random.Random(1)
    config.write_text(yaml.safe_dump({**tiny_settings(), "seeds": seeds}))
    assert commands.run("seeds", config, "--out", whole).code == 0
    kills = 0
    while kills < 20:
        command = commands.start("seeds", config, "--out", out)
        killed = kill_in(command, "seeds", chance.uniform(0, 0.6 * seconds(whole, "seeds")))
        assert broken_files(out) == []
        kills += killed
        if not killed:
            assert results(out) == results(whole)
            shutil.rmtree(out)
    assert commands.run("seeds", config, "--out", out).code == 0
    assert results(out) == results(whole)


LONGER = ("--set", "train.steps=30", "--set", "train.checkpoint_every=1000")


@pytest.fixture
def seeded(undisturbed: Path, tmp_path: Path) -> Path:
    """A folder in which the seeds are done and the training is not."""
    out = tmp_path / "run"
    shutil.copytree(undisturbed, out, ignore=shutil.ignore_patterns("[2-5]_*", "report.html"))
    return out


@pytest.fixture
def trained(commands: Commands, kept_config: Path, seeded: Path, kept: Path) -> Path:
    """That folder after a training that nobody disturbed; to be read only."""
    if not (kept / "trained").exists():
        part = Path(shutil.copytree(seeded, kept / "trained.part", dirs_exist_ok=True))
        assert commands.run("train", kept_config, "--out", part, *LONGER).code == 0
        part.rename(kept / "trained")
    return kept / "trained"


def begin_training(commands: Commands, config: Path, out: Path, *more: str) -> Command:
    """Start `weakclip train` and wait until some steps are done."""
    log = out / "2_train" / "log.jsonl"
    before = log.read_text().count("\n") if log.exists() else 0
    command, end = commands.start("train", config, "--out", out, *LONGER, *more), time.monotonic() + 60
    while not log.exists() or log.read_text().count("\n") < before + 2:
        assert command.alive() and time.monotonic() < end, command.said()
        time.sleep(0.005)
    return command


def test_signals_save_and_exit_as_the_shell_expects(
    commands: Commands, kept_config: Path, seeded: Path, trained: Path
) -> None:
    for number, code in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
        command = begin_training(commands, kept_config, seeded)
        command.signal(number)
        assert command.wait() == code, command.said()
        assert command.said().rstrip().endswith("the same command continues")
        assert 2 <= load_checkpoint(seeded / "2_train/checkpoint.safetensors").step <= 30
        assert broken_files(seeded) == strays(seeded) == []
    assert commands.run("train", kept_config, "--out", seeded, *LONGER).code == 0
    assert results(seeded) == results(trained)


def test_signals_outside_of_a_training_clear_up_too(commands: Commands, kept_config: Path, tmp_path: Path) -> None:
    command = commands.start("run", kept_config, "--out", tmp_path / "run")
    command.until("loading CLIP")
    command.signal(signal.SIGTERM)
    assert command.wait() == 143
    assert strays(tmp_path) == []


def test_temporary_files_of_the_dead_are_swept_up_and_those_of_the_living_stay(
    commands: Commands, kept_config: Path, undisturbed: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    shutil.copytree(undisturbed, out)
    dead = commands.run("config", "demo").pid
    living = os.getpid()
    for folder in (out, out / "1_seeds", out / "3_pseudo_masks/masks"):
        for pid in (dead, living):
            (folder / f".report.html.{pid}.x1.tmp").write_text("torn")
    (out / f".network.{dead}.x1.tmp").mkdir()
    assert commands.run("run", kept_config, "--out", out).code == 0
    assert len(strays(out)) == 3
    assert all(f".{living}." in name for name in strays(out))


def test_second_run_is_refused_and_reading_is_not(
    commands: Commands, kept_config: Path, undisturbed: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    first = commands.start("run", kept_config, "--out", out)
    assert first.until(f"train: {STAGES['train'].purpose}")
    first.signal(signal.SIGSTOP)
    second = commands.run("run", kept_config, "--out", out)
    assert second.code == 2
    (line,) = second.said().splitlines()
    assert f"process {first.pid} on {socket.gethostname()} works here since" in line
    assert line.endswith("wait until it ends, stop it, or choose another folder")
    done = commands.run("seeds", kept_config, "--out", out)
    assert done.code == 0 and "what was asked for is done already" in done.said()
    assert commands.run("report", out).code == 0
    first.kill()
    third = commands.run("run", kept_config, "--out", out)
    assert third.code == 0
    assert f"the process {first.pid} on {socket.gethostname()} was cut short here" in third.said()
    assert results(out) == results(undisturbed)
    assert strays(out) == []


def test_a_redo_that_was_killed_is_named_by_the_next_command_until_it_is_finished(
    commands: Commands, kept_config: Path, undisturbed: Path, tmp_path: Path
) -> None:
    """New seeds lie beside older masks then: nobody takes them for one run."""
    out = tmp_path / "run"
    shutil.copytree(undisturbed, out)
    assert "do not belong together" not in commands.run("report", out).said()
    redo = commands.start("run", kept_config, "--out", out, "--redo", "--set", "seeds.gradcam.box_threshold=0.7")
    assert redo.until(f"train: {STAGES['train'].purpose}")
    redo.kill()
    said = (
        f"{out}: results that do not belong together: 2_train is being made again and not finished; 3_pseudo_masks, "
        f"4_retrain, 5_evaluate are made of earlier results than are there now; `weakclip run {out}/config.yaml --out "
        f"{out} --redo` goes on"
    )
    photos = undisturbed / "5_evaluate/pictures"
    predict, export = ("predict", out, photos), ("export", "masks", out, "--format", "coco")
    for command in (("report", out), (*predict, "--out", tmp_path / "p"), (*export, "--out", tmp_path / "m.json")):
        assert said in commands.run(*command).said()
    refused = commands.run("score", "masks", out)
    assert refused.code == 2
    assert "its pseudo_masks were made of earlier results than are there now" in refused.said()
    assert commands.run("score", "seeds", out).code == 0
    assert "box_threshold" in commands.run("run", kept_config, "--out", out).said()
    finished = commands.run("run", out / "config.yaml", "--out", out, "--redo")
    assert finished.code == 0 and "do not belong together" not in finished.said()
    assert "do not belong together" not in commands.run("report", out).said()


@pytest.mark.slow
def test_of_many_at_once_one_works(commands: Commands, kept_config: Path, undisturbed: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    started = [commands.start("run", kept_config, "--out", out) for _ in range(5)]
    codes = sorted(command.wait() for command in started)
    assert codes[0] == 0 and set(codes) <= {0, 2}
    assert results(out) == results(undisturbed)
    assert broken_files(out) == strays(out) == []


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_orphaned_data_workers_do_not_hold_the_folder_and_their_number_does_not_count(
    commands: Commands, kept_config: Path, seeded: Path, trained: Path
) -> None:
    command = begin_training(commands, kept_config, seeded, "--set", "train.workers=2")
    workers = children(command.pid)
    for worker in workers:
        os.kill(worker, signal.SIGSTOP)
    command.kill()
    try:
        assert workers
        assert commands.run("train", kept_config, "--out", seeded, *LONGER).code == 0
    finally:
        for worker in workers:
            os.kill(worker, signal.SIGKILL)
    assert results(seeded) == results(trained)


def test_killed_data_worker_is_one_line_and_costs_nothing(
    commands: Commands, kept_config: Path, seeded: Path, trained: Path
) -> None:
    command = begin_training(commands, kept_config, seeded, "--set", "train.workers=2")
    os.kill(children(command.pid)[0], signal.SIGKILL)
    assert command.wait() == 2, command.said()
    assert "a process that loads data has died" in command.said()
    assert "Traceback" not in command.said()
    assert commands.run("train", kept_config, "--out", seeded, *LONGER).code == 0
    assert results(seeded) == results(trained)
