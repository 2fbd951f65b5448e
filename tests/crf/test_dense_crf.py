"""Laws of the dense CRF: close to the exact mean field, equivariant, and the same on every path."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from weakclip.crf import COCO_CRF, LOSS_CRF, VOC_CRF, CRFParams, FeatureKernel, Kernel, dense_crf
from weakclip.crf.dense import Backend

Make = Callable[..., np.ndarray]
BACKENDS: tuple[Backend, ...] = ("numba", "torch")
THREE_KERNELS = CRFParams(
    kernels=(Kernel(sxy=2, weight=1), Kernel(sxy=9, srgb=20, weight=2), Kernel(sxy=6, weight=0.5)), iterations=4
)
TWO_KERNELS = CRFParams(kernels=THREE_KERNELS.kernels[:2], iterations=4)
"""As most of the dense CRFs here: each number of kernels is compiled for each width of a row of labels, for seconds."""


@pytest.mark.parametrize(
    ("labels", "params"), [*itertools.product((2, 5, 21), (LOSS_CRF, VOC_CRF, COCO_CRF)), (5, THREE_KERNELS)]
)
def test_is_close_to_the_exact_mean_field(
    labels: int, params: CRFParams, oracle: ModuleType, make_image: Make, make_probs: Make
) -> None:
    """Three iterations: later ones amplify the lattice's approximation on the way to a winner."""
    image, probs, params = make_image(23, 30), make_probs(labels, 23, 30), dataclasses.replace(params, iterations=3)
    exact = oracle.exact_dense_crf(image, probs, params)
    for backend in BACKENDS:
        marginals = dense_crf(image, probs, params, backend=backend)
        assert np.abs(marginals - exact).mean() < 0.15 * np.abs(probs - exact).mean()
        assert (marginals.argmax(0) == exact.argmax(0)).mean() > 0.95


@pytest.mark.parametrize(
    ("labels", "params"), [(1, TWO_KERNELS), (2, TWO_KERNELS), (5, THREE_KERNELS), (21, TWO_KERNELS)]
)
@pytest.mark.parametrize("size", [(1, 1), (1, 17), (19, 1), (31, 26)])
def test_torch_equals_numba(
    labels: int, params: CRFParams, size: tuple[int, int], make_image: Make, make_probs: Make
) -> None:
    image, probs = make_image(*size), make_probs(labels, *size)
    compiled = dense_crf(image, probs, params, backend="numba")
    assert compiled.dtype == np.float32 and compiled.shape == probs.shape
    np.testing.assert_allclose(compiled, dense_crf(image, probs, params, backend="torch"), atol=2e-5)
    np.testing.assert_allclose(compiled.sum(axis=0), 1, atol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_permuting_classes_permutes_the_result(backend: Backend, make_image: Make, make_probs: Make) -> None:
    image, probs = make_image(20, 24), make_probs(11, 20, 24)
    order = np.random.default_rng(0).permutation(11)
    permuted = dense_crf(image, probs[order], LOSS_CRF, backend=backend)
    np.testing.assert_allclose(permuted, dense_crf(image, probs, LOSS_CRF, backend=backend)[order], atol=1e-4)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_order_of_kernels_does_not_matter(backend: Backend, make_image: Make, make_probs: Make) -> None:
    image, probs = make_image(20, 24), make_probs(5, 20, 24)
    turned = CRFParams(kernels=THREE_KERNELS.kernels[::-1], iterations=THREE_KERNELS.iterations)
    expected = dense_crf(image, probs, THREE_KERNELS, backend=backend)
    np.testing.assert_allclose(dense_crf(image, probs, turned, backend=backend), expected, atol=1e-4)


def test_a_kernel_first_kept_after_another_was_built_disturbs_nothing(make_image: Make, make_probs: Make) -> None:
    """The bilateral lattice is in the workspace when the spatial one is made for the first time."""
    image, probs = make_image(21, 27), make_probs(4, 21, 27)
    kernels = (Kernel(sxy=9, srgb=20, weight=2), Kernel(sxy=2.25, weight=1))  # a width that no other test keeps
    found = dense_crf(image, probs, CRFParams(kernels=kernels, iterations=4), backend="numba")
    expected = dense_crf(image, probs, CRFParams(kernels=kernels, iterations=4), backend="torch")
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_batch_equals_its_images_one_by_one(backend: Backend, make_image: Make, make_probs: Make) -> None:
    images = np.stack([make_image(18, 22, seed) for seed in range(5)])
    probs = np.stack([make_probs(3, 18, 22, seed) for seed in range(5)])
    batch = dense_crf(images, probs, LOSS_CRF, backend=backend)
    single = np.stack([dense_crf(i, p, LOSS_CRF, backend=backend) for i, p in zip(images, probs, strict=True)])
    np.testing.assert_allclose(batch, single, atol=0 if backend == "numba" else 1e-5)


def test_threads_give_the_same_bytes_as_one_thread(make_image: Make, make_probs: Make) -> None:
    from weakclip.crf.cpu import inference

    images = np.stack([make_image(18, 22, seed) for seed in range(6)]).astype(np.float32)
    probs = np.stack([make_probs(5, 18, 22, seed) for seed in range(6)])
    serial = inference.infer_batch(images, probs, LOSS_CRF, threads=1)
    np.testing.assert_array_equal(inference.infer_batch(images, probs, LOSS_CRF, threads=4), serial)


@pytest.mark.parametrize("backend", BACKENDS)
def test_tensors_in_tensors_out(backend: Backend, make_image: Make, make_probs: Make, device: torch.device) -> None:
    image, probs = make_image(18, 22), make_probs(4, 18, 22)
    expected = dense_crf(image, probs, LOSS_CRF)
    image_tensor = torch.from_numpy(image).permute(2, 0, 1).to(device)
    probs_tensor = torch.from_numpy(probs).to(device).requires_grad_()
    for given in (image_tensor, image_tensor / 255):
        marginals = dense_crf(given, probs_tensor, LOSS_CRF, backend=backend)
        assert marginals.dtype == torch.float32 and marginals.device == probs_tensor.device
        assert not marginals.requires_grad
        np.testing.assert_allclose(marginals.cpu().numpy(), expected, atol=1e-3)
    half = dense_crf((image_tensor / 255).bfloat16(), probs_tensor.bfloat16(), LOSS_CRF, backend=backend)
    assert half.dtype == torch.float32 and half.shape == probs_tensor.shape
    batch = dense_crf(image_tensor[None], probs_tensor[None], LOSS_CRF, backend=backend)
    np.testing.assert_allclose(batch[0].cpu().numpy(), expected, atol=1e-4)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_inputs_may_be_read_only_and_strided_and_are_not_written_to(
    backend: Backend, dtype: type, make_image: Make, make_probs: Make
) -> None:
    image, probs = make_image(18, 22), make_probs(4, 18, 22).astype(dtype)
    expected = dense_crf(image, probs, LOSS_CRF, backend=backend)
    kept = image.copy(), probs.copy()
    image.flags.writeable = probs.flags.writeable = False
    np.testing.assert_array_equal(dense_crf(image, probs, LOSS_CRF, backend=backend), expected)
    strided = np.asfortranarray(image), probs.repeat(2, axis=1)[:, ::2]
    np.testing.assert_array_equal(dense_crf(*strided, LOSS_CRF, backend=backend), expected)
    np.testing.assert_array_equal(image, kept[0])
    np.testing.assert_array_equal(probs, kept[1])


def test_equal_label_planes_are_merged_without_a_difference(make_image: Make, make_probs: Make) -> None:
    image, probs = make_image(20, 24), make_probs(4, 20, 24)
    many = np.concatenate([probs[:2] * 0.9, np.full((30, 20, 24), 0.001, np.float32), probs[2:] * 0.9])
    many /= many.sum(axis=0)
    marginals = dense_crf(image, many, LOSS_CRF, backend="numba")
    np.testing.assert_allclose(
        marginals, dense_crf(image, many, LOSS_CRF, backend="torch"), atol=1e-5
    )  # merges nothing
    np.testing.assert_array_equal(marginals[2:32], np.broadcast_to(marginals[2], (30, 20, 24)))


@pytest.mark.parametrize("backend", BACKENDS)
def test_impossible_labels_stay_impossible(backend: Backend, make_image: Make, make_probs: Make) -> None:
    image, probs = make_image(20, 24), make_probs(4, 20, 24)
    probs[2] = 0
    probs[1, :, :12] = 0
    marginals = dense_crf(image, probs / probs.sum(axis=0), LOSS_CRF, backend=backend)
    assert np.isfinite(marginals).all()
    assert (marginals[2] == 0).all() and (marginals[1, :, :12] == 0).all()
    assert marginals[1].max() > 0.5


@pytest.mark.parametrize("backend", BACKENDS)
def test_without_iterations_or_kernels_the_input_comes_back(
    backend: Backend, make_image: Make, make_probs: Make
) -> None:
    image, probs = make_image(9, 12), make_probs(3, 9, 12)
    for params in (CRFParams(kernels=LOSS_CRF.kernels, iterations=0), CRFParams(kernels=())):
        np.testing.assert_allclose(dense_crf(image, probs, params, backend=backend), probs, atol=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_noise_on_a_flat_region_is_smoothed_away(backend: Backend) -> None:
    image = np.zeros((24, 24, 3), np.uint8)
    image[:, 12:] = 200
    truth = np.zeros((24, 24), np.int64)
    truth[:, 12:] = 1
    noisy = np.where(np.random.default_rng(0).random((24, 24)) < 0.2, 1 - truth, truth)
    probs = np.where(noisy == np.arange(2)[:, None, None], 0.7, 0.3)
    marginals = dense_crf(image, probs, VOC_CRF, backend=backend)
    assert (noisy == truth).mean() < 0.85
    assert (marginals.argmax(0) == truth).all()


COSTS = np.array([[0.0, 2.0, 0.5], [2.0, -0.5, 1.0], [0.5, 1.0, 0.0]])
FEATURES = np.random.default_rng(3).normal(size=(4, 20, 24)).astype(np.float32)


@pytest.mark.parametrize(
    "kernels",
    [
        (Kernel(sxy=3, weight=[-3, -2, -1]), Kernel(sxy=20, srgb=20, weight=2)),
        (Kernel(sxy=(2, 5), weight=COSTS), Kernel(sxy=20, srgb=(20, 30, 40), weight=COSTS + 0.5)),
        (FeatureKernel(features=FEATURES, weight=3), Kernel(sxy=3, weight=1)),
        (FeatureKernel(features=FEATURES, weight=COSTS),),
        (Kernel(sxy=30, srgb=200, weight=400), Kernel(sxy=3, weight=100)),  # overflows, and is done with a shift
    ],
)
def test_every_path_knows_every_kernel(
    kernels: tuple[Kernel | FeatureKernel, ...], make_image: Make, make_probs: Make
) -> None:
    image, probs, params = make_image(20, 24), make_probs(3, 20, 24), CRFParams(kernels=kernels, iterations=3)
    compiled = dense_crf(image, probs, params, backend="numba")
    np.testing.assert_allclose(compiled, dense_crf(image, probs, params, backend="torch"), atol=1e-4)
    exact = dense_crf(image, probs, params, exact=True)
    assert np.abs(compiled - exact).mean() < 0.3 * np.abs(probs - exact).mean()
    images, batch = np.stack([image, image[::-1]]), np.stack([probs, probs[:, ::-1]])
    turned = tuple(
        FeatureKernel(features=np.stack([kernel.features, kernel.features[:, ::-1]]), weight=kernel.weight)
        if isinstance(kernel, FeatureKernel)
        else kernel
        for kernel in kernels
    )
    for options in ({"backend": "numba"}, {"backend": "torch"}, {"exact": True}):
        found = dense_crf(images, batch, CRFParams(kernels=turned, iterations=3), **options)  # type: ignore[arg-type]
        np.testing.assert_allclose(found[0], dense_crf(image, probs, params, **options), atol=1e-4)  # type: ignore[arg-type]


def test_a_potts_weight_is_the_vector_of_its_negative(make_image: Make, make_probs: Make) -> None:
    image, probs = make_image(20, 24), make_probs(3, 20, 24)
    vector = CRFParams(kernels=tuple(dataclasses.replace(kernel, weight=[-kernel.weight] * 3) for kernel in _kernels()))
    np.testing.assert_allclose(dense_crf(image, probs, vector), dense_crf(image, probs, LOSS_CRF), atol=1e-4)


def _kernels() -> tuple[Kernel, ...]:
    return tuple(kernel for kernel in LOSS_CRF.kernels if isinstance(kernel, Kernel))


@pytest.mark.parametrize("options", [{"backend": "numba"}, {"backend": "torch"}, {"exact": True}])
@pytest.mark.parametrize("scale", [1, 400])
def test_energies_are_probabilities_up_to_a_constant(
    options: dict[str, Any], scale: float, make_image: Make, make_probs: Make
) -> None:
    image, probs = make_image(20, 24), make_probs(3, 20, 24)
    energies = scale * -np.log(probs) + np.arange(24, dtype=np.float32)
    expected = dense_crf(image, _softmax(-energies), LOSS_CRF, **options)
    found = dense_crf(image, energies, LOSS_CRF, energies=True, **options)
    assert (found.argmax(0) == expected.argmax(0)).mean() > 0.99
    if scale == 1:
        np.testing.assert_allclose(found, expected, atol=1e-4)
    assert np.isfinite(found).all()


def _softmax(energy: np.ndarray) -> np.ndarray:
    exponentials = np.exp(energy - energy.max(axis=0))
    return exponentials / exponentials.sum(axis=0)


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_images_of_any_number_of_channels(channels: int, make_image: Make, make_probs: Make) -> None:
    image = np.concatenate([make_image(20, 24, seed) for seed in (0, 1)], axis=2)[..., :channels]
    probs, params = make_probs(4, 20, 24), dataclasses.replace(LOSS_CRF, iterations=3)
    compiled = dense_crf(image, probs, params, backend="numba")
    np.testing.assert_allclose(compiled, dense_crf(image, probs, params, backend="torch"), atol=1e-4)
    exact = dense_crf(image, probs, params, exact=True)
    assert np.abs(compiled - exact).mean() < 0.3 * np.abs(probs - exact).mean()


def test_without_colours_no_image_is_needed(make_image: Make, make_probs: Make) -> None:
    probs, params = make_probs(4, 20, 24), CRFParams(kernels=(Kernel(sxy=3, weight=3),))
    for options in ({"backend": "numba"}, {"backend": "torch"}, {"exact": True}):
        expected = dense_crf(make_image(20, 24), probs, params, **options)  # type: ignore[arg-type]
        np.testing.assert_array_equal(dense_crf(None, probs, params, **options), expected)  # type: ignore[arg-type]


@pytest.mark.parametrize("params", [LOSS_CRF, THREE_KERNELS])
def test_exact_is_the_oracle(params: CRFParams, oracle: ModuleType, make_image: Make, make_probs: Make) -> None:
    image, probs = make_image(23, 30), make_probs(5, 23, 30)
    expected = oracle.exact_dense_crf(image, probs, params)
    assert np.abs(dense_crf(image, probs, params, exact=True) - expected).mean() < 1e-5


@pytest.mark.parametrize("labels", [1, 3, 4, 8, 9, 24, 31, 81, 255])
def test_any_number_of_labels(labels: int, make_image: Make, make_probs: Make) -> None:
    image, probs = make_image(9, 11), make_probs(labels, 9, 11)
    params = dataclasses.replace(TWO_KERNELS, iterations=2)
    compiled = dense_crf(image, probs, params, backend="numba")
    np.testing.assert_allclose(compiled, dense_crf(image, probs, params, backend="torch"), atol=1e-5)


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (28, 41), (29, 41), (30, 41), (31, 41)])
def test_agrees_with_pydensecrf_where_it_is_installed(
    size: tuple[int, int], make_image: Make, make_probs: Make
) -> None:
    peer = pytest.importorskip("pydensecrf.densecrf")
    image, probs = make_image(*size), make_probs(3, *size)
    for weight in (4.0, np.array([-3.0, -2.0, -1.0]), COSTS):
        theirs = peer.DenseCRF2D(size[1], size[0], 3)
        theirs.setUnaryEnergy(-np.log(probs.reshape(3, -1)))
        compat = weight if isinstance(weight, float) else weight.astype(np.float32)
        theirs.addPairwiseGaussian(sxy=(2, 4), compat=compat)
        theirs.addPairwiseBilateral(sxy=30, srgb=(20, 25, 30), rgbim=image, compat=compat)
        expected = np.array(theirs.inference(5)).reshape(probs.shape)
        kernels = (Kernel(sxy=(2, 4), weight=weight), Kernel(sxy=30, srgb=(20, 25, 30), weight=weight))
        for backend in BACKENDS:
            found = dense_crf(image, probs, CRFParams(kernels=kernels, iterations=5), backend=backend)
            np.testing.assert_allclose(found, expected, atol=1e-4)


def test_autocast_around_it_changes_nothing() -> None:
    image = torch.randint(0, 256, (3, 16, 20), dtype=torch.uint8)
    probs = torch.rand(3, 16, 20).softmax(dim=0)
    plain = dense_crf(image, probs, LOSS_CRF, backend="torch")
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(dense_crf(image, probs, LOSS_CRF, backend="torch"), plain)
