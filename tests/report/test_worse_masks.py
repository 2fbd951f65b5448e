"""Laws of the warning that masks are worse than their seeds: it fires on what is broken, and not on what is good.

Made masks, and figures of two real trainings: the published boundary loss on a short schedule, which costs whole
classes, and the same training without it, whose masks are better than their seeds.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from weakclip.inference.mask_statistics import ImageStatistics, compare_masks
from weakclip.report.worse_masks import (
    LIMITS,
    Limits,
    change_record,
    seed_change,
    warning,
)

NAMES = ("background", "dog", "cat", "owl")
RUNS = Path(__file__).parent / "worse_masks_runs.json"


def scene(index: int, label: int) -> dict[str, np.ndarray]:
    """Seed, dense seed and a mask that keeps what is sure: an object of 8 x 12 pixels, sure but for its rim."""
    dense = np.zeros((24, 32), np.uint8)
    top = 2 + index % 5
    dense[top : top + 8, 10:22] = label
    seed = dense.copy()
    seed[top : top + 8, [10, 21]] = 255
    return {"seed": seed, "dense": dense, "mask": dense.copy()}


def scenes(count: int = 10) -> list[tuple[int, dict[str, np.ndarray]]]:
    """`count` images of each of the classes 1 to 3."""
    return [(label, scene(index, label)) for label in (1, 2, 3) for index in range(count)]


def figures(scenes: Sequence[tuple[int, dict[str, np.ndarray]]]) -> list[ImageStatistics]:
    return [compare_masks(str(index), (label,), masks) for index, (label, masks) in enumerate(scenes)]


def recorded(training: str) -> list[ImageStatistics]:
    """Figures of a real training."""
    content = json.loads(RUNS.read_text())
    place = 2 + 2 * content["trainings"].index(training)
    images = []
    for number, classes in enumerate(content["images"]):
        rows = {int(index): [value / 1000 for value in row] for index, row in classes.items()}
        images.append(
            ImageStatistics(
                name=str(number),
                size=(128, 128),
                labels=tuple(index for index in rows if index),
                shares={index: row[place + 1] for index, row in rows.items() if row[place + 1]},
                seed_shares={index: row[1] for index, row in rows.items() if row[1]},
                seed_kept={index: row[place] for index, row in rows.items() if row[1]},
                dense_shares={index: row[0] for index, row in rows.items() if row[0]},
            )
        )
    return images


def test_masks_that_keep_their_seeds_are_no_sign() -> None:
    change = seed_change(figures(scenes()))
    assert change.signs == change.lost == ()
    assert warning(change, NAMES) is None
    assert [each.kept for each in change.classes] == [1.0] * 4
    assert change.foreground_seeds == change.foreground_masks == pytest.approx(8 * 12 / (24 * 32), abs=1e-4)


def test_masks_that_remove_much_of_every_seed_are_no_sign() -> None:
    """Seeds that take the water in with the boat: the better mask keeps six tenths of them."""
    made = scenes()
    for _, masks in made:
        masks["mask"][:, 17:] = 0
    change = seed_change(figures(made))
    assert change.foreground_kept == pytest.approx(0.6, abs=1e-3)
    assert change.signs == ()


@pytest.mark.parametrize(("gone", "fires"), [(0, False), (5, False), (7, False), (8, True), (10, True)])
def test_a_class_that_leaves_most_of_its_images_is_named(gone: int, fires: bool) -> None:
    made = scenes()
    for _, masks in made[10 : 10 + gone]:
        masks["mask"][:] = 0
    change = seed_change(figures(made))
    assert change.lost == ((2,) if fires else ())
    assert change.signs == (("lost classes",) if fires else ())
    said = warning(change, NAMES)
    assert (said is not None) == fires
    if said is not None:
        assert f"cat is gone from {gone} of 10 images" in said and "dog" not in said
        assert "\n" not in said


def test_a_few_pixels_do_not_hide_that_a_class_is_gone() -> None:
    made = scenes()
    for _, masks in made[:10]:
        masks["mask"][:] = 0
        masks["mask"][0, :3] = 1
    assert seed_change(figures(made)).lost == (1,)


def test_a_class_that_is_taken_by_another_is_gone() -> None:
    made = scenes()
    for label, masks in made:
        masks["mask"][masks["mask"] == label] = 1
    assert seed_change(figures(made)).lost == (2, 3)


@pytest.mark.parametrize(
    ("value", "signs"),
    [
        (0, ("lost classes", "foreground seeds", "foreground area")),
        (1, ("lost classes", "background seeds")),  # a third of the sure foreground is of class 1: it is kept
    ],
)
def test_masks_of_one_class_show_every_sign_that_is_there(value: int, signs: tuple[str, ...]) -> None:
    made = scenes()
    for _, masks in made:
        masks["mask"][:] = value
    change = seed_change(figures(made))
    assert change.signs == signs
    said = warning(change, NAMES)
    assert said is not None and "\n" not in said
    assert ("foreground fell from 12% to 0% of the pixels" in said) == (value == 0)
    assert ("keep 0% of the sure background seeds" in said) == (value == 1)


def test_background_that_spreads_alone_is_a_sign() -> None:
    """Every image keeps something of its class, and sure seeds are few; the area tells."""
    made = scenes()
    for _, masks in made:
        masks["seed"][:, 14:] = np.where(masks["dense"][:, 14:], 255, 0)
        masks["mask"][:, 14:] = 0
    assert seed_change(figures(made)).signs == ("foreground area",)


def test_few_images_and_images_without_seeds_say_nothing() -> None:
    made = scenes(2)
    for _, masks in made:
        masks["mask"][:] = 0
    assert seed_change(figures(made[:2])).signs == ()
    assert seed_change(figures(made[:2]), Limits(least_images=2)).signs != ()
    of_earlier_version = [compare_masks("a", (1,), {"mask": masks["mask"]}) for _, masks in made]
    change = seed_change(of_earlier_version)
    assert change.signs == change.classes == () and change.foreground_seeds is None
    assert seed_change([]).signs == ()


def test_order_of_images_and_numbers_of_classes_change_nothing() -> None:
    made = scenes()
    for _, masks in made[10:20]:
        masks["mask"][:] = 0
    change = seed_change(figures(made))
    assert seed_change(figures(made[::-1])) == change
    swapped = np.arange(256, dtype=np.uint8)
    swapped[[1, 2, 3]] = [3, 1, 2]
    renamed = [(int(swapped[label]), {kind: swapped[mask] for kind, mask in masks.items()}) for label, masks in made]
    again = seed_change(figures(renamed))
    assert again.lost == (1,) and again.signs == change.signs
    assert again.foreground_kept == pytest.approx(change.foreground_kept)


def test_the_line_names_five_classes_and_counts_the_others() -> None:
    made = [(label, scene(index, label)) for label in range(1, 9) for index in range(3)]
    for _, masks in made:
        masks["mask"][:] = 0
    said = warning(seed_change(figures(made)), [f"class{index}" for index in range(9)])
    assert said is not None and "class5 is gone" in said and "class6" not in said and "3 more classes" in said


def test_short_training_with_the_boundary_loss_is_warned_of() -> None:
    """Class 1 ends at a true IoU of 0.0 there, class 2 at 0.08 and class 11 at 0.0."""
    change = seed_change(recorded("boundary"))
    assert change.signs == ("lost classes",)
    assert change.lost == (1, 11)


def test_the_same_training_without_it_is_not() -> None:
    change = seed_change(recorded("none"))
    assert change.signs == ()
    assert sum(each.images for each in change.classes) == 426


@pytest.mark.parametrize("factor", [0.9, 1.1])
def test_the_two_trainings_lie_well_on_either_side_of_the_limits(factor: float) -> None:
    limits = Limits(**{name: value * factor for name, value in dataclasses.asdict(LIMITS).items()})
    assert seed_change(recorded("boundary"), limits).signs
    assert not seed_change(recorded("none"), limits).signs


def test_the_record_is_json_with_names() -> None:
    made = scenes()
    for _, masks in made[10:20]:
        masks["mask"][:] = 0
    record = json.loads(json.dumps(change_record(seed_change(figures(made)), NAMES)))
    assert record["lost"] == ["cat"] and record["signs"] == ["lost classes"]
    cat = {"class": "cat", "images": 10, "share": 0.1042, "gone": 10, "kept": 0.0, "kept_where_left": None}
    assert record["classes"][2] == cat
