"""Laws of a run: it goes from labels to a network, continues where it stopped, and redoes exactly what changed."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from folders import times_in

from weakclip import cli
from weakclip.config import RunConfig, load_config
from weakclip.datasets.images import read_mask
from weakclip.errors import DataError, RunError, WeightsError
from weakclip.pipeline import run_pipeline, run_stage
from weakclip.pipeline.stages import STAGES

MAIN = ("seeds", "train", "pseudo_masks", "retrain", "evaluate")
FOLDERS = dict(zip(MAIN, ("1_seeds", "2_train", "3_pseudo_masks", "4_retrain", "5_evaluate"), strict=True))


@pytest.fixture
def config(config_file: Path) -> RunConfig:
    return load_config(config_file)


def results(folder: Path) -> dict[str, bytes]:
    """What a run is for: masks, weights, scores. Logs and manifests hold times."""
    kept = [*folder.rglob("*.png"), *folder.rglob("model.safetensors"), folder / "5_evaluate/metrics.json"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in kept}


def test_every_stage_leaves_its_folder(ran: Path) -> None:
    assert {"config.yaml", "log.jsonl", "manifest.json", "report.html", *FOLDERS.values()} == {
        path.name for path in ran.iterdir()
    }
    for folder in FOLDERS.values():
        assert json.loads((ran / folder / "metrics.json").read_text())
        assert (ran / folder / "log.jsonl").read_text().count("\n") >= 1
    assert not list(ran.rglob("*.tmp"))


def test_the_run_notes_which_part_of_each_stage_waits(ran: Path) -> None:
    events = [json.loads(line) for line in (ran / "log.jsonl").read_text().splitlines()]
    for stage in ("seeds", "train", "pseudo_masks", "retrain", "evaluate"):
        kinds = [each["event"] for each in events if each["stage"] == stage]
        assert (kinds[0], kinds[-1]) == ("begin", "end") and set(kinds[1:-1]) == {"throughput"}
    sides = {each["waits_for"] for each in events if each["event"] == "throughput" and each["stage"] == "train"}
    assert sides <= {"data", "steps"}


def test_scores_say_what_they_are_about(config: RunConfig, ran: Path) -> None:
    scores = run_pipeline(config, ran).scores
    assert [(score.subject, score.split, score.images, score.crf != "no") for score in scores] == [
        ("seeds", "train", 6, True),
        ("pseudo masks", "train", 6, True),
        *(("WeakCLIP", "val", 3, crf) for crf in (False, True)),
        *(("retrained network", "val", 3, crf) for crf in (False, True)),
    ]
    assert all(0 <= score.mean_iou <= 1 for score in scores)


def test_pseudo_masks_hold_only_the_labels_and_the_background(ran: Path) -> None:
    from weakclip.datasets.scenes import ScenesDataset

    dataset = ScenesDataset("train", size=64, count=6)
    for index, name in enumerate(dataset.names):
        found = set(np.unique(read_mask(ran / f"3_pseudo_masks/masks/{name}.png")).tolist())
        assert found <= {0, *dataset.labels(index)}


def test_report_shows_the_run(ran: Path) -> None:
    page = (ran / "report.html").read_text()
    assert page.count("<img") == 2 * 5 + 2 * 3
    assert page.count('<svg class="chart"') == 2
    assert "pseudo masks, train" in page


def test_second_run_does_nothing_and_says_so(config: RunConfig, ran: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = times_in(ran)
    with caplog.at_level(logging.INFO, "weakclip"):
        run_pipeline(config, ran)
    assert times_in(ran) == before
    assert caplog.text.count("done already with the same settings and data; skipped") == len(MAIN)


def test_stages_one_by_one_give_what_the_run_gives(config: RunConfig, ran: Path, tmp_path: Path) -> None:
    for stage in MAIN:
        run_stage(config, tmp_path / "alone", stage)
    assert results(tmp_path / "alone") == results(ran)


def test_run_stopped_in_every_stage_ends_the_same(
    config: RunConfig, ran: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "stopped"
    for stage in MAIN:
        with monkeypatch.context() as patch:
            patch.setitem(STAGES, stage, dataclasses.replace(STAGES[stage], run=stopping(STAGES[stage].run)))
            with pytest.raises(KeyboardInterrupt):
                run_pipeline(config, out)
        records = json.loads((out / "manifest.json").read_text())["stages"]
        assert [name for name, record in records.items() if not record["done"]] == [stage]
    run_pipeline(config, out)
    assert results(out) == results(ran)


def stopping(run: Any) -> Any:
    """A stage that does its work, loses the last file of it, and is stopped before it can say that it is done."""

    def work_and_stop(context: Any, view: Any, folder: Path) -> None:
        run(context, view, folder)
        last = max(folder.rglob("*.*"), key=lambda path: path.stat().st_mtime_ns)
        last.unlink()
        raise KeyboardInterrupt

    return work_and_stop


def test_stopped_stage_keeps_the_images_that_it_has(config: RunConfig, ran: Path) -> None:
    manifest = json.loads((ran / "manifest.json").read_text())
    manifest["stages"]["seeds"]["done"] = False
    (ran / "manifest.json").write_text(json.dumps(manifest))
    lost = sorted((ran / "1_seeds/masks").iterdir())[0]
    content, before = lost.read_bytes(), times_in(ran)
    lost.unlink()
    run_pipeline(config, ran)
    changed = {name for name, time in times_in(ran).items() if before[name] != time}
    assert changed == {f"1_seeds/{part}/{lost.name}" for part in ("masks", "dense")} | {
        "1_seeds/files.json",
        "1_seeds/items.json",
        "1_seeds/log.jsonl",
        "1_seeds/metrics.json",
    }
    assert lost.read_bytes() == content


def test_summary_of_the_seeds_is_that_of_their_masks(config: RunConfig, ran: Path) -> None:
    folder = ran / FOLDERS["seeds"]
    masks = [read_mask(path) for path in sorted((folder / "masks").iterdir())]
    told = json.loads((folder / "metrics.json").read_text())["mean_shares"]
    background, undecided = (np.mean([(mask == value).mean() for mask in masks]) for value in (0, 255))
    shares = [1 - background - undecided, background, undecided]
    assert list(told.values()) == pytest.approx(shares, abs=2e-5) and next(iter(told)) == "foreground"
    log = folder / "log.jsonl"
    whole = log.read_bytes()
    for content, expected in (
        (b'{"name": "train_000000", "fore\n' + whole + b'{"na', told),
        (b"", dict.fromkeys(told)),
    ):
        log.write_bytes(content)
        (folder / "metrics.json").unlink()
        run_stage(config, ran, "seeds")
        assert json.loads((folder / "metrics.json").read_text())["mean_shares"] == expected


def test_weights_and_masks_that_were_lost_are_made_again(config: RunConfig, ran: Path) -> None:
    expected = results(ran)
    (ran / "2_train/model.safetensors").unlink()
    for mask in (ran / "3_pseudo_masks/masks").iterdir():
        mask.unlink()
    run_pipeline(config, ran)
    assert results(ran) == expected


def test_changed_setting_redoes_its_stage_and_those_after(
    config_file: Path, ran: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before, changed_config = times_in(ran), load_config(config_file, ["pseudo_masks.restrict_to_labels=false"])
    with pytest.raises(
        RunError, match=r"pseudo_masks \(pseudo_masks.restrict_to_labels: true → false\), retrain, .*--redo"
    ):
        run_pipeline(changed_config, ran)
    assert times_in(ran) == before
    with caplog.at_level(logging.INFO, "weakclip"):
        run_pipeline(changed_config, ran, redo=True)
    assert "pseudo_masks: runs again, because pseudo_masks.restrict_to_labels: true → false" in caplog.text
    assert "retrain: runs again, because pseudo_masks is new" in caplog.text
    assert "evaluate: runs again, because pseudo_masks.restrict_to_labels: true → false; pseudo_masks" in caplog.text
    changed = {name.split("/")[0] for name, time in times_in(ran).items() if before.get(name) != time}
    assert changed == {"3_pseudo_masks", "4_retrain", "5_evaluate"}
    assert "restrict_to_labels: false" in (ran / "config.yaml").read_text()


def test_written_configuration_continues_the_run(ran: Path) -> None:
    """`config.yaml` in the run folder spells out every default, and is the same configuration."""
    before = times_in(ran)
    run_pipeline(load_config(ran / "config.yaml"), ran)
    assert times_in(ran) == before


def test_setting_without_effect_redoes_nothing(config_file: Path, ran: Path) -> None:
    before = times_in(ran)
    run_pipeline(load_config(config_file, ["train.log_every=2", "train.checkpoint_every=1"]), ran)
    assert times_in(ran) == before


def test_failing_stage_loses_nothing_that_is_done(config_file: Path, config: RunConfig, ran: Path) -> None:
    before = times_in(ran)
    broken = load_config(config_file, ["retrain.model=./no/such/network"])
    with pytest.raises(WeightsError, match="no/such/network"):
        run_pipeline(broken, ran)
    after = times_in(ran)
    assert all(after.get(name) == time for name, time in before.items() if not name.startswith("4_retrain"))
    assert run_pipeline(config, ran).scores


def test_stage_without_its_input_is_one_clear_line(config: RunConfig, config_file: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="train needs seeds, which has not been run; run `weakclip seeds`"):
        run_stage(config, tmp_path / "run", "train")
    assert not (tmp_path / "run").exists()
    run_stage(config, tmp_path / "run", "seeds")
    other = load_config(config_file, ["seeds.masks.background_power=2"])
    with pytest.raises(RunError, match=r"made with other settings \(seeds.masks.background_power: null → 2.0\)"):
        run_stage(other, tmp_path / "run", "train")


def test_a_result_that_is_taken_back_is_said(
    config: RunConfig, config_file: Path, ran: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A --redo fails in its first stage; then the stages after it, and the run, are asked for with either settings."""

    def failing(context: Any, view: Any, folder: Path) -> None:
        raise DataError("no more")

    other = load_config(config_file, ["seeds.masks.background_power=2"])
    with monkeypatch.context() as patched:
        patched.setitem(STAGES, "seeds", dataclasses.replace(STAGES["seeds"], run=failing))
        with pytest.raises(DataError, match="no more"):
            run_pipeline(other, ran, redo=True)
    with pytest.raises(RunError, match=r"train needs seeds, which is not finished; run `weakclip seeds` or"):
        run_stage(other, ran, "train")
    with pytest.raises(RunError, match=r"is being made with other settings; .* taken back; run `weakclip seeds` or"):
        run_stage(config, ran, "train")
    third = load_config(config_file, ["seeds.masks.background_power=3"])
    with pytest.raises(RunError, match=r"made with other settings \(.*null → 3\.0\); run `weakclip seeds --redo`"):
        run_stage(third, ran, "train")
    caplog.clear()
    with caplog.at_level(logging.INFO, "weakclip"):
        assert run_pipeline(config, ran).ran == ()
    assert "seeds: its previous result has these settings; the one that was begun since makes way" in caplog.text
    assert "runs again" not in caplog.text


def test_a_setting_of_an_earlier_stage_is_named_though_a_later_one_is_asked_for(ran: Path, config: RunConfig) -> None:
    """The manifest of a version that did not know a setting of the seeds yet."""
    manifest = json.loads((ran / "manifest.json").read_text())
    seeds, train = manifest["stages"]["seeds"], manifest["stages"]["train"]
    del seeds["settings"]["seeds.gradcam.fill_outliers"]
    seeds["key"] = train["inputs"]["seeds"] = train["key"] = "of that version"
    (ran / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(RunError, match=r"needs train, .* settings \(seeds\.gradcam\.fill_outliers: null → false\)"):
        run_stage(config, ran, "pseudo_masks")


def test_full_run_adds_the_upper_bound_and_keeps_the_rest(config: RunConfig, ran: Path) -> None:
    before = times_in(ran)
    scores = run_pipeline(config, ran, full=True).scores
    assert [score.subject for score in scores][-1] == "network (true masks)"
    after = times_in(ran)
    assert all(after[name] == time for name, time in before.items())
    assert "the upper bound apart" in (ran / "report.html").read_text()


def test_command_line_runs_shows_the_table_and_the_report(
    config_file: Path, ran: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The finished run is continued with a shorter training, stage by stage, and then as a whole."""
    monkeypatch.setenv("COLUMNS", "100")
    common = [str(config_file), "--out", str(ran), "--limit-steps", "2", "--redo"]
    for command in ("train", "pseudo-masks", "run"):
        monkeypatch.setattr("sys.argv", ["weakclip", command, *common])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        assert not stop.value.code
    out = capsys.readouterr().out
    assert f"report: {ran / 'report.html'}" in out
    assert "network" in out
    assert json.loads((ran / "2_train/metrics.json").read_text())["steps"] == 2


@pytest.mark.slow
def test_torchrun_starts_a_run_on_two_machines(config_file: Path, config: RunConfig, tmp_path: Path) -> None:
    """Both are this one; the command is the same on each."""
    out = tmp_path / "run"
    with socket.socket() as free:
        free.bind(("localhost", 0))
        place = f"localhost:{free.getsockname()[1]}"
    words = [
        "--nnodes=2",
        "--nproc-per-node=1",
        "--rdzv-backend=c10d",
        f"--rdzv-endpoint={place}",
        "--local-addr=localhost",
    ]
    launcher = [sys.executable, "-m", "torch.distributed.run", *words, "-m", "weakclip"]
    environment = {**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    arguments = [*launcher, "run", str(config_file), "--out", str(out)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    machines = [subprocess.Popen(arguments, text=True, env=environment, **pipes) for _ in range(2)]
    said = [machine.communicate() for machine in machines]
    assert [machine.returncode for machine in machines] == [0, 0], said
    assert sum(printed.count("report: ") for printed, _ in said) == 1
    assert (out / "2_train/log.jsonl").read_text().count("\n") == 4
    assert run_pipeline(config, out).ran == ()


def test_stage_without_memory_is_one_clear_line(config: RunConfig, ran: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def starved(context: Any, view: Any, folder: Path) -> None:
        raise MemoryError

    monkeypatch.setitem(STAGES, "evaluate", dataclasses.replace(STAGES["evaluate"], run=starved, code=9))
    with pytest.raises(RunError, match=r"evaluate: out of memory .*batch_size.* give the same command again"):
        run_pipeline(config, ran, redo=True)
