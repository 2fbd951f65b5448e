"""ImageNet's ResNet38 in the MXNet format of its authors: written by the test, read back, refused where damaged."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from weakclip.errors import WeightsError
from weakclip.segmenters.resnet38 import ResNet38
from weakclip.segmenters.trunk_files import start_from_imagenet
from weakclip.store.untrusted_mxnet import read_mxnet

WIDTHS = (4, 4, 8, 8, 16, 16, 32)
V1, V2 = 0xF993FAC8, 0xF993FAC9
TYPES = {"float32": 0, "float64": 1, "float16": 2, "int64": 6}


def mxnet_name(name: str) -> str:
    """The name of a tensor of the released code in the authors' file: `b4_5.conv_branch2a.weight` and so on."""
    *layers, kind = name.split(".")
    kinds = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_var"}
    prefix = "aux" if kind.startswith("running") else "arg"
    if len(layers) == 1:
        return f"{prefix}:{layers[0]}_{kind if layers[0] == 'conv1a' else kinds[kind]}"
    stage, _, index = layers[0].removeprefix("b").partition("_")
    layer, _, branch = layers[1].partition("_")
    block = f"{stage}b{index}" if index else f"{stage}a"
    return f"{prefix}:{'res' if layer == 'conv' else 'bn'}{block}_{branch}_{kind if layer == 'conv' else kinds[kind]}"


def array_bytes(value: np.ndarray, layout: int | None) -> bytes:
    """One array; `layout` is None for files of before 2017."""
    dimensions = struct.pack("<I", value.ndim) + struct.pack(f"<{value.ndim}{'q' if layout else 'I'}", *value.shape)
    head = {None: b"", V1: struct.pack("<I", V1), V2: struct.pack("<Ii", V2, 0)}[layout]
    return head + dimensions + struct.pack("<iii", 1, 0, TYPES[str(value.dtype)]) + value.tobytes()


def params_bytes(arrays: dict[str, np.ndarray], layout: int | None = None) -> bytes:
    parts = [struct.pack("<QQQ", 0x112, 0, len(arrays)), *(array_bytes(each, layout) for each in arrays.values())]
    parts += [struct.pack("<Q", len(arrays)), *(struct.pack("<Q", len(name)) + name.encode() for name in arrays)]
    return b"".join(parts)


def trunk_arrays() -> tuple[dict[str, Tensor], dict[str, np.ndarray]]:
    torch.manual_seed(3)
    state = {name: torch.rand_like(value) for name, value in ResNet38(WIDTHS).state_dict().items() if value.ndim}
    arrays = {mxnet_name(name): value.numpy() for name, value in state.items()}
    return state, arrays | {"arg:linear1000_weight": np.zeros((10, 32), dtype=np.float32)}


@pytest.mark.parametrize("layout", [None, V1, V2])
def test_the_file_of_the_authors_fills_every_tensor(layout: int | None, tmp_path: Path) -> None:
    state, arrays = trunk_arrays()
    (tmp_path / "a1.params").write_bytes(params_bytes(arrays, layout))
    trunk = ResNet38(WIDTHS)
    start_from_imagenet(trunk, tmp_path / "a1.params")
    filled = trunk.state_dict()
    assert len(state) == len(filled) - sum(name.endswith("num_batches_tracked") for name in filled)
    for name, value in state.items():
        assert torch.equal(filled[name], value), name


@pytest.mark.parametrize("kind", ["float32", "float64", "float16", "int64"])
def test_arrays_of_every_type_are_read_as_they_were_written(kind: str, tmp_path: Path) -> None:
    arrays = {"a": np.arange(6).reshape(2, 3).astype(kind), "b": np.ones(1, dtype=kind)}
    (tmp_path / "a.params").write_bytes(params_bytes(arrays))
    found = read_mxnet(tmp_path / "a.params")
    assert found.keys() == arrays.keys()
    assert all(np.array_equal(found[name], arrays[name]) and found[name].dtype == kind for name in arrays)


def with_shape(shape: tuple[int, ...]) -> bytes:
    """A file whose one array claims a shape and has eight bytes."""
    dimensions = struct.pack(f"<I{len(shape)}q", len(shape), *shape)
    return struct.pack("<QQQI", 0x112, 0, 1, V1) + dimensions + struct.pack("<iii", 1, 0, 0) + bytes(8)


WHOLE = params_bytes({"a": np.zeros(2, dtype=np.float32)})
SPARSE = WHOLE[:24] + struct.pack("<Ii", V2, 1) + bytes(60)
DAMAGED = {
    "empty": (b"", "does not begin as a list"),
    "another file": (b"PK" + bytes(40), "does not begin as a list"),
    "a trillion values": (with_shape((10**6, 10**6)), r"4,000,000,000,000 bytes are announced where 8 are left"),
    "beyond all numbers": (with_shape((2**62, 2**62)), "bytes are announced"),
    "negative": (with_shape((-1, 2)), r"type 0 and shape \[-1, 2\]"),
    "many dimensions": (WHOLE[:24] + struct.pack("<I", 5000) + bytes(60), "5000 dimensions; expected 1 to 8"),
    "many arrays": (struct.pack("<QQQ", 0x112, 0, 2**60) + bytes(60), "arrays; expected at most 10,000"),
    "sparse": (SPARSE, "storage type 1; expected dense ones"),
    "unknown type": (WHOLE[:40] + struct.pack("<i", 99) + WHOLE[44:], "type 99"),
    "long name": (WHOLE[:60] + struct.pack("<Q", 2**40) + b"a", "letters in a name; expected at most 200"),
    "control characters": (WHOLE[:-1] + b"\x1b", "without control characters"),
    "more bytes": (WHOLE + b"x", "1 bytes after the last name"),
    "twice": (
        params_bytes({"a": np.zeros(1, np.float32), "b": np.zeros(1, np.float32)})[:-1] + b"a",
        "2 arrays with 1",
    ),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_file_is_one_line(name: str, tmp_path: Path) -> None:
    content, told = DAMAGED[name]
    (tmp_path / "a1.params").write_bytes(content)
    with pytest.raises(WeightsError, match=told) as error:
        start_from_imagenet(ResNet38(WIDTHS), tmp_path / "a1.params")
    message = str(error.value)
    assert message.startswith(f"{tmp_path / 'a1.params'}: not an MXNet file") and "\n" not in message


def test_every_shorter_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a1.params"
    for length in range(len(WHOLE)):
        path.write_bytes(WHOLE[:length])
        with pytest.raises(ValueError, match=r"announced|begin"):
            read_mxnet(path)
    path.write_bytes(WHOLE)
    assert read_mxnet(path)["a"].shape == (2,)


def test_another_network_and_a_missing_file_are_told(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"a1\.params: no such file; expected weights as \.params"):
        start_from_imagenet(ResNet38(WIDTHS), tmp_path / "a1.params")
    _, arrays = trunk_arrays()
    (tmp_path / "a1.params").write_bytes(params_bytes(arrays | {"arg:conv1a_weight": np.zeros(3, np.float32)}))
    with pytest.raises(WeightsError, match=r"does not fit ResNet38: conv1a\.weight \(3,\), expected \(4, 3, 3, 3\)"):
        start_from_imagenet(ResNet38(WIDTHS), tmp_path / "a1.params")
