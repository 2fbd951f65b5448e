"""Seeds: where the classes of an image are, told from its labels alone."""

from weakclip.seeds.base import CAM, SeedMasks, SeedMethod, SeedSettings, seed_masks
from weakclip.seeds.clip_gradcam import ClipGradCAM, GradCAMSettings

__all__ = ["CAM", "ClipGradCAM", "GradCAMSettings", "SeedMasks", "SeedMethod", "SeedSettings", "seed_masks"]
