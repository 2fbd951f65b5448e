"""A model for CVAT: masks for the frames of its tasks, in two ways.

`cvat_routes` answer what a CVAT server asks of nuclio, which runs its models (docs.cvat.ai, serverless tutorial;
`cvat/apps/lambda_manager/views.py` of its source). A frame comes without its name.

GET  /api/functions, /api/functions/NAME       the model and its labels
POST /api/function_invocations, /              {"image": base64} -> [{"label", "type": "mask", "mask": …}, …]

`create` makes a function for `cvat-cli task auto-annotate --function-module weakclip.review.cvat` (docs.cvat.ai,
auto-annotation API), which knows the name of each frame.
"""

from __future__ import annotations

import base64
import functools
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from weakclip.annotations.entries import MaskEntry, Shapes, labelled_regions, tight_box
from weakclip.datasets.regions import encode_runs
from weakclip.errors import ConfigError, DataError
from weakclip.review.answers import answering, as_json
from weakclip.review.mask_source import MaskSource
from weakclip.store.untrusted_text import short

if TYPE_CHECKING:
    from starlette import requests
    from starlette.responses import Response
    from starlette.routing import Route

logger = logging.getLogger("weakclip")

FUNCTION = "weakclip"
"""Name of the model, as nuclio would have it."""


def detections(entry: MaskEntry, labels: Mapping[str, int]) -> list[dict[str, Any]]:
    """A mask in the form that CVAT expects of a detector: for each label its box, and the pixels of the box by rows.

    Returns:
        Dictionaries of label, type, confidence and mask: 0 or 1 of each pixel of the box, then its left, top, right
        and bottom, the last two included.
    """
    confidence = f"{1 - (entry.doubt or 0):.4f}"
    found = []
    for name, pixels in labelled_regions(entry.mask, labels):
        left, top, right, bottom = _box(pixels)
        inside = pixels[top : bottom + 1, left : right + 1].astype(int).ravel().tolist()
        mask = [*inside, left, top, right, bottom]
        found.append({"label": name, "type": "mask", "confidence": confidence, "mask": mask})
    return found


def _box(pixels: np.ndarray) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of the pixels, the last two included."""
    left, top, width, height = tight_box(pixels)
    return left, top, left + width - 1, top + height - 1


def cvat_routes(source: MaskSource) -> list[Route]:
    """The addresses at which a CVAT server asks nuclio, as routes of an application."""
    from starlette.routing import Route

    async def functions(request: requests.Request) -> Response:
        return as_json({FUNCTION: _described(source, request.url.port)})

    async def function(request: requests.Request) -> Response:
        if request.path_params["name"] != FUNCTION:
            return as_json({"detail": f"no such model; there is {FUNCTION}"}, 404)
        return as_json(_described(source, request.url.port))

    def invoke(body: Mapping[str, Any]) -> list[dict[str, Any]]:
        image = body["image"]
        if not isinstance(image, str):
            raise DataError(f"an image in base64 expected; found {short(image)}")
        return detections(source.sent(base64.b64decode(image, validate=True)), source.labels)

    invocation = answering(invoke, sender="CVAT")
    return [
        Route("/api/functions", functions, methods=["GET"]),
        Route("/api/functions/{name}", function, methods=["GET"]),
        Route("/api/function_invocations", invocation, methods=["POST"]),
        Route("/", invocation, methods=["POST"]),
    ]


def _described(source: MaskSource, port: int | None) -> dict[str, Any]:
    spec = [{"id": value, "name": name, "type": "mask"} for name, value in source.labels.items()]
    name = f"{FUNCTION} {source.run.resolve().name}"
    return {
        "metadata": {"name": FUNCTION, "annotations": {"name": name, "type": "detector", "spec": json.dumps(spec)}},
        "spec": {"description": f"Masks of {source.version}"},
        "status": {"state": "ready", "httpPort": port},
    }


class CVATFunction:
    """A detection function of CVAT's SDK. A frame that has the name and the size of a training image gets the run's
    mask of it; any other is predicted, without labels.

    Args:
        source: the masks.

    Raises:
        ConfigError: CVAT's SDK is not installed.
    """

    def __init__(self, source: MaskSource) -> None:
        try:
            import cvat_sdk.auto_annotation as sdk
        except ImportError:
            raise ConfigError("this is for CVAT's SDK; `pip install cvat-sdk cvat-cli`") from None
        self._sdk, self._source = sdk, source

    @functools.cached_property
    def spec(self) -> Any:
        """The labels, as `DetectionFunctionSpec`."""
        labels = self._source.labels.items()
        return self._sdk.DetectionFunctionSpec(labels=[self._sdk.label_spec(name, value) for name, value in labels])

    def detect(self, context: Any, image: Image.Image) -> list[Any]:
        """The shapes of a frame, one mask a label, or polygons where these are asked for.

        Args:
            context: with `frame_name` and `conv_mask_to_poly`. A threshold of confidence is not heeded.
            image: the frame.

        Raises:
            WeakCLIPError: a mask or the network cannot be read.
        """
        entry, size = self._source.named(context.frame_name), (image.height, image.width)
        if entry is not None and entry.mask.shape != size:
            logger.warning("%s: has another size than the run's image of this name", short(context.frame_name))
        if entry is None or entry.mask.shape != size:
            entry = MaskEntry("", self._source.predicted(np.array(image.convert("RGB"))))
        shapes = []
        for name, pixels in labelled_regions(entry.mask, self._source.labels):
            label = self._source.labels[name]
            if context.conv_mask_to_poly:
                shapes += [self._sdk.polygon(label, each.ravel().tolist()) for each in Shapes().polygons(pixels)]
                continue
            left, top, right, bottom = _box(pixels)
            runs = encode_runs(pixels[top : bottom + 1, left : right + 1], order="C")
            shapes.append(self._sdk.mask(label, [*map(float, runs), left, top, right, bottom]))
        return shapes


def create(run: str, images: str = "") -> CVATFunction:
    """The function for `cvat-cli`.

    Args:
        run: a run folder with masks.
        images: a folder of further images; empty for none.

    Raises:
        RunError, DataError: as `MaskSource`.
        ConfigError: CVAT's SDK is not installed.
    """
    return CVATFunction(MaskSource(Path(run), Path(images) if images else None))
