"""The commands `weakclip study …`."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from weakclip.cli.json_output import Json, answer, crf_record, variant_record
from weakclip.cli.parts import Config, Limit, Set, finished, load

if TYPE_CHECKING:
    from weakclip.study import VariantStudy
    from weakclip.study.cost_sides import Side

study = typer.Typer(no_args_is_help=True, help="Find out what a setting is worth, on a data set with masks.")

StudyOut = Annotated[
    Path, typer.Option("--out", help="The study's folder; a study that is there already is continued.")
]
Seeds = Annotated[int, typer.Option(min=1, help="How many random seeds, from the configuration's on.")]


class Precision(StrEnum):
    """Of a training step."""

    FP32 = "fp32"
    BF16 = "bf16"


@study.command("crf")
def study_crf(
    config: Config,
    *,
    out: StudyOut,
    run: Annotated[Path | None, typer.Option(help="A run folder, whose WeakCLIP gives the probabilities.")] = None,
    probs: Annotated[Path | None, typer.Option(help="Or a folder of them: NAME.npy or NAME.npz, (K, H, W).")] = None,
    candidates: Annotated[int, typer.Option(min=1, help="How many dense CRFs are tried, the presets among them.")] = 81,
    set_: Set = None,
    json: Json = False,
) -> None:
    """Search the dense CRF of the pseudo masks on the training split, whose true masks are read."""
    from weakclip.study import study_crf as search
    from weakclip.study.pages import TABLE, summary

    answer(
        lambda: search(load(config, set_, None), out, run=run, probs=probs, candidates=candidates),
        json=json,
        record=crf_record,
        show=lambda found: typer.echo(f"{summary(found)}\nall candidates: {out / TABLE}"),
    )


@study.command("prompts")
def study_prompts(
    config: Config,
    *,
    out: StudyOut,
    value: Annotated[list[int] | None, typer.Option(min=0, help="A length to try, repeatedly; 1 2 4 8 16.")] = None,
    seeds: Seeds = 3,
    limit_steps: Limit = None,
    set_: Set = None,
    json: Json = False,
) -> None:
    """Compare numbers of learned prompt vectors by their pseudo masks."""
    from weakclip.study.numbers import PROMPT_LENGTHS, study_prompts

    _answer(
        lambda: study_prompts(load(config, set_, limit_steps), out, lengths=value or PROMPT_LENGTHS, seeds=seeds),
        json=json,
    )


@study.command("temperature")
def study_temperature(
    config: Config,
    *,
    out: StudyOut,
    value: Annotated[list[float] | None, typer.Option(help="A value to try, repeatedly; 0.01 0.1 0.5 1.")] = None,
    seeds: Seeds = 3,
    limit_steps: Limit = None,
    set_: Set = None,
    json: Json = False,
) -> None:
    """Compare first values of the co-attention's temperatures, alpha and beta, by their pseudo masks."""
    from weakclip.study.numbers import TEMPERATURES, study_temperature

    _answer(
        lambda: study_temperature(load(config, set_, limit_steps), out, values=value or TEMPERATURES, seeds=seeds),
        json=json,
    )


@study.command("parts")
def study_parts(
    config: Config,
    *,
    out: StudyOut,
    steps: Annotated[
        list[int] | None,
        typer.Option(min=1, help="Another length of the training, repeatedly; with and without boundary loss."),
    ] = None,
    seeds: Seeds = 3,
    limit_steps: Limit = None,
    set_: Set = None,
    json: Json = False,
) -> None:
    """Leave out each part of the method in turn, and compare the pseudo masks."""
    from weakclip.study.parts import study_parts

    _answer(lambda: study_parts(load(config, set_, limit_steps), out, seeds=seeds, steps=steps or ()), json=json)


@study.command("cost")
def study_cost(
    *,
    out: StudyOut,
    clip: Annotated[str | None, typer.Option(help="A CLIP; without one, a ViT-B/16 with random weights.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images a step.")] = 2,
    crop: Annotated[int, typer.Option(min=32, help="Side of the images, pixels.")] = 512,
    steps: Annotated[int, typer.Option(min=1, help="Timed steps of each process.")] = 2,
    repetitions: Annotated[int, typer.Option(min=1, help="Processes of each side, in turn.")] = 3,
    precision: Annotated[Precision, typer.Option(help="Of the arithmetic.")] = Precision.FP32,
    device: Annotated[str, typer.Option(help="A torch device.")] = "cpu",
) -> None:
    """Time a training step of WeakCLIP against one of AffinityNet on ResNet38, 21 classes; and its peak memory."""
    from weakclip.datasets.classes import VOC12
    from weakclip.study.cost import CostSettings, study_cost
    from weakclip.study.cost_sides import AffinityNetSide, WeakCLIPSide
    from weakclip.study.pages import TABLE

    settings = CostSettings(
        crop=crop,
        batch_size=batch_size,
        steps=steps,
        repetitions=repetitions,
        precision=str(precision),
        device=device,
    )
    sides: list[Side] = [WeakCLIPSide(class_set=VOC12, clip=clip), AffinityNetSide()]
    finished(lambda: study_cost(out, sides, settings))
    typer.echo((out / TABLE).read_text(encoding="utf-8"))


def _answer(work: Callable[[], VariantStudy], *, json: bool) -> None:
    answer(work, json=json, record=variant_record, show=_show_study)


def _show_study(found: VariantStudy) -> None:
    """The table of a study, and where it is."""
    from weakclip.study.pages import TABLE
    from weakclip.study.variant_pages import variant_table

    typer.echo(variant_table(found))
    typer.echo(found.folder / TABLE)
