"""WeakCLIP: one file for each box of the paper's figure, composed in `weakclip.py`."""

from weakclip.modeling import losses
from weakclip.modeling.ablations import PlainMatching, ResizedPyramid, UnguidedDecoder
from weakclip.modeling.co_attention import CoAttention, match_pixels
from weakclip.modeling.decoder import TextGuidedDecoder
from weakclip.modeling.output import WeakCLIPOutput, mixed_logits
from weakclip.modeling.prompt import LearnablePrompt
from weakclip.modeling.pyramid_adapter import PyramidAdapter
from weakclip.modeling.storage import load_weakclip, save_weakclip
from weakclip.modeling.weakclip import ModelSettings, WeakCLIP, build_weakclip

__all__ = [
    "CoAttention",
    "LearnablePrompt",
    "ModelSettings",
    "PlainMatching",
    "PyramidAdapter",
    "ResizedPyramid",
    "TextGuidedDecoder",
    "UnguidedDecoder",
    "WeakCLIP",
    "WeakCLIPOutput",
    "build_weakclip",
    "load_weakclip",
    "losses",
    "match_pixels",
    "mixed_logits",
    "save_weakclip",
]
