"""Where the seeds come from: one class of settings for each seed method, told apart by `method`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from weakclip.errors import ConfigError
from weakclip.seeds import CosineSettings, GradCAMSettings, PatchTextSettings, SeedSettings
from weakclip.seeds.affinitynet.train import AffinitySettings
from weakclip.seeds.mctformer.train import MCTformerSettings


@dataclass(frozen=True, kw_only=True)
class SeedStageSettings:
    """Settings of every seed method.

    Args:
        method: the kind.
    """

    method: str

    @property
    def reads_clip(self) -> bool:
        """Whether the maps are made by the run's frozen encoder."""
        return isinstance(self, ClipGradCAMSeeds | PatchTextSeeds | CosineSeedSettings)

    @property
    def is_random(self) -> bool:
        """Whether the random seed of the run has a part in the result."""
        return False

    @property
    def sources(self) -> dict[str, str | None]:
        """Files and folders that the method reads, beside the images: what each is, in words, and its name."""
        return {}


@dataclass(frozen=True, kw_only=True)
class CAMSeeds(SeedStageSettings):
    """Seeds that are made of class activation maps.

    Args:
        affinity: an AffinityNet that is trained on the maps and spreads them; None for none. `background_power` of its
            walk then takes the place of that of `masks`.
        masks: how class activation maps become seed masks.
    """

    affinity: AffinitySettings | None = None
    masks: SeedSettings = field(default_factory=SeedSettings)

    @property
    def is_random(self) -> bool:
        """AffinityNet's training is random."""
        return self.affinity is not None

    @property
    def sources(self) -> dict[str, str | None]:
        """The checkpoint that AffinityNet starts from."""
        return {"ResNet38 weights": self.affinity.pretrained} if self.affinity else {}


@dataclass(frozen=True, kw_only=True)
class ClipGradCAMSeeds(CAMSeeds):
    """Maps of the frozen CLIP, by the gradient of the class scores.

    Args:
        gradcam: how the maps are made.
    """

    method: Literal["clip_gradcam"] = "clip_gradcam"
    gradcam: GradCAMSettings = field(default_factory=GradCAMSettings)


@dataclass(frozen=True, kw_only=True)
class PatchTextSeeds(CAMSeeds):
    """Maps of the frozen CLIP, by its patches and the class words, without a gradient.

    Args:
        patch_text: how the maps are made.
    """

    method: Literal["patch_text"] = "patch_text"
    patch_text: PatchTextSettings = field(default_factory=PatchTextSettings)

    @property
    def is_random(self) -> bool:
        """The k-means of the attributes starts at random."""
        return self.patch_text.attributes is not None or super().is_random

    @property
    def sources(self) -> dict[str, str | None]:
        """The file with the attributes of the classes."""
        return {"class attributes": self.patch_text.attributes, **super().sources}


@dataclass(frozen=True, kw_only=True)
class CosineSeedSettings(CAMSeeds):
    """Maps of any encoder, by the cosines of its patches and the class words.

    Args:
        cosine: how the maps are made.
    """

    method: Literal["cosine"] = "cosine"
    cosine: CosineSettings = field(default_factory=CosineSettings)


@dataclass(frozen=True, kw_only=True)
class MCTformerSeeds(CAMSeeds):
    """Maps of an MCTformer+, which is trained on the labels first, or which is there already.

    Args:
        mctformer: which MCTformer+, how it is trained, and how its maps are made.
    """

    method: Literal["mctformer"] = "mctformer"
    mctformer: MCTformerSettings = field(default_factory=MCTformerSettings)

    @property
    def is_random(self) -> bool:
        """Its training is random."""
        return self.mctformer.checkpoint is None or super().is_random

    @property
    def sources(self) -> dict[str, str | None]:
        """The weights that it has, or that its training starts from."""
        return {"MCTformer+ weights": self.mctformer.source, **super().sources}


@dataclass(frozen=True, kw_only=True)
class ImportedCAMSeeds(CAMSeeds):
    """Class activation maps that another program made.

    Args:
        folder: one file an image.
        first_class: the number that the files give to the first foreground class: 0 or 1.
    """

    method: Literal["imported_cams"] = "imported_cams"
    folder: str
    first_class: int = 0

    def __post_init__(self) -> None:
        if self.first_class not in (0, 1):
            raise ConfigError(f"first_class: 0 or 1 expected; found {self.first_class}")

    @property
    def sources(self) -> dict[str, str | None]:
        """The folder of the maps."""
        return {"imported seeds": self.folder, **super().sources}


@dataclass(frozen=True, kw_only=True)
class ImportedMaskSeeds(SeedStageSettings):
    """Seed masks that another program made.

    Args:
        folder: one file an image.
    """

    method: Literal["imported_masks"] = "imported_masks"
    folder: str

    @property
    def sources(self) -> dict[str, str | None]:
        """The folder of the masks."""
        return {"imported seeds": self.folder}


@dataclass(frozen=True, kw_only=True)
class OwnSeeds(CAMSeeds):
    """Maps of an object that a Python program gives to `run_pipeline(seed_method=…)`."""

    method: Literal["own"] = "own"


AnySeeds = (
    ClipGradCAMSeeds
    | PatchTextSeeds
    | CosineSeedSettings
    | MCTformerSeeds
    | ImportedCAMSeeds
    | ImportedMaskSeeds
    | OwnSeeds
)
