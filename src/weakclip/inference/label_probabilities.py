"""Probabilities of the classes that an image's labels leave."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def with_seeds(probs: np.ndarray, seeds: np.ndarray, classes: Sequence[int], share: float) -> np.ndarray:
    """Probabilities in which the seeds have a share: `(1 - s) P_k + s [seeds = k]`.

    A network learns from many images what a class looks like, while the seeds of one image come from its own maps: the
    two make different mistakes.

    Args:
        probs: `(n, H, W)` float.
        seeds: `(H, W)`, the class of every pixel; any other number adds to no class.
        classes: the `n` classes of the rows.
        share: `s`, 0…1.

    Returns:
        `(n, H, W)`, of the dtype of `probs`.

    >>> probs = np.array([0.4, 0.6]).reshape(2, 1, 1)
    >>> with_seeds(probs, np.array([[7]]), [0, 7], 0.5)[:, 0, 0].round(2).tolist()
    [0.2, 0.8]
    """
    seeded = seeds == np.asarray(classes).reshape(-1, 1, 1)
    mixed: np.ndarray = (1 - probs.dtype.type(share)) * probs + seeded * probs.dtype.type(share)
    return mixed


def label_probabilities(
    probs: np.ndarray, kept: np.ndarray, *, keep_foreground: bool, balance: float = 0.0
) -> np.ndarray:
    """Probabilities of the classes that an image can show.

    A network that takes a cat for a dog still knows that something stands there. With `keep_foreground` the probability
    of the classes that are ruled out, `a = 1 - sum_k P_k`, goes to the foreground: `P_k + a P_k / sum_{j >= 1} P_j`
    for `k >= 1`. Without it the kept probabilities are divided by their sum, so that the background takes its share of
    `a`, often nearly all of it.

    The labels also say that every class is there, while a network that has often taken a class for another may see it
    nowhere. `balance` shares the foreground of the image out anew: `P_k` becomes `F Q_k / sum_{j >= 1} Q_j` for
    `k >= 1`, where `F` is the foreground's probability, unchanged, and `Q_k = P_k / m_k^balance` with the mean `m_k` of
    `P_k` over the image. At 1 it is a classifier's correction for classes that are equally frequent (Saerens, Latinne
    and Decaestecker, Neural Computation 2002), with the image's own means as the frequencies that it was trained with.

    Args:
        probs: `(K, H, W)` float, summing to 1 over K.
        kept: `(n,)` indices of the classes that are kept, the background first.
        keep_foreground: whether the foreground keeps what its classes lose.
        balance: the power, 0 for none.

    Returns:
        `(n, H, W)` float32, summing to 1.

    >>> probs = np.array([0.4, 0.1, 0.5]).reshape(3, 1, 1)
    >>> label_probabilities(probs, np.array([0, 1]), keep_foreground=True)[:, 0, 0]
    array([0.4, 0.6], dtype=float32)
    >>> label_probabilities(probs, np.array([0, 1]), keep_foreground=False)[:, 0, 0]
    array([0.8, 0.2], dtype=float32)
    """
    rows: np.ndarray = probs[kept].astype(np.float32)
    np.maximum(rows, np.float32(1e-7), out=rows)  # where all kept classes underflow, they are equally likely
    if keep_foreground and len(kept) > 1:
        foreground = rows[1:].sum(axis=0)
        rows[1:] *= np.maximum(1 - rows[0], foreground) / foreground
    rows /= rows.sum(axis=0, keepdims=True)
    if balance and len(kept) > 2:
        foreground = rows[1:].sum(axis=0)
        rows[1:] /= rows[1:].mean(axis=(1, 2), keepdims=True) ** np.float32(balance)
        rows[1:] *= foreground / rows[1:].sum(axis=0)
    return rows
