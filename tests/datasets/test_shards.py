"""Laws of shards: tars and Parquet files give the images and labels that went in, read at random, from an index."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from PIL import Image

from weakclip.datasets import ShardDataset
from weakclip.datasets.faults import LabelError
from weakclip.datasets.kinds import ShardsData
from weakclip.errors import BrokenFileError, DataError

Kind = str


def picture(value: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((4, 5 + value, 3), value, np.uint8)).save(file, format="PNG")
    return file.getvalue()


def write_tar(path: Path, members: dict[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def write_parquet(path: Path, columns: dict[str, list[Any]]) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.table(columns), path, row_group_size=2)


@pytest.fixture(params=["tar", "parquet", "url"])
def root(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Three images: 0 is a cat, 1 a cat and a dog, 2 has no label; and a fourth, of val."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "shards"
    members = {
        "0.png": picture(0),
        "0.cls": b"cat\n",
        "deep/1.PNG": picture(1),
        "deep/1.json": b'{"labels":["dog","cat"]}',
    }
    write_tar(folder / "train-0.tar", {**members, "2.png": picture(2), "2.seg.png": picture(9), "2.txt": b"a caption"})
    write_tar(folder / "val/0.tar", {"0.png": picture(3), "0.cls": b"dog"})
    if request.param == "parquet":
        (folder / "train-0.tar").unlink()
        images = [{"bytes": picture(value), "path": f"{value}.png"} for value in range(3)]
        write_parquet(folder / "a.parquet", {"image": images, "labels": [["cat"], ["dog", "cat"], []]})
    if request.param == "url":
        for path in folder.rglob("*.tar"):
            fsspec.filesystem("memory").pipe(f"/shards/{path.relative_to(folder)}", path.read_bytes())
    yield "memory://shards" if request.param == "url" else str(folder)
    fsspec.filesystem("memory").store.clear()


def test_images_and_labels_are_those_that_went_in(root: str) -> None:
    for _ in range(2):  # the second time from the index
        dataset = ShardDataset(root, "train")
        assert dataset.class_set.names == ("background", "cat", "dog")
        assert sorted(dataset.labels(index) for index in range(3)) == [(), (1,), (1, 2)]
        assert dataset.untagged == (dataset.names[2],)
        for index in (2, 0, 1, 0):
            assert dataset.size(index) == (4, 5 + index)
            assert (dataset.image(index) == index).all()
        assert not dataset.has_masks
    val = ShardDataset(root, "val")
    assert val.names == ("val/0/0",) and val.labels(0) == (2,)  # the classes are those of all splits
    assert len(ShardDataset(root)) == 4
    with pytest.raises(DataError, match=r"no shards of split 'test'; its shards are of train, val; call some test-"):
        ShardDataset(root, "test")


def test_an_index_is_made_once_and_anew_for_a_changed_shard(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = ShardDataset(root, "train")
    monkeypatch.setattr("weakclip.datasets.shard_index._of_tar", None)
    monkeypatch.setattr("weakclip.datasets.shard_index._of_parquet", None)
    assert ShardDataset(root, "train").names == before.names
    monkeypatch.undo()
    if "://" not in root:
        write_tar(Path(root) / "train-0.tar", {"new.png": picture(7), "new.cls": b"cow"})
        (Path(root) / "a.parquet").unlink(missing_ok=True)
        assert ShardDataset(root, "train").names == ("train-0/new",)


def test_numbers_are_classes_from_0_on(tmp_path: Path) -> None:
    write_tar(tmp_path / "0.tar", {"a.png": picture(0), "a.cls": b"1", "b.png": picture(1), "b.json": b'{"label": 0}'})
    with pytest.raises(DataError, match=r"labels are numbers; write classes.yaml with the names of the classes"):
        ShardDataset(tmp_path, "train")
    (tmp_path / "classes.yaml").write_text("names: [dog, cat]\n")
    assert [ShardDataset(tmp_path, "train").labels(index) for index in range(2)] == [(2,), (1,)]
    (tmp_path / "classes.yaml").write_text("names: [dog]\n")
    with pytest.raises(LabelError, match=r"0\.tar, a: class number 1; the 1 classes are numbered from 0 on"):
        ShardDataset(tmp_path, "train")
    lenient = ShardDataset(tmp_path, "train", lenient=True)
    assert lenient.names == ("0/b",) and len(lenient.faults) == 1


def test_what_is_no_shard_or_no_image_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no shards; expected files ending in .tar or .parquet"):
        ShardDataset(tmp_path)
    (tmp_path / "0.tar").write_bytes(b"nonsense" * 200)
    with pytest.raises(DataError, match=r"0\.tar: cannot be read \(.*\); expected an uncompressed tar"):
        ShardDataset(tmp_path)
    write_tar(tmp_path / "0.tar", {"a.txt": b"no image"})
    with pytest.raises(DataError, match=r"0\.tar: no images; expected NAME.jpg"):
        ShardDataset(tmp_path)
    write_tar(tmp_path / "0.tar", {"a.png": picture(0), "a.json": b'{"labels": [[1]]}'})
    with pytest.raises(DataError, match=r"0\.tar, a\.json: label \[1\]; expected the name or number of a class"):
        ShardDataset(tmp_path)
    write_tar(tmp_path / "0.tar", {"a.png": b"no picture", "a.cls": b"cat"})
    with pytest.raises(BrokenFileError, match=r"0/a\.png: not an image that is read"):
        ShardDataset(tmp_path).image(0)
    write_parquet(tmp_path / "1.parquet", {"picture": ["a.png"], "labels": [["cat"]]})
    with pytest.raises(DataError, match=r"1\.parquet: no column of images, bytes or {bytes, path}; found picture"):
        ShardDataset(tmp_path)


def test_settings_name_shards(root: str) -> None:
    dataset = ShardsData(root=root, longest_side=3).open("train", None)
    assert dataset.size(0) == (2, 3) == dataset.image(0).shape[:2]
    assert json.dumps(dataset.names)
