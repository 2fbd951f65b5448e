"""Batches of samples for a torch `DataLoader`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from weakclip.datasets.base import Sample


def collate_samples(samples: Sequence[Sample], *, num_classes: int) -> dict[str, Any]:
    """Put samples into a batch: `DataLoader(dataset, collate_fn=functools.partial(collate_samples, num_classes=K))`.

    Images of one size are stacked; where sizes differ, they stay a list. Image-level labels become zeros and ones.

    Args:
        samples: of one data set.
        num_classes: `K`, with the background.

    Returns:
        `name`: B strings; `image`: `(B, 3, H, W)` uint8, or a list of B `(3, H, W)`; `labels`: `(B, K)` float32, 1
        for a class that the image shows; column 0, the background, is 0.

    >>> import numpy as np
    >>> samples = [Sample(name, np.zeros((4, 6, 3), np.uint8), labels) for name, labels in (("a", (1,)), ("b", (1, 2)))]
    >>> batch = collate_samples(samples, num_classes=3)
    >>> tuple(batch["image"].shape), batch["labels"].tolist()
    ((2, 3, 4, 6), [[0.0, 1.0, 0.0], [0.0, 1.0, 1.0]])
    """
    images = [torch.from_numpy(sample.image).permute(2, 0, 1).contiguous() for sample in samples]
    labels = torch.zeros(len(samples), num_classes)
    for row, sample in zip(labels, samples, strict=True):
        row[list(sample.labels)] = 1
    one_size = len({image.shape for image in images}) == 1
    return {
        "name": [sample.name for sample in samples],
        "image": torch.stack(images) if one_size else images,
        "labels": labels,
    }
