"""Laws of the class file: synonyms mean their class, and every mistake is one clear line that names the file."""

from __future__ import annotations

from pathlib import Path

import pytest

from weakclip.datasets.class_files import read_class_file
from weakclip.errors import DataError


def write(folder: Path, text: str) -> Path:
    path = folder / "classes.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_synonym_means_its_class(tmp_path: Path) -> None:
    vocabulary = read_class_file(write(tmp_path, "names: [dog, sofa]\nsynonyms: {sofa: [couch, settee, Kanapé]}\n"))
    assert vocabulary.class_set.names == ("background", "dog", "sofa")
    for label in ("sofa", "couch", "settee", "Kanapé"):
        assert vocabulary.foreground_indices([label]) == (2,)
    assert vocabulary.foreground_indices(["couch", "sofa", "dog"]) == (1, 2)
    with pytest.raises(DataError, match="unknown class 'coach'"):
        vocabulary.foreground_indices(["coach"])


def test_synonyms_change_nothing_but_the_reading_of_labels(tmp_path: Path) -> None:
    """Two class files that differ in synonyms alone give equal class sets, so that no stage of a run is made anew."""
    plain = read_class_file(write(tmp_path, "names: [dog, sofa]"))
    more = read_class_file(write(tmp_path, "names: [dog, sofa]\nsynonyms: {sofa: [couch]}"))
    assert plain.class_set == more.class_set
    assert plain.synonyms == {}


@pytest.mark.parametrize(
    ("synonyms", "message"),
    [
        ("{cat: [kitten]}", "unknown class 'cat'"),
        ("{background: [nothing]}", "'background' is not an image-level label"),
        ("{sofa: [dog]}", "'dog' of 'sofa' is a class itself"),
        ("{sofa: [seat], dog: [seat]}", "'seat' means both 'sofa' and 'dog'"),
        ("{sofa: couch}", "synonyms are `class:"),
        ("{sofa: [yes]}", "put quotes round"),
        ("[couch]", "synonyms are `class:"),
    ],
)
def test_a_mistake_in_synonyms_is_one_line_with_the_file(tmp_path: Path, synonyms: str, message: str) -> None:
    path = write(tmp_path, f"names: [dog, sofa]\nsynonyms: {synonyms}\n")
    with pytest.raises(DataError) as caught:
        read_class_file(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_class_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.yaml: cannot be read \(No such file"):
        read_class_file(tmp_path / "none.yaml")


def test_a_byte_order_mark_is_no_key(tmp_path: Path) -> None:
    assert read_class_file(write(tmp_path, "\ufeffnames: [dog]")).class_set.names == ("background", "dog")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("names: [dog, cat]\nsynonyms: {dog: [hound]}\nsynonyms: {cat: [kitty]}\n", "line 3: the key 'synonyms' is"),
        ("names: [background, dog]\n", "the background is class 0 by itself; leave 'background' out"),
        ("names: [dog, dog]\n", "class names must differ; found dog more than once"),
    ],
)
def test_what_is_there_twice_is_said(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(DataError) as caught:
        read_class_file(path)
    assert str(path) in str(caught.value) and message in str(caught.value)
