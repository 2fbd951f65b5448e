"""The worth of corrected masks for the masks that nobody corrected: the loop of run, correct, run again, on Scenes.

    python benchmarks/loop.py --out runs/loop

For each random seed, of the draw too, a run is made; then, in each round, 15 more images get their true mask as a
verified mask, as if a person had drawn it, and the run is made again. One side takes the images that
`weakclip export masks --only unverified --only worst:15` would give, the other takes any. Scores are mIoU of the pseudo
masks, of the images that are uncorrected then, and of the rest: those that neither side has corrected after the last
round, so that no score rises because bad images have left it. The same command again goes on.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from weakclip.config import RunConfig, load_config
from weakclip.datasets.images import read_mask, write_mask
from weakclip.datasets.scenes import ScenesDataset
from weakclip.inference.metrics import ConfusionMatrix
from weakclip.pipeline import run_stage
from weakclip.pipeline.context import open_run
from weakclip.store.files import write_json
from weakclip.tools.annotate.queue import queue

STAGES = ("seeds", "train", "pseudo_masks")
SIDES = ("worst", "random")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--corrected", type=int, default=15, help="images a round")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="another setting of the demo")
    arguments = parser.parse_args(argv)
    rows = []
    for seed in range(arguments.seeds):
        own = [f"seed={seed}", f"data.scene_seed={seed}", f"data.train_limit={arguments.images}"]
        config = load_config("demo", [*own, *arguments.set])
        out = arguments.out / f"seed{seed}"
        for side in SIDES:
            play(config, out, side, rounds=arguments.rounds, corrected=arguments.corrected)
        rows += scores(out, config, arguments.rounds)
        write_json(arguments.out / "loop.json", {"settings": vars(arguments) | {"out": ""}, "rows": rows})
    print(table(rows, arguments.rounds))


def play(config: RunConfig, out: Path, side: str, *, rounds: int, corrected: int) -> None:
    """All rounds of one side, each kept as `SIDE/N/masks` and `SIDE/N/verified.json`."""
    first, run = out / "run", out / side / "run"
    if not (out / "0").is_dir():
        make(config, first, out / "0")
    if not run.is_dir():
        shutil.copytree(first, out / side / "copy", dirs_exist_ok=True)
        (out / side / "copy").rename(run)
    order = np.random.default_rng([config.seed, 1]).permutation(config.data.train_limit)
    for number in range(1, rounds + 1):
        kept = out / side / str(number)
        if kept.is_dir():
            continue
        plan = out / side / f"corrected{number}.json"
        context = open_run(run)
        names = context.train.names
        if not plan.is_file():
            if side == "worst":
                chosen = [names[each.index] for each in queue(context, ("unverified", f"worst:{corrected}"))]
            else:
                chosen = [names[index] for index in order[(number - 1) * corrected : number * corrected]]
            write_json(plan, chosen)
        for name in json.loads(plan.read_text()):
            (run / "verified").mkdir(exist_ok=True)
            truth = context.train.mask(context.train.index_of(name))
            write_mask(run / "verified" / f"{name}.png", truth, context.train.class_set.palette)
        make(config, run, kept)


def make(config: RunConfig, run: Path, kept: Path) -> None:
    for stage in STAGES:
        run_stage(config, run, stage, redo=True)
    shutil.copytree(run / "3_pseudo_masks/masks", kept.with_name(f".{kept.name}"), dirs_exist_ok=True)
    kept.with_name(f".{kept.name}").rename(kept)


def scores(out: Path, config: RunConfig, rounds: int) -> list[dict[str, object]]:
    """One row a side and round: `uncorrected` and `rest`, mIoU in per cent."""
    dataset = ScenesDataset(
        "train", size=config.data.scene_size, count=config.data.train_limit, seed=config.data.scene_seed
    )
    corrected = {
        side: [json.loads((out / side / f"corrected{number}.json").read_text()) for number in range(1, rounds + 1)]
        for side in SIDES
    }
    touched = {name for side in SIDES for names in corrected[side] for name in names}
    rest = [name for name in dataset.names if name not in touched]
    rows: list[dict[str, object]] = []
    for side in SIDES:
        for number in range(rounds + 1):
            masks = out / side / str(number) if number else out / "0"
            done = {name for names in corrected[side][:number] for name in names}
            open_names = [name for name in dataset.names if name not in done]
            rows.append(
                {
                    "seed": config.seed,
                    "side": side,
                    "round": number,
                    "uncorrected": mean_iou(dataset, masks, open_names),
                    "rest": mean_iou(dataset, masks, rest),
                    "images_of_rest": len(rest),
                }
            )
    return rows


def mean_iou(dataset: ScenesDataset, masks: Path, names: Iterable[str]) -> float:
    matrix = ConfusionMatrix(dataset.class_set.num_classes)
    for name in names:
        matrix.update(read_mask(masks / f"{name}.png"), dataset.mask(dataset.index_of(name)))
    return round(100 * matrix.mean_iou(), 2)


def table(rows: Sequence[dict[str, object]], rounds: int) -> str:
    lines = [
        "| corrected | images scored | " + " | ".join(f"round {n}" for n in range(rounds + 1)) + " |",
        "|---|---|" + "---|" * (rounds + 1),
    ]
    for side in SIDES:
        for column in ("uncorrected", "rest"):
            cells = []
            for number in range(rounds + 1):
                values = [float(str(r[column])) for r in rows if r["side"] == side and r["round"] == number]
                spread = f" ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else ""
                cells.append(f"{np.mean(values):.1f}{spread}")
            lines.append(f"| {side} | {column} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
