"""From a trained network to masks and scores: windows, pseudo masks, metrics, evaluation."""

from weakclip.inference.mask_writing import write_pseudo_masks
from weakclip.inference.metrics import ConfusionMatrix
from weakclip.inference.pseudo_masks import PseudoMaskSettings, pseudo_mask
from weakclip.inference.windows import InferenceSettings, LogitsFunction, predict_batch, predict_probs

__all__ = [
    "ConfusionMatrix",
    "InferenceSettings",
    "LogitsFunction",
    "PseudoMaskSettings",
    "predict_batch",
    "predict_probs",
    "pseudo_mask",
    "write_pseudo_masks",
]
