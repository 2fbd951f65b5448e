"""Every page: links lead somewhere, commands are known, sources are named; the API reference builds."""

from __future__ import annotations

import itertools
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

import weakclip
from weakclip.cli import app
from weakclip.config import load_config, shipped_configs
from weakclip.training.launch import count_processes

ROOT = Path(__file__).parents[1]
PAGES = sorted(path for path in (*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")))
SCRIPTS = sorted(path for folder in ("src", "scripts", "examples") for path in (ROOT / folder).rglob("*.py"))
COMMAND: Any = typer.main.get_command(app)
OPTION = re.compile(r"^--[a-z-]+$")
SOURCE = re.compile(
    r"\b([A-Z][a-zäöü]+)(?: et al\.|(?:, [A-Z][a-z]+)* and (?:van den )?[A-Z][a-z]+)"
    r"[^\n]*?\n?[^\n]*?\b((?:19|20)\d\d)\b"
)
"""Authors and the next year, on the same line or the one below."""


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def anchors(page: Path) -> set[str]:
    """The names that headings have on the page, as code hosts make them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_relative_link_resolves(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", link):
            continue
        target, _, anchor = link.partition("#")
        path = (page.parent / target).resolve() if target else page
        assert path.exists(), f"{name(page)}: {link}"
        assert ROOT in (path, *path.parents), f"{name(page)}: {link} leads out of the repository"
        assert not anchor or anchor in anchors(path), f"{name(page)}: no heading {anchor} in {name(path)}"


def named_tests(page: Path) -> list[tuple[str, str]]:
    """Test files between backticks with the tests after them: `tests/test_a.py`, `::test_b`; "" for a file alone."""
    found, file = [], ""
    for given, test in re.findall(r"`(tests/[\w/]+\.py)?(?:::)?(test_\w+…?)?`", page.read_text(encoding="utf-8")):
        file = given or file
        if given or test:
            found.append((file, test))
    return found


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_test_that_is_named_exists(page: Path) -> None:
    """A long name may end in …"""
    for file, test in named_tests(page):
        assert (ROOT / file).is_file() and file, f"{name(page)}: {file or test}"
        defined = re.findall(r"^def (test_\w+)", (ROOT / file).read_text(encoding="utf-8"), flags=re.MULTILINE)
        short = test.removesuffix("…")
        known = any(each == test or (short != test and each.startswith(short)) for each in defined)
        assert not test or known, f"{name(page)}: {file}::{test}"


def test_the_tests_that_keep_the_promises_are_found_on_their_page() -> None:
    found = named_tests(ROOT / "docs/robustness.md")
    assert ("tests/pipeline/test_kill.py", "test_twenty_kills_and_more_in_every_stage") in found
    assert len({file for file, _ in found}) > 10


def commands(page: Path) -> list[list[str]]:
    """The weakclip commands on a page: lines of sh blocks, and what stands between backticks in the text."""
    text = page.read_text(encoding="utf-8")
    lines = [line for block in re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL) for line in block.splitlines()]
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    lines += [" ".join(span.split()) for span in re.findall(r"`(weakclip [^`]*)`", prose)]
    lines = [re.split(r" [|>] ", line.removeprefix("pip install . && "))[0] for line in lines]
    return [shlex.split(line) for line in lines if line.startswith("weakclip ")]


def known_options(command: Any) -> dict[str, Any]:
    return {
        option: parameter for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)
    }


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_command_is_known_with_its_options_and_keys(page: Path) -> None:
    for words in commands(page):
        command, rest = COMMAND, words[1:]
        while rest and hasattr(command, "commands") and not rest[0].startswith("-"):
            assert rest[0] in command.commands, f"{name(page)}: {' '.join(words)}"
            command, rest = command.commands[rest[0]], rest[1:]
        options = known_options(command)
        given = {word for word in rest if OPTION.match(word)} - {"--help"}
        assert given <= set(options), f"{name(page)}: {' '.join(words)}: {given - set(options)}"
        configs = [word for word in rest[:1] if word in shipped_configs()]
        pairs = list(itertools.pairwise(rest))
        assert all(count_processes(value, "cpu") for word, value in pairs if word == "--devices")
        overrides = [value for word, value in pairs if word == "--set" and "=" in value]
        for config in configs:
            load_config(config, overrides if any("data.root" in each for each in overrides) else [])


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_make_target_exists(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    named = set(re.findall(r"(?:^|`)make ([a-z-]+)", page.read_text(encoding="utf-8"), flags=re.MULTILINE))
    assert named <= targets


def test_the_index_lists_every_page() -> None:
    index = (ROOT / "docs/README.md").read_text(encoding="utf-8")
    assert all(f"]({page.name})" in index for page in (ROOT / "docs").glob("*.md") if page.name != "README.md")


def test_words_are_plain() -> None:
    """Words that a reader of another language stumbles over, and docstrings that open with a question word."""
    odd = re.compile(r'\b(?:alone|mend|mends|mended|lest|so many)\b|"""What ', re.IGNORECASE)
    for path in (*PAGES, *SCRIPTS, *(ROOT / "src").rglob("*.yaml"), *(ROOT / "benchmarks").rglob("*.py")):
        found = odd.search(re.sub(r"`[^`\n]*`", "", path.read_text(encoding="utf-8")))
        assert not found, f"{name(path)}: {found and found[0]!r}"


def test_every_source_that_the_code_names_is_in_the_notice() -> None:
    """Author and year of every publication in docstrings and comments."""
    text = (ROOT / "NOTICE").read_text(encoding="utf-8")
    entries = [" ".join(entry.split()) for entry in re.split(r"\n- |\n\n", text)]
    cited = {found.groups() for path in SCRIPTS for found in SOURCE.finditer(path.read_text(encoding="utf-8"))}
    assert {("Zhu", "2024"), ("Ahn", "2018"), ("Adams", "2010"), ("Lin", "2014"), ("Lin", "2017")} <= cited
    missing = {source for source in cited if not any(all(word in entry for word in source) for entry in entries)}
    assert not missing


def test_the_citation_is_valid_and_of_this_version() -> None:
    """The keys that CFF 1.2.0 requires, no key that it does not know, and the version of the package."""
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    known = {"cff-version", "message", "title", "abstract", "type", "license", "version", "authors", "keywords"}
    assert {"cff-version", "message", "title", "authors"} <= set(citation) <= known | {"references"}
    assert citation["cff-version"] == "1.2.0"
    assert citation["version"] == weakclip.__version__
    (paper,) = citation["references"]
    assert {"type", "title", "authors"} <= set(paper)
    assert all(set(author) <= {"family-names", "given-names"} for author in paper["authors"])
    assert paper["title"] in (ROOT / "NOTICE").read_text(encoding="utf-8")


def test_figures_of_the_model_card_are_those_of_the_training() -> None:
    record = json.loads((ROOT / "src/weakclip/clip/demo/training.json").read_text())
    card = (ROOT / "docs/demo_clip.md").read_text(encoding="utf-8")
    assert f"{record['parameters']:,} parameters" in card
    assert f"Scenes val, 200 pictures: {record['zero_shot_map_scenes_val']:.3f}" in card
    classes, figures = (f"| {' | '.join(row)} |" for row in zip(*per_class(record), strict=True))
    assert classes in card and figures in card
    for steps in ("teacher_steps", "steps", "contrast_steps"):
        assert f"{record['settings'][steps]:,} steps" in card


def per_class(record: dict[str, Any]) -> list[tuple[str, str]]:
    return [(label, f"{precision:.3f}") for label, precision in record["per_class"].items()]


@pytest.mark.whole
def test_the_api_reference_builds_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("pdoc", reason="the extra docs is not installed")
    recipe = subprocess.run(["make", "-n", "docs"], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    (arguments,) = re.findall(r"bin/python (.* pdoc .*)", recipe)
    words = [str(tmp_path) if word == "build/docs" else word for word in shlex.split(arguments)]
    built = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    assert "Warn" not in built.stderr
    texts = [page.read_text(encoding="utf-8") for page in (*PAGES, *ROOT.glob("examples/*.py"))]
    imported = {module for text in texts for module in re.findall(r"^(?:from|import) (weakclip[\w.]*)", text, re.M)}
    assert len(imported) > 10
    pages = {".".join(page.relative_to(tmp_path).with_suffix("").parts) for page in tmp_path.rglob("*.html")}
    rooms = {page.rpartition(".")[0] for page in pages}  # the names of weakclip.config are on the pages of its files
    assert sorted(imported - pages - rooms) == []
    assert "build_weakclip" in (tmp_path / "weakclip/modeling.html").read_text()
