"""What is found in a folder is what is in it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from weakclip.datasets.classes import voc_palette
from weakclip.datasets.images import write_mask
from weakclip.errors import DataError
from weakclip.tools.init import survey
from weakclip.tools.init.survey import survey_folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, size in (("dog/1", (40, 30)), ("dog/2", (20, 10)), ("cat/3", (7, 90)), ("cat/4", (8, 8))):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", size).save(tmp_path / f"{name}.png")
    (tmp_path / "val.txt").write_text("cat/4\n")
    write_mask(tmp_path / "masks/cat/4.png", np.zeros((8, 8), np.uint8), voc_palette())
    return tmp_path


def test_a_survey_counts_classes_splits_masks_and_sizes(root: Path) -> None:
    found = survey_folder(root)
    assert (found.splits, found.masks) == ({"train": 3, "val": 1}, {"train": 0, "val": 1})
    assert found.classes == {"cat": 1, "dog": 2}
    assert (found.images, found.smallest, found.largest) == (3, (10, 20), (30, 40))
    assert found.labels == f"one sub-folder of {root} a class"
    assert (found.class_file, found.notes) == (None, ())


def test_labels_that_are_probably_mistakes_are_noted(root: Path) -> None:
    (root / "labels.csv").write_text("image,labels\ndog/1,Dog\ndog/2,dog;none\ncat/3,3\n")
    near, numbers, nothing = survey_folder(root).notes
    assert near.startswith("'Dog' and 'dog' are classes of their own; if they are one, write the other under")
    assert numbers.startswith("classes called by numbers: 3;")
    assert nothing.startswith("classes called 'none': where that means no label")


def test_a_table_and_a_class_file_are_named(root: Path) -> None:
    (root / "labels.csv").write_text("image,labels\ndog/1,cow\ndog/2,cow;dog\ncat/3,dog\n")
    (root / "classes.yaml").write_text("names: [dog, cow, pig]\n")
    found = survey_folder(root)
    assert found.classes == {"dog": 2, "cow": 2, "pig": 0}
    assert found.labels == str(root / "labels.csv")
    assert found.class_file == root / "classes.yaml"


def test_of_many_images_some_are_looked_at(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(survey, "MOST_HEADERS", 2)
    assert len(survey_folder(root).sizes) == 2


def test_an_image_that_cannot_be_read_is_noted_unless_none_can(root: Path) -> None:
    (root / "dog/1.png").write_text("hello")
    (note,) = survey_folder(root).notes
    assert note.startswith("1 images cannot be read, the first: ")
    for name in ("dog/2.png", "cat/3.png"):
        (root / name).write_text("hello")
    with pytest.raises(DataError, match="not an image"):
        survey_folder(root)
