"""Shared fixtures: the device, a tiny CLIP with random weights, a tiny run's settings; no network, one torch thread."""

from __future__ import annotations

import functools
import logging
import os
import random
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers is imported

import numpy as np
import pytest
import torch
import typer.main
import typer.testing
from PIL import Image
from squares import Squares
from transformers import CLIPConfig, CLIPModel

from weakclip.clip import FrozenCLIP
from weakclip.clip.vocabulary import tokenizer_from_merges
from weakclip.datasets.classes import VOC12
from weakclip.datasets.images import write_mask

DEFAULT_FIXTURES = Path(__file__).parents[2] / "shared" / "fixtures"
WHOLE_JOBS = (
    # commands and workers that are killed, that find the disk full, or that share their work
    "pipeline/test_devices.py", "pipeline/test_disk.py", "pipeline/test_kill.py", "pipeline/test_shards.py",
    "prediction/test_shards.py", "training/test_workers.py",
    # browsers, Ray, a store on the net
    "pipeline/test_cloud.py", "pipeline/test_cloud_files.py", "pipeline/test_cloud_out.py", "pipeline/test_ray.py",
    "report/test_browser.py", "review/test_browser.py",
    # many runs, one after the other
    "pipeline/test_affinity_seeds.py", "pipeline/test_families.py", "pipeline/test_region_bank.py",
    "pipeline/test_snapshots.py", "study/test_cost_study.py", "study/test_variant_studies.py",
    # what the documents tell the reader to do
    "test_contributing.py", "test_data_page.py", "test_examples.py", "test_folders_walk.py", "test_predict_page.py",
    "test_tutorial.py",
    # programs beside the package, its demo CLIP on all images, random input
    "benchmarks/", "clip/test_demo.py", "fuzz/", "scripts/",
)  # fmt: skip
"""What `make test-whole` runs and `make test` does not."""
_connect = socket.socket.connect


@pytest.hookimpl(tryfirst=True)  # before `-m` is looked at
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if f"/{item.path.as_posix()}".rpartition("/tests/")[2].startswith(WHOLE_JOBS):
            item.add_marker("whole")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", default="cpu", help="where tests that take `device` run, e.g. cpu or cuda")


@pytest.fixture
def device(request: pytest.FixtureRequest) -> torch.device:
    """The device asked for with `--device`."""
    return torch.device(request.config.getoption("--device"))


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Small tensors are fastest on one thread, and results do not depend on the machine's cores."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def interruptible() -> None:
    """SIGINT is an interrupt too where the tests run in the background of a shell, which has it ignored there."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def no_power_cut() -> Iterator[None]:
    """Files of tests outlive killed processes, and no loss of power: nothing waits for the disk."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def one_command_line() -> Iterator[None]:
    """typer reads the signatures of all commands once, and not at each of hundreds of calls."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(typer.main, "get_command", functools.cache(typer.main.get_command))
        patch.setattr(typer.testing, "_get_command", typer.main.get_command, raising=False)
        yield


@pytest.fixture(autouse=True)
def same_numbers() -> None:
    """Every test starts from the same random state, so that what fails once fails again."""
    random.seed(0)
    np.random.seed(0)
    seed = torch.manual_seed if torch.accelerator.is_available() else torch.default_generator.manual_seed
    seed(0)  # of every device; without one, each call of `torch.manual_seed` keeps a stack for the day that there is


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections leave this machine in no test; sockets between processes of this machine work."""

    def refuse(self: socket.socket, address: Any) -> None:
        local = self.family == socket.AF_UNIX or address[0] in ("127.0.0.1", "::1", "localhost")
        if not local:
            raise OSError(f"tests have no network; tried {address}")
        _connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture(autouse=True)
def log_levels() -> Iterator[None]:
    """The levels that a command sets end with the test: what a later one finds in the log depends on no other."""
    loggers = [logging.getLogger(name) for name in ("weakclip", "huggingface_hub")]
    levels = [logger.level for logger in loggers]
    yield
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """The command line in this process: `call("run", "demo", …)` is its exit code."""
    from weakclip import cli

    def run(*arguments: str | Path) -> int:
        monkeypatch.setattr(sys, "argv", ["weakclip", *map(str, arguments)])
        try:
            cli.main()
        except SystemExit as stop:
            return int(stop.code or 0)
        return 0

    return run


@pytest.fixture(scope="session")
def shared_fixtures() -> Path:
    """Folder of the parity fixtures: `WEAKCLIP_FIXTURES`, or `shared/fixtures` beside the repository."""
    folder = Path(os.environ.get("WEAKCLIP_FIXTURES", DEFAULT_FIXTURES))
    if not folder.is_dir():
        pytest.skip(f"no parity fixtures at {folder}; name their folder with WEAKCLIP_FIXTURES")
    return folder


@pytest.fixture(scope="session")
def cases() -> Path:
    """Files that other programs wrote: `WEAKCLIP_CASES`, or `shared/cases` beside the repository."""
    folder = Path(os.environ.get("WEAKCLIP_CASES", Path(__file__).parents[2] / "shared" / "cases"))
    if not folder.is_dir():
        pytest.skip(f"no files of others at {folder}; name their folder with WEAKCLIP_CASES")
    return folder


def _tiny_model(patch_size: int, layers: int, image_size: int) -> CLIPModel:
    tower = {"num_attention_heads": 2, "projection_dim": 16}
    tokens = len(tokenizer_from_merges([]))
    vision = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": layers,
        "image_size": image_size,
        "patch_size": patch_size,
    }
    text = {
        "hidden_size": 24,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "vocab_size": tokens,
        "bos_token_id": tokens - 2,
        "eos_token_id": tokens - 1,
        "pad_token_id": tokens - 1,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = CLIPModel(CLIPConfig(vision_config=tower | vision, text_config=tower | text, projection_dim=16))
        for name, parameter in model.named_parameters():  # larger than CLIP's start, so that differences show
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.2 if "embedding" not in name else 0.5)
    return model


@pytest.fixture
def make_tiny_clip() -> Callable[..., FrozenCLIP]:
    """Builder of tiny CLIPs: `make_tiny_clip(patch_size=8, layers=4, image_size=32, tap_layers=None)`.

    E = 16, D = 32, C = 24. The tokenizer knows every byte, so that any text has tokens. Equal sizes, equal weights.
    """

    def make(
        *, patch_size: int = 8, layers: int = 4, image_size: int = 32, tap_layers: tuple[int, ...] | None = None
    ) -> FrozenCLIP:
        model = _tiny_model(patch_size, layers, image_size)
        return FrozenCLIP(model, tokenizer_from_merges([]), source="tiny", tap_layers=tap_layers)

    return make


@pytest.fixture
def tiny_clip(make_tiny_clip: Callable[..., FrozenCLIP], device: torch.device) -> FrozenCLIP:
    """A tiny CLIP with random weights: patch 8, 4 layers, learned on 32 x 32 images."""
    return make_tiny_clip().to(device)


@pytest.fixture(scope="session")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for what several tests start from."""
    return tmp_path_factory.mktemp("kept")


@pytest.fixture
def clip_folder(make_tiny_clip: Callable[..., FrozenCLIP], kept: Path) -> Path:
    """The tiny CLIP in transformers' format."""
    folder = kept / "clip"
    if not folder.exists():
        clip = make_tiny_clip()
        clip.model.save_pretrained(folder)
        clip.tokenizer.save_pretrained(folder)
    return folder


def _settings(clip_folder: Path, **data: Any) -> dict[str, Any]:
    """Nested settings of a run of some seconds, the same numbers on every CPU; `data` replaces the Scenes."""
    inference = {"scales": [1.0], "flip": False, "crop": 64, "stride": 64}
    steps = {"steps": 4, "warmup_steps": 1, "checkpoint_every": 2, "log_every": 1}
    train = {**steps, "batch_size": 2, "precision": "fp32"}
    return {
        "data": data or {"dataset": "scenes", "train_limit": 6, "val_limit": 3, "scene_size": 64},
        "clip": {"source": str(clip_folder)},
        "model": {
            "co_attention_width": 8,
            "co_attention_heads": 2,
            "co_attention_layers": 1,
            "decoder_channels": 8,
        },
        "augment": {"crop_size": 64},
        "loss": {"size": 16},
        "train": train,
        "pseudo_masks": {"inference": inference},
        "retrain": {"model": "small", "train": train, "augment": {"crop_size": 64}},
        "evaluate": {"inference": inference, "pictures": 2},
        "device": "cpu",
    }


@pytest.fixture
def tiny_settings(clip_folder: Path) -> Callable[..., dict[str, Any]]:
    """Builder of nested settings: `tiny_settings(dataset="folder", root=…)`; Scenes where nothing is given."""
    return functools.partial(_settings, clip_folder)


@pytest.fixture
def voc_root(tmp_path: Path) -> Path:
    """A VOC2012 folder in which nothing is wrong but its size: three photos of train, two of val, two of test.

    Photo number `n` shows class `n` in its left half, is 12 pixels wide and `8 + n` high, and has a column of 255.
    """
    root = tmp_path / "VOCdevkit" / "VOC2012"
    for folder in ("JPEGImages", "ImageSets/Segmentation", "Annotations"):
        (root / folder).mkdir(parents=True)
    names = [f"2007_{number:06d}" for number in range(1, 8)]
    for number, name in enumerate(names, 1):
        noise = np.random.default_rng(number).integers(0, 256, (8 + number, 12, 3), dtype=np.uint8)
        Image.fromarray(noise).save(root / "JPEGImages" / f"{name}.jpg")
        if number > 5:
            continue
        mask = np.zeros((8 + number, 12), np.uint8)
        mask[:, :6], mask[:, 6] = number, 255
        write_mask(root / "SegmentationClass" / f"{name}.png", mask, VOC12.palette)
        label = f"<annotation><object><name>{VOC12.names[number]}</name></object></annotation>"
        (root / "Annotations" / f"{name}.xml").write_text(label)
    for split, listed in (("train", names[:3]), ("train_aug", names[:3]), ("val", names[3:5]), ("test", names[5:])):
        (root / "ImageSets" / "Segmentation" / f"{split}.txt").write_text("\n".join(listed) + "\n")
    return root


@pytest.fixture
def squares() -> Squares:
    return Squares()


@pytest.fixture
def seed_folder(squares: Squares, tmp_path: Path) -> Path:
    """Seed masks: the truth, with 255 in every third row."""
    for index, name in enumerate(squares.names):
        mask = squares.truth(index)
        mask[::3] = 255
        write_mask(tmp_path / "seeds" / f"{name}.png", mask, squares.class_set.palette)
    return tmp_path / "seeds"
