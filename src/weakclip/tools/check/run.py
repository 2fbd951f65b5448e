"""The check of a configuration's data: its splits one after the other, as tables and as JSON."""

from __future__ import annotations

import dataclasses
import itertools
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from weakclip.config import DataSettings
from weakclip.datasets import ImageLabelDataset
from weakclip.datasets.label_files import LabelError
from weakclip.errors import ConfigError
from weakclip.pipeline.data import open_split
from weakclip.store.files import write_json
from weakclip.tools.check.dataset import Finding, Kind, SplitCheck, check_split, shared_images

EXAMPLES = 3
"""Findings of one kind that are shown; JSON has all."""

MISTAKES = 50
"""Number of mistakes in labels and lists up to which all are shown: they are corrected in one go."""

UNLABELLED = ("val", "test")
"""Splits that need no image-level labels; those of the configuration's validation split need none either."""


@dataclasses.dataclass(frozen=True)
class DataCheck:
    """Facts about all splits.

    Args:
        splits: one an entry; none of a split whose labels are wrong.
        findings: all that is wrong, between each two of the splits too.
    """

    splits: tuple[SplitCheck, ...]
    findings: tuple[Finding, ...]


def check_data(settings: DataSettings, splits: Sequence[str] = ()) -> DataCheck:
    """Check splits of the data that a configuration names, whole: its limits for quick tries are passed over.

    Where labels or lists have mistakes, all of those are found, and the images of that split are not read.

    Args:
        settings: which data, and where they lie.
        splits: names of splits; the configuration's own where left out.

    Raises:
        DataError: data that cannot be opened at all: no such folder or list, images that are missing.
    """
    own = (settings.train_split, *([settings.val_split] if settings.val_split else []))
    datasets, mistakes = _open(settings, tuple(dict.fromkeys(splits or own)))
    unlabelled = (settings.val_split, *UNLABELLED)
    checks = tuple(check_split(each, needs_labels=each.split not in unlabelled) for each in datasets)
    findings = [*mistakes, *(finding for check in checks for finding in check.findings)]
    for first, second in itertools.combinations(checks, 2):
        findings += shared_images(first, second)
    return DataCheck(checks, tuple(findings))


def _open(settings: DataSettings, splits: Sequence[str]) -> tuple[list[ImageLabelDataset], list[Finding]]:
    """The splits that can be opened, and the mistakes in the labels of the others, each once."""
    datasets: list[ImageLabelDataset] = []
    mistakes: dict[str, Finding] = {}
    for split in splits:
        try:
            datasets.append(open_split(dataclasses.replace(settings, on_error="stop"), split, None))
        except LabelError as error:
            for problem in error.problems:
                mistakes.setdefault(problem, Finding(Kind.LABEL_FILE, split, "", problem))
    return datasets, list(mistakes.values())


def write_check(path: Path, check: DataCheck) -> None:
    """Write the whole check as JSON, `{"splits": [...], "findings": [...]}`, an entry for every finding.

    Raises:
        ConfigError: a path that cannot be written.
    """
    try:
        write_json(path, check_record(check))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written ({error.strerror}); name another file") from None


def check_record(check: DataCheck) -> dict[str, Any]:
    """The whole check as JSON values, an entry for every finding."""
    return {
        "splits": [
            {
                "split": each.split,
                "images": len(each.facts),
                "published_images": each.official,
                "labelled": each.labelled,
                "masks": each.masks,
                "notes": each.notes,
                "truth": each.truth,
                "classes": {
                    name: {"labels": labels, "masks": masks}
                    for name, (labels, masks) in each.images_of_classes().items()
                },
            }
            for each in check.splits
        ],
        "findings": [{**dataclasses.asdict(finding), "advice": finding.kind.advice} for finding in check.findings],
    }


def tables(check: DataCheck) -> list[Table]:
    """The check for people: the splits, and the images of each class; nothing where no split could be opened."""
    return [] if not check.splits else [_split_table(check), _class_table(check)]


def _table(title: str, left: Sequence[str], right: Sequence[str] = ()) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=0)
    for heading in left:
        table.add_column(heading)
    for heading in right:
        table.add_column(heading, justify="right")
    return table


def _split_table(check: DataCheck) -> Table:
    table = _table("Splits", ("split",), ("images", "published", "labelled", "with mask"))
    for each in check.splits:
        official = "–" if each.official is None else f"{each.official:,}"
        table.add_row(escape(each.split), f"{len(each.facts):,}", official, f"{each.labelled:,}", f"{each.masks:,}")
    return table


def _class_table(check: DataCheck) -> Table:
    headings = [f"{each.split}, {what}" for each in check.splits for what in ("labels", "masks")]
    table = _table("Images of each class", ("class",), headings)
    counts = [each.images_of_classes() for each in check.splits]
    for number, name in enumerate(check.splits[0].class_set.names):
        cells = [
            text for count in counts for text in ("–" if number == 0 else f"{count[name][0]:,}", f"{count[name][1]:,}")
        ]
        table.add_row(escape(name), *cells)
    return table


def finding_lines(check: DataCheck) -> list[str]:
    """The findings for people: each kind with how many there are, the first of them, and what to do."""
    groups: dict[tuple[str, Kind], list[Finding]] = defaultdict(list)
    for finding in check.findings:
        groups[finding.split, finding.kind].append(finding)
    lines = []
    for (split, kind), findings in groups.items():
        lines.append(f"{split}: {kind}: {len(findings):,}")
        shown = len(findings) if kind == Kind.LABEL_FILE and len(findings) <= MISTAKES else EXAMPLES
        lines += [
            f"    {each.image}: {each.detail}" if each.image else f"    {each.detail}" for each in findings[:shown]
        ]
        if len(findings) > shown:
            lines.append(f"    … and {len(findings) - shown:,} more; --out FILE writes all")
        lines.append(f"    → {kind.advice}")
    return lines
