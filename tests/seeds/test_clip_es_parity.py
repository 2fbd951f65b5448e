"""The same weights and inputs give the numbers of the released CLIP-ES.

The cases are those of the fixtures, and those that the oracle makes of other sizes
(`tests/reference/oracle_clip_es.py`).
"""

from __future__ import annotations

from functools import partial

import oracle_clip_es as oracle
import pytest
import torch
from parity_cases import Case, as_float, assert_parity, case_params
from safetensors.torch import load_file

from weakclip.clip import FrozenCLIP
from weakclip.clip.openai_archive import convert_openai_state
from weakclip.clip.vision import interpolate_positions
from weakclip.clip.vocabulary import tokenizer_from_merges
from weakclip.seeds.boxes import box_mask
from weakclip.seeds.clip_gradcam import GradCAM, GradCAMSettings, grad_cam
from weakclip.seeds.refinement import refine

Sizes = oracle.Sizes
MADE = {
    "one-label": Sizes(foreground=1, box_threshold=0.0),
    "all-labels": Sizes(foreground=20, background=25, box_threshold=0.7, width=128),
    "deeper-than-the-attention-that-is-averaged": Sizes(layers=6, attention_layers=2, image_size=(112, 48)),
    "one-layer": Sizes(layers=1, grid=7, box_threshold=0.9),
    "grid-of-the-training": Sizes(image_size=(64, 64), grid=4, embed_dim=96),
    "half-precision": Sizes(image_size=(80, 80), attention_layers=3, stored=torch.float16),
}


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


@pytest.fixture(params=case_params("clip_es", {name: partial(oracle.write, sizes) for name, sizes in MADE.items()}))
def case(request, tmp_path) -> Case:
    return request.param(tmp_path)


@pytest.fixture
def clip(case, monkeypatch) -> FrozenCLIP:
    """The case's CLIP, with the positions that the released code stored, where it did: it rounds them to half."""
    state = load_file(case.file("*clip*.safetensors"))
    stored = state.pop("visual.positional_embedding_new", None)
    tokenizer = tokenizer_from_merges([])
    state |= _text_tower(case.config["text_width"], case.config["embed_dim"], len(tokenizer))
    mean, std = [0] * 3, [1] * 3  # the images are normalised already
    model = convert_openai_state(state)
    clip = FrozenCLIP(
        model, tokenizer, pixel_mean=mean, pixel_std=std, source="fixture", position_interpolation="bilinear"
    )
    if stored is not None:
        grid = tuple(-(-side // case.config["vision"]["patch_size"]) for side in case.config["image_size"])
        ours = interpolate_positions(state["visual.positional_embedding"].float(), grid, "bilinear")
        assert_parity(ours, stored)
        monkeypatch.setattr(clip, "positions", lambda _: stored.float())
    return clip


@pytest.fixture
def result(clip, case) -> GradCAM:
    settings = GradCAMSettings(attention_layers=case.config["attention_layers"])
    image, *texts = (as_float(case.tensors, name) for name in ("image", "foreground_text", "background_text"))
    return grad_cam(clip, image, *texts, settings)


def test_parity_of_scores_maps_and_attention(result, case):
    assert_parity(result.scores, case.tensors["scores"][0])
    assert_parity(result.maps, case.tensors["cam"])
    assert_parity(result.attention, case.tensors["attention"])


def test_parity_of_boxes(case):
    for scores, mask in zip(as_float(case.tensors, "cam"), case.tensors["box_mask"], strict=True):
        assert (box_mask(scores.numpy(), case.config["box_threshold"]) == mask.bool().numpy()).all()


def test_parity_of_refined_maps(result, case):
    refined = refine(result.maps, result.attention, case.config["box_threshold"])
    assert_parity(refined, case.tensors["cam_refined"])
