"""The same weights and inputs give the numbers of the released CLIP-ES."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from weakclip.clip import FrozenCLIP
from weakclip.clip.openai_archive import convert_openai_state
from weakclip.clip.vision import interpolate_positions
from weakclip.clip.vocabulary import tokenizer_from_merges
from weakclip.seeds.boxes import box_mask
from weakclip.seeds.clip_gradcam import GradCAMSettings, grad_cam, refine


def _text_tower(width, embed_dim, vocabulary):
    """The smallest text tower that OpenAI's naming allows; the fixture has text embeddings instead."""
    block = "transformer.resblocks.0."
    shapes = {
        "token_embedding.weight": (vocabulary, width),
        "positional_embedding": (77, width),
        "text_projection": (width, embed_dim),
        "ln_final.weight": (width,),
        "ln_final.bias": (width,),
        f"{block}attn.in_proj_weight": (3 * width, width),
        f"{block}attn.in_proj_bias": (3 * width,),
        f"{block}attn.out_proj.weight": (width, width),
        f"{block}attn.out_proj.bias": (width,),
        f"{block}mlp.c_fc.weight": (4 * width, width),
        f"{block}mlp.c_fc.bias": (4 * width,),
        f"{block}mlp.c_proj.weight": (width, 4 * width),
        f"{block}mlp.c_proj.bias": (width,),
    }
    shapes |= {f"{block}{norm}.{kind}": (width,) for norm in ("ln_1", "ln_2") for kind in ("weight", "bias")}
    return {name: torch.zeros(shape) for name, shape in shapes.items()}


@pytest.fixture
def case(shared_fixtures, monkeypatch):
    """The fixture's CLIP, its configuration, and what the released code computes."""
    folder = shared_fixtures / "clip_es"
    if not folder.is_dir():
        pytest.skip(f"no CLIP-ES fixture at {folder}")
    config = json.loads((folder / "config.json").read_text())
    state = load_file(folder / "openai_clip.safetensors")
    positions = state.pop("visual.positional_embedding_new").float()
    tokenizer = tokenizer_from_merges([])
    state |= _text_tower(config["text_width"], config["embed_dim"], len(tokenizer))
    model = convert_openai_state(state)
    patch = config["vision"]["patch_size"]
    grid = tuple(-(-side // patch) for side in config["image_size"])
    ours = interpolate_positions(state["visual.positional_embedding"].float(), grid, "bilinear")
    torch.testing.assert_close(ours.half().float(), positions)  # the released code rounds them to half precision
    clip = FrozenCLIP(model, tokenizer, pixel_mean=[0] * 3, pixel_std=[1] * 3, source="fixture")
    monkeypatch.setattr(clip, "positions", lambda _: positions)
    return clip, config, load_file(folder / "expected.safetensors")


def _grad_cam(case):
    clip, config, expected = case
    settings = GradCAMSettings(attention_layers=config["attention_layers"])
    texts = expected["foreground_text"], expected["background_text"]
    return grad_cam(clip, expected["image"], *texts, settings)


def test_parity_of_scores_maps_and_attention(case):
    result, expected = _grad_cam(case), case[2]
    torch.testing.assert_close(result.scores, expected["scores"][0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(result.maps, expected["cam"], rtol=1e-5, atol=3e-6)
    torch.testing.assert_close(result.attention, expected["attention"], rtol=1e-5, atol=1e-7)


def test_parity_of_boxes(case):
    _, config, expected = case
    for scores, mask in zip(expected["cam"], expected["box_mask"], strict=True):
        assert (box_mask(scores.numpy(), config["box_threshold"]) == mask.bool().numpy()).all()


def test_parity_of_refined_maps(case):
    _, config, expected = case
    result = _grad_cam(case)
    refined = refine(result.maps, result.attention, config["box_threshold"])
    torch.testing.assert_close(refined, expected["cam_refined"], rtol=1e-5, atol=1e-6)
