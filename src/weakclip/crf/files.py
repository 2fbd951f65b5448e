"""The dense CRF on files: an image and its label probabilities in, marginals or a palette mask out."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from weakclip.crf.dense import dense_crf
from weakclip.crf.params import CRFParams
from weakclip.datasets.classes import voc_palette
from weakclip.datasets.images import read_rgb, write_mask
from weakclip.errors import DataError, first_line
from weakclip.store.files import atomic_write
from weakclip.store.untrusted_npy import read_npz

PROBS = "probs"
"""Name of the probabilities in an `.npz` with several arrays."""

_MAX_PALETTE = 256


def read_probs(path: Path | str) -> np.ndarray:
    """Read the label probabilities of one image; nothing in the file is run.

    Args:
        path: `.npy`, or `.npz` with one array or with one that is called `probs`.

    Returns:
        `(K, H, W)`, floating point as in the file. That they are probabilities is checked by `dense_crf`.

    Raises:
        DataError: no such file, not such a file, several arrays without `probs`, or an array of other kind or shape.
    """
    try:
        if zipfile.is_zipfile(path):
            probs = _only_array(path, read_npz(path))
        else:
            probs = np.asarray(np.load(path, allow_pickle=False))
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; expected probabilities (K, H, W) as .npy or .npz") from None
    except DataError:
        raise
    except Exception as error:  # a damaged archive or header raises nearly anything
        reason = first_line(error)
        raise DataError(f"{path}: not a .npy or .npz file of plain arrays ({reason}); write it with np.save") from None
    if probs.ndim != 3 or not np.issubdtype(probs.dtype, np.floating):
        found = f"{probs.shape} {probs.dtype}"
        raise DataError(f"{path}: holds {found}; expected floating-point probabilities (K, H, W), as after a softmax")
    return probs


def _only_array(path: Path | str, arrays: dict[str, np.ndarray]) -> np.ndarray:
    if PROBS not in arrays and len(arrays) != 1:
        found = ", ".join(arrays) or "nothing"
        raise DataError(f"{path}: holds {found}; expected one array, or one that is called {PROBS}")
    return arrays[PROBS if PROBS in arrays else next(iter(arrays))]


def crf_file(image: Path | str, probs: Path | str, out: Path | str, params: CRFParams) -> None:
    """Sharpen the probabilities of one image file.

    Args:
        image: any image that `read_rgb` reads.
        probs: its label probabilities, as `read_probs` reads them, at the image's size.
        out: `.npy` for the marginals, `(K, H, W)` float32; `.png` for the most probable label of every pixel, a mask
            with the VOC palette, K ≤ 256. Appears whole or not at all.
        params: kernels and iterations.

    Raises:
        DataError: an input that cannot be read or does not fit, or another ending.
        StorageError: a place that cannot be written.
    """
    out = Path(out)
    ending = out.suffix.lower()
    if ending not in (".npy", ".png"):
        raise DataError(f"{out}: ends in {ending or 'nothing'}; expected .npy for marginals or .png for a mask")
    pixels, array = read_rgb(image), read_probs(probs)
    if ending == ".png" and len(array) > _MAX_PALETTE:
        raise DataError(f"{probs}: {len(array)} labels; a palette PNG holds {_MAX_PALETTE} at most, write .npy")
    try:
        marginals = dense_crf(pixels, array, params)
    except DataError as error:
        raise DataError(f"{probs} for {image}: {error}") from None
    if ending == ".png":
        write_mask(out, marginals.argmax(axis=0).astype(np.uint8), voc_palette())
    else:
        with atomic_write(out) as file:
            np.save(file, marginals)
