"""Families of encoders, one file each, told apart by `model_type` in the `config.json` of a checkpoint.

CLIP itself, with all that has its layout (LAION, DataComp, DFN, MetaCLIP 1), is `FrozenCLIP`; a family derives from it
and says what is different.
"""

from __future__ import annotations

from weakclip.clip.families.metaclip2 import FrozenMetaCLIP2
from weakclip.clip.families.siglip import FrozenSigLIP
from weakclip.clip.families.tipsv2 import FrozenTIPSv2
from weakclip.clip.frozen_clip import FrozenCLIP
from weakclip.errors import WeightsError

FAMILIES: dict[str, type[FrozenCLIP]] = {
    "clip": FrozenCLIP,
    "metaclip_2": FrozenMetaCLIP2,
    "siglip": FrozenSigLIP,
    "tipsv2": FrozenTIPSv2,
}
"""By the `model_type` of transformers. SigLIP 2 of fixed size (FixRes) has that of SigLIP."""


def family_of(model_type: object, source: str) -> type[FrozenCLIP]:
    """The family of a checkpoint.

    Args:
        model_type: what its `config.json` says.
        source: its name, for the message.

    Raises:
        WeightsError: another kind of network.
    """
    found = FAMILIES.get(str(model_type))
    if found is None:
        raise WeightsError(
            f"{source}: expected an image-text encoder (model_type {', '.join(FAMILIES)} in config.json); "
            f"found {model_type!r}: name another checkpoint, or write a weakclip.FrozenEncoder for it"
        )
    return found
