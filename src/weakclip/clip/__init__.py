"""CLIP, frozen: `load_clip` gives a `FrozenCLIP` from a hub id, a folder, an OpenAI archive, or "demo"."""

from weakclip.clip.frozen_clip import FrozenCLIP
from weakclip.clip.load import load_clip
from weakclip.clip.vision import ImageFeatures

__all__ = ["FrozenCLIP", "ImageFeatures", "load_clip"]
