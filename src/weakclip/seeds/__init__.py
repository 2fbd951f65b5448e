"""Seeds: where the classes of an image are, found from its image-level labels only."""

from weakclip.seeds.affinitynet.refine import AffinityLabelSettings, AffinityRefiner, RandomWalkSettings, affinity_label
from weakclip.seeds.base import CAM, BatchedSeedMethod, SeedMasks, SeedMethod, SeedSettings, seed_masks, sharpened_masks
from weakclip.seeds.clip_gradcam import ClipGradCAM, GradCAMSettings
from weakclip.seeds.cosine import CosineSeeds, CosineSettings
from weakclip.seeds.imported import ImportedCAMs, ImportedMasks
from weakclip.seeds.mctformer.cam import MCTformerCAM, MCTformerCAMSettings
from weakclip.seeds.patch_text import PatchText, PatchTextSettings

__all__ = [
    "CAM",
    "AffinityLabelSettings",
    "AffinityRefiner",
    "BatchedSeedMethod",
    "ClipGradCAM",
    "CosineSeeds",
    "CosineSettings",
    "GradCAMSettings",
    "ImportedCAMs",
    "ImportedMasks",
    "MCTformerCAM",
    "MCTformerCAMSettings",
    "PatchText",
    "PatchTextSettings",
    "RandomWalkSettings",
    "SeedMasks",
    "SeedMethod",
    "SeedSettings",
    "affinity_label",
    "seed_masks",
    "sharpened_masks",
]
