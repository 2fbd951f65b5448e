"""`weakclip crf` on files: marginals and masks are those of `dense_crf`, and what does not fit is one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from weakclip.cli.exchange import Preset
from weakclip.config import dump_config, load_config, load_crf
from weakclip.crf import COCO_CRF, VOC_CRF, CRFParams, Kernel, dense_crf
from weakclip.crf.files import crf_file, read_probs
from weakclip.crf.params import PRESETS
from weakclip.datasets.classes import voc_palette
from weakclip.datasets.images import read_mask, read_rgb, write_png
from weakclip.errors import ConfigError, DataError, StorageError

GENERATOR = np.random.default_rng(0)
IMAGE = GENERATOR.integers(0, 256, (12, 15, 3), dtype=np.uint8)
PROBS = GENERATOR.dirichlet(np.ones(3), (12, 15)).transpose(2, 0, 1).astype(np.float32)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    write_png(tmp_path / "photo.png", IMAGE)
    return tmp_path / "photo.png"


@pytest.fixture
def probs(tmp_path: Path) -> Path:
    np.save(tmp_path / "probs.npy", PROBS)
    return tmp_path / "probs.npy"


def test_marginals_and_mask_are_those_of_dense_crf(
    call: Callable[..., int], image: Path, probs: Path, tmp_path: Path
) -> None:
    expected = dense_crf(IMAGE, PROBS, VOC_CRF)
    assert (expected.argmax(0) != PROBS.argmax(0)).any()
    assert call("crf", image, probs, "--out", tmp_path / "new/out.npy") == 0
    marginals = np.load(tmp_path / "new/out.npy")
    assert marginals.dtype == np.float32
    np.testing.assert_array_equal(marginals, expected)
    assert call("crf", image, probs, "--out", tmp_path / "out.png", "--preset", "coco") == 0
    np.testing.assert_array_equal(read_mask(tmp_path / "out.png"), dense_crf(IMAGE, PROBS, COCO_CRF).argmax(0))
    np.testing.assert_array_equal(read_rgb(tmp_path / "out.png"), voc_palette()[read_mask(tmp_path / "out.png")])


def test_kernels_come_from_the_crf_section_of_a_configuration(
    call: Callable[..., int], image: Path, probs: Path, tmp_path: Path
) -> None:
    params = CRFParams(kernels=(Kernel(sxy=2, weight=1.5), Kernel(sxy=9, srgb=20, weight=4)), iterations=3)
    section = "kernels:\n  - {sxy: 2, weight: 1.5}\n  - {sxy: 9, srgb: 20, weight: 4}\niterations: 3\n"
    for text in (section, "crf:\n  " + section.replace("\n", "\n  ")):
        (tmp_path / "mine.yaml").write_text(text)
        assert load_crf(tmp_path / "mine.yaml") == params
    assert call("crf", image, probs, "--out", tmp_path / "a.npy", "--params", tmp_path / "mine.yaml") == 0
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), dense_crf(IMAGE, PROBS, params))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("crf: null", "crf: expected keys and values; found None"),
        ("crf: {kernel: []}", "unknown key 'crf.kernel' in .*; did you mean 'kernels'"),
        ("kernels: [{sxy: -1, weight: 3}]", "kernel width sxy is -1"),
        (dump_config(load_config("demo")), "unknown key 'crf.data' in"),
        ("kernels: [", "not valid YAML"),
    ],
)
def test_wrong_params_file_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message) as error:
        load_crf(tmp_path / "mine.yaml")
    assert "mine.yaml" in str(error.value)
    with pytest.raises(ConfigError, match=r"none\.yaml: cannot be read"):
        load_crf(tmp_path / "none.yaml")


def test_npz_with_one_array_or_with_probs(tmp_path: Path) -> None:
    np.savez(tmp_path / "one.npz", anything=PROBS)
    np.savez_compressed(tmp_path / "two.npz", probs=PROBS, other=np.zeros(3))
    np.savez(tmp_path / "foreign.npz", a=PROBS, b=PROBS)
    for name in ("one.npz", "two.npz"):
        np.testing.assert_array_equal(read_probs(tmp_path / name), PROBS)
    with pytest.raises(DataError, match=r"foreign.npz: holds a, b; expected one array, or one that is called probs"):
        read_probs(tmp_path / "foreign.npz")


def test_files_that_are_no_probabilities_are_one_line(image: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "pickle.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    np.save(tmp_path / "flat.npy", PROBS[0])
    np.save(tmp_path / "whole.npy", PROBS.astype(int))
    np.save(tmp_path / "logits.npy", PROBS * 7)
    np.save(tmp_path / "small.npy", PROBS[:, :5])
    (tmp_path / "cut.npy").write_bytes((tmp_path / "flat.npy").read_bytes()[:200])
    (tmp_path / "text.npz").write_text("nothing")
    for name, message in {
        "none.npy": "no such file; expected probabilities",
        "pickle.npy": "not a .npy or .npz file of plain arrays",
        "cut.npy": "not a .npy or .npz file of plain arrays",
        "text.npz": "not a .npy or .npz file of plain arrays",
        "flat.npy": r"holds \(12, 15\) float32; expected floating-point probabilities \(K, H, W\)",
        "whole.npy": "int64; expected floating-point",
        "logits.npy": "apply softmax first",
        "small.npy": r"photo.png: .*\(3, 5, 15\) do not fit the image",
    }.items():
        with pytest.raises(DataError, match=message) as error:
            crf_file(image, tmp_path / name, tmp_path / "out.npy", VOC_CRF)
        assert name in str(error.value)
        assert "\n" not in str(error.value)
    assert not list(tmp_path.glob("*out*"))


def test_what_cannot_be_written_is_said_in_one_line(image: Path, probs: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"mask.gif: ends in .gif; expected .npy for marginals or .png"):
        crf_file(image, probs, tmp_path / "mask.gif", VOC_CRF)
    with pytest.raises(StorageError, match="cannot be written"):
        crf_file(image, probs, image / "mask.png", VOC_CRF)
    np.save(tmp_path / "many.npy", np.full((257, 12, 15), 1 / 257, np.float32))
    with pytest.raises(DataError, match="257 labels; a palette PNG holds 256"):
        crf_file(image, tmp_path / "many.npy", tmp_path / "mask.png", VOC_CRF)


def test_command_line_mistakes_are_code_2(
    call: Callable[..., int], capsys: pytest.CaptureFixture[str], image: Path, tmp_path: Path
) -> None:
    assert call("crf", image, tmp_path / "none.npy", "--out", tmp_path / "a.png") == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("weakclip: ") and "none.npy: no such file" in line
    assert call("crf", image, image, "--out", "a.png", "--preset", "voc", "--params", image) == 2
    assert "give one of them" in capsys.readouterr().err
    assert call("crf", image, image, "--out", "a.png", "--preset", "sharp") == 2


def test_presets_of_the_command_line_are_those_of_the_package() -> None:
    assert {preset.value for preset in Preset} == set(PRESETS)
