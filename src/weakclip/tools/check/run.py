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
from weakclip.datasets.faults import Fault, LabelError, mistake_line, same_mistakes
from weakclip.errors import DataError
from weakclip.inference.mask_writing import GivenFiles
from weakclip.inference.pseudo_masks import PseudoMaskSettings
from weakclip.pipeline.data import open_split, verified_folders
from weakclip.pipeline.verdicts import ReviewedImages
from weakclip.pipeline.verified import VerifiedMasks
from weakclip.store.files import write_json
from weakclip.store.untrusted_text import one_line
from weakclip.tools.check.dataset import Finding, Kind, SplitCheck, check_split, shared_images
from weakclip.tools.check.doubts import doubts
from weakclip.tools.init.encoder_hint import encoder_hint

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
        warnings: sentences on what makes poor masks or no score, though nothing is wrong.
    """

    splits: tuple[SplitCheck, ...]
    findings: tuple[Finding, ...]
    warnings: tuple[str, ...] = ()


def check_data(
    settings: DataSettings, splits: Sequence[str] = (), *, masks: PseudoMaskSettings | None = None
) -> DataCheck:
    """Check splits of the data that a configuration names, whole: its limits for quick tries are passed over.

    Where labels or lists have mistakes, all of those are found, and the images of that split are not read.

    Args:
        settings: which data, and where they lie.
        splits: names of splits; the configuration's own where left out.
        masks: what masks are made with: whose proposals and saliency maps of the training images are looked for, too.

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
    warnings = list(doubts(checks, settings))
    for each in datasets:
        if masks is not None and each.split == settings.train_split:
            lacking, unusable = _beside(masks, each)
            warnings, findings = [*warnings, *lacking], [*findings, *unusable]
    return DataCheck(checks, tuple(findings), tuple(warnings))


def _beside(masks: PseudoMaskSettings, dataset: ImageLabelDataset) -> tuple[list[str], list[Finding]]:
    """Sentences on images without proposals or saliency map, and a finding where these are of no image."""
    try:
        return GivenFiles(masks).lacking(dataset.names), []
    except DataError as error:
        return [], [Finding(Kind.BESIDE, dataset.split, "", str(error))]


def _open(settings: DataSettings, splits: Sequence[str]) -> tuple[list[ImageLabelDataset], list[Finding]]:
    """The splits that can be opened, and the mistakes in the labels of the others, one finding for each."""
    datasets: list[ImageLabelDataset] = []
    faults: dict[Fault, str] = {}
    for split in splits:
        try:
            dataset = open_split(dataclasses.replace(settings, on_error="stop"), split, None)
            datasets.append(_drawn(dataset, settings) if split == settings.train_split else dataset)
        except LabelError as error:
            for fault in error.faults:
                faults.setdefault(fault, split)
    return datasets, [
        Finding(Kind.LABEL_FILE, faults[same[0]], "", mistake_line(same), tuple(fault.error for fault in same))
        for same in same_mistakes(faults)
    ]


def _drawn(dataset: ImageLabelDataset, settings: DataSettings) -> ImageLabelDataset:
    """The images with the labels that verified masks give them."""
    labels = VerifiedMasks(dataset, verified_folders(settings.verified, None)).labels
    return ReviewedImages(dataset, labels=labels) if labels else dataset


def write_check(path: Path, check: DataCheck) -> None:
    """Write the whole check as JSON, `{"splits": [...], "findings": [...], "warnings": [...]}`.

    Raises:
        StorageError: a path that cannot be written.
    """
    write_json(path, check_record(check))


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
                "untagged": each.untagged,
                "classes": {
                    name: {"labels": labels, "masks": masks}
                    for name, (labels, masks) in each.images_of_classes().items()
                },
            }
            for each in check.splits
        ],
        "findings": [{**dataclasses.asdict(finding), "advice": finding.kind.advice} for finding in check.findings],
        "warnings": check.warnings,
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


def check_lines(check: DataCheck) -> list[str]:
    """Notes, images without labels, findings and warnings for people, below the tables."""
    notes = [f"{each.split}: {note}" for each in check.splits for note in each.notes]
    notes += [f"{each.split}: true masks: {each.truth}" for each in check.splits if each.truth]
    warnings = [f"warning: {line}" for line in check.warnings]
    end = [f"findings: {len(check.findings):,}", f"encoder: {encoder_hint()}"]
    return [*notes, *_untagged_lines(check), *finding_lines(check), *warnings, *end]


def _untagged_lines(check: DataCheck) -> list[str]:
    """The images that are left out for want of labels, each by its name."""
    lines = []
    for each in check.splits:
        if each.untagged:
            lines.append(f"{each.split}: images without labels, left out: {len(each.untagged):,}")
            lines += [f"    {one_line(name)}" for name in each.untagged]
    return lines


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
