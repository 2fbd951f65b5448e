"""Laws of the model for CVAT: a frame gets its mask in CVAT's own forms, and a corrected one comes back."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from review_case import HOSTILE_CLASS

from weakclip.config import parse_config
from weakclip.datasets.images import read_mask
from weakclip.errors import DataError
from weakclip.pipeline import run_pipeline
from weakclip.pipeline.context import open_run
from weakclip.prediction import Prediction
from weakclip.review import mask_source
from weakclip.review.cvat import create
from weakclip.review.mask_source import MaskSource
from weakclip.review.serving import build_ml_backend
from weakclip.tools.annotate import verify_masks

pytest.importorskip("starlette", reason="the extra `serve` is not installed")
from starlette.testclient import TestClient  # after the skip: it comes with the extra

TOP = np.zeros((16, 24), dtype=np.uint8)
TOP[2:7, 3:9], TOP[4, 5], TOP[12:, 20:] = 2, 0, 255


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """The images of which a network was asked; it says `TOP` of each."""
    images: list[np.ndarray] = []

    def predict(image: np.ndarray) -> Prediction:
        images.append(image)
        return Prediction(TOP, np.ones(TOP.shape, dtype=np.float32))

    monkeypatch.setattr(mask_source, "load_predictor", lambda run: predict)
    return images


@pytest.fixture
def client(review_run: Path) -> TestClient:
    return TestClient(build_ml_backend(MaskSource(review_run)))


def invoke(client: TestClient, content: bytes, path: str = "/api/function_invocations") -> Any:
    headers = {"x-nuclio-function-name": "weakclip", "x-nuclio-path": "/"}
    body = {"image": base64.b64encode(content).decode(), "threshold": 0.5}
    answer = client.post(path, json=body, headers=headers)
    assert answer.status_code == 200, answer.text
    return answer.json()


def drawn(shape: dict[str, Any], size: tuple[int, int]) -> np.ndarray:
    """The pixels of a detection, as CVAT's server reads it."""
    *inside, left, top, right, bottom = shape["mask"]
    pixels = np.zeros(size, dtype=bool)
    pixels[top : bottom + 1, left : right + 1] = np.reshape(inside, (bottom + 1 - top, right + 1 - left))
    return pixels


def frame(name: str, *, polygons: bool = False) -> Any:
    return SimpleNamespace(frame_name=name, conf_threshold=None, conv_mask_to_poly=polygons)


def photo(size: tuple[int, int] = (24, 16)) -> Image.Image:
    return Image.new("RGB", size, (1, 2, 3))


def test_the_server_finds_the_model_and_its_labels(client: TestClient) -> None:
    (name, described), *others = client.get("/api/functions").json().items()
    assert not others and client.get(f"/api/functions/{name}").json() == described
    assert described["metadata"]["annotations"]["type"] == "detector" and described["status"]["state"] == "ready"
    spec = json.loads(described["metadata"]["annotations"]["spec"])
    assert [(each["name"], each["type"]) for each in spec] == [
        (each, "mask") for each in (HOSTILE_CLASS, "cat", "dog", "undecided")
    ]
    assert "\n" not in described["spec"]["description"] and client.get("/api/functions/other").status_code == 404


@pytest.mark.parametrize("path", ["/api/function_invocations", "/"])
def test_a_frame_that_is_a_training_image_gets_the_run_s_mask(
    client: TestClient, review_run: Path, asked: list[np.ndarray], path: str
) -> None:
    content = (review_run.parent / "mine/images/cats/one.png").read_bytes()
    (shape,) = invoke(client, content, path)
    assert (shape["label"], shape["type"], float(shape["confidence"])) == (HOSTILE_CLASS, "mask", 1.0)
    mask = read_mask(review_run / "3_pseudo_masks/masks/cats/one.png")
    assert (drawn(shape, (16, 24)) == (mask == 1)).all() and not asked
    assert "cats/one" in (review_run / "exported.jsonl").read_text()


def test_any_other_frame_is_predicted(client: TestClient, asked: list[np.ndarray]) -> None:
    content = io.BytesIO()
    photo().save(content, "PNG")
    shapes = invoke(client, content.getvalue())
    assert [shape["label"] for shape in shapes] == ["cat", "undecided"]
    for shape, value in zip(shapes, (2, 255), strict=True):
        assert (drawn(shape, TOP.shape) == np.equal(TOP, value)).all()
    assert asked[0].shape == (16, 24, 3) and (asked[0] == (1, 2, 3)).all()


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"image": base64.b64encode(b"no picture").decode()}, "the image that was sent"),
        ({"image": "%%"}, "not what CVAT sends"),
        ({"image": None}, "an image in base64 expected"),
        ({}, "not what CVAT sends"),
        ([], "not what CVAT sends"),
    ],
)
def test_what_is_no_image_is_one_line(client: TestClient, body: Any, said: str) -> None:
    answer = client.post("/api/function_invocations", json=body)
    assert answer.status_code == 400 and said in answer.json()["detail"] and "BytesIO" not in answer.text
    refused = client.post("/api/function_invocations", json=body, headers={"Origin": "http://evil.example"})
    assert refused.status_code == 403


def test_the_function_gives_masks_and_polygons(review_run: Path, asked: list[np.ndarray]) -> None:
    pytest.importorskip("cvat_sdk", reason="CVAT's SDK is not installed")
    from cvat_sdk.masks import decode_mask

    function = create(str(review_run))
    assert [label.name for label in function.spec.labels] == [HOSTILE_CLASS, "cat", "dog", "undecided"]
    (shape,) = function.detect(frame("cats/one.png"), photo())
    mask = read_mask(review_run / "3_pseudo_masks/masks/cats/one.png")
    assert (decode_mask(shape.points, image_width=24, image_height=16) == (mask == 1)).all() and not asked
    cat, undecided = function.detect(frame("new.png"), photo())
    assert (decode_mask(cat.points, image_width=24, image_height=16) == (TOP == 2)).all() and len(asked) == 1
    assert undecided.label_id == 255
    (polygon,) = function.detect(frame("cats/one.png", polygons=True), photo())
    assert polygon.type.value == "polygon" and len(polygon.points) == 8
    assert len(function.detect(frame("cats/one.png"), photo((20, 16)))) == 2 and len(asked) == 2  # of another size


def test_the_sdk_s_own_driver_takes_the_shapes(
    review_run: Path, asked: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    sdk = pytest.importorskip("cvat_sdk.auto_annotation", reason="CVAT's SDK is not installed")
    from cvat_sdk import models
    from cvat_sdk.auto_annotation import driver

    labels = [
        models.Label(id=70 + number, name=name, attributes=[], type="any", sublabels=[])
        for number, name in enumerate((HOSTILE_CLASS, "cat", "dog"))
    ]
    samples = [
        SimpleNamespace(frame_name=name, frame_index=number, media=SimpleNamespace(load_image=photo))
        for number, name in enumerate(("cats/one.png", "new.png"))
    ]
    task = SimpleNamespace(labels=labels, samples=samples)
    monkeypatch.setattr(driver, "TaskDataset", lambda client, number, load_annotations: task)
    sent: list[Any] = []
    api = SimpleNamespace(partial_update_annotations=lambda *args, **data: sent.append(data))
    logger = SimpleNamespace(info=lambda *args: None, warning=lambda *args: None)
    client = SimpleNamespace(tasks=SimpleNamespace(api=api), logger=logger)
    sdk.annotate_task(client, 1, create(str(review_run)), allow_unmatched_labels=True)
    (data,) = sent
    shapes = data["patched_labeled_data_request"].shapes
    assert [(shape.frame, shape.label_id, shape.type.value) for shape in shapes] == [(0, 70, "mask"), (1, 71, "mask")]


def exported(shapes: dict[str, list[Any]], labels: dict[int, str], size: tuple[int, int]) -> str:
    """What CVAT exports as "CVAT for images 1.1" of a task with masks: image → its shapes."""
    images = []
    for number, (name, masks) in enumerate(shapes.items()):
        drawn = []
        for mask in masks:
            *runs, left, top, right, bottom = map(int, mask.points)
            box = f'left="{left}" top="{top}" width="{right - left + 1}" height="{bottom - top + 1}"'
            kind = f'label="{labels[mask.label_id]}" source="semi-auto" occluded="0"'
            drawn.append(f'<mask {kind} rle="{", ".join(map(str, runs))}" {box} z_order="0"></mask>')
        head = f'<image id="{number}" name="{name}" width="{size[1]}" height="{size[0]}">'
        images.append(f"{head}{''.join(drawn)}</image>")
    return f'<?xml version="1.0" encoding="utf-8"?><annotations><version>1.1</version>{"".join(images)}</annotations>'


def test_a_corrected_mask_is_in_the_next_run(
    tiny_settings: Callable[..., dict[str, Any]], call: Callable[..., int], tmp_path: Path
) -> None:
    pytest.importorskip("cvat_sdk", reason="CVAT's SDK is not installed")
    from cvat_sdk.masks import encode_mask

    settings, run = parse_config(tiny_settings(), origin="test"), tmp_path / "run"
    run_pipeline(settings, run)
    dataset, function = open_run(run).train, create(str(run))
    size = dataset.size(0)
    given = {
        f"{name}.png": function.detect(frame(f"{name}.png"), Image.fromarray(dataset.image(index)))
        for index, name in enumerate(dataset.names[:3])
    }
    corrected = np.zeros(size, dtype=bool)
    corrected[5:20, 8:30] = True
    shape = function.detect(frame(f"{dataset.names[1]}.png"), Image.fromarray(dataset.image(1)))[0]
    shape.points = encode_mask(corrected)
    given[f"{dataset.names[1]}.png"] = [shape]
    file = tmp_path / "annotations.xml"
    file.write_text(exported(given, {label.id: label.name for label in function.spec.labels}, size))
    assert call("import", file, "--run", run) == 0
    assert [path.stem for path in (run / "verified").rglob("*.png")] == [dataset.names[1].rpartition("/")[2]]
    run_pipeline(settings, run, redo=True)
    made = read_mask(run / "3_pseudo_masks/masks" / f"{dataset.names[1]}.png")
    assert (made == corrected * shape.label_id).all()


def test_of_the_other_exports_coco_is_read_and_colours_are_refused(review_run: Path, tmp_path: Path) -> None:
    runs = [0, 16 * 10, 16 * 14]  # down the columns: the left ten are inside
    annotation = {"id": 1, "image_id": 1, "category_id": 2, "iscrowd": 1, "area": 160.0, "bbox": [0.0, 0.0, 10.0, 16.0]}
    annotation |= {"segmentation": {"counts": runs, "size": [16, 24]}, "attributes": {"occluded": False}}
    image = {"id": 1, "width": 24, "height": 16, "file_name": "cats/two.png", "license": 0, "date_captured": 0}
    categories = [{"id": 1, "name": "dog", "supercategory": ""}, {"id": 2, "name": "cat", "supercategory": ""}]
    file = tmp_path / "instances_default.json"
    file.write_text(json.dumps({"images": [image], "categories": categories, "annotations": [annotation]}))
    assert verify_masks(file, review_run).verified == 1
    mask = read_mask(review_run / "verified/cats/two.png")
    assert (mask[:, :10] == 2).all() and not mask[:, 10:].any()
    folder = tmp_path / "SegmentationClass"
    folder.mkdir()
    photo().save(folder / "dogs__three.png")
    photo().save(folder / "three.png")
    with pytest.raises(DataError, match="a mask is a palette or 8-bit grey image of class indices; found RGB"):
        verify_masks(folder, review_run)
