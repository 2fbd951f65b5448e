"""Dictionaries of arrays are read; what could run code is refused, whichever way the pickle spells it."""

from __future__ import annotations

import builtins
import pickle
from pathlib import Path

import numpy as np
import pytest

from weakclip.errors import DataError
from weakclip.store.untrusted_npy import read_npy


def write(path: Path, data: bytes) -> Path:
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|O", "fortran_order": False, "shape": ()})
        file.write(data)
    return path


def test_a_dictionary_of_vectors_comes_back_as_it_was(tmp_path: Path) -> None:
    rows = {"2007_000032": np.eye(20, dtype=np.float32)[3], "2007_000039": np.zeros(20, np.float32)}
    np.save(tmp_path / "labels.npy", rows)
    loaded = read_npy(tmp_path / "labels.npy")
    assert list(loaded) == list(rows)
    assert all(np.array_equal(loaded[name], rows[name]) and loaded[name].dtype == np.float32 for name in rows)


def test_plain_arrays_come_back_as_they_were(tmp_path: Path) -> None:
    np.save(tmp_path / "plain.npy", np.arange(6).reshape(2, 3))
    assert np.array_equal(read_npy(tmp_path / "plain.npy"), np.arange(6).reshape(2, 3))


@pytest.mark.parametrize(
    "program",
    [
        b"c__builtin__\nexec\n(S'import builtins; builtins.trace = 1'\ntR.",
        b"cbuiltins\nexec\n(Vimport builtins; builtins.trace = 1\ntR.",
        b"\x80\x04\x8c\x08builtins\x8c\x04exec\x93\x8c\x23import builtins; builtins.trace = 1  \x85R.",
        b"(S'import builtins; builtins.trace = 1'\nibuiltins\nexec\n.",
        b"(cbuiltins\nexec\nS'import builtins; builtins.trace = 1'\no.",
        b"\x80\x02cbuiltins\nexec\n(Vimport builtins; builtins.trace = 1\nt\x81.",
        b"cnumpy\nload\n(S'other.npy'\ntR.",
        b"cnumpy.core.multiarray\nscalar.__globals__\n(tR.",
        b"\x80\x04\x8c\x15numpy.core.multiarray\x8c\x16_reconstruct.__class__\x93.",
        b"cos\nsystem\n(S'true'\ntR.",
        b"Psomewhere\n.",
    ],
)
def test_no_spelling_of_a_call_is_followed(tmp_path: Path, program: bytes) -> None:
    path = write(tmp_path / "hostile.npy", program)
    with pytest.raises(DataError, match=r"hostile\.npy: not a `\.npy` file of plain arrays"):
        read_npy(path)
    assert not hasattr(builtins, "trace")


def test_the_programs_above_would_run(tmp_path: Path) -> None:
    """The first of them in an ordinary reader: the refusal is no accident of a wrong spelling."""
    pickle.loads(b"c__builtin__\nexec\n(S'import builtins; builtins.trace = 1'\ntR.")
    assert builtins.trace == 1  # type: ignore[attr-defined]
    del builtins.trace  # type: ignore[attr-defined]
