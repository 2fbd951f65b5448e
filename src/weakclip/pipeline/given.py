"""Objects that a caller gives a run in place of what its settings name: an encoder, a seed method."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import cast

from torch import nn

from weakclip.clip import Encoder, check_encoder
from weakclip.clip.frozen_encoder import weights_fingerprint
from weakclip.config import CAMSeeds, ClipSettings, OwnSeeds, RunConfig
from weakclip.errors import ConfigError
from weakclip.pipeline.data import digest_of
from weakclip.seeds import SeedMethod
from weakclip.store.untrusted_text import one_line


@dataclass(frozen=True)
class Given:
    """Objects that a caller gives.

    Args:
        clip: the encoder; None for the one that the settings name.
        seed_method: what makes class activation maps; None for the method that the settings name.

    Raises:
        EncoderError: `clip` is no `Encoder`.
        ConfigError: `seed_method` has no `cam`.
    """

    clip: Encoder | None = None
    seed_method: SeedMethod | None = None

    def __post_init__(self) -> None:
        if self.clip is not None:
            check_encoder(self.clip)
        if self.seed_method is not None and not callable(getattr(self.seed_method, "cam", None)):
            raise ConfigError(
                f"seed_method: an object with cam(sample) expected; found {type(self.seed_method).__name__}"
            )

    def settings(self, config: RunConfig) -> RunConfig:
        """The settings of a run with these objects; they name what is given, so that the run folder tells the truth."""
        if self.clip is not None:
            config = dataclasses.replace(config, clip=ClipSettings(source=one_line(self.clip.source)))
        if self.seed_method is not None:
            seeds = config.seeds
            own = OwnSeeds(affinity=seeds.affinity, masks=seeds.masks) if isinstance(seeds, CAMSeeds) else OwnSeeds()
            config = dataclasses.replace(config, seeds=own)
        return config

    @property
    def seed_method_fingerprint(self) -> str:
        """Digest of the seed method: its class, and its `fingerprint()` where it has one; empty where none is given."""
        method = self.seed_method
        if method is None:
            return ""
        own = getattr(method, "fingerprint", None)
        return digest_of([type(method).__module__, type(method).__qualname__, str(own()) if callable(own) else ""])


def encoder_digest(encoder: Encoder) -> str:
    """Digest of all of an encoder that its module's state and its numbers tell, and of its own fingerprint."""
    numbers = (
        *(tuple(encoder.layer_widths), tuple(encoder.layer_scales), encoder.embed_dim, encoder.prompt_position),
        *(getattr(encoder, name, None) for name in ("tap_layers", "position_interpolation", "partial_patches")),
    )
    return digest_of([encoder.fingerprint(), weights_fingerprint(cast(nn.Module, encoder)), repr(numbers)])
