"""Laws of the report: it is one file, it shows what the run folder holds, and no name becomes markup."""

from __future__ import annotations

import base64
import hashlib
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from weakclip.datasets.images import write_png
from weakclip.errors import RunError
from weakclip.report import read_run, render_report, write_report
from weakclip.report.figures import loss_curves, nice_ticks
from weakclip.report.folder import Curves
from weakclip.store.files import write_json

HOSTILE = '<script>alert("1")</script>'


class Page(HTMLParser):
    """Tags, and everything that would be fetched."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data")]


def test_page_fetches_nothing_and_runs_only_its_own_script(run_folder: Path) -> None:
    html = render_report(run_folder)
    page = Page(html)
    assert all(address.startswith(("#", "data:image/png;base64,")) for address in page.addresses)
    assert any(address.startswith("data:") for address in page.addresses)
    assert "url(" not in html
    assert "@import" not in html
    assert not {"link", "iframe", "form"} & set(page.tags)
    (script,) = re.findall(r"<script>(.*?)</script>", html, flags=re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"default-src 'none'; script-src 'sha256-{digest}';" in html
    assert "innerHTML" not in script


def test_hostile_names_are_text(run_folder: Path) -> None:
    html = render_report(run_folder)
    assert Page(html).tags.count("script") == 2
    assert html.count("<script") == html.count("</script") == 2
    assert "&lt;script&gt;" in html


def test_numbers_stages_and_curves_are_shown(run_folder: Path) -> None:
    html = render_report(run_folder)
    assert "51.2" in html
    assert "1 min 1 s" in html
    assert html.count("<svg") == 1
    assert "seeding loss" in html
    assert "#0102ff" in html


def test_stage_with_changed_inputs_is_called_stale(run_folder: Path) -> None:
    stale = {stage.name: stage.stale for stage in read_run(run_folder).stages}
    assert stale == {"seeds": False, "train": False, "evaluate": True}


def test_curves_are_bounded_and_pass_over_a_torn_line(run_folder: Path) -> None:
    (curves,) = read_run(run_folder).curves
    assert len(curves.steps) <= 300
    assert curves.steps[-1] <= 1000
    assert curves.series["loss"][0] > curves.series["loss"][-1]


def test_a_number_that_was_logged_once_is_a_dot() -> None:
    """A try of ten steps logs one line; a line of one point shows nothing."""
    once = Curves(stage="train", steps=(10.0,), series={"loss": (2.0,), "seeding_loss": (1.0,)})
    assert loss_curves(once).count("<circle") == 2
    twice = Curves(stage="train", steps=(10.0, 20.0), series={"loss": (2.0, 1.0), "seeding_loss": (1.0, math.nan)})
    assert loss_curves(twice).count("<circle") == 1


def test_report_is_a_pure_function_of_the_folder(run_folder: Path) -> None:
    first = write_report(run_folder).read_bytes()
    assert write_report(run_folder).read_bytes() == first


def test_run_that_has_just_begun_has_a_report(tmp_path: Path) -> None:
    write_json(tmp_path / "manifest.json", {"format": 2, "stages": {}})
    assert "Nothing has been scored" in render_report(tmp_path)


def test_foreign_folder_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="not a run folder"):
        write_report(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", ["[]", '{"stages": []}', '{"stages": {"seeds": 5}}'])
def test_manifest_of_something_else_is_one_clear_line(tmp_path: Path, content: str) -> None:
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(RunError, match="no manifest of weakclip"):
        write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_scores_of_another_version_are_one_clear_line(run_folder: Path) -> None:
    path = next(run_folder.glob("5_evaluate/metrics.json"))
    path.write_text('{"scores": [{"unheard_of": 1}]}')
    with pytest.raises(RunError, match="no scores of this version"):
        write_report(run_folder)


def test_picture_paths_cannot_leave_the_run_folder(run_folder: Path) -> None:
    outside = run_folder.parent / "outside.png"
    write_png(outside, np.zeros((2, 2, 3), np.uint8))
    row = {"name": "a", "split": "train", "labels": [], "pictures": {"image": "../../../outside.png"}}
    write_json(run_folder / "5_evaluate/pictures.json", {"classes": [], "rows": [row]})
    assert read_run(run_folder).rows[0].pictures == {}


@pytest.mark.parametrize(("low", "high"), [(0.0, 1e-6), (0.0, 0.0), (-3.0, 17.0), (0.2, 123456.0)])
def test_ticks_cover_the_data(low: float, high: float) -> None:
    ticks = nice_ticks(low, high)
    assert ticks[0] <= low + 1e-12
    assert ticks[-1] >= high - 1e-12
    assert 2 <= len(ticks) <= 7
