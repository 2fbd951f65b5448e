"""The head of the report: data set, encoder, classes, date and command."""

from __future__ import annotations

import os
import re
from pathlib import Path

from weakclip.report import read_run, render_report
from weakclip.report.head import head_facts
from weakclip.store.files import write_json

CONFIG = """
data: {dataset: folder, root: my <photos>, train_split: train, val_split: null, train_limit: 1200, val_limit: null}
clip: {source: openai/clip-vit-base-patch16}
"""


def make_run(folder: Path, config: str = CONFIG) -> Path:
    write_json(folder / "manifest.json", {"format": 2, "stages": {}})
    os.utime(folder / "manifest.json", (1_772_000_000, 1_772_000_000))
    entries = [
        {"name": name, "color": [0, 0, 0]} for name in ("background", *(f"class {number}" for number in range(14)))
    ]
    write_json(folder / "3_pseudo_masks/metrics.json", {"classes": entries})
    (folder / "config.yaml").write_text(config)
    return folder


def test_it_says_what_was_run_on_what_and_when(tmp_path: Path) -> None:
    facts = dict(head_facts(read_run(make_run(tmp_path / "my run"))))
    assert facts["Data set"] == "folder in my <photos> (train, its first 1,200 images)"
    assert facts["Encoder"] == "openai/clip-vit-base-patch16"
    assert facts["Classes"].startswith("14: class 0, class 1,") and facts["Classes"].endswith("class 11, …")
    assert facts["Date"].startswith("2026-02-25 06:13 UTC, weakclip ")
    assert facts["Command"] == "weakclip run 'my run/config.yaml' --out again"
    page = render_report(tmp_path / "my run")
    (head,) = re.findall(r'<dl class="head">(.*?)</dl>', page, flags=re.DOTALL)
    assert "my &lt;photos&gt;" in head and "<photos>" not in head


def test_a_configuration_that_cannot_be_read_leaves_its_facts_out(tmp_path: Path) -> None:
    for number, config in enumerate(("[1", "- a", "data: 3", "data: {dataset: null}\nclip: {}")):
        facts = dict(head_facts(read_run(make_run(tmp_path / str(number), config))))
        assert list(facts) == ["Classes", "Date", "Command"]
