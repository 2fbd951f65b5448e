"""The folder of predictions: what each image's results are, and which of them are done under the same key."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from weakclip.datasets.classes import ClassSet
from weakclip.errors import RunError
from weakclip.prediction.inputs import InputImage
from weakclip.prediction.predictor import Prediction
from weakclip.store.files import append_json, write_json
from weakclip.store.keys import ResultKey
from weakclip.store.manifest import Manifest, are_records
from weakclip.store.untrusted_text import one_line, parse_json

MASKS, OVERLAYS, FACTS = "masks", "overlays", "json"
"""Folders of the palette PNGs, of the overlays (JPEG), and of what is said of each image."""

KEY, ERRORS = "key.json", "errors.jsonl"


@dataclass(frozen=True)
class PredictionFolder:
    """Where the results go.

    Args:
        path: the folder.
    """

    path: Path

    def mask(self, image: InputImage) -> Path:
        """The palette PNG."""
        return self.path / MASKS / f"{image.name}.png"

    def overlay(self, image: InputImage) -> Path:
        """The photo with the colours of the classes laid over it."""
        return self.path / OVERLAYS / f"{image.name}.jpg"

    def facts(self, image: InputImage) -> Path:
        """The facts of the image; written last: where they are, the rest is done."""
        return self.path / FACTS / f"{image.name}.json"

    def open(self, key: ResultKey, *, redo: bool) -> None:
        """Make the folder, or check that what is in it has the same key; with `redo`, remove what has another.

        Raises:
            RunError: a foreign folder, or, without `redo`, predictions of another network or with other settings.
        """
        try:
            stored = self._stored_key()
            if stored is not None and stored.get("key") != key.digest:
                if not redo:
                    words = "; ".join(Manifest(self.path, {"predict": stored}).differences("predict", key))
                    raise RunError(f"{self.path}: made otherwise ({words}); choose another --out, or add --redo")
                for part in (MASKS, OVERLAYS, FACTS):
                    shutil.rmtree(self.path / part, ignore_errors=True)
            write_json(self.path / KEY, key.record())
            (self.path / ERRORS).unlink(missing_ok=True)
        except OSError as error:
            raise RunError(f"{self.path}: cannot be written ({error.strerror}); choose another folder") from None

    def _stored_key(self) -> dict[str, Any] | None:
        if (self.path / KEY).is_file():
            try:
                stored = parse_json((self.path / KEY).read_text(encoding="utf-8"))
            except ValueError:
                stored = None
            if isinstance(stored, dict) and "key" in stored and are_records({"predict": stored}):
                return stored
        if self.path.is_dir() and any(not entry.name.endswith(".tmp") for entry in self.path.iterdir()):
            raise RunError(f"{self.path}: is not empty and holds no predictions (no {KEY}); choose a new folder")
        return None

    def is_done(self, image: InputImage, labels: Sequence[str] | None) -> bool:
        """Whether the mask is there, made of the file as it is now, with the same labels."""
        try:
            facts = parse_json(self.facts(image).read_text(encoding="utf-8"))
            same = facts["image"] == str(image.path) and facts["file"] == stamp(image.path)
            return bool(same and facts["labels"] == _listed(labels) and self.mask(image).is_file())
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def other_image(self, image: InputImage) -> str | None:
        """The image of an earlier call whose results have this one's name, where there is one."""
        try:
            found = parse_json(self.facts(image).read_text(encoding="utf-8"))["image"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return None if found == str(image.path) else one_line(str(found))

    def forget(self, image: InputImage) -> None:
        """Remove what says that results of this name are done, and the overlay of an earlier mask."""
        self.facts(image).unlink(missing_ok=True)
        self.overlay(image).unlink(missing_ok=True)

    def write_facts(
        self, image: InputImage, prediction: Prediction, class_set: ClassSet, labels: Sequence[str] | None
    ) -> None:
        """Write what was found: size, classes with their shares, and mean confidence."""
        height, width = prediction.mask.shape
        facts = {
            "image": str(image.path),
            "file": stamp(image.path),
            "width": width,
            "height": height,
            "labels": _listed(labels),
            "confidence": round(float(prediction.confidence.mean()), 5),
            "classes": class_facts(prediction, class_set),
        }
        write_json(self.facts(image), facts)

    def note_error(self, image: InputImage, error: Exception) -> None:
        """Add a line to `errors.jsonl`."""
        append_json(self.path / ERRORS, {"image": one_line(str(image.path)), "error": one_line(str(error))})


def class_facts(prediction: Prediction, class_set: ClassSet) -> list[dict[str, Any]]:
    """Index, name, share of the pixels and mean confidence of every class in a mask, the largest first."""
    flat = prediction.mask.ravel()
    counts = np.bincount(flat, minlength=class_set.num_classes)
    sums = np.bincount(flat, weights=prediction.confidence.ravel(), minlength=class_set.num_classes)
    found = sorted(np.flatnonzero(counts).tolist(), key=lambda index: (-counts[index], index))
    return [
        {
            "index": index,
            "name": class_set.names[index],
            "share": round(float(counts[index] / flat.size), 5),
            "confidence": round(float(sums[index] / counts[index]), 5),
        }
        for index in found
    ]


def stamp(path: Path) -> str:
    """Size and time of a file."""
    stat = path.stat()
    return f"{stat.st_size} {stat.st_mtime_ns}"


def _listed(labels: Sequence[str] | None) -> list[str] | None:
    return None if labels is None else sorted(labels)
