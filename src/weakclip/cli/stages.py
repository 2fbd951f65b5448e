"""The commands of the stages of a run, whole or in shards."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from weakclip.cli.options import Config, Json, Limit, Set, load
from weakclip.cli.output import answer, answer_run, show_shard

STAGES = {
    "seeds": "Stage 1: class activation maps and seed masks from the frozen CLIP, or from elsewhere.",
    "train": "Stage 2: train WeakCLIP on the seeds.",
    "pseudo_masks": "Stage 3: pixel masks of the training images from the trained WeakCLIP.",
    "retrain": "Stage 4: train an ordinary segmentation network on the pseudo masks.",
    "evaluate": "Stage 5: score seeds and pseudo masks on the training split, the network on the validation split.",
}
SHARDED = ("seeds", "pseudo_masks")

Out = Annotated[Path, typer.Option(help="The run folder; a run that is there already is continued.")]
Redo = Annotated[
    bool,
    typer.Option("--redo", help="Make finished results again where settings or data changed; the old stay until then."),
]
Part = Annotated[
    str,
    typer.Option(
        "--shard",
        metavar="I/N",
        help="Only the images I, I+N, …, counted from 0: $SLURM_ARRAY_TASK_ID/N of --array=0-(N-1).",
    ),
]


def _stage(stage: str) -> Callable[..., None]:
    def command(
        config: Config, out: Out, *, redo: Redo = False, limit_steps: Limit = None, set_: Set = None, json: Json = False
    ) -> None:
        from weakclip.pipeline import run_stage

        answer_run(lambda: run_stage(load(config, set_, limit_steps), out, stage, redo=redo), json=json)

    return command


def _sharded(stage: str) -> Callable[..., None]:
    whole = _stage(stage)

    def command(
        config: Config,
        out: Out,
        *,
        shard: Part = "",
        redo: Redo = False,
        limit_steps: Limit = None,
        set_: Set = None,
        json: Json = False,
    ) -> None:
        if not shard:
            whole(config, out, redo=redo, limit_steps=limit_steps, set_=set_, json=json)
            return
        from weakclip.pipeline.shards import run_shard
        from weakclip.store.share import Shard

        answer(
            lambda: run_shard(load(config, set_, limit_steps), out, stage, Shard.read(shard, out), redo=redo),
            json=json,
            record=asdict,
            show=show_shard,
        )

    return command


def merge(run: Annotated[Path, typer.Argument(help="A run folder.")], json: Json = False) -> None:
    """Complete a stage that was made with --shard, when all shards are there: exit code 2 if an image is missing."""
    from weakclip.pipeline.shards import merge_shards

    answer(lambda: merge_shards(run), json=json, record=asdict, show=show_shard)


def commands() -> dict[str, Callable[..., None]]:
    """The command of each stage, and `merge`, by their names."""
    made = {each: _sharded(each) if each in SHARDED else _stage(each) for each in STAGES}
    return {**{each.replace("_", "-"): command for each, command in made.items()}, "merge": merge}


PURPOSES = {each.replace("_", "-"): purpose for each, purpose in STAGES.items()}
"""The help of each stage's command."""
