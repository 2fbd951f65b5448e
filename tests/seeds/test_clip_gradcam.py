"""Laws of CLIP Grad-CAM and its refinement."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from weakclip.datasets import Sample
from weakclip.datasets.classes import BACKGROUND_PROMPTS, ClassSet
from weakclip.seeds import ClipGradCAM, GradCAMSettings
from weakclip.seeds.boxes import box_mask, strong_boxes
from weakclip.seeds.clip_gradcam import grad_cam, score_gradients
from weakclip.seeds.refinement import affinity, refine

CLASSES = ClassSet.from_foreground(["cat", "dog", "bird", "boat"], background_prompts=["sky", "sea"])


@pytest.fixture
def sample():
    image = np.random.default_rng(0).integers(0, 256, (37, 50, 3), dtype=np.uint8)
    return Sample(name="noise", image=image, labels=(1, 3, 4))


def test_maps_are_of_the_labels_at_the_size_of_the_image(tiny_clip, sample):
    cam = ClipGradCAM(tiny_clip, CLASSES).cam(sample)
    assert cam.classes == sample.labels
    assert cam.maps.shape == (3, *sample.image.shape[:2])
    assert cam.maps.dtype == np.float32
    assert cam.maps.min() >= 0
    assert cam.maps.max() <= 1
    assert cam.maps.std(axis=(1, 2)).max() > 0


def test_gradients_are_those_of_the_plain_network(tiny_clip):
    """The channel weights, by autograd through the ordinary blocks, one class at a time."""
    tiny_clip.double()
    image = torch.rand(1, 3, 32, 48, dtype=torch.float64, device=tiny_clip.device)
    texts = torch.randn(5, tiny_clip.embed_dim, dtype=torch.float64, device=tiny_clip.device)
    result = grad_cam(tiny_clip, image, texts[:2], texts[2:], GradCAMSettings())
    hidden, grid = tiny_clip.embed_image(image)
    *trunk, last = tiny_clip.model.vision_model.encoder.layers
    for block in trunk:
        hidden = block(hidden, None)
    normed = last.layer_norm1(hidden).detach().requires_grad_()
    between = hidden + last.self_attn(normed)[0]
    output = between + last.mlp(last.layer_norm2(between))
    embedding = tiny_clip.project(tiny_clip.final_norm(output))[:, 1:].mean(dim=1)
    logits = tiny_clip.logit_scale * F.cosine_similarity(embedding, texts)
    scores = logits.softmax(dim=-1)
    torch.testing.assert_close(result.scores, scores.detach())
    for index in range(2):
        (gradient,) = torch.autograd.grad(scores[index], normed, retain_graph=True)
        expected = (normed[0, 1:].detach() * gradient[0, 1:].mean(dim=0)).sum(dim=-1).relu().reshape(grid)
        expected = expected - expected.min()
        torch.testing.assert_close(result.maps[index], expected / expected.max().clamp(min=1e-12), rtol=1e-6, atol=1e-6)


def test_a_saturated_softmax_still_gives_a_whole_map(tiny_clip):
    image = torch.rand(1, 3, 32, 32, device=tiny_clip.device)
    text = torch.randn(1, tiny_clip.embed_dim, device=tiny_clip.device)
    text = -text if tiny_clip.encode_image(image).tokens[0, 1:].mean(dim=0) @ text[0] > 0 else text
    tiny_clip.model.logit_scale.zero_()
    odds = grad_cam(tiny_clip, image, text, -text, GradCAMSettings()).scores.logit()[0]
    tiny_clip.model.logit_scale.copy_((np.log(1e-6) / odds).log())  # the class now has a probability of 1e-6
    saturated = grad_cam(tiny_clip, image, text, -text, GradCAMSettings())
    assert saturated.scores[0] < 2e-6
    assert saturated.maps.max() > 0.999


def test_the_class_token_scores_as_clip_does(tiny_clip):
    image = torch.rand(1, 3, 32, 32, device=tiny_clip.device)
    texts = F.normalize(torch.randn(4, tiny_clip.embed_dim, device=tiny_clip.device), dim=-1)
    result = grad_cam(tiny_clip, image, texts[:1], texts[1:], GradCAMSettings(score_from="class_token"))
    embedding = F.normalize(tiny_clip.encode_image(image).tokens[:, 0], dim=-1)
    expected = (tiny_clip.logit_scale * embedding @ texts.T).softmax(dim=-1)[0]
    torch.testing.assert_close(result.scores, expected)


def test_a_class_has_the_same_map_whatever_the_order_of_the_classes(tiny_clip):
    image = torch.rand(1, 3, 40, 32, device=tiny_clip.device)
    texts = torch.randn(6, tiny_clip.embed_dim, device=tiny_clip.device)
    ours = grad_cam(tiny_clip, image, texts[:3], texts[3:], GradCAMSettings())
    theirs = grad_cam(tiny_clip, image, texts[:3].flip(0), texts[3:], GradCAMSettings())
    torch.testing.assert_close(ours.maps, theirs.maps.flip(0), rtol=1e-4, atol=1e-5)


def test_attention_is_that_of_the_last_layers(tiny_clip):
    image = torch.rand(1, 3, 32, 32, device=tiny_clip.device)
    texts = torch.randn(3, tiny_clip.embed_dim, device=tiny_clip.device)
    attentions = {
        count: grad_cam(tiny_clip, image, texts[:1], texts[1:], GradCAMSettings(attention_layers=count)).attention
        for count in (1, 4, 8)
    }
    torch.testing.assert_close(attentions[4], attentions[8])  # capped by the depth
    assert not torch.allclose(attentions[1], attentions[4])
    model = tiny_clip.model.vision_model
    model.set_attn_implementation("eager")
    pixels = tiny_clip.normalize(image)
    theirs = model(pixels, interpolate_pos_encoding=True, output_attentions=True).attentions
    torch.testing.assert_close(attentions[4], torch.stack(theirs).mean(dim=(0, 2))[0, 1:, 1:])


def test_affinity_is_symmetric_and_nearly_doubly_stochastic():
    steps = affinity(torch.rand(20, 20) + 0.1)
    torch.testing.assert_close(steps, steps.T)
    torch.testing.assert_close(steps.sum(dim=0), torch.ones(20), rtol=1e-3, atol=1e-3)


def test_refinement_spreads_along_attention_from_inside_the_boxes_only():
    attention = torch.full((16, 16), 1e-3)
    attention[:8, :8] = attention[8:, 8:] = 1.0
    scores = torch.zeros(1, 4, 4)
    scores[0, 0, 0] = 1
    refined = refine(scores, attention, 0.4)[0]
    assert refined[:2].min() > 10 * refined[2:].max()
    weak = scores.clone()
    weak[0, 3, 0] = 0.3  # below the threshold, outside every box: it is no source
    torch.testing.assert_close(refine(weak, attention, 0.4), refine(scores, attention, 0.4))


def test_refinement_goes_two_steps():
    near = (torch.arange(25)[:, None] - torch.arange(25)).abs() <= 1
    scores = torch.zeros(1, 5, 5)
    scores[0, 2, 2] = 1  # patch 12 of 25
    reached = refine(scores, near.float(), 0.4).flatten().nonzero().flatten()
    assert reached.tolist() == [10, 11, 12, 13, 14]


def test_boxes_around_parts():
    scores = np.zeros((6, 8))
    scores[1, 1] = scores[2, 2] = 1  # touch over a corner
    scores[4, 5:7] = 0.5
    scores[0, 7] = 0.3
    assert strong_boxes(scores, 0.4) == [(1, 1, 3, 3), (4, 5, 5, 7)]
    assert (0, 7, 1, 7) in strong_boxes(scores, 0.2), "the last column is left out, as in the released code"
    assert not box_mask(np.zeros((6, 8)), 0.4).any()


def test_unlabelled_images_have_no_maps(tiny_clip, sample):
    cam = ClipGradCAM(tiny_clip, CLASSES).cam(dataclasses.replace(sample, labels=()))
    assert cam.classes == ()
    assert cam.maps.shape == (0, 37, 50)


def test_prompts_and_their_defaults(tiny_clip):
    maker = ClipGradCAM(tiny_clip, CLASSES, GradCAMSettings(prompt_template="an image of a {}"))
    expected = tiny_clip.encode_text(["an image of a sky", "an image of a sea"])
    torch.testing.assert_close(maker.background_text, F.normalize(expected, dim=-1))
    bare = ClipGradCAM(tiny_clip, ClassSet.from_foreground(["cat", BACKGROUND_PROMPTS[0]]))
    assert len(bare.background_text) == len(BACKGROUND_PROMPTS) - 1


def test_a_larger_scale_makes_finer_maps(tiny_clip, sample):
    coarse, fine = (ClipGradCAM(tiny_clip, CLASSES, GradCAMSettings(scale=scale)).cam(sample) for scale in (1, 2))
    assert coarse.maps.shape == fine.maps.shape
    assert not np.allclose(coarse.maps, fine.maps, atol=1e-2)


def test_nothing_of_the_clip_changes(tiny_clip, sample):
    before = {name: value.clone() for name, value in tiny_clip.state_dict().items()}
    ClipGradCAM(tiny_clip, CLASSES).cam(sample)
    assert all(torch.equal(value, before[name]) for name, value in tiny_clip.state_dict().items())
    assert all(parameter.grad is None for parameter in tiny_clip.parameters())


@pytest.mark.parametrize("classes", [1, 3])
def test_gradients_of_all_classes_together_are_those_of_each(tiny_clip, classes):
    images = torch.randint(0, 256, (1, 3, 32, 48), dtype=torch.uint8)
    hidden, _ = tiny_clip.embed_image(images)
    block = tiny_clip.blocks[-1]
    normed = tiny_clip.attention_input(block, hidden).detach().requires_grad_()
    output, _ = tiny_clip.attend(block, hidden, normed)
    scores = tiny_clip.project(tiny_clip.final_norm(output)).mean(dim=1)[0, :classes].softmax(dim=0)
    found = [score_gradients(scores, normed, together=together) for together in (False, True)]
    assert found[0].shape == (classes, *normed.shape[1:])
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-7)
