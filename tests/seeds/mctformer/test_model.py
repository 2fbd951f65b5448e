"""Laws of MCTformer+: classes are interchangeable, images have any size, DeiT's weights land where they belong."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from weakclip.errors import WeightsError
from weakclip.seeds.mctformer.model import Block, MCTformer, rank_pool
from weakclip.seeds.mctformer.storage import load_mctformer, save_mctformer, start_from_deit


def build(num_classes: int = 4, *, image_size: int = 32, heads: int = 2) -> MCTformer:
    model = MCTformer(num_classes, image_size=image_size, patch_size=8, width=16, depth=3, heads=heads)
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1 or "bias" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def deit(side: int = 2, width: int = 16, depth: int = 3) -> dict[str, torch.Tensor]:
    """Random weights with the names of a DeiT whose position table has `side` rows."""
    state = {name: torch.randn_like(value) for name, value in build().state_dict().items() if name.startswith("blocks")}
    state |= {"patch_embed.proj.weight": torch.randn(width, 3, 8, 8), "patch_embed.proj.bias": torch.randn(width)}
    state |= {"cls_token": torch.randn(1, 1, width), "pos_embed": torch.randn(1, 1 + side**2, width)}
    return state | {"norm.weight": torch.ones(width), "norm.bias": torch.ones(width), "head.weight": torch.ones(9, 9)}


@torch.no_grad()
def test_permuting_the_classes_permutes_the_result() -> None:
    model, images, order = build(), torch.rand(2, 3, 24, 40), torch.tensor([2, 0, 1])
    first, found = model(images), model.localize(images)
    for parameter in (model.cls_token, model.pos_embed_cls):
        parameter.copy_(parameter[:, order])
    for parameter in (model.head.weight, model.head.bias):
        parameter.copy_(parameter[order])
    second, permuted = model(images), model.localize(images)
    torch.testing.assert_close(second.class_logits, first.class_logits[:, order])
    torch.testing.assert_close(second.patch_logits, first.patch_logits[:, order])
    torch.testing.assert_close(second.class_tokens, first.class_tokens[:, :, order])
    torch.testing.assert_close(permuted.maps, found.maps[:, order])
    torch.testing.assert_close(permuted.affinity, found.affinity)


@pytest.mark.parametrize(
    ("size", "grid"), [((32, 32), (4, 4)), ((24, 40), (3, 5)), ((16, 64), (2, 8)), ((39, 17), (4, 2))]
)
@pytest.mark.parametrize("num_classes", [2, 5, 21])
def test_images_of_any_size(size: tuple[int, int], grid: tuple[int, int], num_classes: int) -> None:
    model, images = build(num_classes), torch.rand(2, 3, *size)
    found = model.localize(images, attention_layers=2)
    patches = grid[0] * grid[1]
    assert found.maps.shape == (2, num_classes - 1, *grid)
    assert found.affinity.shape == (2, patches, patches)
    assert (found.affinity.sum(dim=-1) < 3).all()  # the class tokens have their share of each of the three layers
    assert model(images).class_tokens.shape == (3, 2, num_classes - 1, 16)


def test_bytes_and_shares_are_the_same_image() -> None:
    model, images = build(), torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8)
    torch.testing.assert_close(model(images).class_logits, model(images / 255).class_logits)


def test_each_image_stands_alone() -> None:
    model, images = build(), torch.rand(3, 3, 32, 32)
    torch.testing.assert_close(model(images).patch_logits[1:2], model(images[1:2]).patch_logits)


def test_rank_pooling_lies_between_maximum_and_mean() -> None:
    maps = torch.randn(2, 3, 5, 7)
    torch.testing.assert_close(rank_pool(maps, 0.0), maps.flatten(2).amax(dim=-1))
    torch.testing.assert_close(rank_pool(maps, 1.0), maps.flatten(2).mean(dim=-1))
    by_hand = []
    for values in maps.flatten(2).flatten(0, 1).tolist():
        ranked = sorted(values, reverse=True)
        by_hand.append(sum(0.9**j * x for j, x in enumerate(ranked)) / sum(0.9**j for j in range(len(ranked))))
    torch.testing.assert_close(rank_pool(maps, 0.9).flatten(), torch.tensor(by_hand))


def test_branches_are_left_out_of_whole_images_in_training_alone() -> None:
    block, tokens = Block(8, 2, drop_path=0.5), torch.randn(4000, 1, 8)
    whole = block.eval()(tokens)[0]
    torch.testing.assert_close(whole, block(tokens)[0])
    thinned = block.train()._thinned(torch.ones(4000, 3, 2))
    assert set(thinned.flatten().tolist()) == {0.0, 2.0}
    assert (thinned == thinned[:, :1, :1]).all()
    assert thinned.mean().item() == pytest.approx(1, abs=0.1)


def test_a_saved_model_is_the_same_model(tmp_path: Path) -> None:
    model, images = build(heads=4), torch.rand(1, 3, 32, 40)
    model.rank_decay = 0.5
    save_mctformer(model, tmp_path / "mctformer.safetensors")
    loaded = load_mctformer(tmp_path / "mctformer.safetensors")
    assert torch.equal(loaded(images).patch_logits, model(images).patch_logits)
    assert not loaded.training
    state = model.state_dict() | {name: getattr(model, name)[:, :2] for name in ("cls_token", "pos_embed_cls")}
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(WeightsError, match=r"does not fit MCTformer\+: head\.bias \(3,\), expected \(2,\), head\.w"):
        load_mctformer(tmp_path / "other.pth", heads=4)


@pytest.mark.parametrize("name", ["deit.pth", "deit.safetensors"])
def test_training_starts_from_deit(tmp_path: Path, name: str) -> None:
    state = deit()
    save_file(state, tmp_path / name) if name.endswith("safetensors") else torch.save({"model": state}, tmp_path / name)
    model = build()
    head = model.head.weight.clone()
    start_from_deit(model, tmp_path / name)
    assert torch.equal(model.cls_token, state["cls_token"].expand(1, 3, 16))
    assert torch.equal(model.pos_embed_cls, state["pos_embed"][:, :1].expand(1, 3, 16))
    table = state["pos_embed"][0, 1:].view(2, 2, 16)
    doubled = table.repeat_interleave(2, dim=0).repeat_interleave(2, dim=1)
    assert torch.equal(model.pos_embed_pat, doubled.reshape(1, 16, 16))
    assert torch.equal(model.blocks[2].attn.qkv.weight, state["blocks.2.attn.qkv.weight"])
    assert torch.equal(model.head.weight, head)


def test_what_is_wrong_with_a_deit_is_told(tmp_path: Path) -> None:
    path, state = tmp_path / "deit.pth", deit()
    with pytest.raises(WeightsError, match=r"deit\.pth: no such file"):
        start_from_deit(build(), path)
    path.write_bytes(b"no weights")
    with pytest.raises(WeightsError, match="not a checkpoint that can be read safely"):
        start_from_deit(build(), path)
    torch.save({"model": {"epoch": 3}}, path)
    with pytest.raises(WeightsError, match="dictionary of tensors"):
        start_from_deit(build(), path)
    torch.save(state | {"pos_embed": torch.zeros(1, 6, 16)}, path)
    with pytest.raises(WeightsError, match="not a DeiT checkpoint"):
        start_from_deit(build(), path)
    del state["blocks.1.norm1.weight"]
    torch.save(state | {"dist_token": torch.zeros(1, 1, 16), "patch_embed.proj.bias": torch.zeros(3)}, path)
    told = r"missing blocks\.1\.norm1\.weight, unexpected dist_token, patch_embed\.proj\.bias \(3,\), expected \(16,\)$"
    with pytest.raises(WeightsError, match=told):
        start_from_deit(build(), path)
    with pytest.raises(WeightsError, match=r"not an MCTformer\+ checkpoint"):
        load_mctformer(path)
