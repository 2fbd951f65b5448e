"""A run whose masks follow a bank of its seeds' regions, and the tags that look wrong to it."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import Dinov2Config, Dinov2Model

from weakclip.config import RunConfig, load_config, parse_config
from weakclip.datasets.images import write_mask
from weakclip.errors import RunError
from weakclip.inference.mask_statistics import STATISTICS, compare_masks, read_statistics
from weakclip.inference.region_judge import RegionBankSettings
from weakclip.pipeline import run_stage
from weakclip.pipeline.context import RunContext
from weakclip.pipeline.plan import stage_keys
from weakclip.pipeline.region_stage import REGIONS, region_judge
from weakclip.pipeline.shards import merge_shards, run_shard
from weakclip.report.doubts import KINDS, figures_of, look_wrong, reason, worst
from weakclip.store.share import Shard

STAGE = "3_pseudo_masks"


@pytest.fixture
def tiny(tiny_settings: Callable[..., dict[str, Any]]) -> Callable[..., RunConfig]:
    """The tiny run with a bank of such settings; None for none."""

    def config(bank: dict[str, Any] | None) -> RunConfig:
        settings = tiny_settings()
        masks = {**settings["pseudo_masks"], "region_bank": bank}
        seeds = {"method": "patch_text", "masks": {"foreground_confidence": 0.4, "background_confidence": 0.4}}
        return parse_config({**settings, "seeds": seeds, "pseudo_masks": masks}, origin="tiny")

    return config


def content(folder: Path, *parts: str) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for part in parts for path in folder.glob(part)}


def made(out: Path) -> dict[str, bytes]:
    return content(out / STAGE, "masks/*", f"{REGIONS}/*", STATISTICS)


def test_a_run_with_a_bank_resumes_and_shards_with_the_same_files(
    tiny: Callable[..., RunConfig], tmp_path: Path
) -> None:
    config, whole = tiny({"agreement": 0.5, "neighbours": 2}), tmp_path / "whole"
    for stage in ("seeds", "train"):
        run_stage(config, whole, stage)
    stopped, sharded = (Path(shutil.copytree(whole, tmp_path / name)) for name in ("stopped", "sharded"))
    run_stage(config, whole, "pseudo_masks")
    expected = made(whole)
    assert len(content(whole / STAGE, f"{REGIONS}/*.npy")) == len(content(whole / STAGE, "masks/*.png")) == 6
    figures = list(read_statistics(whole / STAGE / STATISTICS))
    assert any(of.votes for of in figures) and all(0 <= (of.tag_doubt or 0) <= 1 for of in figures)

    for part in (REGIONS, "masks"):  # of a run that was stopped; its plan is that of the same settings
        shutil.copytree(whole / STAGE / part, stopped / STAGE / part)
    first = sorted((stopped / STAGE / REGIONS).iterdir())[0]
    first.unlink()
    judge = region_judge(RunContext(config, stopped), RegionBankSettings(), stopped / "1_seeds/masks", stopped / STAGE)
    assert judge is not None and content(stopped / STAGE, f"{REGIONS}/*") == content(whole / STAGE, f"{REGIONS}/*")

    for number in (1, 0):
        run_shard(config, sharded, "pseudo_masks", Shard(number, 2, sharded))
    merge_shards(sharded)
    assert made(sharded) == expected


def test_only_the_masks_and_what_builds_on_them_read_the_bank(tiny: Callable[..., RunConfig], tmp_path: Path) -> None:
    def keys(bank: dict[str, Any] | None) -> dict[str, str]:
        context = RunContext(tiny(bank), tmp_path)
        found = stage_keys(context, ("evaluate", "evaluate_truth"))
        return {name: key.digest for name, key in found.items()}

    without, with_bank, other = keys(None), keys({}), keys({"neighbours": 5})
    for one, two in ((without, with_bank), (with_bank, other)):
        changed = {name for name in one if one[name] != two[name]}
        assert {"pseudo_masks", "retrain", "evaluate"} <= changed
        assert not changed & {"seeds", "train", "retrain_truth"}


def test_a_second_encoder_describes_the_regions_and_is_an_input(tiny: Callable[..., RunConfig], tmp_path: Path) -> None:
    small = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28, "mlp_ratio": 2}
    for name in ("one", "other"):
        Dinov2Model(Dinov2Config(**small, patch_size=14)).save_pretrained(tmp_path / name)
    config, out = tiny({"encoder": str(tmp_path / "one")}), tmp_path / "out"
    for stage in ("seeds", "train", "pseudo_masks"):
        run_stage(config, out, stage)
    rows = [np.load(path, allow_pickle=False) for path in (out / STAGE / REGIONS).iterdir()]
    assert {row.shape[1] for row in rows} == {1 + 24}
    shutil.rmtree(tmp_path / "one")
    shutil.copytree(tmp_path / "other", tmp_path / "one")
    with pytest.raises(RunError, match="region bank encoder"):
        run_stage(config, out, "pseudo_masks")


def test_wrong_tags_that_were_planted_come_first(tmp_path: Path) -> None:
    """Masks and seeds that believe the tags: an object with a wrong tag is drawn as that class, in the bank as well."""
    config = load_config("demo", ["data.train_limit=80", "device=cpu"])
    context, seeds = RunContext(config, tmp_path), tmp_path / "seeds"
    dataset, random = context.train, np.random.default_rng(0)
    masks, tags, wrongly, planted = [], [], dict[int, int](), set(random.choice(80, 8, replace=False).tolist())
    for index, name in enumerate(dataset.names):
        mask, labels = np.array(dataset.mask(index)), dataset.labels(index)
        if index in planted:
            wrong = int(random.choice([each for each in range(1, 13) if each not in labels]))
            wrongly[index] = wrong
            replaced = max(labels, key=lambda each: (mask == each).sum())
            mask[mask == replaced] = wrong
            labels = tuple(sorted({*labels, wrong} - {replaced}))
        write_mask(seeds / f"{name}.png", mask, dataset.class_set.palette)
        masks.append(mask)
        tags.append(labels)
    judge = region_judge(context, RegionBankSettings(), seeds, tmp_path)
    assert judge is not None
    images = []
    for index, (mask, labels) in enumerate(zip(masks, tags, strict=True)):
        sample = dataclasses.replace(dataset[index], labels=labels)
        _, votes = judge.judge(sample, judge.features(sample), mask, np.array([0, *labels]))
        images.append(dataclasses.replace(compare_masks(sample.name, labels, {"mask": mask}), votes=votes))
    figures, names = figures_of(images), dataset.class_set.names
    listed = worst(figures, next(kind for kind in KINDS if kind.key == "tags"), 8)
    assert len(planted & set(listed)) >= 6
    order, listed_all = sorted(range(80), key=lambda index: -figures[index].doubt), sum(map(look_wrong, images))
    assert listed_all < 24 and len(planted & set(order[:listed_all])) >= 6
    said = [f"nothing looks like {names[wrong]}" in reason(figures[index], names) for index, wrong in wrongly.items()]
    assert sum(said) >= 5
