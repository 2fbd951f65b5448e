"""Dense CRF: fully connected mean field, whose messages are filtered on a permutohedral lattice.

`dense_crf` is the door. Neither numba nor torch is imported before it is called.
"""

from __future__ import annotations

from weakclip.crf.dense import dense_crf
from weakclip.crf.params import COCO_CRF, LOSS_CRF, VOC_CRF, CRFParams, FeatureKernel, Kernel

__all__ = ["COCO_CRF", "LOSS_CRF", "VOC_CRF", "CRFParams", "FeatureKernel", "Kernel", "dense_crf"]
