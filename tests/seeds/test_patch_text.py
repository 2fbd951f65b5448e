"""Laws of patch-text seeds: parity with a slow oracle, permutations, batches, and no gradient."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import oracle_patch_text as oracle
import pytest
import torch
import torch.nn.functional as F

from weakclip.clip import FrozenCLIP
from weakclip.clip.openai_archive import convert_openai_state
from weakclip.clip.vocabulary import tokenizer_from_merges
from weakclip.datasets import Sample
from weakclip.datasets.classes import COCO14, VOC12, ClassSet
from weakclip.seeds import BatchedSeedMethod, ClipGradCAM, PatchText, PatchTextSettings, SeedSettings, seed_masks
from weakclip.seeds.class_text import encode_words
from weakclip.seeds.patch_text import patch_scores, patch_tokens, self_attention
from weakclip.seeds.refinement import refine, stretch

CLASSES = ClassSet.from_foreground(["cat", "dog", "bird", "boat"], background_prompts=["sky", "sea"])
KINDS = ["mean", "qq", "kk", "vv", "own", "value"]


def picture(height: int, width: int, labels: tuple[int, ...], seed: int = 0) -> Sample:
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Sample(name=f"noise{seed}", image=image, labels=labels)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("layers", "attention_layers"), [(1, 2), (2, 1), (3, 9)])
def test_maps_are_those_of_the_slow_oracle(kind: str, layers: int, attention_layers: int) -> None:
    """Another layout of the weights, other names, head by head, in float64."""
    state = oracle.random_state(width=128, layers=3, patch=16, side=3, embed_dim=24)
    zero = {"pixel_mean": [0] * 3, "pixel_std": [1] * 3}
    clip = FrozenCLIP(convert_openai_state(state), tokenizer_from_merges([]), source="oracle", **zero).double()
    pixels = torch.rand(1, 3, 48, 80, dtype=torch.float64)
    texts = F.normalize(torch.randn(6, 24, dtype=torch.float64), dim=-1).split([2, 4])
    settings = PatchTextSettings(layers=layers, attention=kind, attention_layers=attention_layers)
    found = patch_tokens(clip, pixels, settings)
    scores = patch_scores(found.tokens[0, 0], *texts, clip.logit_scale)
    maps = stretch(scores.T.unflatten(1, found.grid))
    doubles = {name: value.double() for name, value in state.items()}
    expected, attention = oracle.maps(
        pixels, doubles, texts, layers=layers, kind=kind, attention_layers=attention_layers
    )
    torch.testing.assert_close(maps, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(found.attention[0].double(), attention, rtol=0, atol=1e-6)
    refined = stretch(refine(maps, found.attention[0].double(), 0.4))
    torch.testing.assert_close(refined, oracle.refined(maps, attention, 0.4), rtol=0, atol=1e-5)


def test_one_block_with_its_own_attention_is_what_the_block_adds(tiny_clip: FrozenCLIP) -> None:
    """By transformers' own module, as the block calls it."""
    images = torch.rand(2, 3, 40, 32, device=tiny_clip.device)
    hidden, _ = tiny_clip.embed_image(images)
    *trunk, last = tiny_clip.model.vision_model.encoder.layers
    for block in trunk:
        hidden = block(hidden, None)
    added = last.self_attn(last.layer_norm1(hidden))[0]
    found = patch_tokens(tiny_clip, images, PatchTextSettings(layers=1, attention="own")).tokens[0]
    torch.testing.assert_close(found, tiny_clip.project(tiny_clip.final_norm(added))[:, 1:], rtol=1e-4, atol=1e-4)


def test_where_all_tokens_are_alike_every_attention_gives_the_values(tiny_clip: FrozenCLIP) -> None:
    block = tiny_clip.model.vision_model.encoder.layers[1]
    normed = torch.randn(1, 1, 32, device=tiny_clip.device).expand(2, 9, 32)
    values = self_attention(tiny_clip, block, normed, "value")
    for kind in KINDS:
        torch.testing.assert_close(self_attention(tiny_clip, block, normed, kind), values, rtol=1e-4, atol=1e-4)


def test_mean_is_the_mean_of_the_three(tiny_clip: FrozenCLIP) -> None:
    block = tiny_clip.model.vision_model.encoder.layers[0]
    normed = torch.randn(2, 9, 32, device=tiny_clip.device)
    each = torch.stack([self_attention(tiny_clip, block, normed, kind) for kind in ("qq", "kk", "vv")])
    torch.testing.assert_close(self_attention(tiny_clip, block, normed, "mean"), each.mean(dim=0), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(each[0], each[1], atol=1e-2) and not torch.allclose(each[1], each[2], atol=1e-2)


@pytest.mark.parametrize("size", [(32, 32), (37, 50), (9, 75)])
def test_maps_are_of_the_labels_at_the_size_of_the_image(tiny_clip: FrozenCLIP, size: tuple[int, int]) -> None:
    sample = picture(*size, (1, 3, 4))
    cam = PatchText(tiny_clip, CLASSES).cam(sample)
    assert cam.classes == sample.labels
    assert cam.maps.shape == (3, *size) and cam.maps.dtype == np.float32
    assert cam.maps.min() >= 0 and cam.maps.max() <= 1
    assert set(np.unique(seed_masks(sample, cam, SeedSettings(crf=None)).dense)) <= {0, 1, 3, 4}


@pytest.mark.parametrize("class_set", [ClassSet.from_foreground(["cat"]), CLASSES, VOC12, COCO14])
def test_any_number_of_classes(tiny_clip: FrozenCLIP, class_set: ClassSet) -> None:
    labels = tuple(range(1, class_set.num_classes))
    cam = PatchText(tiny_clip, class_set).cam(picture(40, 33, labels))
    assert cam.maps.shape == (len(labels), 40, 33) and np.isfinite(cam.maps).all()


def test_permuting_the_classes_permutes_the_maps(tiny_clip: FrozenCLIP) -> None:
    order = [3, 1, 4, 2]
    moved = ClassSet.from_foreground([CLASSES.names[old] for old in order], CLASSES.background_prompts)
    ours = PatchText(tiny_clip, CLASSES).cam(picture(40, 56, (1, 2, 4)))
    theirs = PatchText(tiny_clip, moved).cam(picture(40, 56, (2, 3, 4)))  # dog is 1 in ours and 4 in theirs
    theirs_of = {moved.names[label]: own for label, own in zip(theirs.classes, theirs.maps, strict=True)}
    for label, own in zip(ours.classes, ours.maps, strict=True):
        np.testing.assert_allclose(own, theirs_of[CLASSES.names[label]], atol=1e-4)


def test_a_batch_has_the_maps_of_its_images(make_tiny_clip: Callable[..., FrozenCLIP], device: torch.device) -> None:
    clip = make_tiny_clip().to(device).double()
    images = torch.rand(3, 3, 40, 56, device=device)
    together = patch_tokens(clip, images, PatchTextSettings())
    for index in range(3):
        single = patch_tokens(clip, images[index : index + 1], PatchTextSettings())
        torch.testing.assert_close(together.tokens[:, index], single.tokens[:, 0])
        torch.testing.assert_close(together.attention[index], single.attention[0])


def test_many_samples_of_any_sizes_have_the_maps_of_each(
    tiny_clip: FrozenCLIP, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PatchText, "batch_size", property(lambda self: self.settings.batch_size))
    method = PatchText(tiny_clip, CLASSES, PatchTextSettings(batch_size=2))
    assert isinstance(method, BatchedSeedMethod) and not isinstance(ClipGradCAM(tiny_clip, CLASSES), BatchedSeedMethod)
    sizes = [(32, 40), (40, 32), (32, 40), (32, 40), (24, 24)]
    labels = [(1, 2), (3,), (), (2, 3, 4), (4,)]
    samples = [picture(*size, own, seed) for seed, (size, own) in enumerate(zip(sizes, labels, strict=True))]
    for sample, cam in zip(samples, method.cams(samples), strict=True):
        single = method.cam(sample)
        assert cam.classes == sample.labels and cam.maps.shape[1:] == sample.image.shape[:2]
        np.testing.assert_allclose(cam.maps, single.maps, atol=1e-3)


def test_a_batch_that_does_not_fit_is_cut(tiny_clip: FrozenCLIP, monkeypatch: pytest.MonkeyPatch) -> None:
    import weakclip.seeds.patch_text as module

    monkeypatch.setattr(PatchText, "batch_size", property(lambda self: self.settings.batch_size))
    method, whole, sizes = PatchText(tiny_clip, CLASSES), patch_tokens, []

    def narrow(clip: FrozenCLIP, images: torch.Tensor, settings: PatchTextSettings) -> object:
        sizes.append(len(images))
        if len(images) > 2:
            raise torch.OutOfMemoryError("out of memory")
        return whole(clip, images, settings)

    samples = [picture(32, 32, (1 + number,), number) for number in range(4)]
    expected = [method.cam(sample).maps for sample in samples]
    monkeypatch.setattr(module, "patch_tokens", narrow)
    for cam, maps in zip(method.cams(samples), expected, strict=True):
        np.testing.assert_allclose(cam.maps, maps, atol=1e-3)
    assert sizes == [4, 2, 2]


def test_on_a_cpu_no_map_depends_on_its_neighbours(make_tiny_clip: Callable[..., FrozenCLIP]) -> None:
    method = PatchText(make_tiny_clip(), CLASSES)
    samples = [picture(40, 40, (1, 2), seed) for seed in range(3)]
    for sample, cam in zip(samples, method.cams(samples), strict=True):
        assert (cam.maps == method.cam(sample).maps).all()


def test_unlabelled_images_have_no_maps(tiny_clip: FrozenCLIP) -> None:
    cam = PatchText(tiny_clip, CLASSES).cam(picture(37, 50, ()))
    assert cam.classes == () and cam.maps.shape == (0, 37, 50)


def test_a_background_word_that_fits_better_takes_the_patch(tiny_clip: FrozenCLIP) -> None:
    tokens = torch.eye(16, device=tiny_clip.device)[:3]
    scores = patch_scores(tokens, tokens[:1], tokens[1:2], 100.0)
    assert scores.shape == (3, 1)
    torch.testing.assert_close(scores[:, 0], torch.tensor([1.0, 0.0, 0.5], device=tiny_clip.device))


def test_more_layers_than_there_are_are_all_of_them(tiny_clip: FrozenCLIP) -> None:
    images = torch.rand(1, 3, 32, 32, device=tiny_clip.device)
    tokens = {layers: patch_tokens(tiny_clip, images, PatchTextSettings(layers=layers)).tokens for layers in (1, 4, 9)}
    assert torch.equal(tokens[4], tokens[9])
    assert not torch.allclose(tokens[1], tokens[4], atol=1e-2)


def test_no_graph_is_built_and_nothing_of_the_clip_changes(tiny_clip: FrozenCLIP) -> None:
    before = {name: value.clone() for name, value in tiny_clip.state_dict().items()}
    with torch.enable_grad():
        found = patch_tokens(tiny_clip, torch.rand(1, 3, 32, 32, device=tiny_clip.device), PatchTextSettings())
    assert not found.tokens.requires_grad and not found.attention.requires_grad
    assert all(torch.equal(value, before[name]) for name, value in tiny_clip.state_dict().items())


def test_a_larger_scale_makes_finer_maps(tiny_clip: FrozenCLIP) -> None:
    sample = picture(37, 50, (1, 2))
    coarse, fine = (PatchText(tiny_clip, CLASSES, PatchTextSettings(scale=scale)).cam(sample) for scale in (1, 2))
    assert coarse.maps.shape == fine.maps.shape
    assert not np.allclose(coarse.maps, fine.maps, atol=1e-2)


def test_maps_of_scales_and_attentions_are_averaged(tiny_clip: FrozenCLIP) -> None:
    sample = picture(37, 50, (1, 2))
    each = [
        PatchText(tiny_clip, CLASSES, PatchTextSettings(scale=scale, attention=kind)).cam(sample).maps
        for scale in (1.0, 1.5)
        for kind in ("mean", "own")
    ]
    settings = PatchTextSettings(scale=(1.0, 1.5), attention=("mean", "own"))
    cam = PatchText(tiny_clip, CLASSES, settings).cam(sample)
    assert cam.maps.dtype == np.float32 and cam.classes == (1, 2)
    np.testing.assert_allclose(cam.maps, np.mean(each, axis=0), atol=1e-5)
    assert not np.allclose(each[0], each[1], atol=1e-2)


def test_with_mirrored_images_a_mirrored_image_has_mirrored_maps(tiny_clip: FrozenCLIP) -> None:
    sample = picture(32, 48, (1, 3))
    turned = dataclasses.replace(sample, image=sample.image[:, ::-1].copy())
    for flip, equal in ((True, True), (False, False)):
        method = PatchText(tiny_clip, CLASSES, PatchTextSettings(flip=flip))
        assert np.allclose(method.cam(turned).maps, method.cam(sample).maps[:, :, ::-1], atol=1e-4) == equal


def test_words_in_several_sentences_are_their_mean_direction(tiny_clip: FrozenCLIP) -> None:
    templates = ("a photo of a {}.", "a drawing of a {}.", "{}")
    found = encode_words(tiny_clip, ["cat", "dog"], templates)
    each = [F.normalize(tiny_clip.encode_text([t.replace("{}", w) for t in templates]), dim=-1) for w in ("cat", "dog")]
    expected = torch.stack([own.mean(dim=0) for own in each])
    torch.testing.assert_close(found, F.normalize(expected, dim=-1))
    torch.testing.assert_close(found, encode_words(tiny_clip, ["cat", "dog"], templates[::-1]))
    torch.testing.assert_close(found, encode_words(tiny_clip, ["cat", "dog"], templates * 2))
    ours = PatchText(tiny_clip, CLASSES, PatchTextSettings(prompt_templates=templates))
    torch.testing.assert_close(ours.foreground_text[:2], found)
    torch.testing.assert_close(ours.background_text, encode_words(tiny_clip, ["sky", "sea"], templates))
