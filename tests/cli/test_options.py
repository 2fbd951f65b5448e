"""Completion in the shell: commands, shipped configurations, keys; nothing heavy is imported for it."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import typing
from pathlib import Path

import pytest

import weakclip
from weakclip.config import RunConfig, load_config, shipped_configs
from weakclip.config.building import dataclasses_in
from weakclip.store.keys import flat

PROGRAM = "from weakclip.cli import app; app(prog_name='weakclip')"


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
        ("weakclip config vo", {"voc12", "voc12_paper"}),
        ("weakclip run demo --set train.st", {"train.steps="}),
    ],
)
def test_words_are_completed(words: str, expected: set[str]) -> None:
    answer = complete(words)
    assert set(answer.stdout.split()) == expected, answer.stderr


def keys_of(kind: type, prefix: str) -> set[str]:
    """The keys of a class of settings and of all that it may hold, from the classes themselves."""
    hints = typing.get_type_hints(kind)
    return {
        key
        for entry in dataclasses.fields(kind)
        for name, below in [(f"{prefix}{entry.name}", dataclasses_in(hints[entry.name]))]
        for key in ({key for each in below for key in keys_of(each, f"{name}.")} or {name})
    }


def test_every_key_of_every_kind_is_offered_and_nothing_heavy_imported() -> None:
    answer = complete("weakclip run demo --set ", "-X", "importtime")
    offered = {key.removesuffix("=") for key in answer.stdout.split()}
    sections = {"loss.crf", "pseudo_masks.crf", "evaluate.crf", "seeds.affinity"}
    sections |= {"seeds.affinity.labels.crf", "seeds.masks.crf", "pseudo_masks.proposals", "pseudo_masks.saliency"}
    sections |= {"pseudo_masks.region_bank"}  # all of these may be null
    assert offered == keys_of(RunConfig, "") | sections
    assert set(flat(load_config("voc12", ["data.root=x"]), "")) <= offered
    imported = {line.rsplit("|", 1)[-1].strip().split(".")[0] for line in answer.stderr.splitlines()}
    assert not imported & {"torch", "transformers", "numba", "numpy"}
