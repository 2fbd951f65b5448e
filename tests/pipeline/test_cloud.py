"""Runs on images and labels in an S3-compatible store, a real server on this machine: as with files, or one line."""

from __future__ import annotations

import http.server
import os
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from weakclip.config import parse_config
from weakclip.datasets import FolderDataset
from weakclip.datasets.faults import LabelError
from weakclip.errors import DataError, RemoteError
from weakclip.pipeline import run_pipeline, run_stage
from weakclip.store import remote

s3fs = pytest.importorskip("s3fs")

URL = "s3://my-photos/cats and dogs"


class Cutting(http.server.BaseHTTPRequestHandler):
    """Hands requests on to the store, and cuts the connection in the middle of the answers that are to be cut."""

    store = ""
    cut: dict[str, int]

    def do_GET(self) -> None:
        headers = {name: value for name, value in self.headers.items() if name.lower() != "host"}
        asked = urllib.request.Request(self.store + self.path, headers=headers, method=self.command)
        try:
            answer: Any = urllib.request.urlopen(asked)
        except urllib.error.HTTPError as error:
            answer = error
        content = answer.read()
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            if name.lower() not in ("connection", "transfer-encoding"):
                self.send_header(name, value)
        self.end_headers()
        part = next((name for name, left in self.cut.items() if name in self.path and left), None)
        if self.command == "GET":
            self.wfile.write(content if part is None else content[: len(content) // 2])
        if part is not None:
            self.cut[part] -= 1
            self.close_connection = True

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def cut(server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, int]]:
    """Parts of paths, and how many of the next answers about them are cut; fsspec talks to the store through this."""
    handler = type("Handler", (Cutting,), {"store": server, "cut": {}})
    between = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=between.serve_forever, daemon=True).start()
    for name, value in {
        "AWS_ACCESS_KEY_ID": "me",
        "AWS_SECRET_ACCESS_KEY": "very-secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": "http://{}:{}".format(*between.server_address),
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(remote, "WAITS", (0.0, 0.0))
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)  # it has pauses of its own
    _forget()
    yield handler.cut  # type: ignore[attr-defined]
    _forget()
    between.shutdown()
    between.server_close()


def _forget() -> None:
    """Connections know the address of a test's server."""
    s3fs.S3FileSystem.clear_instance_cache()
    remote._filesystem.cache_clear()
    remote._kept.cache_clear()


@pytest.fixture
def store(server: str, cut: dict[str, int]) -> Any:
    """The store itself, for writing."""
    return fsspec.filesystem("s3", endpoint_url=server)


@pytest.fixture
def in_store(image_folder: Path, store: Any) -> str:
    """The URL of a copy of `image_folder`."""
    if not store.exists("my-photos"):
        store.mkdir("my-photos")
    for path in image_folder.rglob("*"):
        if path.is_file():
            store.pipe(f"{URL}/{path.relative_to(image_folder).as_posix()}", path.read_bytes())
    return URL


def test_a_run_on_a_store_makes_the_seeds_and_masks_of_one_on_files_and_keeps_no_secret(
    image_folder: Path, in_store: str, cut: dict[str, int], tiny_settings: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    cut |= {"n3.png": 2, "labels.csv": 1}
    outs = {str(image_folder): tmp_path / "local", in_store: tmp_path / "cloud"}
    for root, out in outs.items():
        settings = tiny_settings(dataset="folder", root=root, val_split=None, on_error="skip")
        assert run_pipeline(parse_config(settings, origin="test"), out).left_out == 0
    assert cut == {"n3.png": 0, "labels.csv": 0}
    local, cloud = ({p.relative_to(out): p.read_bytes() for p in out.rglob("*.png")} for out in outs.values())
    assert len(local) >= 24 and local == cloud
    written = [path.read_bytes() for path in (tmp_path / "cloud").rglob("*") if path.is_file()]
    assert not any(b"very-secret" in content for content in written)
    again = run_pipeline(parse_config(settings, origin="test"), tmp_path / "cloud")
    assert not again.ran


def test_a_run_goes_on_elsewhere_from_a_copy_in_a_store(
    image_folder: Path, in_store: str, store: Any, tiny_settings: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    config = parse_config(tiny_settings(dataset="folder", root=str(image_folder), val_split=None), origin="test")
    run_stage(config, tmp_path / "here", "seeds")
    store.put(f"{tmp_path / 'here'}/", "s3://my-photos/runs/here/", recursive=True)
    store.get("s3://my-photos/runs/here/", f"{tmp_path / 'there'}/", recursive=True)
    for path in (tmp_path / "there").rglob("*"):
        os.utime(path, (1, 1))
    assert run_stage(config, tmp_path / "there", "seeds").skipped == ("seeds",)
    assert run_stage(config, tmp_path / "there", "train").ran == ("train",)


def test_what_is_wrong_with_a_store_is_one_line(
    in_store: str, store: Any, cut: dict[str, int], tiny_settings: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=r"^s3://no-such-bucket/photos: no such bucket or folder, or nothing in it"):
        FolderDataset("s3://no-such-bucket/photos")
    store.pipe(f"{URL}/labels.csv", b"image,labels\nn1.png,cat\nn99.png,dog\n")
    with pytest.raises(LabelError, match=f"^{URL}/labels.csv, line 3: no image 'n99.png' in {URL}/images; correct"):
        FolderDataset(in_store, untagged="skip")
    store.pipe(f"{URL}/labels.csv", b"image,labels\nn1.png,cat\nn2.png,dog\n")
    dataset = FolderDataset(in_store, untagged="skip")
    cut["n1.png"] = 1000
    with pytest.raises(RemoteError, match=f"^{URL}/images/n1.png: cannot be read .* tried 3 times; see to the network"):
        dataset[dataset.index_of("n1")]
    assert dataset[dataset.index_of("n2")].image.shape == (40, 56, 3)
    settings = tiny_settings(dataset="folder", root=in_store, val_split=None, on_error="skip")
    with pytest.raises(RemoteError, match="see to the network"):  # an image that does not come is not a broken one
        run_pipeline(parse_config(settings, origin="test"), tmp_path / "run")
    assert not (tmp_path / "run/errors.jsonl").exists()


def test_wrong_credentials_are_one_line(in_store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moto.settings.INITIAL_NO_AUTH_ACTION_COUNT", 0)
    with pytest.raises(RemoteError, match=f"^{URL}: the store refuses to be read .*; log in as") as caught:
        FolderDataset(in_store)
    assert "very-secret" not in str(caught.value)


def test_a_table_on_a_web_server_labels_images_on_the_disk(in_store: str, store: Any, image_folder: Path) -> None:
    table = f"{os.environ['AWS_ENDPOINT_URL']}/my-photos/cats%20and%20dogs/labels.csv"
    (image_folder / "labels.csv").unlink()
    with pytest.raises(RemoteError, match="the store refuses to be read"):
        FolderDataset(image_folder, label_file=table)
    store.chmod(f"{URL}/labels.csv", "public-read")
    dataset = FolderDataset(image_folder, label_file=table)
    assert dataset.class_set.names == ("background", "cat", "dog")
    assert [dataset.labels(index) for index in range(2)] == [(2,), (1,)]
