"""`compile`: a compiled training is the same training, its first step is told, and a machine that cannot is told."""

from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path

import pytest
import torch

from weakclip.clip import load_clip
from weakclip.datasets.images import write_mask
from weakclip.datasets.scenes import ScenesDataset
from weakclip.datasets.transforms import AugmentSettings
from weakclip.errors import ConfigError
from weakclip.modeling import build_weakclip
from weakclip.modeling.train import LossSettings, train_weakclip
from weakclip.training.dataset import TrainingPairs
from weakclip.training.settings import TrainSettings

SETTINGS = TrainSettings(
    steps=3, batch_size=2, optimizer="sgd", warmup_steps=0, learning_rate=1e-2, precision="fp32", log_every=1
)


@pytest.fixture
def scenes(tmp_path: Path) -> TrainingPairs:
    dataset = ScenesDataset("train", count=3, size=64)
    for index, name in enumerate(dataset.names):
        write_mask(tmp_path / "masks" / f"{name}.png", dataset.mask(index), dataset.class_set.palette)
    return TrainingPairs(dataset, tmp_path / "masks", AugmentSettings(crop_size=32))


def losses(pairs: TrainingPairs, folder: Path, settings: TrainSettings) -> list[float]:
    """Of every step of a WeakCLIP without dropout."""
    torch.manual_seed(0)
    model = build_weakclip(
        load_clip("demo"),
        pairs.dataset.class_set,
        prompt_length=2,
        co_attention_width=8,
        co_attention_heads=2,
        co_attention_layers=1,
        decoder_channels=8,
        dropout=0.0,
    )
    train_weakclip(model, pairs, folder, settings, loss=LossSettings(size=8, crf=None))
    return [json.loads(line)["loss"] for line in (folder / "log.jsonl").read_text().splitlines()]


def test_a_compiled_training_has_the_same_losses_and_tells_its_first_step(
    scenes: TrainingPairs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The whole network is traced, forward and backward; its kernels are torch's own, which needs no compiler."""
    plain, modes, compile_ = losses(scenes, tmp_path / "plain", SETTINGS), [], torch.compile

    def traced(model: torch.nn.Module, *, mode: str) -> object:
        modes.append(mode)
        return compile_(model, backend="aot_eager")

    monkeypatch.setattr(torch, "compile", traced)
    with caplog.at_level(logging.INFO, "weakclip"):
        compiled = losses(scenes, tmp_path / "compiled", dataclasses.replace(SETTINGS, compile="reduce-overhead"))
    assert compiled == pytest.approx(plain, rel=1e-5)
    assert modes == ["reduce-overhead"]
    (line,) = [record.message for record in caplog.records if record.message.startswith("compile ")]
    assert line.startswith("compile reduce-overhead: the first step took ")


def test_a_machine_that_cannot_compile_says_so_in_one_line(
    scenes: TrainingPairs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_compiler(graph: object, inputs: object) -> object:
        raise RuntimeError("No working C++ compiler found\nin any place")

    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", lambda model, mode: compile_(model, backend=no_compiler))
    with pytest.raises(ConfigError, match=r"^compile: default asked for, .*No working C\+\+ compiler found.*to null$"):
        losses(scenes, tmp_path / "run", dataclasses.replace(SETTINGS, compile="default"))


def test_other_words_are_refused() -> None:
    with pytest.raises(ConfigError, match="compile: null, default, reduce-overhead expected; found 'fast'"):
        TrainSettings(compile="fast")
