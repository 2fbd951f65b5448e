"""Describes a loaded WeakCLIP in one line: its source, its sizes, and the parts that were not in the file."""

from __future__ import annotations

from collections.abc import Iterable

from weakclip.modeling.weakclip import WeakCLIP

_SHOWN = 3
"""Class names at the beginning of the list; a longer one ends with its last name."""


def loading_note(model: WeakCLIP, origin: str, elsewhere: Iterable[str]) -> str:
    """One line on a model that was just loaded.

    Args:
        model: the model.
        origin: the file or folder and its format.
        elsewhere: what the weights did not tell and where it was taken from instead, a phrase each; may be empty.
    """
    classes = model.class_set.names
    shown = classes if len(classes) <= _SHOWN + 1 else (*classes[:_SHOWN], "…", classes[-1])
    parts = (
        f"{len(classes)} classes ({', '.join(shown)})",
        model.clip.describe(),
        f"prompt length {model.prompt.length}",
        f"co-attention width {getattr(model.co_attention, 'width', 'none')}",
        f"decoder width {getattr(model.decoder, 'channels', 'none')}",
    )
    missing = "; ".join(elsewhere)
    return f"{origin}: {', '.join(parts)}" + (f"; not in the file: {missing}" if missing else "")
