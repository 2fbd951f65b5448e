"""The work of the reviewers of a run: marks a day, and how far two of them agree on images that both have marked.

References:
    Cohen, "A coefficient of agreement for nominal scales", Educational and Psychological Measurement 20 (1), 1960.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from weakclip.store.marks import MARKS, VERDICTS, Mark, every_mark
from weakclip.store.paths import check_run
from weakclip.store.untrusted_text import SHOWN, one_line, some

UNNAMED = "unnamed"
"""Stands for the reviewer of marks of an earlier version, which name none."""

NO_DAY = "unknown"
"""Stands for the day of a mark without a time."""


@dataclass(frozen=True, kw_only=True)
class Reviewer:
    """The marks of one person: the last one on each image, those that were taken back left out.

    Args:
        name: as given to `weakclip review --reviewer`.
        marks: how many images.
        verdicts: mark → images.
        days: day in UTC → images; ascending.
    """

    name: str
    marks: int
    verdicts: Mapping[str, int]
    days: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class Pair:
    """How far two reviewers agree. "good" and "verified" are the same answer; relabelled images agree in their labels.

    Args:
        reviewers: their names.
        images: how many images both have marked.
        agreed: on how many of them they gave the same answer.
        kappa: Cohen's kappa, -1…1: the agreement beyond that of chance; None where chance gives full agreement.
        differing: the other images.
    """

    reviewers: tuple[str, str]
    images: int
    agreed: int
    kappa: float | None
    differing: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class ReviewStats:
    """The marks of a run folder.

    Args:
        images: images with a mark that counts.
        reviewers: in the order of their names.
        pairs: of reviewers who have marked the same images.
        torn: lines that cannot be read and were passed over.
    """

    images: int
    reviewers: tuple[Reviewer, ...]
    pairs: tuple[Pair, ...]
    torn: int


def stats_lines(stats: ReviewStats) -> list[str]:
    """The marks of each reviewer, by mark and by day, and how far two of them agree, for people."""
    lines = [f"{stats.images:,} images are marked"]
    for each in stats.reviewers:
        verdicts = ", ".join(f"{count:,} {verdict}" for verdict, count in each.verdicts.items())
        days = ", ".join(f"{day} {count:,}" for day, count in each.days.items())
        lines.append(f"{one_line(each.name)}: {each.marks:,} marks ({verdicts}); by day: {days}")
    for pair in stats.pairs:
        first, second = map(one_line, pair.reviewers)
        kappa = "" if pair.kappa is None else f", Cohen's kappa {pair.kappa:.2f}"
        share = f"{pair.agreed:,} of {pair.images:,} images ({100 * pair.agreed / pair.images:.0f} %)"
        lines.append(f"{first} and {second} agree on {share}{kappa}")
        if pair.differing:
            lines.append(f"  they differ on {some(pair.differing, SHOWN, more=', … (--json lists all)')}")
    return [*lines, f"{stats.torn:,} lines cannot be read and were passed over"] if stats.torn else lines


def review_stats(run: Path | str) -> ReviewStats:
    """Reads the marks of a run folder.

    Raises:
        RunError: no run folder.
        DataError: the marks cannot be read.
    """
    run = Path(run)
    check_run(run)
    marks, torn = every_mark(run / MARKS) if (run / MARKS).is_file() else ([], 0)
    standing = _standing(marks)
    pairs = [_pair((a, b), standing[a], standing[b]) for a, b in itertools.combinations(sorted(standing), 2)]
    return ReviewStats(
        images=sum(mark.mark is not None for mark in {mark.image: mark for mark in marks}.values()),
        reviewers=tuple(_reviewer(name, standing[name]) for name in sorted(standing)),
        pairs=tuple(pair for pair in pairs if pair.images),
        torn=torn,
    )


def _standing(marks: Sequence[Mark]) -> dict[str, dict[str, Mark]]:
    """Reviewer → image → the last mark; an undo gives back the reviewer's own mark before, or none."""
    made: dict[str, dict[str, list[Mark]]] = {}
    for mark in marks:
        stack = made.setdefault(mark.reviewer or UNNAMED, {}).setdefault(mark.image, [])
        if mark.undo:
            del stack[-1:]
        elif mark.mark is None:
            stack.clear()
        else:
            stack.append(mark)
    standing = {name: {image: stack[-1] for image, stack in each.items() if stack} for name, each in made.items()}
    return {name: each for name, each in standing.items() if each}


def _reviewer(name: str, marks: Mapping[str, Mark]) -> Reviewer:
    verdicts = Counter(mark.mark for mark in marks.values())
    days = Counter(_day(mark.time) for mark in marks.values())
    return Reviewer(
        name=name,
        marks=len(marks),
        verdicts={verdict: verdicts[verdict] for verdict in VERDICTS if verdicts[verdict]},
        days=dict(sorted(days.items())),
    )


def _day(time: str) -> str:
    try:
        return datetime.fromisoformat(time).astimezone(UTC).date().isoformat()
    except (ValueError, OverflowError):
        return NO_DAY


def _answer(mark: Mark) -> tuple[str, ...]:
    if mark.mark == "relabel":
        return ("relabel", *sorted(mark.labels or ()))
    return ("right",) if mark.mark in ("good", "verified") else ("bad",)


def _pair(names: tuple[str, str], first: Mapping[str, Mark], second: Mapping[str, Mark]) -> Pair:
    both = sorted(first.keys() & second.keys())
    answers = [(_answer(first[image]), _answer(second[image])) for image in both]
    agreed = sum(one == other for one, other in answers)
    counts = Counter(one for one, _ in answers), Counter(other for _, other in answers)
    chance = sum(counts[0][answer] * counts[1][answer] for answer in counts[0]) / max(1, len(both) ** 2)
    kappa = (agreed / len(both) - chance) / (1 - chance) if both and chance < 1 else None
    differing = tuple(image for image, (one, other) in zip(both, answers, strict=True) if one != other)
    return Pair(reviewers=names, images=len(both), agreed=agreed, kappa=kappa, differing=differing)
