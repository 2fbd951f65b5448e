"""The worked example of CONTRIBUTING.md: a seed method is one new file and one line, and works in a run at once."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import weakclip

PAGE = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text(encoding="utf-8")
SOURCE = Path(weakclip.__file__).parent
RUN = """
from weakclip.config import load_config
from weakclip.pipeline import run_stage

small = ["data.train_limit=2", "data.scene_size=64", "seeds.method=brightness", "seeds.brightness.power=2"]
result = run_stage(load_config("demo", small), "run", "seeds")
assert result.ran == ("seeds",), result
assert "power: 2" in open("run/config.yaml").read()
"""


def test_a_seed_method_is_one_file_and_one_line(tmp_path: Path) -> None:
    section = PAGE.partition("## A seed method of your own")[2].partition("\n## ")[0]
    (name, code), (line, old) = (
        re.search(r"`src/weakclip/(\S+)`:\n\n```python\n(.*?)```", section, re.DOTALL).groups(),  # type: ignore[union-attr]
        re.search(r"```diff\n.*?^\+(.*?)$.*?^ (.*?)$", section, re.DOTALL | re.MULTILINE).groups(),  # type: ignore[union-attr]
    )
    package = shutil.copytree(SOURCE, tmp_path / "weakclip", ignore=shutil.ignore_patterns("__pycache__"))
    assert not (package / name).exists()
    (package / name).write_text(code)
    union = package / "config" / "seeds.py"
    text = union.read_text()
    assert text.count(f"\n{old}\n") == 1
    imported = f"from weakclip.{name.removesuffix('.py').replace('/', '.')} import {line.split()[-1]}\n"
    union.write_text(
        text.replace(f"\n{old}\n", f"\n{line}\n{old}\n").replace(
            "\nfrom weakclip.seeds.", f"\n{imported}from weakclip.seeds.", 1
        )
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", RUN], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "run/1_seeds/masks").iterdir())) == 2
