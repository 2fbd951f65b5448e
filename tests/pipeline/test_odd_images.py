"""Images as people have them go through every command, from a folder that nothing is ever written to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from weakclip.config import load_config
from weakclip.datasets.classes import voc_palette
from weakclip.datasets.images import read_mask, write_mask

LONGEST_SIDE = 48
MASKED = ("turned", "huge")

pytestmark = pytest.mark.filterwarnings("error::PIL.Image.DecompressionBombWarning")


@pytest.fixture(autouse=True)
def low_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow warns of more pixels, as of `huge`, and refuses twice as many; its own limit takes seconds to reach."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10**6)


def noise(height: int, width: int, *channels: int) -> np.ndarray:
    return np.random.default_rng(height).integers(0, 256, (height, width, *channels), dtype=np.uint8)


def palette_image() -> Image.Image:
    image = Image.fromarray(noise(30, 41)).convert("L")
    image.putpalette(voc_palette().tobytes())
    return image


def save_all(folder: Path) -> dict[str, tuple[int, int]]:
    """Images of every kind; by name, height and width of the upright image."""
    (folder / "deep er/ünï cöde").mkdir(parents=True)
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(noise(30, 40, 3)).save(folder / "rgb.jpg")
    Image.fromarray(noise(31, 40)).save(folder / "grey.png")
    Image.fromarray(noise(32, 40, 4)).save(folder / "clear.png")
    palette_image().save(folder / "palette.gif")
    palette_image().save(folder / "palette clear.png", transparency=0)
    Image.fromarray(noise(33, 40).astype(np.uint16) * 16).save(folder / "twelve bits.png")
    Image.fromarray(noise(34, 40).astype(np.float32) / 255).save(folder / "fractions.tif")
    Image.fromarray(noise(35, 50, 3)).save(folder / "turned.jpg", exif=turned)
    Image.fromarray(noise(36, 50, 3)).save(folder / "turned too.tif", exif=turned)
    Image.fromarray(noise(37, 40, 4), mode="CMYK").save(folder / "print.jpg")
    Image.new("RGB", (1_250, 900), (200, 30, 30)).save(folder / "huge.jpg")
    Image.fromarray(noise(1, 1, 3)).save(folder / "one pixel.png")
    Image.fromarray(noise(3, 500, 3)).save(folder / "narrow.png")
    Image.fromarray(noise(500, 3, 3)).save(folder / "high.png")
    Image.fromarray(noise(38, 40, 3)).save(folder / "deep er/ünï cöde/日本 v1.2.webp")
    return {
        **{"rgb": (30, 40), "grey": (31, 40), "clear": (32, 40), "palette": (30, 41), "palette clear": (30, 41)},
        **{"twelve bits": (33, 40), "fractions": (34, 40), "turned": (50, 35), "turned too": (50, 36)},
        **{"print": (37, 40), "huge": (900, 1_250), "one pixel": (1, 1), "narrow": (3, 500), "high": (500, 3)},
        "deep er/ünï cöde/日本 v1.2": (38, 40),
    }


def state_of(root: Path) -> dict[str, tuple[int, int]]:
    """Size and time of every file and folder: a file that came and went changes its folder's time."""
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in [root, *root.rglob("*")]}


@pytest.fixture
def sizes() -> dict[str, tuple[int, int]]:
    return {}


@pytest.fixture
def source(tmp_path: Path, sizes: dict[str, tuple[int, int]]) -> Iterator[Path]:
    """The images with labels and two masks, read-only; whatever is done with them, they stay as they are."""
    root = tmp_path / "read only"
    sizes |= save_all(root / "images")
    rows = [f'"{name}",{"dog" if name in MASKED else "cat;dog"}' for name in sizes]
    (root / "labels.csv").write_text("\n".join(["image,labels", *rows]), encoding="utf-8")
    for name in MASKED:
        mask = np.zeros(sizes[name], np.uint8)
        mask[: sizes[name][0] // 2] = 2
        write_mask(root / f"masks/{name}.png", mask, voc_palette())
    everything = [*root.rglob("*"), root]
    for path in everything:
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = state_of(root)
    yield root
    assert state_of(root) == before
    for path in everything:
        path.chmod(0o755)


@pytest.fixture
def config(source: Path, tiny_settings: Callable[..., dict[str, Any]], tmp_path: Path) -> Path:
    settings = tiny_settings(dataset="folder", root=str(source), val_split=None, longest_side=LONGEST_SIDE)
    path = tmp_path / "odd.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def reduced(size: tuple[int, int]) -> tuple[int, int]:
    factor = min(1.0, LONGEST_SIDE / max(size))
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def test_every_kind_of_image_gets_seeds_and_a_mask_of_its_size(
    config: Path, sizes: dict[str, tuple[int, int]], call: Callable[..., int], tmp_path: Path
) -> None:
    assert call("run", config, "--out", tmp_path / "run") == 0
    for folder in ("1_seeds/masks", "1_seeds/dense", "3_pseudo_masks/masks"):
        found = {
            path.relative_to(tmp_path / "run" / folder).with_suffix("").as_posix(): read_mask(path)
            for path in (tmp_path / "run" / folder).rglob("*.png")
        }
        assert {name: mask.shape for name, mask in found.items()} == {n: reduced(s) for n, s in sizes.items()}
        assert all(set(np.unique(mask)) <= {0, 1, 2, 255} for mask in found.values())


def test_the_check_reads_every_kind_of_image_and_its_mask(
    config: Path, call: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing to say of any of them, but that thirteen have no mask to be scored by."""
    assert call("data", "check", config) == 1
    shown = capsys.readouterr().out
    assert "image without a mask in a split with masks: 13" in shown
    assert "findings: 13" in shown


def test_init_and_tag_write_beside_themselves_alone(
    source: Path, call: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sizes: dict[str, Any]
) -> None:
    monkeypatch.chdir(tmp_path)
    tag = ("tag", source, "--clip", "demo", "--device", "cpu", "--classes", "cat,dog")
    assert call(*tag) == 2  # the folder has labels, and could not be written to
    assert call(*tag, "--out", "tags.csv") == 0
    assert len((tmp_path / "tags.csv").read_text(encoding="utf-8").splitlines()) == 1 + len(sizes)
    assert call("init", source, "--labels", "tags.csv", "--out", "odd.yaml") == 0
    assert "up to 1250x900" in (tmp_path / "odd.yaml").read_text(encoding="utf-8")
    assert load_config("odd.yaml").data.longest_side == 1024
