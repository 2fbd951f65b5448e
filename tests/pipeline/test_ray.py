"""Ray Data as an engine, on a cluster of two CPUs in processes of this machine: the files of one process.

The cluster is told of an accelerator that is not there: makers on "auto" take it, and compute on the CPU.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import signal
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import fsspec
import pytest
import yaml
from folders import bytes_in

from weakclip.errors import BrokenFileError, ConfigError
from weakclip.store.files import atomic_write
from weakclip.store.jobs import Steps, work_through
from weakclip.store.outputs import mirrored
from weakclip.store.ray_engine import on_ray

ray = pytest.importorskip("ray")

TIMED = re.compile(r"^files\.json$|(mctformer|affinitynet)/(log\.jsonl|tensorboard)")
"""What a training writes of seconds, and the list of files, which has names of that kind."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """Ray's processes, which the commands find; they know the functions of this file by their code."""
    from ray import cloudpickle

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_AUTH_MODE", "disabled")  # else a token is written into the home folder
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        cloudpickle.register_pickle_by_value(sys.modules[__name__])
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        ray.init("local", num_cpus=2, num_gpus=1, include_dashboard=False, _node_ip_address="127.0.0.1", **quiet)
        yield
        ray.shutdown()


def numbers_in(folder: Path, deadly: Collection[int], device: str) -> Steps[int, Any, Any]:
    """Work whose result is a file a number, which names the processes; -1 cannot be read. A process dies of a
    deadly number, the first time."""

    def meet(number: int, kind: str) -> None:
        met = folder / f"met-{number}-{kind}"
        if number in deadly and not met.exists():
            met.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    def read(number: int) -> tuple[int, str]:
        meet(number, "read")
        if number == -1:
            raise BrokenFileError(f"{number}: below 0")
        return number, str(os.getpid())

    def make(numbers: Iterable[tuple[int, str]]) -> Iterator[tuple[int, list[str]]]:
        for number, reader in numbers:
            meet(number, "make")
            yield number, [reader, str(os.getpid()), device]

    def finish(made: tuple[int, list[str]]) -> None:
        number, words = made
        meet(number, "finish")
        with atomic_write(folder / f"{number}.txt", "w") as file:
            file.write(" ".join([*words, str(os.getpid())]))

    return Steps(read, make, finish, "cpu")


def work_on(numbers: Sequence[int], folder: Path, deadly: Collection[int] = ()) -> int:
    steps = numbers_in(folder, (), "here")
    with on_ray("auto"):
        return work_through(
            numbers,
            is_done=lambda number: (folder / f"{number}.txt").is_file(),
            make=steps.from_items,
            finish=steps.finish,
            description="numbers",
            again=partial(numbers_in, folder, deadly),
        )


@pytest.mark.usefixtures("cluster")
def test_a_killed_process_costs_a_retry_and_what_is_done_stays(tmp_path: Path) -> None:
    kept = tmp_path / "5.txt"
    kept.write_text("of an earlier call")
    assert work_on(range(100), tmp_path, deadly=(5, 70)) == 99
    assert {path.name for path in tmp_path.glob("met-*")} == {f"met-70-{part}" for part in ("read", "make", "finish")}
    assert kept.read_text() == "of an earlier call"
    assert len(list(tmp_path.glob("*.txt"))) == 100
    for number in (0, 70, 99):
        reader, maker, device, finisher = (tmp_path / f"{number}.txt").read_text().split()
        assert device == "auto" and maker not in (reader, finisher)
    with pytest.raises(BrokenFileError, match=r"^-1: below 0$"):
        work_on([*range(100), -1], tmp_path)


@pytest.mark.usefixtures("cluster")
def test_stages_end_with_the_files_of_one_process(
    call: Callable[..., int], config_file: Path, ran: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert call("seeds", config_file, "--out", out, "--engine", "ray") == 0
    assert bytes_in(out / "1_seeds") == bytes_in(ran / "1_seeds")

    shutil.copytree(ran, out, dirs_exist_ok=True)
    manifest = json.loads((out / "manifest.json").read_text())
    manifest["stages"]["pseudo_masks"]["done"] = False
    (out / "manifest.json").write_text(json.dumps(manifest))
    parts = [out / "3_pseudo_masks" / name for name in ("masks", "strips", "statistics.jsonl", "metrics.json")]
    kept = sorted(parts[0].iterdir())[0]
    before = kept.stat().st_mtime_ns
    for path in (*sorted(parts[0].iterdir())[1:], *parts[2:]):
        path.unlink()
    shutil.rmtree(parts[1])
    assert call("pseudo-masks", config_file, "--out", out, "--engine", "ray", "--set", "device=auto") == 0
    assert kept.stat().st_mtime_ns == before
    for part in ("masks", "strips"):
        assert bytes_in(out / "3_pseudo_masks" / part) == bytes_in(ran / "3_pseudo_masks" / part)
    lines, expected = ((run / "3_pseudo_masks/statistics.jsonl").read_text().splitlines() for run in (out, ran))
    assert len(lines) == len(expected) and lines[1:] == expected[1:], "the kept mask's line has no network's figures"


@pytest.mark.usefixtures("cluster")
def test_predictions_and_the_images_that_cannot_be_read_are_those_of_one_process(
    call: Callable[..., int], ran: Path, image_folder: Path, tmp_path: Path
) -> None:
    images = image_folder / "images"
    (images / "torn.png").write_bytes((images / "n3.png").read_bytes()[:900])
    codes = [
        call("predict", ran, images, "--out", tmp_path / out, "--also", "overlays", *words)
        for out, words in (("one", ()), ("ray", ("--engine", "ray")))
    ]
    assert codes == [1, 1]
    assert bytes_in(tmp_path / "ray") == bytes_in(tmp_path / "one")


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_a_broken_image_of_the_data_is_the_same_line(
    call: Callable[..., int],
    tiny_settings: Callable[..., dict[str, Any]],
    image_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config, torn = tmp_path / "folder.yaml", image_folder / "images/n3.png"
    config.write_text(yaml.safe_dump(tiny_settings(dataset="folder", root=str(image_folder), val_split=None)))
    torn.write_bytes(torn.read_bytes()[:900])
    said = []
    for out, words in (("one", ()), ("ray", ("--engine", "ray"))):
        assert call("seeds", config, "--out", tmp_path / out, *words) == 2
        said.append(capsys.readouterr().err.splitlines()[-1].replace(str(tmp_path / out), "OUT"))
    assert said[0] == said[1] and "n3.png" in said[0]


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize("learned", ["mctformer", "affinity"])
def test_seeds_that_are_learned_are_learned_once(
    call: Callable[..., int], tiny_settings: Callable[..., dict[str, Any]], tmp_path: Path, learned: str
) -> None:
    train = {"steps": 2, "batch_size": 2}
    small = {"patch_size": 8, "width": 16, "depth": 2, "heads": 2}
    mctformer = {"from_scratch": True, "model": small, "train": train, "augment": {"crop_size": 48}}
    widths = {"widths": [4, 4, 8, 8, 16, 16, 32], "reductions": [4, 4, 8], "radius": 3}
    affinity = {**widths, "from_scratch": True, "train": train, "augment": {"crop_size": 64}, "walk": {"log_steps": 3}}
    seeds = {"mctformer": {"method": "mctformer", "mctformer": mctformer}, "affinity": {"affinity": affinity}}
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump({**tiny_settings(), "seeds": seeds[learned]}))
    assert call("seeds", config, "--out", tmp_path / "one") == 0
    assert call("seeds", config, "--out", tmp_path / "ray", "--engine", "ray") == 0
    made = [bytes_in(tmp_path / out / "1_seeds") for out in ("one", "ray")]
    assert [sum("tfevents" in name for name in each) for each in made] == [1, 1], "one training, no second start"
    one, other = ({name: each[name] for name in each if not TIMED.search(name)} for each in made)
    assert other == one


@pytest.mark.parametrize("words", [("--shard", "0/2"), ("--devices", "2")])
def test_ray_stands_beside_no_other_sharing(
    call: Callable[..., int], config_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str]
) -> None:
    assert call("seeds", config_file, "--out", tmp_path / "out", "--engine", "ray", *words) == 2
    assert capsys.readouterr().err == (
        "weakclip: --engine ray: Ray itself shares the work; leave out --shard, --devices and torchrun\n"
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("cluster")
def test_a_cluster_makes_no_results_for_a_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of its machines would write to a disk of its own."""
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with (
        pytest.raises(ConfigError, match=r"--engine ray: memory://of-ray/x: a cluster writes to a folder that its"),
        mirrored("memory://of-ray/x") as folder,
    ):
        work_on([1], folder)
    fsspec.filesystem("memory").store.clear()


def test_without_ray_the_line_says_how_to_install_it(
    call: Callable[..., int],
    config_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert call("pseudo-masks", config_file, "--out", tmp_path, "--engine", "ray") == 2
    said = "weakclip: --engine ray: Ray is not installed; pip install 'weakclip[ray]'\n"
    assert capsys.readouterr().err == said
