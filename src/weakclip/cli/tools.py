"""The commands before a run: the check of data, the configuration, labels; and the dense CRF on files."""

from __future__ import annotations

from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from weakclip.cli.checks import is_config_or_folder, is_file, is_folder
from weakclip.cli.options import Json, Set, load_data
from weakclip.cli.output import answer, show_check, show_start, show_tagging

if TYPE_CHECKING:
    from weakclip.tools.check.run import DataCheck
    from weakclip.tools.init.folder import Start

data = typer.Typer(no_args_is_help=True, help="Look at the images, labels and masks before anything is made of them.")

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="A folder of images.", callback=is_folder)]
Clip = Annotated[str, typer.Option(help="Hub id, folder, OpenAI .pt archive, or demo.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace files that are there already.")]

Preset = StrEnum("Preset", ["voc", "coco", "loss"])


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
    from weakclip.tools.init.folder import DEFAULT_CLIP, write_start

    config = out or Path(f"{folder.resolve().name or 'images'}.yaml")

    def record(start: Start) -> dict[str, Any]:
        survey = start.survey
        names = ("labels", "splits", "masks", "classes", "untagged", "smallest", "largest", "notes")
        found = {name: getattr(survey, name) for name in names}
        files = {"class_file": start.class_file or survey.class_file, "val_file": start.val_file}
        return {"config": start.config, **files, **found}

    answer(
        lambda: write_start(
            folder, config, clip=clip or DEFAULT_CLIP, label_file=labels, val_share=val, overwrite=overwrite
        ),
        json=json,
        record=record,
        show=show_start,
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
    out: Annotated[Path | None, typer.Option(help="The table; labels.csv in DIR where left out.")] = None,
    clip: Clip = "",
    threshold: Annotated[
        float, typer.Option(min=0, max=1, help="A class is proposed from this score on; rows below it stay empty.")
    ] = 0.05,
    device: Annotated[str, typer.Option(help="A torch device; auto takes an accelerator where there is one.")] = "auto",
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
    )
    answer(
        lambda: tag_folder(request),
        json=json,
        record=lambda made: {"file": made.path, **{k: v for k, v in asdict(made).items() if k != "path"}},
        show=lambda made: show_tagging(made, folder, threshold),
    )


def crf(
    image: Annotated[Path, typer.Argument(help="An image file.", callback=is_file)],
    probs: Annotated[Path, typer.Argument(help="Its label probabilities (K, H, W): .npy, or .npz.", callback=is_file)],
    out: Annotated[Path, typer.Option(help=".npy for the marginals, .png for a palette mask of the likeliest labels.")],
    *,
    preset: Annotated[Preset | None, typer.Option(help="Published kernels; voc where nothing is given.")] = None,
    params: Annotated[Path | None, typer.Option(help="A YAML file with the `crf:` section of a configuration.")] = None,
    json: Json = False,
) -> None:
    """Sharpen the label probabilities of one image by the dense CRF."""
    from weakclip.config import load_crf
    from weakclip.crf.files import crf_file
    from weakclip.crf.params import PRESETS
    from weakclip.errors import ConfigError

    def work() -> Path:
        if preset and params:
            raise ConfigError("--preset and --params both name kernels; give one of them")
        crf_file(image, probs, out, load_crf(params) if params else PRESETS[preset or "voc"])
        return out

    answer(work, json=json, record=lambda path: {"file": path}, show=typer.echo)


@data.command("check")
def data_check(
    config: Annotated[
        str, typer.Argument(help="A configuration as for `run`, or a folder of images.", callback=is_config_or_folder)
    ],
    split: Annotated[
        list[str] | None,
        typer.Option(help="A split to check, may be given repeatedly; else the configuration's."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write everything that was found to this file, as JSON.")] = None,
    set_: Set = None,
    json: Json = False,
) -> None:
    """Read every image, label and mask of a data set, and say what is wrong: exit code 0 if nothing is, 1 otherwise."""
    from weakclip.tools.check.run import check_data, check_record, write_check

    def work() -> DataCheck:
        check = check_data(load_data(config, set_).data, split or ())
        if out:
            write_check(out, check)
        return check

    check = answer(work, json=json, record=check_record, show=show_check)
    raise typer.Exit(1 if check.findings else 0)
