"""Small files that stand for endless work or memory, and files that lie about what they hold."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import struct
import sys
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from harm import is_one_clear_line

from weakclip.clip import FrozenCLIP
from weakclip.clip.openai_archive import convert_openai_state, read_openai_state
from weakclip.clip.vocabulary import read_merges
from weakclip.config import load_config
from weakclip.crf.files import read_probs
from weakclip.datasets import FolderDataset
from weakclip.datasets.class_files import read_class_file
from weakclip.datasets.classes import LONGEST_NAME, ClassSet
from weakclip.datasets.coco_instances import read_index
from weakclip.datasets.images import image_size, read_mask, read_rgb
from weakclip.datasets.label_files import read_label_rows
from weakclip.errors import DataError, WeakCLIPError, WeightsError
from weakclip.modeling import ModelSettings, load_weakclip, save_weakclip
from weakclip.modeling.state_files import read_state
from weakclip.report import render_report
from weakclip.seeds.affinitynet.storage import load_affinitynet
from weakclip.seeds.attributes import read_attributes
from weakclip.seeds.mctformer.storage import load_mctformer
from weakclip.store.manifest import Manifest
from weakclip.store.marks import read_marks
from weakclip.store.untrusted_npy import read_npy, read_npz
from weakclip.store.untrusted_text import is_plain, one_line, parse_json, parse_yaml, short
from weakclip.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint

pytestmark = pytest.mark.timeout(60)

LAUGHS = "a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol, lol]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 30)
)
MERGES = "a0: &a0 {k: 1}\n" + "".join(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}\n" for n in range(1, 30))
YAMLS = {
    "billion laughs": LAUGHS,
    "merged billion laughs": MERGES,
    "laughs in a known key": LAUGHS + "data: *a29\nnames: *a29\n",
    "few laughs in a known key": "x: &x [[1, 2], [3, 4]]\nnames: [*x, *x]\ndata: {dataset: *x, root: *x}\n",
    "itself": "names: &a [*a]\ndata: &b {dataset: *b}\n",
    "deep": "[" * 100_000,
    "deep mapping": "".join(" " * n + "a:\n" for n in range(2000)),
    "no such day": "names: 2001-13-45\n",
    "a long number": "names: " + "9" * 5000 + "\n",
    "no number": "names: !!int 'x'\n",
    "no truth": "names: !!bool 'x'\n",
    "a list as a key": "? [a]\n: b\n",
    "a set": "names: !!set {a}\n",
    "control characters": 'names: "\\0\\x1b"\ndata: {dataset: folder, root: "a\\0b"}\n',
    "half a letter": 'names: ["\\uD800"]\ndata: {dataset: folder, root: "\\uD800"}\n',
    "two documents": "a: 1\n---\nb: 2\n",
    "nothing": "",
    "unknown alias": "names: *nobody\n",
}


def cat_attributes(path: Path) -> Any:
    return read_attributes(path, ClassSet.from_foreground(["cat"]))


@pytest.mark.parametrize("text", YAMLS.values(), ids=YAMLS)
@pytest.mark.parametrize(
    "read", [load_config, read_class_file, cat_attributes], ids=["config", "classes", "attributes"]
)
def test_yaml_is_bounded_and_wrong_in_one_line(tmp_path: Path, read: Callable[[Path], Any], text: str) -> None:
    path = tmp_path / "hostile.yaml"
    path.write_text(text)
    with pytest.raises(WeakCLIPError) as caught:
        read(path)
    assert is_one_clear_line(caught.value, path) and is_plain(str(caught.value))


def test_ordinary_aliases_are_read() -> None:
    assert parse_yaml("a: &x {k: [1]}\nb: *x\nc: {<<: *x, l: 2}") == {
        "a": {"k": [1]},
        "b": {"k": [1]},
        "c": {"k": [1], "l": 2},
    }


DEEP = "[" * 200_000


@pytest.mark.parametrize(
    ("name", "text", "read"),
    [
        ("labels.jsonl", DEEP, read_label_rows),
        ("labels.jsonl", '{"image": "a", "labels": ' + DEEP, read_label_rows),
        ("instances.json", '{"images": [' + DEEP, read_index),
        ("instances.json", '{"other": ' + DEEP, read_index),
        ("manifest.json", DEEP, lambda path: Manifest.open(path.parent)),
        ("manifest.json", DEEP, lambda path: render_report(path.parent)),
        ("weakclip.json", DEEP, load_weakclip),
        ("attributes.json", DEEP, cat_attributes),
    ],
)
def test_json_that_is_nested_without_end_is_one_line(
    tmp_path: Path, name: str, text: str, read: Callable[[Path], Any]
) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(WeakCLIPError) as caught:
        read(path)
    assert is_one_clear_line(caught.value, path)


def test_a_mark_that_is_nested_without_end_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "marks.jsonl").write_text(DEEP + '\n{"image": "a", "mark": "bad"}\n')
    marks, torn = read_marks(tmp_path / "marks.jsonl")
    assert torn == 1 and list(marks) == ["a"]


def test_text_for_people_is_short_and_plain() -> None:
    endless: list[Any] = []
    for _ in range(60):
        endless = [endless, endless]
    assert len(short(endless)) < 300 and len(short("x" * 10**6)) < 300
    assert one_line("a\x1b[2J\n\u202eb\ud800") == "a\\x1b[2J \\u202eb\\ud800"
    with pytest.raises(ValueError, match="nested too deeply"):
        parse_json(DEEP)


def test_the_command_line_prints_no_control_characters(
    tmp_path: Path, call: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("run", tmp_path / "\x1b[2J\x1b]0;title\x07.yaml", "--out", tmp_path / "run") == 2
    said = capsys.readouterr().err
    assert "\x1b" not in said and "\x07" not in said and "\\x1b[2J" in said


@pytest.mark.parametrize(
    "name", ["\x1b[2J", "two\nlines", "\0", "x" * (LONGEST_NAME + 1), "\u2029", "\ud800", "\u202e"]
)
def test_a_class_name_has_no_control_characters_and_an_end(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="class name") as caught:
        ClassSet.from_foreground([name])
    assert "\n" not in str(caught.value) and is_plain(str(caught.value)) and len(str(caught.value)) < 500
    ClassSet.from_foreground(["<script>alert(1)</script>", "x" * LONGEST_NAME, "ünï 日本", "👩‍👧"])


def npy(data: bytes) -> bytes:
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "|O", "fortran_order": False, "shape": ()})
    return head.getvalue() + data


PICKLES = {
    "a text of a terabyte": b"\x80\x04\x8d" + struct.pack("<Q", 2**40) + b"x.",
    "bytes by their number": b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n)R(K\x01K\x05\x85cnumpy\ndtype\n"
    b"X\x02\x00\x00\x00u1\x85R\x89\x8a\x05\x00\x00\x00\x00\x01tb.",
    "a byte array of two gigabytes": b"\x80\x05\x96" + struct.pack("<Q", 2**31) + b"x.",
    "itself": b"\x80\x02]q\x00h\x00a.",
    "two objects in the place of one": b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n)R(K\x01K\x02\x85cnumpy\ndtype\n"
    b"X\x02\x00\x00\x00O8\x85R\x89](K\x01K\x02etb.",
    "a list of nothing": b"\x80\x02e.",
}


@pytest.mark.parametrize("program", PICKLES.values(), ids=PICKLES)
def test_a_pickle_cannot_reserve_what_it_does_not_hold(tmp_path: Path, program: bytes) -> None:
    path = tmp_path / "hostile.npy"
    path.write_bytes(npy(program))
    tracemalloc.start()
    with pytest.raises(DataError) as caught:
        read_npy(path)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert is_one_clear_line(caught.value, path)
    assert most < 10**7


def test_a_place_in_the_memo_far_away_reserves_nothing(tmp_path: Path) -> None:
    (tmp_path / "far.npy").write_bytes(npy(b"\x80\x02]r\xff\xff\xff\x7f."))
    assert read_npy(tmp_path / "far.npy") == []


def test_lists_that_share_their_parts_are_walked_once(tmp_path: Path) -> None:
    value: list[Any] = [1]
    for _ in range(60):
        value = [value, value]
    (tmp_path / "shared.npy").write_bytes(npy(pickle.dumps(value, protocol=2)))
    found = read_npy(tmp_path / "shared.npy")
    for _ in range(60):
        assert found[0] is found[1]
        found = found[0]
    assert found == [1]


@pytest.mark.parametrize("shape", [(2**50,), (2**62, 8), (-1,), (10**30,)])
def test_an_array_that_claims_more_than_it_has_is_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "<f4", "fortran_order": False, "shape": shape})
    path = tmp_path / "hostile.npy"
    path.write_bytes(head.getvalue() + b"1234")
    for read in (read_npy, read_probs):
        with pytest.raises(DataError) as caught:
            read(path)
        assert is_one_clear_line(caught.value, path)


def test_a_zip_bomb_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "bomb.npz"
    np.savez_compressed(path, probs=np.zeros((100, 100, 100), np.float32))
    assert read_probs(path).shape == (100, 100, 100) and path.stat().st_size < 10_000
    monkeypatch.setattr("weakclip.store.untrusted_npy.MOST_BYTES", 10**6)
    for read in (read_npz, read_probs):
        with pytest.raises(DataError, match="when unpacked") as caught:
            read(path)
        assert is_one_clear_line(caught.value, path)


def test_a_packed_vocabulary_is_unpacked_so_far_and_no_further(tmp_path: Path) -> None:
    path = tmp_path / "bpe.txt.gz"
    path.write_bytes(gzip.compress(b"\n" * 2**26))
    with pytest.raises(WeightsError) as caught:
        read_merges(path)
    assert is_one_clear_line(caught.value, path)
    damaged = bytearray(gzip.compress(bytes(range(256)) * 100))
    damaged[40:60] = b"\xff" * 20
    path.write_bytes(bytes(damaged))
    with pytest.raises(WeightsError) as caught:
        read_merges(path)
    assert is_one_clear_line(caught.value, path)


def header(content: object, size: int | None = None) -> bytes:
    text = json.dumps(content).encode() if not isinstance(content, bytes) else content
    return struct.pack("<Q", len(text) if size is None else size) + text


HEADERS = {
    "longer than the file": header({}, 10**6),
    "of a terabyte": header({}, 2**40),
    "of all memory": header({}, 2**64 - 1),
    "offsets beyond the end": header({"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}),
    "a shape that is not its bytes": header({"x": {"dtype": "F32", "shape": [9], "data_offsets": [0, 4]}}) + b"1234",
    "a shape beyond all numbers": header({"x": {"dtype": "F32", "shape": [2**62, 8], "data_offsets": [0, 4]}})
    + b"1234",
    "offsets that turn round": header({"x": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}}) + b"1234",
    "overlaps": header(
        {name: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]} for name in ("x", "y")},
    )
    + b"1234",
    "an unknown type": header({"x": {"dtype": "F3", "shape": [1], "data_offsets": [0, 4]}}) + b"1234",
    "no JSON": header(b"{{{"),
    "nested": header(b"[" * 100_000),
    "nothing": b"",
}


@pytest.mark.parametrize("content", HEADERS.values(), ids=HEADERS)
@pytest.mark.parametrize("read", [read_state, load_checkpoint, load_affinitynet, load_mctformer])
def test_a_safetensors_header_that_lies_is_refused(tmp_path: Path, read: Callable[[Path], Any], content: bytes) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(content)
    with pytest.raises(WeightsError) as caught:
        read(path)
    assert is_one_clear_line(caught.value, path)


ODD_TENSORS: dict[str, Callable[[], torch.Tensor]] = {
    "four bytes shown as a trillion": lambda: torch.zeros(1).expand(2**40),
    "sparse": lambda: torch.eye(3).to_sparse(),
    "meta": lambda: torch.empty(2**40, device="meta"),
}


@pytest.mark.parametrize("make", ODD_TENSORS.values(), ids=ODD_TENSORS)
@pytest.mark.parametrize("read", [read_state, load_weakclip, read_openai_state])
def test_a_tensor_without_its_memory_is_refused(
    tmp_path: Path, read: Callable[[Path], Any], make: Callable[[], torch.Tensor]
) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"state_dict": {"visual.proj": make()}, "model": {"x": make()}}, path)
    with pytest.raises(WeightsError) as caught:
        read(path)
    assert is_one_clear_line(caught.value, path)


def torchscript(path: Path, program: bytes, **data: bytes) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("clip/data.pkl", program)
        archive.writestr("clip/constants.pkl", b"N.")
        for key, content in data.items():
            archive.writestr(f"clip/data/{key}", content)


def tensor_program(count: int, size: tuple[int, ...], stride: tuple[int, ...]) -> bytes:
    """The pickle of a module with one tensor, as TorchScript writes it."""

    def number(value: int) -> bytes:
        return b"\x8a\x08" + value.to_bytes(8, "little", signed=True)

    def numbers(values: tuple[int, ...]) -> bytes:
        return b"(" + b"".join(map(number, values)) + b"t"

    storage = (
        b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x00kX\x03\x00\x00\x00cpu" + number(count) + b"tQ"
    )
    tensor = (
        b"ctorch._utils\n_rebuild_tensor_v2\n("
        + storage
        + number(0)
        + numbers(size)
        + numbers(stride)
        + b"\x89N"
        + b"tR"
    )
    return b"\x80\x02c__torch__.clip\nModel\n)\x81}(X\x01\x00\x00\x00x" + tensor + b"ub."


def test_a_torchscript_file_reserves_no_byte_array(tmp_path: Path) -> None:
    path = tmp_path / "clip.pt"
    torchscript(path, PICKLES["a byte array of two gigabytes"])
    with pytest.raises(WeightsError, match="a byte array is cut off") as caught:
        read_openai_state(path)
    assert is_one_clear_line(caught.value, path)


@pytest.mark.parametrize(
    ("size", "stride", "count"), [((2**40,), (0,), 1), ((4,), (1,), 1), ((1,), (1,), 2**40), ((-1,), (1,), 1)]
)
def test_a_torchscript_tensor_beyond_its_bytes_is_refused(
    tmp_path: Path, size: tuple[int, ...], stride: tuple[int, ...], count: int
) -> None:
    path = tmp_path / "clip.pt"
    torchscript(path, tensor_program(count, size, stride), k=b"\0\0\0\0")
    with pytest.raises(WeightsError) as caught:
        read_openai_state(path)
    assert is_one_clear_line(caught.value, path) and "missing visual.proj" not in str(caught.value)


def test_the_torchscript_file_above_is_one_but_for_its_numbers(tmp_path: Path) -> None:
    path = tmp_path / "clip.pt"
    torchscript(path, tensor_program(1, (1,), (1,)), k=b"\0\0\0\0")
    with pytest.raises(WeightsError, match=r"missing visual\.proj"):
        read_openai_state(path)


def test_a_torchscript_entry_that_is_packed_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "clip.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("clip/data.pkl", tensor_program(1, (1,), (1,)))
        archive.writestr("clip/constants.pkl", b"N.")
        archive.writestr("clip/data/k", b"\0" * 10**7)
    with pytest.raises(WeightsError, match="compressed entry"):
        read_openai_state(path)


def test_layers_beyond_the_file_are_not_built() -> None:
    state = {
        "visual.conv1.weight": torch.zeros(64, 3, 2, 2),
        "visual.positional_embedding": torch.zeros(5, 64),
        "token_embedding.weight": torch.zeros(9, 64),
        "positional_embedding": torch.zeros(4, 64),
        "text_projection": torch.zeros(64, 8),
        "visual.transformer.resblocks.0.x": torch.zeros(1000, 1000),
        "transformer.resblocks.999999999.x": torch.zeros(1),
    }
    with pytest.raises(WeightsError, match="999999999"):
        convert_openai_state(state)
    del state["transformer.resblocks.999999999.x"]
    with pytest.raises(WeightsError, match="in all"):
        convert_openai_state(state | {"token_embedding.weight": torch.zeros(1, 64 * 10**5)})


@pytest.mark.parametrize("numbers", [{"widths": [10**6] * 7}, {"radius": 10**9}, {"widths": "x"}, {}, {"widths": [1]}])
def test_an_affinitynet_of_any_size_is_not_built(tmp_path: Path, numbers: dict[str, Any]) -> None:
    path = tmp_path / "net.safetensors"
    known = {"widths": [8] * 7, "reductions": [2, 2, 2], "radius": 5}
    told = json.dumps(known | numbers if numbers else [1])
    path.write_bytes(safetensors.torch.save({"x": torch.zeros(100)}, {"affinitynet": told}))
    with pytest.raises(WeightsError) as caught:
        load_affinitynet(path)
    assert is_one_clear_line(caught.value, path)


@pytest.mark.parametrize("numbers", [{"heads": 10**9}, {"heads": "x"}, {"heads": -1}, {"rank_decay": []}, [1], {}])
def test_an_mctformer_of_any_size_is_not_built(tmp_path: Path, numbers: object) -> None:
    path = tmp_path / "net.safetensors"
    state = {"cls_token": torch.zeros(1, 2, 64), "pos_embed_pat": torch.zeros(1, 4, 64)}
    state |= {"patch_embed.proj.weight": torch.zeros(64, 3, 4, 4), "blocks.0.x": torch.zeros(300, 64)}
    state["cls_token"] = torch.zeros(1, 1, 10**6) if numbers == {} else state["cls_token"]
    path.write_bytes(safetensors.torch.save(state, {"mctformer": json.dumps(numbers)}))
    with pytest.raises(WeightsError) as caught:
        load_mctformer(path)
    assert is_one_clear_line(caught.value, path)


DESCRIPTIONS: dict[str, Any] = {
    "settings.co_attention_width": 2**20,
    "settings.decoder_channels": 2**20,
    "settings.co_attention_layers": 10**9,
    "settings.prompt_length": 10**9,
    "settings.unknown": 1,
    "class_set.names": ["a\x1b[2J", "b", "c"],
    "class_set.colors": [[1, 2]],
    "clip.pixel_mean": [1],
    "clip.pixel_std": "abc",
    "clip.tap_layers": "x",
    "clip": [],
    "version": [1],
}


@pytest.mark.parametrize("key", DESCRIPTIONS)
def test_a_model_description_that_lies_is_refused(
    tmp_path: Path, make_tiny_clip: Callable[..., FrozenCLIP], key: str
) -> None:
    clip = make_tiny_clip(tap_layers=(1, 2, 3, 4))
    settings = ModelSettings(
        prompt_length=2, co_attention_width=8, co_attention_heads=2, co_attention_layers=1, decoder_channels=8
    )
    model = settings.build(clip, ClassSet.from_foreground(["cat", "dog"]))
    folder = save_weakclip(model, tmp_path / "model")
    content: dict[str, Any] = json.loads((folder / "weakclip.json").read_text())
    part = content
    for name in key.split(".")[:-1]:
        part = part[name]
    part[key.rsplit(".", maxsplit=1)[-1]] = DESCRIPTIONS[key]
    (folder / "weakclip.json").write_text(json.dumps(content))
    with pytest.raises(WeakCLIPError) as caught:
        load_weakclip(folder, clip=clip)
    assert is_one_clear_line(caught.value, folder)


CHECKPOINTS: dict[str, Callable[[dict[str, Any]], object]] = {
    "a step before the first": lambda parts: parts.update(step=-5),
    "a step in words": lambda parts: parts.update(step="x"),
    "settings in words": lambda parts: parts.update(settings="x"),
    "no sums": lambda parts: parts["tensors"].update(log={}),
    "a sum that is many": lambda parts: parts["tensors"]["log"].update(loss=torch.zeros(3)),
    "a count that is none": lambda parts: parts["tensors"].update(bad_steps={"total": torch.tensor(float("nan"))}),
    "another group": lambda parts: parts["tensors"].update(code={"x": torch.zeros(1)}),
}


@pytest.mark.parametrize("change", CHECKPOINTS.values(), ids=CHECKPOINTS)
def test_a_checkpoint_of_odd_values_is_refused(tmp_path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    tensors = {"model": {"w": torch.zeros(2)}, "log": {"count": torch.tensor(1.0)}}
    parts: dict[str, Any] = {"step": 1, "tensors": tensors, "settings": {}}
    path = tmp_path / "checkpoint.safetensors"
    save_checkpoint(path, Checkpoint(**parts))
    assert load_checkpoint(path).step == 1
    change(parts)
    save_checkpoint(path, Checkpoint(**parts))
    with pytest.raises(WeightsError, match="broken checkpoint") as caught:
        load_checkpoint(path)
    assert is_one_clear_line(caught.value, path)


def png(width: int, height: int, data: bytes = b"") -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + data + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def text_bomb() -> bytes:
    content = b"comment\0\0" + zlib.compress(b"\0" * 2**28)
    return struct.pack(">I", len(content)) + b"zTXt" + content + struct.pack(">I", zlib.crc32(b"zTXt" + content))


@pytest.mark.parametrize("size", [(2**31 - 1, 2**31 - 1), (50_000, 50_000), (0, 4), (4, 0)])
def test_a_picture_of_endless_size_is_not_unpacked(tmp_path: Path, size: tuple[int, int]) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(png(*size))
    for read in (read_rgb, read_mask, image_size):
        with pytest.raises(DataError) as caught:
            read(path)
        assert is_one_clear_line(caught.value, path)


def test_a_packed_comment_in_a_picture_is_not_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(png(4, 4, text_bomb()))
    with pytest.raises(DataError) as caught:
        read_rgb(path)
    assert is_one_clear_line(caught.value, path)


def test_a_csv_of_one_endless_cell_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    for text in (
        "image,labels\n" + "x" * 10**6,
        "image,labels\n" + '"a\n' * 10**5 + "x,y,z",
        "x" * 10**6,
        "image,labels\na,b,c,d",
    ):
        path.write_text(text)
        with pytest.raises(DataError) as caught:
            read_label_rows(path)
        assert is_one_clear_line(caught.value, path)


@pytest.mark.skipif(sys.platform == "darwin", reason="its file systems refuse such names")
def test_a_file_name_that_is_no_text_is_one_line(tmp_path: Path) -> None:
    from PIL import Image

    (tmp_path / "images").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "images" / "good.png")
    os.rename(tmp_path / "images" / "good.png", bytes(tmp_path / "images") + b"/\xff.png")
    (tmp_path / "labels.csv").write_text("image,labels\nx.png,cat\n")
    with pytest.raises(DataError) as caught:
        FolderDataset(tmp_path, "train")
    assert is_plain(one_line(str(caught.value)))
