"""The commands before a run: a first configuration, labels, checks of the data, and studies of settings."""

from __future__ import annotations

from dataclasses import asdict
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from weakclip.cli.options import (
    Config,
    Devices,
    Json,
    Limit,
    Part,
    Set,
    is_config_or_folder,
    is_file,
    is_folder,
    is_run,
    is_target,
    load,
    load_data,
    one_way,
    shared,
)
from weakclip.cli.output import answer, answer_study, answer_tagging, rendered

if TYPE_CHECKING:
    from weakclip.study.cost_sides import Side
    from weakclip.tools.check.run import DataCheck
    from weakclip.tools.tag.table import Tagging

data = typer.Typer(no_args_is_help=True, help="Look at the images, labels and masks before anything is made of them.")
study = typer.Typer(no_args_is_help=True, help="Find out what a setting is worth, on a data set with masks.")

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="A folder of images.", callback=is_folder)]
Clip = Annotated[str, typer.Option(help="Hub id, folder, OpenAI .pt archive, or demo.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace files that are there already.")]
StudyOut = Annotated[
    Path, typer.Option("--out", help="The study's folder; a study that is there already is continued.")
]
Seeds = Annotated[int, typer.Option(min=1, help="How many random seeds, from the configuration's on.")]
Precision = StrEnum("Precision", ["fp32", "bf16"])


def init(
    folder: Folder,
    *,
    out: Annotated[Path | None, typer.Option(help="The configuration; DIR's name and .yaml where left out.")] = None,
    clip: Clip = "",
    labels: Annotated[
        Path | None, typer.Option(help="The table of labels, where it is not in DIR.", callback=is_file)
    ] = None,
    val: Annotated[
        float | None, typer.Option(help="Set this share of each class's images aside for validation, such as 0.1.")
    ] = None,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Look at a folder of images, and write a commented configuration and class file for it."""
    from weakclip.tools.init.folder import DEFAULT_CLIP, init_lines, init_record, write_init

    config = out or Path(f"{folder.resolve().name or 'images'}.yaml")
    answer(
        lambda: write_init(
            folder, config, clip=clip or DEFAULT_CLIP, label_file=labels, val_share=val, overwrite=overwrite
        ),
        json=json,
        record=init_record,
        lines=init_lines,
    )


def tag(
    folder: Folder,
    *,
    classes: Annotated[
        list[str] | None, typer.Option(help="Class names with commas between; may be given repeatedly.")
    ] = None,
    class_file: Annotated[
        Path | None, typer.Option(help="Or a class file; DIR/classes.yaml is found by itself.", callback=is_file)
    ] = None,
    out: Annotated[str | None, typer.Option(metavar="FILE|URL", help="The table; else labels.csv in DIR.")] = None,
    clip: Clip = "",
    threshold: Annotated[
        float, typer.Option(min=0, max=1, help="A class is proposed from this score on; rows below it stay empty.")
    ] = 0.05,
    device: Annotated[str, typer.Option(help="A torch device; auto takes an accelerator where there is one.")] = "auto",
    shard: Part = "",
    devices: Devices = "1",
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Propose labels for untagged images with CLIP, in a table for you to correct."""
    from weakclip.tools.tag.run import TagRequest, tag_folder

    request = TagRequest(
        folder=folder,
        out=out or folder / "labels.csv",
        names=tuple(name.strip() for part in classes or () for name in part.split(",") if name.strip()),
        class_file=class_file,
        clip=clip or None,
        threshold=threshold,
        device=device,
        overwrite=overwrite,
        shard=shard,
    )

    def work() -> Tagging | None:
        one_way(shard, devices)
        return shared(devices, partial(tag_folder, request), device)

    answer_tagging(work, request.out, folder, json=json)


@data.command("check")
def data_check(
    config: Annotated[
        str, typer.Argument(help="A configuration as for `run`, or a folder of images.", callback=is_config_or_folder)
    ],
    split: Annotated[
        list[str] | None, typer.Option(help="A split to check, may be given repeatedly; else the configuration's.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="A JSON file for all that was found.", callback=is_target)] = None,
    set_: Set = None,
    json: Json = False,
) -> None:
    """Read every image, label and mask of a data set, and say what is wrong: exit code 0 if nothing is, 1 otherwise."""
    from weakclip.tools.check.run import check_data, check_lines, check_record, tables, write_check

    def work() -> DataCheck:
        check = check_data((read := load_data(config, set_)).data, split or (), masks=read.pseudo_masks)
        if out:
            write_check(out, check)
        return check

    check = answer(
        work, json=json, record=check_record, lines=lambda made: [*map(rendered, tables(made)), *check_lines(made)]
    )
    raise typer.Exit(1 if check.findings else 0)


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
    from weakclip.study.pages import TABLE, crf_record, summary

    answer(
        lambda: search(load(config, set_), out, run=run, probs=probs, candidates=candidates),
        json=json,
        record=crf_record,
        lines=lambda found: [summary(found), f"all candidates: {out / TABLE}"],
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

    answer_study(
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

    answer_study(
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

    answer_study(lambda: study_parts(load(config, set_, limit_steps), out, seeds=seeds, steps=steps or ()), json=json)


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

    answer_study(lambda: study_snapshots(load(config, set_), out, run=run), json=json)


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
    from weakclip.study.pages import TABLE, page_files

    settings = CostSettings(
        crop=crop, batch_size=batch_size, steps=steps, repetitions=repetitions, precision=str(precision), device=device
    )
    sides: list[Side] = [WeakCLIPSide(class_set=VOC12, clip=clip), AffinityNetSide()]
    answer(
        lambda: study_cost(out, sides, settings),
        json=json,
        record=lambda found: {"settings": asdict(settings), "measurements": [*map(asdict, found)], **page_files(out)},
        lines=lambda _: (out / TABLE).read_text(encoding="utf-8"),
    )
