"""The one place where stages sharpen probabilities at the edges of an image: dense CRF or PAR, as the settings say."""

from __future__ import annotations

import numpy as np

from weakclip.crf.dense import dense_crf
from weakclip.crf.params import CRFParams, PARParams

Refinement = CRFParams | PARParams
"""Values of a setting `crf`, beside null for none."""


def refine(image: np.ndarray, probs: np.ndarray, how: Refinement, *, device: str = "cpu") -> np.ndarray:
    """Probabilities that follow the image's edges.

    Args:
        image: `(H, W, 3)` uint8 RGB.
        probs: `(K, H, W)` float, summing to 1 over K.
        how: a dense CRF, which is compiled and runs on cores; or PAR, which runs on the device.
        device: torch device of the network.

    Returns:
        `(K, H, W)` float32, summing to 1 over K.

    Raises:
        DataError: shapes that do not fit, or no probabilities.
    """
    if isinstance(how, CRFParams):
        return dense_crf(image, probs, how)
    import torch

    from weakclip.crf.par import refine_batch

    pixels = torch.from_numpy(image.copy()).to(device).movedim(-1, 0)
    rows = torch.from_numpy(np.ascontiguousarray(probs, np.float32)).to(device)
    refined: np.ndarray = refine_batch(pixels[None], rows[None], how)[0].cpu().numpy()
    return refined


def describe_refinement(how: Refinement) -> str:
    """How probabilities are sharpened, in a few words.

    >>> describe_refinement(PARParams())
    'PAR at 1 2 4 8 12 24 pixels, 10 iterations'
    """
    if isinstance(how, PARParams):
        return f"PAR at {' '.join(map(str, how.dilations))} pixels, {how.iterations} iterations"
    return ", ".join([*map(str, how.kernels), f"{how.iterations} iterations"])
