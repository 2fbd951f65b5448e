"""Regions that another program drew: their files, and how a mask takes their edges."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_tools

from weakclip.config import load_config, parse_config
from weakclip.datasets.base import ImageLabelDataset, Sample
from weakclip.datasets.classes import ClassSet
from weakclip.datasets.images import read_mask
from weakclip.errors import ConfigError, DataError, RunError
from weakclip.inference import proposal_files
from weakclip.inference.mask_writing import GivenFiles, write_pseudo_masks
from weakclip.inference.proposal_files import ProposalFiles
from weakclip.inference.proposals import ProposalSettings, snap
from weakclip.inference.pseudo_masks import PseudoMaskSettings, refine_mask
from weakclip.inference.windows import InferenceSettings
from weakclip.pipeline import run_pipeline, run_stage

SIZE = (6, 8)
LEFT, DOT = np.zeros(SIZE, dtype=bool), np.zeros(SIZE, dtype=bool)
LEFT[:, :4], DOT[1:3, 1:3] = True, True


def rows(*foreground: tuple[np.ndarray, float]) -> np.ndarray:
    """Two classes: the second has 0.1, and in the given pixels another probability."""
    second = np.full(SIZE, 0.1)
    for pixels, value in foreground:
        second[pixels] = value
    return np.stack([1 - second, second])


def test_a_region_takes_the_class_that_most_of_it_has():
    torn = LEFT & ~DOT
    found = snap(rows((torn, 0.9)), [LEFT], 0.7)  # 20 of 24 pixels at 0.9, four at 0.1: 0.77
    assert (found == LEFT).all()


@pytest.mark.parametrize("regions", [[], [np.ones(SIZE, dtype=bool)], [np.zeros(SIZE, dtype=bool)]])
def test_without_a_region_that_agrees_nothing_changes(regions: list[np.ndarray]):
    """None; one whose mean is 0.5 for either class; an empty one."""
    probs = rows((LEFT, 0.9))
    assert (snap(probs, regions, 0.7) == probs.argmax(axis=0)).all()


def test_the_smaller_region_comes_first_in_any_order():
    probs = rows((LEFT, 0.95), (DOT, 0.1))
    for regions in ([LEFT, DOT], [DOT, LEFT]):
        assert (snap(probs, regions, 0.7) == (LEFT & ~DOT)).all()


def test_classes_keep_their_indices_and_the_confidence_is_that_of_the_class():
    probs = np.zeros((4, *SIZE), dtype=np.float32)
    probs[0], probs[3] = 1 - (LEFT & ~DOT) * 0.9, (LEFT & ~DOT) * 0.9
    sample = Sample("a", np.zeros((*SIZE, 3), dtype=np.uint8), (1, 3))
    settings = PseudoMaskSettings(crf=None, proposals=ProposalSettings(folder="unused", agreement=0.7))
    refined = refine_mask(probs, sample, settings, [LEFT])
    assert (refined.mask == LEFT * 3).all()
    assert refined.confidence[DOT].max() < 0.1 and refined.confidence[LEFT & ~DOT].min() > 0.8
    plain = refine_mask(probs, sample, dataclasses.replace(settings, proposals=None), [LEFT])
    assert (plain.mask == (LEFT & ~DOT) * 3).all()


def compressed(pixels: np.ndarray) -> dict[str, Any]:
    code = coco_tools.encode(np.asfortranarray(pixels))
    return {"size": list(code["size"]), "counts": code["counts"].decode()}


def sam(folder: Path) -> Path:
    """Compressed codes, as SAM's `output_mode="coco_rle"` gives them."""
    (folder / "a.json").write_text(json.dumps([{"segmentation": compressed(each)} for each in (LEFT, DOT)]))
    return folder


def sa_1b(folder: Path) -> Path:
    (folder / "a.json").write_text(
        json.dumps({"image": {}, "annotations": [{"segmentation": compressed(LEFT)}, {"segmentation": [
            [1, 1, 3, 1, 3, 3, 1, 3]]}]})
    )  # fmt: skip
    return folder


def numbered(folder: Path, mode: str = "L") -> Path:
    numbers = np.where(DOT, 2, np.where(LEFT, 1, 0))
    if mode == "RGB":
        pixels = np.stack([numbers * 0, numbers, numbers * 0], axis=-1).astype(np.uint8)
        Image.fromarray(pixels).save(folder / "a.png")
    else:
        Image.fromarray(
            (numbers * (200 if mode == "I;16" else 1)).astype("uint16" if mode == "I;16" else "uint8")
        ).save(folder / "a.png")
    return folder


def folder_of_pngs(folder: Path) -> Path:
    (folder / "a").mkdir()
    for index, pixels in enumerate((LEFT, DOT)):
        Image.fromarray((pixels * 255).astype(np.uint8)).save(folder / "a" / f"{index}.png")
    return folder


def results(folder: Path, key: object = "a") -> Path:
    path = folder / "results.json"
    entries = [{"image_id": key, "segmentation": compressed(each), "score": 0.5} for each in (LEFT, DOT)]
    path.write_text(json.dumps([*entries, {"image_id": "other", "segmentation": compressed(DOT)}]))
    return path


def dense(folder: Path) -> Path:
    """Rows of true and false: SAM's `output_mode="binary_mask"`, its default, as JSON."""
    (folder / "a.json").write_text(json.dumps([{"segmentation": each.tolist()} for each in (LEFT, DOT)]))
    return folder


@pytest.mark.parametrize("write", [sam, sa_1b, dense, folder_of_pngs, results])
def test_every_kind_of_file_gives_its_regions(write: Any, tmp_path: Path):
    found = ProposalFiles(write(tmp_path)).regions("a", SIZE)
    assert len(found) == 2
    assert all((each == expected).all() for each, expected in zip(found, (LEFT, DOT), strict=True))


@pytest.mark.parametrize("mode", ["L", "I;16", "RGB"])
def test_numbers_in_a_png_are_regions_that_do_not_overlap(mode: str, tmp_path: Path):
    found = ProposalFiles(numbered(tmp_path, mode)).regions("a", SIZE)
    assert len(found) == 2
    assert (found[0] == (LEFT & ~DOT)).all() and (found[1] == DOT).all()


@pytest.mark.parametrize("key", [9, 9.0, "9", "000000000009.jpg"])
def test_results_name_an_image_by_its_number(key: object, tmp_path: Path):
    files = ProposalFiles(results(tmp_path, key))
    assert len(files.regions("COCO_train2014_000000000009", SIZE)) == 2
    for other in ("COCO_train2014_000000000019", "2007_000009", "2008_000009"):
        assert files.regions(other, SIZE) == []


def test_proposals_of_no_image_are_an_error(tmp_path: Path):
    files = ProposalFiles(sam(tmp_path))
    assert files.missing(["b", "a"]) == ["b"]
    with pytest.raises(DataError, match=r"proposals of none of the 2 images; expected b\.json, .*found \['a\.json'\]"):
        files.missing(["b", "c"])
    with pytest.raises(DataError, match=r"none of the 1 images"):
        ProposalFiles(results(tmp_path)).missing(["b"])


def test_proposals_are_of_the_size_of_the_image_s_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A run that reads images smaller resizes the regions, too. A file of results is read once."""
    times, read_list = [], proposal_files.stream_list
    monkeypatch.setattr(proposal_files, "stream_list", lambda file: times.append(file.name) or read_list(file))

    class Reduced(ImageLabelDataset):
        def __init__(self) -> None:
            super().__init__(ClassSet.from_foreground(["red"]), "train", ["a"])

        def image(self, index: int) -> np.ndarray:
            return np.zeros((3, 4, 3), dtype=np.uint8)

        def labels(self, index: int) -> tuple[int, ...]:
            return (1,)

        def size(self, index: int) -> tuple[int, int]:
            return 3, 4

        def stored_size(self, index: int) -> tuple[int, int]:
            return SIZE

    def network(images: torch.Tensor) -> torch.Tensor:
        logits = torch.zeros(len(images), 2, 3, 4)
        logits[:, 1, :2, :2], logits[:, 1, 2, :2] = 5.0, -0.1
        return logits

    one_pass = InferenceSettings(scales=(1.0,), flip=False, crop=4, stride=4, fit_crop=False)
    how = PseudoMaskSettings(inference=one_pass, crf=None)
    proposals = ProposalSettings(folder=str(results(tmp_path)), agreement=0.7)
    write_pseudo_masks(network, Reduced(), tmp_path / "out", dataclasses.replace(how, proposals=proposals))
    assert times == [proposals.folder]
    assert (read_mask(tmp_path / "out/masks/a.png") == np.array([[1, 1, 0, 0]] * 3)).all()


def test_images_without_proposals_are_counted_and_have_no_regions(tmp_path: Path):
    assert ProposalFiles(sam(tmp_path)).regions("b", SIZE) == []
    settings = PseudoMaskSettings(proposals=ProposalSettings(folder=str(tmp_path)))
    assert GivenFiles(settings).lacking(["b", "a", "c"]) == [
        f"{tmp_path}: no proposals of 2 of 3 images (b, c); their masks are made without"
    ]
    assert GivenFiles(settings).lacking(["a"]) == GivenFiles(PseudoMaskSettings()).lacking(["b"]) == []


BROKEN = {
    "no list": ("{}", r"a\.json: an entry lacks 'annotations'; expected a list of"),
    "cut off": ('[{"segmentation"', r"a\.json: .*expected a list of"),
    "another size": (
        json.dumps([{"segmentation": compressed(np.ones((2, 2), dtype=bool))}]),
        r"a\.json: region 1: .*height and width",
    ),
    "a box": ('[{"segmentation": [1, 2, 3, 4]}]', r"a\.json: region 1: .*expected polygons"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_one_line_that_names_it(case: str, tmp_path: Path):
    text, said = BROKEN[case]
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(DataError, match=said) as caught:
        ProposalFiles(tmp_path).regions("a", SIZE)
    assert "\n" not in str(caught.value)


def test_pngs_of_another_size_missing_folders_and_results_that_are_none_are_named(tmp_path: Path):
    with pytest.raises(DataError, match=r"a\.png: proposals of \(6, 8\); expected the size of the image, \(8, 6\)"):
        ProposalFiles(numbered(tmp_path)).regions("a", SIZE[::-1])
    with pytest.raises(DataError, match=r"gone: no such folder or file; expected proposals"):
        ProposalFiles(tmp_path / "gone")
    (tmp_path / "none.json").write_text('[{"id": 1}]')
    with pytest.raises(DataError, match=r"none\.json: an entry lacks 'image_id'"):
        ProposalFiles(tmp_path / "none.json")
    with pytest.raises(ConfigError, match=r"an agreement of 0\.5 to 1"):
        ProposalSettings(folder="x", agreement=0.4)


def test_a_run_takes_the_edges_of_its_proposals(tiny_settings: Any, tmp_path: Path):
    """One region over all of each image whose class nobody doubts; without it, and with other files, a new result."""
    given = tmp_path / "proposals"
    given.mkdir()
    Image.new("L", (64, 64)).save(given / "train_000000.png")  # no region yet
    settings = tiny_settings()
    settings["pseudo_masks"] |= {"proposals": {"folder": str(given), "agreement": 0.5}, "restrict_to_labels": True}
    config_file = tmp_path / "run.json"
    config_file.write_text(json.dumps(settings))
    config, out = load_config(config_file), tmp_path / "out"
    gone = {**settings, "pseudo_masks": {**settings["pseudo_masks"], "proposals": {"folder": str(tmp_path / "gone")}}}
    with pytest.raises(DataError, match=r"gone: no such folder or file; expected proposals"):  # before any stage
        run_stage(parse_config(gone, origin="tiny"), tmp_path / "early", "pseudo_masks")
    config_file.with_name("others").mkdir()
    others = json.loads(json.dumps(settings))
    others["pseudo_masks"]["proposals"]["folder"] = str(tmp_path / "others")
    with pytest.raises(DataError, match="proposals of none of the 6 images"):  # before any stage, too
        run_pipeline(parse_config(others, origin="tiny"), tmp_path / "early")
    assert not (tmp_path / "early/1_seeds").exists()
    with pytest.raises(RunError):  # the folder is there, the earlier stages are not
        run_stage(config, out, "pseudo_masks")
    run_stage(config, out, "seeds")
    run_stage(config, out, "train")
    run_stage(config, out, "pseudo_masks")
    masks = out / "3_pseudo_masks" / "masks"
    before = {path.stem: read_mask(path) for path in masks.glob("*.png")}
    assert any(len(np.unique(mask)) > 1 for mask in before.values())
    for name, mask in before.items():
        Image.fromarray(np.ones(mask.shape, dtype=np.uint8)).save(given / f"{name}.png")
    with pytest.raises(RunError, match="proposals"):  # other files: the finished masks are kept until --redo
        run_stage(config, out, "pseudo_masks")
    run_stage(config, out, "pseudo_masks", redo=True)
    after = {path.stem: read_mask(path) for path in masks.glob("*.png")}
    assert any(len(np.unique(mask)) == 1 and len(np.unique(before[name])) > 1 for name, mask in after.items())
