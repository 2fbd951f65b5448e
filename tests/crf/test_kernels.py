"""Every compiled kernel against its readable twin in torch or numpy.

One of them: `python -m pytest tests/crf/test_kernels.py -k blur`. `KERNELS` names them all.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import weakclip
from weakclip.crf import Kernel, torch_backend
from weakclip.crf.cpu import field as cpu_field
from weakclip.crf.cpu import filter as cpu_filter
from weakclip.crf.cpu import rows, simd, vector_math
from weakclip.crf.cpu.jit import jit
from weakclip.crf.cpu.structures import RowShape

README = Path(weakclip.__file__).parent / "crf" / "cpu" / "README.md"
SIZE = (24, 31)
LABELS = 8
EIGHT, ONE = simd.size_of(8), simd.size_of(1)
SHAPE = tuple(RowShape(lanes=EIGHT, blocks=ONE, narrow=EIGHT))


class Problem:
    """One bilateral kernel on one image, compiled and in torch, and which vertex of one is which of the other."""

    def __init__(self, image: np.ndarray) -> None:
        kernel = Kernel(sxy=10, srgb=30, weight=1)
        field = cpu_field.pixel_field(image, (kernel,), LABELS).copy()
        self.order = cpu_field.tile_order(*SIZE)  # the pixel of each row: compiled code works tile by tile
        self.terms, self.lattice, size = field.terms, field.lattices[0], len(field.terms.size)
        self.twin = torch_backend._normalised_lattice(torch.from_numpy(image)[None].float(), kernel)
        compiled = self.terms.offsets.reshape(-1, size) // LABELS
        self.vertex_of = np.empty(field.num_vertices, np.int64)
        self.vertex_of[compiled] = self.twin.vertices.numpy()[self.order]  # both list a simplex by remainder
        generator = np.random.default_rng(0)
        self.signal = generator.random((SIZE[0] * SIZE[1], LABELS), np.float32)
        self.table = generator.random((field.num_vertices, LABELS), np.float32)

    def twin_table(self) -> torch.Tensor:
        """`table` in the twin's order of vertices, with its last row of zeros."""
        values = torch.zeros(len(self.table) + 1, LABELS)
        values[torch.from_numpy(self.vertex_of)] = torch.from_numpy(self.table)
        return values


def _embed(problem: Problem) -> tuple[np.ndarray, np.ndarray]:
    """The weights of each pixel, which also tell the norm."""
    shape = (-1, len(problem.terms.size))
    return problem.terms.weights.reshape(shape), problem.twin.weights.numpy()[problem.order]


def _splat(problem: Problem) -> tuple[np.ndarray, np.ndarray]:
    values, rows_of_labels = np.zeros(problem.table.size, np.float32), problem.signal[problem.order].ravel()
    cpu_filter.splat_rows(values, tuple(problem.terms), 0, len(problem.signal), rows_of_labels, 0, SHAPE)
    twin = problem.twin.splat(torch.from_numpy(problem.signal)).numpy()
    return values.reshape(-1, LABELS), twin[problem.vertex_of]


def _blur(problem: Problem) -> tuple[np.ndarray, np.ndarray]:
    values = problem.table.flatten()
    cpu_filter.blur(values, tuple(problem.lattice), EIGHT, LABELS)
    return values.reshape(-1, LABELS), problem.twin.blur(problem.twin_table()).numpy()[problem.vertex_of]


def _slice(problem: Problem) -> tuple[np.ndarray, np.ndarray]:
    result = np.empty(problem.signal.size, np.float32)
    cpu_filter.slice_rows(problem.table.ravel(), tuple(problem.terms), 0, len(problem.signal), result, 0, SHAPE)
    return result.reshape(-1, LABELS), problem.twin.slice(problem.twin_table()).numpy()[problem.order]


def _exp(problem: Problem) -> tuple[np.ndarray, np.ndarray]:
    @jit
    def exponentials(values: np.ndarray) -> None:
        for start in range(0, len(values), 8):
            simd.store(values, start, vector_math.exp(simd.load(values, start, EIGHT)))

    logits = problem.table.ravel() * 20 - 10
    values = logits.copy()
    exponentials(values)
    return values, np.exp(logits)


def _softmax(problem: Problem) -> tuple[np.ndarray, np.ndarray]:
    """`p · exp(message)`, normalised, with a column that stands for two labels and one of padding."""

    @jit
    def softmax(probs: np.ndarray, counts: np.ndarray, messages: np.ndarray) -> None:
        cpu_filter._softmax(probs, 0, len(probs) // LABELS, counts, messages, EIGHT, 1)

    probs, logits = problem.signal[: len(problem.signal) // 2], problem.signal[len(problem.signal) // 2 :] * 5
    counts = np.array([1, 2, 1, 1, 1, 1, 1, 0], np.float32)
    messages = logits.flatten()
    softmax(probs.ravel(), np.tile(counts, 3), messages)
    unnormalised = probs * np.exp(logits)
    return messages.reshape(-1, LABELS), unnormalised / (unnormalised @ counts)[:, None]


def _rows(problem: Problem) -> tuple[np.ndarray, np.ndarray]:
    """Planes to rows and back, pixels in the order of tiles."""
    planes = np.ascontiguousarray(problem.signal.T)
    distinct, table = np.arange(LABELS), np.empty(planes.size, np.float32)
    back = np.empty_like(planes)
    rows.fill_rows((planes.ravel(), distinct, problem.order), table, LABELS)
    rows.fill_planes(table, 0, 0, len(problem.order), (back.ravel(), distinct, problem.order), LABELS)
    found = np.concatenate([table.reshape(-1, LABELS), back.T])
    return found, np.concatenate([problem.signal[problem.order], problem.signal])


KERNELS: dict[str, Callable[[Problem], tuple[np.ndarray, np.ndarray]]] = {
    "embed": _embed,
    "splat": _splat,
    "blur": _blur,
    "slice": _slice,
    "exp": _exp,
    "softmax": _softmax,
    "rows": _rows,
}


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_compiled_kernel_equals_its_twin(kernel: str, make_image: Callable[..., np.ndarray]) -> None:
    found, expected = KERNELS[kernel](Problem(make_image(*SIZE)))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_the_readme_names_each_kernel_and_this_command() -> None:
    text = README.read_text(encoding="utf-8")
    command = re.search(r"python -m pytest (\S+) -k (\w+)", text)
    assert command is not None
    assert Path(command[1]).name == Path(__file__).name
    assert command[2] in KERNELS
    listed = re.search(r"Kernels to check: (.*)\.", text)
    assert listed is not None
    assert re.findall(r"`(\w+)`", listed[1]) == list(KERNELS)


def test_the_readme_names_each_file() -> None:
    """Every module of the folder is described, and every file that is named is there."""
    named = set(re.findall(r"`(\w+\.py)`", README.read_text(encoding="utf-8")))
    files = {path.name for path in README.parent.glob("*.py")} - {"__init__.py"}
    assert files <= named
    assert all((README.parent / name).is_file() or (README.parents[1] / name).is_file() for name in named)
