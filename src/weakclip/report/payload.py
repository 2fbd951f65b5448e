"""The data of the page's script: compact JSON of every image, and the pictures of the worst ones."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from weakclip.inference.mask_statistics import mean_over_classes
from weakclip.report.doubts import KINDS, UNUSUAL, ImageFigures, Kind, worst
from weakclip.report.images import RunImages

WORST = 12
"""Number of images of each kind whose pictures are in the page itself."""


def payload(folder: Path, run: RunImages, images: Sequence[ImageFigures]) -> str:
    """JSON for a `<script type="application/json">`: no `<`, `>` or `&` in it, so that no name ends the element.

    Numbers are per mille, area scores tenths. Of an image: name, height, width, labels, doubt, confidence, CRF change,
    IoU of seed and mask, of mask and prediction, and of mask and truth, and a row for each class: index, share, area
    score, confidence, and IoU of seed and mask, mask and prediction, seed and prediction, mask and truth.
    """
    lists = [(kind, worst(images, kind, WORST)) for kind in KINDS]
    lists = [(kind, order) for kind, order in lists if order]
    shown = sorted({index for _, order in lists for index in order})
    content = {
        "classes": run.classes,
        "strips": [[strips.folder, strips.captions] for strips in run.strips],
        "unusual": round(10 * UNUSUAL),
        "kinds": [_kind(kind, order, images) for kind, order in lists],
        "embedded": {index: _pictures(folder, run, images[index].statistics.name) for index in shown},
    }
    rows = ",".join(_compact(_image(image)) for image in images)  # one by one: a list of all rows takes more room
    text = f'{_compact(content)[:-1]},"images":[{rows}]}}'
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _kind(kind: Kind, order: list[int], images: Sequence[ImageFigures]) -> dict[str, Any]:
    found = sum(kind.badness(image) is not None for image in images)
    return {"key": kind.key, "title": kind.title, "meaning": kind.meaning, "order": order, "found": found}


def _pictures(folder: Path, run: RunImages, name: str) -> list[str | None]:
    """One `data:` address for every strip of an image; None where the file is missing."""
    paths = (folder / strips.folder / f"{name}.jpg" for strips in run.strips)
    return [
        "data:image/jpeg;base64," + base64.b64encode(path.read_bytes()).decode("ascii") if path.is_file() else None
        for path in paths
    ]


def _image(image: ImageFigures) -> list[Any]:
    record = image.statistics
    indices = sorted({0, *record.labels, *record.shares, *record.mask_prediction, *record.mask_truth})
    return [
        record.name,
        *record.size,
        record.labels,
        _mille(image.doubt),
        _mille(record.confidence),
        _mille(record.crf_change),
        _mille(mean_over_classes(record.seed_mask)),
        _mille(mean_over_classes(record.mask_prediction)),
        _mille(mean_over_classes(record.mask_truth)),
        [_class(image, index) for index in indices],
    ]


def _class(image: ImageFigures, index: int) -> list[int | float | None]:
    record, score = image.statistics, image.area_scores.get(index)
    return [
        index,
        _share(record.shares.get(index)),
        None if score is None else round(10 * score),
        _mille(record.class_confidence.get(index)),
        _mille(record.seed_mask.get(index)),
        _mille(record.mask_prediction.get(index)),
        _mille(record.seed_prediction.get(index)),
        _mille(record.mask_truth.get(index)),
    ]


def _mille(value: float | None) -> int | None:
    return None if value is None else round(1000 * value)


def _share(value: float | None) -> float:
    """Per mille; a class that is there does not round to nothing."""
    return 0 if value is None else max(0.1, round(1000 * value, 1 if value < 0.01 else None))
