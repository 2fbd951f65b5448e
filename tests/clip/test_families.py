"""Every family equals the network of transformers that it opens, and does what the method asks of an encoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from tiny_families import KINDS, tiny
from torch import Tensor

from weakclip.clip import FrozenCLIP, load_clip
from weakclip.clip.encoder import check_encoder, check_features, with_blocks
from weakclip.clip.families import FAMILIES, tipsv2
from weakclip.datasets import Sample
from weakclip.datasets.classes import ClassSet
from weakclip.errors import DataError, EncoderError, WeightsError
from weakclip.modeling.prompt import LearnablePrompt
from weakclip.seeds import ClipGradCAM, GradCAMSettings, PatchText
from weakclip.seeds.cosine import CosineSeeds
from weakclip.seeds.mctformer.model import MCTformer
from weakclip.seeds.mctformer.start import start_from_clip
from weakclip.tools.tag.zero_shot import Tagger, TagSettings

TEXTS = ["a photo of a cat", "x", "zwei kleine boote"]
CLASSES = ClassSet.from_foreground(["cat", "dog", "boat"])
TIGHT = {"rtol": 1e-5, "atol": 1e-5}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def encoder(kind: str, device: torch.device) -> FrozenCLIP:
    return tiny(kind).to(device)


def their_image_features(encoder: FrozenCLIP, images: Tensor, **more: Any) -> Any:
    options = {} if encoder.family == "TIPSv2" else {"interpolate_pos_encoding": True}
    return encoder.model.get_image_features(encoder.normalize(images), **options, **more)


@pytest.mark.parametrize("size", [(32, 32), (40, 56), (8, 24)])
def test_images_have_the_features_of_the_network(encoder: FrozenCLIP, size: tuple[int, int]) -> None:
    images = torch.rand(2, 3, *size, device=encoder.device)
    features = encoder.encode_image(images)
    check_features(encoder, features)
    assert features.grid == (size[0] // 8, size[1] // 8) and features.prefix == encoder.prefix
    theirs = their_image_features(encoder, images, output_hidden_states=True)
    assert features.pooled is not None
    torch.testing.assert_close(features.pooled, theirs.pooler_output, **TIGHT)
    hidden = encoder.model.vision_model(
        encoder.normalize(images),
        output_hidden_states=True,
        **({} if encoder.family == "TIPSv2" else {"interpolate_pos_encoding": True}),
    ).hidden_states
    for layer, ours in zip(encoder.tap_layers, features.layers, strict=True):
        expected = hidden[layer][:, encoder.prefix :].transpose(1, 2).reshape(2, -1, *features.grid)
        torch.testing.assert_close(ours, expected, **TIGHT)


def test_texts_have_the_features_of_the_network(encoder: FrozenCLIP, kind: str) -> None:
    """Padded as their processors pad them: to the longest or, for those of Google, to 64, on the right."""
    padding = {"padding": "max_length", "max_length": 64} if kind in ("siglip", "tipsv2") else {"padding": True}
    tokens = encoder.tokenizer(TEXTS, padding_side="right", return_tensors="pt", **padding).to(encoder.device)
    if kind == "siglip":
        tokens.pop("attention_mask", None)  # the network was trained without one
    tokens.pop("token_type_ids", None)
    expected = encoder.model.get_text_features(**tokens).pooler_output
    torch.testing.assert_close(encoder.encode_text(TEXTS), expected, **TIGHT)
    apart = torch.cat([encoder.encode_text([text]) for text in TEXTS])
    torch.testing.assert_close(apart, expected, **TIGHT)


def test_scores_are_those_of_the_network(encoder: FrozenCLIP, kind: str) -> None:
    images = torch.rand(2, 3, 32, 32, device=encoder.device)
    ours = torch.nn.functional.normalize(encoder.encode_image(images).image_embeddings, dim=-1)
    ours = encoder.logit_scale * ours @ torch.nn.functional.normalize(encoder.encode_text(TEXTS), dim=-1).T
    ids = encoder.tokenizer(TEXTS, padding="max_length", max_length=64, padding_side="right", return_tensors="pt")
    mask = {} if kind == "siglip" else {"attention_mask": ids["attention_mask"].to(encoder.device)}
    pixels = encoder.normalize(images)
    theirs = encoder.model(input_ids=ids["input_ids"].to(encoder.device), pixel_values=pixels, **mask).logits_per_image
    torch.testing.assert_close(ours + (encoder.logit_bias or 0), theirs, rtol=1e-4, atol=1e-4)


def test_the_learned_prompt_gets_a_gradient(encoder: FrozenCLIP) -> None:
    prompt = LearnablePrompt.for_classes(encoder, CLASSES, length=4)
    encoder.encode_text_embeddings(*prompt()).square().sum().backward()
    assert prompt.vectors.grad is not None and (prompt.vectors.grad.abs().sum(dim=1) > 0).all()
    assert all(parameter.grad is None for parameter in encoder.parameters())
    plain = LearnablePrompt.for_classes(encoder, CLASSES, length=0)
    torch.testing.assert_close(encoder.encode_text_embeddings(*plain()), encoder.encode_text(CLASSES.names), **TIGHT)
    with pytest.raises(DataError, match="shorten the prompt"):
        LearnablePrompt.for_classes(encoder, CLASSES, length=encoder.context_length)
    with pytest.raises(DataError, match=r"reads at most \d+: shorten the text"):
        encoder.encode_text(["x" * 80])


def test_open_attention_equals_the_block(encoder: FrozenCLIP) -> None:
    opened = with_blocks(encoder, "a test")
    hidden, _ = opened.embed_image(torch.rand(2, 3, 24, 40, device=encoder.device))
    for block in opened.blocks:
        normed = opened.attention_input(block, hidden)
        output, attention = opened.attend(block, hidden, normed)
        queries, keys, _ = opened.queries_keys_values(block, normed)
        shares = (queries @ keys.transpose(-1, -2) * queries.shape[-1] ** -0.5).softmax(dim=-1).mean(dim=1)
        torch.testing.assert_close(attention, shares, **TIGHT)
        torch.testing.assert_close(output, opened.run_block(block, hidden), **TIGHT)
        hidden = output


def test_under_autocast_the_weights_are_cast_once(encoder: FrozenCLIP) -> None:
    """bfloat16 changes the features a little, and the text tower still passes gradients."""
    images, prompt = torch.rand(1, 3, 32, 40, device=encoder.device), LearnablePrompt.for_classes(encoder, CLASSES)
    plain = encoder.encode_image(images).tokens
    with torch.autocast(encoder.device.type, torch.bfloat16):
        tokens, text = encoder.encode_image(images).tokens, encoder.encode_text_embeddings(*prompt())
        assert encoder.blocks[0] is encoder.blocks[0]
    text.float().square().sum().backward()
    assert prompt.vectors.grad is not None and torch.isfinite(prompt.vectors.grad).all()
    assert torch.nn.functional.cosine_similarity(tokens.float(), plain, dim=-1).min() > 0.98


def test_a_patch_of_siglip_is_what_the_probe_makes_of_it() -> None:
    """Of an image of one patch the probe sees nothing else."""
    features = tiny("siglip").encode_image(torch.rand(3, 3, 8, 8))
    assert features.pooled is not None and features.tokens.shape[1] == 1
    torch.testing.assert_close(features.tokens[:, 0], features.pooled, **TIGHT)


@pytest.mark.parametrize("side", [518, 504, 448])
def test_sizes_of_whole_patches_of_14_pass_untouched(kind: str, side: int) -> None:
    encoder = tiny(kind, patch_size=14, image_size=56, num_hidden_layers=1)
    images = torch.rand(1, 3, side, side)
    features = encoder.encode_image(images)
    assert features.grid == (side // 14, side // 14)
    torch.testing.assert_close(
        features.pooled, their_image_features(encoder, images).pooler_output, rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("method", [PatchText, CosineSeeds, ClipGradCAM])
def test_seeds(encoder: FrozenCLIP, method: Any) -> None:
    image = np.random.default_rng(0).integers(0, 256, (37, 50, 3), dtype=np.uint8)
    cam = method(encoder, CLASSES).cam(Sample(name="a", image=image, labels=(1, 3)))
    assert cam.classes == (1, 3) and cam.maps.shape == (2, 37, 50)
    assert np.isfinite(cam.maps).all() and cam.maps.min() >= 0 and 0 < cam.maps.max() <= 1


def test_grad_cam_of_the_class_token_needs_one() -> None:
    settings = GradCAMSettings(score_from="class_token")
    with pytest.raises(EncoderError, match=r"has no class token; set seeds\.gradcam\.score_from to patches"):
        ClipGradCAM(tiny("siglip"), CLASSES, settings)
    assert ClipGradCAM(tiny("metaclip_2"), CLASSES, settings).clip.prefix == 1


def test_tags_of_siglip_are_sigmoids() -> None:
    """A score does not depend on the other classes, as a softmax would."""
    encoder, window = tiny("siglip"), np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    scores = Tagger(encoder, CLASSES, TagSettings()).scores([[window]])
    alone = Tagger(encoder, ClassSet.from_foreground(["dog"]), TagSettings()).scores([[window]])
    np.testing.assert_allclose(scores[0, 1], alone[0, 0], atol=1e-6)
    ids = encoder.tokenizer(
        ["a clean origami dog."], padding="max_length", max_length=64, padding_side="right", return_tensors="pt"
    )["input_ids"]
    pixels = encoder.normalize(torch.from_numpy(window).permute(2, 0, 1)[None])
    expected = encoder.model(input_ids=ids, pixel_values=pixels).logits_per_image.sigmoid()
    np.testing.assert_allclose(alone[0, 0], expected.item(), rtol=1e-4)


def test_a_folder_gives_back_the_encoder(kind: str, tmp_path: Path) -> None:
    encoder = tiny(kind)
    encoder.model.save_pretrained(tmp_path)
    encoder.tokenizer.save_pretrained(tmp_path)
    found = load_clip(tmp_path)
    assert type(found) is type(encoder) and check_encoder(found).fingerprint() == encoder.fingerprint()
    assert found.describe() == encoder.describe() and encoder.family in found.describe()
    images = torch.rand(1, 3, 32, 40)
    assert torch.equal(found.encode_image(images).tokens, encoder.encode_image(images).tokens)
    assert torch.equal(found.encode_text(TEXTS), encoder.encode_text(TEXTS))
    torch.testing.assert_close(found.pixel_mean, encoder.pixel_mean)
    encoder.telling_weights()[0].data.add_(1)
    assert encoder.fingerprint() != found.fingerprint()


@pytest.mark.parametrize("other", KINDS)
def test_a_tokenizer_of_another_family_is_one_line(
    kind: str, other: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of its ids fit; SigLIP and TIPSv2 have texts that begin alike and are taken for each other."""
    monkeypatch.setattr(FrozenCLIP, "vocabulary_size", 1000)
    tiny(kind).model.save_pretrained(tmp_path / "network")
    tiny(other).tokenizer.save_pretrained(tmp_path / "words")
    if kind == other or {kind, other} == {"siglip", "tipsv2"}:
        load_clip(tmp_path / "network", vocabulary=tmp_path / "words")
        return
    with pytest.raises(WeightsError, match=r"its tokenizer is not one of .*: it makes .* of the text 'a'") as caught:
        load_clip(tmp_path / "network", vocabulary=tmp_path / "words")
    assert "\n" not in str(caught.value)


def test_another_kind_of_network_is_one_line_with_those_that_are_known(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "siglip2"}')
    with pytest.raises(WeightsError, match=r"model_type clip, metaclip_2, siglip, tipsv2 .* found 'siglip2'") as caught:
        load_clip(tmp_path)
    assert "\n" not in str(caught.value)


def test_an_older_transformers_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tipsv2, "transformers", type("Old", (), {"__version__": "5.12.0"}))
    monkeypatch.setitem(__import__("sys").modules, "transformers", type("Old", (), {})())
    with pytest.raises(WeightsError, match=r"TIPSv2 needs transformers 5\.14 or newer; found 5\.12\.0: pip install"):
        FAMILIES["tipsv2"].network()
    assert transformers.__version__


def test_an_mctformer_starts_from_clips_layout_only(kind: str) -> None:
    model = MCTformer(4, patch_size=8, image_size=32, width=32, depth=4, heads=2)
    images = torch.rand(2, 3, 32, 32)
    if kind in ("clip", "metaclip_2"):
        with pytest.raises(WeightsError, match="4 times as wide"):
            start_from_clip(model, tiny(kind), images)
    else:
        with pytest.raises(WeightsError, match="starts from an image tower of CLIP's layout"):
            start_from_clip(model, tiny(kind), images)
