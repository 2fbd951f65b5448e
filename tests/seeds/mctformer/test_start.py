"""An MCTformer+ that starts from a CLIP's image tower."""

from __future__ import annotations

import pytest
import torch
from transformers import CLIPConfig, CLIPModel

from weakclip.clip import FrozenCLIP
from weakclip.clip.vocabulary import tokenizer_from_merges
from weakclip.errors import WeightsError
from weakclip.seeds.mctformer.model import MCTformer
from weakclip.seeds.mctformer.start import start_from_clip


@pytest.fixture
def clip():
    """Its layers are as wide as DeiT's: an MLP of 4 times the width."""
    sizes = {"hidden_size": 32, "intermediate_size": 128, "num_hidden_layers": 4, "num_attention_heads": 2}
    vision = sizes | {"image_size": 32, "patch_size": 8}
    model = CLIPModel(CLIPConfig(vision_config=vision, text_config=sizes | {"vocab_size": 514}, projection_dim=16))
    return FrozenCLIP(model, tokenizer_from_merges([]), source="tiny")


def _model(clip, **changed):
    numbers = {"patch_size": 8, "width": 32, "depth": 4, "heads": 2}
    return MCTformer(4, image_size=clip.image_size, **(numbers | changed)).eval()


def test_patches_come_as_clip_makes_them_where_all_have_the_same_spread(clip):
    """CLIP's first norm is then a linear map, and the start equals it."""
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():  # positions of one spread that drown the pixels
        embeddings = clip.model.vision_model.embeddings
        table = torch.nn.functional.layer_norm(torch.randn_like(embeddings.position_embedding.weight), (32,))
        embeddings.position_embedding.weight.copy_(1e4 * table)
        model = _model(clip)
        start_from_clip(model, clip, images)
        ours, grid = model._embed(images)
        theirs, their_grid = clip.embed_image(images)
    assert tuple(grid) == tuple(their_grid)
    difference = (ours[:, 3:] - theirs[:, 1:]).abs().max()
    assert difference < 0.05 * theirs.abs().max()


def test_the_layers_are_those_of_clip(clip):
    model = _model(clip)
    start_from_clip(model, clip, torch.rand(1, 3, 40, 48))
    hidden = torch.randn(2, 9, 32)
    with torch.no_grad():
        for block, source in zip(model.blocks, clip.model.vision_model.encoder.layers, strict=True):
            source.mlp.activation_fn = torch.nn.GELU()
            torch.testing.assert_close(block(hidden)[0], source(hidden, None), rtol=1e-3, atol=1e-3)


def test_class_tokens_differ_from_the_start(clip):
    model = _model(clip)
    start_from_clip(model, clip, torch.rand(1, 3, 32, 32))
    cosine = torch.nn.functional.cosine_similarity(model.cls_token[0, 0], model.cls_token[0, 1], dim=0)
    assert 0.3 < cosine < 0.99


@pytest.mark.parametrize("changed", [{"depth": 3}, {"width": 16}, {"heads": 4}, {"patch_size": 16}])
def test_other_numbers_are_told(clip, changed):
    with pytest.raises(WeightsError, match=r"needs patch_size, width, depth and heads of 8, 32, 4, 2; found"):
        start_from_clip(_model(clip, **changed), clip, torch.rand(1, 3, 32, 32))


def test_a_clip_of_narrow_layers_is_told(tiny_clip):
    with pytest.raises(WeightsError, match="4 times as wide"):
        start_from_clip(_model(tiny_clip), tiny_clip.cpu(), torch.rand(1, 3, 32, 32))
