"""Inner results that are kept and those that are computed again: the same numbers, and as many bytes as announced."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from weakclip.clip import FrozenCLIP, recomputation
from weakclip.datasets.classes import VOC12
from weakclip.modeling import build_weakclip
from weakclip.modeling.co_attention import CoAttention
from weakclip.modeling.train import LossSettings, WeakCLIPLoss


def kept_bytes(run: Any) -> int:
    """Bytes of all that a graph holds on to, each memory once."""
    found: dict[int, int] = {}
    held: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        held.append(tensor)
        found[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = run()
    del result
    return sum(found.values())


def test_a_step_is_the_same_bit_for_bit_with_and_without_room(
    tiny_clip: FrozenCLIP, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build_weakclip(tiny_clip, VOC12, co_attention_width=16, decoder_channels=8).train()
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (2, 3, 64, 48), dtype=torch.uint8, generator=generator)
    batch = {"image": images, "mask": torch.randint(0, 21, (2, 64, 48), generator=generator)}
    loss = WeakCLIPLoss(LossSettings(size=16, crf=None))
    found, kept = [], []
    for room in (0, 2**40):
        monkeypatch.setattr(recomputation, "ROOM_ON_CPU", room)
        torch.manual_seed(3)  # of dropout
        model.zero_grad()
        parts: list[dict[str, Tensor]] = []
        kept.append(kept_bytes(lambda parts=parts: parts.append(loss(model, batch))))
        total = parts[0]["loss"]
        total.backward()
        found.append([total.detach(), *(p.grad for p in model.parameters() if p.requires_grad)])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
    assert kept[0] < 0.7 * kept[1]


@pytest.mark.parametrize(("width", "patches", "classes"), [(64, 257, 13), (128, 1025, 81)])
def test_what_co_attention_keeps_is_what_it_announces(
    width: int, patches: int, classes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    announced: set[int] = set()
    monkeypatch.setattr(recomputation, "ROOM_ON_CPU", 2**40)
    monkeypatch.setattr(
        "weakclip.modeling.co_attention.run_part",
        lambda *all_, needed: announced.add(needed) or recomputation.run_part(*all_, needed=needed),
    )
    layers = CoAttention(32, width=width, num_layers=3)
    text, image = torch.randn(classes, 32), torch.randn(1, patches, 32)
    weights = sum(parameter.nbytes for parameter in layers.parameters())
    kept = kept_bytes(lambda: layers(text, image)) - weights
    (needed,) = announced
    assert 0.75 * needed < kept < 1.25 * needed


def test_a_device_with_its_own_memory_has_room_by_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    class Properties:
        total_memory = 16 * 2**30

    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: Properties())
    assert recomputation.room(torch.device("cuda:1")) == 2**30
    assert recomputation.room(torch.device("cpu")) == recomputation.ROOM_ON_CPU == 64 * 2**20
    assert recomputation.room(torch.device("meta")) == recomputation.ROOM_ON_CPU
