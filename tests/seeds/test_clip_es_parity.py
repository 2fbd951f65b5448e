"""The same weights and inputs give the numbers of the released CLIP-ES, by the path that the seed stage takes.

The cases are those of the fixtures, and those that the oracle makes of other sizes
(`tests/reference/oracle_clip_es.py`).
"""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import oracle_clip_es as oracle
import pytest
import torch
import torch.nn.functional as F
from parity_cases import Case, as_float, assert_parity, case_params
from PIL import Image
from safetensors.torch import load_file

from weakclip.clip import FrozenCLIP
from weakclip.clip.frozen_clip import CLIP_PIXEL_MEAN, CLIP_PIXEL_STD
from weakclip.clip.openai_archive import convert_openai_state
from weakclip.clip.vision import interpolate_positions
from weakclip.clip.vocabulary import tokenizer_from_merges
from weakclip.datasets import Sample
from weakclip.datasets.classes import ClassSet
from weakclip.seeds.boxes import box_mask
from weakclip.seeds.clip_gradcam import ClipGradCAM, GradCAM, GradCAMSettings, as_clip_es, grad_cam
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
    clip = as_clip_es(FrozenCLIP(model, tokenizer, pixel_mean=mean, pixel_std=std, source="fixture"))
    assert isinstance(clip, FrozenCLIP)
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


@pytest.mark.parametrize(("size", "scale"), [((75, 50), 1.0), ((64, 96), 1.0), ((41, 60), 1.5)])
def test_parity_of_the_whole_path_from_an_image_to_its_maps(size: tuple[int, int], scale: float) -> None:
    """A photo of any size, as the seed stage is given it, against the oracle: Pillow's bicubic resize of the 8-bit
    image up to whole patches, positions resized bilinearly, maps enlarged bilinearly."""
    state = oracle.clip.random_image_tower("visual.", 64, 3, patch=oracle.PATCH, side=3, embed_dim=24)
    state["logit_scale"] = torch.tensor(2.0)
    tokenizer = tokenizer_from_merges([])
    clip = FrozenCLIP(
        convert_openai_state(state | _text_tower(64, 24, len(tokenizer))), tokenizer, source="random weights"
    )
    classes = ClassSet.from_foreground(["cat", "dog", "bird"], background_prompts=["sky", "sea"])
    method = ClipGradCAM(clip, classes, GradCAMSettings(scale=scale))
    texts = torch.randn(5, 24)
    method.foreground_text, method.background_text = texts[:3], texts[3:]
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    found = method.cam(Sample(name="photo", image=image, labels=(1, 3)))

    height, width = (math.ceil(scale * side / 16) * 16 for side in size)
    resized = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))
    mean, std = (torch.tensor(values).view(3, 1, 1).double() for values in (CLIP_PIXEL_MEAN, CLIP_PIXEL_STD))
    pixels = (torch.tensor(resized).permute(2, 0, 1).double() / 255 - mean) / std
    doubles, grid = oracle.clip.as_double(state), (height // 16, width // 16)
    table = doubles["visual.positional_embedding"]
    positions = torch.cat([table[:1], oracle.clip.resized_positions(table[1:], grid, "bilinear")])
    chosen = texts[[0, 2]].double(), texts[3:].double()
    _, maps, attentions = oracle.class_maps(pixels[None], doubles, positions, 1, chosen)
    attention = torch.stack(attentions[-8:]).mean(dim=0)[1:, 1:]
    for own, expected in zip(found.maps, maps, strict=True):
        spread = oracle.stretched(oracle.refined(expected, oracle.boxes(expected, 0.4), attention))
        whole = F.interpolate(spread[None, None], size=size, mode="bilinear", align_corners=False)[0, 0]
        assert_parity(torch.from_numpy(own), whole.float())


def test_the_encoder_of_the_other_stages_keeps_its_positions(tiny_clip: FrozenCLIP) -> None:
    method = ClipGradCAM(tiny_clip, ClassSet.from_foreground(["cat"], background_prompts=["sky"]))
    assert isinstance(method.clip, FrozenCLIP) and method.clip.position_interpolation == "bilinear"
    assert tiny_clip.position_interpolation == "bicubic"
    theirs = dict(tiny_clip.named_parameters())
    assert all(value is theirs[name] for name, value in method.clip.named_parameters())
