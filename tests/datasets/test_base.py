"""Laws that every data set keeps."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from weakclip.datasets.base import ImageLabelDataset, check_mask
from weakclip.datasets.classes import ClassSet
from weakclip.errors import DataError


class Squares(ImageLabelDataset):
    """Grey images whose value is their position; `decoded` counts what was read."""

    decoded = 0

    def image(self, index: int) -> np.ndarray:
        self.decoded += 1
        return np.full((4, 4, 3), index % 256, dtype=np.uint8)

    def labels(self, index: int) -> tuple[int, ...]:
        return (1,)

    def size(self, index: int) -> tuple[int, int]:
        return 4, 4


CLASSES = ClassSet.from_foreground(["square"])


def test_an_item_is_the_name_the_image_and_the_labels() -> None:
    dataset = Squares(CLASSES, "train", ["a", "sub/b"])
    assert [sample.name for sample in dataset] == ["a", "sub/b"]
    assert dataset[1].image[0, 0, 0] == 1
    assert dataset[1].labels == (1,)
    assert [dataset.index_of(name) for name in dataset.names] == [0, 1]
    assert dataset.mask(0) is None
    assert not dataset.has_masks
    with pytest.raises(DataError, match="no image 'c'"):
        dataset.index_of("c")


def test_it_is_an_ordinary_torch_data_set() -> None:
    loader = torch.utils.data.DataLoader(
        Squares(CLASSES, "train", [f"{i}" for i in range(5)]), batch_size=2, collate_fn=list
    )
    assert [len(batch) for batch in loader] == [2, 2, 1]


def test_nothing_is_decoded_ahead_at_the_size_of_coco() -> None:
    dataset = Squares(CLASSES, "train", [f"COCO_train2014_{i:012d}" for i in range(82_783)])
    assert len(dataset) == 82_783
    assert dataset.index_of("COCO_train2014_000000082782") == 82_782
    assert dataset.labels(82_782) == (1,)
    assert dataset.decoded == 0


def test_empty_and_repeated_names_are_refused() -> None:
    with pytest.raises(DataError, match="split 'train' has no images"):
        Squares(CLASSES, "train", [])
    with pytest.raises(DataError, match="'a' more than once"):
        Squares(CLASSES, "train", ["a", "b", "a"])


@pytest.mark.parametrize("name", ["", ".", "/a", "../a", "a/../../b", "a//b", "a/", "a\\b", "a\nb", "a\0b"])
def test_a_name_that_is_no_relative_file_name_is_refused(name: str) -> None:
    with pytest.raises(DataError, match="cannot be used as a relative file name"):
        Squares(CLASSES, "train", [name])


def test_plain_unicode_and_spaces_are_names() -> None:
    assert len(Squares(CLASSES, "train", ["übung 1/图像", "Screenshot 3.45\u202fPM", "..a"])) == 3


def test_a_mask_is_class_indices_and_255_of_the_image_size() -> None:
    good = np.array([[0, 1], [255, 1]], dtype=np.uint8)
    check_mask(good, (2, 2), 2, "m.png")
    with pytest.raises(DataError, match=r"m\.png: mask is 2x2 pixels, its image 3x2"):
        check_mask(good, (2, 3), 2, "m.png")
    with pytest.raises(DataError, match=r"m\.png: mask holds 2; expected class indices 0 to 1, or 255"):
        check_mask(good + np.uint8(1), (2, 2), 2, "m.png")
