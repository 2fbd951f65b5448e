"""Names and links in data lead to no file outside of it, neither to be read nor to be written."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from harm import is_one_clear_line
from PIL import Image

from weakclip.datasets import COCO14Dataset, FolderDataset, VOC12Dataset
from weakclip.datasets.base import check_name
from weakclip.datasets.classes import COCO14
from weakclip.datasets.coco_instances import load_index
from weakclip.datasets.faults import LabelError
from weakclip.datasets.file_cache import FOLDER, FileCache
from weakclip.datasets.images import read_rgb
from weakclip.datasets.voc_labels import read_xml_labels
from weakclip.errors import DataError, RunError, WeakCLIPError
from weakclip.pipeline.context import open_run
from weakclip.prediction.models import find_model
from weakclip.report import render_report
from weakclip.review.folder import ReviewFolder
from weakclip.tools.check.dataset import Kind, check_split
from weakclip.tools.export.hf_dataset import export_hf_dataset

SECRET = "the content of a private file"

OUTSIDE = [
    "../../etc/passwd",
    "../secret.png",
    "/etc/passwd",
    "images/../../secret.png",
    "C:\\Windows\\win.ini",
    "..\\..\\secret.png",
    "\\\\server\\share\\x.png",
    "a\0b.png",
    "two\nlines.png",
    "\x1b[2J.png",
    "name\u2028.png",
    "\ud800.png",
    "x" * 5000,
    ".",
    "..",
    "~/secret.png",
    "file:///etc/passwd",
]


def photo(path: Path, number: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(number).integers(0, 256, (6, 8, 3), dtype=np.uint8)).save(path)
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder data set of two images, and beside it a picture that is none of its."""
    root = tmp_path / "data"
    photo(root / "images" / "a.png", 1)
    photo(root / "images" / "b.png", 2)
    photo(tmp_path / "secret.png", 3)
    (root / "labels.csv").write_text("image,labels\na.png,cat\nb.png,dog\n")
    return root


@pytest.mark.parametrize("name", OUTSIDE)
@pytest.mark.parametrize("kind", ["csv", "jsonl", "list"])
def test_a_row_that_names_a_file_elsewhere_is_refused(root: Path, name: str, kind: str) -> None:
    if kind == "jsonl":
        (root / "labels.csv").unlink()
        rows = [{"image": image, "labels": ["cat"]} for image in ("a", "b", name)]
        (root / "labels.jsonl").write_text("\n".join(map(json.dumps, rows)))
    elif "\n" in name or "\ud800" in name or "\u2028" in name:
        pytest.skip("ends a line, or cannot be written as UTF-8")
    elif kind == "csv":
        with (root / "labels.csv").open("a") as file:
            file.write(f"{name},cat\n")
    else:
        (root / "train.txt").write_text(f"a\n{name}\n")
    with pytest.raises(LabelError) as caught:
        FolderDataset(root, "train")
    assert is_one_clear_line(caught.value, root) or len(name) > 1000
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", [name for name in OUTSIDE if "C:" not in name and name[0] not in "~fx"])
def test_a_name_that_would_be_written_elsewhere_is_refused(name: str) -> None:
    """Names of images become names of masks: whatever data set they come from, they pass here."""
    with pytest.raises(DataError, match="cannot be used as a relative file name"):
        check_name(name.removesuffix(".png"))


def test_a_link_out_of_the_folder_is_refused_and_a_linked_folder_is_not(root: Path, tmp_path: Path) -> None:
    (root / "images" / "b.png").unlink()
    (root / "images" / "b.png").symlink_to(tmp_path / "secret.png")
    dataset = FolderDataset(root, "train")
    for read in (dataset.image, dataset.size):
        with pytest.raises(DataError, match="a link that leads out of") as caught:
            read(1)
        assert is_one_clear_line(caught.value, root / "images" / "b.png")
    assert [finding.kind for finding in check_split(dataset, needs_labels=True).findings] == [Kind.IMAGE]
    (root / "images" / "b.png").unlink()
    (root / "images" / "b.png").symlink_to("a.png")
    assert np.array_equal(FolderDataset(root, "train").image(1), dataset.image(0))
    (root / "images").rename(tmp_path / "elsewhere")
    (root / "images").symlink_to(tmp_path / "elsewhere")
    assert np.array_equal(FolderDataset(root, "train").image(0), dataset.image(0))
    (tmp_path / "linked").symlink_to(root)
    assert np.array_equal(FolderDataset(tmp_path / "linked", "train").image(0), dataset.image(0))


def test_a_linked_mask_out_of_the_folder_is_refused(root: Path, tmp_path: Path) -> None:
    Image.fromarray(np.ones((6, 8), np.uint8)).save(tmp_path / "mask.png")
    (root / "masks").mkdir()
    (root / "masks" / "a.png").symlink_to(tmp_path / "mask.png")
    with pytest.raises(DataError, match="a link that leads out of"):
        FolderDataset(root, "train").mask(0)


def test_links_that_go_round_and_pipes_are_no_images(root: Path) -> None:
    (root / "images" / "a.png").unlink()
    (root / "images" / "a.png").symlink_to("a.png")
    (root / "images" / "b.png").unlink()
    os.mkfifo(root / "images" / "b.png")  # who opens it for reading waits for a writer, for ever
    dataset = FolderDataset(root, "train")
    for index in range(2):
        with pytest.raises(DataError):
            dataset.image(index)
    with pytest.raises(DataError, match="folder, pipe or device"):
        read_rgb(root / "images" / "b.png")


def test_a_voc_list_names_photos_of_its_folder_alone(voc_root: Path, tmp_path: Path) -> None:
    secret = photo(tmp_path / "passwd.jpg")
    for line in ("../../../passwd", str(secret), "/JPEGImages/../../../passwd.jpg x.png", "..", "a\0b"):
        (voc_root / "ImageSets/Segmentation/train.txt").write_text(line + "\n")
        with pytest.raises(DataError) as caught:
            VOC12Dataset(voc_root, "train")
        assert "missing" in str(caught.value) and is_one_clear_line(caught.value, voc_root)


def test_a_voc_photo_may_be_in_a_linked_folder_and_be_no_link_out_of_it(voc_root: Path, tmp_path: Path) -> None:
    (voc_root / "JPEGImages").rename(tmp_path / "photos")
    (voc_root / "JPEGImages").symlink_to(tmp_path / "photos")
    dataset = VOC12Dataset(voc_root, "train")
    assert dataset.image(0).shape == (9, 12, 3)
    secret = photo(tmp_path / "secret.jpg")
    (tmp_path / "photos/2007_000001.jpg").unlink()
    (tmp_path / "photos/2007_000001.jpg").symlink_to(secret)
    with pytest.raises(DataError, match="leads out of"):
        dataset.image(0)


ENTITY = '<!DOCTYPE a [<!ENTITY x SYSTEM "{secret}">]><annotation><object><name>&x;</name></object></annotation>'
BOMB = (
    "<!DOCTYPE a [<!ENTITY a0 'dog'>"
    + "".join(f"<!ENTITY a{n} '{f'&a{n - 1};' * 10}'>" for n in range(1, 30))
    + "]><annotation><object><name>&a29;</name></object></annotation>"
)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-16-be"])
@pytest.mark.parametrize("text", [ENTITY, BOMB, "<!DOCTYPE a SYSTEM 'http://127.0.0.1:9/x'><annotation/>"])
def test_an_annotation_defines_no_entities(tmp_path: Path, text: str, encoding: str) -> None:
    (tmp_path / "secret").write_text(SECRET)
    path = tmp_path / "photo.xml"
    declared = f'<?xml version="1.0" encoding="{encoding}"?>' + text.format(secret=tmp_path / "secret")
    path.write_bytes(declared.encode(encoding))
    with pytest.raises(DataError) as caught:
        read_xml_labels(path)
    assert is_one_clear_line(caught.value, path) and SECRET not in str(caught.value)
    assert encoding == "utf-16-be" or "document type" in str(caught.value)


def coco(root: Path, **changes: Any) -> Path:
    photo(root / "train2014" / "x.jpg")
    photo(root / "secret.jpg", 1)
    image = {"id": 1, "file_name": "x.jpg", "height": 6, "width": 8} | changes
    mark = {"id": 1, "image_id": 1, "category_id": 1, "iscrowd": 0, "segmentation": [[0, 0, 4, 0, 4, 4]]}
    categories = [{"id": i, "name": n} for i, n in zip(COCO14.ids[1:], COCO14.names[1:], strict=True)]
    (root / "annotations").mkdir(exist_ok=True)
    path = root / "annotations" / "instances_train2014.json"
    path.write_text(json.dumps({"images": [image], "annotations": [mark], "categories": categories}))
    return path


@pytest.mark.parametrize("name", ["../secret.jpg", "/etc/passwd", "a/../../secret.jpg", "", ".", "..", 7, None, "a\0"])
def test_a_coco_photo_lies_in_its_folder(tmp_path: Path, name: object) -> None:
    path = coco(tmp_path, file_name=name)
    with pytest.raises(DataError) as caught:
        COCO14Dataset(tmp_path, "train")
    assert is_one_clear_line(caught.value, path)


@pytest.mark.parametrize("size", [{"height": 10**9, "width": 10**9}, {"height": "6"}, {"height": -6}, {"id": [1]}])
def test_a_coco_file_that_lies_about_sizes_reserves_no_memory(tmp_path: Path, size: dict[str, object]) -> None:
    path = coco(tmp_path, **size)
    with pytest.raises(DataError) as caught:
        COCO14Dataset(tmp_path, "train").mask(0)
    assert is_one_clear_line(caught.value, path)


def test_a_crafted_index_in_the_cache_counts_for_nothing(tmp_path: Path) -> None:
    path = coco(tmp_path)
    honest = COCO14Dataset(tmp_path, "train").names
    (stored,) = (tmp_path / FOLDER).rglob("index.json")
    for row in (
        [1, "../secret.jpg", 6, 8, [1]],
        [1, "x.jpg", 6, 8, [99]],
        [1, 2, 3, 4, 5],
        "x",
        [1, "x.jpg", "6", 8, [1]],
    ):
        stored.write_text(json.dumps([row]))
        entries = load_index(path, FileCache(tmp_path, path, version=1))
        assert [entry.file_name for entry in entries] == ["x.jpg"]
    assert COCO14Dataset(tmp_path, "train").names == honest


def test_a_cache_that_is_a_link_is_not_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, elsewhere = tmp_path / "coco", tmp_path / "elsewhere"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    elsewhere.mkdir()
    (elsewhere / ".keep.tmp").touch()
    root.mkdir()
    coco(root)
    (root / FOLDER).symlink_to(elsewhere)
    COCO14Dataset(root, "train").mask(0)
    assert [path.name for path in elsewhere.iterdir()] == [".keep.tmp"]


def report_run(folder: Path) -> Path:
    (folder / "5_evaluate" / "pictures").mkdir(parents=True)
    (folder / "manifest.json").write_text(
        json.dumps({"format": 2, "stages": {"evaluate": {"done": True, "seconds": 1}}})
    )
    sheet = {
        "classes": [{"name": "<script>alert(1)</script>", "color": [1, 2, 3]}],
        "rows": [{"name": "<img onerror=x>", "split": "a&b", "labels": ["\"'<"], "pictures": {"image": "0.png"}}],
    }
    (folder / "5_evaluate" / "pictures.json").write_text(json.dumps(sheet))
    return folder


def test_a_report_shows_no_file_of_elsewhere(tmp_path: Path) -> None:
    run = report_run(tmp_path / "run")
    (tmp_path / "secret").write_text(SECRET)
    page = render_report(run)
    assert "<script>alert" not in page and "<img onerror" not in page
    for link in (run / "config.yaml", run / "5_evaluate/pictures/0.png"):
        link.symlink_to(tmp_path / "secret")
        with pytest.raises(RunError, match="a link that leads out of"):
            render_report(run)
        link.unlink()


@pytest.mark.parametrize("base", ["voc12", "../../secret.yaml", "/etc/passwd"])
def test_the_settings_of_a_run_have_no_base_and_lie_in_its_folder(base: str, tmp_path: Path) -> None:
    """Neither another file nor another version's shipped settings change what a finished run means."""
    run = report_run(tmp_path / "run")
    (tmp_path / "secret.yaml").write_text("data: {dataset: scenes}\n")
    readers: list[Callable[[], object]] = [
        lambda: open_run(run),
        lambda: ReviewFolder(run),
        lambda: find_model(run, network="weakclip").config,
        lambda: export_hf_dataset(run, tmp_path / "out"),
    ]
    (run / "2_train").mkdir(exist_ok=True)
    (run / "2_train/weakclip.json").write_text("{}")
    for link in (False, True):
        (run / "config.yaml").unlink(missing_ok=True)
        if link:
            (run / "config.yaml").symlink_to(tmp_path / "secret.yaml")
        else:
            (run / "config.yaml").write_text(f"base: {base}\ndata: {{dataset: scenes}}\n")
        for read in readers:
            with pytest.raises(WeakCLIPError, match="a link that leads out of" if link else "have no base") as caught:
                read()
            assert is_one_clear_line(caught.value, tmp_path)


MANIFESTS: list[Callable[[dict[str, Any]], object]] = [
    lambda record: record.update(files="many"),
    lambda record: record.update(inputs=["a"]),
    lambda record: record.update(seconds="x"),
    lambda record: record.update(key={"a": 1}),
    lambda record: record.update(settings=7),
    lambda record: record.update(done="yes"),
]


@pytest.mark.parametrize("change", MANIFESTS)
def test_a_manifest_of_odd_values_is_refused(tmp_path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    from weakclip.store.manifest import Manifest

    record: dict[str, Any] = {"done": True, "key": "x", "seconds": 1.5, "files": 1, "inputs": {}, "settings": {}}
    change(record)
    (tmp_path / "manifest.json").write_text(json.dumps({"format": 2, "stages": {"seeds": record, "../../x": record}}))
    for read in (Manifest.open, render_report):
        with pytest.raises(WeakCLIPError) as caught:
            read(tmp_path)
        assert is_one_clear_line(caught.value, tmp_path)


def test_an_unknown_stage_in_a_manifest_names_no_folder(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps({"format": 2, "stages": {"../../etc": {"done": True}}}))
    assert "etc" not in render_report(tmp_path)


def test_marks_on_names_of_elsewhere_change_nothing(root: Path, tmp_path: Path) -> None:
    from weakclip.pipeline.verdicts import read_review

    lines = [{"image": name, "mark": "bad", "labels": None} for name in ("../../etc/passwd", "a", "/x")]
    (tmp_path / "marks.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert list(read_review(FolderDataset(root, "train"), [tmp_path / "marks.jsonl"]).bad) == ["a"]


def test_a_leftover_that_is_a_link_is_removed_and_what_it_leads_to_stays(tmp_path: Path) -> None:
    from weakclip.store.files import remove_leftovers

    run, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    run.mkdir()
    elsewhere.mkdir()
    (elsewhere / "file").touch()
    (run / ".x.99999999.a.tmp").symlink_to(elsewhere)
    (run / "linked").symlink_to(elsewhere)
    (elsewhere / ".y.tmp").touch()
    remove_leftovers(run)
    assert sorted(path.name for path in elsewhere.iterdir()) == [".y.tmp", "file"]
    assert [path.name for path in run.iterdir()] == ["linked"]
