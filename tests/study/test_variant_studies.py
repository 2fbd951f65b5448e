"""Studies that train: all variants and seeds are there, a kill loses nothing, foreign folders are refused."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from folders import bytes_in
from transformers import Dinov2Config, Dinov2Model

import weakclip.study.variants as engine
from weakclip import cli
from weakclip.clip import FrozenCLIP
from weakclip.config import RunConfig, limit_training, load_config
from weakclip.crf import LOSS_CRF
from weakclip.errors import ConfigError, DataError, RunError
from weakclip.inference.proposals import ProposalSettings
from weakclip.inference.region_judge import RegionBankSettings
from weakclip.inference.saliency import SaliencySettings
from weakclip.pipeline import proposal_files, run_stage
from weakclip.pipeline.context import RunContext
from weakclip.seeds.affinitynet.train import AffinitySettings
from weakclip.study import VariantStudy, study_parts, study_prompts, study_temperature
from weakclip.study.parts import (
    boundary_variant,
    mask_variants,
    of_length,
    part_variants,
    schedule_variants,
    seed_variants,
)
from weakclip.study.variant_pages import variant_chart
from weakclip.study.variants import SEEDS_ROW

BOUNDARY = "loss.crf={kernels: [{sxy: 3, weight: 3}, {sxy: 80, weight: 10, srgb: 13}], iterations: 10}"
WINDOWS = "pseudo_masks.inference={scales: [1.0], flip: false, crop: 64, stride: 64}"


@pytest.fixture
def overrides(clip_folder: Path) -> list[str]:
    return [
        "data.train_limit=3",
        "data.scene_size=64",
        f"clip.source={clip_folder}",
        "model={co_attention_width: 8, co_attention_heads: 2, co_attention_layers: 1, decoder_channels: 8}",
        "augment.crop_size=64",
        "loss.size=16",
        BOUNDARY,
        "train={steps: 2, batch_size: 2, warmup_steps: 1, checkpoint_every: 1, log_every: 1, precision: fp32}",
        WINDOWS,
    ]


@pytest.fixture
def config(overrides: list[str]) -> RunConfig:
    return load_config("demo", overrides)


def numbers(folder: Path) -> list[dict[str, object]]:
    results: list[dict[str, object]] = json.loads((folder / "study.json").read_text())["results"]
    return results


def test_temperature_study_writes_its_pages_and_shares_the_seeds(config: RunConfig, tmp_path: Path) -> None:
    study = study_temperature(config, tmp_path / "study", values=[0.1, 1.0], seeds=2)
    assert study.variants == (SEEDS_ROW, "0.1", "1")
    assert [(each.variant, each.seed) for each in study.results] == [
        (name, seed) for seed in (0, 1) for name in study.variants
    ]
    assert [path.name for path in (tmp_path / "study/seeds").iterdir()] == ["seed_0"]
    text = (tmp_path / "study/table.md").read_text()
    assert "has tuned on that split" in text
    assert text.count("±") == 4  # its explanation, and three rows
    circles = [node for node in ElementTree.parse(tmp_path / "study/study.svg").iter() if node.tag.endswith("circle")]
    assert len(circles) == 3 * (2 + 1)
    record = json.loads((tmp_path / "study/study.json").read_text())
    assert record["tuning_set"] == {"split": "train", "images": 3}
    assert all(0 <= entry["mean_iou"] <= 1 for entry in record["results"])


@pytest.mark.parametrize("proposals", [None, ProposalSettings(segmenter="facebook/sam2.1-hiera-small", agreement=0.5)])
def test_masks_of_a_variant_are_those_of_a_run(
    config: RunConfig, tmp_path: Path, proposals: ProposalSettings | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Network:
        def regions(self, image: np.ndarray) -> list[np.ndarray]:
            return [np.broadcast_to(np.arange(image.shape[1]) < image.shape[1] // 2, image.shape[:2])]

    monkeypatch.setattr(proposal_files, "load_proposal_network", lambda source, device: Network())
    config = dataclasses.replace(config, pseudo_masks=dataclasses.replace(config.pseudo_masks, proposals=proposals))
    whole = engine.Variant(name="everything", config=config)
    engine.study_variants(config, tmp_path / "study", "masks", [whole], seeds=1)
    for stage in ("seeds", "train", "pseudo_masks"):
        run_stage(config, tmp_path / "run", stage)
    folders = tmp_path / "study/variants/everything/seed_0/masks", tmp_path / "run/3_pseudo_masks/masks"
    studied, made = map(bytes_in, folders)
    assert config.pseudo_masks.match_share > 0 and studied == made


def test_prompt_that_is_too_long_is_refused_before_anything_is_made(config: RunConfig, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="a prompt of 400 and class names of up to"):
        study_prompts(config, tmp_path / "study", lengths=[1, 400], seeds=1)
    assert not (tmp_path / "study").exists()


def test_finished_variants_are_not_made_again_and_more_can_be_asked_for(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = study_prompts(config, tmp_path / "study", lengths=[1], seeds=1)
    trained: list[str] = []

    def counted(model: object, *rest: object, description: str, **more: object) -> object:
        trained.append(description)
        return fit(model, *rest, description=description, **more)

    fit = engine.fit
    monkeypatch.setattr(engine, "fit", counted)
    more = study_prompts(config, tmp_path / "study", lengths=[1, 3], seeds=1)
    assert trained == ["N_3, seed 0"]
    assert more.results[:2] == first.results
    assert more.results[2].trained_parameters == first.results[1].trained_parameters + 2 * 24


@pytest.mark.parametrize("where", ["fit", "work_on_masks", "score_masks"])
def test_killed_study_ends_with_the_same_numbers(
    config: RunConfig, kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    def study(folder: Path) -> VariantStudy:
        return study_temperature(config, folder, values=[0.1, 1.0], seeds=1)

    whole = kept / "temperature_study"
    study(whole)  # once; for the others it is done
    original, calls = getattr(engine, where), []

    def killed(*arguments: object, **more: object) -> object:
        calls.append(1)
        result = original(*arguments, **more)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return result

    monkeypatch.setattr(engine, where, killed)
    with pytest.raises(KeyboardInterrupt):
        study(tmp_path / "study")
    study(tmp_path / "study")
    for name in ("study.json", "table.md", "study.svg"):
        assert (tmp_path / "study" / name).read_bytes() == (whole / name).read_bytes()


@pytest.fixture
def parts(config: RunConfig, kept: Path, tmp_path: Path) -> VariantStudy:
    """The study of the parts; its folder `tmp_path / "study"` is a copy of one that is made once."""
    study_parts(config, kept / "parts_study", seeds=1)
    shutil.copytree(kept / "parts_study", tmp_path / "study")
    return study_parts(config, tmp_path / "study", seeds=1)


def test_parts_study_has_a_row_for_every_box(config: RunConfig, parts: VariantStudy, tmp_path: Path) -> None:
    rows = {result.variant: result for result in parts.results}
    assert list(rows) == [SEEDS_ROW, *(variant.name for variant in part_variants(config))]
    whole = rows["everything"].trained_parameters
    for name in ("learnable_prompt", "adapter", "co_attention", "text_guidance"):
        assert 0 < rows[f"without_{name}"].trained_parameters < whole
    for name in ("boundary_loss", "matching_loss", "CRF_of_the_masks"):
        assert rows[f"without_{name}"].trained_parameters == whole
    folders = {path.parent.parent.name for path in (tmp_path / "study/variants").glob("*/*/checkpoint.safetensors")}
    untrained = {SEEDS_ROW, "without_CRF_of_the_masks", "with_region_bank", "seeds_without_filled_outliers"}
    assert folders == set(rows) - untrained
    logged = (tmp_path / "study/variants/without_boundary_loss/seed_0/log.jsonl").read_text()
    assert "matching_loss" in logged
    assert "boundary_loss" not in logged


def test_the_boundary_loss_is_studied_in_other_schedules_too(
    config: RunConfig, parts: VariantStudy, tmp_path: Path
) -> None:
    study = study_parts(config, tmp_path / "study", seeds=1, steps=[1, 2, 3])  # 2 is the configuration's own
    added = [f"{name}_{length}_steps" for length in (1, 3) for name in ("everything", "without_boundary_loss")]
    assert study.variants == (*parts.variants, *added)
    assert study.results[: len(parts.results)] == parts.results
    table = (tmp_path / "study/table.md").read_text()
    for name in added:
        folder = tmp_path / "study/variants" / name / "seed_0"
        last = json.loads((folder / "log.jsonl").read_text().splitlines()[-1])
        assert f"{last['step']}_steps" in name
        assert ("boundary_loss" in last) == name.startswith("everything")
        assert f"| {name.replace('_', ' ')} |" in table


def test_schedules_have_the_same_share_of_warm_up() -> None:
    demo = load_config("demo")
    for each in schedule_variants(demo, [100, 1000]):
        train = each.config.train
        assert train.warmup_steps / train.steps == pytest.approx(demo.train.warmup_steps / demo.train.steps, abs=0.005)
        assert dataclasses.replace(train, steps=150, warmup_steps=20) == demo.train
    assert of_length(demo, demo.train.steps) == demo
    assert schedule_variants(demo, [demo.train.steps]) == []
    with pytest.raises(ConfigError, match="steps: at least 1 expected; found 0"):
        schedule_variants(demo, [0])


def test_without_a_boundary_loss_its_row_is_one_with_it(config: RunConfig) -> None:
    without = boundary_variant(config)
    assert (without.name, without.config.loss.crf) == ("without_boundary_loss", None)
    published = boundary_variant(without.config)
    assert (published.name, published.config.loss.crf) == ("with_boundary_loss", LOSS_CRF)


def test_long_names_fit_into_the_chart(make_study: Callable[..., VariantStudy]) -> None:
    for name in ("a", "without_boundary_loss_1000_steps"):
        root = ElementTree.fromstring(variant_chart(dataclasses.replace(make_study(0.5), variants=(name,))))
        (label,) = [node for node in root if node.text == name.replace("_", " ")]
        assert float(label.attrib["x"]) >= 7 * len(name)
        width = float(root.attrib["viewBox"].split()[2])
        assert all(float(node.attrib["cx"]) < width for node in root if node.tag.endswith("circle"))


def test_other_settings_and_foreign_folders_are_refused(config: RunConfig, tmp_path: Path) -> None:
    study_prompts(config, tmp_path / "study", lengths=[1], seeds=1)
    with pytest.raises(RunError, match=r"something else \(train.steps: 2 → 1\)"):
        study_prompts(limit_training(config, 1), tmp_path / "study", lengths=[1], seeds=1)
    with pytest.raises(RunError, match="something else"):
        study_temperature(config, tmp_path / "study", values=[0.1], seeds=1)
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/thesis.txt").write_text("precious")
    with pytest.raises(RunError, match="is not empty and no study"):
        study_parts(config, tmp_path / "thesis")
    with pytest.raises(ConfigError, match="studied once; found N_1, N_1"):
        study_prompts(config, tmp_path / "twice", lengths=[1, 1])
    assert not (tmp_path / "twice").exists()


def test_a_split_without_masks_is_refused(config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from weakclip.datasets import ScenesDataset

    monkeypatch.setattr(ScenesDataset, "has_masks", False)
    with pytest.raises(DataError, match="'train' has no true masks to score on"):
        study_parts(config, tmp_path / "study")
    assert not (tmp_path / "study").exists()


def test_commands_show_the_table(
    overrides: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = [word for override in overrides for word in ("--set", override)]
    commands = {"prompts": ["--value", "2"], "temperature": ["--value", "0.5"], "parts": ["--steps", "2"]}
    for command, extra in commands.items():
        words = ["study", command, "demo", "--out", str(tmp_path / command), "--seeds", "1", "--limit-steps", "1"]
        monkeypatch.setattr(sys, "argv", ["weakclip", *words, *extra, *settings])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        assert not stop.value.code
        assert (tmp_path / command / "table.md").read_text() in capsys.readouterr().out
    assert "without boundary loss 2 steps" in (tmp_path / "parts/table.md").read_text()


def test_chart_without_a_score_and_with_a_hostile_split(
    tmp_path: Path, make_study: Callable[..., VariantStudy]
) -> None:
    study = make_study(float("nan"))
    assert "<b>" not in variant_chart(study)
    ElementTree.fromstring(variant_chart(study))
    ElementTree.fromstring(variant_chart(dataclasses.replace(study, results=())))


@pytest.fixture
def make_study(tmp_path: Path) -> Callable[..., VariantStudy]:
    from weakclip.study import Result

    def make(score: float) -> VariantStudy:
        result = Result(variant="a", seed=0, mean_iou=score, trained_parameters=1)
        names = {"folder": tmp_path, "subject": "nothing", "split": "<b>&"}
        return VariantStudy(**names, images=1, variants=("a",), seeds=(0,), results=(result,))

    return make


def test_values_that_differ_late_are_two_and_no_number_is_refused(config: RunConfig, tmp_path: Path) -> None:
    study = study_temperature(config, tmp_path / "study", values=[0.1, 0.10000001], seeds=1)
    assert study.variants == (SEEDS_ROW, "0.1", "0.10000001")
    with pytest.raises(ConfigError, match="a finite number expected; found nan"):
        study_temperature(config, tmp_path / "other", values=[float("nan")], seeds=1)
    assert not (tmp_path / "other").exists()


def test_another_trunk_of_affinitynet_is_another_study(config: RunConfig, tmp_path: Path) -> None:
    trunk = tmp_path / "trunk.pth"
    trunk.write_bytes(b"one")
    affinity = AffinitySettings(pretrained=str(trunk))
    with_affinity = dataclasses.replace(config, seeds=dataclasses.replace(config.seeds, affinity=affinity))
    first = engine._study_key(RunContext(with_affinity, tmp_path / "study"), "a subject")
    trunk.write_bytes(b"another")
    assert engine._study_key(RunContext(with_affinity, tmp_path / "study"), "a subject").digest != first.digest


def test_what_corrects_the_masks_is_left_out_in_turn_and_trains_nothing(config: RunConfig) -> None:
    proposals, bank = ProposalSettings(folder="regions"), RegionBankSettings(neighbours=5)
    maps = SaliencySettings(folder="maps")
    masks = dataclasses.replace(
        config.pseudo_masks, seed_share=0.1, proposals=proposals, saliency=maps, region_bank=bank
    )
    rows = {each.name: each for each in mask_variants(dataclasses.replace(config, pseudo_masks=masks))}
    names = ["seeds_in_the_masks", "proposals", "saliency", "region_bank"]
    assert [*rows] == [f"without_{name}" for name in names]
    assert {each.trained_as for each in rows.values()} == {"everything"}
    assert rows["without_seeds_in_the_masks"].config.pseudo_masks == dataclasses.replace(masks, seed_share=0.0)
    left = rows["without_proposals"].config.pseudo_masks
    assert left.proposals is None and left.region_bank == bank
    assert rows["without_region_bank"].config.pseudo_masks.proposals == proposals
    assert rows["without_saliency"].config.pseudo_masks == dataclasses.replace(masks, saliency=None)
    (row,) = mask_variants(config)
    assert (row.name, row.config.pseudo_masks.region_bank) == ("with_region_bank", RegionBankSettings())


def test_a_second_encoder_of_the_seeds_has_a_row_that_trains_nothing(config: RunConfig, tmp_path: Path) -> None:
    small = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28, "mlp_ratio": 2}
    Dinov2Model(Dinov2Config(**small)).save_pretrained(tmp_path / "dinov2")
    seeds = dataclasses.replace(config.seeds, affinity_encoder=str(tmp_path / "dinov2"))
    both = dataclasses.replace(config, seeds=seeds)
    assert "seeds_without_second_encoder" not in [each.name for each in part_variants(config)]
    (row,) = [each for each in part_variants(both) if each.name == "seeds_without_second_encoder"]
    study = engine.study_variants(both, tmp_path / "study", "seeds", [row], seeds=1)
    names = [(each.variant, each.trained_parameters) for each in study.results]
    assert names == [(SEEDS_ROW, 0), ("seeds_without_second_encoder", 0)]
    single = engine.study_variants(config, tmp_path / "single", "seeds", [], seeds=1)
    assert study.results[1].mean_iou == single.results[0].mean_iou


def test_filled_outlier_tokens_have_a_row_where_the_seeds_fill_them(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A planted outlier is seen in the row; without any, the row is that of the seeds."""
    name = "seeds_without_filled_outliers"
    (row,) = seed_variants(config)
    assert row.name == name and config.seeds.patch_text.fill_outliers and not row.config.seeds.patch_text.fill_outliers
    grad_cam = load_config("demo", ["seeds.method=clip_gradcam"])
    assert not seed_variants(grad_cam)
    filled = dataclasses.replace(
        grad_cam.seeds, gradcam=dataclasses.replace(grad_cam.seeds.gradcam, fill_outliers=True)
    )
    (other,) = seed_variants(dataclasses.replace(grad_cam, seeds=filled))
    assert (other.name, other.config) == (name, grad_cam)

    def scores(folder: Path) -> list[float]:
        return [each.mean_iou for each in engine.study_variants(config, folder, "seeds", [row], seeds=1).results]

    with_it, without = scores(tmp_path / "none")
    assert with_it == without
    embed, shout = FrozenCLIP.embed_image, 100 * torch.randn(32)

    def planted(clip: FrozenCLIP, images: torch.Tensor) -> tuple[torch.Tensor, tuple[int, int]]:
        hidden, grid = embed(clip, images)
        hidden[:, 18] = shout
        return hidden, grid

    monkeypatch.setattr(FrozenCLIP, "embed_image", planted)
    with_it, without = scores(tmp_path / "planted")
    assert with_it != without
