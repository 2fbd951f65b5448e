from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from weakclip.errors import WeightsError
from weakclip.training.checkpoint import (
    Checkpoint,
    copy_tensors,
    load_checkpoint,
    optimizer_tensors,
    restore_optimizer,
    save_checkpoint,
    trained_tensors,
)


def _model() -> nn.Sequential:
    frozen = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).requires_grad_(False)
    return nn.Sequential(frozen, nn.Conv2d(4, 2, 1), nn.BatchNorm2d(2))


def test_only_what_is_trained_is_kept():
    names = set(trained_tensors(_model()))
    statistics = {"2.running_mean", "2.running_var", "2.num_batches_tracked"}
    assert names == {"1.weight", "1.bias", "2.weight", "2.bias", *statistics}


def test_round_trip(tmp_path: Path):
    model = _model()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], fused=True)
    names = {parameter: name for name, parameter in model.named_parameters()}
    model(torch.randn(2, 3, 4, 4)).square().mean().backward()
    optimizer.step()
    groups = {
        "model": trained_tensors(model),
        "average": {},
        "optimizer": optimizer_tensors(optimizer, names),
        "log": {"count": torch.tensor(1.0)},
    }
    save_checkpoint(tmp_path / "c.safetensors", Checkpoint(7, groups, {"seed": 1}))
    found = load_checkpoint(tmp_path / "c.safetensors")
    assert (found.step, found.settings) == (7, {"seed": 1})
    other = _model()
    copy_tensors(found.tensors["model"], trained_tensors(other), "c")
    for name, tensor in trained_tensors(model).items():
        assert torch.equal(tensor, trained_tensors(other)[name])
    second = torch.optim.AdamW([p for p in other.parameters() if p.requires_grad], fused=True)
    restore_optimizer(second, {p: name for name, p in other.named_parameters()}, found.tensors["optimizer"])
    for before, after in zip(optimizer.state.values(), second.state.values(), strict=True):
        assert all(torch.equal(before[key], after[key]) for key in before)


def test_a_file_that_is_cut_short_or_foreign_is_named(tmp_path: Path):
    path = tmp_path / "c.safetensors"
    save_checkpoint(path, Checkpoint(1, {"model": {"w": torch.ones(9)}}, {}))
    whole = path.read_bytes()
    for broken in (b"", whole[:20], whole[:-3], b"\x80\x04pickle" * 9):
        path.write_bytes(broken)
        with pytest.raises(WeightsError, match=r"c\.safetensors: broken checkpoint"):
            load_checkpoint(path)
    path.write_bytes(safetensors.torch.save({"w": torch.ones(2)}))
    with pytest.raises(WeightsError, match=r"c\.safetensors: not a checkpoint"):
        load_checkpoint(path)


@pytest.mark.parametrize("source", [{"w": torch.ones(2)}, {"w": torch.ones(3), "v": torch.ones(1)}, {}])
def test_a_checkpoint_of_another_model_is_refused(source: dict[str, torch.Tensor]):
    target = torch.zeros(3)
    with pytest.raises(WeightsError, match="another model"):
        copy_tensors(source, {"w": target}, "c.safetensors")
    assert not target.any()
