"""How much longer Ray takes than this process's own threads for the seeds of many small images, its start aside.

    python benchmarks/ray_overhead.py --out runs/ray

`weakclip seeds demo` runs with either engine, in turn, each time in a new folder. The seconds are those from the end of
the first tenth of the files to the last one, so that imports and the start of processes are no part of them.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from weakclip.store.files import write_json
from weakclip.study.cost import machine

ENGINES = ("local", "ray")
HEAD = 0.1
"""Share of the images that come before the measurement."""


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="another setting of the demo")
    arguments = parser.parse_args(argv)
    words = ["demo", "--set", f"data.train_limit={arguments.images}"]
    for setting in arguments.set:
        words += ["--set", setting]
    arguments.out.mkdir(parents=True, exist_ok=True)
    measured: dict[str, list[float]] = {engine: [] for engine in ENGINES}
    for pair in range(arguments.pairs):
        for engine in ENGINES if pair % 2 == 0 else ENGINES[::-1]:
            run = arguments.out / engine
            shutil.rmtree(run, ignore_errors=True)
            command = [sys.executable, "-m", "weakclip", "seeds", *words, "--out", str(run), "--engine", engine]
            subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
            measured[engine].append(seconds_of(run / "1_seeds/dense"))
        ratios = [ray / local for local, ray in zip(*measured.values(), strict=True)]
        found = {"machine": machine(), "images": arguments.images, "seconds": measured}
        write_json(
            arguments.out / "ray_overhead.json", found | {"cores": len(os.sched_getaffinity(0)), "ratios": ratios}
        )
    print(f"Ray takes {100 * (median(ratios) - 1):+.0f} % (median of {len(ratios)}: {sorted(ratios)})")


def seconds_of(folder: Path) -> float:
    """From the end of the first tenth of the files to the end of the last one."""
    times = sorted(path.stat().st_mtime_ns for path in folder.iterdir())
    return (times[-1] - times[int(HEAD * len(times))]) / 1e9


if __name__ == "__main__":
    main()
