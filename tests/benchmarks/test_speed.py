"""The benchmark of speed: its released side computes what the package computes where both say the same, its table."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from by_path import load_script

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module", autouse=True)
def beside() -> None:
    sys.path.insert(0, str(BENCHMARKS))


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    return load_script("benchmarks/speed.py")


@torch.no_grad()
def test_one_layer_of_co_attention_gives_the_released_logits() -> None:
    """With one layer nothing is left of the difference but the order of operations: the logits are those of ours."""
    import speed_parts
    from released import ReleasedWeakCLIP

    from weakclip.datasets.classes import VOC12
    from weakclip.modeling import build_weakclip

    model = build_weakclip(speed_parts.tiny_clip(), VOC12, co_attention_layers=1).eval()
    images = torch.randint(0, 256, (2, 3, 64, 32), dtype=torch.uint8)
    expected = model(images)
    found = ReleasedWeakCLIP(model).eval()(images)
    torch.testing.assert_close(found.match_map, expected.match_map, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.logits, expected.logits, rtol=1e-3, atol=1e-5)


def test_the_released_inference_gives_the_same_masks() -> None:
    import speed_parts
    from released import released_probs

    from weakclip.inference.windows import InferenceSettings, predict_probs

    class Coarse(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            from weakclip.modeling import WeakCLIPOutput

            logits = torch.nn.functional.avg_pool2d(images.float() / 50, 4)
            return WeakCLIPOutput(logits=logits, match_map=logits, class_embeddings=logits)

    image, network = speed_parts.image_of((60, 90)), Coarse()
    pixels = torch.from_numpy(image).permute(2, 0, 1)
    theirs = released_probs(network, pixels, [(1.0, False), (1.0, True), (1.5, False), (1.5, True)], crop=48)
    how = InferenceSettings(scales=(1.0, 1.5), crop=48, stride=48 * 341 // 512)
    ours = predict_probs(lambda images: network(images).logits, image, how, device="cpu")
    assert np.abs(theirs.numpy() - ours).max() < 0.1 and np.abs(theirs.numpy() - ours).mean() < 0.01


def test_every_part_is_measured(
    benchmark: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark, "peak_memory", lambda name, side, setting: 100.0)
    found = benchmark.main(["--short", f"--json={tmp_path / 'speed.json'}"])
    assert json.loads((tmp_path / "speed.json").read_text()) == found
    assert list(found["parts"]) == list(benchmark.PARTS)
    step = found["parts"]["training step"]
    assert step["released"]["times_as_fast"] == 1 and min(one["gflop"] for one in step.values()) > 1
    assert all(one["cpu_s"] > 0 for sides in found["parts"].values() for one in sides.values())
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("| training step |") for line in lines) == 3
    assert found["machine"]["processor"] and found["matrix_flop_per_s"]["float32"] > 0


def test_a_trace_of_a_part_is_written(benchmark: ModuleType, tmp_path: Path) -> None:
    benchmark.main(["--short", "--no-memory", "--only=demo", f"--profile={tmp_path}"])
    traces = {path.name: json.loads(path.read_text()) for path in tmp_path.iterdir()}
    assert set(traces) == {"demo_step,_bf16.json", "demo_step,_fp32.json"}
    assert all(trace["traceEvents"] for trace in traces.values())


@pytest.mark.slow
def test_memory_is_that_of_a_fresh_process(tmp_path: Path) -> None:
    script, path = Path(__file__).parents[2] / "benchmarks/speed.py", tmp_path / "speed.json"
    subprocess.run([sys.executable, script, "--short", "--only=demo", f"--json={path}"], check=True)
    parts = json.loads(path.read_text())["parts"]
    peaks = [one["peak_mib"] for sides in parts.values() for one in sides.values()]
    assert peaks and all(100 < peak < 3000 for peak in peaks)
