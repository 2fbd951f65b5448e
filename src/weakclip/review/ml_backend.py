"""A model for Label Studio (its ML backend: labelstud.io/guide/ml_create): masks for its tasks, and corrections back.

GET /health            that it lives                POST /setup      the version of the masks
POST /predict          masks of tasks               POST /webhook    an annotation becomes a verified mask
"""

from __future__ import annotations

import json
import logging
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from weakclip.annotations.entries import MaskEntry, Shapes, annotation_labels
from weakclip.annotations.label_studio import IMAGE, TAG, prediction_of, task_address
from weakclip.datasets.image_folder import ImageFolder, stem
from weakclip.datasets.images import mask_digest, read_mask, resize_mask
from weakclip.errors import DataError, RunError, WeakCLIPError, first_line
from weakclip.pipeline.context import open_run
from weakclip.prediction import Predictor, load_predictor
from weakclip.review.guard import ASGI
from weakclip.store.layout import MASKS
from weakclip.store.manifest import read_records
from weakclip.store.untrusted_text import one_line, short
from weakclip.tools.annotate.corrected import image_finder
from weakclip.tools.annotate.exported import note_exported
from weakclip.tools.annotate.queue import queue
from weakclip.tools.annotate.run_masks import image_files
from weakclip.tools.annotate.verify import verify_masks

if TYPE_CHECKING:
    from starlette import requests
    from starlette.responses import Response

logger = logging.getLogger("weakclip")

MAX_BODY = 64 * 2**20
"""Bytes of a request: an annotation holds its masks as run lengths."""

ANNOTATED = ("ANNOTATION_CREATED", "ANNOTATION_UPDATED")
"""Events that bring a mask."""


@dataclass(frozen=True)
class Interface:
    """How a project's labelling interface calls its parts.

    Args:
        shapes: brush or polygons.
        control: the name of the control with the labels.
        image: the name of the image.
        column: the key of a task's data that holds the image's address.
    """

    shapes: Shapes
    control: str = TAG
    image: str = IMAGE
    column: str = IMAGE

    @classmethod
    def of(cls, label_config: str | None) -> Interface:
        """The interface of a project's XML; that of `weakclip export masks` where it says nothing known."""
        try:
            tree = ElementTree.fromstring(label_config or "<View/>")
        except (ElementTree.ParseError, ValueError):
            return cls(Shapes())
        control = next((each for each in tree.iter() if each.tag in ("BrushLabels", "PolygonLabels")), None)
        if control is None:
            return cls(Shapes())
        image = control.get("toName", IMAGE)
        value = next((each.get("value", "") for each in tree.iter("Image") if each.get("name") == image), "")
        kind = Shapes(kind="masks" if control.tag == "BrushLabels" else "polygons")
        return cls(kind, control.get("name", TAG), image, value.removeprefix("$") or IMAGE)


class MLBackend:
    """Masks of a run for Label Studio's tasks.

    A task of a training image gets the run's own mask of it, with its score; one whose image lies in `images` is
    predicted, without labels; any other gets no regions. No address is fetched.

    Args:
        run: a run folder with masks.
        images: a folder of further images; None for none.

    Raises:
        RunError: no run.
        DataError: a folder without images.
    """

    def __init__(self, run: Path | str, images: Path | None = None) -> None:
        self.run = Path(run)
        self.context = open_run(run)
        self._find = image_finder(self.context.train.names)
        self._files = image_files(self.context.train)
        self._others: dict[str, Path] = {}
        if images is not None:
            found = ImageFolder(images)
            self._others = {stem(file): Path(str(found.folder)) / file for file in found.files}
        self._find_other = image_finder([*self._others])
        self._doubts = {each.index: each for each in queue(self.context)}
        self._predictor: Predictor | None = None
        self._one_at_a_time = threading.Lock()

    @property
    def version(self) -> str:
        """The name of these masks for Label Studio: other masks have another version."""
        record = read_records(self.run).get("pseudo_masks", {})
        return f"weakclip {str(record.get('key', 'without masks'))[:8]}"

    def predict(self, tasks: list[Mapping[str, Any]], interface: Interface) -> list[dict[str, Any]]:
        """One prediction a task, in their order; without regions where the image or its mask cannot be read."""
        labels = annotation_labels(self.context.train.class_set)
        predictions = []
        for task in tasks:
            try:
                entry = self._entry(task, interface)
            except WeakCLIPError as error:
                logger.warning("serve: no mask for a task: %s", error)
                entry = None
            found = {"result": []} if entry is None else prediction_of(entry, labels, interface.shapes)
            for result in found["result"]:
                result["from_name"], result["to_name"] = interface.control, interface.image
            predictions.append({**found, "model_version": self.version})
        return predictions

    def _entry(self, task: Mapping[str, Any], interface: Interface) -> MaskEntry | None:
        address = _address(task, interface.column)
        name = self._find(address)
        if name is not None:
            index = self.context.train.index_of(name)
            path = self.context.folder("pseudo_masks") / MASKS / f"{name}.png"
            if path.is_file():
                mask, size = read_mask(path), self.context.train.stored_size(index)
                note_exported(self.run, {name: mask_digest(mask)})
                stored = mask if mask.shape == size else resize_mask(mask, size)
                return MaskEntry(self._files[index], stored, self._doubts[index].doubt, self._doubts[index].reason)
        other = self._find_other(address)
        if other is None:
            logger.warning("serve: no mask for %s, which is no image of %s", short(address), self.run)
            return None
        with self._one_at_a_time:
            self._predictor = self._predictor or load_predictor(self.run)
            return MaskEntry(address, self._predictor(self._others[other]).mask)

    def correct(self, task: Mapping[str, Any], annotation: Mapping[str, Any], interface: Interface) -> int:
        """Keep an annotation as the verified mask of its image, as `weakclip import` does.

        Returns:
            How many masks are verified by it: 1, or 0 where the annotation was cancelled, or is of no image of the run.

        Raises:
            DataError: an annotation that cannot be drawn.
            RunError: another process works in the run.
        """
        address = _address(task, interface.column)
        if annotation.get("was_cancelled") or self._find(address) is None:
            logger.info("serve: an annotation of %s is passed over", short(address))
            return 0
        data = {IMAGE: address}
        with tempfile.TemporaryDirectory() as folder, self._one_at_a_time:
            source = Path(folder) / "annotation.json"
            source.write_text(json.dumps([{"data": data, "annotations": [annotation]}]), encoding="utf-8")
            try:
                verified = verify_masks(source, self.run).verified
                logger.info("serve: the mask of %s is verified", short(address))
                return verified
            except DataError as error:
                raise DataError(str(error).replace(str(source), "the annotation")) from None


def _address(task: Mapping[str, Any], column: str) -> str:
    try:
        data = task["data"]
        return task_address({"data": {**data, IMAGE: data[column] if column in data else data[IMAGE]}})
    except (KeyError, TypeError, AttributeError, ValueError):
        raise DataError(f"a task without an image: expected data with {short(column)}; found {short(task)}") from None


def build_ml_backend(backend: MLBackend) -> ASGI:
    """The application. It takes JSON only, and nothing that a page in a browser sends."""
    from starlette.applications import Starlette
    from starlette.routing import Route

    service = _Service(backend)
    return Starlette(
        routes=[
            Route("/", service.health, methods=["GET"]),
            Route("/health", service.health, methods=["GET"]),
            Route("/setup", service.setup, methods=["POST"]),
            Route("/predict", service.predict, methods=["POST"]),
            Route("/webhook", service.webhook, methods=["POST"]),
        ]
    )


class _Service:
    """One method an address."""

    def __init__(self, backend: MLBackend) -> None:
        self.backend = backend

    def health(self, request: requests.Request) -> Response:
        return _json({"status": "UP", "model_class": "weakclip"})

    async def setup(self, request: requests.Request) -> Response:
        return await self._answer(request, lambda body: {"model_version": self.backend.version})

    async def predict(self, request: requests.Request) -> Response:
        def work(body: Mapping[str, Any]) -> dict[str, Any]:
            interface = Interface.of(body.get("label_config"))
            return {
                "results": self.backend.predict(body.get("tasks") or [], interface),
                "model_version": self.backend.version,
            }

        return await self._answer(request, work)

    async def webhook(self, request: requests.Request) -> Response:
        def work(body: Mapping[str, Any]) -> dict[str, Any]:
            if body.get("action") not in ANNOTATED:
                return {"verified": 0}
            project = body.get("project") or {}
            interface = Interface.of(project.get("label_config"))
            return {"verified": self.backend.correct(body["task"], body["annotation"], interface)}

        return await self._answer(request, work, status=201)

    async def _answer(self, request: requests.Request, work: Any, status: int = 200) -> Response:
        from starlette.concurrency import run_in_threadpool
        from starlette.requests import ClientDisconnect

        refusal = _refusal(request)
        if refusal is not None:
            return _refused(*refusal)
        content = bytearray()
        try:
            async for chunk in request.stream():
                content += chunk
                if len(content) > MAX_BODY:
                    raise DataError(f"at most {MAX_BODY} bytes expected")
            return _json(await run_in_threadpool(work, json.loads(content)), status)
        except ClientDisconnect:
            refusal = 400, "the request was cut short"
        except RunError as error:
            refusal = 503, f"{error}; Label Studio does not send it again: submit or update it once more then"
        except WeakCLIPError as error:
            refusal = 400, str(error)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            refusal = 400, f"not what Label Studio sends: {one_line(first_line(error))}"
        return _refused(*refusal)


def _refusal(request: requests.Request) -> tuple[int, str] | None:
    """Status and reason for what Label Studio's server does not send; a page cannot send JSON here without `Origin`."""
    if "origin" in request.headers:
        return 403, "a page in a browser may not ask this"
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        return 415, "expected application/json"
    return None


def _refused(status: int, detail: str) -> Response:
    """An answer that Label Studio shows to few: the log has it, too."""
    logger.warning("serve: refused (%d): %s", status, detail)
    return _json({"detail": detail}, status)


def _json(content: Any, status: int = 200) -> Response:
    from starlette.responses import JSONResponse

    return JSONResponse(content, status_code=status)
