"""The benchmark on real photographs: it needs no mask before it scores, goes on where it was, and scores are right."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from by_path import load_script

from weakclip.datasets import VOC12Dataset
from weakclip.datasets.classes import VOC12
from weakclip.datasets.images import write_jpeg, write_mask, write_png

NAMES = {"train_aug": ("a", "b", "c"), "val": ("d", "e")}


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    return load_script("benchmarks/real_photos.py")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder in VOC's layout: cats on the left half, and nothing else."""
    root, rng = tmp_path / "VOC2012", np.random.default_rng(0)
    for split, names in NAMES.items():
        path = root / "ImageSets" / "Segmentation" / f"{split}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(names) + "\n")
        for name in names:
            write_jpeg(root / "JPEGImages" / f"{name}.jpg", rng.integers(0, 256, (48, 64, 3), dtype=np.uint8))
            mask = np.zeros((48, 64), dtype=np.uint8)
            mask[:, :32] = VOC12.index("cat")
            write_mask(root / "SegmentationClassAug" / f"{name}.png", mask, VOC12.palette)
    rows = [f"{name},cat" for names in NAMES.values() for name in names]
    (root / "image_labels.csv").write_text("\n".join(["image,labels", *rows]) + "\n")
    return root


@pytest.fixture
def arguments(root: Path, tmp_path: Path, benchmark: ModuleType) -> list[str]:
    """A MobileNetV2 of random weights, and random embeddings of the class names."""
    from stand_in import MOBILENET_V2, Trunk

    stored = {}
    for index, convolution in enumerate([*Trunk(MOBILENET_V2).convolutions(), torch.nn.Conv2d(1280, 1001, 1)]):
        depthwise = convolution.groups > 1
        weight = convolution.weight.detach()
        name = f"{index:02}_{'DEPTHWISE_CONV' if depthwise else 'CONV'}_2D"
        stored[f"{name}_w"] = (weight.permute(1, 2, 3, 0) if depthwise else weight).numpy()
        stored[f"{name}_b"] = convolution.bias.detach().numpy()
    np.savez(tmp_path / "trunk.npz", **stored)
    np.save(tmp_path / "texts.npy", np.random.default_rng(0).normal(size=(20, 16)).astype(np.float16))
    given = {"root": root, "weights": tmp_path / "trunk.npz", "texts": tmp_path / "texts.npy", "out": tmp_path / "out"}
    for name in (name for names in NAMES.values() for name in names):  # the left half stands out: cats are there
        map_ = np.zeros((48, 64), dtype=np.uint8)
        map_[:, :32] = 255
        write_png(tmp_path / "maps" / f"{name}.png", map_)
    given["saliency"] = tmp_path / "maps"
    settings = ("augment.crop_size=64", "pseudo_masks.inference.crop=64", "pseudo_masks.inference.stride=64")
    settings += ("pseudo_masks.seed_share=0.1",)
    small = ["--limit-steps", "1", *(part for setting in settings for part in ("--set", setting))]
    return [*(part for name, value in given.items() for part in (f"--{name}", str(value))), *small]


def test_it_goes_through_and_scores_what_it_wrote(
    benchmark: ModuleType, arguments: list[str], root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    masks = root / "SegmentationClassAug"
    masks.rename(tmp_path / "hidden")
    with pytest.raises(StopIteration):  # everything is made without masks; then they are wanted
        benchmark.main(arguments)
    (tmp_path / "hidden").rename(masks)
    run = tmp_path / "out" / "seed_0"
    made = {path: path.stat().st_mtime_ns for path in run.rglob("*.png")}
    benchmark.main(arguments)
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*.png")} == made
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["images"] == {"train_aug": 3, "val": 2}
    assert len(results["rows"]) == len((tmp_path / "out" / "results.md").read_text().splitlines()) - 2
    assert [row["name"] for row in results["rows"][-2:]] == ["pseudo masks, saliency"] * 2
    assert all(gain > 0 for gain in results["gain of saliency"]["val"])
    for row in results["rows"]:
        low, high = row["runs"][0]["seven_interval"]
        assert 0 <= low <= row["runs"][0]["seven"] + 1e-9 and high <= 1
    assert (tmp_path / "out" / "sheet_val.jpg").stat().st_size > 1000


def test_perfect_masks_score_100_and_swapped_ones_0(benchmark: ModuleType, root: Path, tmp_path: Path) -> None:
    from photo_scores import Subject, Truth, score

    truth = Truth([root], VOC12Dataset(root, "val"))
    subject = Subject(name="x", split="val", folder="SegmentationClassAug")
    right = score(subject, [root], truth)["runs"][0]
    assert right["seven"] == right["all"] == 1 and right["seven_interval"] == [1, 1]
    assert right["classes"]["cat"] == 1 and right["classes"]["dog"] is None
    for name in NAMES["val"]:
        mask = np.full((48, 64), VOC12.index("cat"), dtype=np.uint8)
        mask[:, :32] = 0
        write_mask(tmp_path / "wrong" / f"{name}.png", mask, VOC12.palette)
    wrong = score(Subject(name="x", split="val", folder="wrong"), [tmp_path], truth)["runs"][0]
    assert wrong["seven"] == wrong["all"] == 0


def test_another_list_takes_the_place_of_val(benchmark: ModuleType, root: Path, tmp_path: Path) -> None:
    (tmp_path / "ids.txt").write_text("e\n")
    data = benchmark.gather([root], tmp_path / "data", None, tmp_path / "ids.txt")
    assert VOC12Dataset(data, "val").names == ("e",)
    assert not VOC12Dataset(data, "val").has_masks
    assert VOC12Dataset(data, "train_aug").names == NAMES["train_aug"]


def test_the_projection_is_fitted_once_for_the_same_photos(
    benchmark: ModuleType, root: Path, arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import stand_in

    texts = torch.randn(20, 16)
    encoder = stand_in.StandIn(stand_in.load_trunk(tmp_path / "trunk.npz"), VOC12.names[1:], texts, source="random")
    train = VOC12Dataset(root, "train_aug")
    stand_in.fit_projection(encoder, [train], tmp_path / "features", steps=2)
    first = encoder.projection.clone()
    assert first.abs().sum() > 0
    monkeypatch.setattr(stand_in, "_fitted", lambda *_: pytest.fail("fitted again"))
    again = stand_in.StandIn(stand_in.load_trunk(tmp_path / "trunk.npz"), VOC12.names[1:], texts, source="random")
    stand_in.fit_projection(again, [train], tmp_path / "features", steps=2)
    assert torch.equal(again.projection, first)
