"""Coverage-guided fuzzing of the readers of foreign files, with atheris (https://github.com/google/atheris).

    python scripts/fuzz_readers.py                         # the readers
    python scripts/fuzz_readers.py yaml --seconds 300      # one of them, starting from small whole files

A reader may take a file or refuse it by a `WeakCLIPError` of one line. Anything else is a finding: another exception,
five seconds for one file, two gigabytes of memory. The file that did it is kept in `--findings`; what was corrected of
these is a case in tests/hostile/. atheris is no dependency: install it into an environment of its own.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import io
import json
import os
import struct
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CASES_LONGEST = 4096
"""Bytes of a file that is tried, at most; the seeds are smaller."""


LONGEST_MESSAGE = 10_000


@dataclass(frozen=True)
class Target:
    """A reader, and whole files that it takes.

    Args:
        file: the name of the file.
        read: reads it.
        seeds: contents to start from.
        parts: modules that are watched, beside `weakclip`.
    """

    file: str
    read: Callable[[Path], object]
    seeds: Callable[[], list[bytes]]
    parts: tuple[str, ...] = ()


def _images() -> list[bytes]:
    import numpy as np
    from PIL import Image

    seeds = []
    for kind, mode in (("PNG", "RGB"), ("PNG", "P"), ("JPEG", "RGB"), ("GIF", "P"), ("BMP", "RGB"), ("TIFF", "I;16")):
        file, pixels = io.BytesIO(), np.arange(48, dtype=np.uint8).reshape(6, 8)
        image = Image.fromarray(pixels.astype(np.uint16)) if mode == "I;16" else Image.fromarray(pixels).convert(mode)
        exif = Image.Exif()
        exif[0x0112] = 6
        image.save(file, format=kind, **({"exif": exif} if kind in ("PNG", "JPEG", "TIFF") else {}))
        seeds.append(file.getvalue())
    return seeds


def _npy() -> list[bytes]:
    import numpy as np

    values: list[Any] = [np.arange(6.0).reshape(2, 3), {"a": np.zeros(20), 3: np.ones((2, 2), np.float32)}]
    values += [{"keys": np.array([1]), "high_res": np.zeros((1, 4, 6), np.float16)}, {"x": [1, "b", (2.5, None)]}]
    seeds = []
    for value in values:
        file = io.BytesIO()
        np.save(file, value) if isinstance(value, np.ndarray) else _object(file, value)
        seeds.append(file.getvalue())
    return seeds


def _object(file: io.BytesIO, value: Any) -> None:
    """A `.npy` with one object, as numpy writes it."""
    import numpy as np

    wrapped = np.empty((), dtype=object)
    wrapped[()] = value
    np.save(file, wrapped)


def _npz() -> list[bytes]:
    import numpy as np

    seeds = []
    for write in (np.savez, np.savez_compressed):
        file = io.BytesIO()
        write(file, probs=np.full((2, 4, 6), 0.5, np.float32))
        seeds.append(file.getvalue())
    return seeds


def _weights() -> list[bytes]:
    import torch

    state = {"visual.proj": torch.zeros(2, 3), "visual.conv1.weight": torch.zeros(2, 3, 2, 2)}
    seeds = []
    for content in ({"state_dict": state}, {"model": state}):
        file = io.BytesIO()
        torch.save(content, file)
        seeds.append(file.getvalue())
    return seeds


def _torchscript() -> list[bytes]:
    storage = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x00kX\x03\x00\x00\x00cpuK\x04tQ"
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"K\x00K\x02K\x02\x86K\x02K\x01\x86\x89NtR"
    program = b"\x80\x02c__torch__.clip\nModel\n)\x81}(X\x01\x00\x00\x00x" + tensor + b"ub."
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in (("data.pkl", program), ("constants.pkl", b"N."), ("data/k", bytes(16))):
            archive.writestr(f"clip/{name}", content)
    return [file.getvalue()]


def _safetensors() -> list[bytes]:
    head = {"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}, "__metadata__": {"mctformer": '{"heads": 2}'}}
    told = {**head, "__metadata__": {"weakclip-training-2": json.dumps({"step": 1, "settings": {}})}}
    told["log/count"] = told.pop("x")
    texts = [json.dumps(each).encode() for each in (head, told)]
    return [struct.pack("<Q", len(text)) + text + bytes(8) for text in texts]


def _coco() -> list[bytes]:
    from weakclip.datasets.classes import COCO14

    things = [{"id": i, "name": n} for i, n in zip(COCO14.ids[1:], COCO14.names[1:], strict=True)]
    mark = {"id": 1, "image_id": 7, "category_id": 1, "iscrowd": 0, "segmentation": [[0, 0, 4, 0, 4, 4]]}
    images = [{"id": 7, "file_name": "a.jpg", "height": 4, "width": 6}]
    return [json.dumps({"images": images, "annotations": [mark], "categories": things}).encode()]


def _text(*texts: str) -> Callable[[], list[bytes]]:
    return lambda: [text.encode() for text in texts]


def _labels_csv() -> list[bytes]:
    file = io.StringIO()
    csv.writer(file).writerows([["image", "labels", "x"], ["a.png", "cat;dog", "1"], ["b, c.png", "cat", ""]])
    return [file.getvalue().encode(), b"image;labels\na;cat,dog\n", "image\tlabels\nä\tcat\n".encode("utf-8-sig")]


def _config(path: Path) -> None:
    from weakclip.config import dump_config, load_config, parse_config
    from weakclip.store.untrusted_text import parse_yaml

    config = load_config(path)
    assert parse_config(parse_yaml(dump_config(config)), origin="again") == config


def _cams(path: Path) -> None:
    import numpy as np

    from weakclip.datasets import Sample
    from weakclip.datasets.classes import ClassSet
    from weakclip.seeds import ImportedCAMs

    sample = Sample(path.stem, np.zeros((4, 6, 3), np.uint8), (1,))
    cam = ImportedCAMs(path.parent, ClassSet.from_foreground(["cat", "dog"])).cam(sample)
    assert cam.maps.shape == (1, 4, 6)
    assert 0 <= cam.maps.min() <= cam.maps.max() <= 1


def _attributes(path: Path) -> None:
    from weakclip.datasets.classes import ClassSet
    from weakclip.seeds.attributes import read_attributes

    found = read_attributes(path, ClassSet.from_foreground(["cat", "dog"]))
    assert len(found) == 2
    assert all(isinstance(sentence, str) for own in found for sentence in own)


def _coco_file(path: Path) -> None:
    from weakclip.datasets.coco_instances import read_index, read_regions
    from weakclip.datasets.regions import draw_regions
    from weakclip.errors import DataError

    for entry in read_index(path):
        for region in read_regions(path, {entry.identity}).get(entry.identity, []):
            try:
                draw_regions([region], (8, 8))
            except (ValueError, KeyError, TypeError, IndexError) as error:  # as the data set does
                raise DataError(f"{path}: {type(error).__name__}") from None


def _manifest(path: Path) -> None:
    from weakclip.report import render_report
    from weakclip.store.keys import ResultKey
    from weakclip.store.manifest import Manifest

    manifest = Manifest.open(path.parent)
    for stage in ("seeds", "train"):
        if manifest.state(stage, ResultKey()) == "changed":
            manifest.differences(stage, ResultKey())
    render_report(path.parent)


def _annotations(name: str, *kinds: str) -> tuple[Callable[[Path], object], Callable[[], list[bytes]]]:
    """Reader and whole files of a format of annotation tools: `read_NAME`, and what `write_NAME` makes of a mask."""

    def read(path: Path) -> None:
        import weakclip.annotations as formats

        for image in getattr(formats, f"read_{name}")(path):
            formats.draw_image(image, {"cat": 1, "undecided": 255}, (4, 6), path)

    def seeds() -> list[bytes]:
        import numpy as np

        import weakclip.annotations as formats
        from weakclip.datasets.classes import ClassSet

        classes, mask = ClassSet.from_foreground(["cat"]), np.zeros((4, 6), np.uint8)
        mask[1:3, 2:5], mask[0, 0] = 1, 255
        found = []
        with tempfile.TemporaryDirectory() as folder:
            for kind in kinds:
                path = Path(folder) / f"{kind}.txt"
                entries = [formats.MaskEntry("a.png", mask)]
                getattr(formats, f"write_{name}")(path, entries, classes, formats.Shapes(kind=kind))
                found.append(path.read_bytes())
        return found

    return read, seeds


def _calling(module: str, name: str) -> Callable[[Path], object]:
    """A function of the package that takes the path, imported when it is called."""
    import importlib

    def read(path: Path) -> object:
        return getattr(importlib.import_module(module), name)(path)

    return read


_CONFIG = "data: {dataset: scenes, train_limit: 6}\ntrain: {steps: 4}\npseudo_masks:\n  crf: null\nseed: 1\n"
_CLASSES = "names: [cat, dog]\nsynonyms: {cat: [kitty]}\nprompts: {dog: a dog}\ncolors: {cat: [1, 2, 3]}\n"
_XML = "<annotation><object><name>dog</name></object></annotation>"
_RECORD = '{"format": 2, "stages": {"seeds": {"key": "a", "settings": {"b": 1}, "inputs": {"train": "c"}, "code": 1}}}'

TARGETS = {
    "image": Target("x.png", _calling("weakclip.datasets.images", "read_rgb"), _images, ("PIL",)),
    "mask": Target("x.png", _calling("weakclip.datasets.images", "read_mask"), _images, ("PIL",)),
    "npy": Target("x.npy", _calling("weakclip.store.untrusted_npy", "read_npy"), _npy, ("numpy.lib", "pickle")),
    "npz": Target("x.npz", _calling("weakclip.store.untrusted_npy", "read_npz"), _npz, ("numpy.lib", "zipfile")),
    "probabilities": Target("x.npz", _calling("weakclip.crf.files", "read_probs"), _npz, ("numpy.lib", "zipfile")),
    "cams": Target("x.npy", _cams, _npy, ("numpy.lib", "pickle")),
    "cls_labels": Target("x.npy", _calling("weakclip.datasets.voc_labels", "read_label_npy"), _npy, ("pickle",)),
    "voc_csv": Target(
        "x.csv", _calling("weakclip.datasets.voc_labels", "read_label_csv"), _text("image,labels\na,cat dog\n")
    ),
    "xml": Target("x.xml", _calling("weakclip.datasets.voc_labels", "read_xml_labels"), _text(_XML)),
    "coco": Target("x.json", _coco_file, _coco, ("json",)),
    "coco_masks": Target("x.json", *_annotations("coco", "masks", "polygons"), ("json",)),
    "label_studio": Target("x.json", *_annotations("label_studio", "masks", "polygons"), ("json",)),
    "cvat": Target("x.xml", *_annotations("cvat", "masks", "polygons"), ("xml",)),
    "csv": Target("labels.csv", _calling("weakclip.datasets.label_files", "read_label_rows"), _labels_csv),
    "jsonl": Target(
        "labels.jsonl",
        _calling("weakclip.datasets.label_files", "read_label_rows"),
        _text('{"image": "a", "labels": ["cat"]}\n'),
        ("json",),
    ),
    "config": Target("x.yaml", _config, _text(_CONFIG), ("yaml",)),
    "classes": Target(
        "x.yaml", _calling("weakclip.datasets.class_files", "read_class_file"), _text(_CLASSES), ("yaml",)
    ),
    "attributes": Target("x.yaml", _attributes, _text("cat: [it purrs, it has fur]\ndog: [it barks]\n"), ("yaml",)),
    "attributes_json": Target("x.json", _attributes, _text('{"cat": ["it purrs"], "dog": ["it barks"]}\n'), ("json",)),
    "marks": Target(
        "marks.jsonl",
        _calling("weakclip.store.marks", "read_marks"),
        _text('{"image": "a", "mark": "bad", "labels": ["x"]}\n'),
    ),
    "manifest": Target("manifest.json", _manifest, _text(_RECORD), ("json",)),
    "torch": Target("x.pth", _calling("weakclip.modeling.state_files", "read_state"), _weights, ("zipfile",)),
    "openai": Target(
        "x.pt", _calling("weakclip.clip.openai_archive", "read_openai_state"), _torchscript, ("zipfile", "pickle")
    ),
    "safetensors": Target("x.safetensors", _calling("weakclip.modeling.state_files", "read_state"), _safetensors),
    "checkpoint": Target("x.safetensors", _calling("weakclip.training.checkpoint", "load_checkpoint"), _safetensors),
    "vocabulary": Target(
        "x.gz", _calling("weakclip.clip.vocabulary", "read_merges"), lambda: [gzip.compress(b"# a\nb c\n", mtime=0)]
    ),
}


def attempt(target: Target, content: bytes, folder: Path) -> None:
    """Let a reader read a file; it returns where it takes the file, or refuses it as it should.

    Raises:
        Exception: a finding.
    """
    from weakclip.errors import WeakCLIPError

    path = folder / target.file
    path.write_bytes(content)
    said = ""
    try:
        target.read(path)
    except WeakCLIPError as error:
        said = str(error)
    assert "\n" not in said, f"a message of several lines: {said}"
    assert len(said) < LONGEST_MESSAGE, "a message without end"


def _fuzz(name: str, seconds: int, findings: Path, runs: int) -> None:
    import atheris

    target = TARGETS[name]
    with atheris.instrument_imports(include=["weakclip", *target.parts]):
        folder = Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
        corpus = folder / "corpus"
        corpus.mkdir()
        for number, seed in enumerate(target.seeds()):
            (corpus / f"seed{number}").write_bytes(seed)
            attempt(target, seed, folder)  # all is imported under the watch
    findings.mkdir(parents=True, exist_ok=True)
    limits = [f"-max_total_time={seconds}", f"-runs={runs}", f"-max_len={CASES_LONGEST}", "-timeout=5"]
    limits += ["-rss_limit_mb=2048", "-print_final_stats=1", f"-artifact_prefix={findings}/{name}-"]
    atheris.Setup([sys.argv[0], *limits, str(corpus)], lambda content: attempt(target, content, folder))
    atheris.Fuzz()


def main() -> None:
    """Fuzz one reader, or list them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", nargs="?", choices=TARGETS)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--runs", type=int, default=-1, help="files to try at most; -1 for no end")
    parser.add_argument("--findings", type=Path, default=Path("fuzz-findings"))
    given = parser.parse_args()
    if given.target is None:
        print("\n".join(TARGETS))
        return
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    _fuzz(given.target, given.seconds, given.findings, given.runs)


if __name__ == "__main__":
    main()
