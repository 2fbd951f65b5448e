"""Laws of a run folder at a URL: whoever goes on from it finds whole results, on this machine or another one."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from folders import bytes_in

from weakclip.errors import ConfigError, RemoteError, RunError, StorageError
from weakclip.store import mirror, outputs, remote
from weakclip.store.files import read_json_if_any, write_json, write_text
from weakclip.store.forms import Form
from weakclip.store.keys import ResultKey
from weakclip.store.lock import FolderInUseError
from weakclip.store.manifest import Manifest
from weakclip.store.mirror import Mirror
from weakclip.store.outputs import mirrored, send_now, sending
from weakclip.store.remote import RemoteFolder

URL = "memory://bucket/runs/x"
KEY, OTHER = (ResultKey(settings={"power": power}, inputs={}) for power in (1.0, 2.0))
NAMES = ("a.png", "b.png", "deep/c.png")
KEYED = Form("things", "key.json", results=frozenset({"masks", "json"}), others=frozenset(), last="json")
At = Callable[[str], None]


@pytest.fixture
def at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[At]:
    """`at("here")`: from here on, commands run on another machine, with a cache of its own."""
    monkeypatch.setattr(remote, "WAITS", (0.0, 0.0))

    def move(machine: str) -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / machine))

    move("here")
    yield move
    fsspec.filesystem("memory").store.clear()


def there() -> dict[str, bytes]:
    """The files at the URL."""
    found = fsspec.filesystem("memory").store.items()
    names = ((path.removeprefix("/bucket/runs/x/"), file.getvalue()) for path, file in found)
    return {name: content for name, content in names if name != mirror.WRITER}


def here() -> Path:
    """The copy of the machine."""
    return Mirror(URL).folder


def work(folder: Path, key: ResultKey = KEY) -> None:
    """A stage as a run does it: what is there is passed over."""
    manifest = Manifest.open(folder)
    if manifest.state("seeds", key) == "done":
        return
    made = manifest.start("seeds", key)
    for name in NAMES:
        send_now()
        if not (made / name).exists():
            (made / name).parent.mkdir(exist_ok=True)
            (made / name).write_text(f"{key.digest} {name}")
    manifest.finish("seeds", 1.0)
    send_now()


def opened(do: Callable[[Path], object], shard: str = "") -> None:
    """Do something with the copy."""
    with mirrored(URL, shard) as folder:
        do(folder)


def command(key: ResultKey = KEY) -> None:
    opened(lambda folder: work(folder, key))


def check(files: dict[str, bytes]) -> None:
    """What a manifest says is done is there, whole, and nothing else is under its key."""
    content = json.loads(files.get("manifest.json", b'{"stages": {}}'))
    for part, folder in (("stages", "1_seeds"), ("previous", "1_seeds.previous")):
        record = content.get(part, {}).get("seeds")
        if record is None:
            continue
        made = {name.removeprefix(f"{folder}/"): text for name, text in files.items() if name.startswith(f"{folder}/")}
        if record["done"]:
            assert {*json.loads(made["files.json"])} == {*NAMES}
        made.pop("files.json", None)
        assert made.items() <= {name: f"{record['key']} {name}".encode() for name in NAMES}.items()
        assert len(made) == len(NAMES) or not record["done"]


def test_what_is_made_is_there_and_comes_back_on_another_machine(at: At, monkeypatch: pytest.MonkeyPatch) -> None:
    command()
    own = bytes_in(here())
    assert own == there()
    check(there())
    monkeypatch.setattr(RemoteFolder, "put", lambda *_: pytest.fail("was sent again"))
    at("elsewhere")
    command()
    assert {path.relative_to(here()).as_posix() for path in here().rglob("*") if path.is_file()} == own.keys()
    at("here")
    command()
    assert there() == own


class KilledError(BaseException):
    """The machine has died."""


def killed_after(operations: int, do: Callable[[], None]) -> bool:
    """Do something on a machine that dies at the next request, or writing of its notes, after some; whether it has."""
    left, lock = [operations], threading.Lock()

    def counted(kind: type, name: str) -> None:
        whole = getattr(kind, name)

        def call(*arguments: Any) -> Any:
            with lock:
                left[0] -= 1
                if left[0] < 0:
                    raise KilledError
            return whole(*arguments)

        patched.setattr(kind, name, call)

    with pytest.MonkeyPatch.context() as patched:
        for name in ("write", "put", "remove"):
            counted(RemoteFolder, name)
        counted(Mirror, "_save")
        try:
            do()
        except KilledError:
            return True
    return False


@pytest.mark.parametrize("machine", ["here", "elsewhere"])
@pytest.mark.parametrize("first", [None, KEY])
def test_a_kill_at_any_request_leaves_whole_results(machine: str, first: ResultKey | None, at: At) -> None:
    """While a first result is sent, and while it makes way for one with another key."""
    operations = 0
    while True:
        fsspec.filesystem("memory").store.clear()
        at(f"{operations}/here")
        if first is not None:
            command(first)
        if not killed_after(operations, lambda: command(OTHER)):
            break
        check(there())
        at(f"{operations}/{machine}")
        command(OTHER)
        check(there())
        assert json.loads(there()["manifest.json"])["stages"]["seeds"]["key"] == OTHER.digest
        assert not any(name.startswith("1_seeds.previous") for name in there())
        operations += 1
    assert operations > 10


def send_at_work() -> None:
    """As `sending` does it now and then."""
    for each in outputs._open:
        each.send(at_work=True)


def predict(key: str, text: str, *, shard: str = "", names: Iterable[str] = NAMES, at_work: bool = False) -> None:
    """A folder with one key, in which a file of `json` says that the mask beside it is done.

    With `at_work`, it is sent when a mask is old enough and its word is not there, or too young.
    """
    send = send_at_work if at_work else send_now
    with mirrored(URL, shard, form=KEYED) as folder:
        if read_json_if_any(folder / "key.json").get("key") != key:
            for part in KEYED.results:
                shutil.rmtree(folder / part, ignore_errors=True)
        write_json(folder / "key.json", {"key": key})
        for name in names:
            send()
            mask, told = folder / "masks" / name, folder / "json" / name
            if not (told.is_file() and told.read_text() == text):
                told.unlink(missing_ok=True)
                write_text(mask, text)
                if at_work:
                    os.utime(mask, ns=(0, time.time_ns() - 2 * mirror.SETTLED))
                if at_work and name != "b.png":
                    send()
                write_text(told, text)


@pytest.mark.parametrize("machine", ["here", "elsewhere"])
@pytest.mark.parametrize("key", ["1", "2"])
@pytest.mark.parametrize("at_work", [False, True])
def test_a_kill_at_any_request_leaves_no_word_of_a_mask_that_is_another_one(
    at_work: bool, key: str, machine: str, at: At
) -> None:
    """While masks make way for others, under the same key or another one."""

    def check_words() -> None:
        files = there()
        told = {name for name in files if name.startswith("json/")} if "key.json" in files else set()
        assert all(files[f"masks/{name.removeprefix('json/')}"] == files[name] for name in told)
        assert all(json.loads(files["key.json"])["key"].encode() == files[name][:1] for name in told)

    operations, killed = 0, True
    while killed:
        fsspec.filesystem("memory").store.clear()
        at(f"{operations}/here")
        predict("1", "1 first")
        killed = killed_after(operations, lambda: predict(key, f"{key} second", at_work=at_work))
        check_words()
        at(f"{operations}/{machine}")
        predict(key, f"{key} second")
        check_words()
        found = {name for name, text in there().items() if text == f"{key} second".encode()}
        assert found == {f"{part}/{name}" for part in KEYED.results for name in NAMES}
        operations += 1
    assert operations > 10


@pytest.mark.parametrize("another", [False, True])
def test_a_shard_that_dies_between_a_mask_and_its_word_leaves_no_other_word(another: bool, at: At) -> None:
    """Also where another shard has written there before the same command goes on; other shards' words stay."""
    predict("1", "first")
    predict("1", "first", shard="0-of-2", names=())
    (mirror.Mirror(URL, "0-of-2").folder / "json/a.png").unlink()
    write_text(mirror.Mirror(URL, "0-of-2").folder / "masks/a.png", "second")  # and the machine died
    if another:
        at("elsewhere")
        predict("1", "first", shard="1-of-2", names=NAMES[1:])
        at("here")
    predict("1", "second", shard="0-of-2", names=())
    words = {name for name in there() if name.startswith("json/")}
    assert there()["masks/a.png"] == b"second" and words == {f"json/{name}" for name in NAMES[1:]}
    predict("1", "second", shard="0-of-2", names=NAMES[:1])
    assert there()["json/a.png"] == b"second" and there()["json/b.png"] == b"first"


def test_a_folder_in_which_nothing_is_left_is_none_at_the_url(at: At) -> None:
    predict("1", "a")
    with mirrored(URL, form=KEYED) as folder:
        shutil.rmtree(folder)
    assert not fsspec.filesystem("memory").store


def test_a_fetching_that_is_cut_short_is_done_again(at: At, monkeypatch: pytest.MonkeyPatch) -> None:
    command()
    at("elsewhere")
    command(OTHER)
    at("here")
    with monkeypatch.context() as patched:
        patched.setattr(mirror, "is_same", lambda path, stamp: pytest.fail("cut") if path.name == "c.png" else False)
        with pytest.raises(pytest.fail.Exception, match="cut"):
            command(OTHER)
    command(OTHER)
    assert (here() / "1_seeds/deep/c.png").read_text() == f"{OTHER.digest} deep/c.png"
    check(there())


def test_of_a_stage_at_work_only_what_is_settled_is_sent_and_logs_are_last(
    at: At, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[str] = []
    put, seen = RemoteFolder.put, threading.Event()

    def noted(self: RemoteFolder, name: str, file: Path) -> bool:
        sent.append(name)
        if name == "1_seeds/log.jsonl":
            seen.set()
        return put(self, name, file)

    monkeypatch.setattr(RemoteFolder, "put", noted)
    monkeypatch.setattr(outputs, "SENT_EVERY", 0.01)
    with mirrored(URL) as folder:
        made = Manifest.open(folder).start("seeds", KEY)
        (made / "log.jsonl").write_text("{}\n")
        with sending():
            assert there().keys() == {"manifest.json", "1_seeds/log.jsonl"}
            sent.clear()
            seen.clear()
            (made / "new.png").write_text("x")
            (made / "old.png").write_text("y")
            os.utime(made / "old.png", (1, 1))
            (made / "log.jsonl").write_text("{}\n{}\n")
            assert seen.wait(10)
            assert "1_seeds/new.png" not in there()
            assert sent[:2] == ["1_seeds/old.png", "1_seeds/log.jsonl"]
    assert there()["1_seeds/new.png"] == b"x"


def test_a_folder_that_was_cut_short_is_sent_again_and_a_whole_one_is_kept(at: At) -> None:
    """At every request; until the last file, by which programs know the folder, is there."""

    def deliver(text: str, *names: str) -> None:
        with outputs.delivered(URL) as folder:
            folder.mkdir()
            for name in names:
                (folder / name).write_text(text)

    for operations in range(4):
        fsspec.filesystem("memory").store.clear()
        at(str(operations))
        killed = killed_after(operations, lambda: deliver("first", "z.bin", "config.json", "a.bin"))
        assert killed == (operations < 3) and ("config.json" in there()) == (operations == 3)
        if killed:
            with pytest.raises(ZeroDivisionError), outputs.delivered(URL):
                raise ZeroDivisionError
            at("elsewhere")
            if there():
                with pytest.raises(RunError, match=f"^{URL}: is a folder with files in it; choose .* remove it there"):
                    deliver("other", "config.json")
            at(str(operations))
            assert killed_after(0, lambda: deliver("second", "config.json", "b.bin"))
            deliver("second", "config.json", "b.bin")
            assert there() == {"config.json": b"second", "b.bin": b"second"}
        whole = there()
        with pytest.raises(RunError, match=f"^{URL}: is a folder with files in it"):
            deliver("third", "config.json", "a.bin")
        assert there() == whole
    assert not [*mirror.cache_of(URL).glob("made*")]


def test_a_file_is_sent_behind_what_is_beside_it(at: At, monkeypatch: pytest.MonkeyPatch) -> None:
    sent, put = list[str](), RemoteFolder.put
    monkeypatch.setattr(RemoteFolder, "put", lambda self, name, file: sent.append(name) or put(self, name, file))
    with outputs.delivered(f"{URL}/tasks.json") as file:
        for path in (file, file.with_name("tasks.labels.xml"), file.with_name("a.txt")):
            path.touch()
    assert sent[-1] == "tasks.json" and len(sent) == 3


def test_who_has_less_takes_what_is_there_and_who_has_more_is_refused(at: At) -> None:
    def begin(folder: Path) -> None:
        (Manifest.open(folder).start("seeds", KEY) / "a.png").write_text(f"{KEY.digest} a.png")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        opened(begin)
    assert there().keys() == {"manifest.json", "1_seeds/a.png"}
    (here() / "1_seeds/b.png").write_text("on its way when the machine died")
    at("elsewhere")
    command()
    at("here")
    command()
    assert (here() / "1_seeds/b.png").read_text() == f"{KEY.digest} b.png"
    (here() / "verified").mkdir()
    (here() / "verified/a.png").write_text("by hand")
    at("elsewhere")
    fsspec.filesystem("memory").pipe(f"/bucket/runs/x/{mirror.WRITER}", b"{}")
    command()
    at("here")
    with pytest.raises(RunError, match=f"^{URL}: another machine .* {here()}, has verified/a.png, which .* remove"):
        command()
    (here() / "verified/a.png").unlink()
    command()
    fsspec.filesystem("memory").store.clear()
    at("elsewhere")
    command()
    at("here")
    manifest = Manifest.open(here())
    manifest.start("train", KEY)
    manifest.finish("train", 1.0)
    with pytest.raises(RunError, match=f"{here()}, has 2_train, which is not there"):
        command()


def test_what_people_put_at_the_url_comes_down(at: At) -> None:
    command()
    memory = fsspec.filesystem("memory")
    memory.pipe("/bucket/runs/x/verified/a.png", b"by hand")
    memory.pipe("/bucket/runs/x/marks.jsonl", b"{}")
    command()
    memory.pipe("/bucket/runs/x/marks.jsonl", b"{}{}")
    opened(lambda folder: (folder / "verified/b.png").touch())
    assert (here() / "verified/a.png").read_bytes() == b"by hand"
    assert (here() / "marks.jsonl").read_bytes() == there()["marks.jsonl"] == b"{}{}"
    writer = memory.cat_file(f"/bucket/runs/x/{mirror.WRITER}")
    at("elsewhere")
    command(OTHER)
    memory.pipe(f"/bucket/runs/x/{mirror.WRITER}", writer)  # as after a copy that went down and up again
    at("here")
    command(OTHER)
    check(there())


def test_a_url_that_was_emptied_begins_anew(at: At) -> None:
    command()
    fsspec.filesystem("memory").store.clear()
    command(OTHER)
    check(there())
    assert "1_seeds.previous/a.png" not in there()
    with pytest.raises(FolderInUseError, match=f"^{URL}: was emptied; this command sends no more"), mirrored(URL):
        fsspec.filesystem("memory").store.clear()


def test_what_was_sent_before_a_kill_goes_with_its_stage(at: At) -> None:
    """A process that is killed has no note of what it has just sent; the next result must not take it for its own."""

    def killed(folder: Path) -> None:
        (Manifest.open(folder).start("seeds", KEY) / "c.png").write_text("of the first")
        send_now()
        raise KilledError

    with pytest.MonkeyPatch.context() as patched:
        saved = Mirror._save
        patched.setattr(Mirror, "_save", lambda self: None if (self.folder / "1_seeds/c.png").exists() else saved(self))
        with pytest.raises(KilledError):
            opened(killed)
    assert there()["1_seeds/c.png"] == b"of the first"
    opened(lambda folder: shutil.rmtree(Manifest.open(folder).start("seeds", OTHER)))
    assert "1_seeds/c.png" not in there()
    at("elsewhere")
    command(OTHER)
    check(there())


def test_without_a_manifest_what_people_put_there_stays(at: At) -> None:
    with pytest.raises(KilledError), mirrored(URL):
        raise KilledError
    memory = fsspec.filesystem("memory")
    memory.pipe("/bucket/runs/x/notes.txt", b"mine")
    memory.pipe("/bucket/runs/x/1_seeds/old.png", b"left of a sending that was cut short")
    at("elsewhere")
    command()
    assert there()["notes.txt"] == b"mine" and "1_seeds/old.png" not in there()
    check(there())


def test_of_two_machines_the_later_one_writes(at: At) -> None:
    def overtaken(folder: Path) -> None:
        work(folder)
        at("elsewhere")
        command(OTHER)
        (folder / "late.txt").touch()

    with pytest.raises(
        FolderInUseError, match=rf"^{URL}: taken over by what a command on .* has written there since 20.*; this"
    ):
        opened(overtaken)
    check(there())
    assert "late.txt" not in there()


def test_who_looks_at_a_run_ends_nobody(at: At) -> None:
    def seen(folder: Path) -> None:
        at("elsewhere")
        with mirrored(URL, "report", claims=False) as copy:
            (copy / "report.html").write_text("so far")
        at("here")
        work(folder)

    opened(seen)
    check(there())
    assert there()["report.html"] == b"so far"
    command()
    assert (here() / "report.html").read_text() == "so far"


def test_two_commands_of_one_machine_do_not_meet(at: At) -> None:
    with mirrored(URL), pytest.raises(FolderInUseError, match=rf"^{URL}: process .* works here"):
        command()


def test_a_store_that_fails_is_one_line_and_the_same_command_goes_on(
    at: At, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with monkeypatch.context() as patched:
        memory = type(fsspec.filesystem("memory"))

        def fail(*arguments: Any, **options: Any) -> None:
            raise OSError("connection reset")

        patched.setattr(memory, "put_file", fail)
        with pytest.raises(
            RemoteError, match=f"^{URL}/1_seeds/.*: cannot be written .*; what was made is kept in {here()}"
        ):
            command()
    assert "sent the next time" in caplog.text
    assert Manifest.open(here()).state("seeds", KEY) == "done"
    command()
    check(there())
    assert there().keys() >= {f"1_seeds/{name}" for name in NAMES}


def test_errors_and_lines_name_the_url(at: At, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "weakclip")

    def fail(folder: Path) -> None:
        outputs.logger.info("%s: seen", folder)
        raise RunError(f"{folder}/1_seeds: broken")

    with pytest.raises(RunError, match=f"^{URL}/1_seeds: broken$"):
        opened(fail)
    assert f"{URL}: seen" in caplog.text

    def full(folder: Path) -> None:
        raise StorageError(f"{folder}/a.png: cannot be written (No space left on device); the disk is full")

    with pytest.raises(StorageError, match=f"^{here()}/a.png: cannot be written"):
        opened(full)


def test_shards_send_beside_each_other_and_a_merge_has_all(at: At) -> None:
    with mirrored(URL, "0-of-2") as one:
        made = Manifest.open(one).start("seeds", KEY)
        send_now()
        at("elsewhere")
        with mirrored(URL, "1-of-2") as two:
            assert Manifest.open(two).state("seeds", KEY) == "unfinished"
            (two / "1_seeds").mkdir()
            (two / "1_seeds/b.png").write_text(f"{KEY.digest} b.png")
        (made / "a.png").write_text(f"{KEY.digest} a.png")
    (made / "deep").mkdir()
    (made / "deep/c.png").write_text(f"{KEY.digest} deep/c.png")  # and the machine died
    at("here")
    with mirrored(URL, "0-of-2") as one:
        assert (made / "deep/c.png").is_file() and (made / "b.png").is_file()
    at("third")
    with mirrored(URL) as folder:
        assert {path.name for path in (folder / "1_seeds").rglob("*.png")} == {"a.png", "b.png", "c.png"}
        work(folder)
    check(there())


def test_what_cannot_be_an_output_is_refused(at: At, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe("/bucket/runs/x/notes.txt", b"mine")
    with pytest.raises(RunError, match=f"^{URL}: is not empty and no run of weakclip"):
        command()
    assert there() == {"notes.txt": b"mine"}
    memory.pipe("/bucket/runs/x/1_seeds/a.png", b"a")
    for content in (b'{"stages": 3}', b"no JSON"):
        memory.pipe("/bucket/runs/x/manifest.json", content)
        with pytest.raises(RunError, match=f"^{URL}: is not empty and no run of weakclip"):
            command()
    assert there().keys() == {"notes.txt", "manifest.json", "1_seeds/a.png"}
    wrong_ones: dict[str | Path, str] = {
        "s3://me:word@host/x": "holds a password",
        "simplecache::s3://bucket/x": "a chain of file systems",
        Path("s3://bucket/x"): "give it as text",
        "s3:/bucket/x": "a URL with one slash",
        "s3://": "names no place",
        "file:///runs/x": "a folder of this machine; give its path, /runs/x",
    }
    for wrong, words in wrong_ones.items():
        with pytest.raises(ConfigError, match=words), mirrored(wrong):
            pass
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="processes of several machines"), mirrored(URL):
        pass


def test_a_folder_of_this_machine_is_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for out, expected in {"runs/x": Path("runs/x"), "~/runs/x": tmp_path / "runs/x"}.items():  # no folder called ~
        for each in (out, Path(out)):
            with mirrored(each) as folder:
                assert folder == expected


def test_names_from_elsewhere_stay_in_the_copy(at: At, tmp_path: Path) -> None:
    command()
    memory = fsspec.filesystem("memory")
    memory.store["/bucket/runs/x/../../../evil"] = memory.store["/bucket/runs/x/manifest.json"]
    at("elsewhere")
    command()
    assert not [*tmp_path.rglob("evil")]
