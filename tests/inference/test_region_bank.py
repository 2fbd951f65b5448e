"""Regions of masks, the bank of them, and what the nearest ones say."""

from __future__ import annotations

import functools
import logging
import sys
import tracemalloc

import numpy as np
import pytest

from weakclip.datasets.base import Sample
from weakclip.inference import region_bank, region_search
from weakclip.inference.pseudo_masks import PseudoMaskSettings, refine_mask
from weakclip.inference.region_bank import (
    RegionBank,
    components,
    corrected,
    depths,
    nearest,
    pool_regions,
    pruned,
    unit,
    votes,
)
from weakclip.inference.region_judge import RegionBankSettings, RegionJudge
from weakclip.inference.region_search import search_of

RANDOM = np.random.default_rng(0)


def clusters(sizes: dict[int, int], *, width: int = 16, spread: float = 0.2) -> RegionBank:
    """Classes as narrow clusters around random directions; every region is of an image of its own."""
    centres = unit(np.random.default_rng(1).normal(size=(max(sizes) + 1, width)))
    classes = np.repeat(np.array(list(sizes), dtype=np.uint8), list(sizes.values()))
    noise = np.random.default_rng(2).normal(size=(len(classes), width)) * spread / width**0.5
    vectors = unit(centres[classes] + noise)
    return RegionBank(vectors=vectors, classes=classes, owners=np.arange(len(classes)))


def asked(bank: RegionBank, vectors: np.ndarray, count: int, owner: int, classes: int) -> np.ndarray:
    """The votes of the nearest."""
    return votes(bank, nearest(bank, vectors, count, owner), count, owner, classes)


def flooded(mask: np.ndarray) -> np.ndarray:
    """The slow twin of `components`."""
    numbers = np.full(mask.shape, -1)
    for start in np.ndindex(mask.shape):
        if numbers[start] >= 0:
            continue
        numbers[start] = number = numbers.max() + 1
        waiting = [start]
        while waiting:
            row, column = waiting.pop()
            for near in ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)):
                inside = 0 <= near[0] < mask.shape[0] and 0 <= near[1] < mask.shape[1]
                if inside and numbers[near] < 0 and mask[near] == mask[start]:
                    numbers[near] = number
                    waiting.append(near)
    return numbers


@pytest.mark.parametrize(("height", "width", "values"), [(1, 1, 1), (1, 9, 2), (9, 1, 2), (17, 23, 2), (40, 31, 3)])
def test_components_are_those_of_a_flood(height: int, width: int, values: int) -> None:
    for _ in range(5):
        mask = RANDOM.integers(0, values, (height, width))
        assert (components(mask) == flooded(mask)).all()


def test_a_spiral_is_one_component() -> None:
    spiral = np.zeros((41, 41), dtype=int)
    for ring in range(0, 20, 2):
        spiral[ring, ring : 41 - ring] = spiral[40 - ring, ring : 41 - ring] = 1
        spiral[ring : 41 - ring, ring] = spiral[ring : 41 - ring, 40 - ring] = 1
        spiral[ring + 1, ring], spiral[ring + 2, ring + 1 : ring + 2] = 0, 1
    assert (components(spiral) == flooded(spiral)).all()


def test_depths_count_erosions_by_three_by_three_and_the_rim_of_the_image_is_no_edge() -> None:
    """A pixel outlives as many as it has rings of its own region around it."""
    regions = components(RANDOM.integers(0, 50, (19, 26)) // 49)
    grid, found = np.indices(regions.shape), depths(regions, 5)
    for row, column in np.ndindex(regions.shape):
        distance = np.abs(grid - np.array([row, column])[:, None, None]).max(axis=0)
        rings = min(5, distance[regions != regions[row, column]].min() - 1)
        assert found[row, column] == rings
    assert depths(np.zeros((4, 4)), 7).min() == 7


def test_a_region_is_the_mean_of_the_patches_inside_it_and_small_ones_are_none() -> None:
    mask = np.full((16, 24), 255, dtype=np.uint8)
    mask[:, :8], mask[:, 16:], mask[4, 12] = 3, 0, 7
    features = RANDOM.normal(size=(5, 4, 6)).astype(np.float32)
    found = pool_regions(mask, features, erosions=0)
    assert found.classes.tolist() == [3, 0]
    assert (found.numbers[:, :8] == 0).all() and (found.numbers[:, 16:] == 1).all()
    assert (found.numbers[:, 8:16] == -1).all()
    expected = unit(np.stack([features[:, :, :2].mean(axis=(1, 2)), features[:, :, 4:].mean(axis=(1, 2))]))
    np.testing.assert_allclose(found.vectors, expected, atol=1e-6)


def test_erosion_takes_off_what_belongs_to_the_neighbour_and_leaves_a_patch() -> None:
    mask = np.zeros((32, 32), dtype=np.uint8)
    mask[:, 12:] = 1  # the border lies inside the second column of patches
    features = np.zeros((2, 4, 4), dtype=np.float32)
    features[0, :, :2], features[1, :, 2:] = 1, 1
    assert abs(pool_regions(mask, features, erosions=0).vectors[1, 0]) > 0.1
    np.testing.assert_allclose(pool_regions(mask, features).vectors, [[1, 0], [0, 1]], atol=1e-6)
    narrow = np.zeros((32, 32), dtype=np.uint8)
    narrow[:, :3] = 1  # 96 pixels, a patch is 64: eroded once it has 64 left, twice 32
    assert pool_regions(narrow, features).classes.tolist() == [1, 0]
    narrow[:, 1:3] = 0  # 32 pixels
    assert pool_regions(narrow, features).classes.tolist() == [0]


def test_no_region_is_no_row() -> None:
    nothing = pool_regions(np.full((8, 8), 255, dtype=np.uint8), np.ones((3, 2, 2), dtype=np.float32))
    assert nothing.vectors.shape == (0, 3) and (nothing.numbers == -1).all()
    assert asked(clusters({0: 3}), np.zeros((0, 16), dtype=np.float32), 5, 0, 2).shape == (0, 2)


def test_planted_strangers_are_pruned() -> None:
    bank = clusters({0: 60, 1: 60})
    classes = bank.classes.copy()
    classes[:10], classes[60:70] = 1, 0  # a tenth of either class is really of the other
    kept = pruned(RegionBank(vectors=bank.vectors, classes=classes, owners=bank.owners))
    assert len(kept.classes) == 90 and not set(kept.owners) & {*range(10), *range(60, 70)}
    assert (np.bincount(kept.classes) == 45).all() and (np.diff(kept.owners) > 0).all()
    assert len(pruned(clusters({0: 1, 3: 2})).classes) == 3  # a quarter of three is none


@pytest.mark.parametrize("count", [1, 25, 500])
def test_the_search_equals_a_sort_of_all(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    bank = clusters({0: 90, 1: 50, 2: 61}, spread=2.0)
    owners = np.sort(RANDOM.integers(0, 40, len(bank.classes)))
    bank = RegionBank(vectors=bank.vectors, classes=bank.classes, owners=owners)
    vectors = unit(RANDOM.normal(size=(7, 16)))
    allowed = np.flatnonzero(owners != 11)
    expected = allowed[np.argsort(-(vectors @ bank.vectors[allowed].T), axis=1, kind="stable")[:, :count]]
    for block in (7, 64, 65_536):
        monkeypatch.setattr(region_bank, "BLOCK", block)
        assert (nearest(bank, vectors, count, 11) == expected).all()


def test_a_region_that_is_labelled_wrongly_is_found_by_its_neighbours() -> None:
    bank = clusters({0: 40, 1: 40, 2: 40})
    classes = bank.classes.copy()
    classes[45] = 2
    planted = RegionBank(vectors=bank.vectors, classes=classes, owners=bank.owners)
    for number in range(120):
        shares = asked(planted, bank.vectors[[number]], 25, number, 4)[0]
        assert shares.argmax() == bank.classes[number] and shares[shares.argmax()] > 0.9
        assert shares[3] == 0 and shares.sum() == pytest.approx(1)


def test_votes_know_no_order() -> None:
    bank, vectors = clusters({0: 30, 1: 30, 2: 9}, spread=2.0), unit(RANDOM.normal(size=(5, 16)))
    order = RANDOM.permutation(len(bank.classes))
    other = RegionBank(vectors=bank.vectors[order], classes=bank.classes[order], owners=bank.owners)
    first, second = (asked(each, vectors, 25, 1000, 3) for each in (bank, other))
    np.testing.assert_allclose(first, second)
    np.testing.assert_allclose(asked(bank, vectors[::-1], 25, 1000, 3), first[::-1])
    sets = [set(pruned(each).vectors[:, 0].tolist()) for each in (bank, other)]
    assert sets[0] == sets[1]


def test_a_rare_class_wins_among_its_own() -> None:
    bank = clusters({0: 100, 1: 6})
    shares = asked(bank, bank.vectors[[103]], 25, 103, 2)[0]
    assert shares[1] > 0.5  # five of 25 neighbours, all that there are
    assert asked(bank, bank.vectors[[3]], 25, 3, 2)[0, 0] == 1


def test_a_million_regions_take_no_more_memory_than_a_block() -> None:
    vectors = np.zeros((1_000_000, 8), dtype=np.float32)
    vectors[:, 0] = 1
    bank = RegionBank(vectors=vectors, classes=np.zeros(1_000_000, np.uint8), owners=np.arange(1_000_000))
    vectors[777_777] = unit(np.ones((1, 8)))
    tracemalloc.start()
    found = nearest(bank, unit(np.ones((4, 8))), 25, 5)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (found[:, 0] == 777_777).all()
    assert peak < 16 * 2**20  # four rows of all regions would be 16 MB as float32, and their order 32 MB more


def test_a_large_bank_is_searched_by_faiss(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("faiss")
    bank = clusters({0: 900, 1: 900, 2: 900}, spread=2.0)
    bank = RegionBank(vectors=bank.vectors, classes=bank.classes, owners=bank.owners // 3)
    exact, vectors = nearest(bank, bank.vectors[:9], 25, 1), bank.vectors[:9]
    assert (search_of(bank)(vectors, 25, 1) == exact).all()
    monkeypatch.setattr(region_search, "EXACT", 2_000)
    found = search_of(bank)(vectors, 25, 1)
    assert found.shape == exact.shape and not np.isin(found, [3, 4, 5]).any()
    assert np.mean([len({*one} & {*other}) for one, other in zip(found, exact, strict=True)]) > 20
    few = search_of(bank)(vectors, 5_000, 1)  # more than there are: -1 behind them, which has no vote
    assert (few[:, -1] == -1).all() and votes(bank, few, 5_000, 1, 3).sum(axis=1) == pytest.approx(1)


def test_without_faiss_a_large_bank_is_searched_slowly_and_one_line_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    monkeypatch.setattr(region_search, "EXACT", 2)
    bank = clusters({0: 5})
    with caplog.at_level(logging.WARNING, "weakclip"):
        found = search_of(bank)(bank.vectors[:1], 2, 9)
    assert (found == nearest(bank, bank.vectors[:1], 2, 9)).all()
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("region bank: each of 5 regions is compared") and "pip install weakclip[faiss]" in line


def test_a_region_follows_a_clear_vote_for_a_class_that_the_image_can_show() -> None:
    mask = np.zeros((8, 12), dtype=np.uint8)
    mask[:, 4:8], mask[:, 8:] = 3, 1
    regions = pool_regions(mask, np.ones((2, 2, 3), dtype=np.float32))
    shares = np.array([[0.2, 0, 0.7, 0.1], [0.1, 0.5, 0.4, 0], [0.45, 0.55, 0, 0]])  # background, class 3, class 1
    after = corrected(mask, regions, shares, np.array([0, 1, 3]), 0.6)
    assert (after[:, :4] == 0).all()  # class 2 has the most votes, but is no tag
    assert (after[:, 4:8] == 1).all() and (after[:, 8:] == 1).all()
    assert (corrected(mask, regions, shares, np.array([0, 1, 3]), 0.9)[:, 4:8] == 3).all()
    rare = corrected(mask, regions, shares, np.array([0, 1]), 0.5)  # of class 3 too little is known
    assert (rare[:, 4:8] == 3).all() and (rare[:, 8:] == 1).all()
    nobody = np.zeros((3, 4))
    assert (corrected(mask, regions, nobody, np.array([0, 1, 3]), 0.5) == mask).all()


def test_the_judge_corrects_the_mask_its_confidence_and_notes_the_tags() -> None:
    """The right half is called 1 by the network and 2 by every region that looks like it; 3 is a tag and nowhere."""
    bank = clusters({0: 30, 1: 30, 2: 30})
    features = np.concatenate(
        [np.repeat(bank.vectors[[5]], 8, axis=0), np.repeat(bank.vectors[[75]], 8, axis=0)]
    ).T.reshape(16, 4, 4).transpose(0, 2, 1)  # fmt: skip
    probs = np.zeros((4, 16, 16), dtype=np.float32)
    probs[0, :, :8], probs[1, :, 8:], probs[2, :, 8:] = 1, 0.8, 0.2
    for labels, shown in (((1, 3), 1), ((1, 2), 2)):
        sample = Sample("a", np.zeros((16, 16, 3), dtype=np.uint8), labels)
        judge = RegionJudge(
            settings=RegionBankSettings(),
            bank=bank,
            search=search_of(bank),
            positions={"a": 500},
            classes=4,
            features=lambda sample: features,
        )
        settings = PseudoMaskSettings(crf=None, region_bank=RegionBankSettings())
        refined = refine_mask(probs, sample, settings, judge=functools.partial(judge.judge, sample, features))
        assert (refined.mask[:, :8] == 0).all() and (refined.mask[:, 8:] == shown).all()
        assert refined.confidence[:, 8:].mean() == pytest.approx(1.0 if shown == 1 else 0.2, abs=0.01)
        assert refined.votes == {2: 1.0, **{label: 0.0 for label in labels if label != 2}}
