"""Encoders and seed methods of one's own in a run: given as objects, or named `python:MODULE:FUNCTION`."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from random_encoder import RandomEncoder

from weakclip.clip import load_encoder
from weakclip.config import RunConfig, load_config, parse_config
from weakclip.datasets import Sample
from weakclip.errors import ConfigError, EncoderError, RunError, WeightsError
from weakclip.pipeline import run_pipeline, run_stage
from weakclip.prediction import load_predictor
from weakclip.seeds import CAM

WIDTHS, SCALES = (4, 6, 10, 12), (4, 2, 1, 0.5)
MODULE = """
from random_encoder import RandomEncoder


def build():
    return RandomEncoder(widths=(4, 6, 10, 12), scales=(4, 2, 1, 0.5), prefix=5, seed={seed})


def wrong():
    return "no encoder"


def broken():
    raise KeyError("weights\\nof yesterday")


number = 3
"""


class Gradient:
    """Maps that rise from left to right.

    Args:
        power: of the rise.
    """

    def __init__(self, power: float = 1.0) -> None:
        self.power = power

    def cam(self, sample: Sample) -> CAM:
        height, width = sample.image.shape[:2]
        rise = np.linspace(0, 1, width, dtype=np.float32) ** self.power
        maps = np.broadcast_to(rise, (len(sample.labels), height, width)).copy()
        return CAM(classes=tuple(sample.labels), maps=maps)

    def fingerprint(self) -> str:
        return str(self.power)


def encoder(seed: int = 0) -> RandomEncoder:
    return RandomEncoder(widths=WIDTHS, scales=SCALES, prefix=5, seed=seed)


@pytest.fixture
def config(tiny_settings: Callable[..., dict[str, Any]]) -> RunConfig:
    settings = tiny_settings()
    settings["model"] |= {"prompt_length": 2}
    settings["seeds"] = {"masks": {"crf": None}}
    return parse_config(settings, origin="a test")


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """`python:` and a module that lies in the current directory."""
    folder = tmp_path / "here"
    folder.mkdir()
    name = f"encoder_of_{tmp_path.name.replace('-', '_')}"
    (folder / f"{name}.py").write_text(MODULE.format(seed=0))
    monkeypatch.chdir(folder)
    monkeypatch.setattr("sys.path", [path for path in __import__("sys").path if path])
    return f"python:{name}"


def test_a_run_with_an_encoder_and_a_seed_method_of_ones_own(
    config: RunConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run, given = tmp_path / "run", {"clip": encoder(), "seed_method": Gradient()}
    result = run_pipeline(config, run, **given)
    assert result.ran == ("seeds", "train", "pseudo_masks", "retrain", "evaluate")
    told = load_config(run / "config.yaml")
    assert (told.clip.source, told.seeds.method) == ("random numbers 0", "own")

    predictor = load_predictor(run / "2_train", clip=encoder())
    image = np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8)
    assert predictor(image).mask.shape == (40, 56)
    with pytest.raises(WeightsError, match="an encoder that is no CLIP"):
        load_predictor(run / "2_train")

    again = run_pipeline(config, run, clip=encoder(), seed_method=Gradient())
    assert not again.ran, "equal objects, equal keys"
    with caplog.at_level(logging.INFO, "weakclip"):
        other = run_stage(config, run, "seeds", redo=True, clip=encoder(), seed_method=Gradient(2.0))
    assert other.ran == ("seeds",) and "because data (seed method) changed" in caplog.text
    other = run_stage(config, run, "seeds", clip=encoder(1), seed_method=Gradient(2.0))
    assert other.ran == (), "the method says itself what its maps depend on"
    with pytest.raises(RunError, match=r"train \(clip\.source: .*data \(CLIP weights\) changed.*--redo"):
        run_pipeline(config, run, clip=encoder(1), seed_method=Gradient(2.0))
    with pytest.raises(RunError, match=r"train needs seeds, which was made with other settings .*seeds\.method"):
        run_stage(config, run, "train")


def test_what_is_given_is_checked_before_anything_is_made(config: RunConfig, tmp_path: Path) -> None:
    wrong: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"clip": "demo"}, EncoderError, "str is no weakclip.Encoder"),
        ({"seed_method": "clip_gradcam"}, ConfigError, r"an object with cam\(sample\) expected; found str"),
    ]
    for given, kind, words in wrong:
        with pytest.raises(kind, match=words):
            run_pipeline(config, tmp_path / "run", **given)
        assert not (tmp_path / "run").exists()


def test_what_the_encoder_lacks_is_one_line_of_its_stage(config: RunConfig, tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match="random numbers 0: Grad-CAM needs") as error:
        run_stage(config, tmp_path / "run", "seeds", clip=encoder())
    assert "\n" not in str(error.value)


def test_an_object_cannot_be_named_in_a_configuration(tmp_path: Path) -> None:
    own = load_config("demo", ["seeds.method=own"])
    with pytest.raises(ConfigError, match=r"seeds\.method own: .* pass run_pipeline\(seed_method=…\)"):
        run_stage(own, tmp_path / "run", "seeds")


def test_a_function_is_found_in_the_current_directory(module: str) -> None:
    images = torch.rand(1, 3, 24, 32)
    found, expected = load_encoder(f"{module}:build"), encoder()
    assert torch.equal(found.encode_image(images).tokens, expected.encode_image(images).tokens)


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (":wrong", "str is no weakclip.Encoder"),
        (":broken", r"fails with KeyError: 'weights\\nof yesterday'"),
        (":number", r"encoder_of_\w+\.py has no function 'number'"),
        (":missing", "has no function 'missing'"),
        ("s:build", "no module 'encoder_of_.*' on the Python path or in .*here; start where .* lies"),
        ("", "python:MODULE:FUNCTION expected"),
        (":build()", "python:MODULE:FUNCTION expected"),
    ],
)
def test_code_that_makes_no_encoder_is_one_line(module: str, function: str, words: str) -> None:
    with pytest.raises(EncoderError, match=words) as error:
        load_encoder(f"{module}{function}")
    assert "\n" not in str(error.value) and str(error.value).startswith(module)


def test_a_module_that_misses_another_says_so_itself(module: str) -> None:
    path = Path(f"{module.partition(':')[2]}.py")
    path.write_text("import there_is_no_such_module\n")
    with pytest.raises(EncoderError, match="fails with ModuleNotFoundError: No module named 'there_is_no_such_module'"):
        load_encoder(f"{module}:build")


def test_the_command_line_takes_an_encoder_from_ones_own_configuration(
    tiny_settings: Callable[..., dict[str, Any]],
    module: str,
    call: Callable[..., int],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What the encoder lacks for a seed method is one line and exit code 2; the module is found where one stands."""
    settings = tiny_settings() | {"clip": {"source": f"{module}:build"}}
    Path("mine.yaml").write_text(yaml.safe_dump(settings))
    assert call("seeds", "mine.yaml", "--out", tmp_path / "run") == 2
    assert "Grad-CAM needs an encoder with open transformer blocks" in capsys.readouterr().err
