"""Dense CRF: fully connected mean field, whose messages are filtered on a permutohedral lattice.

`dense_crf` is the entry point; `release` gives back the memory that it keeps from call to call. Neither numba nor torch
is imported before `dense_crf` is called.
"""

from __future__ import annotations

from weakclip.crf.cpu.workspace import release
from weakclip.crf.dense import dense_crf
from weakclip.crf.params import COCO_CRF, LOSS_CRF, VOC_CRF, CRFParams, FeatureKernel, Kernel, PARParams
from weakclip.crf.refine import Refinement, describe_refinement, refine

__all__ = [
    "COCO_CRF",
    "LOSS_CRF",
    "VOC_CRF",
    "CRFParams",
    "FeatureKernel",
    "Kernel",
    "PARParams",
    "Refinement",
    "dense_crf",
    "describe_refinement",
    "refine",
    "release",
]
