"""The check of an accelerator runs on a CPU in its short form, and a failure is told, not hidden."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest
import torch
from by_path import load_script


@pytest.fixture(scope="module")
def check() -> ModuleType:
    return load_script("scripts/gpu_check.py")


def test_the_networks_agree_with_themselves(check: ModuleType) -> None:
    found = check.agreement(torch.device("cpu"), short=True)
    assert found["fp32"] == {"same_classes": 1.0, "largest_difference": 0.0, "failed": False}
    assert found["dense CRF"]["largest_difference"] == 0
    assert not found["failed"]


def test_parts_that_fail_are_counted_and_the_others_go_on(
    check: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("out of luck")

    monkeypatch.setattr(check, "agreement", broken)
    monkeypatch.setattr(check, "run", lambda arguments, seconds: {"exit_code": 0, "output": [arguments[0], seconds]})
    assert check.main(["--device=cpu", "--short", f"--json={tmp_path / 'report.json'}"]) == 1
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["agreement"] == {"error": "RuntimeError: out of luck", "failed": True}
    assert report["stops"] == {"left_out": "cpu does not count its stops"}
    assert report["benchmarks"]["output"] == ["benchmarks/speed.py", 210.0]
    assert "tests: done" in capsys.readouterr().out


def test_the_tests_that_it_runs_are_there(check: ModuleType) -> None:
    for name in check.TESTS:
        assert (Path(check.ROOT) / name).is_file()
    assert sum(check.SHARES.values()) < check.LIMIT


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_whole_check_on_a_cpu(check: ModuleType, tmp_path: Path) -> None:
    assert check.main(["--device=cpu", "--short", f"--json={tmp_path / 'report.json'}"]) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert set(report["benchmarks"]["figures"]["parts"]) >= {"training step", "mask generation", "demo step"}
