"""Sentences about classes, and what they add to the classes' words (ExCEL's text semantic enrichment).

    dog: [a dog has four legs, …]    the file: class name → sentences
    centres = k-means of the sentences' unit embeddings, those of all classes together
    text'   = normalize(text + Σ w · centre)    w = softmax(s · text · centre), over the centres with 90 % of its mass

References:
    Yang et al., "Exploring CLIP's Dense Knowledge for Weakly Supervised Semantic Segmentation" (ExCEL), CVPR 2025: 20
    sentences a class from a language model, 112 centres for PASCAL VOC and 224 for MS COCO, `s = 1`. Its released code
    keeps 90 % of the centres, which at `s = 1` is nearly the same as 90 % of the mass.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from weakclip.clip import Encoder
from weakclip.datasets.classes import LONGEST_NAME, ClassSet
from weakclip.errors import DataError
from weakclip.store.untrusted_text import is_plain, parse_json, parse_yaml, short

KEPT_MASS = 0.9
"""Share of the softmax's mass that is kept: the rest is of centres that have nothing to do with the class."""

LARGEST_FILE = 4 * 2**20
"""Bytes of an attributes file at most; 80 classes with 20 sentences each are 150 KB."""

MOST_SENTENCES, LONGEST_SENTENCE = 20_000, 1_000
"""Sentences in all, and characters of one, at most."""

MOST_CENTERS = 1_024

_ROUNDS = 100
_BATCH = 64


def read_attributes(path: Path, class_set: ClassSet) -> tuple[tuple[str, ...], ...]:
    """Sentences of every foreground class, from YAML, or from JSON where the name ends in `.json`.

    Args:
        path: a mapping of class names to lists of sentences.
        class_set: its foreground classes, each of which has to be there.

    Returns:
        The sentences of the classes 1, 2, … in the file's order.

    Raises:
        DataError: no such file, one that is too large, neither YAML nor JSON, an unknown class or one that is missing,
            or what is no list of short sentences without control characters.
    """
    content = _content(path)
    try:
        if not isinstance(content, dict):
            raise DataError(f"`class: [sentence, …]` expected; found {short(content)}")
        for name in content:
            known = isinstance(name, str) and len(name) <= LONGEST_NAME
            class_set.foreground_indices([name if known else short(name)])
        return _checked(content, class_set)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None


def _content(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            raw = file.read(LARGEST_FILE + 1)
        if len(raw) > LARGEST_FILE:
            raise DataError(f"{path}: more than {LARGEST_FILE >> 20} MiB; expected some sentences for each class")
        text = raw.decode("utf-8-sig")
        return parse_json(text) if path.suffix.lower() == ".json" else parse_yaml(text)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); expected a file with sentences") from None
    except ValueError as error:
        kind = "JSON" if path.suffix.lower() == ".json" else "YAML"
        raise DataError(f"{path}: not a {kind} file ({error})") from None


def _checked(content: dict[str, Any], class_set: ClassSet) -> tuple[tuple[str, ...], ...]:
    found = []
    for name in class_set.names[1:]:
        sentences = content.get(name)
        if not isinstance(sentences, list) or not sentences:
            raise DataError(f"class {name!r}: a list of one or more sentences expected; found {short(sentences)}")
        for sentence in sentences:
            if not isinstance(sentence, str) or not sentence.strip() or not is_plain(sentence):
                raise DataError(f"class {name!r}: a sentence in one line expected; found {short(sentence)}")
            if len(sentence) > LONGEST_SENTENCE:
                raise DataError(
                    f"class {name!r}: at most {LONGEST_SENTENCE} characters expected; found {len(sentence)}"
                )
        found.append(tuple(sentences))
    if sum(map(len, found)) > MOST_SENTENCES:
        raise DataError(f"{sum(map(len, found)):,} sentences; at most {MOST_SENTENCES:,} expected")
    return tuple(found)


def attribute_centers(
    clip: Encoder, sentences: tuple[tuple[str, ...], ...], count: int, *, seed: int, origin: Path
) -> Tensor:
    """k-means centres of all sentences' unit embeddings; a sentence that is there twice counts twice.

    Args:
        clip: the CLIP.
        sentences: of each class.
        count: centres; no more than there are different sentences.
        seed: of the centres that k-means starts from.
        origin: the file, for messages.

    Returns:
        `(min(count, …), E)` float32, not of unit length, on the CLIP's device.

    Raises:
        DataError: a sentence that is longer than the text tower reads.
    """
    texts = [sentence for own in sentences for sentence in own]
    try:
        parts = [clip.encode_text(texts[first : first + _BATCH]) for first in range(0, len(texts), _BATCH)]
    except DataError as error:
        raise DataError(f"{origin}: {error}") from None
    points = F.normalize(torch.cat(parts), dim=-1).double().cpu().numpy()
    centers = k_means(points, min(count, len(set(texts))), seed=seed)
    return torch.from_numpy(centers).to(device=clip.device, dtype=parts[0].dtype)


def k_means(points: np.ndarray, count: int, *, seed: int) -> np.ndarray:
    """Lloyd's k-means from k-means++ centres: the same seed gives the same centres.

    A centre that loses all its points moves to the point that is farthest from its own centre.

    Args:
        points: `(n, D)` float64.
        count: centres, 1 to n.
        seed: of the start.

    Returns:
        `(count, D)` float64.

    References:
        Arthur and Vassilvitskii, "k-means++: The Advantages of Careful Seeding", SODA 2007.
    """
    centers = _start(points, count, np.random.default_rng(seed))
    labels = np.full(len(points), -1)
    for _ in range(_ROUNDS):
        distances = _squared_distances(points, centers)
        before, labels = labels, distances.argmin(axis=1)
        if (labels == before).all():
            break
        own = distances[np.arange(len(points)), labels]
        for center in range(count):
            members = points[labels == center]
            if len(members):
                centers[center] = members.mean(axis=0)
            else:
                farthest = int(own.argmax())
                centers[center], own[farthest] = points[farthest], -1.0
    return centers


def _start(points: np.ndarray, count: int, random: np.random.Generator) -> np.ndarray:
    """k-means++: each next centre is a point drawn with a chance that grows with its squared distance to the others."""
    chosen = [int(random.integers(len(points)))]
    nearest = _squared_distances(points, points[chosen])[:, 0]
    while len(chosen) < count:
        total = nearest.sum()
        chances = nearest / total if total > 0 else np.full(len(points), 1 / len(points))
        chosen.append(int(random.choice(len(points), p=chances)))
        nearest = np.minimum(nearest, _squared_distances(points, points[chosen[-1:]])[:, 0])
    return points[chosen].copy()


def _squared_distances(points: np.ndarray, centers: np.ndarray) -> np.ndarray:
    """`(n, k)`, 0 and up."""
    squares = (points**2).sum(axis=1)[:, None] + (centers**2).sum(axis=1) - 2 * points @ centers.T
    return np.maximum(squares, 0.0)


def enriched(text: Tensor, centers: Tensor, scale: float = 1.0) -> Tensor:
    """Class directions with what the nearest centres add.

    Args:
        text: `(n, E)`, of unit length.
        centers: `(k, E)`.
        scale: factor `s` of the products before the softmax; larger trusts only the nearest centres.

    Returns:
        `(n, E)`, of unit length.
    """
    weights = (scale * text @ centers.T).softmax(dim=-1)
    ordered, order = weights.sort(dim=-1, descending=True)
    kept = ordered.cumsum(dim=-1) - ordered < KEPT_MASS  # the fewest centres that hold the mass, the first one always
    weights = torch.zeros_like(weights).scatter(-1, order, ordered * kept)
    return F.normalize(text + weights / weights.sum(dim=-1, keepdim=True) @ centers, dim=-1)
