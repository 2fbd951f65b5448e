"""Every block of docs/tutorial.md runs, in order, in one place; with fewer images and steps than on the page."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from weakclip.cli import app

PAGE = (Path(__file__).parents[1] / "docs" / "tutorial.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(sh|python)\n(.*?)```", PAGE, flags=re.DOTALL)
SMALLER = {"COUNT = 60": "COUNT = 6", "STEPS, GRID = 60,": "STEPS, GRID = 3,", "--limit-steps 300": "--limit-steps 2"}


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_the_blocks_run_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    datasets = pytest.importorskip("datasets", reason="the extra datasets is not installed")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    names: dict[str, object] = {}
    for language, block in BLOCKS:
        for large, small in SMALLER.items():
            block = block.replace(large, small)  # noqa: PLW2901
        if language == "python":
            exec(compile(block, "tutorial.md", "exec"), names)
            assert capsys.readouterr().out
            continue
        for line in block.splitlines():
            result = CliRunner().invoke(app, shlex.split(line)[1:], catch_exceptions=False)
            assert result.exit_code == 0, f"{line}\n{result.output}"
    masks = {path.stem for path in (tmp_path / "my_masks").iterdir()}
    assert masks == {path.stem for path in (tmp_path / "runs/tutorial/3_pseudo_masks/masks").iterdir()}
    assert len(masks) == 6
    stages = json.loads((tmp_path / "runs/tutorial/manifest.json").read_text())["stages"]
    assert all(record["done"] for record in stages.values())


def test_what_the_test_makes_smaller_is_on_the_page() -> None:
    assert all(large in PAGE for large in SMALLER)
