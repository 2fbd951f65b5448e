"""Names an encoder that suits the machine, in one line: `weakclip init` and `weakclip data check` end with it."""

from __future__ import annotations

from weakclip.config.clip_settings import ClipSettings

SMALL = ClipSettings().source
LARGER = "openai/clip-vit-large-patch14-336"
ROOMY = 16
"""GiB of an accelerator from which the larger one is named."""


def encoder_hint() -> str:
    """The line, without a full stop."""
    memory = accelerator_memory()
    if memory is None:
        return f"{SMALL} suits this machine, which has no accelerator; demo is for drawings (docs/encoders.md)"
    held = f"an accelerator with {memory:.0f} GiB"
    if memory < ROOMY:
        return f"{SMALL} suits this machine, {held} (docs/encoders.md)"
    return f"{SMALL} suits this machine, {held}; {LARGER} with crops of 504 is worth a try (docs/encoders.md)"


def accelerator_memory() -> float | None:
    """GiB of the accelerator; None where there is none, 0 where it does not tell."""
    import torch

    if not torch.accelerator.is_available():
        return None
    try:
        return float(torch.accelerator.get_memory_info()[1]) / 2**30
    except (AttributeError, NotImplementedError, RuntimeError):
        return 0.0
