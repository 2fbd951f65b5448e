"""Laws of the MCTformer+ maps: size, range, mirror, and no class but the labels'."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from weakclip.datasets import Sample
from weakclip.datasets.classes import ClassSet
from weakclip.errors import WeightsError
from weakclip.seeds.base import SeedSettings, seed_masks
from weakclip.seeds.mctformer.cam import MCTformerCAM, MCTformerCAMSettings, refine
from weakclip.seeds.mctformer.model import Localization, MCTformer

CLASSES = ClassSet.from_foreground(["a", "b", "c"])


@pytest.fixture
def model() -> MCTformer:
    model = MCTformer(4, image_size=32, patch_size=8, width=16, depth=3, heads=2)
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1 or "bias" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def sample(height: int, width: int, labels: tuple[int, ...]) -> Sample:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Sample("picture", pixels, labels)


@pytest.mark.parametrize("size", [(32, 32), (37, 61), (5, 90)])
def test_maps_have_the_size_of_the_image_and_go_from_0_to_1(model: MCTformer, size: tuple[int, int]) -> None:
    cam = MCTformerCAM(model, CLASSES).cam(sample(*size, (1, 3)))
    assert cam.classes == (1, 3)
    assert cam.maps.shape == (2, *size) and cam.maps.dtype == np.float32
    assert np.allclose(cam.maps.min(axis=(1, 2)), 0) and np.allclose(cam.maps.max(axis=(1, 2)), 1, atol=1e-5)
    masks = seed_masks(sample(*size, (1, 3)), cam, SeedSettings(crf=None))
    assert set(np.unique(masks.dense)) <= {0, 1, 3}


def test_image_without_labels_has_no_maps(model: MCTformer) -> None:
    assert MCTformerCAM(model, CLASSES).cam(sample(20, 30, ())).maps.shape == (0, 20, 30)


def test_mirrored_image_has_mirrored_maps(model: MCTformer) -> None:
    method, first = MCTformerCAM(model, CLASSES), sample(40, 56, (2,))
    mirrored = Sample("mirrored", np.ascontiguousarray(first.image[:, ::-1]), first.labels)
    assert np.allclose(method.cam(first).maps, method.cam(mirrored).maps[:, :, ::-1], atol=1e-4)


def test_a_class_map_does_not_depend_on_the_other_labels(model: MCTformer) -> None:
    method = MCTformerCAM(model, CLASSES)
    alone, together = method.cam(sample(40, 56, (2,))), method.cam(sample(40, 56, (1, 2, 3)))
    assert np.allclose(alone.maps[0], together.maps[1], atol=1e-5)


def test_maps_are_the_sum_over_scales_and_mirrors(model: MCTformer) -> None:
    """Written out once more, slowly, with sizes that are whole numbers of patches."""
    picture, sizes = sample(32, 64, (3,)), {1.0: (32, 64), 0.5: (16, 32), 1.5: (48, 96)}
    image = torch.from_numpy(picture.image).permute(2, 0, 1)[None] / 255
    total = np.zeros((32, 64))
    for size in sizes.values():
        resized = F.interpolate(image, size=size, mode="bicubic", antialias=True).clamp(0, 1)
        for view, back in ((resized, 1), (resized.flip(-1), -1)):
            found = model.localize(view, attention_layers=2)
            spread = (found.affinity[0] @ found.maps[0, 2].flatten()).view(1, 1, *found.maps.shape[2:])
            total += F.interpolate(spread, size=(32, 64), mode="bilinear")[0, 0].numpy()[:, ::back]
    expected = (total - total.min()) / (total.max() - total.min())
    settings = MCTformerCAMSettings(scales=tuple(sizes), attention_layers=2)
    assert np.allclose(MCTformerCAM(model, CLASSES, settings).cam(picture).maps[0], expected, atol=1e-4)


def test_refinement_by_no_affinity_but_to_itself_changes_nothing() -> None:
    maps = torch.rand(2, 3, 4, 5)
    torch.testing.assert_close(refine(maps, torch.eye(20).expand(2, 20, 20)), maps)
    shifted = refine(maps, torch.eye(20).roll(1, dims=1).expand(2, 20, 20))  # patch i attends to patch i + 1
    torch.testing.assert_close(shifted.flatten(2), maps.flatten(2).roll(-1, dims=2))


def test_model_of_other_classes_is_refused(model: MCTformer) -> None:
    with pytest.raises(WeightsError, match="of 3 classes for a data set of 2"):
        MCTformerCAM(model, ClassSet.from_foreground(["a", "b"]))


def test_maps_are_the_same_where_there_is_memory_for_one_image_alone(
    model: MCTformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture, localize, sizes = sample(37, 61, (1, 3)), model.localize, []
    whole = MCTformerCAM(model, CLASSES).cam(picture)

    def limited(images: torch.Tensor, *, attention_layers: int) -> Localization:
        sizes.append(len(images))
        if len(images) > 1:
            raise torch.OutOfMemoryError
        return localize(images, attention_layers=attention_layers)

    monkeypatch.setattr(model, "localize", limited)
    parts = MCTformerCAM(model, CLASSES).cam(picture)
    np.testing.assert_allclose(parts.maps, whole.maps, atol=1e-5)
    assert sizes == [2, 1, 1, 1, 1, 1, 1]
