"""Times the parts of a run: training step and masks beside those of the released code, seeds, loading, the demo.

    python benchmarks/speed.py                       # table; about eight minutes on a core
    python benchmarks/speed.py --short               # tiny networks, seconds: whether it runs
    python benchmarks/speed.py --device NAME --json speed.json

Each figure is the median over repetitions after one that is not counted; where two sides are compared they take turns,
and the ratio is the median of the pairs. CPU seconds are the process's, over all its threads; on a device the wall time
counts, after the device is done. `share of matrix rate` is the counted FLOPs over the time, as a share of what a large
matrix product reaches here in the same precision. Peak memory is that of a process that does this part only.
Weights are random and images drawn: the times do not depend on them.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))

from speed_parts import PARTS, Setting

from weakclip.study.cost import machine

Work = Callable[[], object]


@dataclass
class Clock:
    """Times of one side of a part."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def time(self, work: Work, device: torch.device, *, counted: bool = True) -> None:
        wait(device)
        wall, cpu = time.perf_counter(), time.process_time()
        work()
        wait(device)
        if counted:
            self.wall.append(time.perf_counter() - wall)
            self.cpu.append(time.process_time() - cpu)

    def main(self, device: torch.device) -> list[float]:
        """The times that ratios are made of: CPU seconds, on a device wall seconds."""
        return self.cpu if device.type == "cpu" else self.wall


def wait(device: torch.device) -> None:
    """Until the device has done what it was given."""
    if device.type != "cpu":
        torch.get_device_module(device).synchronize(device)


def matrix_rate(device: torch.device, dtype: torch.dtype, size: int) -> float:
    """FLOP/s of a square matrix product, the best of five: per CPU second, or per second of a device."""
    one = torch.rand(size, size, device=device).to(dtype)
    clock = Clock()
    for index in range(6):
        clock.time(lambda: one @ one, device, counted=index > 0)
    return 2 * size**3 / min(clock.main(device))


def measure(name: str, setting: Setting, repeats: int) -> dict[str, Any]:
    """The figures of one part."""
    sides = PARTS[name](setting)
    flops = {side: counted_flops(work) for side, work in sides.items()}  # and warm
    clocks = {side: Clock() for side in sides}
    for _ in range(repeats):
        for side, work in sides.items():
            clocks[side].time(work, setting.device)
    found: dict[str, Any] = {}
    for side, clock in clocks.items():
        found[side] = {
            "wall_s": statistics.median(clock.wall),
            "cpu_s": statistics.median(clock.cpu),
            "range_s": [min(clock.main(setting.device)), max(clock.main(setting.device))],
            "gflop": round(flops[side] / 1e9, 2),
            "flop_per_s": flops[side] / statistics.median(clock.main(setting.device)),
        }
    if "released" in clocks:
        theirs = clocks["released"].main(setting.device)
        for side, clock in clocks.items():
            pairs = [there / here for here, there in zip(clock.main(setting.device), theirs, strict=True)]
            found[side]["times_as_fast"] = statistics.median(pairs)
    return found


def counted_flops(work: Work) -> int:
    """FLOPs of matrix products, convolutions and attention, as torch counts them; 0 where it cannot."""
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    try:
        with counter:
            work()
    except RuntimeError:  # gradients of a leaf cannot be counted
        work()
        return 0
    return counter.get_total_flops()


def write_trace(work: Work, path: Path, device: torch.device) -> None:
    """A trace of one more run, for chrome://tracing or ui.perfetto.dev: it shows what waits for what."""
    with torch.profiler.profile() as profiler:
        work()
        wait(device)
    path.parent.mkdir(parents=True, exist_ok=True)
    profiler.export_chrome_trace(str(path))


def peak_memory(name: str, side: str, setting: Setting) -> float:
    """MiB: the most that a fresh process has while it does one side of a part twice."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_peak_in_child, args=(name, side, setting, sender))
    process.start()
    sender.close()
    found = receiver.recv()
    process.join()
    return float(found)


def _peak_in_child(name: str, side: str, setting: Setting, pipe: Any) -> None:
    torch.set_num_threads(setting.threads)
    work = PARTS[name](setting, only=side)[side]
    for _ in range(2):
        work()
    if setting.device.type != "cpu":
        peak = torch.get_device_module(setting.device).max_memory_allocated(setting.device) / 2**20
    else:
        lines = Path("/proc/self/status").read_text().splitlines()
        peak = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024
    pipe.send(peak)


def table(results: dict[str, Any]) -> str:
    """Markdown."""
    lines = ["| part | side | CPU s | wall s | GFLOP | share of matrix rate | peak MiB | times as fast as released |"]
    lines.append("|---|---|---:|---:|---:|---:|---:|---:|")
    for name, sides in results["parts"].items():
        for side, one in sides.items():
            cells = [f"{one['cpu_s']:.3f}", f"{one['wall_s']:.3f}", f"{one['gflop']:.1f}"]
            cells.append(f"{one['share_of_matrix_rate']:.0%}" if one["gflop"] else "")
            cells += [f"{one['peak_mib']:.0f}" if "peak_mib" in one else ""]
            cells += [f"{one['times_as_fast']:.2f}" if "times_as_fast" in one else ""]
            lines.append(f"| {name} | {side} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Measure, print the table, and return the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--batch", type=int, default=1, help="images of a training step")
    parser.add_argument("--only", default="", help="parts whose name holds this text")
    parser.add_argument("--short", action="store_true", help="tiny networks and images")
    parser.add_argument("--no-memory", action="store_true", help="leave the processes that measure memory out")
    parser.add_argument("--profile", type=Path, help="write a trace of every side into this folder")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    setting = Setting(device=device, threads=options.threads, batch=options.batch, short=options.short)
    size = 256 if options.short else 2048 if device.type == "cpu" else 8192
    rates = {kind: matrix_rate(device, getattr(torch, kind), size) for kind in ("float32", "bfloat16")}
    results: dict[str, Any] = {"machine": machine(), "device": options.device, "matrix_flop_per_s": rates, "parts": {}}
    if device.type != "cpu":
        results["device"] = torch.get_device_module(device).get_device_name(device)
    for name in PARTS:
        if options.only not in name:
            continue
        results["parts"][name] = found = measure(name, setting, 1 if options.short else options.repeats)
        for side, one in found.items():
            rate = rates["bfloat16" if "bf16" in side else "float32"]
            one["share_of_matrix_rate"] = one.pop("flop_per_s") / rate
            if not options.no_memory:
                one["peak_mib"] = round(peak_memory(name, side, setting), 1)
        for side, work in PARTS[name](setting).items() if options.profile else ():
            write_trace(work, options.profile / f"{name}, {side}.json".replace(" ", "_"), device)
        print(f"{name}: " + ", ".join(f"{side} {one['cpu_s']:.3f} CPU s" for side, one in found.items()), flush=True)
    print(table(results))
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(results, indent=2) + "\n")
    return results


if __name__ == "__main__":
    main()
