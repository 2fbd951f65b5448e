"""The seed methods that a configuration can name, by the classes of their settings: one line a method."""

from __future__ import annotations

from weakclip.seeds.clip_gradcam import ClipGradCAMSeeds
from weakclip.seeds.cosine import CosineSeedSettings
from weakclip.seeds.imported import ImportedCAMSeeds, ImportedMaskSeeds
from weakclip.seeds.kinds import CAMSeeds, OwnSeeds, SeedStageSettings
from weakclip.seeds.mctformer.kind import MCTformerSeeds
from weakclip.seeds.patch_text import PatchTextSeeds

__all__ = [
    "AnySeeds",
    "CAMSeeds",
    "ClipGradCAMSeeds",
    "CosineSeedSettings",
    "ImportedCAMSeeds",
    "ImportedMaskSeeds",
    "MCTformerSeeds",
    "OwnSeeds",
    "PatchTextSeeds",
    "SeedStageSettings",
]

AnySeeds = (
    ClipGradCAMSeeds  # the first one counts where nothing is named
    | PatchTextSeeds
    | CosineSeedSettings
    | MCTformerSeeds
    | ImportedCAMSeeds
    | ImportedMaskSeeds
    | OwnSeeds
)
