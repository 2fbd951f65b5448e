"""Imported seeds: what the field writes is read, nothing in it is run, and bad input is one line."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

from weakclip.datasets import Sample
from weakclip.datasets.classes import ClassSet
from weakclip.datasets.images import write_mask
from weakclip.errors import DataError
from weakclip.seeds import CAM, ImportedCAMs, ImportedMasks, SeedSettings, seed_masks
from weakclip.store.untrusted_npy import read_npy

CLASSES = ClassSet.from_foreground(["cat", "dog", "bird"])
SIZE = (5, 7)


@pytest.fixture
def sample():
    rng = np.random.default_rng(0)
    return Sample(name="sub/photo", image=rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8), labels=(1, 3))


@pytest.fixture
def maps():
    return np.random.default_rng(1).random((3, *SIZE)).astype(np.float32)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "sub").mkdir()
    return tmp_path


def _same(cam: CAM, maps):
    assert cam.classes == (1, 3)
    assert cam.maps.dtype == np.float32
    np.testing.assert_array_equal(cam.maps, maps[[0, 2]])


def test_dictionaries_of_zero_based_classes_as_in_the_field(folder, sample, maps):
    for key in (int, np.int64, str):
        np.save(folder / "sub/photo.npy", {key(index): maps[index] for index in range(3)})
        _same(ImportedCAMs(folder, CLASSES).cam(sample), maps)


def test_classes_may_be_counted_from_one_or_named(folder, sample, maps):
    np.save(folder / "sub/photo.npy", {index + 1: maps[index] for index in range(3)})
    _same(ImportedCAMs(folder, CLASSES, first_class=1).cam(sample), maps)
    np.save(folder / "sub/photo.npy", {name: maps[index] for index, name in enumerate(CLASSES.names[1:])})
    _same(ImportedCAMs(folder, CLASSES).cam(sample), maps)


def test_keys_and_maps_as_irn_and_clip_es_write_them(folder, sample, maps):
    np.save(folder / "sub/photo.npy", {"keys": np.array([0, 2]), "high_res": maps[[0, 2]], "cam": maps[:, ::4, ::4]})
    _same(ImportedCAMs(folder, CLASSES).cam(sample), maps)


@pytest.mark.parametrize("tensors", [("keys", "cam"), ("cam",), ("keys", "cam", "high_res")])
def test_irns_own_files_hold_tensors(tensors, folder, sample, maps):
    """jiwoon-ahn/irn, step/make_cam.py: keys and cam are tensors of torch."""
    content = {"keys": np.array([0, 2]), "cam": maps[[0, 2], ::4, ::4].copy(), "high_res": maps[[0, 2]]}
    content |= {key: torch.from_numpy(content[key]) for key in tensors}
    np.save(folder / "sub/photo.npy", content)
    _same(ImportedCAMs(folder, CLASSES).cam(sample), maps)


@pytest.mark.parametrize("name", ["cams_irn", "cams_irn_keys_tensor"])
def test_found_files_of_irn(cases, name):
    classes = ClassSet.from_foreground(["cat", "dog"])
    for file, size, labels in (("a", (40, 60), (1,)), ("b", (40, 60), (2,)), ("sub/c", (64, 48), (1, 2))):
        cam = ImportedCAMs(cases / "irn_cams" / name, classes).cam(Sample(file, np.zeros((*size, 3), np.uint8), labels))
        expected = np.zeros((len(labels), *size), np.float32)
        expected[:, 5:25, 10:30] = 0.9
        assert np.array_equal(cam.maps, expected) and cam.classes == labels


def test_npz_with_one_array_a_class(folder, sample, maps):
    np.savez(folder / "sub/photo.npz", **{str(index): maps[index] for index in range(3)})
    _same(ImportedCAMs(folder, CLASSES).cam(sample), maps)


def test_orders_and_types_of_arrays_survive(folder):
    arrays = {
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "big": np.arange(4, dtype=">i2"),
        "half": np.ones((2, 2), dtype=np.float16),
        "bool": np.array([True, False]),
        "empty": np.zeros((0, 3), dtype=np.float32),
        "nested": [np.float32(1.5), ("text", None, np.arange(2))],
    }
    for protocol in (2, 3, 4, 5):
        path = folder / f"{protocol}.npy"
        with path.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, {"descr": "|O", "fortran_order": False, "shape": ()})
            wrapped = np.empty((), dtype=object)
            wrapped[()] = arrays
            pickle.dump(wrapped, file, protocol=protocol)
        loaded = read_npy(path)
        for key in ("fortran", "big", "half", "bool", "empty"):
            np.testing.assert_array_equal(loaded[key], arrays[key])
            assert loaded[key].dtype == arrays[key].dtype
        assert loaded["nested"][0] == 1.5
        np.testing.assert_array_equal(loaded["nested"][1][2], [0, 1])


def test_values_are_brought_between_0_and_1(folder, sample, maps):
    np.save(folder / "sub/photo.npy", {0: maps[0] * 8 - 1, 2: maps[2]})
    cam = ImportedCAMs(folder, CLASSES).cam(sample)
    assert cam.maps.min() == 0
    assert cam.maps[0].max() == 1
    np.testing.assert_array_equal(cam.maps[1], maps[2])


def test_an_image_without_labels_has_no_maps(folder, sample, maps):
    np.save(folder / "sub/photo.npy", {0: maps[0]})
    cam = ImportedCAMs(folder, CLASSES).cam(Sample(name=sample.name, image=sample.image, labels=()))
    assert cam.classes == ()
    assert seed_masks(Sample(sample.name, sample.image, ()), cam, SeedSettings()).dense.max() == 0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda maps: {0: maps[0]}, "no CAM of bird"),
        (lambda maps: {0: maps[0], 3: maps[2]}, "unknown class 3; expected 0 to 2"),
        (lambda maps: {0: maps[0], "cow": maps[2]}, "unknown class 'cow'"),
        (lambda maps: {0: maps[0], 2: maps[2, :4]}, "expected the size of the image"),
        (lambda maps: {0: maps[0], 2: maps[2] * np.nan}, "not finite"),
        (lambda maps: {0: maps[0], 2: "map"}, "expected an array of numbers"),
        (lambda maps: maps, "expected a dictionary"),
        (lambda maps: {"keys": np.arange(2), "high_res": maps}, "as many CAMs"),
    ],
)
def test_bad_content_is_one_line(folder, sample, maps, content, message):
    np.save(folder / "sub/photo.npy", content(maps))
    with pytest.raises(DataError, match=message) as caught:
        ImportedCAMs(folder, CLASSES).cam(sample)
    assert "photo.npy" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_and_damaged_files_are_one_line(folder, sample, maps):
    with pytest.raises(DataError, match="no such folder"):
        ImportedCAMs(folder / "nowhere", CLASSES)
    with pytest.raises(DataError, match="no such file"):
        ImportedCAMs(folder, CLASSES).cam(sample)
    np.savez(folder / "sub/photo.npz", **{"0": maps[0], "2": maps[2]})
    whole = (folder / "sub/photo.npz").read_bytes()
    (folder / "sub/photo.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"not a `.npz` file"):
        ImportedCAMs(folder, CLASSES).cam(sample)
    np.save(folder / "sub/photo.npy", {0: maps[0], 2: maps[2]})
    whole = (folder / "sub/photo.npy").read_bytes()
    for cut in (0, 5, 60, len(whole) // 2):
        (folder / "sub/photo.npy").write_bytes(whole[:cut])
        with pytest.raises(DataError, match=r"not a `.npy` file"):
            ImportedCAMs(folder, CLASSES).cam(sample)


def test_masks_keep_only_classes_among_the_labels(folder, sample):
    mask = np.random.default_rng(2).choice([0, 1, 2, 3, 255], SIZE).astype(np.uint8)
    write_mask(folder / "sub/photo.png", mask, CLASSES.palette)
    masks = ImportedMasks(folder, CLASSES).masks(sample)
    np.testing.assert_array_equal(masks.seed, np.where(mask == 2, 255, mask))
    np.testing.assert_array_equal(masks.dense, np.where(masks.seed == 255, 0, masks.seed))


def test_bad_masks_are_one_line(folder, sample):
    imported = ImportedMasks(folder, CLASSES)
    with pytest.raises(DataError, match="no such file"):
        imported.masks(sample)
    write_mask(folder / "sub/photo.png", np.zeros((4, 4), dtype=np.uint8), CLASSES.palette)
    with pytest.raises(DataError, match=r"mask \(4, 4\) for an image of \(5, 7\)"):
        imported.masks(sample)
    write_mask(folder / "sub/photo.png", np.full(SIZE, 4, dtype=np.uint8), CLASSES.palette)
    with pytest.raises(DataError, match="unknown class 4; expected 0 to 3"):
        imported.masks(sample)


@pytest.mark.parametrize("stored", ["COCO_train2014_000000000009", "000000000009"])
def test_masks_of_coco_may_be_called_by_the_number(tmp_path, stored):
    sample = Sample(name="COCO_train2014_000000000009", image=np.zeros((*SIZE, 3), dtype=np.uint8), labels=(1,))
    write_mask(tmp_path / f"{stored}.png", np.ones(SIZE, dtype=np.uint8), CLASSES.palette)
    assert (ImportedMasks(tmp_path, CLASSES).masks(sample).seed == 1).all()


def test_the_whole_name_goes_before_the_number(tmp_path):
    sample = Sample(name="COCO_train2014_000000000009", image=np.zeros((*SIZE, 3), dtype=np.uint8), labels=(1, 2))
    write_mask(tmp_path / "000000000009.png", np.ones(SIZE, dtype=np.uint8), CLASSES.palette)
    write_mask(tmp_path / f"{sample.name}.png", np.full(SIZE, 2, dtype=np.uint8), CLASSES.palette)
    assert (ImportedMasks(tmp_path, CLASSES).masks(sample).seed == 2).all()
    other = Sample(name="2007_000032", image=sample.image, labels=(1,))
    write_mask(tmp_path / "000032.png", np.ones(SIZE, dtype=np.uint8), CLASSES.palette)
    with pytest.raises(DataError, match=r"2007_000032\.png"):
        ImportedMasks(tmp_path, CLASSES).masks(other)
