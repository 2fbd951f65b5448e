"""Completion in the shell: commands, shipped configurations, keys; nothing heavy is imported for it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import weakclip
from weakclip.config import load_config, shipped_configs
from weakclip.store.keys import flat

PROGRAM = "from weakclip.cli.app import app; app(prog_name='weakclip')"


def complete(words: str, *options: str) -> subprocess.CompletedProcess[str]:
    """What bash is told for a line that ends with an unfinished word."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(weakclip.__file__).parents[1]),
        "_WEAKCLIP_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(words.count(" ")),
    }
    return subprocess.run(
        [sys.executable, *options, "-c", PROGRAM], capture_output=True, text=True, env=environment, check=False
    )


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("weakclip pse", {"pseudo-masks"}),
        ("weakclip run ", set(shipped_configs())),
        ("weakclip config vo", {"voc12"}),
        ("weakclip run demo --set train.st", {"train.steps="}),
    ],
)
def test_words_are_completed(words: str, expected: set[str]) -> None:
    answer = complete(words)
    assert set(answer.stdout.split()) == expected, answer.stderr


def test_every_key_of_a_shipped_configuration_is_offered_and_is_one() -> None:
    answer = complete("weakclip run demo --set ", "-X", "importtime")
    offered = {key.removesuffix("=") for key in answer.stdout.split()}
    config = load_config("voc12")
    known = {key for section in ("train", "clip", "loss", "retrain") for key in flat(getattr(config, section), section)}
    assert {"train.steps", "clip.source", "retrain.train.steps", "data.root"} <= offered
    assert {key for key in offered if key.startswith("train.")} <= known
    imported = {line.rsplit("|", 1)[-1].strip().split(".")[0] for line in answer.stderr.splitlines()}
    assert not imported & {"torch", "transformers", "numba", "numpy"}
