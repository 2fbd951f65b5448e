"""The networks of a run: WeakCLIP, WeakCLIP trained further, or another one; which is taken, and its upper bound."""

from __future__ import annotations

import json
import logging
import weakref
from pathlib import Path
from typing import Any

import pytest

from weakclip import cli
from weakclip.config import RunConfig, load_config
from weakclip.errors import ConfigError, WeightsError
from weakclip.inference.evaluation import Scores
from weakclip.modeling import load_weakclip
from weakclip.pipeline import run_pipeline, run_stage, stages
from weakclip.pipeline.networks import load_network
from weakclip.prediction import find_model
from weakclip.report.chosen import ChosenNetwork, read_chosen, write_chosen
from weakclip.store.files import atomic_write
from weakclip.store.keys import result_settings


@pytest.fixture
def alone(config_file: Path) -> RunConfig:
    """WeakCLIP is the only network."""
    return load_config(config_file, ["retrain.model=null"])


@pytest.fixture
def further(config_file: Path) -> RunConfig:
    """WeakCLIP is trained further on its own masks."""
    return load_config(config_file, ["retrain.model=weakclip"])


def subjects(scores: tuple[Scores, ...]) -> list[tuple[str, str]]:
    return [(score.subject, score.split) for score in scores if score.crf == "no" or score.split == "train"]


def test_without_retraining_the_run_ends_with_weakclip(
    alone: RunConfig, ran: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """From a run that retrained: its first three stages stay, and the old network is no longer taken."""
    write_chosen(ran, ChosenNetwork(network="retrained", crf=None, why="of the run before"))
    result = run_pipeline(alone, ran, full=True, redo=True)
    assert result.skipped == ("seeds", "train", "pseudo_masks")
    assert result.ran == ("evaluate", "retrain_truth", "evaluate_truth")
    rows = [("seeds", "train"), ("pseudo masks", "train"), ("WeakCLIP", "val"), ("network (true masks)", "val")]
    assert subjects(result.scores) == rows
    assert result.chosen is not None and result.chosen.network == "weakclip"
    assert find_model(ran).path == ran / "2_train"
    assert result.chosen.why in (ran / "report.html").read_text()
    caplog.set_level(logging.INFO, "weakclip")
    assert run_pipeline(alone, ran, full=True).ran == ()


def test_a_network_that_is_nowhere_is_told_before_the_first_stage(config_file: Path, tmp_path: Path) -> None:
    config = load_config(config_file, ["retrain.model=nobody/has-this"])
    with pytest.raises(
        WeightsError, match=r"nobody/has-this: no semantic-segmentation model to be had in the cache or"
    ):
        run_pipeline(config, tmp_path / "run")
    assert not (tmp_path / "run/1_seeds").exists()


def test_evaluation_holds_one_network_at_a_time(config_file: Path, ran: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[weakref.ref[Any]] = []

    def load(*args: Any, **kwargs: Any) -> Any:
        assert not [network for network in loaded if network() is not None]
        network = load_network(*args, **kwargs)
        loaded.append(weakref.ref(network))
        return network

    monkeypatch.setattr(stages, "load_network", load)
    run_stage(load_config(config_file, ["evaluate.pictures=50"]), ran, "evaluate")
    assert len(loaded) == 3  # each is scored, and the chosen one is loaded again


def test_the_command_to_retrain_says_what_to_set(
    config_file: Path, ran: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["weakclip", "retrain", str(config_file), "--out", str(ran), "--set", "retrain.model=null"]
    monkeypatch.setattr("sys.argv", command)
    with pytest.raises(SystemExit) as stop:
        cli.main()
    said = capsys.readouterr().err
    assert stop.value.code == 2 and said.count("\n") == 1 and "--set retrain.model=weakclip" in said


def test_weakclip_trained_further_keeps_its_encoder_and_is_handed_over_like_any_other(
    further: RunConfig, ran: Path
) -> None:
    """The stage on its own, then the rest; what is retrained is another network than that of stage 2."""
    assert run_stage(further, ran, "retrain", redo=True).ran == ("retrain",)
    first, second = (load_weakclip(ran / folder) for folder in ("2_train", "4_retrain"))
    assert first.clip.state_dict().keys() == second.clip.state_dict().keys()
    assert any((value != second.trainable_state()[name]).any() for name, value in first.trainable_state().items())
    result = run_pipeline(further, ran, redo=True)
    assert result.ran == ("evaluate",)
    assert [name for name, _ in subjects(result.scores)][2:] == ["WeakCLIP", "retrained network"]
    assert find_model(ran, network="retrained").kind == "weakclip"
    assert json.loads((ran / "5_evaluate/chosen.json").read_text())["why"] == read_chosen(ran).why


def test_a_change_of_what_weakclip_is_trained_with_redoes_its_upper_bound(
    config_file: Path, further: RunConfig, ran: Path
) -> None:
    """Only where WeakCLIP is what is bounded: the bound of another network has nothing to do with stage 2."""

    def read(*settings: str) -> set[str]:
        """The sections whose settings the bound depends on."""
        config = load_config(config_file, settings)
        view = stages.stages_of(config)["retrain_truth"].view(config)
        return {path.partition(".")[0] for path, value in result_settings(view).items() if value is not None}

    assert "train" in read("retrain.model=weakclip") and "train" in read("retrain.model=null")
    assert "retrain" not in read("retrain.model=null") and "train" not in read()
    run_stage(further, ran, "retrain_truth")
    folder = ran / "4_retrain_truth"
    weights = (folder / "model.safetensors").read_bytes()
    assert (folder / "first_training/model.safetensors").read_bytes() != weights
    manifest = json.loads((ran / "manifest.json").read_text())
    manifest["stages"]["retrain_truth"]["done"] = False
    with atomic_write(ran / "manifest.json", "w") as file:
        json.dump(manifest, file)
    (folder / "model.safetensors").unlink()
    run_stage(further, ran, "retrain_truth")
    assert (folder / "model.safetensors").read_bytes() == weights


def test_only_a_run_without_retraining_has_no_such_stage(alone: RunConfig, further: RunConfig, tmp_path: Path) -> None:
    assert "retrain" in stages.stages_of(further) and "retrain" not in stages.stages_of(alone)
    with pytest.raises(ConfigError, match=r"retrain\.model: is null"):
        run_stage(alone, tmp_path / "new", "retrain")
    assert not (tmp_path / "new").exists()
