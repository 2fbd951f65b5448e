"""Laws of the validation split that `init` makes: a share of each class, the same each time, and half to train on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from weakclip.config import load_config
from weakclip.datasets.folder import FolderDataset
from weakclip.errors import ConfigError
from weakclip.tools.init.folder import write_init
from weakclip.tools.init.val_split import choose_val


def drawn(seed: int, images: int, classes: int) -> dict[str, tuple[int, ...]]:
    """Images with one to three classes each, some classes rare."""
    generator = np.random.default_rng(seed)
    shares = 1 / np.arange(1, classes + 1)
    return {
        f"photo {number}": tuple(
            sorted(generator.choice(classes, generator.integers(1, 4), replace=False, p=shares / shares.sum()) + 1)
        )
        for number in range(images)
    }


@pytest.mark.parametrize(("images", "classes"), [(40, 3), (300, 10), (2000, 40)])
@pytest.mark.parametrize("share", [0.05, 0.1, 0.5])
def test_each_class_has_its_share_and_keeps_half(images: int, classes: int, share: float) -> None:
    labels = drawn(images, images, classes)
    chosen = choose_val(labels, share)
    assert len(set(chosen)) == len(chosen) and set(chosen) <= set(labels)
    all_, val = (Counter(label for name in names for label in labels[name]) for names in (labels, chosen))
    for label, count in all_.items():
        assert 2 * val[label] <= count
        assert val[label] >= min(int(count * share + 0.5), count // 2) - (2 if share == 0.5 else 0), (label, count)


def test_the_choice_depends_on_names_alone() -> None:
    labels = drawn(1, 200, 5)
    turned = dict(reversed(labels.items()))
    chosen = choose_val(labels, 0.1)
    assert choose_val(turned, 0.1) == chosen
    more = labels | {f"more {number}": (1,) for number in range(5)}
    assert len(set(choose_val(more, 0.1)) & set(chosen)) >= 0.8 * len(chosen)


@pytest.mark.parametrize("share", [0.0, -0.1, 0.6, 1.0, float("nan")])
def test_a_share_that_is_none_is_refused(share: float) -> None:
    with pytest.raises(ConfigError, match=r"--val: a share above 0 and at most 0\.5 expected"):
        choose_val({"a": (1,), "b": (1,)}, share)


def test_too_few_images_are_one_line() -> None:
    with pytest.raises(ConfigError, match=r"--val 0\.1: no class has images enough; the most that one has is 4"):
        choose_val(dict.fromkeys("abcd", (1,)), 0.1)


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Twenty photos of cats and ten of dogs, in class folders; the working folder is theirs."""
    for number in range(30):
        path = tmp_path / "mine" / ("cat" if number < 20 else "dog") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30), (number, 0, 0)).save(path)
    monkeypatch.chdir(tmp_path)
    return Path("mine")


def test_init_writes_the_list_beside_the_configuration_and_nothing_to_the_folder(
    photos: Path, call: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("init", photos, "--clip", "demo", "--val", "0.1") == 0
    shown = capsys.readouterr().out
    assert "images: train 27 (0 with mask), val 3 (0 with mask)" in shown
    assert "val: 3 images are set aside to score on, and get no masks: mine_val.txt lists them" in shown
    listed = Path("mine_val.txt").read_text().split()
    assert sorted(name.split("/")[0] for name in listed) == ["cat", "cat", "dog"]
    data = load_config("mine.yaml").data
    assert (data.val_split, data.val_file) == ("val", "mine_val.txt")
    assert data.open("val", None).names == tuple(listed)
    assert set(data.open("train", None).names).isdisjoint(listed)
    assert sorted(path.name for path in photos.iterdir()) == ["cat", "dog"]
    assert call("init", photos, "--clip", "demo", "--val", "0.1") == 2
    Path("mine.yaml").unlink()
    assert call("init", photos, "--clip", "demo", "--val", "0.1") == 2
    assert "mine_classes.yaml: is there already" in capsys.readouterr().err
    assert call("init", photos, "--clip", "demo", "--val", "0.1", "--overwrite") == 0
    assert Path("mine_val.txt").read_text().split() == listed
    assert call("data", "check", "mine.yaml") == 0


def test_a_split_that_is_there_is_not_replaced(photos: Path) -> None:
    (photos / "val.txt").write_text("cat/1\n")
    with pytest.raises(ConfigError, match="mine: has a validation split already; leave --val out"):
        write_init(photos, "my.yaml", val_share=0.1)
    assert not Path("my.yaml").exists() and not Path("my_val.txt").exists()


def test_a_list_elsewhere_is_in_no_other_split(photos: Path, tmp_path: Path) -> None:
    """Beside lists and folders of the data set."""
    (tmp_path / "mine.txt").write_text("cat/1.png\ndog/20\n")
    assert FolderDataset(photos, "val", val_file="mine.txt").names == ("cat/1", "dog/20")
    assert len(FolderDataset(photos, "train", val_file="mine.txt")) == 28
    (photos / "train.txt").write_text("cat/1\ncat/2\n")
    assert FolderDataset(photos, "train", val_file="mine.txt").names == ("cat/2",)
    (tmp_path / "whole/train").mkdir(parents=True)
    (photos / "cat").rename(tmp_path / "whole/train/cat")
    (tmp_path / "one.txt").write_text("train/cat/1\n")
    assert FolderDataset("whole", "val", val_file="one.txt").names == ("train/cat/1",)
    assert len(FolderDataset("whole", "train", val_file="one.txt")) == 19
    for text, said in (("", "names no image"), ("train/cat/99\n", r"one\.txt, line 1: no image")):
        (tmp_path / "one.txt").write_text(text)
        with pytest.raises(Exception, match=said):
            FolderDataset("whole", "val", val_file="one.txt")
    with pytest.raises(Exception, match=r"none\.txt: no such file; data\.val_file"):
        FolderDataset("whole", "val", val_file="none.txt")
