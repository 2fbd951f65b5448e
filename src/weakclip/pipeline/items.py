"""Only what changed is made again: a stage whose images do not depend on each other takes over the files of those that
stayed as they were from the result that it replaces."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from weakclip.pipeline.context import RunContext
from weakclip.pipeline.data import digest_of, file_dataset, file_stat
from weakclip.store.files import copy_file, no_link
from weakclip.store.layout import ITEMS, LOG
from weakclip.store.untrusted_text import parse_json

logger = logging.getLogger("weakclip")


def item_digests(context: RunContext) -> dict[str, str]:
    """A digest of what each training image brings to its own result: class set, labels, image file, verified mask."""
    dataset, verified = context.train, context.verified
    stored, classes = file_dataset(dataset), repr(dataset.class_set)
    drawn = "drawn" if context.given.dataset is None else context.given_digest
    digests = {}
    for position, name in enumerate(dataset.names):
        image = drawn if stored is None else file_stat(stored[0].image_path(stored[1][position]))
        lines = (classes, str(dataset.longest_side), image, str(dataset.labels(position)), verified.digest(name))
        digests[name] = digest_of(lines)
    return digests


def take_over(previous: Path, folder: Path, digests: Mapping[str, str], parts: Sequence[str]) -> int:
    """Bring the files of unchanged images from an earlier result into a new one, as hard links where that can be done.

    Args:
        previous: folder of the earlier result, made with the same settings.
        folder: folder of the new one.
        digests: what each image depends on now.
        parts: folders of `NAME.png` in both.

    Returns:
        How many images are unchanged.
    """
    before, log = _read_items(previous / ITEMS), previous / LOG
    if log.is_file() and not log.is_symlink() and not (folder / LOG).exists():
        copy_file(log, folder / LOG)  # of two lines on an image the last one counts
    kept = [name for name, digest in digests.items() if before.get(name) == digest]
    for name in kept:
        for part in parts:
            source, target = previous / part / f"{name}.png", folder / part / f"{name}.png"
            if source.is_file() and not source.is_symlink() and not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                _link(source, target)
    return len(kept)


def _link(source: Path, target: Path) -> None:
    with contextlib.suppress(OSError):
        os.link(source, target)
        return
    copy_file(source, target)


def _read_items(path: Path) -> dict[str, str]:
    """The digests of an earlier result; none where they are not there or cannot be read: all is made again then."""
    try:
        with open(path, "rb", opener=no_link) as file:
            found = parse_json(file.read())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
