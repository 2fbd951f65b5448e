"""Laws of `weakclip init`: what it writes loads and runs unchanged, says why, and never costs anybody a file."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from weakclip.config import load_config
from weakclip.datasets.classes import BACKGROUND_PROMPTS
from weakclip.errors import WeakCLIPError
from weakclip.tools.init.folder import plan_init, write_init
from weakclip.tools.init.survey import FolderSurvey


def survey(sizes: list[tuple[int, int]], images: int = 100) -> FolderSurvey:
    return FolderSurvey(
        root=Path("mine"),
        labels="labels.csv",
        class_file=None,
        splits={"train": images},
        masks={"train": 0},
        classes={"cat": images},
        sizes=tuple(sizes),
        notes=(),
    )


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Four small noisy photos with labels, one of them for validation; the working folder is theirs."""
    root = tmp_path / "my photos: été"
    (root / "images").mkdir(parents=True)
    for number, name in enumerate(("a", "b c", "ü", "d")):
        noise = np.random.default_rng(number).integers(0, 256, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(noise).save(root / f"images/{name}.png")
    (root / "labels.csv").write_text("image,labels\na,cat\nb c,traffic light;yes\nü,1\nd,cat\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return Path(root.name)


def test_init_check_and_run_go_through_unchanged(
    photos: Path, call: Callable[..., int], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Names that YAML would take for numbers or truth, spaces, a colon and an accent in the path."""
    assert call("init", photos, "--clip", "demo", "--out", "my.yaml") == 0
    shown = capsys.readouterr().out
    assert "images: train 4 (0 with mask)" in shown and "encoder: openai/clip-vit-base-patch16 suits" in shown
    assert "4 classes: 1 (1), cat (2), traffic light (1), yes (1)" in shown
    next_command = shlex.split(re.findall(r"next: weakclip (.*)", shown)[0])
    assert next_command == ["data", "check", "my.yaml"]
    assert call(*next_command) == 0
    quick = ("device=cpu", "train.batch_size=2", "pseudo_masks.inference.scales=[1.0]")
    overrides = [word for setting in quick for word in ("--set", setting)]
    assert call("run", "my.yaml", "--out", "runs/mine", "--limit-steps", 2, *overrides) == 0
    assert sorted(path.name for path in Path("runs/mine/3_pseudo_masks/masks").iterdir()) == [
        *("a.png", "b c.png", "d.png", "ü.png")
    ]
    assert Path("runs/mine/report.html").is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["my photos: été", "my.yaml", "my_classes.yaml", "runs"]
    assert sorted(path.name for path in photos.iterdir()) == ["images", "labels.csv"]


@pytest.mark.parametrize("clip", ["demo", "openai/clip-vit-base-patch16", "./weights/ViT-B-16.pt"])
def test_what_is_written_says_what_was_found_and_why(photos: Path, clip: str) -> None:
    (photos / "val.txt").write_text("d\n")
    start = write_init(photos, "new/my.yaml", clip=clip)
    config = load_config(start.config)
    assert config == start.loaded
    assert config.clip.source == clip
    assert (config.data.root, config.data.val_split) == (str(photos), "val")
    assert config.augment.crop_size == config.pseudo_masks.inference.crop == config.evaluate.inference.crop
    assert config.retrain.model is None
    text = start.config.read_text(encoding="utf-8")
    assert text.count("#") >= 12
    assert "1 images, 0 of them with a mask" in text
    classes = yaml.safe_load(start.class_file.read_text(encoding="utf-8"))
    assert classes["names"] == ["1", "cat", "traffic light", "yes"]
    assert classes["background_prompts"] == list(BACKGROUND_PROMPTS)


def test_a_file_is_replaced_only_when_told_to(
    photos: Path, call: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("init", photos, "--clip", "demo") == 0
    config, classes = Path(f"{photos.name}.yaml"), Path(f"{photos.name}_classes.yaml")
    for path in (config, classes):
        path.write_text("by hand")
        assert call("init", photos, "--clip", "demo") == 2
        assert path.read_text() == "by hand"
        assert "is there already; --overwrite" in capsys.readouterr().err
    config.unlink()
    assert call("init", photos, "--clip", "demo") == 2
    assert not config.exists()
    assert call("init", photos, "--clip", "demo", "--overwrite") == 0
    assert "by hand" not in config.read_text() + classes.read_text()


def test_a_folder_keeps_to_its_own_class_file(photos: Path) -> None:
    own = photos / "classes.yaml"
    own.write_text('names: [cat, "1"]\nsynonyms: {cat: [traffic light, "yes"]}\n')
    start = write_init(photos, "my.yaml")
    assert start.class_file is None
    assert load_config("my.yaml").data.class_file is None
    assert start.survey.classes == {"cat": 3, "1": 1}
    assert own.read_text().startswith("names: [cat")


def test_labels_elsewhere_are_in_the_configuration(photos: Path) -> None:
    (photos / "labels.csv").rename("tags.csv")
    assert write_init(photos, "my.yaml", label_file="tags.csv").loaded.data.label_file == "tags.csv"


@pytest.mark.parametrize(
    ("out", "message"), [("my.txt", r"ends in \.yaml"), ("file/my.yaml", "cannot be written"), (".yaml", r"ends in")]
)
def test_a_path_that_is_none_is_one_clear_line(photos: Path, out: str, message: str) -> None:
    Path("file").write_text("")
    with pytest.raises(WeakCLIPError, match=message):
        write_init(photos, out)


def test_an_untagged_folder_is_told_of_tagging(
    photos: Path, call: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "labels.csv").unlink()
    assert call("init", photos) == 2
    assert "`weakclip tag` propose" in capsys.readouterr().err
    assert [path.name for path in Path().iterdir()] == [photos.name]


def test_numbers_follow_the_images() -> None:
    voc = plan_init(survey([(375, 500)] * 3, images=10_582))
    assert (voc.crop, voc.stride, voc.longest_side, voc.scale) == (512, 341, None, 1.0)
    assert voc.steps == 20_000
    assert plan_init(survey([(375, 500)], images=30)).steps == 500
    assert plan_init(survey([(375, 500)], images=1_000)).steps == 3_800
    small = plan_init(survey([(64, 64)] * 5))
    assert (small.crop, small.scale) == (224, 3.5)
    assert plan_init(survey([(64, 64)] * 5 + [(600, 800)])).scale == 1.2
    huge = plan_init(survey([(8000, 12500)] * 5))
    assert (huge.longest_side, huge.crop, huge.scale) == (1024, 512, 1.0)


@pytest.mark.parametrize("clip", ["demo", "hub/id"])
@pytest.mark.parametrize("size", [(1, 1), (3, 500), (9, 7), (100, 100), (4000, 3000)])
@pytest.mark.parametrize("images", [1, 7, 10**6])
def test_numbers_are_valid_for_images_of_any_size_and_number(clip: str, size: tuple[int, int], images: int) -> None:
    plan = plan_init(survey([size], images), clip)
    assert 0 < plan.stride <= plan.crop <= 512
    assert plan.crop % 32 == 0
    assert plan.scale >= 1
    assert 0 <= plan.warmup_steps < plan.steps <= 20_000


def test_init_asks_nothing_of_the_network(photos: Path, call: Callable[..., int]) -> None:
    """The hub's CLIP is named, not fetched."""
    assert call("init", photos) == 0
    assert load_config(f"{photos.name}.yaml").clip.source == "openai/clip-vit-base-patch16"
    assert os.environ["HF_HUB_OFFLINE"] == "1"
