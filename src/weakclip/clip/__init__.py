"""CLIP, frozen: `load_clip` gives a `FrozenCLIP` from a hub id, a folder, an OpenAI archive, or "demo".

`Encoder` is what the method asks of any encoder, `FrozenEncoder` the base of one's own.
"""

from weakclip.clip.conversion import convert_checkpoint
from weakclip.clip.encoder import BlockEncoder, Encoder, ImageFeatures, check_encoder
from weakclip.clip.frozen_clip import FrozenCLIP
from weakclip.clip.frozen_encoder import FrozenEncoder
from weakclip.clip.load import load_clip
from weakclip.clip.own import load_encoder

__all__ = [
    "BlockEncoder",
    "Encoder",
    "FrozenCLIP",
    "FrozenEncoder",
    "ImageFeatures",
    "check_encoder",
    "convert_checkpoint",
    "load_clip",
    "load_encoder",
]
