"""Laws of class sets, and facts of the two published ones."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from weakclip.datasets.classes import COCO14, VOC12, ClassSet, voc_palette
from weakclip.errors import DataError

PETS = ClassSet.from_foreground(["cat", "dog", "traffic light"])


def test_the_background_is_class_zero_and_the_rest_follow() -> None:
    assert PETS.names == ("background", "cat", "dog", "traffic light")
    assert PETS.num_classes == 4
    assert [PETS.index(name) for name in PETS.names] == [0, 1, 2, 3]
    assert PETS.prompts == PETS.names
    assert PETS.ids == (0, 1, 2, 3)


def test_labels_are_ascending_unique_foreground_indices() -> None:
    assert PETS.foreground_indices(["dog", "cat", "dog"]) == (1, 2)
    assert PETS.foreground_indices([]) == ()
    with pytest.raises(DataError, match="'background' is not an image-level label"):
        PETS.foreground_indices(["cat", "background"])


def test_an_unknown_class_brings_a_suggestion_or_the_list() -> None:
    with pytest.raises(DataError, match="unknown class 'trafic light'; did you mean 'traffic light'"):
        PETS.index("trafic light")
    with pytest.raises(DataError, match="known classes: cat, dog, traffic light"):
        PETS.index("zebra")


def test_a_class_set_cannot_be_changed_and_equals_its_copy() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        PETS.names = ()
    assert dataclasses.replace(PETS) == PETS
    assert hash(dataclasses.replace(PETS)) == hash(PETS)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"names": ("background",)}, "2 to 255 classes with the background; found 1"),
        ({"names": tuple(map(str, range(256)))}, "found 256"),
        ({"names": ("background", "cat", "cat")}, "found cat more than once"),
        ({"names": ("background", " ")}, "empty class name"),
        ({"names": ("background", "cat"), "prompts": ("a",)}, "prompts has 1 entries for 2 classes"),
        ({"names": ("background", "cat"), "ids": (3, 3)}, "ids must differ"),
        ({"names": ("background", "cat"), "colors": ((0, 0, 0), (0, 0, 256))}, "'cat': a colour is three numbers"),
        ({"names": ("background", "cat"), "colors": ((0, 0, 0), (0, 0))}, "'cat': a colour is three numbers"),
    ],
)
def test_impossible_class_sets_are_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        ClassSet(**fields)


def test_the_palette_is_the_devkits() -> None:
    """Spot values of the table in the VOC devkit's documentation."""
    palette = voc_palette()
    assert palette.shape == (256, 3)
    assert palette.dtype == np.uint8
    known = {0: (0, 0, 0), 1: (128, 0, 0), 8: (64, 0, 0), 15: (192, 128, 128), 20: (0, 64, 128), 255: (224, 224, 192)}
    assert {k: tuple(palette[k].tolist()) for k in known} == known
    assert len({tuple(color) for color in palette.tolist()}) == 256
    assert np.array_equal(VOC12.palette, palette)


def test_own_colours_go_first_in_the_palette() -> None:
    own = ClassSet(names=("background", "cat"), colors=((9, 9, 9), (1, 2, 3)))
    assert own.palette[:2].tolist() == [[9, 9, 9], [1, 2, 3]]
    assert np.array_equal(own.palette[2:], voc_palette()[2:])


def test_voc_has_the_devkits_classes_in_its_order() -> None:
    assert VOC12.num_classes == 21
    assert list(VOC12.names[1:]) == sorted(VOC12.names[1:])
    assert (VOC12.index("aeroplane"), VOC12.index("person"), VOC12.index("tvmonitor")) == (1, 15, 20)
    assert VOC12.prompts[15] == "person with clothes,people,human"


def test_coco_has_80_things_and_their_ids() -> None:
    assert COCO14.num_classes == 81
    assert sorted(set(range(1, 91)) - set(COCO14.ids)) == [12, 26, 29, 30, 45, 66, 68, 69, 71, 83]
    assert list(COCO14.ids) == sorted(COCO14.ids)
    known = {1: "person", 13: "stop sign", 44: "bottle", 63: "couch", 72: "tv", 90: "toothbrush"}
    names = dict(zip(COCO14.ids, COCO14.names, strict=True))
    assert {k: names[k] for k in known} == known


@pytest.mark.parametrize("class_set", [VOC12, COCO14])
def test_prompts_are_words_and_no_class_is_held_against_itself(class_set: ClassSet) -> None:
    assert all(prompt == prompt.strip() != "" for prompt in class_set.prompts)
    assert len(set(class_set.prompts)) == class_set.num_classes
    assert not set(class_set.background_prompts) & {*class_set.names, *class_set.prompts}
