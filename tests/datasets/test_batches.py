"""Every data set is an ordinary torch data set: indices, pickle, `DataLoader` with workers."""

from __future__ import annotations

import functools
import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, Subset

from weakclip.datasets import (
    COCO14Dataset,
    FolderDataset,
    ImageLabelDataset,
    Sample,
    ScenesDataset,
    VOC12Dataset,
    collate_samples,
)
from weakclip.datasets.classes import COCO14


def write_coco(root: Path) -> None:
    """Three photos; the first and the last show the class of id 1, the second that of id 90."""
    categories = [{"id": i, "name": n} for i, n in zip(COCO14.ids[1:], COCO14.names[1:], strict=True)]
    images, marks = [], []
    (root / "train2014").mkdir(parents=True)
    for number, category in ((1, 1), (2, 90), (3, 1)):
        name = f"COCO_train2014_{number:012d}.jpg"
        Image.new("RGB", (10 + number, 8), (50 * number,) * 3).save(root / "train2014" / name)
        images.append({"id": number, "file_name": name, "height": 8, "width": 10 + number})
        marks.append(
            {"id": number, "image_id": number, "category_id": category, "iscrowd": 0}
            | {"segmentation": [[1, 1, 5, 1, 5, 5, 1, 5]]}
        )
    (root / "annotations").mkdir()
    content = {"images": images, "annotations": marks, "categories": categories}
    (root / "annotations/instances_train2014.json").write_text(json.dumps(content))


@pytest.fixture(params=["scenes", "folder", "voc12", "coco14"])
def dataset(request: pytest.FixtureRequest, tmp_path: Path) -> ImageLabelDataset:
    """Three images of each data set."""
    if request.param == "voc12":
        return VOC12Dataset(request.getfixturevalue("voc_root"), "train")
    if request.param == "coco14":
        write_coco(tmp_path / "coco")
        return COCO14Dataset(tmp_path / "coco", "train")
    if request.param == "folder":
        for number in range(3):
            path = tmp_path / "mine" / ("cat" if number < 2 else "dog") / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (5 + number, 4), (40 * number, 0, 0)).save(path)
        return FolderDataset(tmp_path / "mine")
    return ScenesDataset("train", count=3, size=64)


def equal(one: Sample, other: Sample) -> bool:
    return (one.name, one.labels) == (other.name, other.labels) and np.array_equal(one.image, other.image)


def test_it_is_a_torch_data_set_of_documented_samples(dataset: ImageLabelDataset) -> None:
    assert isinstance(dataset, Dataset)
    assert len(dataset) == 3
    for sample in dataset:
        assert isinstance(sample, Sample)
        assert sample.image.ndim == 3 and sample.image.shape[2] == 3 and sample.image.dtype == np.uint8
        assert sample.labels and list(sample.labels) == sorted(set(sample.labels)) and sample.labels[0] > 0


def test_indices_are_those_of_a_list(dataset: ImageLabelDataset) -> None:
    assert equal(dataset[-1], dataset[2])
    assert equal(dataset[-3], dataset[0])
    assert equal(dataset[np.int64(1)], dataset[1])
    assert equal(dataset[torch.tensor(1)], dataset[1])
    for beyond in (3, -4):
        with pytest.raises(IndexError, match=f"split '{dataset.split}' has 3 images; there is none at {beyond}"):
            dataset[beyond]
    with pytest.raises(TypeError):
        dataset["0"]  # type: ignore[index]
    assert equal(Subset(dataset, [2, 0])[0], dataset[2])


def test_pickling_keeps_it(dataset: ImageLabelDataset) -> None:
    copy = pickle.loads(pickle.dumps(dataset))
    assert all(equal(one, other) for one, other in zip(copy, dataset, strict=True))
    masks = [(copy.mask(index), dataset.mask(index)) for index in range(3)]
    assert all(np.array_equal(one, other) for one, other in masks if other is not None)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("context", ["fork", pytest.param("spawn", marks=pytest.mark.whole)])
def test_workers_give_the_same_batches(dataset: ImageLabelDataset, context: str) -> None:
    collate = functools.partial(collate_samples, num_classes=dataset.class_set.num_classes)

    def load(workers: int) -> list[dict[str, object]]:
        started = {"multiprocessing_context": context} if workers else {}
        return list(DataLoader(dataset, 2, num_workers=workers, collate_fn=collate, **started))

    for here, there in zip(load(0), load(1), strict=True):
        assert here["name"] == there["name"]
        assert all(torch.equal(one, other) for one, other in zip(here["image"], there["image"], strict=True))
        assert torch.equal(here["labels"], there["labels"])


@pytest.mark.parametrize("num_classes", [2, 5, 21, 81])
def test_labels_become_zeros_and_ones(num_classes: int, make_sample: Callable[..., Sample]) -> None:
    shown = [(1,), (num_classes - 1,), tuple(range(1, num_classes)), ()]
    batch = collate_samples([make_sample(labels) for labels in shown], num_classes=num_classes)
    found = [tuple(row.nonzero()[:, 0].tolist()) for row in batch["labels"]]
    assert found == shown
    assert batch["labels"].dtype == torch.float32


def test_images_of_one_size_are_stacked_and_others_stay_a_list(make_sample: Callable[..., Sample]) -> None:
    same = collate_samples([make_sample((1,)), make_sample((1,))], num_classes=2)
    assert same["image"].shape == (2, 3, 5, 7) and same["image"].dtype == torch.uint8
    mixed = collate_samples([make_sample((1,)), make_sample((1,), size=(9, 3))], num_classes=2)
    assert [tuple(image.shape) for image in mixed["image"]] == [(3, 5, 7), (3, 9, 3)]
    first = make_sample((1,))
    assert np.array_equal(collate_samples([first], num_classes=2)["image"][0].permute(1, 2, 0).numpy(), first.image)


@pytest.fixture
def make_sample() -> Callable[..., Sample]:
    """Builder of samples of noise: `make_sample(labels, size=(5, 7))`."""

    def make(labels: tuple[int, ...], size: tuple[int, int] = (5, 7)) -> Sample:
        image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
        return Sample("noise", image, labels)

    return make
