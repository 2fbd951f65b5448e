"""Laws of class attributes: what a file may hold, k-means, and what sentences add to words."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml

from weakclip.clip import FrozenCLIP
from weakclip.config import parse_config
from weakclip.datasets.classes import ClassSet
from weakclip.errors import DataError, RunError
from weakclip.pipeline import run_stage
from weakclip.pipeline.stages import stages_of
from weakclip.seeds import PatchText, PatchTextSettings
from weakclip.seeds.attributes import (
    LARGEST_FILE,
    MOST_SENTENCES,
    attribute_centers,
    enriched,
    k_means,
    read_attributes,
)

CLASSES = ClassSet.from_foreground(["cat", "dog", "bird"], background_prompts=["sky", "sea"])
SENTENCES = {"dog": ["it barks", "it has a wet nose"], "bird": ["it flies"], "cat": ["it purrs", "it has fur"]}
IN_ORDER = (("it purrs", "it has fur"), ("it barks", "it has a wet nose"), ("it flies",))


def written(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content) if path.suffix == ".json" else yaml.safe_dump(content))
    return path


@pytest.mark.parametrize("name", ["a.yaml", "a.json", "a.JSON", "a.yml"])
def test_sentences_come_in_the_order_of_the_classes(tmp_path: Path, name: str) -> None:
    path = written(tmp_path / name.lower(), SENTENCES).rename(tmp_path / name)
    assert read_attributes(path, CLASSES) == IN_ORDER


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (["cat"], "`class: [sentence, …]` expected; found ['cat']"),
        ({**SENTENCES, "dgo": ["it barks"]}, "unknown class 'dgo'; did you mean 'dog'?"),
        ({**SENTENCES, "background": ["sky"]}, "'background' is not an image-level label"),
        ({**SENTENCES, "c" * 10_000: ["x"]}, "unknown class"),
        ({"cat": ["it purrs"], "dog": ["it barks"]}, "class 'bird': a list of one or more sentences expected"),
        ({**SENTENCES, "bird": []}, "class 'bird': a list of one or more sentences expected; found []"),
        ({**SENTENCES, "bird": "it flies"}, "class 'bird': a list of one or more sentences expected; found 'it flies'"),
        ({**SENTENCES, "bird": ["it flies", 3]}, "class 'bird': a sentence in one line expected; found 3"),
        ({**SENTENCES, "bird": [" "]}, "class 'bird': a sentence in one line expected; found ' '"),
        ({**SENTENCES, "bird": ["it\x1b[2J flies"]}, "class 'bird': a sentence in one line expected"),
        ({**SENTENCES, "bird": ["x" * 1001]}, "class 'bird': at most 1000 characters expected; found 1001"),
        ({**SENTENCES, "bird": ["x"] * MOST_SENTENCES}, "20,004 sentences; at most 20,000 expected"),
    ],
)
def test_mistakes_are_one_line_that_names_the_file(tmp_path: Path, content: Any, message: str) -> None:
    path = written(tmp_path / "a.json", content)
    with pytest.raises(DataError) as caught:
        read_attributes(path, CLASSES)
    said = str(caught.value)
    assert said.startswith(f"{path}: ") and message in said and said.isprintable() and len(said) < 1000


def test_files_that_cannot_be_read_are_one_line(tmp_path: Path) -> None:
    files = {
        "no.json": None,
        "large.json": b" " * (LARGEST_FILE + 1),
        "bin.json": b"\xff\xfe",
        "half.json": b'{"cat": [',
    }
    for name, content in files.items():
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError) as caught:
            read_attributes(tmp_path / name, CLASSES)
        assert str(caught.value).startswith(f"{tmp_path / name}: ") and "\n" not in str(caught.value)


def best_partition(points: np.ndarray, count: int) -> float:
    """The least sum of squared distances to the means, over all partitions."""
    least = np.inf
    for labels in itertools.product(range(count), repeat=len(points)):
        groups = [points[np.array(labels) == group] for group in set(labels)]
        least = min(least, sum(float(((own - own.mean(axis=0)) ** 2).sum()) for own in groups))
    return least


def test_k_means_finds_the_best_partition_of_a_few_points() -> None:
    points = np.random.default_rng(0).normal(size=(7, 2))
    found = []
    for seed in range(8):
        centers = k_means(points, 3, seed=seed)
        found.append(float(((points[:, None] - centers) ** 2).sum(axis=2).min(axis=1).sum()))
    assert min(found) == pytest.approx(best_partition(points, 3))


def test_k_means_ends_where_every_centre_is_the_mean_of_its_points() -> None:
    points = np.random.default_rng(1).normal(size=(200, 5))
    centers = k_means(points, 9, seed=3)
    labels = ((points[:, None] - centers) ** 2).sum(axis=2).argmin(axis=1)
    for center in range(9):
        np.testing.assert_allclose(centers[center], points[labels == center].mean(axis=0), atol=1e-9)
    assert (centers == k_means(points, 9, seed=3)).all()
    assert not np.allclose(np.sort(centers, axis=0), np.sort(k_means(points, 9, seed=4), axis=0))


def test_k_means_with_as_many_centres_as_points_keeps_the_points() -> None:
    points = np.random.default_rng(0).normal(size=(6, 3))
    centers = k_means(points, 6, seed=0)
    np.testing.assert_allclose(np.sort(centers, axis=0), np.sort(points, axis=0))


def test_k_means_takes_points_that_are_all_the_same() -> None:
    np.testing.assert_allclose(k_means(np.ones((4, 3)), 2, seed=0), np.ones((2, 3)))


def test_one_centre_is_the_mean_of_the_sentences(tiny_clip: FrozenCLIP, tmp_path: Path) -> None:
    centers = attribute_centers(tiny_clip, IN_ORDER, 1, seed=0, origin=tmp_path)
    texts = [sentence for own in IN_ORDER for sentence in own]
    expected = F.normalize(tiny_clip.encode_text(texts), dim=-1).mean(dim=0, keepdim=True)
    torch.testing.assert_close(centers, expected)


def test_there_are_no_more_centres_than_sentences(tiny_clip: FrozenCLIP, tmp_path: Path) -> None:
    centers = attribute_centers(tiny_clip, (*IN_ORDER, ("it flies",)), 112, seed=0, origin=tmp_path)
    assert centers.shape == (5, tiny_clip.embed_dim)


def test_a_sentence_that_is_too_long_for_the_clip_names_the_file(tiny_clip: FrozenCLIP, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.json: text .* makes \d+ tokens"):
        attribute_centers(tiny_clip, (("word " * 190,),), 2, seed=0, origin=tmp_path / "a.json")


def test_words_move_towards_the_centres_that_hold_the_mass() -> None:
    text = F.normalize(torch.randn(3, 8, dtype=torch.float64), dim=-1)
    centers = F.normalize(torch.randn(10, 8, dtype=torch.float64), dim=-1)
    found = enriched(text, centers, 20.0)
    for own, result in zip(text, found, strict=True):  # one after the other, the largest first
        weights = (20.0 * centers @ own).softmax(dim=0)
        mass, sum_of_centers = 0.0, torch.zeros(8, dtype=torch.float64)
        for index in weights.argsort(descending=True):
            if mass < 0.9:
                mass += float(weights[index])
                sum_of_centers += weights[index] * centers[index]
        torch.testing.assert_close(result, F.normalize(own + sum_of_centers / mass, dim=0))
    order = torch.randperm(10)
    torch.testing.assert_close(enriched(text, centers[order], 20.0), found)
    torch.testing.assert_close(enriched(text[[2, 0, 1]], centers, 20.0), found[[2, 0, 1]])


def test_a_large_scale_takes_the_nearest_centre_alone() -> None:
    text, centers = F.normalize(torch.randn(2, 6), dim=-1), F.normalize(torch.randn(5, 6), dim=-1)
    nearest = centers[(text @ centers.T).argmax(dim=-1)]
    torch.testing.assert_close(enriched(text, centers, 1e4), F.normalize(text + nearest, dim=-1))


def test_sentences_change_the_classes_and_not_the_background(tiny_clip: FrozenCLIP, tmp_path: Path) -> None:
    path = written(tmp_path / "a.yaml", SENTENCES)
    plain = PatchText(tiny_clip, CLASSES)
    told = PatchText(tiny_clip, CLASSES, PatchTextSettings(attributes=str(path), attribute_centers=3), seed=5)
    again = PatchText(tiny_clip, CLASSES, PatchTextSettings(attributes=str(path), attribute_centers=3), seed=5)
    assert torch.equal(told.background_text, plain.background_text)
    assert torch.equal(told.foreground_text, again.foreground_text)
    assert not torch.allclose(told.foreground_text, plain.foreground_text, atol=1e-2)
    torch.testing.assert_close(told.foreground_text.norm(dim=-1), torch.ones(3, device=tiny_clip.device))


def test_the_stage_is_made_anew_where_the_file_changes(
    make_tiny_clip: Callable[..., FrozenCLIP], tmp_path: Path
) -> None:
    clip = make_tiny_clip()
    clip.model.save_pretrained(tmp_path / "clip")
    clip.tokenizer.save_pretrained(tmp_path / "clip")
    names = ("cat", "rabbit", "bird", "fish", "balloon", "clock", "car", "house", "cup", "mushroom", "umbrella", "boat")
    path = written(tmp_path / "a.yaml", {name: [f"it is a {name}", "it is drawn"] for name in names})
    values = {
        "data": {"dataset": "scenes", "train_limit": 2, "val_split": None, "scene_size": 64},
        "clip": {"source": str(tmp_path / "clip")},
        "seeds": {"method": "patch_text", "patch_text": {"attributes": str(path)}},
    }
    config = parse_config(values, origin="test")
    assert run_stage(config, tmp_path / "run", "seeds").ran == ("seeds",)
    assert run_stage(config, tmp_path / "run", "seeds").skipped == ("seeds",)
    written(path, {name: [f"it looks like a {name}"] for name in names})
    with pytest.raises(RunError, match=r"seeds \(data \(class attributes\) changed\); add --redo"):
        run_stage(config, tmp_path / "run", "seeds")
    assert run_stage(config, tmp_path / "run", "seeds", redo=True).ran == ("seeds",)
    unread = parse_config({**values, "seeds": {"method": "clip_gradcam"}}, origin="test")
    assert "class attributes" in stages_of(config)["seeds"].data
    assert "class attributes" not in stages_of(unread)["seeds"].data
