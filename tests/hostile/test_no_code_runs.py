"""A pickle with a command in it is run by no reader, whatever the file is called and however it is packed."""

from __future__ import annotations

import functools
import io
import json
import pickle
import shutil
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from harm import Harm, is_one_clear_line
from review_case import make_review_run

from weakclip.clip import FrozenCLIP, load_clip
from weakclip.clip.openai_archive import read_openai_state
from weakclip.clip.vocabulary import load_tokenizer
from weakclip.config import load_config
from weakclip.crf.files import read_probs
from weakclip.datasets import Sample
from weakclip.datasets.class_files import read_class_file
from weakclip.datasets.classes import ClassSet
from weakclip.datasets.voc_labels import read_label_npy
from weakclip.errors import WeakCLIPError
from weakclip.modeling import build_weakclip, load_weakclip, save_weakclip
from weakclip.modeling.state_files import read_state
from weakclip.pipeline.context import open_run
from weakclip.prediction import load_predictor
from weakclip.review.folder import ReviewFolder
from weakclip.seeds import ImportedCAMs
from weakclip.seeds.affinitynet.storage import load_affinitynet
from weakclip.seeds.mctformer.storage import load_mctformer
from weakclip.segmenters.segmenter import build_segmenter, load_segmenter, save_segmenter
from weakclip.store.untrusted_npy import read_npy, read_npz
from weakclip.training.checkpoint import load_checkpoint

SAMPLE = Sample("photo", np.zeros((4, 6, 3), np.uint8), (1,))


def raw_pickle(path: Path, harm: Harm) -> None:
    path.write_bytes(pickle.dumps({"state_dict": {"x": harm}}, protocol=2))


def object_array(path: Path, harm: Harm) -> None:
    np.save(path, np.array({"photo": harm}, dtype=object), allow_pickle=True)


def array_of_one_object(path: Path, harm: Harm) -> None:
    np.save(path, harm, allow_pickle=True)  # type: ignore[arg-type]


def object_arrays(path: Path, harm: Harm) -> None:
    np.savez(path, probs=np.array({"photo": harm}, dtype=object))


def torch_file(path: Path, harm: Harm) -> None:
    torch.save({"state_dict": {"x": harm}, "model": {"x": harm}}, path)


def old_torch_file(path: Path, harm: Harm) -> None:
    torch.save({"model": {"x": harm}}, path, _use_new_zipfile_serialization=False)


def torchscript(path: Path, harm: Harm, part: str = "data.pkl") -> None:
    """What `torch.jit.save` writes, with the command in one of its pickles and in its program."""
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("data.pkl", "constants.pkl"):
            archive.writestr(f"clip/{name}", pickle.dumps(harm if name == part else {}, protocol=2))
        archive.writestr("clip/version", "3\n")
        archive.writestr("clip/code/__torch__.py", f"import os\nos.system('touch {harm.marker}')\n")


WRITERS: dict[str, Callable[[Path, Harm], None]] = {
    "pickle": raw_pickle,
    "object array": object_array,
    "array of one object": array_of_one_object,
    "object arrays": object_arrays,
    "torch": torch_file,
    "old torch": old_torch_file,
    "TorchScript": torchscript,
    "TorchScript constants": functools.partial(torchscript, part="constants.pkl"),
}


def cams(path: Path) -> Any:
    return ImportedCAMs(path.parent, ClassSet.from_foreground(["cat"])).cam(SAMPLE)


READERS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "read_npy": ("photo.npy", read_npy),
    "read_npz": ("photo.npz", read_npz),
    "cls_labels.npy": ("cls_labels.npy", read_label_npy),
    "CAMs in .npy": ("photo.npy", cams),
    "CAMs in .npz": ("photo.npz", cams),
    "probabilities in .npy": ("photo.npy", read_probs),
    "probabilities in .npz": ("photo.npz", read_probs),
    "a released WeakCLIP": ("weights.pth", load_weakclip),
    "an OpenAI CLIP": ("weights.pt", load_clip),
    "an OpenAI CLIP's weights": ("weights.pth", read_openai_state),
    "MCTformer+": ("weights.pth", load_mctformer),
    "MCTformer+ as safetensors": ("weights.safetensors", load_mctformer),
    "AffinityNet": ("weights.safetensors", load_affinitynet),
    "a trunk": ("weights.pth", read_state),
    "a checkpoint": ("checkpoint.safetensors", load_checkpoint),
    "a vocabulary": ("bpe.txt.gz", lambda path: load_tokenizer(str(path))),
}


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("reader", READERS)
def test_a_command_in_a_pickle_does_not_run(tmp_path: Path, harm: Harm, writer: str, reader: str) -> None:
    name, read = READERS[reader]
    path = tmp_path / name
    made = io.BytesIO()
    WRITERS[writer](made if "array" in writer or "torch" in writer else path, harm)  # type: ignore[arg-type]
    if made.getvalue():
        path.write_bytes(made.getvalue())
    with pytest.raises(WeakCLIPError) as caught:
        read(path)
    assert is_one_clear_line(caught.value, path)
    assert not harm.marker.exists()


@pytest.mark.parametrize("tag", ["apply", "new"])
@pytest.mark.parametrize("read", [load_config, read_class_file], ids=["config", "classes"])
def test_yaml_makes_no_objects(tmp_path: Path, read: Callable[[Path], Any], tag: str) -> None:
    path, marker = tmp_path / "hostile.yaml", tmp_path / "ran"
    path.write_text(f"names: !!python/object/{tag}:os.system ['touch {marker}']\n")
    with pytest.raises(WeakCLIPError, match="could not determine a constructor") as caught:
        read(path)
    assert is_one_clear_line(caught.value, path) and not marker.exists()


def test_a_setting_makes_no_objects(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    with pytest.raises(WeakCLIPError, match="could not determine a constructor"):
        load_config("demo", [f"seed=!!python/object/apply:os.system ['touch {marker}']"])
    assert not marker.exists()


EVIL = "import pathlib\npathlib.Path({marker!r}).touch()\nclass Evil:\n    pass\n"


def remote_code(folder: Path, marker: Path) -> None:
    """A folder for transformers that names a Python file of its own for everything."""
    folder.mkdir()
    auto = dict.fromkeys(("AutoConfig", "AutoModelForSemanticSegmentation", "AutoModel"), "evil.Evil")
    auto |= {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}
    for kind in ("config", "tokenizer_config", "preprocessor_config"):
        (folder / f"{kind}.json").write_text(json.dumps({"model_type": "evil", "auto_map": auto}))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "evil.py").write_text(EVIL.format(marker=str(marker)))


@pytest.mark.parametrize("read", [load_segmenter, load_clip, load_tokenizer], ids=["network", "CLIP", "tokenizer"])
@pytest.mark.timeout(60)
def test_a_folder_for_transformers_brings_no_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: Callable[[str], Any]
) -> None:
    """Nor does anybody ask whether it may: the question would wait for an answer, and yes would be one."""
    monkeypatch.setattr("sys.stdin", io.StringIO("y\ny\ny\n"))
    folder, marker = tmp_path / "model", tmp_path / "ran"
    remote_code(folder, marker)
    with pytest.raises(WeakCLIPError) as caught:
        read(str(folder))
    assert is_one_clear_line(caught.value, folder) and not marker.exists()


ELSEWHERE: dict[str, tuple[dict[str, Any], str]] = {
    "a kernel": ({"attn_implementation": "somebody/kernel"}, "a program from elsewhere"),
    "kernels by part": ({"attn_implementation": {"vision_config": "somebody/kernel"}}, "a program from elsewhere"),
    "a kernel within": ({"text_config": {"attn_implementation": "somebody/kernel"}}, "a program from elsewhere"),
    "a backbone": ({"backbone": "somebody/backbone", "backbone_config": None}, "lies elsewhere"),
    "a backbone within": ({"backbone_config": {"backbone": "somebody/backbone"}}, "lies elsewhere"),
    "a million layers": ({"vision_config": {"num_hidden_layers": 10**6}}, "at most 1,000"),
    "layers in parts": ({"backbone_config": {"depths": [10**5] * 4}}, "at most 1,000"),
}


@pytest.mark.parametrize("name", ELSEWHERE)
@pytest.mark.parametrize("kind", ["network", "CLIP"])
@pytest.mark.timeout(60)
def test_a_description_for_transformers_fetches_nothing(
    tmp_path: Path, clip_folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, kind: str
) -> None:
    """Of a whole folder: a kernel and a backbone would come from the hub, with code, though all else is here."""

    def network(*asked: object, **_: object) -> None:
        raise AssertionError(f"fetches {asked}")

    folder, (changes, words) = tmp_path / "model", ELSEWHERE[name]
    if kind == "network":
        save_segmenter(build_segmenter("small", ClassSet.from_foreground(["cat"])), folder)
    else:
        shutil.copytree(clip_folder, folder)
    load: Callable[[Path], Any] = load_segmenter if kind == "network" else load_clip
    load(folder)
    config = json.loads((folder / "config.json").read_text())
    for key, value in changes.items():
        both = isinstance(value, dict) and isinstance(config.get(key), dict)
        config[key] = config[key] | value if both else value
    (folder / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr("socket.socket.connect", network)
    with pytest.raises(WeakCLIPError, match=words) as caught:
        load(folder)
    assert is_one_clear_line(caught.value, folder)


def test_weights_that_are_pickled_in_a_folder_for_transformers_run_nothing(clip_folder: Path, tmp_path: Path) -> None:
    marker, folder = tmp_path / "ran", tmp_path / "clip"
    folder.mkdir()
    for file in clip_folder.iterdir():
        if file.suffix != ".safetensors":
            (folder / file.name).write_bytes(file.read_bytes())
    torch.save({"x": Harm(marker)}, folder / "pytorch_model.bin")
    with pytest.raises(WeakCLIPError) as caught:
        load_clip(folder)
    assert is_one_clear_line(caught.value, folder) and not marker.exists()


def test_an_image_in_another_format_starts_no_other_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow hands Encapsulated PostScript to Ghostscript, whatever the file is called."""
    from weakclip.datasets.images import read_rgb

    marker, tools = tmp_path / "ran", tmp_path / "bin"
    tools.mkdir()
    (tools / "gs").write_text(f"#!/bin/sh\ntouch {marker}\n")
    (tools / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)
    path = tmp_path / "photo.jpg"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n")
    with pytest.raises(WeakCLIPError, match="not an image that is read") as caught:
        read_rgb(path)
    assert is_one_clear_line(caught.value, path) and not marker.exists()


def test_a_function_of_the_reader_cannot_be_changed_from_a_pickle(tmp_path: Path) -> None:
    """`BUILD` sets attributes of whatever is on the stack: of an admitted function too, were it not refused."""
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "|O", "fortran_order": False, "shape": ()})
    program = b"\x80\x02cnumpy.core.multiarray\nscalar\nN}X\x0c\x00\x00\x00__defaults__K\x01\x85s\x86b."
    path = tmp_path / "hostile.npy"
    path.write_bytes(head.getvalue() + program)
    with pytest.raises(WeakCLIPError, match="refused to change a function"):
        read_npy(path)
    rows = {"photo": np.arange(3, dtype=np.float32), "number": np.float32(1)}
    np.save(tmp_path / "good.npy", rows)  # type: ignore[arg-type]
    assert read_npy(tmp_path / "good.npy")["number"] == 1


CODE = "python:evil_encoder:build"


@pytest.fixture
def evil_run(tmp_path: Path, make_tiny_clip: Callable[..., FrozenCLIP], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run folder of somebody else that names a module; it lies where one stands, and its import leaves `ran`."""
    run = make_review_run(tmp_path)
    (tmp_path / "evil_encoder.py").write_text(EVIL.format(marker=str(tmp_path / "ran")) + "build = Evil\n")
    monkeypatch.chdir(tmp_path)
    config = yaml.safe_load((run / "config.yaml").read_text()) | {"clip": {"source": CODE}}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    numbers = {"co_attention_width": 8, "co_attention_heads": 2, "co_attention_layers": 1, "decoder_channels": 8}
    clip = make_tiny_clip()
    clip.source = CODE
    save_weakclip(build_weakclip(clip, ClassSet.from_foreground(["cat", "dog"]), **numbers), run / "2_train")
    return run


@pytest.mark.parametrize("taps", [True, False], ids=["as of a CLIP", "as of another encoder"])
def test_a_foreign_run_brings_no_encoder_of_its_own(
    evil_run: Path,
    taps: bool,
    call: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Whatever is done with it, and wherever the name stands; what needs the encoder says who may name it."""
    marker, description = evil_run.parent / "ran", evil_run / "2_train/weakclip.json"
    if not taps:
        told = json.loads(description.read_text())
        told["clip"]["tap_layers"] = None
        description.write_text(json.dumps(told))
    for read in (load_weakclip, load_predictor):
        with pytest.raises(WeakCLIPError, match="pass it yourself: `clip` in Python, or --clip python:") as caught:
            read(evil_run / "2_train")
        assert is_one_clear_line(caught.value, evil_run / "2_train")
    with pytest.raises(WeakCLIPError, match="never from a folder of results"):
        _ = open_run(evil_run).clip
    with pytest.raises(WeakCLIPError, match="never from a folder of results"):
        open_run(evil_run).fingerprint("CLIP weights")
    with pytest.raises(WeakCLIPError, match="never from a folder of results"):
        load_clip(CODE)
    assert call("predict", evil_run, "mine/images", "--out", "masks") == 2
    assert "--clip python:MODULE:FUNCTION" in capsys.readouterr().err
    for command in (
        ["export", "onnx", evil_run, "--out", "a.onnx"],
        ["export", "transformers", evil_run, "--out", "b"],
    ):
        assert call(*command) == 2
    assert call("report", evil_run) == 0
    assert len(ReviewFolder(evil_run).dataset) == 4
    assert not marker.exists() and "evil_encoder" not in sys.modules


def test_ones_own_word_is_followed(evil_run: Path, call: Callable[..., int]) -> None:
    """The guard of the test above: named by --clip, the module is imported."""
    marker = evil_run.parent / "ran"
    assert call("predict", evil_run, "mine/images", "--out", "masks", "--clip", CODE) == 2
    assert marker.exists()
    sys.modules.pop("evil_encoder")
