"""Dictionaries of arrays are read; what could run code is refused, whichever way the pickle spells it."""

from __future__ import annotations

import builtins
import pickle
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from harm import Harm, is_one_clear_line

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


def test_tensors_come_back_as_arrays(tmp_path: Path) -> None:
    values = torch.arange(24, dtype=torch.float32).reshape(2, 3, 4)
    tensors = {
        "whole": values,
        "a view": values[1, :, 1:],
        "turned": values.transpose(0, 2),
        "one number": torch.tensor(3.5),
        "nothing": torch.zeros(0, 3),
        "a parameter": torch.nn.Parameter(torch.ones(2)),
        **{str(kind): torch.tensor([0, 1, 1]).to(kind) for kind in (torch.int64, torch.uint8, torch.bool, torch.half)},
    }
    for protocol in (2, 3, 4, 5):
        path = write(tmp_path / "tensors.npy", pickle.dumps({"list": [tensors]}, protocol=protocol))
        (found,) = read_npy(path)["list"]
        for name, tensor in tensors.items():
            assert np.array_equal(found[name], tensor.detach().numpy()), name
            assert found[name].dtype == tensor.detach().numpy().dtype


def tensor(storage: bytes, offset: int = 0, size: tuple[int, ...] = (2,), stride: tuple[int, ...] = (1,)) -> bytes:
    """The pickle of a list with one tensor that has these bytes as its storage."""
    load = b"ctorch.storage\n_load_from_bytes\nB" + struct.pack("<I", len(storage)) + storage + b"\x85R"
    rest = b"".join(pickle.dumps(part, protocol=2)[2:-1] for part in (offset, size, stride, False))
    return b"\x80\x03]ctorch._utils\n_rebuild_tensor_v2\n(" + load + rest + b"tRa."


def storage_of(values: torch.Tensor) -> bytes:
    """As torch pickles it."""
    return values.storage().__reduce__()[1][0]


@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")
def test_many_tensors_of_one_storage_take_no_more_memory(tmp_path: Path) -> None:
    """A pickle of some kilobytes more can name the same bytes, and the same storage, a thousand times."""
    content = storage_of(torch.zeros(10**5))
    sizes = b"K\x00" + pickle.dumps((10**5,), protocol=2)[2:-1] + b"K\x01\x85\x89tRa"
    start = b"\x80\x03]B" + struct.pack("<I", len(content)) + content + b"q\x640"
    start += b"ctorch.storage\n_load_from_bytes\nq\x650ctorch._utils\n_rebuild_tensor_v2\nq\x660h\x65h\x64\x85Rq\x670"
    for again in (b"h\x66(h\x67" + sizes, b"h\x66(h\x65h\x64\x85R" + sizes):
        path = write(tmp_path / "tensors.npy", start + 1000 * again + b".")
        tracemalloc.start()
        found = read_npy(path)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert [array.shape for array in found] == [(10**5,)] * 1000 and most < 10**7


@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")
def test_a_tensor_that_lies_is_refused(tmp_path: Path) -> None:
    sound = storage_of(torch.tensor([1.0, 2.0]))
    assert read_npy(write(tmp_path / "sound.npy", tensor(sound)))[0].tolist() == [1, 2]
    trace = tmp_path / "trace"
    evil = pickle.dumps(Harm(trace), protocol=2)
    start = sound.index(b"\x80\x02(X\x07\x00\x00\x00storage")
    for name, program in {
        "cut off": tensor(sound[:-1]),
        "too long": tensor(sound + b"\0"),
        "another count": tensor(sound[:-16] + struct.pack("<q", 2**40) + sound[-8:]),
        "no storage": tensor(b""),
        "another format": tensor(sound.replace(b"\xe9\x03", b"\xea\x03", 1)),
        "the other order of bytes": tensor(sound.replace(b"little_endianq\x02\x88", b"little_endianq\x02\x89")),
        "another kind": tensor(sound.replace(b"FloatStorage", b"EvilsStorage")),
        "a command as its version": tensor(evil + sound[sound.index(b"\x80\x02M") :]),
        "a command in its place": tensor(sound[:start] + evil + sound[start:]),
        "beyond its numbers": tensor(sound, size=(3,)),
        "from beyond": tensor(sound, offset=1),
        "strides beyond": tensor(sound, stride=(2,)),
        "backwards": tensor(sound, offset=1, stride=(-1,)),
        "the same number a trillion times": tensor(sound, size=(2**39,), stride=(0,)),
        "beyond all numbers": tensor(sound, size=(2**62, 4), stride=(0, 0)),
        "more sides than strides": tensor(sound, size=(1, 2)),
        "no numbers": b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(K\x01K\x00)) tR.",
        "changed": b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n}X\x01\x00\x00\x00xK\x01sb.",
    }.items():
        with pytest.raises(DataError) as caught:
            read_npy(write(tmp_path / "hostile.npy", program))
        assert is_one_clear_line(caught.value, tmp_path / "hostile.npy"), name
    assert not trace.exists()
