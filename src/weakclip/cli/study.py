"""The commands `weakclip study …`, and their results as JSON objects."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from weakclip.cli.checks import is_run
from weakclip.cli.options import Config, Json, Limit, Set, load
from weakclip.cli.output import answer

if TYPE_CHECKING:
    from weakclip.study import CRFStudy, VariantStudy
    from weakclip.study.cost_sides import Side

study = typer.Typer(no_args_is_help=True, help="Find out what a setting is worth, on a data set with masks.")

StudyOut = Annotated[
    Path, typer.Option("--out", help="The study's folder; a study that is there already is continued.")
]
Seeds = Annotated[int, typer.Option(min=1, help="How many random seeds, from the configuration's on.")]


Precision = StrEnum("Precision", ["fp32", "bf16"])


@study.command("crf")
def study_crf(
    config: Config,
    *,
    out: StudyOut,
    run: Annotated[
        Path | None, typer.Option(help="A run folder, whose WeakCLIP gives the probabilities.", callback=is_run)
    ] = None,
    probs: Annotated[Path | None, typer.Option(help="Or a folder of them: NAME.npy or NAME.npz, (K, H, W).")] = None,
    candidates: Annotated[int, typer.Option(min=1, help="How many dense CRFs are tried, the presets among them.")] = 81,
    set_: Set = None,
    json: Json = False,
) -> None:
    """Search the dense CRF of the pseudo masks on the training split, whose true masks are read."""
    from weakclip.study import study_crf as search
    from weakclip.study.pages import TABLE, summary

    answer(
        lambda: search(load(config, set_), out, run=run, probs=probs, candidates=candidates),
        json=json,
        record=_crf_record,
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


@study.command("snapshots")
def study_snapshots(
    config: Config,
    *,
    out: StudyOut,
    run: Annotated[
        Path, typer.Option(help="A run folder whose training has kept steps (train.keep_every).", callback=is_run)
    ],
    set_: Set = None,
    json: Json = False,
) -> None:
    """Score the pseudo masks of every kept step on the training split, whose true masks are read."""
    from weakclip.study.snapshots import study_snapshots

    _answer(lambda: study_snapshots(load(config, set_), out, run=run), json=json)


@study.command("cost")
def study_cost(
    *,
    out: StudyOut,
    clip: Annotated[str | None, typer.Option(help="A CLIP; without one, a ViT-B/16 with random weights.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images a step.")] = 2,
    crop: Annotated[int, typer.Option(min=32, help="Side of the images, pixels.")] = 512,
    steps: Annotated[int, typer.Option(min=1, help="Timed steps of each process.")] = 2,
    repetitions: Annotated[int, typer.Option(min=1, help="Processes of each side, in turn.")] = 3,
    precision: Annotated[Precision, typer.Option(help="Of the arithmetic.")] = Precision("fp32"),
    device: Annotated[str, typer.Option(help="A torch device.")] = "cpu",
    json: Json = False,
) -> None:
    """Time a training step of WeakCLIP against one of AffinityNet on ResNet38, 21 classes; and its peak memory."""
    from weakclip.datasets.classes import VOC12
    from weakclip.study.cost import CostSettings, study_cost
    from weakclip.study.cost_sides import AffinityNetSide, WeakCLIPSide
    from weakclip.study.pages import TABLE

    settings = CostSettings(
        crop=crop, batch_size=batch_size, steps=steps, repetitions=repetitions, precision=str(precision), device=device
    )
    sides: list[Side] = [WeakCLIPSide(class_set=VOC12, clip=clip), AffinityNetSide()]
    answer(
        lambda: study_cost(out, sides, settings),
        json=json,
        record=lambda found: {"settings": asdict(settings), "measurements": [*map(asdict, found)], **_files(out)},
        show=lambda _: typer.echo((out / TABLE).read_text(encoding="utf-8")),
    )


def _answer(work: Callable[[], VariantStudy], *, json: bool) -> None:
    from weakclip.study.pages import TABLE
    from weakclip.study.variant_pages import variant_table

    def show(found: VariantStudy) -> None:
        typer.echo(f"{variant_table(found)}\n{found.folder / TABLE}")

    answer(work, json=json, record=_variant_record, show=show)


def _variant_record(study: VariantStudy) -> dict[str, Any]:
    """Of each variant, the scores of all random seeds, their mean and standard deviation."""
    from weakclip.study.results import mean_and_deviation

    rows = []
    for variant in study.variants:
        results = study.of(variant)
        mean, deviation = mean_and_deviation([result.mean_iou for result in results])
        each = [asdict(result) for result in results]
        rows.append({"variant": variant, "mean_iou": mean, "standard_deviation": deviation, "results": each})
    tuning_set = {"split": study.split, "images": study.images}
    return {"subject": study.subject, "tuning_set": tuning_set, "variants": rows, **_files(study.folder)}


def _crf_record(study: CRFStudy) -> dict[str, Any]:
    """The best candidate and the configuration's own."""
    from weakclip.study.pages import BEST

    def candidate(number: int) -> dict[str, Any]:
        return {**asdict(study.candidates[number]), "mean_iou": study.rungs[-1].scores[number]}

    return {
        "tuning_set": {"split": study.split, "images": study.images},
        "candidates": len(study.candidates),
        "best": candidate(study.standing()[0]),
        "config": candidate(0),
        **_files(study.folder, yaml=BEST),
    }


def _files(folder: Path, yaml: str | None = None) -> dict[str, Any]:
    from weakclip.study.pages import CHART, TABLE

    files = {"table": TABLE, "chart": CHART, **({"yaml": yaml} if yaml else {})}
    return {"folder": folder, "files": {what: folder / name for what, name in files.items()}}
