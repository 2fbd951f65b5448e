"""A wrong path or argument is told before torch is imported: in a fraction of a second, whatever the command."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import weakclip

COMMANDS = (
    *("init nothere", "init photos --labels nothere.csv", "init photos --out photos.txt", "init photos", "init empty"),
    *("tag nothere --classes cat", "tag photos", "tag photos --classes cat --threshold 2"),
    *("tag photos --class-file nothere.yaml", "tag photos --classes cat --out photos.yaml"),
    *("data check nothere", "run nothere --out x", "seeds nothere --out x", "config nothere", "run demo"),
    *("report nothere", "review nothere", "score seeds nothere", "submit nothere --out x.tgz"),
    *(
        "predict nothere photos --out x",
        "predict photos photos --out x --labels nothere",
        "predict photos nothere --out x",
    ),
    *("export onnx nothere --out x.onnx", "export transformers nothere --out x", "export dataset nothere --out x"),
    *("export masks nothere --format coco --out x", "import nothere --run photos", "import photos.yaml --run nothere"),
    *("predict s3://bucket/run photos --out x", "score seeds s3://bucket/run", "export onnx s3://bucket/run --out x"),
    *("data check photos --out s3://bucket/run", "import photos.yaml --run s3://bucket/run"),
    *("crf nothere nothere --out x.npy", "study prompts nothere --out x", "study snapshots demo --run nothere --out x"),
)
PROGRAM = """
import io, json, sys, contextlib
from weakclip import cli
heavy = {"torch", "transformers", "numba"}
for words in json.loads(sys.argv[1]):
    sys.argv = ["weakclip", *words.split()]
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        try:
            cli.main()
            code = 0
        except SystemExit as stop:
            code = stop.code
    print(json.dumps([words, code, sorted(heavy & sys.modules.keys()), said.getvalue()]))
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "photos").mkdir()
    (tmp_path / "empty").mkdir()
    Image.new("RGB", (6, 5)).save(tmp_path / "photos/a.png")
    (tmp_path / "photos.yaml").write_text("by hand")
    return tmp_path


def test_a_wrong_path_is_told_before_torch_is_imported(place: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(weakclip.__file__).parents[1])}
    command = [sys.executable, "-c", PROGRAM, json.dumps(COMMANDS)]
    answer = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=place)
    lines = [json.loads(line) for line in answer.stdout.splitlines()]
    assert [words for words, *_ in lines] == [*COMMANDS], answer.stderr
    for words, code, heavy, said in lines:
        assert (code, heavy) == (2, []), (words, said)
        if words not in ("run demo", "tag photos --classes cat --threshold 2"):  # which typer tells in a box
            (line,) = said.strip().splitlines()
            assert line.startswith("weakclip: "), words
            named = r"weakclip: (MODEL|RUN|--run|--out): s3://bucket/run: a URL found, a file or folder of this "
            assert "s3:" not in words or re.match(named, line), line
    assert (place / "photos.yaml").read_text() == "by hand"


def test_a_wrong_path_is_an_object_with_json(place: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(weakclip.__file__).parents[1])}
    for words in (("init", "nothere", "--json"), ("report", "--json", "nothere")):
        command = [sys.executable, "-m", "weakclip", *words]
        answer = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=place)
        error = json.loads(answer.stdout)["error"]
        assert answer.returncode == 2 and error["message"].startswith("nothere: ")
        assert answer.stderr.strip() == f"weakclip: {error['message']}"
