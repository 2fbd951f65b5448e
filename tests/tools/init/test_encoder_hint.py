"""`weakclip init` and `weakclip data check` name an encoder that suits the machine."""

from __future__ import annotations

import pytest
import torch

import weakclip.tools.init.encoder_hint as module
from weakclip.config.clip_settings import ClipSettings


@pytest.mark.parametrize(
    ("memory", "words"),
    [
        (None, "which has no accelerator"),
        (8.0, "an accelerator with 8 GiB"),
        (80.0, "large-patch14-336 with crops"),
    ],
)
def test_the_line_follows_the_machine(memory: float | None, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "accelerator_memory", lambda: memory)
    line = module.encoder_hint()
    assert line.startswith(ClipSettings().source) and words in line and "\n" not in line
    assert ("large" in line) == (memory == 80)


def test_memory_is_known_where_there_is_an_accelerator() -> None:
    assert (module.accelerator_memory() is None) == (not torch.accelerator.is_available())
