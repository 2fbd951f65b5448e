"""Checks the package on an accelerator: tests, agreement with the CPU, stops of the device, benchmarks; one JSON file.

    PYTHONPATH=src python3 scripts/gpu_check.py --json gpu.json                 # on the accelerator, 8 minutes at most
    PYTHONPATH=src python3 scripts/gpu_check.py --short --device cpu            # tiny networks: whether the check runs

It needs PyTorch, transformers and what the package imports, and installs nothing. Each part has a bound in seconds and
reports its own failure; the others go on. The exit code is the number of parts that failed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "benchmarks")]

TESTS = (
    "tests/crf/test_dense_crf.py", "tests/modeling/test_parts.py", "tests/modeling/test_weakclip.py",
    "tests/modeling/test_losses.py", "tests/seeds/test_patch_text.py", "tests/training/test_precision.py",
    "tests/inference/test_windows.py", "tests/clip/test_cast_weights.py",
)  # fmt: skip
"""Those that take `--device`, and those of what differs on an accelerator."""
LIMIT = 480.0
SHARES = {"tests": 120.0, "benchmarks": 210.0, "batch": 90.0}
"""Seconds that a part in a process of its own may take."""

Found = dict[str, Any]


def run(arguments: list[str], seconds: float) -> Found:
    """A command in a process of its own, ended at its bound: exit code, seconds and the end of its output."""
    began = time.monotonic()
    paths = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    try:
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": paths},
            timeout=seconds,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        code, output = done.returncode, done.stdout
    except subprocess.TimeoutExpired as late:
        code, output = None, late.stdout or b""
    lines = output.decode(errors="replace").splitlines()
    return {"exit_code": code, "seconds": round(time.monotonic() - began, 1), "output": lines[-40:]}


def tests(device: torch.device, short: bool, seconds: float) -> Found:
    """The tests that run on a device."""
    if importlib.util.find_spec("pytest") is None:
        return {"left_out": "pytest is not here"}
    chosen = TESTS[1:2] if short else TESTS
    found = run(["-m", "pytest", "-q", "-p", "no:cacheprovider", f"--device={device}", *chosen], seconds)
    return {**found, "failed": found["exit_code"] != 0}


def benchmarks(device: torch.device, short: bool, seconds: float, batch: int = 1, only: str = "") -> Found:
    """`benchmarks/speed.py`, with its figures."""
    path = Path(f"/tmp/weakclip-speed-{os.getpid()}-{batch}.json")
    arguments = ["benchmarks/speed.py", f"--device={device}", f"--json={path}", f"--batch={batch}", f"--only={only}"]
    found = run([*arguments, *(["--short", "--no-memory"] if short else [])], seconds)
    if path.is_file():
        found["figures"] = json.loads(path.read_text())
        path.unlink()
    return {**found, "failed": found["exit_code"] != 0}


def agreement(device: torch.device, short: bool) -> Found:
    """Probabilities of a photo on the device, in each precision, against float32 on the CPU; dense CRF likewise."""
    from speed_parts import Setting, image_of

    from weakclip.crf import VOC_CRF, dense_crf
    from weakclip.inference.windows import InferenceSettings, predict_probs

    setting = Setting(device=torch.device("cpu"), short=short)
    image, model = image_of(setting.photo), setting.model().eval()
    torch.nn.init.normal_(model.decoder.head.classifier.weight)  # as sure of itself as after a training

    def probs(where: torch.device, precision: Any) -> np.ndarray:
        how = InferenceSettings(scales=(1.0,), flip=False, crop=setting.crop, stride=setting.crop, precision=precision)
        network = model.to(where)
        return predict_probs(lambda images: network(images).logits, image, how, device=where)

    expected, found = probs(torch.device("cpu"), "fp32"), {}
    for precision, least in (("fp32", 0.999), ("tf32", 0.99), ("bf16", 0.97)):
        made = probs(device, precision)
        same = float((made.argmax(0) == expected.argmax(0)).mean())
        found[precision] = {"same_classes": same, "largest_difference": float(np.abs(made - expected).max())}
        found[precision]["failed"] = same < least
    pixels, marginals = torch.from_numpy(image).permute(2, 0, 1), torch.from_numpy(expected[:3] / expected[:3].sum(0))
    crf = [dense_crf(pixels.to(each), marginals.to(each), VOC_CRF).cpu() for each in (torch.device("cpu"), device)]
    found["dense CRF"] = {"largest_difference": float((crf[0] - crf[1]).abs().max())}
    found["dense CRF"]["failed"] = found["dense CRF"]["largest_difference"] > 1e-2
    return {**found, "failed": any(each["failed"] for each in found.values())}


def stops(device: torch.device, short: bool) -> Found:
    """How often a step and the masks of a photo wait for the device, as torch's own debugging mode counts it."""
    from speed_parts import PARTS, Setting

    module = torch.get_device_module(device)
    if not hasattr(module, "set_sync_debug_mode"):
        return {"left_out": f"{device.type} does not count its stops"}
    found: Found = {}
    for name in ("training step", "mask generation", "demo step"):
        work = PARTS[name](Setting(device=device, short=short))["bf16"]
        work()
        module.set_sync_debug_mode("warn")
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            work()
        module.set_sync_debug_mode("default")
        places = [f"{Path(each.filename).name}:{each.lineno}" for each in said if "synchroniz" in str(each.message)]
        found[name] = {"stops": len(places), "places": sorted(set(places))}
    return found


def main(arguments: list[str] | None = None) -> int:
    """Run all parts and write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", help="the machine's accelerator where left out")
    parser.add_argument("--short", action="store_true", help="tiny networks, a part of the tests")
    parser.add_argument("--json", type=Path, help="write everything here")
    options = parser.parse_args(arguments)
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if options.device is None and accelerator is None:
        sys.exit("no accelerator found; name a device with --device")
    device, short = torch.device(options.device or accelerator), options.short
    began, report, failed = time.monotonic(), {"device": str(device), "torch": torch.__version__}, 0
    if device.type != "cpu":
        report["name"] = torch.get_device_module(device).get_device_name(device)

    def left(name: str) -> float:
        return max(5.0, min(SHARES[name], LIMIT - (time.monotonic() - began)))

    parts: dict[str, Callable[[], Found]] = {
        "agreement": lambda: agreement(device, short),
        "stops": lambda: stops(device, short),
        "tests": lambda: tests(device, short, left("tests")),
        "benchmarks": lambda: benchmarks(device, short, left("benchmarks")),
        "batch": lambda: benchmarks(device, short, left("batch"), batch=16, only="training step"),
    }
    for name, part in parts.items():
        try:
            found = part()
        except Exception as error:  # one part's failure is a result, too
            found = {"error": f"{type(error).__name__}: {error}", "failed": True}
        report[name] = found
        failed += bool(found.get("failed"))
        print(f"{name}: {'failed' if found.get('failed') else 'done'}, {time.monotonic() - began:.0f} s", flush=True)
        if options.json:  # after each part: what is there survives
            options.json.write_text(json.dumps(report, indent=2) + "\n")
    return failed


if __name__ == "__main__":
    sys.exit(main())
