"""The cost study at toy size: counts and memory are told, measurements are kept, both sides really train."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch

from weakclip.clip import load_clip
from weakclip.datasets.classes import ClassSet
from weakclip.errors import ConfigError, RunError
from weakclip.modeling import ModelSettings
from weakclip.modeling.train import LossSettings
from weakclip.study import cost
from weakclip.study.cost import CostSettings, Measurement, measure, study_cost
from weakclip.study.cost_pages import cost_chart, cost_table, summarize
from weakclip.study.cost_sides import AffinityNetSide, WeakCLIPSide, drawn_batch

SETTINGS = CostSettings(crop=32, num_classes=3, batch_size=2, steps=1, repetitions=2)
AFFINITY = AffinityNetSide(widths=(4, 4, 4, 8, 8, 8, 8), reductions=(4, 4, 4))


@pytest.fixture
def weakclip_side(clip_folder: Path) -> WeakCLIPSide:
    model = ModelSettings(prompt_length=1, co_attention_width=8, co_attention_heads=2, decoder_channels=8)
    classes = ClassSet.from_foreground(["cat", "dog"])
    return WeakCLIPSide(class_set=classes, clip=str(clip_folder), model=model, loss=LossSettings(size=8))


@pytest.mark.parametrize("name", ["WeakCLIP", "AffinityNet"])
def test_a_step_changes_everything_that_trains(weakclip_side: WeakCLIPSide, name: str) -> None:
    side = weakclip_side if name == "WeakCLIP" else AFFINITY
    training = side.build(torch.device("cpu"))
    batch = drawn_batch(2, 32, 3, torch.device("cpu"))
    training.loss(training.model, batch)["loss"].backward()
    silent = [
        each
        for each, parameter in training.model.named_parameters()
        if parameter.requires_grad and (parameter.grad is None or not parameter.grad.abs().sum() > 0)
    ]
    assert not silent
    grouped = [parameter for group in training.optimizer.param_groups for parameter in group["params"]]
    assert len(grouped) == len([each for each in training.model.parameters() if each.requires_grad])


def test_measurement_counts_parameters_and_memory(clip_folder: Path, weakclip_side: WeakCLIPSide) -> None:
    found = measure(weakclip_side, SETTINGS)
    frozen = sum(parameter.numel() for parameter in load_clip(clip_folder).parameters())
    assert found.total_parameters == frozen + found.trained_parameters
    assert found.peak_bytes >= found.before_bytes > 0
    assert len(found.seconds) == len(found.cpu_seconds) == 1


def test_bfloat16_works(weakclip_side: WeakCLIPSide) -> None:
    for side in (weakclip_side, AFFINITY):
        assert measure(side, CostSettings(crop=32, num_classes=3, steps=1, precision="bf16")).seconds


def test_study_takes_turns_in_fresh_processes_and_goes_on_where_it_stopped(
    weakclip_side: WeakCLIPSide, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    fresh = cost._in_fresh_process

    def counted(side: WeakCLIPSide, settings: CostSettings) -> Measurement:
        calls.append(side.name)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return fresh(side, settings) if len(calls) == 1 else measure(side, settings)

    monkeypatch.setattr(cost, "_in_fresh_process", counted)
    with pytest.raises(KeyboardInterrupt):
        study_cost(tmp_path / "study", [weakclip_side, AFFINITY], SETTINGS)
    found = study_cost(tmp_path / "study", [weakclip_side, AFFINITY], SETTINGS)
    assert calls == ["WeakCLIP", AFFINITY.name, AFFINITY.name, "WeakCLIP", AFFINITY.name]
    assert [each.side for each in found] == ["WeakCLIP", AFFINITY.name] * 2
    record = json.loads((tmp_path / "study/study.json").read_text())
    assert {"processor", "cores", "threads", "torch"} <= set(record["key"]["settings"]["machine"])
    assert len(record["measurements"]) == 4
    assert "AffinityNet" in (tmp_path / "study/table.md").read_text()
    ElementTree.parse(tmp_path / "study/study.svg")
    with pytest.raises(RunError, match="something else"):
        study_cost(tmp_path / "study", [weakclip_side, AFFINITY], CostSettings(crop=64, num_classes=3))
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/thesis.txt").write_text("precious")
    with pytest.raises(RunError, match="is not empty and no study"):
        study_cost(tmp_path / "thesis", [AFFINITY], SETTINGS)


def test_table_is_made_of_medians() -> None:
    numbers = {"before_bytes": 2**20, "total_parameters": 200, "trained_parameters": 25}
    fast = Measurement(side="a", seconds=(1.0, 2.0, 9.0), cpu_seconds=(2.0,), peak_bytes=3 * 2**20, **numbers)
    slow = Measurement(side="b", seconds=(8.0,), cpu_seconds=(6.0,), peak_bytes=5 * 2**20, **numbers)
    first, second = summarize([fast, slow], batch_size=2)
    assert first.rate == 1.0
    assert second.rate == 0.25
    table = cost_table([fast, slow], 2, "a note")
    for row in ("| speed, as a multiple | 4.00 | 1.00 |", "| the same in processor time | 3.00 | 1.00 |"):
        assert row in table
    assert "| peak memory, as a share | 60.0% | 100.0% |" in table
    assert "25 (12.5%)" in table
    ElementTree.fromstring(cost_chart([fast, slow], 2))


def test_a_device_that_is_not_there_is_one_line(tmp_path: Path, weakclip_side: WeakCLIPSide) -> None:
    with pytest.raises(ConfigError, match="device: 'nonsense' cannot be used"):
        study_cost(tmp_path / "study", [weakclip_side], dataclasses.replace(SETTINGS, device="nonsense"))
    assert not (tmp_path / "study").exists()
