"""The mark "verified": its mask is a verified one as long as the mark stands, and no mask that a person drew goes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from review_case import NAMES

from weakclip.datasets.classes import VOC12
from weakclip.datasets.images import mask_digest, read_mask, write_mask
from weakclip.errors import ConfigError, DataError
from weakclip.pipeline.context import open_run
from weakclip.review import serving
from weakclip.review.folder import Request, ReviewFolder
from weakclip.store.lock import FolderInUseError, FolderLock
from weakclip.store.marks import MARKS, every_mark, read_marks

NAME = NAMES[1]


@pytest.fixture
def folder(review_run: Path) -> ReviewFolder:
    return ReviewFolder(review_run, reviewer="anna")


def mark(folder: ReviewFolder, verdict: str | None, *, undo: bool = False) -> None:
    index = folder.dataset.index_of(NAME)
    assert folder.add(Request(image=index, mark=verdict, keep_labels=True, undo=undo)) is not None


def kept(run: Path) -> Path:
    return run / "verified" / f"{NAME}.png"


def own(run: Path) -> Path:
    return run / "3_pseudo_masks/masks" / f"{NAME}.png"


def test_the_next_run_takes_it_as_verified(folder: ReviewFolder, review_run: Path) -> None:
    mark(folder, "verified")
    assert kept(review_run).read_bytes() == own(review_run).read_bytes()
    assert open_run(review_run).verified.names == (NAME,)
    line = read_marks(review_run / MARKS)[0][NAME]
    assert (line.reviewer, line.copied, line.pixels) == ("anna", True, mask_digest(read_mask(own(review_run))))
    item = folder.items([folder.dataset.index_of(NAME)])[0]
    assert (item["mark"], item["by"], item["verified"]) == ("verified", "anna", True)
    assert folder.counts()["verified"] == 1


@pytest.mark.parametrize("verdict", ["good", "bad", "relabel", None])
def test_the_next_mark_takes_it_out_and_undo_brings_it_back(
    folder: ReviewFolder, review_run: Path, verdict: str | None
) -> None:
    mark(folder, "verified")
    index = folder.dataset.index_of(NAME)
    folder.add(Request(image=index, mark=verdict, labels=("dog",) if verdict == "relabel" else None))
    assert not (review_run / "verified").exists()
    mark(folder, "verified", undo=True)
    assert open_run(review_run).verified.names == (NAME,)
    mark(folder, None)
    assert not open_run(review_run).verified.names


def test_another_process_takes_it_out_too(folder: ReviewFolder, review_run: Path) -> None:
    mark(folder, "verified")
    mark(ReviewFolder(review_run, reviewer="ben"), "bad")
    assert not kept(review_run).exists()
    assert [line.reviewer for line in every_mark(review_run / MARKS)[0]] == ["anna", "ben"]


def test_a_mask_that_a_person_has_drawn_stays(folder: ReviewFolder, review_run: Path) -> None:
    write_mask(kept(review_run), read_mask(own(review_run)), VOC12.palette)
    for verdict in ("verified", "verified", "bad", None):
        mark(folder, verdict)
        assert kept(review_run).is_file()
        assert not read_marks(review_run / MARKS)[0][NAME].copied
    write_mask(kept(review_run), np.zeros((16, 24), np.uint8), VOC12.palette)
    with pytest.raises(DataError, match="is another verified mask, which a person has drawn"):
        mark(folder, "verified")
    assert not read_mask(kept(review_run)).any()
    assert read_marks(review_run / MARKS)[0][NAME].mark is None


def test_a_correction_that_replaced_the_copy_stays(folder: ReviewFolder, review_run: Path) -> None:
    mark(folder, "verified")
    write_mask(kept(review_run), np.zeros((16, 24), np.uint8), VOC12.palette)
    mark(folder, None)
    assert not read_mask(kept(review_run)).any()


def test_a_mask_made_anew_replaces_the_copy(folder: ReviewFolder, review_run: Path) -> None:
    mark(folder, "verified")
    write_mask(own(review_run), np.full((16, 24), 2, np.uint8), VOC12.palette)
    mark(folder, "verified")
    assert (read_mask(kept(review_run)) == 2).all()
    mark(folder, None)
    assert not kept(review_run).exists()


def test_nothing_is_verified_while_a_run_works_there(folder: ReviewFolder, review_run: Path) -> None:
    with FolderLock(review_run):
        with pytest.raises(FolderInUseError):
            mark(folder, "verified")
        mark(folder, "bad")
    assert not kept(review_run).exists()
    assert read_marks(review_run / MARKS)[0][NAME].mark == "bad"


def test_without_a_mask_or_through_a_link_nothing_is_verified(folder: ReviewFolder, review_run: Path) -> None:
    (review_run / "verified").symlink_to(review_run.parent / "mine")
    with pytest.raises(DataError, match="leads out of the run folder"):
        mark(folder, "verified")
    own(review_run).unlink()
    with pytest.raises(DataError, match="no pseudo mask yet"):
        mark(folder, "verified")
    assert not (review_run / MARKS).read_bytes()


def test_a_bad_mark_on_a_verified_mask_remembers_what_it_judged(folder: ReviewFolder, review_run: Path) -> None:
    write_mask(kept(review_run), read_mask(own(review_run)), VOC12.palette)
    mark(folder, "bad")
    context = open_run(review_run)
    assert not context.verified.names and context.verified.rejected == (NAME,)
    assert set(context.bad) == {NAME}
    write_mask(kept(review_run), np.ones((16, 24), np.uint8), VOC12.palette)  # corrected since then
    assert open_run(review_run).verified.names == (NAME,)


def test_the_reviewer_is_the_given_name_or_the_login(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("getpass.getuser", lambda: "login")
    assert (serving.reviewer_name(" anna "), serving.reviewer_name("")) == ("anna", "login")

    def nobody() -> str:
        raise OSError("no account")

    monkeypatch.setattr("getpass.getuser", nobody)
    assert serving.reviewer_name("").startswith("user ")
    for wrong in ("a\nb", "x" * 101, "\x1b[2J"):
        with pytest.raises(ConfigError, match="reviewer: "):
            serving.reviewer_name(wrong)


def test_lines_are_whole_json(folder: ReviewFolder, review_run: Path) -> None:
    mark(folder, "good")
    mark(folder, None, undo=True)
    lines = [json.loads(line) for line in (review_run / MARKS).read_text().splitlines()]
    assert [(line["mark"], line["reviewer"], line["undo"]) for line in lines] == [
        ("good", "anna", False),
        (None, "anna", True),
    ]
