"""The pseudo masks of a run for an annotation tool."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path

from weakclip.annotations import FORMATS, MaskEntry, Shapes, write_label_studio
from weakclip.annotations.entries import without_small
from weakclip.annotations.forms import check_flat
from weakclip.annotations.label_studio import LOCAL_FILES
from weakclip.datasets import ImageLabelDataset
from weakclip.datasets.images import mask_digest, read_mask, resize_mask
from weakclip.errors import RunError
from weakclip.pipeline.context import RunContext, open_run
from weakclip.store.files import writing
from weakclip.store.layout import MASKS
from weakclip.store.progress import track
from weakclip.tools.annotate.exported import note_exported
from weakclip.tools.annotate.queue import Queued, queue

TOOLS = {name: each.ending for name, each in FORMATS.items()}
"""The formats, and how their files end; nothing for a folder."""


def export_masks(
    run: Path | str,
    out: Path | str,
    tool: str,
    shapes: Shapes,
    *,
    min_area: int = 0,
    image_prefix: str = LOCAL_FILES,
    only: Sequence[str] = (),
) -> int:
    """Write the pseudo masks of a run to one file or folder, one image at a time, the most doubtful first.

    Args:
        run: the run folder.
        out: the file or folder; it appears whole or not at all.
        tool: the format, one of `FORMATS`.
        shapes: masks or polygons.
        min_area: connected regions of fewer pixels of the run's mask are left out.
        image_prefix: only for Label Studio: what makes an image's address of its file name.
        only: conditions on the images; see `queue`.

    Returns:
        How many images were written.

    Raises:
        RunError: no run, masks that are missing, or no image that passes.
        StorageError: a place that cannot be written.
        ConfigError: an unknown condition, or shapes that the format does not have.
        DataError: the run's images are no longer there, a mask cannot be read, or two images would get one name.
    """
    out = Path(out)
    if TOOLS[tool] and out.suffix.lower() != TOOLS[tool]:
        raise RunError(f"{out}: ends in {out.suffix or 'nothing'}; expected {TOOLS[tool]} for {tool}")
    context = open_run(run)
    chosen = queue(context, only)
    if not chosen:
        raise RunError(f"{run}: no image is {' and '.join(only)}; nothing to export")
    if not TOOLS[tool]:
        check_flat(context.train.names[each.index] for each in chosen)
    entries, class_set = _entries(context, chosen, min_area), context.train.class_set
    with writing(out):
        if tool == "label-studio":
            return write_label_studio(out, entries, class_set, shapes, image_prefix=image_prefix)
        return FORMATS[tool].write(out, entries, class_set, shapes)


def image_files(dataset: ImageLabelDataset) -> list[str]:
    """Path of every image below the image folder: its name with the ending of its file; `.png` where it is drawn."""
    files = map(dataset.image_file, range(len(dataset)))
    return [f"{name}{file.suffix if file else '.png'}" for name, file in zip(dataset.names, files, strict=True)]


def _entries(context: RunContext, chosen: Sequence[Queued], min_area: int) -> Iterator[MaskEntry]:
    """The masks, each at the size of its image's file: a run that reduces large photos makes masks of the reduced size.

    They are noted before the file that they are written to appears.
    """
    dataset, folder, digests = context.train, context.folder("pseudo_masks") / MASKS, dict[str, str]()
    files = image_files(dataset)
    for each in track(chosen, "exporting", total=len(chosen)):
        name, size = dataset.names[each.index], dataset.stored_size(each.index)
        path = folder / f"{name}.png"
        if not path.is_file():
            raise RunError(f"{path}: no such mask; run `weakclip pseudo-masks` or `weakclip run` first")
        mask = without_small(read_mask(path), min_area)
        digests[name] = mask_digest(mask)
        stored = mask if mask.shape == size else resize_mask(mask, size)
        photo = dataset.image_file(each.index) or functools.partial(dataset.image, each.index)
        yield MaskEntry(files[each.index], stored, each.doubt, each.reason, photo)
    note_exported(context.out, digests)
