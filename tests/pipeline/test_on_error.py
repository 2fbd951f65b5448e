"""Broken files among good ones: the run stops with one line, or leaves them out of every stage and lists them."""

from __future__ import annotations

import json
import shutil
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from weakclip.config import RunConfig, load_config
from weakclip.datasets import COCO14Dataset, FolderDataset, VOC12Dataset
from weakclip.datasets.classes import voc_palette
from weakclip.datasets.images import write_mask
from weakclip.errors import DataError, RunError, WeakCLIPError
from weakclip.pipeline import run, run_pipeline, run_stage
from weakclip.pipeline.bad_files import CHECKED, Screening, _check, find_bad_files, read_errors
from weakclip.pipeline.context import RunContext
from weakclip.pipeline.data import image_fingerprint, mask_fingerprint, open_split
from weakclip.store.layout import ERRORS

SIZE = (40, 56)


def noise(number: int, *size: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, size or (*SIZE, 3), dtype=np.uint8)


def bomb() -> bytes:
    """A PNG that claims four thousand megapixels."""

    def chunk(content: bytes) -> bytes:
        return struct.pack(">I", len(content) - 4) + content + struct.pack(">I", zlib.crc32(content))

    head = b"IHDR" + struct.pack(">IIBBBBB", 2**16, 2**16, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(head) + chunk(b"IDAT" + zlib.compress(b"")) + chunk(b"IEND")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Six good images of train with masks, two of val, and what people have beside them."""
    root = tmp_path / "data"
    (root / "images").mkdir(parents=True)
    rows = ["image,labels"]
    for number in range(8):
        Image.fromarray(noise(number)).save(root / "images" / f"n{number}.png")
        rows.append(f"n{number}.png,{'cat' if number % 2 else 'dog'}")
        mask = np.full(SIZE, 1 + number % 2, np.uint8)
        mask[:20] = 0
        write_mask(root / "masks" / f"n{number}.png", mask, voc_palette())
    (root / "labels.csv").write_text("\n".join(rows) + "\n")
    (root / "classes.yaml").write_text("names: [dog, cat]\n")
    (root / "val.txt").write_text("n6\nn7\n")
    return root


def label(root: Path, *rows: str) -> None:
    with (root / "labels.csv").open("a") as file:
        file.writelines(f"{row}\n" for row in rows)


def add_odd_but_good(root: Path) -> list[str]:
    """Images that look broken and are not."""
    images = root / "images"
    Image.fromarray(noise(20, *SIZE, 4), mode="CMYK").save(images / "print.jpg")
    frames = [Image.fromarray(noise(each)) for each in (21, 22, 23)]
    frames[0].save(images / "moving.gif", save_all=True, append_images=frames[1:])
    frames[0].save(images / "png really.jpg", format="PNG")
    label(root, "print,cat", "moving,dog", "png really,cat")
    return ["moving", "png really", "print"]


def add_broken(root: Path) -> list[str]:
    """Broken images of every kind, each with good labels."""
    images = root / "images"
    Image.fromarray(noise(30)).resize((300, 300)).save(images / "cut.jpg")
    (images / "cut.jpg").write_bytes((images / "cut.jpg").read_bytes()[:4000])
    (images / "empty.png").touch()
    (images / "text.jpg").write_text("no image")
    (images / "bomb.png").write_bytes(bomb())
    shutil.copy(images / "n0.png", images.parent / "elsewhere.png")
    (images / "link.png").symlink_to("../../outside.png")
    names = ["bomb", "cut", "empty", "link", "text"]
    label(root, *(f"{name},cat" for name in names))
    shutil.copy(images / "n0.png", root.parent / "outside.png")
    return names


@pytest.fixture
def config_of(tiny_settings: Callable[..., dict[str, Any]], data: Path, tmp_path: Path) -> Callable[..., RunConfig]:
    """The tiny run on `data`: `config_of("seeds.method=…")`, which leaves out what is broken."""

    def make(*overrides: str, on_error: str = "skip") -> RunConfig:
        path = tmp_path / "tiny.yaml"
        path.write_text(yaml.safe_dump(tiny_settings(dataset="folder", root=str(data))))
        return load_config(path, [f"data.on_error={on_error}", *overrides])

    return make


def entries(run: Path) -> dict[str, dict[str, Any]]:
    lines = (run / ERRORS).read_text().splitlines() if (run / ERRORS).exists() else []
    found = [json.loads(line) for line in lines]
    assert all({"image", "split", "stage", "error", "left_out"} == set(entry) for entry in found)
    assert all("\n" not in entry["error"] for entry in found)
    return {entry["image"]: entry for entry in found}


def metrics(run: Path, stage: str) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((run / stage / "metrics.json").read_text())
    return value


def masks(run: Path, folder: str) -> list[str]:
    return sorted(path.stem for path in (run / folder).glob("*.png"))


def test_broken_files_are_left_out_of_all_stages_and_mended_ones_are_taken_in(
    data: Path, config_of: Callable[..., RunConfig], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "weakclip")
    good, broken = [f"n{number}" for number in range(6)] + add_odd_but_good(data), add_broken(data)
    (data / "images/n7.png").write_bytes(b"")  # of val
    (data / "masks/n1.png").write_bytes(b"no mask")
    write_mask(data / "masks/n3.png", np.full(SIZE, 99, np.uint8), voc_palette())  # a class that is none
    label(data, "nobody,cat", "n0x,dog")
    result = run_pipeline(config_of(), tmp_path / "run")
    run = tmp_path / "run"
    found = entries(run)
    assert sorted(found) == sorted([*broken, "n7", "n1", "n3", "nobody", "n0x"])
    assert result.left_out == len(found) == 10
    assert {name for name, entry in found.items() if not entry["left_out"]} == {"n1", "n3"}
    assert found["n7"]["split"] == "val" and found["n1"]["stage"] == found["n7"]["stage"] == "evaluate"
    assert all(found[name]["stage"] == "seeds" for name in broken)
    assert str(data / "images" / "cut.jpg") in found["cut"]["error"]
    for folder in ("1_seeds/masks", "1_seeds/dense", "3_pseudo_masks/masks"):
        assert masks(run, folder) == sorted(good)
    for stage in ("1_seeds", "2_train", "3_pseudo_masks", "4_retrain"):
        assert metrics(run, stage)["left_out"] == 9, stage
    assert metrics(run, "5_evaluate")["left_out"] == 10
    assert {score.subject: score.images for score in result.scores} == {
        "seeds": 4,
        "pseudo masks": 4,
        "WeakCLIP": 1,
        "retrained network": 1,
    }
    assert "8 of 16 images are left out, 2 more only of the scores" in caplog.text
    assert "10 images were left out" in (run / "report.html").read_text()

    again = run_pipeline(config_of(), run)
    assert again.ran == () and again.left_out == 10

    Image.fromarray(noise(40)).save(data / "images" / "empty.png")
    changed = "; ".join(rf"data \(train {what}\) changed" for what in ("list", "labels", "images"))
    with pytest.raises(RunError, match=rf"seeds \({changed}\), train, .*--redo"):
        run_pipeline(config_of(), run)
    assert "empty" not in masks(run, "3_pseudo_masks/masks")
    mended = run_pipeline(config_of(), run, redo=True)
    assert mended.ran == ("seeds", "train", "pseudo_masks", "retrain", "evaluate")
    assert "empty" in masks(run, "3_pseudo_masks/masks") and "empty" not in entries(run)


def test_a_true_mask_that_is_mended_is_scored_and_trains_nothing_anew(
    data: Path, config_of: Callable[..., RunConfig], tmp_path: Path
) -> None:
    good = (data / "masks/n1.png").read_bytes()
    (data / "masks/n1.png").write_bytes(b"no mask")
    run, config = tmp_path / "run", config_of("retrain.model=null")
    before = run_pipeline(config, run)
    weights = (run / "2_train/model.safetensors").stat().st_mtime_ns
    (data / "masks/n1.png").write_bytes(good)
    after = run_pipeline(config, run, redo=True)
    assert after.ran == ("evaluate",) and after.left_out == 0 and not (run / ERRORS).exists()
    assert [score.images for score in before.scores] == [5, 5, 2, 2]
    assert [score.images for score in after.scores] == [6, 6, 2, 2]
    assert (run / "2_train/model.safetensors").stat().st_mtime_ns == weights


def test_a_split_whose_true_masks_are_all_broken_is_not_scored(
    data: Path, config_of: Callable[..., RunConfig], tmp_path: Path
) -> None:
    for number in range(6):
        (data / f"masks/n{number}.png").write_bytes(b"no mask")
    scores = run_pipeline(config_of("retrain.model=null"), tmp_path / "run").scores
    assert {(score.subject, score.images) for score in scores} == {("WeakCLIP", 2)}


def test_the_first_images_are_not_scored_where_only_later_ones_have_masks(
    data: Path, config_of: Callable[..., RunConfig]
) -> None:
    for number in range(3):
        (data / f"masks/n{number}.png").unlink()
    settings = config_of(on_error="stop").data
    assert [open_split(settings, "train", limit).has_masks for limit in (3, 4, None)] == [False, True, True]


def test_leaving_out_is_the_same_as_not_having_it(
    data: Path, config_of: Callable[..., RunConfig], tmp_path: Path
) -> None:
    """The run without the broken images, byte for byte, and with nothing broken `skip` changes no key."""
    add_broken(data)
    run_stage(config_of(), tmp_path / "skipped", "seeds")
    rows = [row for row in (data / "labels.csv").read_text().splitlines() if row[0] in "in"]
    (data / "labels.csv").write_text("\n".join(rows))
    for path in (data / "images").iterdir():
        if path.stem not in "".join(rows):
            path.unlink()
    run_stage(config_of(on_error="stop"), tmp_path / "without", "seeds")
    for part in ("masks", "dense"):
        for name in masks(tmp_path / "without", f"1_seeds/{part}"):
            file = f"1_seeds/{part}/{name}.png"
            assert (tmp_path / "without" / file).read_bytes() == (tmp_path / "skipped" / file).read_bytes()
    assert run_stage(config_of(), tmp_path / "without", "seeds").ran == ()
    assert run_stage(config_of(), tmp_path / "skipped", "seeds").ran == ()


def test_stop_is_one_line_that_counts_all_and_costs_nothing(
    data: Path, config_of: Callable[..., RunConfig], tmp_path: Path
) -> None:
    broken = add_broken(data)
    run, config = tmp_path / "run", config_of(on_error="stop")
    with pytest.raises(DataError, match=r"bomb\.png: more than .*of 13 images 5 cannot be used") as caught:
        run_pipeline(config, run)
    assert "\n" not in str(caught.value) and "data.on_error=skip" in str(caught.value)
    assert sorted(entries(run)) == broken
    made = masks(run, "1_seeds/masks")
    for name in broken:
        path = next(path for path in (data / "images").iterdir() if path.stem == name)
        path.unlink()
        Image.fromarray(noise(50)).save(data / "images" / f"{name}.png")
    result = run_stage(config, run, "seeds")
    assert result.left_out == 0 and not (run / ERRORS).exists()
    assert set(made) < set(masks(run, "1_seeds/masks"))


def test_stop_says_that_it_reads_all_the_data_before_it_does(
    data: Path, config_of: Callable[..., RunConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    """On a large data set that takes minutes."""
    said: list[str] = []

    def watched(*args: Any, **kwargs: Any) -> Screening:
        said.append(caplog.messages[-1])
        return find_bad_files(*args, **kwargs)

    add_broken(data)
    caplog.set_level("INFO", "weakclip")
    monkeypatch.setattr(run, "find_bad_files", watched)
    with pytest.raises(DataError, match="of 13 images 5 cannot be used"):
        run_pipeline(config_of(on_error="stop"), tmp_path / "run")
    assert len(said) == 1 and "bomb.png: more than" in said[0] and "all the data is read now" in said[0]


def test_a_true_mask_is_counted_apart_from_the_images(
    data: Path, config_of: Callable[..., RunConfig], tmp_path: Path
) -> None:
    add_broken(data)
    (data / "masks/n1.png").write_bytes(b"no mask")
    with pytest.raises(DataError, match=r"of 13 images 5 cannot be used, 1 more cannot be scored; .* leaves them out"):
        run_stage(config_of(on_error="stop"), tmp_path / "run", "seeds")


def test_mistakes_in_labels_stop_or_are_left_out(data: Path) -> None:
    label(data, "nobody,cat", "n0,horse", "n1,cat", "../../n2,cat", "n3,", "n4,cat,dog")
    Image.fromarray(noise(60)).save(data / "images" / "alone.png")
    Image.fromarray(noise(61)).save(data / "images" / "twin.png")
    Image.fromarray(noise(61)).save(data / "images" / "twin.jpg")
    label(data, "twin.png,cat")
    (data / "train.txt").write_text("n0\nn1\nn2\nn5\nn6\nalone\ntwin\nmissing\n")
    with pytest.raises(DataError, match="more; `weakclip data check"):
        FolderDataset(data, "train")
    dataset = FolderDataset(data, "train", lenient=True)
    assert dataset.names == ("n2", "n5")
    assert {fault.image for fault in dataset.faults} == {
        *("nobody", "n0", "n1", "../../n2", "n3", "n4", "alone", "twin", "missing", "n6"),
    }
    assert FolderDataset(data, "val", lenient=True).names == ("n7",)


def test_labels_that_are_joined_are_no_class(data: Path) -> None:
    (data / "classes.yaml").unlink()
    label(data, "both,cat dog")
    Image.fromarray(noise(62)).save(data / "images" / "both.png")
    dataset = FolderDataset(data, "train", lenient=True)
    assert dataset.class_set.names == ("background", "cat", "dog") and "both" not in dataset.names
    assert [fault.image for fault in dataset.faults] == ["both"]


def test_voc_without_a_photo_or_labels(voc_root: Path) -> None:
    (voc_root / "JPEGImages/2007_000001.jpg").unlink()
    (voc_root / "Annotations/2007_000002.xml").unlink()
    with pytest.raises(DataError, match="missing"):
        VOC12Dataset(voc_root, "train")
    dataset = VOC12Dataset(voc_root, "train", lenient=True)
    assert dataset.names == ("2007_000003",)
    assert [fault.image for fault in dataset.faults] == ["2007_000001", "2007_000002"]
    rows = ["image,labels", "2007_000003,bird", "2007_000001,dog", "2007_000002,unicorn", "2007_000002,cat"]
    (voc_root / "image_labels.csv").write_text("\n".join(rows))
    dataset = VOC12Dataset(voc_root, "train", lenient=True)
    assert dataset.names == ("2007_000003",) and len(dataset.faults) == 3
    vectors: dict[str, Any] = {f"2007_00000{number}": np.eye(20)[number] for number in range(1, 4)}
    vectors["2007_000002"] = np.zeros(3)
    (voc_root / "image_labels.csv").unlink()
    np.save(voc_root / "cls_labels.npy", vectors)  # type: ignore[arg-type]
    assert VOC12Dataset(voc_root, "train", lenient=True).names == ("2007_000003",)


def test_a_voc_annotation_that_is_broken_is_left_out(
    voc_root: Path, tiny_settings: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    (voc_root / "Annotations/2007_000002.xml").write_text("<annotation>")
    path, run = tmp_path / "voc.yaml", tmp_path / "run"
    path.write_text(yaml.safe_dump(tiny_settings(dataset="voc12", root=str(voc_root))))
    with pytest.raises(DataError, match=r"2007_000002\.xml.*1 cannot be used"):
        run_stage(load_config(path), run, "seeds")
    run_stage(load_config(path, ["data.on_error=skip"]), run, "seeds")
    assert masks(run, "1_seeds/masks") == ["2007_000001", "2007_000003"]
    assert list(entries(run)) == ["2007_000002"]


def test_coco_without_a_photo(tmp_path: Path) -> None:
    from weakclip.datasets.classes import COCO14

    images = [{"id": number, "file_name": f"{number}.jpg", "height": 8, "width": 9} for number in (1, 2)]
    notes = [{"id": n, "image_id": n, "category_id": 1, "iscrowd": 0, "segmentation": []} for n in (1, 2)]
    categories = [{"id": i, "name": n} for i, n in zip(COCO14.ids[1:], COCO14.names[1:], strict=True)]
    (tmp_path / "annotations").mkdir()
    (tmp_path / "train2014").mkdir()
    content = {"images": images, "annotations": notes, "categories": categories}
    (tmp_path / "annotations/instances_train2014.json").write_text(json.dumps(content))
    Image.fromarray(noise(1, 8, 9, 3)).save(tmp_path / "train2014/2.jpg")
    with pytest.raises(DataError, match=r"missing, first 1\.jpg"):
        COCO14Dataset(tmp_path, "train")
    dataset = COCO14Dataset(tmp_path, "train", lenient=True)
    assert dataset.names == ("2",) and [fault.image for fault in dataset.faults] == ["1"]
    assert dataset.image(0).shape == (8, 9, 3)


@pytest.mark.parametrize("method", ["imported_cams", "imported_masks"])
def test_imported_seeds_that_are_broken_leave_their_images_out(
    data: Path, config_of: Callable[..., RunConfig], tmp_path: Path, method: str
) -> None:
    folder, run = tmp_path / "seeds", tmp_path / "run"
    folder.mkdir()
    for number in range(6):
        maps = {number % 2: np.full(SIZE, 0.7, np.float32)}
        if method == "imported_masks":
            write_mask(folder / f"n{number}.png", np.full(SIZE, 1 + number % 2, np.uint8), voc_palette())
        else:
            np.save(folder / f"n{number}.npy", maps)  # type: ignore[arg-type]
    if method == "imported_masks":
        write_mask(folder / "n1.png", np.full(SIZE, 200, np.uint8), voc_palette())
        write_mask(folder / "n2.png", np.full((3, 3), 1, np.uint8), voc_palette())
        (folder / "n3.png").unlink()
        config = config_of("seeds.method=imported_masks", f"seeds.folder={folder}")
    else:
        np.save(folder / "n1.npy", {1: np.full(SIZE, np.nan, np.float32)})  # type: ignore[arg-type]
        np.save(folder / "n2.npy", {0: np.full((3, 3), 0.5, np.float32)})  # type: ignore[arg-type]
        (folder / "n3.npy").write_bytes(b"\x93NUMPY")
        config = config_of("seeds.method=imported_cams", f"seeds.folder={folder}")
    run_stage(config, run, "seeds")
    assert masks(run, "1_seeds/masks") == ["n0", "n4", "n5"]
    found = entries(run)
    assert sorted(found) == ["n1", "n2", "n3"]
    assert all(str(folder / name) in entry["error"] for name, entry in found.items())


def test_what_shows_only_later_is_left_out_then(
    data: Path, config_of: Callable[..., RunConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two files break after the check, while the seeds are made: the run plans again, and ends without them."""
    import weakclip.pipeline.seed_stage as stage

    whole, broken = stage.seed_masks, ["n2", "n4"]

    def breaking(sample: Any, *arguments: Any, **named: Any) -> Any:
        if sample.name == "n1":
            for name in broken:
                (data / "images" / f"{name}.png").write_bytes(b"")
        return whole(sample, *arguments, **named)

    monkeypatch.setattr(stage, "seed_masks", breaking)
    run = tmp_path / "run"
    result = run_pipeline(config_of("retrain.model=null"), run)
    assert sorted(entries(run)) == broken and result.left_out == 2
    assert masks(run, "3_pseudo_masks/masks") == masks(run, "1_seeds/masks") == ["n0", "n1", "n3", "n5"]
    assert result.ran == ("seeds", "train", "pseudo_masks", "evaluate")


def test_an_image_that_breaks_while_data_workers_read_is_left_out(
    data: Path, config_of: Callable[..., RunConfig], tmp_path: Path
) -> None:
    """The key of the seeds knows the image as it was; the stage that finds it broken is the second."""
    run, config = tmp_path / "run", config_of("train.workers=1", "retrain.model=null")
    run_stage(config, run, "seeds")
    path = data / "images" / "n3.png"
    stat, content = path.stat(), path.read_bytes()
    path.write_bytes(content[:100] + bytes(len(content) - 100))
    import os

    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # the same size and time: no check sees it
    result = run_pipeline(config, run)
    assert list(entries(run)) == ["n3"] and result.left_out == 1
    assert masks(run, "3_pseudo_masks/masks") == ["n0", "n1", "n2", "n4", "n5"]


def test_all_images_broken_is_an_error_in_either_way(
    data: Path, config_of: Callable[..., RunConfig], tmp_path: Path
) -> None:
    for path in (data / "images").iterdir():
        path.write_bytes(b"")
    with pytest.raises(DataError, match=r"all 6 images of split 'train' are broken; the first: .*an empty file"):
        run_stage(config_of(), tmp_path / "run", "seeds")
    assert not (tmp_path / "run").exists() or not masks(tmp_path / "run", "1_seeds/masks")


def test_the_check_reads_again_only_what_changed(
    data: Path, config_of: Callable[..., RunConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from weakclip.datasets import base

    broken = add_broken(data)
    config, run = config_of(), tmp_path / "run"
    run_stage(config, run, "seeds")
    read: list[str] = []
    whole = base.read_rgb

    def counted(path: Path, **options: Any) -> np.ndarray:
        read.append(path.stem)
        return whole(path, **options)

    monkeypatch.setattr(base, "read_rgb", counted)
    assert len(find_bad_files(config, run).broken) == len(broken)
    assert sorted(read) == [name for name in broken if name != "link"]
    (run / CHECKED).write_text("[[[")
    find_bad_files(config, run)
    assert len(read) > len(broken) + 6


def test_names_are_gone_through_once(data: Path, config_of: Callable[..., RunConfig]) -> None:
    """Once an image took half an hour and more for the 82,783 images of COCO."""

    class Names(tuple[str, ...]):
        walks = 0

        def __iter__(self) -> Iterator[str]:
            Names.walks += 1
            return super().__iter__()

    dataset = FolderDataset(data, "train")
    assert list(_check(config_of(), "train", dataset, Names(dataset.names))) == []
    assert Names.walks == 1


def test_a_damaged_list_costs_nothing(data: Path, config_of: Callable[..., RunConfig], tmp_path: Path) -> None:
    broken = add_broken(data)
    config, run = config_of(), tmp_path / "run"
    run_stage(config, run, "seeds")
    for text in ("", "no JSON\n", '{"image": 5}\n[]\n', "[" * 10**5):
        (run / ERRORS).write_text(text)
        assert read_errors(run) == []
        assert len(RunContext(config, run).train) == 6
        assert run_stage(config, run, "seeds").ran == ()
        assert sorted(entries(run)) == broken
    (run / CHECKED).unlink()
    run_stage(config, run, "seeds")
    assert sorted(entries(run)) == broken


def test_studies_reviews_and_keys_see_the_same_images(
    data: Path, config_of: Callable[..., RunConfig], tmp_path: Path
) -> None:
    from weakclip.review.folder import ReviewFolder

    broken = add_broken(data)
    config, run = config_of(), tmp_path / "run"
    assert len(RunContext(config, tmp_path / "study").train) == 6
    assert not (tmp_path / "study").exists()
    run_stage(config, run, "seeds")
    assert ReviewFolder(run).dataset.names == RunContext(config, run).train.names
    assert not set(broken) & set(ReviewFolder(run).dataset.names)


def test_fingerprints_are_those_of_the_data_set_where_nothing_is_left_out(
    data: Path, config_of: Callable[..., RunConfig], tmp_path: Path
) -> None:
    for on_error in ("stop", "skip"):
        config = config_of(on_error=on_error)
        context, plain = RunContext(config, tmp_path / on_error), open_split(config.data, "train", None)
        assert context.fingerprint("train images") == image_fingerprint(plain)
        assert context.fingerprint("train masks") == mask_fingerprint(plain)


def test_the_upper_bound_leaves_out_masks_that_cannot_be_read(
    data: Path, config_of: Callable[..., RunConfig], tmp_path: Path
) -> None:
    (data / "masks/n1.png").write_bytes(b"no mask")
    run_stage(config_of("data.val_split=null"), tmp_path / "run", "retrain_truth")
    assert masks(tmp_path / "run", "4_retrain_truth/true_masks") == ["n0", "n2", "n3", "n4", "n5"]


def test_the_command_says_how_many_and_where(
    data: Path, config_of: Callable[..., RunConfig], tmp_path: Path, call: Callable[..., int], capsys: Any
) -> None:
    add_broken(data)
    config_of()
    run = tmp_path / "run"
    assert call("seeds", tmp_path / "tiny.yaml", "--out", run) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("weakclip: ") and "5 cannot be used" in said and str(run / ERRORS) in said
    assert call("seeds", tmp_path / "tiny.yaml", "--out", run, "--set", "data.on_error=skip") == 0
    assert f"left out: 5; {run / ERRORS} lists them" in capsys.readouterr().out


def test_only_stop_and_skip_are_known(config_of: Callable[..., RunConfig]) -> None:
    with pytest.raises(WeakCLIPError, match="on_error"):
        config_of(on_error="ignore")
