"""`--json`: one object on standard output and nothing else, errors too."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

import weakclip.study
import weakclip.study.numbers
from weakclip.cli import app, output
from weakclip.cli.run import STAGES
from weakclip.config import load_config, parse_config
from weakclip.crf import VOC_CRF
from weakclip.errors import ConfigError
from weakclip.inference.evaluation import Scores
from weakclip.pipeline import RunResult
from weakclip.pipeline.shards import ShardResult
from weakclip.prediction import PredictionSummary
from weakclip.study import Candidate, CRFStudy, Result, VariantStudy
from weakclip.study.cost import Measurement
from weakclip.study.halving import Rung
from weakclip.study.plan import Means, Plan
from weakclip.tools.annotate import ImportResult
from weakclip.tools.check.run import DataCheck
from weakclip.tools.export import OnnxExport
from weakclip.tools.export.hf_dataset import ExportedDataset
from weakclip.tools.init.folder import InitFiles
from weakclip.tools.init.survey import FolderSurvey
from weakclip.tools.score.run_scores import RunScore
from weakclip.tools.tag.table import Tagging

Call = Callable[..., int]

SCRIPTING = Path(__file__).parents[2] / "docs" / "scripting.md"
OUT = Path("out")
RUN = RunResult(folder=OUT, report=OUT / "report.html", scores=())
VARIANTS = VariantStudy(
    folder=OUT,
    subject="x",
    split="train",
    images=2,
    variants=("0.1", "1"),
    seeds=(0,),
    results=(Result(variant="0.1", seed=0, mean_iou=0.5, trained_parameters=3),),
)
CRFS = CRFStudy(
    folder=OUT,
    split="train",
    images=4,
    candidates=(Candidate("config", VOC_CRF), Candidate("random", VOC_CRF)),
    rungs=(Rung(4, {0: 0.25, 1: 0.5}),),
)
SURVEY = FolderSurvey(
    root=OUT,
    labels="labels.csv",
    class_file=None,
    splits={"train": 2},
    masks={"train": 0},
    classes={"cat": 2},
    sizes=((3, 4),),
    notes=(),
)
SCORES = Scores(
    subject="seeds",
    split="train",
    images=2,
    crf="no",
    multi_scale="no",
    mean_iou=0.5,
    pixel_accuracy=0.5,
    iou={"cat": None},
    precision={"cat": None},
    recall={"cat": None},
)
COST = Measurement(
    side="x",
    seconds=(1.0,),
    cpu_seconds=(float("nan"),),
    before_bytes=0,
    peak_bytes=1,
    total_parameters=1,
    trained_parameters=1,
)
TAGGING = Tagging(path=OUT, threshold=0.05, images=2, classes={"cat": 2}, unsure=(), unread=(), notes=())
CASES: dict[str, tuple[str, Any]] = {
    "run": ("demo --out out", RUN),
    **{stage.replace("_", "-"): ("demo --out out", RUN) for stage in STAGES},
    "merge": ("out", ShardResult(folder=OUT, stage="seeds", shard=None, shards=2, done=True)),
    "report": ("out", (OUT, ())),
    "config": ("demo", (load_config("demo"), "seed: 0")),
    "crf": ("image.png probs.npy --out out.png", OUT),
    "data check": ("demo", DataCheck(splits=(), findings=())),
    "plan": ("demo", Plan(means=Means(images=1), device="cpu", stages=(), bottleneck="")),
    "predict": ("out image.png --out masks", PredictionSummary(out=OUT, images=2, predicted=1, kept=1, failed=0)),
    "init": (
        "images",
        InitFiles(survey=SURVEY, config=OUT, class_file=None, val_file=None, loaded=load_config("demo")),
    ),
    "tag": ("images", TAGGING),
    "import": ("masks.json --run run --out out", ImportResult(drawn=1, kept=1, foreign=())),
    "score": ("seeds out", RunScore(scores=SCORES, labelled=None, labels=True, truth="")),
    "submit": ("out --out results.tgz", 3),
    "export onnx": ("out --out out.onnx", OnnxExport(path=OUT, opset=20, difference=0.0)),
    "export transformers": ("out --out folder", ("background", "cat")),
    "export dataset": ("out --out folder", ExportedDataset(folder=OUT, split="train", images=2, shards=1)),
    "export masks": ("out --format coco --out out.json", 2),
    "study crf": ("demo --out out", CRFS),
    "study prompts": ("demo --out out", VARIANTS),
    "study temperature": ("demo --out out", VARIANTS),
    "study parts": ("demo --out out", VARIANTS),
    "study snapshots": ("demo --run out --out study", VARIANTS),
    "study cost": ("--out out", [COST]),
}
"""Of every command: its arguments, and what its work may come to."""

SERVERS = {"review", "serve"}
"""They print their address as the object, and go on: see tests/review/test_serving.py and test_ml_backend.py."""


def keys_of_the_page() -> dict[str, set[str]]:
    """The keys of each command's object, from the table in docs/scripting.md."""
    rows = re.findall(r"^\| (`.*?) \| (.*) \|$", SCRIPTING.read_text(encoding="utf-8"), flags=re.MULTILINE)
    found = {}
    for commands, keys in rows:
        named = set(re.findall(r"`(.*?)`", re.sub(r"\(.*?\)", "", keys)))
        found |= dict.fromkeys(re.findall(r"`(.*?)`", commands), named)
    return found


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
    assert answered("report", out)[:2] == (0, {"report": str(out / "report.html"), "warnings": []})


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        (("run", "demmo"), "ConfigError", "demmo: no such file"),
        (("train", "demo"), "RunError", "train needs seeds"),
        (("evaluate", "demo", "--set", "data.rot=1"), "ConfigError", "unknown key 'data.rot'"),
        (("study", "parts", "demmo"), "ConfigError", "demmo: no such file"),
        (("study", "crf", "demo"), "ConfigError", "either --run or --probs"),
        (("study", "cost", "--device", "nothing"), "ConfigError", "nothing"),
        (("crf", __file__, __file__, "--preset", "voc", "--params", "x.yaml"), "ConfigError", "give one of them"),
        (("import", "no.json", "--run", "no/run"), "RunError", "no/run: not a run folder"),
        (("submit", "no/run"), "RunError", "no/run: not a run folder"),
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
    monkeypatch.setattr(weakclip.study.numbers, "study_temperature", lambda *_, **__: VARIANTS)
    code, value, _ = answered("study", "temperature", "demo", "--out", tmp_path)
    assert code == 0
    tried, missing = value["variants"]
    assert tried["mean_iou"] == tried["results"][0]["mean_iou"] == 0.5
    assert tried["standard_deviation"] is None
    assert missing == {"variant": "1", "mean_iou": None, "standard_deviation": None, "results": []}
    assert value["files"]["table"] == str(OUT / "table.md")


def test_a_study_of_the_crf(answered: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weakclip.study, "study_crf", lambda *_, **__: CRFS)
    _, value, _ = answered("study", "crf", "demo", "--out", tmp_path)
    assert (value["best"]["origin"], value["best"]["mean_iou"], value["config"]["mean_iou"]) == ("random", 0.5, 0.25)
    assert value["best"]["params"]["iterations"] == 10


def test_of_several_processes_one_speaks(
    call: Call, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    assert call("report", "no/run", "--json") == 2
    assert not capsys.readouterr().out


def test_every_command_is_in_the_table_and_on_the_page() -> None:
    import typer.main

    def leaves(command: Any, name: str) -> set[str]:
        below = getattr(command, "commands", {}).items()
        return {leaf for part, each in below for leaf in leaves(each, f"{name} {part}".strip())} or {name}

    assert leaves(typer.main.get_command(app), "") == set(CASES) | SERVERS == set(keys_of_the_page())


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with all paths that the commands name."""
    for name in ("out/config.yaml", "out/manifest.json", "run/config.yaml", "images/a.png", "image.png", "probs.npy"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "masks.json").touch()
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize("command", CASES)
def test_every_command_answers_with_the_keys_of_its_page(
    answered: Any, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    words, result = CASES[command]
    monkeypatch.setattr(output, "finished", lambda work: result)
    code, value, _ = answered(*command.split(), *words.split())
    assert (code, value.keys()) == (0, keys_of_the_page()[command])


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize("command", CASES)
def test_an_error_of_every_command_is_an_object(answered: Any, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    def fail(work: object) -> None:
        raise ConfigError("no such\nthing")

    monkeypatch.setattr(output, "finished", fail)
    code, value, told = answered(*command.split(), *CASES[command][0].split())
    assert (code, value) == (2, {"error": {"type": "ConfigError", "message": "no such thing"}})
    assert "weakclip: no such thing" in told


def test_the_configuration_is_the_object(answered: Any) -> None:
    _, value, _ = answered("config", "voc12", "--set", "data.root=x", "--set", "train.steps=7")
    assert value["config"]["train"]["steps"] == 7
    assert parse_config(value["config"], origin="here") == load_config("voc12", ["data.root=x", "train.steps=7"])
