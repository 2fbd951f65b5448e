"""The command line: fast to answer, one line and exit code 2 for what the user can correct."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import weakclip

SOURCE = Path(weakclip.__file__).parents[1]


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=environment, check=False)


def test_help_imports_nothing_heavy() -> None:
    """What makes `--help` slow is torch; without it the answer takes a fraction of 0.5 s."""
    answer = python("-X", "importtime", "-m", "weakclip", "--help")
    assert answer.returncode == 0
    assert "pseudo-masks" in answer.stdout
    imported = {line.rsplit("|", 1)[-1].strip().split(".")[0] for line in answer.stderr.splitlines()}
    assert "typer" in imported
    assert not imported & {"torch", "transformers", "numba", "numpy", "pydantic", "jinja2", "PIL"}


def test_version_without_installation() -> None:
    answer = python("-m", "weakclip", "--version")
    assert (answer.returncode, answer.stdout.strip()) == (0, f"weakclip {weakclip.__version__}")


def test_every_public_name_exists() -> None:
    for name in weakclip.__all__:
        assert getattr(weakclip, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'load_clips'"):
        _ = weakclip.load_clips  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data: {dataset: scenes}\ntrain: {stepss: 3}", "unknown key 'train.stepss' in"),
        ("data: {dataset: scenes}\ntrain: {steps: x}", "train.steps: Input should be a valid integer"),
        ("data: {dataset: folder, root: ./no/such/folder}\nclip: {source: demo}", "no/such/folder: no such folder"),
        ("data: {dataset: scenes}\nclip: {source: ./no/such/clip}", "no/such/clip"),
    ],
)
def test_mistake_is_one_line_and_code_2_and_nothing_is_written(
    call: Callable[..., int], capsys: pytest.CaptureFixture[str], tmp_path: Path, text: str, message: str
) -> None:
    config = tmp_path / "my.yaml"
    config.write_text(text)
    assert call("run", config, "--out", tmp_path / "run") == 2
    *_, last = capsys.readouterr().err.strip().splitlines()
    assert last.startswith("weakclip: ")
    assert message in last
    assert not list(tmp_path.glob("run/[1-5]_*/*"))


def test_foreign_folder_is_left_alone(
    call: Callable[..., int], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    assert call("run", "demo", "--out", tmp_path, "--set", "data.train_limit=2") == 2
    assert "no run of weakclip" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
    assert call("report", tmp_path) == 2
    assert "not a run folder" in capsys.readouterr().err


def test_config_prints_the_whole_and_where_it_comes_from(
    call: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("config", "coco14", "--set", "train.batch_size=7") == 0
    told = capsys.readouterr().out
    assert told.startswith("data:\n  dataset: coco14  # coco14\n")
    assert "  steps: 40000  # coco14\n" in told and "  batch_size: 7  # --set\n" in told and "  # voc12\n" in told


@pytest.mark.parametrize("arguments", [("run",), ("run", "demo"), ("run", "demo", "--out"), ("runn",), ("--verion",)])
def test_wrong_usage_is_code_2(
    call: Callable[..., int], capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    assert call(*arguments) == 2
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(("raised", "code"), [(KeyboardInterrupt(), 130), (SystemExit(143), 143)])
def test_stopped_run_ends_with_the_code_of_its_signal(
    call: Callable[..., int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, raised: BaseException, code: int
) -> None:
    import weakclip.pipeline

    def stop(*_: object, **__: object) -> None:
        raise raised

    monkeypatch.setattr(weakclip.pipeline, "run_pipeline", stop)
    assert call("run", "demo", "--out", tmp_path / "run") == code


def test_end_of_file_that_nobody_expected_is_no_abort_of_the_user(
    call: Callable[..., int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It is a mistake in the program, and its traceback is what tells where."""
    import weakclip.pipeline

    def fail(*_: object, **__: object) -> None:
        raise EOFError("from somewhere")

    monkeypatch.setattr(weakclip.pipeline, "run_pipeline", fail)
    with pytest.raises(RuntimeError) as caught:
        call("run", "demo", "--out", tmp_path / "run")
    assert isinstance(caught.value.__cause__, EOFError)


def test_a_path_in_the_home_is_found_though_the_shell_left_it_as_it_is(
    call: Callable[..., int], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "run").mkdir()
    (tmp_path / "run/manifest.json").write_text('{"format": 2, "stages": {}}')
    assert call("config", "demo") == 0
    (tmp_path / "run/config.yaml").write_text(capsys.readouterr().out)
    assert call("report", "~/run") == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / "run/report.html")
    assert call("review", "--stats", "~/run") == 0 and call("config", "~/run/config.yaml") == 0
