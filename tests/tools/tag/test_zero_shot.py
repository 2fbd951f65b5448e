"""Laws of zero-shot tagging: scores are CLIP's own, and depend on an image and its classes single."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from weakclip.clip import FrozenCLIP
from weakclip.datasets.classes import ClassSet
from weakclip.datasets.images import write_png
from weakclip.errors import DataError
from weakclip.tools.tag.zero_shot import Tagger, TagSettings, tag_windows

CLASSES = ClassSet(
    names=("background", "cat", "dog", "sofa"),
    prompts=("background", "a cat", "dog", "couch"),
    background_prompts=("sky", "road"),
)


def window(seed: int, side: int = 32) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)


def test_scores_are_a_softmax_over_prompts_and_background_prompts(tiny_clip: FrozenCLIP) -> None:
    scores = Tagger(tiny_clip, CLASSES, TagSettings(prompt_template="see {}!")).scores([[window(0)]])
    texts = [f"see {word}!" for word in ("a cat", "dog", "couch", "sky", "road")]
    text = F.normalize(tiny_clip.encode_text(texts), dim=-1)
    image = torch.from_numpy(window(0)).permute(2, 0, 1)[None].to(tiny_clip.device)
    token = F.normalize(tiny_clip.encode_image(image).tokens[:, 0], dim=-1)
    expected = (tiny_clip.logit_scale * token @ text.T).softmax(dim=-1)[0, :3]
    assert scores.shape == (1, 3)
    assert np.allclose(scores[0], expected.cpu().numpy(), atol=1e-6)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 100])
def test_an_image_has_the_score_of_its_best_window_whatever_the_batches(tiny_clip: FrozenCLIP, batch_size: int) -> None:
    tagger = Tagger(tiny_clip, CLASSES, TagSettings(batch_size=batch_size))
    windows = [window(seed) for seed in range(6)]
    single = np.concatenate([tagger.scores([[each]]) for each in windows])
    images = [windows[:1], windows[1:4], windows[4:]]
    expected = np.stack([single[:1].max(axis=0), single[1:4].max(axis=0), single[4:].max(axis=0)])
    assert np.allclose(tagger.scores(images), expected, atol=1e-6)


def test_permuting_the_classes_permutes_the_scores(tiny_clip: FrozenCLIP) -> None:
    turned = ClassSet(
        names=("background", "sofa", "cat", "dog"),
        prompts=("background", "couch", "a cat", "dog"),
        background_prompts=("road", "sky"),
    )
    first = Tagger(tiny_clip, CLASSES, TagSettings()).scores([[window(1)]])
    second = Tagger(tiny_clip, turned, TagSettings()).scores([[window(1)]])
    assert np.allclose(first[0, [2, 0, 1]], second[0], atol=1e-6)


def test_without_background_prompts_everyday_ones_stand_beside_the_classes(tiny_clip: FrozenCLIP) -> None:
    tagger = Tagger(tiny_clip, ClassSet.from_foreground(["cat", "sky"]), TagSettings())
    assert tagger.words.count("sky") == 1
    assert "grass" in tagger.words


@pytest.mark.parametrize(
    ("size", "count"), [((32, 32), 1), ((64, 48), 2), ((48, 64), 2), ((10, 65), 7), ((1, 1), 1), ((3, 500), 8)]
)
def test_windows_are_square_and_cover_the_image(tmp_path: Path, size: tuple[int, int], count: int) -> None:
    path = tmp_path / "image.png"
    write_png(path, np.full((*size, 3), 77, np.uint8))
    windows = tag_windows(path, 32)
    assert len(windows) == count
    assert {each.shape for each in windows} == {(32, 32, 3)}
    assert all((each == 77).all() for each in windows)


def test_an_object_at_either_end_is_in_a_window(tmp_path: Path) -> None:
    image = np.zeros((32, 80, 3), np.uint8)
    image[:, :8, 0], image[:, -8:, 1] = 255, 255
    write_png(tmp_path / "wide.png", image)
    windows = tag_windows(tmp_path / "wide.png", 32)
    assert windows[0][:, :7, 0].min() > 200
    assert windows[-1][:, -7:, 1].min() > 200


def test_an_image_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("hello")
    with pytest.raises(DataError, match=r"text\.jpg: not an image"):
        tag_windows(tmp_path / "text.jpg", 32)


def test_the_demo_clip_names_what_scenes_show(make_scenes: Callable[[int], Path]) -> None:
    """Far better than chance: 2 of 12 classes are in an image."""
    from weakclip.clip import load_clip
    from weakclip.datasets.scenes import SCENES, ScenesDataset

    folder, dataset = make_scenes(30), ScenesDataset("val", count=30)
    tagger = Tagger(load_clip("demo"), SCENES, TagSettings())
    scores = tagger.scores([tag_windows(folder / f"{name}.png", 128) for name in dataset.names])
    truth = np.array([[k in dataset.labels(i) for k in range(1, 13)] for i in range(30)])
    proposed = scores >= TagSettings().threshold
    assert (proposed & truth).sum() / proposed.sum() > 0.9
    assert (proposed & truth).sum() / truth.sum() > 0.4
    assert np.mean([truth[row, scores[row].argmax()] for row in range(30)]) > 0.9
