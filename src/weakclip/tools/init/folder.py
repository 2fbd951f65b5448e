"""A first configuration for a folder of images: what is found in it, numbers that suit it, and why.

The numbers follow the published recipe for PASCAL VOC as far as the images allow: a crop of 512 pixels where the
shorter side is 375, and about 30 epochs (20,000 steps of 16 images over 10,582).
"""

from __future__ import annotations

import json
import math
import shlex
import statistics
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weakclip.config.clip_settings import ClipSettings
from weakclip.datasets.class_files import CLASS_FILE
from weakclip.datasets.image_folder import ImageFolder
from weakclip.errors import ConfigError
from weakclip.store.files import write_text
from weakclip.store.ranges import SCALES
from weakclip.store.untrusted_text import SHOWN
from weakclip.tools.init.encoder_hint import encoder_hint
from weakclip.tools.init.val_split import choose_val

if TYPE_CHECKING:  # a wrong path is told before torch is imported
    from weakclip.config import RunConfig
    from weakclip.tools.init.survey import FolderSurvey

DEFAULT_CLIP = ClipSettings().source
DEMO = "demo"
VOC_SHORTER_SIDE, VOC_CROP, VOC_EPOCHS = 375, 512, 30
FEWEST_STEPS, MOST_STEPS = 500, 20_000
MOST_WORKERS = 4


@dataclass(frozen=True, kw_only=True)
class InitPlan:
    """Numbers for a folder of images.

    Args:
        demo: whether they are for the small CLIP that ships with the package.
        longest_side: what larger images are reduced to, pixels; None where none is larger.
        scale: factor on the images before CLIP makes seeds of them.
        crop: side of crops and windows, pixels.
        crop_reason: why.
        stride: step between windows, pixels.
        steps: of either training.
        steps_reason: why.
        warmup_steps: of them.
        batch_size: images a step.
        workers: processes that load images.
    """

    demo: bool
    longest_side: int | None
    scale: float
    crop: int
    crop_reason: str
    stride: int
    steps: int
    steps_reason: str
    warmup_steps: int
    batch_size: int = 8
    workers: int


@dataclass(frozen=True, kw_only=True)
class InitFiles:
    """The files that `write_init` wrote.

    Args:
        survey: what was found.
        config: the configuration.
        class_file: the class file; None where the folder has one of its own.
        val_file: the list of validation images; None where none was asked for.
        loaded: the configuration, read back.
    """

    survey: FolderSurvey
    config: Path
    class_file: Path | None
    val_file: Path | None
    loaded: RunConfig


def init_record(made: InitFiles) -> dict[str, Any]:
    """The record that `weakclip init --json` prints."""
    names = ("labels", "splits", "masks", "classes", "untagged", "smallest", "largest", "notes")
    found = {name: getattr(made.survey, name) for name in names}
    files = {"class_file": made.class_file or made.survey.class_file, "val_file": made.val_file}
    return {"config": made.config, **files, **found}


def init_lines(made: InitFiles) -> list[str]:
    """The numbers of the folder and the files that were written, for people."""
    survey = made.survey
    splits = [f"{split} {count:,} ({survey.masks[split]:,} with mask)" for split, count in survey.splits.items()]
    low, high = survey.smallest, survey.largest
    names = [f"{name} ({count:,})" for name, count in survey.classes.items()]
    more = f", … and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
    lines = [
        f"labels: {survey.labels}",
        f"images: {', '.join(splits)}",
        f"sizes: {low[1]}x{low[0]} to {high[1]}x{high[0]} pixels",
        f"{len(names):,} class{'es' if len(names) > 1 else ''}: {', '.join(names[:SHOWN])}{more}",
        *(f"note: {note}" for note in survey.notes),
    ]
    if made.val_file:
        count = survey.splits["val"]
        lines.append(f"val: {count:,} images are set aside to score on, and get no masks: {made.val_file} lists them")
    written = filter(None, (made.config, made.class_file, made.val_file))
    return [
        *lines,
        f"encoder: {encoder_hint()}",
        f"written: {', '.join(map(str, written))}",
        f"next: weakclip data check {shlex.quote(str(made.config))}",
    ]


def plan_init(survey: FolderSurvey, clip: str = DEFAULT_CLIP) -> InitPlan:
    """Numbers that suit a folder of images and a CLIP (a ViT-B/16's size, or the demo's)."""
    from weakclip.datasets.images import reduced_size

    demo = clip == DEMO
    native, largest_crop, most = (128, 128, 256) if demo else (224, VOC_CROP, 1024)
    longest = max(map(max, survey.sizes))
    longest_side = most if longest > most else None
    shorter = round(statistics.median(min(reduced_size(size, longest_side)) for size in survey.sizes))
    enlarge = min(
        native / shorter, most / longest
    )  # the typical image to what CLIP knows, the largest not beyond reason
    crop = min(largest_crop, max(native, round(shorter * VOC_CROP / VOC_SHORTER_SIDE / 32) * 32))
    usual = math.ceil(VOC_EPOCHS * survey.images / InitPlan.batch_size / 100) * 100
    steps = min(MOST_STEPS, max(FEWEST_STEPS, usual))
    reason = f"some {VOC_EPOCHS} epochs, as in the published recipe"
    if steps != usual:
        reason += f", would be {usual:,}; at {'least' if steps > usual else 'most'} {steps:,}"
    return InitPlan(
        demo=demo,
        longest_side=longest_side,
        scale=min(max(1.0, math.floor(10 * enlarge) / 10), SCALES["most"]),
        crop=crop,
        crop_reason=f"for images with a shorter side of about {shorter} pixels; {native} to {largest_crop} suit CLIP",
        stride=crop * 2 // 3,
        steps=steps,
        steps_reason=reason,
        warmup_steps=steps * 3 // 40,
        workers=0 if demo else MOST_WORKERS,
    )


def write_init(
    root: Path | str,
    out: Path | str,
    *,
    clip: str = DEFAULT_CLIP,
    label_file: Path | str | None = None,
    val_share: float | None = None,
    overwrite: bool = False,
) -> InitFiles:
    """Write a commented configuration for a folder of images and, beside it, a commented class file.

    Nothing is written to the folder of images. A folder that has a `classes.yaml` of its own keeps to that.

    Args:
        root: the folder of images; see `FolderDataset`.
        out: the configuration; `NAME.yaml` has its classes in `NAME_classes.yaml`.
        clip: hub id, folder, OpenAI archive, or "demo".
        label_file: the labels, where they are elsewhere.
        val_share: of the images of each class, which `NAME_val.txt` then lists for validation; None for no such list.
        overwrite: whether files that are there already are replaced.

    Raises:
        ConfigError: a file that is there already, or a share for which there are too few images, or a validation split
            already.
        StorageError: a path that cannot be written.
        DataError: a folder that cannot be used as it is; see `FolderDataset`.
    """
    out = Path(out)
    if out.suffix not in (".yaml", ".yml"):
        raise ConfigError(f"{out}: expected a name that ends in .yaml")
    ImageFolder(Path(root))
    class_file = None if (Path(root) / CLASS_FILE).is_file() else out.with_name(f"{out.stem}_classes.yaml")
    val_file = None if val_share is None else out.with_name(f"{out.stem}_val.txt")
    for path in (out, class_file, val_file):
        if path is not None and path.exists() and not overwrite:
            raise ConfigError(f"{path}: is there already; --overwrite replaces it, --out takes another name")
    from weakclip.config import load_config
    from weakclip.tools.init.survey import survey_folder

    survey = survey_folder(root, label_file=label_file)
    if val_file is not None and val_share is not None:
        if "val" in survey.splits:
            raise ConfigError(f"{root}: has a validation split already; leave --val out")
        write_text(val_file, "".join(f"{name}\n" for name in choose_val(survey.labelled, val_share)))
        survey = survey_folder(root, label_file=label_file, val_file=val_file)
    values: dict[str, Any] = {
        "survey": survey,
        "clip": clip,
        "plan": plan_init(survey, clip),
        "class_file": class_file,
        "label_file": label_file,
        "val_file": val_file,
        "background": survey.background,
        "config": out,
        "run": f"runs/{out.stem}",
    }
    if class_file:
        write_text(class_file, _render("classes.yaml.j2", values))
    write_text(out, _render("configuration.yaml.j2", values))
    return InitFiles(survey=survey, config=out, class_file=class_file, val_file=val_file, loaded=load_config(out))


def _render(template: str, values: dict[str, Any]) -> str:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True)
    environment.filters["quoted"] = lambda value: json.dumps(str(value), ensure_ascii=False)  # JSON is YAML
    environment.filters["padded"] = lambda text: f"{text:<31}"
    return environment.from_string(files("weakclip.tools.init").joinpath(template).read_text(encoding="utf-8")).render(
        values
    )
