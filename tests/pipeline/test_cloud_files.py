"""Predictions, tables of labels and exports in an S3-compatible store: as in a folder, on any machine."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from damage import Commands
from object_store import LOGIN, at_the_url
from PIL import Image

from weakclip.errors import RemoteError
from weakclip.store.remote import RemoteFolder
from weakclip.tools.tag.zero_shot import Tagger

URL = "s3://my-runs/of mine/made"
ALSO = ("--also", "overlays", "--set", "device=cpu")
WRITER = ".weakclip.writer"


@pytest.fixture
def photos(image_folder: Path) -> Path:
    """Forty images, of which one cannot be read."""
    folder = image_folder / "images"
    for number in range(8, 40):
        Image.open(folder / f"n{number % 8}.png").rotate(number).save(folder / f"n{number}.png")
    (folder / "n9.png").write_bytes(b"no image")
    return folder


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_predictions_that_are_killed_go_on_from_their_url_on_another_machine(
    commands: Commands, undisturbed: Path, photos: Path, store: Any, tmp_path: Path
) -> None:
    words = ("predict", undisturbed, photos, *ALSO, "--also", "coco-masks", "--out")
    assert commands.run(*words, tmp_path / "local").code == 1
    login = {name: os.environ[name] for name in LOGIN}
    one, two = ({**login, "XDG_CACHE_HOME": str(tmp_path / machine)} for machine in ("one", "two"))
    command = commands.start(*words, URL, environment=one)
    while not store.glob(f"{URL}/json/*.json"):
        assert command.alive(), command.said()
        time.sleep(0.005)
        store.invalidate_cache()
    assert command.kill() == -signal.SIGKILL
    there = at_the_url(store, URL)
    told = {name.removeprefix("json/").removesuffix(".json") for name in there if name.startswith("json/")}
    assert told and all(f"masks/{name}.png" in there for name in told)
    last = commands.run(*words, URL, environment=two)
    assert last.code == 1
    assert f"{URL}: {39 - len(told)} predicted, {len(told)} done before, 1 failed" in last.said()
    assert str(tmp_path / "two") not in last.said()
    found = at_the_url(store, URL)
    assert found.pop(WRITER)
    assert found == files(tmp_path / "local")


def test_shards_of_predictions_on_machines_of_their_own_are_merged_at_the_url(
    *,
    on: Callable[..., int],
    undisturbed: Path,
    photos: Path,
    store: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ("predict", undisturbed, photos, *ALSO, "--out")
    assert on("0", *words, tmp_path / "local") == 1
    assert [on(shard[0], *words, URL, "--shard", shard) for shard in ("1/2", "0/2")] == [1, 0]
    assert f"{URL}: the shard is there; next, when all are there: weakclip merge '{URL}'" in capsys.readouterr().out
    assert on("2", *words, URL, "--shard", "0/3") == 2
    assert f"weakclip: {URL}: holds other predictions, or those of other images; shards" in capsys.readouterr().err
    assert on("3", "merge", URL) == 1
    assert f"{URL}: 0 predicted, 39 done before, 1 failed" in capsys.readouterr().out
    found = at_the_url(store, URL)
    del found[WRITER]
    assert found == files(tmp_path / "local")


def test_predictions_that_cannot_be_sent_are_kept_and_the_same_command_goes_on(
    *,
    on: Callable[..., int],
    undisturbed: Path,
    image_folder: Path,
    store: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ("predict", undisturbed, image_folder, *ALSO, "--out")
    with monkeypatch.context() as patched:

        def refuse(folder: RemoteFolder, name: str, file: Path) -> bool:
            raise RemoteError(f"{folder.url}/{name}: the store refuses to be written (full); ask for access")

        patched.setattr(RemoteFolder, "put", refuse)
        assert on("one", *words, URL) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("weakclip: ")]
    assert line.startswith(f"weakclip: {URL}/") and f"what was made is kept in {tmp_path / 'one'}" in line
    assert on("one", *words, URL) == on("one", *words, tmp_path / "local") == 0
    assert f"{URL}: 0 predicted, 8 done before" in capsys.readouterr().out
    found = at_the_url(store, URL)
    del found[WRITER]
    assert found == files(tmp_path / "local")
    assert on("one", *words, "s3://no-such-bucket/x") == 2
    assert "weakclip: s3://no-such-bucket/x: no such bucket; make it, or correct" in capsys.readouterr().err


def test_a_table_of_labels_is_the_one_of_a_folder(
    *,
    on: Callable[..., int],
    clip_folder: Path,
    photos: Path,
    store: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ("tag", photos, "--classes", "cat,dog", "--clip", clip_folder, "--device", "cpu", "--out")
    table, local = f"{URL}/labels.csv", tmp_path / "labels.csv"
    assert on("0", *words, local) == 0
    scores, scored = Tagger.scores, list[int]()

    def interrupted(tagger: Tagger, images: list[Any]) -> Any:
        if len(scored) == 1:
            raise KeyboardInterrupt
        scored.append(len(images))
        return scores(tagger, images)

    with monkeypatch.context() as patched:
        patched.setattr(Tagger, "scores", interrupted)
        assert on("one", *words, table) == 130
    assert at_the_url(store, URL).keys() >= {"labels.csv.partial/labels.csv.partial"}
    monkeypatch.setattr(Tagger, "scores", lambda *given: scored.append(len(given[1])) or scores(*given))
    capsys.readouterr()
    assert on("two", *words, table) == 0
    assert scored == [32, 7]  # a batch each, and one image cannot be read
    assert f"bring the table to {photos / 'labels.csv'}, then weakclip init" in capsys.readouterr().out
    assert at_the_url(store, URL) == {"labels.csv": local.read_bytes()}
    assert on("three", *words, table) == 2
    assert f"weakclip: {table}: is there already; --overwrite replaces it" in capsys.readouterr().err
    assert [on(shard[0], *words, table, "--overwrite", "--shard", shard) for shard in ("0/2", "1/2")] == [0, 0]
    assert on("three", "merge", table) == 0
    assert at_the_url(store, URL) == {"labels.csv": local.read_bytes()}


def test_exports_are_those_of_a_folder(
    on: Callable[..., int], ran: Path, store: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    local = tmp_path / "local"
    for words, name in (
        (("masks", ran, "--format", "label-studio"), "tasks.json"),
        (("masks", ran, "--format", "yolo", "--shapes", "polygons"), "yolo"),
        (("dataset", ran, "--format", "webdataset"), "set"),
        (("transformers", ran, "--network", "retrained"), "network"),
    ):
        assert on("one", "export", *words, "--out", local / name) == 0, capsys.readouterr().err
        assert on("one", "export", *words, "--out", f"{URL}/{name}") == 0, capsys.readouterr().err
        assert f"{URL}/{name}: " in capsys.readouterr().out
    found = at_the_url(store, URL)
    assert found.pop(f"set/{WRITER}")
    assert found == files(local) and "tasks.labels.xml" in found
    assert on("two", "export", "dataset", ran, "--format", "webdataset", "--out", f"{URL}/set") == 0
    assert on("two", "export", "transformers", ran, "--network", "retrained", "--out", f"{URL}/network") == 2
    assert f"weakclip: {URL}/network: is a folder with files in it; choose" in capsys.readouterr().err
    assert on("two", "export", "masks", ran, "--format", "coco", "--out", "s3://no-such-bucket/x/masks.json") == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("weakclip: s3://no-such-bucket/x: no such bucket; make it") and "is kept in" in said
    assert Path(said.rpartition(" ")[2], "masks.json").is_file()
    assert on("two", "export", "masks", ran, "--format", "coco", "--out", "s3://masks.json") == 2
    assert "weakclip: s3://masks.json: names no file" in capsys.readouterr().err
