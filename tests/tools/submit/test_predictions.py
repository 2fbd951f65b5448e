"""The archive is made by the run's own network, as it is scored; a stopped call goes on, a new network starts anew."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from folders import bytes_in
from random_encoder import RandomEncoder

import weakclip.tools.submit.predictions as submit_module
from weakclip.config import dump_config, parse_config
from weakclip.datasets.classes import VOC12
from weakclip.datasets.images import read_mask
from weakclip.errors import ConfigError, DataError, RunError, WeightsError
from weakclip.inference.evaluation import WITHOUT_CRF
from weakclip.modeling import ModelSettings, save_weakclip
from weakclip.pipeline import run_pipeline
from weakclip.report.chosen import read_chosen
from weakclip.segmenters.segmenter import SMALL, build_segmenter, save_segmenter
from weakclip.store.keys import ResultKey
from weakclip.store.manifest import Manifest
from weakclip.tools.submit.predictions import submit

Builder = Callable[..., dict[str, Any]]


@pytest.fixture
def voc_run(voc_root: Path, tiny_settings: Builder, tmp_path: Path) -> Path:
    """A run folder that ends with a network of random weights for VOC's classes."""
    run = tmp_path / "voc_run"
    config = parse_config(tiny_settings(dataset="voc12", root=str(voc_root)), origin="test")
    train(run, seed=0)
    (run / "config.yaml").write_text(dump_config(config))
    return run


def train(run: Path, seed: int) -> None:
    manifest = Manifest.open(run)
    torch.manual_seed(seed)
    save_segmenter(build_segmenter(SMALL, VOC12), manifest.start("retrain", ResultKey(settings={"seed": seed})))
    manifest.finish("retrain", 1.0)


def names(archive: Path, split: str = "test") -> list[str]:
    with tarfile.open(archive) as file:
        paths = [Path(name) for name in file.getnames()]
    assert {path.parent.name for path in paths} == {f"comp6_{split}_cls"}
    return [path.stem for path in paths]


def test_the_test_split_is_predicted_and_packed(voc_run: Path, tmp_path: Path) -> None:
    assert submit(voc_run, tmp_path / "results.tgz") == 2
    assert names(tmp_path / "results.tgz") == ["2007_000006", "2007_000007"]
    assert read_mask(voc_run / "submission/test/masks/2007_000006.png").shape == (14, 12)


def test_a_stopped_call_goes_on_and_ends_with_the_same_bytes(
    voc_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit(voc_run, tmp_path / "one.tgz")
    kept, gone = sorted((voc_run / "submission/test/masks").iterdir())
    time = kept.stat().st_mtime_ns
    gone.unlink()
    submit(voc_run, tmp_path / "two.tgz")
    assert kept.stat().st_mtime_ns == time
    assert (tmp_path / "one.tgz").read_bytes() == (tmp_path / "two.tgz").read_bytes()


@pytest.mark.parametrize("key", ["{}", "[", '{"key": "other"}', None])
def test_masks_of_another_key_are_made_anew(voc_run: Path, tmp_path: Path, key: str | None) -> None:
    submit(voc_run, tmp_path / "one.tgz")
    before = bytes_in(voc_run / "submission/test/masks")
    for name in before:
        (voc_run / "submission/test/masks" / name).write_bytes(b"of another network")
    record = voc_run / "submission/test/key.json"
    record.unlink() if key is None else record.write_text(key)
    submit(voc_run, tmp_path / "two.tgz")
    assert bytes_in(voc_run / "submission/test/masks") == before


def test_a_new_network_and_new_settings_have_keys_of_their_own(voc_run: Path, tmp_path: Path) -> None:
    def key() -> str:
        submit(voc_run, tmp_path / "results.tgz")
        return json.loads((voc_run / "submission/test/key.json").read_text())["key"]

    keys = [key()]
    assert key() == keys[0]
    train(voc_run, seed=1)
    keys.append(key())
    config = (voc_run / "config.yaml").read_text()
    (voc_run / "config.yaml").write_text(config.replace("flip: false", "flip: true"))
    keys.append(key())
    assert len(set(keys)) == 3


def test_predictions_are_those_that_evaluate_scores(voc_root: Path, tiny_settings: Builder, tmp_path: Path) -> None:
    """A whole tiny run; its validation split through both doors."""
    run = tmp_path / "run"
    run_pipeline(parse_config(tiny_settings(dataset="voc12", root=str(voc_root)), origin="test"), run)
    submit(run, tmp_path / "val.tgz", split="val")
    assert names(tmp_path / "val.tgz", split="val") == ["2007_000004", "2007_000005"]
    chosen = read_chosen(run)
    scored = run / "5_evaluate" / chosen.network / (WITHOUT_CRF if chosen.crf is False else "masks")
    for path in (run / "submission/val/masks").iterdir():
        assert np.array_equal(read_mask(path), read_mask(scored / path.name))
    assert Manifest.open(run).records["evaluate"]["done"]


def test_a_weakclip_on_an_encoder_of_ones_own_is_packed_with_that_encoder(voc_run: Path, tmp_path: Path) -> None:
    manifest, settings = (
        Manifest.open(voc_run),
        ModelSettings(prompt_length=2, co_attention_width=8, decoder_channels=8),
    )
    save_weakclip(settings.build(RandomEncoder(), VOC12), manifest.start("train", ResultKey()))
    manifest.finish("train", 1.0)
    config = (voc_run / "config.yaml").read_text().splitlines()
    named = "  source: python:random_encoder:RandomEncoder"
    (voc_run / "config.yaml").write_text("\n".join(named if "  source:" in line else line for line in config))
    with pytest.raises(WeightsError, match=r"pass the encoder yourself: .* --clip on the command line"):
        submit(voc_run, tmp_path / "results.tgz", network="weakclip")
    with pytest.raises(WeightsError, match="other CLIP weights"):
        submit(voc_run, tmp_path / "results.tgz", network="weakclip", clip=RandomEncoder(seed=1))
    assert submit(voc_run, tmp_path / "results.tgz", network="weakclip", clip=RandomEncoder()) == 2


def test_another_root_may_be_given(voc_run: Path, voc_root: Path, tmp_path: Path) -> None:
    moved = voc_root.rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="no PASCAL VOC 2012 here"):
        submit(voc_run, tmp_path / "results.tgz")
    assert submit(voc_run, tmp_path / "results.tgz", root=str(moved)) == 2


def test_what_is_wrong_is_said_before_anything_is_predicted(
    voc_run: Path, tiny_settings: Builder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("predicted")

    monkeypatch.setattr(submit_module, "write_pseudo_masks", refuse)
    out, drawn = tmp_path / "results.tgz", tmp_path / "drawn"
    drawn.mkdir()
    (drawn / "config.yaml").write_text(dump_config(parse_config(tiny_settings(), origin="test")))
    with pytest.raises(ConfigError, match="a run on scenes; the evaluation server is PASCAL VOC's"):
        submit(drawn, out)
    with pytest.raises(RunError, match="not a run folder"):
        submit(tmp_path / "nowhere", out)
    with pytest.raises(RunError, match=r"is a folder; name the archive, for instance .*results\.tgz"):
        submit(voc_run, tmp_path)
    with pytest.raises(DataError, match=r"no list private\.txt"):
        submit(voc_run, out, split="private")
    (voc_run / "4_retrain/model.safetensors").unlink()
    with pytest.raises(WeightsError):
        submit(voc_run, out)
    with pytest.raises(WeightsError, match="a run without a WeakCLIP; run `weakclip train`"):
        submit(voc_run, out, network="weakclip")
    manifest = Manifest.open(voc_run)
    manifest.records["retrain"]["done"] = False
    manifest.save()
    with pytest.raises(RunError, match="its network is not trained"):
        submit(voc_run, out)


@pytest.mark.parametrize("name", ["results", "results.zip", "results.tar", "results.tgz.part"])
def test_an_archive_of_another_kind_is_refused_before_anything_is_predicted(
    voc_run: Path, tmp_path: Path, name: str
) -> None:
    with pytest.raises(RunError, match=r"expected a name that ends in \.tgz or \.tar\.gz"):
        submit(voc_run, tmp_path / name)
    assert not (tmp_path / name).exists() and not (voc_run / "submission").exists()


def test_both_endings_are_the_same_archive(voc_run: Path, tmp_path: Path) -> None:
    for name in ("one.tgz", "two.tar.gz"):
        assert submit(voc_run, tmp_path / name) == 2
    assert (tmp_path / "one.tgz").read_bytes() == (tmp_path / "two.tar.gz").read_bytes()
