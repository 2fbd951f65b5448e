"""`weakclip predict` on files: nothing is lost, nothing is done twice, nothing overwrites another."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from weakclip import load_predictor
from weakclip.annotations import annotation_labels, draw_image, read_coco
from weakclip.datasets.classes import ClassSet
from weakclip.datasets.images import read_mask
from weakclip.errors import DataError
from weakclip.prediction import InputImage, find_images
from weakclip.prediction.batches import WAITING, equal_sizes
from weakclip.prediction.labels import read_labels

NAMES = ("a.jpg", "a.png", "b/a", "b/c", "d")


@pytest.fixture
def predict(call: Callable[..., int], trained_run: Path, tmp_path: Path, capsys) -> Callable[..., dict[str, Any]]:
    """The command on the run: `predict(*words)` is its summary, with the exit code and standard error added."""

    def run(*words: str | Path, model: Path = trained_run) -> dict[str, Any]:
        code = call("predict", model, *words, "--out", tmp_path / "out", "--set", "device=cpu", "--json")
        said = capsys.readouterr()
        return {**(json.loads(said.out) if said.out else {}), "code": code, "err": said.err}

    return run


def files_of(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_every_image_gets_its_files(
    predict: Callable[..., dict[str, Any]], trained_run: Path, photos: Path, class_set: ClassSet, tmp_path: Path
) -> None:
    words = ("--also", "overlays", "--also", "coco-masks", "--also", "coco-polygons")
    done = predict(photos, *words)
    assert (done["code"], done["images"], done["predicted"], done["kept"], done["failed"]) == (1, 6, 5, 0, 1)
    out, predictor = tmp_path / "out", load_predictor(trained_run)
    images = dict(zip(NAMES, ("a.jpg", "a.png", "b/a.jpg", "b/c.PNG", "d.jpg"), strict=True))
    expected = {f"masks/{name}.png" for name in NAMES} | {f"overlays/{name}.jpg" for name in NAMES}
    expected |= {f"json/{name}.json" for name in NAMES} | {"annotations.masks.json", "annotations.polygons.json"}
    assert set(files_of(out)) == expected | {"key.json", "errors.jsonl"}
    for name, file in images.items():
        mask, alone = read_mask(out / f"masks/{name}.png"), predictor(photos / file)
        assert (mask != alone.mask).mean() < 0.01  # a batch may round otherwise where two classes are equal
        facts = json.loads((out / f"json/{name}.json").read_text())
        assert (facts["height"], facts["width"]) == mask.shape and facts["image"] == str(photos / file)
        shares = np.bincount(mask.ravel(), minlength=3) / mask.size
        assert {one["index"]: one["share"] for one in facts["classes"]} == {
            index: round(share, 5) for index, share in enumerate(shares) if share
        }
        assert all(one["name"] == class_set.names[one["index"]] for one in facts["classes"])
        assert sum(one["share"] * one["confidence"] for one in facts["classes"]) == pytest.approx(
            facts["confidence"], abs=1e-3
        )
        with Image.open(out / f"masks/{name}.png") as png:
            assert png.mode == "P" and png.getpalette()[:9] == class_set.palette[:3].ravel().tolist()
        with Image.open(out / f"overlays/{name}.jpg") as shown:
            assert shown.size == mask.shape[::-1]
    drawn = list(read_coco(out / "annotations.masks.json"))
    assert [image.file_name for image in drawn] == list(images.values())
    for image, name in zip(drawn, NAMES, strict=True):
        mask = read_mask(out / f"masks/{name}.png")
        assert np.array_equal(draw_image(image, annotation_labels(class_set), mask.shape, out), mask)


def test_an_image_that_cannot_be_read_is_listed_and_tried_again(
    predict: Callable[..., dict[str, Any]], photos: Path, tmp_path: Path
) -> None:
    first = predict(photos, "--also", "coco-masks")
    lines = [json.loads(line) for line in (tmp_path / "out/errors.jsonl").read_text().splitlines()]
    assert [line["image"] for line in lines] == [str(photos / "e.png")] and "not an image" in lines[0]["error"]
    assert first["errors"] == str(tmp_path / "out/errors.jsonl") and "1 images have no mask" in first["err"]
    Image.new("RGB", (9, 9)).save(photos / "e.png")
    second = predict(photos, "--also", "coco-masks")
    assert (second["code"], second["predicted"], second["kept"], second["errors"]) == (0, 1, 5, None)
    assert not (tmp_path / "out/errors.jsonl").exists()


@pytest.mark.parametrize("name", [b"caf\xe9.png", b"two\nlines.png", b"n" * 251 + b".png"])
def test_a_name_that_no_file_can_have_or_hold_costs_the_others_nothing(
    predict: Callable[..., dict[str, Any]], photos: Path, tmp_path: Path, name: bytes
) -> None:
    (photos / "e.png").unlink()
    (photos / "a.png").rename(Path(os.fsdecode(os.fsencode(photos) + b"/" + name)))
    done = predict(photos, "--also", "coco-masks")
    assert (done["code"], done["predicted"], done["failed"]) == (1, 4, 1)
    (line,) = (tmp_path / "out/errors.jsonl").read_text().splitlines()
    assert "rename it" in json.loads(line)["error"]


def test_what_is_done_is_kept(predict: Callable[..., dict[str, Any]], photos: Path, tmp_path: Path) -> None:
    """The same call again predicts nothing; a changed image, and one whose mask was lost, are predicted again."""
    (photos / "e.png").unlink()
    predict(photos)
    before = files_of(tmp_path / "out")
    again = predict(photos, "--also", "overlays")
    assert (again["code"], again["predicted"], again["kept"]) == (0, 0, 5)
    after = files_of(tmp_path / "out")
    assert {name: time for name, time in after.items() if name in before and name != "key.json"} == {
        name: time for name, time in before.items() if name != "key.json"
    }
    assert {f"overlays/{name}.jpg" for name in NAMES} <= set(after)
    (tmp_path / "out/masks/d.png").unlink()
    Image.new("RGB", (31, 30), (200, 0, 0)).save(photos / "a.png")
    assert predict(photos)["predicted"] == 2
    assert not (tmp_path / "out/overlays/d.jpg").exists()  # of the mask before
    assert read_mask(tmp_path / "out/masks/a.png.png").shape == (30, 31)


def test_a_stop_between_two_files_leaves_nothing_half_done(
    predict: Callable[..., dict[str, Any]], photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another image's mask under the same name, and then no facts: the first image does not count as done."""
    from weakclip.prediction.folder import PredictionFolder

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    assert predict(photos / "a.jpg")["predicted"] == 1
    with monkeypatch.context() as patch:
        patch.setattr(PredictionFolder, "write_facts", stop)
        assert predict(photos / "b" / "a.jpg", "--redo")["code"] == 130
    assert predict(photos / "a.jpg")["predicted"] == 1


def test_other_settings_are_refused_or_redone(
    predict: Callable[..., dict[str, Any]], photos: Path, trained_run: Path, tmp_path: Path
) -> None:
    predict(photos / "d.jpg")
    refused = predict(photos / "d.jpg", "--set", "inference.flip=true")
    assert refused["code"] == 2 and "predict.inference.flip: false → true" in refused["err"]
    assert "choose another --out, or add --redo" in refused["err"]
    other = predict(photos / "d.jpg", "--network", "retrained")
    assert other["code"] == 2 and "network changed" in other["err"]
    redone = predict(photos / "a.jpg", "--set", "inference.flip=true", "--redo")
    assert (redone["code"], redone["predicted"]) == (0, 1)
    assert [path.name for path in (tmp_path / "out/masks").iterdir()] == ["a.png"]


def test_a_folder_of_others_is_left_alone(predict: Callable[..., dict[str, Any]], photos: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine.txt").write_text("mine")
    refused = predict(photos, "--redo")
    assert refused["code"] == 2 and "is not empty and holds no predictions" in refused["err"]


def test_files_patterns_and_a_list(
    predict: Callable[..., dict[str, Any]], photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = f"{photos / 'd.jpg'}\n\n{photos / 'missing.jpg'}\n{photos / 'd.jpg'}\n"
    monkeypatch.setattr(sys, "stdin", io.StringIO(listed))
    done = predict("-", photos / "b" / "*.PNG", photos / "d.jpg")
    assert (done["code"], done["images"], done["predicted"], done["failed"]) == (1, 3, 2, 1)
    nothing = predict(photos / "*.tiff")
    assert nothing["code"] == 2 and "no such file, folder or pattern" in nothing["err"]


def test_labels_restrict(predict: Callable[..., dict[str, Any]], photos: Path, trained_run: Path, tmp_path: Path):
    (tmp_path / "labels.csv").write_text("image,labels\na.jpg,dog\nphotos/b/a,cat;dog\nd,lion\n")
    files = (photos / "a.jpg", photos / "b" / "a.jpg", photos / "d.jpg", photos / "a.png")
    done = predict(*files, "--labels", tmp_path / "labels.csv", model=trained_run / "2_train")
    assert (done["code"], done["predicted"], done["failed"]) == (1, 2, 2)
    lines = (tmp_path / "out/errors.jsonl").read_text()
    assert (
        "d.jpg: unknown class 'lion'" in lines
        and "correct the labels file" in lines
        and "no labels of this image" in lines
    )
    assert json.loads((tmp_path / "out/json/b/a.json").read_text())["labels"] == ["cat", "dog"]
    again = predict(*files, "--labels", tmp_path / "labels.csv", model=trained_run / "2_train")
    assert again["kept"] == 2
    (tmp_path / "labels.csv").write_text("image,labels\na.jpg,cat\nb/a.jpg,cat;dog\n")
    assert predict(*files, "--labels", tmp_path / "labels.csv", model=trained_run / "2_train")["predicted"] == 1


def test_another_image_of_the_same_name_replaces_nothing(
    predict: Callable[..., dict[str, Any]], photos: Path, tmp_path: Path
) -> None:
    """In one call, names are made to differ; in two calls, the later one is told."""
    assert predict(photos / "a.jpg")["predicted"] == 1
    before = files_of(tmp_path / "out/masks")
    refused = predict(photos / "b" / "a.jpg")
    assert (refused["code"], refused["failed"]) == (1, 1) and files_of(tmp_path / "out/masks") == before
    assert "would replace the mask of" in (tmp_path / "out/errors.jsonl").read_text()
    assert predict(photos / "b" / "a.jpg", "--redo")["predicted"] == 1


def test_names_never_meet(tmp_path: Path) -> None:
    for file in ("a.jpg", "a.png", "a.jpg.jpg", "deep/a.jpg", "deep/er/a.webp", ".hidden.jpg", "out/masks/x.png"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    images = find_images([str(tmp_path), str(tmp_path / "deep")], leave_out=tmp_path / "out")
    assert {image.file_name: image.name for image in images} == {
        "a.jpg": "a.jpg",
        "a.jpg.jpg": "a.jpg.jpg",
        "a.png": "a.png",
        "deep/a.jpg": "deep/a",
        "deep/er/a.webp": "deep/er/a",
    }
    with pytest.raises(DataError, match=r"all images are in .*out, where the results go; choose another --out"):
        find_images([str(tmp_path / "out")], leave_out=tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty: no images; expected files ending in"):
        find_images([str(tmp_path / "empty")], leave_out=tmp_path / "out")


def test_batches_hold_one_size_and_nothing_waits_for_ever() -> None:
    rng = np.random.default_rng(0)
    sizes = [(int(size), 3, 3) for size in rng.integers(1, 12, 200)]
    images = [InputImage(Path(str(index)), "", "") for index in range(200)]
    taken = 0

    def source():
        nonlocal taken
        for image, size in zip(images, sizes, strict=True):
            taken += 1
            yield image, np.zeros(size, np.uint8)

    seen: list[InputImage] = []
    for batch in equal_sizes(source(), 4):
        assert len({pixels.shape for _, pixels in batch}) == 1 and len(batch) <= 4
        assert taken - len(seen) <= WAITING * 4
        seen += [image for image, _ in batch]
    assert sorted(seen, key=str) == sorted(images, key=str)


def test_large_photos_go_one_by_one() -> None:
    image = InputImage(Path("a"), "", "")
    large, small = (np.zeros((*size, 3), np.uint8) for size in ((2000, 3000), (9, 9)))
    batches = list(equal_sizes([(image, large), (image, small)] * 4, 4))
    assert sorted(map(len, batches)) == [1, 1, 1, 1, 4]


def test_a_row_without_labels_says_nothing(tmp_path: Path) -> None:
    """Its image is one without labels, not one of background only."""
    for name in "ab":
        Image.new("RGB", (4, 3)).save(tmp_path / f"{name}.png")
    (tmp_path / "labels.csv").write_text("image,labels\na.png,cat\nb.png,\n")
    (found,) = read_labels(tmp_path / "labels.csv", find_images([str(tmp_path)])).items()
    assert (found[0].name, found[1]) == ("a", ("cat",))


def test_labels_are_found_by_the_longest_path(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("image,labels\na.jpg,cat\nb/a.jpg,dog\n")
    images = [InputImage(Path(path), path, path) for path in ("/x/a.jpg", "/x/b/a.jpg", "/x/c.jpg")]
    found = read_labels(tmp_path / "labels.csv", images)
    assert [found.get(image) for image in images] == [("cat",), ("dog",), None]
    (tmp_path / "labels.csv").write_text("image,labels\na.jpg,cat\na.jpg,dog\n")
    with pytest.raises(DataError, match="labelled twice"):
        read_labels(tmp_path / "labels.csv", images)
    with pytest.raises(DataError, match="no such file"):
        read_labels(tmp_path / "none.csv", images)


def test_a_mistake_is_told_to_scripts_too(predict: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    said = predict(tmp_path / "nowhere.jpg")
    assert said["code"] == 2
    assert said["error"]["type"] == "DataError" and "nowhere.jpg" in said["error"]["message"]
    assert said["err"].strip().endswith(said["error"]["message"])
