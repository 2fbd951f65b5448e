"""Laws of `weakclip serve`: a task gets its image's mask in the project's own names, and a correction is verified."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from review_case import HOSTILE_CLASS, make_review_run, write_figures, write_manifest

from weakclip.annotations.brush_code import decode_brush, encode_brush
from weakclip.datasets.images import read_mask
from weakclip.prediction import Prediction
from weakclip.review import mask_source
from weakclip.review.mask_source import MaskSource
from weakclip.review.ml_backend import Interface
from weakclip.review.serving import build_ml_backend
from weakclip.store.lock import FolderLock

pytest.importorskip("starlette", reason="the extra `serve` is not installed")
from starlette.testclient import TestClient  # after the skip: it comes with the extra

BRUSH = (
    '<View><Image name="photo" value="$url"/><BrushLabels name="classes" toName="photo"><Label value="cat"/>'
    "</BrushLabels></View>"
)
POLYGONS = BRUSH.replace("BrushLabels", "PolygonLabels")
LEFT = np.zeros((16, 24), dtype=bool)
LEFT[:, :10] = True


@pytest.fixture
def client(review_run: Path) -> TestClient:
    return TestClient(build_ml_backend(MaskSource(review_run)))


def ask(client: TestClient, address: str, config: str | None = BRUSH, column: str = "url") -> dict[str, Any]:
    answer = client.post("/predict", json={"tasks": [{"id": 1, "data": {column: address}}], "label_config": config})
    assert answer.status_code == 200, answer.text
    (prediction,) = answer.json()["results"]
    assert prediction["model_version"] == answer.json()["model_version"] == "weakclip first"
    return prediction


def annotation(pixels: np.ndarray, label: str = "cat") -> dict[str, Any]:
    value = {"format": "rle", "rle": encode_brush(pixels), "brushlabels": [label]}
    size = {"original_width": pixels.shape[1], "original_height": pixels.shape[0]}
    return {"id": 7, "result": [{"id": "a", "type": "brushlabels", "value": value, **size}], "was_cancelled": False}


def event(address: str, drawn: dict[str, Any], action: str = "ANNOTATION_CREATED") -> dict[str, Any]:
    return {
        "action": action,
        "project": {"id": 1, "label_config": BRUSH},
        "task": {"id": 1, "data": {"url": address}},
        "annotation": drawn,
    }


def test_it_lives_and_says_its_version(client: TestClient) -> None:
    assert client.get("/health").json()["status"] == client.get("/").json()["status"] == "UP"
    answer = client.post("/setup", json={"project": "1", "schema": BRUSH, "hostname": "", "access_token": ""})
    assert answer.json() == {"model_version": "weakclip first"}


@pytest.mark.parametrize("address", ["cats/one.png", "/data/local-files/?d=mine/images/cats/one.png"])
def test_a_task_gets_the_run_s_mask_with_its_score(review_run: Path, address: str) -> None:
    write_figures(review_run, {"cats/one": 0.25, "cats/two": 0.75})
    prediction = ask(TestClient(build_ml_backend(MaskSource(review_run))), address)
    (region,) = prediction["result"]
    assert (region["from_name"], region["to_name"], region["type"]) == ("classes", "photo", "brushlabels")
    assert region["value"]["brushlabels"] == [HOSTILE_CLASS]  # class 1, the right half of the mask
    mask = read_mask(review_run / "3_pseudo_masks/masks/cats/one.png")
    assert (decode_brush(region["value"]["rle"], (16, 24)) == (mask == 1)).all() and (mask == 1).any()
    assert 0 <= prediction["score"] < 1


def test_the_project_s_interface_names_form_and_parts(client: TestClient) -> None:
    (region,) = ask(client, "cats/one.png", POLYGONS)["result"]
    assert region["type"] == "polygonlabels" and len(region["value"]["points"]) == 4
    (region,) = ask(client, "cats/one.png", "<View", column="image")["result"]  # no XML: the exported interface's names
    assert (region["from_name"], region["to_name"]) == ("label", "image")
    assert (Interface.of(None).control, Interface.of("").image) == ("label", "image")


@pytest.mark.parametrize("config", ["<View><Choices name='a' toName='b'/></View>", "<View/>"])
def test_an_interface_without_brush_or_polygons_is_one_line(
    client: TestClient, config: str, caplog: pytest.LogCaptureFixture
) -> None:
    answer = client.post("/predict", json={"tasks": [{"data": {"url": "cats/one.png"}}], "label_config": config})
    detail = answer.json()["detail"]
    assert answer.status_code == 400 and "expected BrushLabels or PolygonLabels" in detail and detail in caplog.text
    sent = event("cats/two.png", annotation(LEFT))
    sent["project"]["label_config"] = config
    assert "has 'Choices'" in detail or "has 'nothing'" in detail
    assert client.post("/webhook", json=sent).status_code == 400


def test_a_run_that_has_changed_is_loaded_anew(review_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[int] = []

    def load(run: Path) -> Any:
        loaded.append(len(loaded))
        return lambda image: Prediction(np.full((16, 24), 1 + loaded[-1], np.uint8), np.ones((16, 24), np.float32))

    monkeypatch.setattr(mask_source, "load_predictor", load)
    source, image = MaskSource(review_run), np.zeros((16, 24, 3), np.uint8)
    write_figures(review_run, {"cats/one": 0.25, "cats/two": 0.75})
    entry = source.named("cats/one.png")
    assert entry is not None and entry.doubt is None and source.predicted(image).max() == 1
    assert source.predicted(image).max() == 1 and loaded == [0]
    write_manifest(review_run, "second one")  # as a `--redo` does at its end
    entry = source.named("cats/one.png")
    assert entry is not None and entry.doubt is not None and source.predicted(image).max() == 2
    assert loaded == [0, 1] and source.version == "weakclip second o"


def test_a_missing_class_is_said_once(client: TestClient, review_run: Path, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(3):
        sent = annotation(np.ones_like(LEFT), "undecided")
        sent["result"][0]["value"]["rle"] = encode_brush(LEFT)
        assert client.post("/webhook", json=event("cats/two.png", sent)).json() == {"verified": 1}
    assert caplog.text.count("said of the first such mask") == 1


def test_other_images_are_predicted_from_their_folder_and_nowhere_else(
    review_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = tmp_path / "more"
    more.mkdir()
    for path in (more / "new.png", tmp_path / "secret.png"):
        Image.new("RGB", (24, 16)).save(path)
    asked: list[Path] = []

    def predict(path: Path) -> Prediction:
        asked.append(path)
        return Prediction(LEFT.astype(np.uint8) * 2, np.ones(LEFT.shape, dtype=np.float32))

    monkeypatch.setattr(mask_source, "load_predictor", lambda run: predict)
    client = TestClient(build_ml_backend(MaskSource(review_run, more)))
    (region,) = ask(client, "/data/upload/1/0123abcd-new.png")["result"]
    assert region["value"]["brushlabels"] == ["cat"] and asked == [more / "new.png"]
    assert (decode_brush(region["value"]["rle"], LEFT.shape) == LEFT).all()
    for address in ("../secret.png", str(tmp_path / "secret.png"), "http://127.0.0.1:1/secret.png"):
        assert ask(client, address)["result"] == [] and asked == [more / "new.png"]


@pytest.mark.parametrize("action", ["ANNOTATION_CREATED", "ANNOTATION_UPDATED"])
def test_an_annotation_becomes_a_verified_mask(client: TestClient, review_run: Path, action: str) -> None:
    answer = client.post("/webhook", json=event("cats/two.png", annotation(LEFT), action))
    assert (answer.status_code, answer.json()) == (201, {"verified": 1})
    assert (read_mask(review_run / "verified/cats/two.png") == LEFT * 2).all()


def test_other_events_and_cancelled_annotations_change_nothing(client: TestClient, review_run: Path) -> None:
    for sent in (
        event("cats/nine.png", annotation(LEFT)),
        {"action": "TASKS_CREATED", "tasks": []},
        {"action": "ANNOTATIONS_DELETED", "annotations": [7]},
        event("cats/two.png", annotation(LEFT) | {"was_cancelled": True}),
    ):
        answer = client.post("/webhook", json=sent)
        assert (answer.status_code, answer.json()) == (201, {"verified": 0})
    assert not (review_run / "verified").exists()


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        (event("", annotation(LEFT)) | {"task": {"data": {"text": "a"}}}, "a task without an image"),
        (event("cats/two.png", annotation(LEFT, "unicorn")), "unknown label 'unicorn'"),
        (event("cats/two.png", annotation(LEFT[:4])), "is annotated at 24x4 pixels"),
        ({"action": "ANNOTATION_CREATED"}, "not what Label Studio sends"),
        ([1], "not what Label Studio sends"),
    ],
)
def test_what_cannot_be_kept_is_one_line(client: TestClient, review_run: Path, sent: Any, said: str) -> None:
    answer = client.post("/webhook", json=sent)
    assert answer.status_code == 400 and said in answer.json()["detail"]
    assert "\n" not in answer.json()["detail"] and "/tmp" not in answer.json()["detail"].replace(str(review_run), "")
    assert not (review_run / "verified").exists()


def test_the_column_of_the_interface_names_the_image(client: TestClient, review_run: Path) -> None:
    sent = event("cats/two.png", annotation(LEFT))
    sent["task"]["data"]["image"] = "cats/one.png"  # another column, which the interface does not show
    assert client.post("/webhook", json=sent).json() == {"verified": 1}
    assert [path.name for path in (review_run / "verified/cats").iterdir()] == ["two.png"]


def test_a_task_that_cannot_be_read_costs_no_other(client: TestClient, review_run: Path) -> None:
    (review_run / "3_pseudo_masks/masks/cats/one.png").write_bytes(b"no picture")
    tasks = [{"data": {"url": name}} for name in ("cats/one.png", "cats/two.png")] + [{"data": {}}]
    answer = client.post("/predict", json={"tasks": tasks, "label_config": BRUSH})
    assert [len(each["result"]) for each in answer.json()["results"]] == [0, 1, 0]


def test_a_busy_run_asks_for_another_try(client: TestClient, review_run: Path) -> None:
    with FolderLock(review_run):
        assert client.post("/webhook", json=event("cats/two.png", annotation(LEFT))).status_code == 503
    assert client.post("/webhook", json=event("cats/two.png", annotation(LEFT))).status_code == 201


def test_a_page_in_a_browser_can_change_nothing(client: TestClient, review_run: Path) -> None:
    sent = event("cats/two.png", annotation(LEFT))
    assert client.post("/webhook", json=sent, headers={"Origin": "http://evil.example"}).status_code == 403
    assert client.post("/webhook", content="{}", headers={"Content-Type": "text/plain"}).status_code == 415
    for content in ("{", "[" * 100_000):
        assert client.post("/webhook", content=content, headers={"Content-Type": "application/json"}).status_code == 400
    assert not (review_run / "verified").exists()


def test_the_command_announces_its_address(
    call: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    uvicorn = pytest.importorskip("uvicorn")
    monkeypatch.setattr(uvicorn.Server, "run", lambda self, sockets: None)
    run = make_review_run(tmp_path)
    assert call("serve", run, "--port", "0") == 0
    assert capsys.readouterr().out.startswith("serve: http://127.0.0.1:")
    assert call("serve", run, "--port", "0", "--json") == 0
    assert json.loads(capsys.readouterr().out)["address"].startswith("http://127.0.0.1:")
    assert call("serve", run, "--images", tmp_path / "gone") == 2
    assert "gone" in capsys.readouterr().err
