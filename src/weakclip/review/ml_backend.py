"""A model for Label Studio (its ML backend: labelstud.io/guide/ml_create): masks for its tasks, and corrections back.

GET /health            that it lives                POST /setup      the version of the masks
POST /predict          masks of tasks               POST /webhook    an annotation becomes a verified mask
"""

from __future__ import annotations

import functools
import json
import logging
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from weakclip.annotations.entries import Shapes
from weakclip.annotations.label_studio import IMAGE, TAG, prediction_of, task_address
from weakclip.errors import DataError, WeakCLIPError
from weakclip.review.answers import answering, as_json
from weakclip.review.mask_source import MaskSource
from weakclip.store.untrusted_text import short
from weakclip.tools.annotate.verify import verify_masks

if TYPE_CHECKING:
    from starlette import requests
    from starlette.responses import Response
    from starlette.routing import Route

logger = logging.getLogger("weakclip")

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
        """The interface of a project's XML; that of `weakclip export masks` where there is none.

        Raises:
            DataError: an interface without brush and polygons.
        """
        try:
            tree = ElementTree.fromstring(label_config or "")
        except (ElementTree.ParseError, ValueError):
            return cls(Shapes())
        control = next((each for each in tree.iter() if each.tag in ("BrushLabels", "PolygonLabels")), None)
        if control is None:
            found = ", ".join(sorted({each.tag for each in tree.iter()} - {"View"})) or "nothing"
            raise DataError(
                f"the project's labelling interface has {short(found)}; expected BrushLabels or PolygonLabels: add one "
                "under Settings, Labeling Interface, as `weakclip export masks` writes it"
            )
        image = control.get("toName", IMAGE)
        value = next((each.get("value", "") for each in tree.iter("Image") if each.get("name") == image), "")
        kind = Shapes(kind="masks" if control.tag == "BrushLabels" else "polygons")
        return cls(kind, control.get("name", TAG), image, value.removeprefix("$") or IMAGE)


class MLBackend:
    """Masks for Label Studio's tasks.

    A task of a training image gets the run's own mask of it, with its score; one whose image lies in the source's
    folder of further images is predicted, without labels; any other gets no regions. No address is fetched.

    Args:
        source: the masks.
    """

    def __init__(self, source: MaskSource) -> None:
        self.source = source
        self._one_at_a_time = threading.Lock()

    def predict(self, tasks: list[Mapping[str, Any]], interface: Interface) -> list[dict[str, Any]]:
        """One prediction a task, in their order; without regions where the image or its mask cannot be read."""
        labels, predictions = self.source.labels, list[dict[str, Any]]()
        for task in tasks:
            try:
                address = _address(task, interface.column)
                entry = self.source.named(address)
                if entry is None:
                    logger.warning("serve: no mask for %s, of which %s has none", short(address), self.source.run)
            except WeakCLIPError as error:
                logger.warning("serve: no mask for a task: %s", error)
                entry = None
            found = {"result": []} if entry is None else prediction_of(entry, labels, interface.shapes)
            for result in found["result"]:
                result["from_name"], result["to_name"] = interface.control, interface.image
            predictions.append({**found, "model_version": self.source.version})
        return predictions

    def correct(self, task: Mapping[str, Any], annotation: Mapping[str, Any], interface: Interface) -> int:
        """Keep an annotation as the verified mask of its image, as `weakclip import` does.

        Returns:
            How many masks are verified by it: 1, or 0 where the annotation was cancelled, or is of no image of the run.

        Raises:
            DataError: an annotation that cannot be drawn.
            RunError: another process works in the run.
        """
        address = _address(task, interface.column)
        if annotation.get("was_cancelled") or self.source.name_of(address) is None:
            logger.info("serve: an annotation of %s is passed over", short(address))
            return 0
        data = {IMAGE: address}
        with tempfile.TemporaryDirectory() as folder, self._one_at_a_time:
            source = Path(folder) / "annotation.json"
            source.write_text(json.dumps([{"data": data, "annotations": [annotation]}]), encoding="utf-8")
            try:
                verified = verify_masks(source, self.source.run).verified
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


def label_studio_routes(source: MaskSource) -> list[Route]:
    """The addresses at which Label Studio asks, as routes of an application."""
    from starlette.routing import Route

    backend = MLBackend(source)

    async def health(request: requests.Request) -> Response:
        return as_json({"status": "UP", "model_class": "weakclip"})

    def setup(body: Mapping[str, Any]) -> dict[str, Any]:
        return {"model_version": source.version}

    def predict(body: Mapping[str, Any]) -> dict[str, Any]:
        interface = Interface.of(body.get("label_config"))
        return {"results": backend.predict(body.get("tasks") or [], interface), "model_version": source.version}

    def webhook(body: Mapping[str, Any]) -> dict[str, Any]:
        if body.get("action") not in ANNOTATED:
            return {"verified": 0}
        interface = Interface.of((body.get("project") or {}).get("label_config"))
        return {"verified": backend.correct(body["task"], body["annotation"], interface)}

    answer = functools.partial(answering, sender="Label Studio")
    return [
        Route("/", health, methods=["GET"]),
        Route("/health", health, methods=["GET"]),
        Route("/setup", answer(setup), methods=["POST"]),
        Route("/predict", answer(predict), methods=["POST"]),
        Route("/webhook", answer(webhook, status=201), methods=["POST"]),
    ]
