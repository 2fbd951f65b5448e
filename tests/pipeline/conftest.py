"""A run small enough for a test: a tiny CLIP with random weights, eight drawn images, four steps."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from damage import Commands
from object_store import LOGIN
from PIL import Image

from weakclip.config import load_config
from weakclip.pipeline import run_pipeline
from weakclip.store import remote


@pytest.fixture
def config_file(tiny_settings: Callable[..., dict[str, Any]], tmp_path: Path) -> Path:
    """The tiny run as a YAML file."""
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(tiny_settings()))
    return path


@pytest.fixture
def ran(config_file: Path, kept: Path, tmp_path: Path) -> Path:
    """A copy, times included, of the folder of the finished tiny run."""
    if not (kept / "run").exists():
        run_pipeline(load_config(config_file), kept / "run.part")
        (kept / "run.part").rename(kept / "run")
    return Path(shutil.copytree(kept / "run", tmp_path / "run"))


@pytest.fixture(scope="session")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    """Real `weakclip` commands in processes of their own."""
    server = Commands(tmp_path_factory.mktemp("commands"))
    yield server
    server.close()


@pytest.fixture
def kept_config(tiny_settings: Callable[..., dict[str, Any]], kept: Path) -> Path:
    """The tiny run as a YAML file that several tests share."""
    path = kept / "tiny.yaml"
    path.write_text(yaml.safe_dump(tiny_settings()))
    return path


@pytest.fixture
def undisturbed(commands: Commands, kept_config: Path, kept: Path) -> Path:
    """The folder of the tiny run that nobody disturbed; to be read only."""
    return commands.whole(kept_config, kept / "undisturbed")


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    """Eight pictures of noise and their labels, in files."""
    root = tmp_path / "data"
    (root / "images").mkdir(parents=True)
    rows = ["image,labels"]
    for number in range(8):
        noise = np.random.default_rng(number).integers(0, 256, (40, 56, 3), dtype=np.uint8)
        Image.fromarray(noise).save(root / "images" / f"n{number}.png")
        rows.append(f"n{number}.png,{'cat' if number % 2 else 'dog'}")
    (root / "labels.csv").write_text("\n".join(rows) + "\n")
    return root


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The address of an S3-compatible store on this machine."""
    moto = pytest.importorskip("moto.server")
    running = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    yield "http://{}:{}".format(*running.get_host_and_port())
    running.stop()


@pytest.fixture
def store(server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The store, where this machine is logged in, with an empty bucket."""
    for name, value in zip(LOGIN, ("me", "very-secret", "us-east-1", server), strict=True):
        monkeypatch.setenv(name, value)
    s3fs = pytest.importorskip("s3fs")
    monkeypatch.setattr(remote, "WAITS", (0.0, 0.0))
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    remote._filesystem.cache_clear()
    s3fs.S3FileSystem.clear_instance_cache()
    store = s3fs.S3FileSystem()
    store.mkdir("my-runs")
    yield store
    store.rm("my-runs", recursive=True)
    remote._filesystem.cache_clear()
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture
def on(call: Callable[..., int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., int]:
    """The command line on a machine of a name: with a cache of its own."""

    def run(machine: str, *words: str | Path) -> int:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / machine))
        return call(*words)

    return run


class SmallDisk:
    """A file system in memory, of a size that can be changed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def mount(self, options: str) -> bool:
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(self.folder)]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    def remount(self, options: str) -> None:
        assert self.mount(f"remount,{options}")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """A disk of 64 KiB; skips where this user may not mount."""
    disk = SmallDisk(tmp_path / "disk")
    disk.folder.mkdir()
    if not disk.mount("size=64k"):
        pytest.skip("a full disk is tried on a tmpfs, which this user may not mount")
    yield disk
    subprocess.run(["umount", "-l", str(disk.folder)], check=True)
