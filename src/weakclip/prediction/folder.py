"""The folder of predictions: what each image's results are, and which of them are done under the same key."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from weakclip.datasets.classes import ClassSet
from weakclip.errors import RunError
from weakclip.prediction.inputs import InputImage
from weakclip.prediction.predictor import Prediction
from weakclip.store.files import read_json_if_any, write_json, write_text, writing
from weakclip.store.forms import Form
from weakclip.store.keys import ResultKey
from weakclip.store.layout import ERRORS
from weakclip.store.lines import LineLog
from weakclip.store.lock import LOCK, START, FolderInUseError, FolderLock, at_work
from weakclip.store.manifest import Manifest, are_records
from weakclip.store.outputs import url_open
from weakclip.store.share import Shard, current, parts
from weakclip.store.trees import stamp_of
from weakclip.store.untrusted_text import one_line, parse_json

MASKS, OVERLAYS, FACTS = "masks", "overlays", "json"
"""Folders of the palette PNGs, of the overlays (JPEG), and of what is said of each image."""

KEY = "key.json"

SHARDS = "shards.json"
"""While a folder is made in shards: how many there are, and all images."""

FORM = Form(
    "predictions",
    KEY,
    results=frozenset({MASKS, OVERLAYS, FACTS}),
    others=frozenset({ERRORS, SHARDS, "annotations.masks.json", "annotations.polygons.json"}),
    last=FACTS,
)
"""Of the folder, where it is at a URL."""


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

    def lock(self) -> contextlib.AbstractContextManager[object]:
        """Held while this process works here: by process 0 of those that work together, and by each shard.

        Raises:
            FolderInUseError: on entering, where another process does the same work, or all of it.
        """
        share = current()
        if isinstance(share, Shard):
            return FolderLock(self.path, share.name)
        return FolderLock(self.path) if share.is_main else contextlib.nullcontext()

    def begin(self, key: ResultKey, images: Sequence[InputImage], *, redo: bool) -> None:
        """Make the folder, or check that what is in it has the same key; with `redo`, remove what has another.

        Raises:
            RunError: a foreign folder, or, without `redo`, predictions of another network or with other settings; or
                shards at work with others, or on other images.
        """
        share = current()
        with writing(self.path):
            if isinstance(share, Shard):
                with FolderLock(self.path, START, wait=True):
                    self._open(key, redo=redo)
                    share.part(self.path / ERRORS).unlink(missing_ok=True)
                    self._list(images, share)
            else:
                share.once(lambda: self._open_whole(key, redo=redo))

    def _open_whole(self, key: ResultKey, *, redo: bool) -> None:
        self._open(key, redo=redo)
        for path in (*parts(self.path / ERRORS), self.path / ERRORS, self.path / SHARDS):
            path.unlink(missing_ok=True)

    def _open(self, key: ResultKey, *, redo: bool) -> None:
        stored = self._stored_key()
        if stored is not None and stored.get("key") != key.digest:
            if not redo:
                words = "; ".join(Manifest(self.path, {"predict": stored}).differences("predict", key))
                raise RunError(f"{self.path}: made otherwise ({words}); choose another --out, or add --redo")
            self._check_shards_at_rest()
            self._check_not_at_url()
            for part in (MASKS, OVERLAYS, FACTS):
                shutil.rmtree(self.path / part, ignore_errors=True)
        write_json(self.path / KEY, key.record())

    def _list(self, images: Sequence[InputImage], shard: Shard) -> None:
        """Note all images for `merge_predictions`, where no other shard has done so."""
        listed = {"shards": shard.count, "images": [list(map(str, astuple(image))) for image in images]}
        text, path = json.dumps(listed), self.path / SHARDS
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            return
        self._check_shards_at_rest()
        if path.is_file() or parts(self.path / ERRORS):
            self._check_not_at_url()
        for old in parts(self.path / ERRORS):
            old.unlink()
        write_text(path, text)

    def _check_shards_at_rest(self) -> None:
        share = current()
        if isinstance(share, Shard) and at_work(self.path, but=share.name):
            raise FolderInUseError(
                f"{self.path}: other shards work here with other images, settings or numbers; wait until they end, or "
                "choose another --out"
            )

    def _check_not_at_url(self) -> None:
        if url_open() and isinstance(current(), Shard):
            raise RunError(
                f"{self.path}: holds other predictions, or those of other images; shards replace nothing at a URL: "
                "leave --shard out, or choose another --out"
            )

    def listed(self) -> tuple[int, list[InputImage]]:
        """How many shards there are, and all images.

        Raises:
            RunError: the folder is not made in shards, or cannot be read.
        """
        path = self.path / SHARDS
        try:
            found = parse_json(path.read_text(encoding="utf-8"))
            return int(found["shards"]), [InputImage(Path(file), *names) for file, *names in found["images"]]
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise RunError(f"{path}: cannot be read ({error}); run all shards again") from None

    def close(self, log: LineLog, failed: Sequence[InputImage]) -> None:
        """Bring the errors into the order of the images; nothing is left of the shards."""
        log.finish([error_name(image) for image in failed])
        for path in (*([] if failed else [log.path]), self.path / SHARDS):
            path.unlink(missing_ok=True)

    def _stored_key(self) -> dict[str, Any] | None:
        stored = read_json_if_any(self.path / KEY)
        if "key" in stored and are_records({"predict": stored}):
            return stored
        entries = self.path.iterdir() if self.path.is_dir() else ()
        if not all(entry.name.endswith(".tmp") or entry.name.startswith(LOCK) for entry in entries):
            raise RunError(f"{self.path}: is not empty and holds no predictions (no {KEY}); choose a new folder")
        return None

    def is_done(self, image: InputImage, labels: Sequence[str] | None) -> bool:
        """Whether the mask is there, made of the file as it is now, with the same labels."""
        facts = self._facts(image)
        if not self.is_there(image) or "labels" not in facts or facts["labels"] != _listed(labels):
            return False
        try:
            return bool(facts.get("file") == str(stamp_of(image.path)))
        except OSError:
            return False

    def is_there(self, image: InputImage) -> bool:
        """Whether there is a mask of this image, whatever its file is like now."""
        return self._facts(image).get("image") == str(image.path) and self.mask(image).is_file()

    def _facts(self, image: InputImage) -> dict[str, Any]:
        return read_json_if_any(self.facts(image))

    def other_image(self, image: InputImage) -> str | None:
        """The image of an earlier call whose results have this one's name, where there is one."""
        found = self._facts(image).get("image", str(image.path))
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
            "file": str(stamp_of(image.path)),
            "width": width,
            "height": height,
            "labels": _listed(labels),
            "confidence": round(float(prediction.confidence.mean()), 5),
            "classes": class_facts(prediction, class_set),
        }
        write_json(self.facts(image), facts)


def error_line(image: InputImage, error: Exception) -> dict[str, str]:
    """The line of `errors.jsonl` on an image."""
    return {"name": error_name(image), "image": one_line(str(image.path)), "error": one_line(str(error))}


def error_name(image: InputImage) -> str:
    """The name of an image in `errors.jsonl`."""
    return one_line(image.name)


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


def _listed(labels: Sequence[str] | None) -> list[str] | None:
    return None if labels is None else sorted(labels)
