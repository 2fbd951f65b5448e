"""Scores of predicted masks: one confusion matrix over a whole data set, and what follows from it."""

from __future__ import annotations

import numpy as np
import torch

from weakclip.datasets.classes import IGNORE_INDEX
from weakclip.errors import DataError


class ConfusionMatrix:
    """Counts of (true class, predicted class) pairs over every pixel of a data set, exact in int64.

    With `TP_k`, `FP_k` and `FN_k` from the counts, the intersection over union of class `k` is
    `TP_k / (TP_k + FP_k + FN_k)`, over the whole data set and not image by image (PASCAL VOC: Everingham et al.,
    IJCV 2010). A class that neither the truth nor the prediction shows has no score: NaN, left out of every mean.

    Args:
        num_classes: `K`, with the background.
        ignore_index: true value of pixels that are not scored.

    Raises:
        DataError: fewer than one class.

    >>> scores = ConfusionMatrix(num_classes=3)
    >>> scores.update(prediction=np.array([[0, 1, 1]]), target=np.array([[0, 1, 255]]))
    >>> scores.matrix.tolist()
    [[1, 0, 0], [0, 1, 0], [0, 0, 0]]
    >>> scores.iou().tolist()
    [1.0, 1.0, nan]
    >>> scores.mean_iou()
    1.0
    """

    def __init__(self, num_classes: int, ignore_index: int = IGNORE_INDEX) -> None:
        if num_classes < 1:
            raise DataError(f"a confusion matrix has at least one class; found {num_classes}")
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.matrix = np.zeros((num_classes, num_classes), dtype=np.int64)
        """`(K, K)` int64 pixel counts: row = true class, column = predicted class."""

    def update(self, prediction: np.ndarray | torch.Tensor, target: np.ndarray | torch.Tensor) -> None:
        """Add the pixels of one image or a batch. On an error nothing is counted.

        Args:
            prediction: class indices `(H, W)` or `(B, H, W)`, any integer type, 0…K-1 wherever the target is scored.
            target: true classes of the same shape, 0…K-1 or `ignore_index`.

        Raises:
            DataError: unequal shapes, values that are not integers, or a scored value that is no class.
        """
        predicted, true = _as_integers(prediction, "prediction"), _as_integers(target, "target")
        if predicted.shape != true.shape:
            raise DataError(f"prediction {predicted.shape} and target {true.shape} differ in shape")
        scored = true != self.ignore_index
        predicted, true = predicted[scored], true[scored]
        if true.size == 0:
            return
        for values, role in ((predicted, "prediction"), (true, "target")):
            low, high = int(values.min()), int(values.max())
            if low < 0 or high >= self.num_classes:
                found = low if low < 0 else high
                raise DataError(f"{role} holds {found}; expected class indices 0 to {self.num_classes - 1}")
        pairs = true.astype(np.int64) * self.num_classes + predicted.astype(np.int64)
        self.matrix += np.bincount(pairs, minlength=self.num_classes**2).reshape(self.matrix.shape)

    def merge(self, other: ConfusionMatrix) -> None:
        """Add the counts of another matrix, for example of another process.

        Raises:
            DataError: another number of classes.
        """
        if other.num_classes != self.num_classes:
            raise DataError(f"cannot merge scores of {other.num_classes} classes into {self.num_classes}")
        self.matrix += other.matrix

    def iou(self) -> np.ndarray:
        """Intersection over union of each class, `(K,)` float64 in 0…1; NaN where truth and prediction lack it."""
        return iou_of(self.overlaps())

    def overlaps(self) -> np.ndarray:
        """Pixels of intersection and of union of each class, `(2, K)` int64."""
        hits = np.diagonal(self.matrix)
        return np.stack([hits, self.matrix.sum(axis=0) + self.matrix.sum(axis=1) - hits])

    def mean_iou(self) -> float:
        """Mean of `iou` over the classes that have one, 0…1; NaN when nothing was counted."""
        scores = self.iou()
        present = scores[~np.isnan(scores)]
        return float(present.mean()) if present.size else float("nan")

    def precision(self) -> np.ndarray:
        """Share of the pixels predicted as a class that are of it, `(K,)` float64; NaN where never predicted."""
        return _ratio(np.diagonal(self.matrix), self.matrix.sum(axis=0))

    def recall(self) -> np.ndarray:
        """Share of the pixels of a class that are predicted as it, `(K,)` float64; NaN where the truth lacks it."""
        return _ratio(np.diagonal(self.matrix), self.matrix.sum(axis=1))

    def pixel_accuracy(self) -> float:
        """Share of the scored pixels that are right, 0…1; NaN when nothing was counted."""
        return float(_ratio(np.trace(self.matrix), self.matrix.sum()))


def iou_of(overlaps: np.ndarray) -> np.ndarray:
    """Intersection over union of each class from `ConfusionMatrix.overlaps`, or a sum of them."""
    hits, unions = overlaps
    return _ratio(hits, unions)


DRAWS = 1000
"""Samples of a bootstrap."""


def bootstrap_iou(overlaps: np.ndarray) -> np.ndarray:
    """Intersection over union of each class when the images are drawn again, with replacement (Efron, 1979).

    Args:
        overlaps: `(n, 2, K)` int64, `ConfusionMatrix.overlaps` of each image.

    Returns:
        `(DRAWS, K)` float64 in 0…1, NaN where truth and prediction lack a class; the same at every call.
    """
    rng, count = np.random.default_rng(0), len(overlaps)
    drawn = (overlaps[rng.integers(count, size=count)].sum(axis=0) for _ in range(DRAWS))
    return np.stack([iou_of(each) for each in drawn])


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full(np.shape(whole), np.nan), where=whole > 0)


def _as_integers(values: np.ndarray | torch.Tensor, role: str) -> np.ndarray:
    array = values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)
    if array.dtype.kind not in "iu":
        raise DataError(f"{role} is {array.dtype}; expected integer class indices")
    return array
