"""What pyproject.toml promises: bounds that are tried, Python versions, no torchvision, a wheel with every file."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "weakclip"
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = PYPROJECT["project"]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def requirements() -> list[Requirement]:
    """Of the build, the package and all its extras, less the extras' references to each other."""
    extras = [line for lines in PROJECT["optional-dependencies"].values() for line in lines]
    lines = [*PYPROJECT["build-system"]["requires"], *PROJECT["dependencies"], *extras]
    return [each for each in map(Requirement, lines) if each.name != PROJECT["name"]]


def lower_bound(requirement: Requirement) -> Version:
    (bound,) = (Version(each.version) for each in requirement.specifier if each.operator == ">=")
    return bound


def pins(name: str) -> dict[str, Version]:
    """What a file of constraints pins; every line is `name==version`."""
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    found = [Requirement(line) for line in lines if line and not line.startswith("#")]
    assert all([each.operator for each in one.specifier] == ["=="] for one in found)
    return {canonicalize_name(one.name): Version(str(one.specifier).removeprefix("==")) for one in found}


def test_the_oldest_versions_are_the_lower_bounds() -> None:
    """All but torch, which has the version of constraints.txt in both sets."""
    bounds = {canonicalize_name(each.name): lower_bound(each) for each in requirements()}
    oldest = pins("constraints-oldest.txt")
    assert bounds.pop("torch") <= oldest["torch"]
    assert {"torch": oldest.pop("torch")} == pins("constraints.txt")
    assert oldest == bounds


def test_the_python_versions_agree() -> None:
    named = [re.fullmatch(r"Programming Language :: Python :: (3\.\d+)", line) for line in PROJECT["classifiers"]]
    versions = [found[1] for found in named if found]
    assert PROJECT["requires-python"] == f">={versions[0]}"
    assert PYPROJECT["tool"]["mypy"]["python_version"] == versions[0]
    assert PYPROJECT["tool"]["ruff"]["target-version"] == f"py{versions[0].replace('.', '')}"
    for page in (README, (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")):
        assert re.findall(r"Python (3\.\d+) to (3\.\d+)", page) == [(versions[0], versions[-1])]


def test_a_release_is_checked_with_all_that_users_install() -> None:
    """The other extras are for those who work on the package."""
    (line,) = re.findall(r"^EXTRAS = (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert {*line.split(","), "browser", "docs", "test", "dev"} == set(PROJECT["optional-dependencies"])


def test_no_requirement_brings_torchvision() -> None:
    """Neither directly nor by way of others that are installed: a torchvision of another torch breaks CLIP."""
    waiting, seen = requirements(), set()
    while waiting:
        one = waiting.pop()
        if str(one) in seen:
            continue
        seen.add(str(one))
        assert canonicalize_name(one.name) != "torchvision"
        try:
            below = [Requirement(line) for line in requires(one.name) or []]
        except PackageNotFoundError:
            continue
        extras = [{"extra": extra} for extra in ("", *one.extras)]
        waiting += [each for each in below if each.marker is None or any(map(each.marker.evaluate, extras))]
    assert any(each.startswith("regex") for each in seen)  # by way of transformers


def test_the_wheel_has_every_file(tmp_path: Path) -> None:
    """Modules, settings, templates, pages, the demo's CLIP and the licences."""
    pytest.importorskip("setuptools", minversion="77", reason="no setuptools that knows the licence's key")
    for name in ("pyproject.toml", "README.md", *PROJECT["license-files"]):
        shutil.copy(ROOT / name, tmp_path)
    package = tmp_path / "src" / "weakclip"
    shutil.copytree(SOURCE, package, ignore=shutil.ignore_patterns("__pycache__"))
    build = "from setuptools import build_meta; build_meta.build_wheel('.')"
    subprocess.run([sys.executable, "-c", build], cwd=tmp_path, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    source = {str(path.relative_to(tmp_path / "src")) for path in package.rglob("*") if path.is_file()}
    assert {name for name in names if ".dist-info/" not in name} == source
    assert {Path(name).name for name in names if "/licenses/" in name} == set(PROJECT["license-files"])
