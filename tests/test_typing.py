"""The package is typed for those who use it: mypy, strict, on a script of a user against the installed package."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

import weakclip

SCRIPT = """
from pathlib import Path

import numpy as np
import torch

import weakclip
from weakclip.datasets import FolderDataset, Sample, collate_samples
from weakclip.modeling.losses import boundary_loss, grid_probabilities, grid_seeds, matching_loss, seeding_loss


def train(root: Path) -> float:
    dataset = FolderDataset(root)
    sample: Sample = dataset[-1]
    clip = weakclip.load_clip("demo")
    model = weakclip.build_weakclip(clip, dataset.class_set, prompt_length=4)
    image: np.ndarray = sample.image
    images = torch.from_numpy(image).permute(2, 0, 1)[None]
    output: weakclip.WeakCLIPOutput = model(images)
    probs = grid_probabilities(output.logits, (16, 16))
    seeds = torch.zeros(1, 64, 64, dtype=torch.uint8)
    target = weakclip.dense_crf(images, probs.detach(), weakclip.crf.LOSS_CRF)
    loss = seeding_loss(probs, grid_seeds(seeds, (16, 16))) + boundary_loss(probs, target)
    loss = loss + matching_loss(output.match_map, seeds)
    loss.backward()
    matrix = weakclip.ConfusionMatrix(dataset.class_set.num_classes)
    matrix.update(seeds, seeds)
    batch = collate_samples([sample], num_classes=dataset.class_set.num_classes)
    print(batch["name"], matrix.mean_iou())
    return loss.item()


def run(out: Path) -> tuple[str, ...]:
    config: weakclip.RunConfig = weakclip.load_config("demo", ["train.steps=10"])
    result: weakclip.RunResult = weakclip.run_pipeline(config, out)
    return result.skipped


try:
    train(Path("images"))
except weakclip.WeakCLIPError as error:
    print(error)
"""
WRONG = "\nweakclip.ConfusionMatrix('three')\nresult: str = weakclip.load_clip('demo')\n"


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter in whose site-packages the package lies as a wheel would put it, beside what it needs."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    place = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
    shutil.copytree(Path(weakclip.__file__).parent, place / "weakclip", ignore=shutil.ignore_patterns("__pycache__"))
    (place / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return Path(sysconfig.get_path("scripts", vars={"base": str(folder)})) / "python"


def check(script: Path, python: Path) -> subprocess.CompletedProcess[str]:
    options = [
        "--strict",
        "--untyped-calls-exclude",
        "torch",
        "--config-file=",
        "--cache-dir",
        str(script.parent / "cache"),
    ]
    command = [sys.executable, "-m", "mypy", *options, "--python-executable", str(python), str(script)]
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "MYPYPATH")}
    return subprocess.run(
        command, capture_output=True, text=True, env=environment, check=False, cwd=script.parent, timeout=1200
    )


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_users_script_is_clean_and_a_wrong_one_is_not(python: Path, tmp_path: Path) -> None:
    pytest.importorskip("mypy", reason="mypy is part of the extra dev")
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    found = check(script, python)
    assert found.returncode == 0, found.stdout + found.stderr
    script.write_text(SCRIPT + WRONG)
    found = check(script, python)
    assert 'has incompatible type "str"; expected "int"' in found.stdout
    assert 'expression has type "FrozenCLIP", variable has type "str"' in found.stdout
