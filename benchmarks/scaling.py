"""How much faster two and four processes are than one, and how near `weakclip plan` comes to each.

    python benchmarks/scaling.py --out runs/scaling

The demo, shortened, is run by one process on one core, by two on two cores and by four on four cores, or on as many as
this program may use, in turn, each time in a new folder. The seconds of a stage are those of the run's manifest. The
rates for the plan are measured first, on all of these cores. Where there is one core only, the plan is held against one
process.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from weakclip.store.files import write_json
from weakclip.study.cost import machine

STAGES = ("seeds", "train", "pseudo_masks", "evaluate")
COUNTS = (1, 2, 4)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="another setting of the demo")
    arguments = parser.parse_args(argv)
    sizes = {"data.train_limit": arguments.images, "data.val_limit": 20, "train.steps": arguments.steps}
    words = ["demo"]
    for setting in (*(f"{key}={value}" for key, value in sizes.items()), *arguments.set):
        words += ["--set", setting]
    cores = sorted(os.sched_getaffinity(0))
    counts = COUNTS if len(cores) > 1 else COUNTS[:1]
    rates = ["--rates", str(arguments.out / "rates.json")]
    arguments.out.mkdir(parents=True, exist_ok=True)
    weakclip(cores[-max(counts) :], "plan", *words, *rates, "--measure")
    planned = dict[int, dict[str, float]]()
    for count in counts:
        means = ["--gpus", str(count), "--cores", str(min(count, len(cores)) / count)]
        planned[count] = seconds_of(json.loads(weakclip(cores[-1:], "plan", *words, *rates, *means, "--json")))
    measured: dict[int, list[dict[str, float]]] = {count: [] for count in counts}
    for _ in range(arguments.pairs):
        for count in counts:
            run = arguments.out / "run"
            shutil.rmtree(run, ignore_errors=True)
            weakclip(cores[-count:], "run", *words, "--out", str(run), "--devices", str(count))
            stages = json.loads((run / "manifest.json").read_text())["stages"]
            measured[count].append({stage: stages[stage]["seconds"] for stage in STAGES})
            found = {"machine": machine(), "settings": vars(arguments) | {"out": ""}, "seconds": measured}
            write_json(arguments.out / "scaling.json", found | {"planned": planned, "rows": rows(measured, planned)})
    print(table(rows(measured, planned)))


def weakclip(cores: Sequence[int], *words: str) -> str:
    """Standard output of a command that may use some cores."""
    return subprocess.run(
        [sys.executable, "-m", "weakclip", *words],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        preexec_fn=functools.partial(os.sched_setaffinity, 0, cores),
    ).stdout


def seconds_of(plan: dict[str, Any]) -> dict[str, float]:
    return {stage["stage"]: stage["seconds"] for stage in plan["stages"]}


def rows(
    measured: dict[int, list[dict[str, float]]], planned: dict[int, dict[str, float]]
) -> list[dict[str, str | float]]:
    """Of each stage, medians of seconds beside what the plan says, and the median of the ratios to one process."""
    found = []
    for stage in STAGES:
        row: dict[str, str | float] = {"stage": stage}
        for count, runs in measured.items():
            if runs:
                seconds, plan = median(each[stage] for each in runs), planned[count][stage]
                row |= {f"seconds_{count}": round(seconds, 2), f"planned_{count}": round(plan, 2)}
                row[f"error_{count}"] = round(100 * (plan / seconds - 1), 1)
                pairs = zip(measured[1], runs, strict=False)
                row[f"speedup_{count}"] = round(median(one[stage] / more[stage] for one, more in pairs), 2)
        found.append(row)
    return found


def table(rows: Sequence[dict[str, str | float]]) -> str:
    counts = [count for count in COUNTS if f"seconds_{count}" in rows[0]]
    heads = ["stage", *(head for count in counts for head in (f"{count} process(es), s", "planned"))]
    heads += [f"times faster with {count}" for count in counts[1:]]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for row in rows:
        cells = [row["stage"]]
        for count in counts:
            cells += [row[f"seconds_{count}"], f"{row[f'planned_{count}']} ({row[f'error_{count}']:+} %)"]
        cells += [row[f"speedup_{count}"] for count in counts[1:]]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
