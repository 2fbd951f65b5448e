"""`--json`: one object on standard output and nothing else, errors too."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

import weakclip.study
import weakclip.study.numbers
from weakclip.cli import json_output as cli_json
from weakclip.cli.app import app
from weakclip.crf import VOC_CRF
from weakclip.study import Candidate, CRFStudy, Result, VariantStudy
from weakclip.study.halving import Rung

Call = Callable[..., int]


@pytest.fixture
def answered(call: Call, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, dict[str, Any], str]]:
    """Exit code, the object on standard output, and standard error of a command with `--json`."""

    def run(*arguments: str | Path) -> tuple[int, dict[str, Any], str]:
        capsys.readouterr()
        code = call(*arguments, "--json")
        found = capsys.readouterr()
        return code, json.loads(found.out), found.err

    return run


@pytest.fixture
def config_file(clip_folder: Path, tmp_path: Path) -> Path:
    """A run of some seconds with a tiny CLIP."""
    settings = {
        "data": {"dataset": "scenes", "train_limit": 2, "val_split": None, "scene_size": 64},
        "clip": {"source": str(clip_folder)},
        "device": "cpu",
    }
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def test_a_stage_says_what_ran_and_what_was_skipped(answered: Any, config_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    code, value, _ = answered("seeds", config_file, "--out", out)
    assert code == 0
    assert value == {
        "folder": str(out),
        "report": str(out / "report.html"),
        "ran": ["seeds"],
        "skipped": [],
        "stage_folders": {"seeds": str(out / "1_seeds")},
        "scores": [],
        "network": None,
        "left_out": 0,
        "warnings": [],
    }
    _, again, told = answered("seeds", config_file, "--out", out)
    assert (again["ran"], again["skipped"]) == ([], ["seeds"])
    assert "skipped" in told or not told  # the logger's lines, where pytest has not taken them
    assert answered("report", out)[:2] == (0, {"report": str(out / "report.html")})


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        (("run", "demmo"), "ConfigError", "demmo: no such file"),
        (("train", "demo"), "RunError", "train needs seeds"),
        (("evaluate", "demo", "--set", "data.rot=1"), "ConfigError", "unknown key 'data.rot'"),
        (("study", "parts", "demmo"), "ConfigError", "demmo: no such file"),
        (("study", "crf", "demo"), "ConfigError", "either --run or --probs"),
    ],
)
def test_an_error_is_an_object_too(
    answered: Any, tmp_path: Path, arguments: tuple[str, ...], kind: str, message: str
) -> None:
    code, value, told = answered(*arguments, "--out", tmp_path / "out")
    assert code == 2
    assert value.keys() == {"error"}
    assert value["error"]["type"] == kind
    assert message in value["error"]["message"]
    assert f"weakclip: {value['error']['message']}" in told


def test_report_of_no_run_is_an_error_object(answered: Any, tmp_path: Path) -> None:
    assert answered("report", tmp_path)[1]["error"]["type"] == "RunError"


def test_the_data_check_is_the_object_of_its_file(answered: Any, tmp_path: Path) -> None:
    arguments = ("data", "check", "demo", "--split", "val", "--set", "data.scene_size=64", "--out", tmp_path / "c.json")
    code, value, _ = answered(*arguments)
    assert code == (1 if value["findings"] else 0)
    assert value == json.loads((tmp_path / "c.json").read_text())


def test_a_study_of_variants(answered: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = (Result(variant="0.1", seed=0, mean_iou=0.5, trained_parameters=3),)
    study = VariantStudy(
        folder=tmp_path, subject="x", split="train", images=2, variants=("0.1", "1"), seeds=(0,), results=results
    )
    monkeypatch.setattr(weakclip.study.numbers, "study_temperature", lambda *_, **__: study)
    code, value, _ = answered("study", "temperature", "demo", "--out", tmp_path)
    assert code == 0
    tried, missing = value["variants"]
    assert tried["mean_iou"] == tried["results"][0]["mean_iou"] == 0.5
    assert tried["standard_deviation"] is None
    assert missing == {"variant": "1", "mean_iou": None, "standard_deviation": None, "results": []}
    assert value["files"]["table"] == str(tmp_path / "table.md")


def test_a_study_of_the_crf(answered: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = CRFStudy(
        folder=tmp_path,
        split="train",
        images=4,
        candidates=(Candidate("config", VOC_CRF), Candidate("random", VOC_CRF)),
        rungs=(Rung(4, {0: 0.25, 1: 0.5}),),
    )
    monkeypatch.setattr(weakclip.study, "study_crf", lambda *_, **__: study)
    _, value, _ = answered("study", "crf", "demo", "--out", tmp_path)
    assert (value["best"]["origin"], value["best"]["mean_iou"], value["config"]["mean_iou"]) == ("random", 0.5, 0.25)
    assert value["best"]["params"]["iterations"] == 10


def test_of_several_processes_one_speaks(
    call: Call, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    assert call("report", "no/run", "--json") == 2
    assert not capsys.readouterr().out


def test_every_command_that_answers_with_results_takes_json() -> None:
    import typer.main

    def leaves(command: Any, name: str) -> dict[str, Any]:
        if not hasattr(command, "commands"):
            return {name: command}
        return {
            k: v for part, each in command.commands.items() for k, v in leaves(each, f"{name} {part}".strip()).items()
        }

    commands = leaves(typer.main.get_command(app), "")
    taking = {name for name, each in commands.items() if any("--json" in parameter.opts for parameter in each.params)}
    wanted = {"run", "seeds", "train", "pseudo-masks", "retrain", "evaluate", "report", "data check"}
    wanted |= {name for name in commands if name.startswith("study ")} - {"study cost"}
    assert taking >= wanted
    assert cli_json.__doc__ and "scripting.md" in cli_json.__doc__
