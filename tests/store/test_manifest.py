"""Laws of the run folder: a result is used again under the very same key, and nothing of anybody else's is touched."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from weakclip.errors import RunError
from weakclip.store.keys import ResultKey
from weakclip.store.manifest import Manifest, read_records

KEY = ResultKey(settings={"seeds.power": 1.0}, inputs={"data (train)": "abc"}, code=1)


def finished(folder: Path) -> Manifest:
    manifest = Manifest.open(folder)
    (manifest.start("seeds", KEY) / "mask.png").write_text("work")
    manifest.finish("seeds", 1.0)
    return Manifest.open(folder)


def test_states_of_a_stage(tmp_path: Path) -> None:
    manifest = Manifest.open(tmp_path / "run")
    assert manifest.state("seeds", KEY) == "new"
    manifest.start("seeds", KEY)
    assert Manifest.open(tmp_path / "run").state("seeds", KEY) == "unfinished"
    manifest.finish("seeds", 1.0)
    assert Manifest.open(tmp_path / "run").state("seeds", KEY) == "done"


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (ResultKey(settings={"seeds.power": 2.0}, inputs=KEY.inputs), "seeds.power: 1.0 → 2.0"),
        (ResultKey(settings={**KEY.settings, "seeds.new": [1]}, inputs=KEY.inputs), "seeds.new: null → [1]"),
        (ResultKey(settings=KEY.settings, inputs={"data (train)": "other"}), "data (train) changed"),
        (ResultKey(settings=KEY.settings, inputs={**KEY.inputs, "train": "x"}), "train is new"),
        (
            ResultKey(settings=KEY.settings, inputs=KEY.inputs, code=2),
            "this version of weakclip computes it differently",
        ),
    ],
)
def test_any_change_makes_another_key_and_is_named(tmp_path: Path, other: ResultKey, words: str) -> None:
    manifest = finished(tmp_path / "run")
    assert manifest.state("seeds", other) == "changed"
    assert manifest.differences("seeds", other) == [words]


OTHER = ResultKey(settings={"seeds.power": 2.0}, inputs=KEY.inputs)
THIRD = ResultKey(settings={"seeds.power": 3.0}, inputs=KEY.inputs)


def content(run: Path) -> dict[str, str]:
    """Text files of the stages and of what was set aside."""
    return {str(path.relative_to(run)): path.read_text() for path in sorted(run.glob("*/*.png"))}


def test_result_under_another_key_is_set_aside_and_removed_when_the_new_one_is_done(tmp_path: Path) -> None:
    run = tmp_path / "run"
    manifest = finished(run)
    assert manifest.replaces_a_result("seeds", OTHER)
    (manifest.start("seeds", OTHER) / "mask.png").write_text("new")
    assert content(run) == {"1_seeds/mask.png": "new", "1_seeds.previous/mask.png": "work"}
    Manifest.open(run).finish("seeds", 1.0)
    assert content(run) == {"1_seeds/mask.png": "new"}
    assert Manifest.open(run).state("seeds", OTHER) == "done"
    assert not Manifest.open(run).previous


def test_previous_result_is_taken_back_when_its_settings_are(tmp_path: Path) -> None:
    run = tmp_path / "run"
    (finished(run).start("seeds", OTHER) / "mask.png").write_text("begun by mistake")
    manifest = Manifest.open(run)
    assert not manifest.replaces_a_result("seeds", KEY)
    manifest.start("seeds", KEY)
    assert content(run) == {"1_seeds/mask.png": "work"}
    assert Manifest.open(run).state("seeds", KEY) == "done"


def test_of_several_changes_the_finished_result_is_the_one_that_is_kept(tmp_path: Path) -> None:
    run = tmp_path / "run"
    (finished(run).start("seeds", OTHER) / "mask.png").write_text("begun")
    (Manifest.open(run).start("seeds", THIRD) / "mask.png").write_text("third")
    assert content(run) == {"1_seeds/mask.png": "third", "1_seeds.previous/mask.png": "work"}


def test_a_third_result_is_refused_while_a_finished_one_is_set_aside(tmp_path: Path) -> None:
    manifest = finished(tmp_path / "run")
    manifest.start("seeds", OTHER)
    assert not manifest.replaces_a_result("seeds", OTHER)
    assert not manifest.replaces_a_result("seeds", KEY)
    assert manifest.replaces_a_result("seeds", THIRD)


def test_a_removal_that_was_cut_short_leaves_nothing_that_is_taken_for_another_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    (finished(run).start("seeds", OTHER) / "mask.png").write_text("other")
    with monkeypatch.context() as patched:
        patched.setattr("weakclip.store.manifest.shutil.rmtree", lambda *_, **__: None)
        Manifest.open(run).finish("seeds", 1.0)
    assert content(run) == {"1_seeds/mask.png": "other", "1_seeds.previous/mask.png": "work"}
    Manifest.open(run).start("seeds", THIRD)
    assert content(run) == {"1_seeds.previous/mask.png": "other"}
    Manifest.open(run).start("seeds", OTHER)
    assert content(run) == {"1_seeds/mask.png": "other"}


def test_what_is_compared_is_the_finished_result_that_would_make_way(tmp_path: Path) -> None:
    """A new result was begun and given up: neither of its settings nor of its files anything is left to compare."""
    manifest = finished(tmp_path / "run")
    manifest.start("seeds", OTHER)
    manifest = Manifest.open(tmp_path / "run")
    assert manifest.differences("seeds", THIRD) == ["seeds.power: 1.0 → 3.0"]
    assert manifest.comes_back("seeds", KEY) and not manifest.comes_back("seeds", THIRD)
    assert not manifest.comes_back("seeds", OTHER), "which goes on"
    manifest.finish("seeds", 1.0)
    assert manifest.differences("seeds", THIRD) == ["seeds.power: 2.0 → 3.0"]
    assert not manifest.comes_back("seeds", KEY)


def test_a_finished_result_stays_one_while_files_are_added(tmp_path: Path) -> None:
    manifest = finished(tmp_path / "run")
    manifest.start("seeds", KEY)
    assert Manifest.open(tmp_path / "run").replaces_a_result("seeds", OTHER)


@pytest.mark.parametrize(("had", "wanted", "state"), [(8, 2, "done"), (8, 0, "done"), (2, 8, "unfinished")])
def test_as_many_files_as_asked_for_or_more_are_enough(tmp_path: Path, had: int, wanted: int, state: str) -> None:
    manifest = finished(tmp_path / "run")
    manifest.finish("seeds", 1.0, {"evaluate.pictures": had})
    assert manifest.state("seeds", KEY, {"evaluate.pictures": wanted}) == state


class KilledError(Exception):
    """The process ends here."""


@pytest.mark.parametrize("wanted", [[OTHER], [OTHER, KEY], [OTHER, THIRD]], ids=["change", "and back", "and on"])
@pytest.mark.parametrize("operation", [0, 1, 2, 3, 4, 5, 6])
def test_a_kill_at_any_operation_loses_no_finished_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wanted: list[ResultKey], operation: int
) -> None:
    """Before every write of the manifest, every renaming and every removal, in each of the starts."""
    run, left = tmp_path / "run", operation
    finished(run)

    def counted(do: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                raise KilledError
            return do(*arguments, **options)

        return call

    with monkeypatch.context() as patched:
        patched.setattr(Manifest, "save", counted(Manifest.save))
        patched.setattr(Path, "rename", counted(Path.rename))
        patched.setattr("weakclip.store.manifest.shutil.rmtree", counted(shutil.rmtree))
        with contextlib.suppress(KilledError):
            for key in wanted:
                Manifest.open(run).start("seeds", key)
    Manifest.open(run).start("seeds", KEY)
    assert Manifest.open(run).state("seeds", KEY) == "done"
    assert content(run) == {"1_seeds/mask.png": "work"}


def test_more_output_is_no_other_result(tmp_path: Path) -> None:
    run = tmp_path / "run"
    manifest = finished(run)
    assert manifest.state("seeds", KEY, {"seeds.confidence": False}) == "done"
    assert manifest.state("seeds", KEY, {"seeds.confidence": True}) == "unfinished"
    manifest.start("seeds", KEY)
    assert content(run) == {"1_seeds/mask.png": "work"}
    manifest.finish("seeds", 1.0, {"seeds.confidence": True})
    assert Manifest.open(run).state("seeds", KEY, {"seeds.confidence": True}) == "done"
    assert Manifest.open(run).state("seeds", KEY, {"seeds.confidence": False}) == "done"


def test_unfinished_stage_keeps_its_work(tmp_path: Path) -> None:
    manifest = Manifest.open(tmp_path / "run")
    folder = manifest.start("seeds", KEY)
    (folder / "mask.png").write_text("work")
    Manifest.open(tmp_path / "run").start("seeds", KEY)
    assert [path.name for path in folder.iterdir()] == ["mask.png"]


def test_finished_stage_whose_folder_is_gone_is_made_again(tmp_path: Path) -> None:
    manifest = finished(tmp_path / "run")
    shutil.rmtree(tmp_path / "run/1_seeds")
    assert manifest.state("seeds", KEY) == "unfinished"
    assert manifest.state("seeds", OTHER) == "changed" and not manifest.replaces_a_result("seeds", OTHER)


def test_finished_stage_that_lost_a_file_is_not_done(tmp_path: Path) -> None:
    manifest = finished(tmp_path / "run")
    assert manifest.state("seeds", KEY) == "done"
    (tmp_path / "run/1_seeds/mask.png").unlink()
    assert manifest.state("seeds", KEY) == "unfinished"


def test_a_stray_file_does_not_stand_for_a_lost_one(tmp_path: Path) -> None:
    manifest = finished(tmp_path / "run")
    (tmp_path / "run/1_seeds/notes.txt").write_text("a person's")
    assert manifest.state("seeds", KEY) == "done"
    (tmp_path / "run/1_seeds/mask.png").unlink()
    assert manifest.state("seeds", KEY) == "unfinished"


@pytest.mark.parametrize(
    "content", ["", "3", "[]", "{}", '""', "[[]]", '["mask.png", "gone.png"]', '["mask.png", "mask.png"]']
)
def test_a_damaged_list_of_files_is_no_proof(tmp_path: Path, content: str) -> None:
    manifest = finished(tmp_path / "run")
    (tmp_path / "run/1_seeds/files.json").write_text(content)
    assert manifest.state("seeds", KEY) == "unfinished"
    manifest.start("seeds", KEY)
    manifest.finish("seeds", 1.0)
    assert manifest.state("seeds", KEY) == "done"


@pytest.mark.parametrize("known", ['"format": 1, ', '"format": "2", ', ""])
def test_a_manifest_of_another_format_is_one_clear_line(tmp_path: Path, known: str) -> None:
    (tmp_path / "manifest.json").write_text(f'{{{known}"stages": {{}}}}')
    with pytest.raises(RunError, match=r"manifest\.json: format 2 expected; found (1|'2'|None), .*another --out"):
        Manifest.open(tmp_path)


def test_records_of_an_earlier_format_are_read_and_those_of_a_later_one_are_not(tmp_path: Path) -> None:
    assert read_records(tmp_path) == {}
    for made_by in (1, 2):
        record = {"seeds": {"key": "abc", "done": True}}
        (tmp_path / "manifest.json").write_text(json.dumps({"format": made_by, "stages": record}))
        assert read_records(tmp_path) == record
    (tmp_path / "manifest.json").write_text('{"format": 3, "stages": {}}')
    with pytest.raises(RunError, match=r"manifest\.json: one of the formats \(1, 2\) expected; found 3"):
        read_records(tmp_path)


def test_files_without_a_record_do_not_enter_a_new_stage(tmp_path: Path) -> None:
    manifest = Manifest.open(tmp_path / "run")
    folder = tmp_path / "run/1_seeds"
    folder.mkdir(parents=True)
    (folder / "mask.png").write_text("of unknown origin")
    assert list(manifest.start("seeds", KEY).iterdir()) == []


def test_foreign_folder_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(RunError, match="not empty and no run of weakclip"):
        Manifest.open(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_empty_folder_and_leftovers_of_a_first_write_are_accepted(tmp_path: Path) -> None:
    (tmp_path / ".manifest.json.abc.tmp").write_text("{")
    assert Manifest.open(tmp_path).records == {}


@pytest.mark.parametrize("content", ["", "{", "[]", '{"stages": 3}', '{"stages": {"seeds": 1}}', '{"name": "other"}'])
def test_manifest_of_something_else_is_one_clear_line(tmp_path: Path, content: str) -> None:
    (tmp_path / "manifest.json").write_text(content)
    for read in (Manifest.open, read_records):
        with pytest.raises(RunError, match=r"manifest\.json") as error:
            read(tmp_path)
        assert "\n" not in str(error.value)


def test_file_in_the_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(RunError, match="is a file"):
        Manifest.open(tmp_path / "run")


def test_key_does_not_depend_on_order_and_survives_json() -> None:
    there = ResultKey(settings={"a": (1.0, 2), "b": None}, inputs={"x": "1", "y": "2"})
    back = ResultKey(settings={"b": None, "a": [1, 2]}, inputs={"y": "2", "x": "1"})
    assert there.digest == back.digest
    assert there.record()["settings"] == json.loads(json.dumps(there.record()))["settings"]
