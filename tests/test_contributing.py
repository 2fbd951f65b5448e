"""The worked examples of CONTRIBUTING.md: each is one new file and one line, and works at once."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np

import weakclip
from weakclip.datasets.classes import voc_palette
from weakclip.datasets.images import write_mask

PAGE = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text(encoding="utf-8")
SOURCE = Path(weakclip.__file__).parent
EXAMPLES = ("A seed method of your own", "A data set of your own", "An export of your own")
RUN = """
import sys
from weakclip.cli import main
from weakclip.config import load_config
from weakclip.pipeline import run_stage

small = ["data.dataset=halves", "data.train_limit=3", "seeds.method=brightness", "seeds.brightness.power=2"]
small += ["seeds.masks.crf=null"]  # the copy would compile it anew
result = run_stage(load_config("demo", small), "run", "seeds")
assert result.ran == ("seeds",), result
assert "power: 2" in open("run/config.yaml").read()
sys.argv = ["weakclip", "export", "areas", "made", "--out", "areas.csv"]
main()
"""


def add_example(package: Path, title: str) -> None:
    """Do what a section of the page says: write its file, and put its line and the import into another."""
    section = PAGE.partition(f"## {title}\n")[2].partition("\n## ")[0]
    new = re.search(r"`src/weakclip/(\S+)`:\n\n```python\n(.*?)```", section, re.DOTALL)
    place = re.search(r"One line in `src/weakclip/(\S+)`", section)
    line = re.search(r"```diff\n.*?^\+(.*?)$\n^ (.*?)$", section, re.DOTALL | re.MULTILINE)
    assert new and place and line, title
    name, code = new.groups()
    assert not (package / name).exists()
    (package / name).write_text(code)
    changed = package / place[1]
    text = changed.read_text()
    added, old = line.groups()
    assert text.count(f"\n{old}\n") == 1
    module = name.removesuffix(".py").replace("/", ".")
    imported = f"from weakclip.{module} import {re.findall(r'[a-zA-Z]+', added)[-1]}\n"
    text = text.replace(f"\n{old}\n", f"\n{added}\n{old}\n")
    changed.write_text(text.replace("\nfrom weakclip.", f"\n{imported}from weakclip.", 1))


def test_each_example_is_one_file_and_one_line(tmp_path: Path) -> None:
    package = shutil.copytree(SOURCE, tmp_path / "weakclip", ignore=shutil.ignore_patterns("__pycache__"))
    for title in EXAMPLES:
        add_example(package, title)
    write_mask(tmp_path / "made/3_pseudo_masks/masks/a.png", np.eye(4, dtype=np.uint8), voc_palette())
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", RUN], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "run/1_seeds/masks").iterdir())) == 3
    assert (tmp_path / "areas.csv").read_text() == "image,class,pixels\na,0,12\na,1,4\n"
