"""Laws of `weakclip plan`: what is shared is divided, the slowest part is named, and nothing is made up."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from weakclip.config import RunConfig, load_config
from weakclip.errors import ConfigError
from weakclip.study import plan_pages, rate_measuring, step_measuring
from weakclip.study.plan import Means, Plan, StagePlan, make_plan
from weakclip.study.plan_pages import plan_lines
from weakclip.study.rates import Rates, rate_key

IMAGES = 1000
PARTS = ("seeds", "masks", "compare", "evaluate")


@pytest.fixture
def config() -> RunConfig:
    return load_config("demo", ["train.steps=100", "train.batch_size=8", "train.checkpoint_every=50"])


@pytest.fixture
def rates(config: RunConfig) -> Rates:
    """Those of an accelerator: 10 ms of it an image, 90 ms of a core for the CRF."""
    seconds = {f"{part}.network": 0.009 for part in PARTS} | {f"{part}.crf": 0.09 for part in PARTS}
    seconds |= {f"{part}.write": 0.002 for part in PARTS} | {"decode": 0.001, "compare.crf": 0.0}
    return Rates(
        settings=rate_key(config).record(),
        machine={},
        device="gpu",
        cores=4,
        train_images=500,
        val_images=0,
        seconds=seconds | {"train.step": 0.02, "train.image": 0.01, "train.checkpoint": 0.5},
        bytes={"image": 50_000, "mask": 900, "strip": 5000, "train.checkpoint": 8e6, "train.gradients": 2e6},
    )


def stage(plan: Plan, name: str) -> StagePlan:
    return next(each for each in plan.stages if each.stage == name)


def test_the_crf_starves_an_accelerator_until_there_are_cores(config: RunConfig, rates: Rates) -> None:
    few = stage(make_plan(config, rates, Means(images=IMAGES, cores=2)), "seeds")
    assert few.seconds == pytest.approx(IMAGES * 0.093 / 2) and few.cores_needed == 11
    assert "the device waits for 2 cores (97 % dense CRF)" in few.waits
    enough = stage(make_plan(config, rates, Means(images=IMAGES, cores=few.cores_needed)), "seeds")
    assert enough.seconds == pytest.approx(IMAGES * 0.009)
    assert "the cores wait for the device" in enough.waits
    assert enough.core_hours == few.core_hours == pytest.approx(IMAGES * 0.093 / 3600)


def test_on_a_cpu_all_parts_share_the_cores(config: RunConfig, rates: Rates) -> None:
    rates = dataclasses.replace(rates, device="cpu")
    one, two = (stage(make_plan(config, rates, Means(images=IMAGES, gpus=n)), "seeds").seconds for n in (1, 2))
    assert one == pytest.approx(IMAGES * 0.102) and two == pytest.approx(one / 2)


def test_processes_that_share_cores_are_no_faster(config: RunConfig, rates: Rates) -> None:
    rates = dataclasses.replace(rates, device="cpu")
    two, four = (make_plan(config, rates, Means(images=IMAGES, gpus=n, cores=2 / n)) for n in (2, 4))
    assert stage(four, "seeds").seconds == pytest.approx(stage(two, "seeds").seconds)
    assert stage(four, "train").seconds == pytest.approx(100 * (0.02 + 2 * 0.01) / 0.5 + 2 * 0.5)
    assert "4 × cpu with 0.5 cores each" in "\n".join(plan_lines(four))
    with pytest.raises(ConfigError, match=r"--cores: above 0 expected; found 0"):
        Means(images=1, cores=0)


def test_a_network_that_proposes_regions_is_counted(config: RunConfig, rates: Rates) -> None:
    drawing = {"proposals.network": 0.05, "proposals.write": 0.004, "masks.regions": 0.003}
    rates = dataclasses.replace(rates, device="cpu", seconds={**rates.seconds, **drawing})
    masks = stage(make_plan(config, rates, Means(images=IMAGES)), "pseudo_masks")
    assert masks.seconds == pytest.approx(IMAGES * (0.102 + 0.05 + 0.004 + 0.003 + 0.001))


def test_a_training_shares_its_batches_and_exchanges_gradients(config: RunConfig, rates: Rates) -> None:
    one, four = (stage(make_plan(config, rates, Means(images=IMAGES, gpus=n)), "train") for n in (1, 4))
    assert one.seconds == pytest.approx(100 * (0.02 + 8 * 0.01) + 2 * 0.5)
    assert four.seconds == pytest.approx(100 * (0.02 + 2 * 0.01) + 2 * 0.5)
    assert one.exchanged_bytes == 0 and four.exchanged_bytes == 100 * 2 * 3 * 2e6
    assert one.read_bytes == four.read_bytes == 100 * 8 * 50_000
    many = make_plan(config, rates, Means(images=IMAGES, gpus=12))
    assert stage(many, "train").devices == 8
    assert "batch_size 8 can be shared by 8 of 12" in "\n".join(plan_lines(many))


def test_a_process_with_companions_has_steps_of_its_own(config: RunConfig, rates: Rates) -> None:
    shared = {"train.shared.step": 0.05, "train.shared.image": 0.012}
    rates = dataclasses.replace(rates, seconds={**rates.seconds, **shared})
    one, two = (stage(make_plan(config, rates, Means(images=IMAGES, gpus=n)), "train") for n in (1, 2))
    assert one.seconds == pytest.approx(100 * (0.02 + 8 * 0.01) + 2 * 0.5) and not one.note
    assert two.seconds == pytest.approx(100 * (0.05 + 4 * 0.012) + 2 * 0.5)
    assert two.note.startswith("exchanging gradients is counted")


def test_par_is_work_of_the_device_that_has_the_network(config: RunConfig, rates: Rates) -> None:
    seconds = {**rates.seconds, "seeds.crf": 0.0, "seeds.refine": 0.03}
    rates = dataclasses.replace(rates, seconds=seconds)
    seeds = stage(make_plan(config, rates, Means(images=IMAGES)), "seeds")
    assert seeds.seconds == pytest.approx(IMAGES * 0.039) and seeds.crf_share == 0
    on_cpu = make_plan(config, dataclasses.replace(rates, device="cpu"), Means(images=IMAGES))
    assert stage(on_cpu, "seeds").seconds == pytest.approx(IMAGES * 0.042)


def test_the_slowest_stage_is_the_bottleneck(config: RunConfig, rates: Rates) -> None:
    plan = make_plan(config, rates, Means(images=10))
    assert plan.bottleneck.startswith("train: steps follow each other; 80 % of one is divided")
    assert make_plan(config, rates, Means(images=10**9)).bottleneck.startswith("seeds: the device waits for 1 cores")
    assert plan.seconds == pytest.approx(sum(each.seconds or 0 for each in plan.stages))


def test_what_has_no_rate_is_said_and_not_made_up(config: RunConfig, rates: Rates) -> None:
    rates = dataclasses.replace(rates, unknown={"seeds": "time it"}, bytes={**rates.bytes, "mask": 0.0})
    plan = make_plan(config, rates, Means(images=IMAGES))
    assert stage(plan, "seeds").seconds is None
    assert "seeds: no rate: time it" in plan_lines(plan)
    with pytest.raises(ConfigError, match=r"--gpus: 1 or more expected; found 0"):
        Means(images=1, gpus=0)


@pytest.mark.whole
def test_rates_are_measured_written_and_read_again(
    call: Callable[..., int],
    tiny_settings: Callable[..., dict[str, Any]],
    tmp_path: Path,
    capsys: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(step_measuring, "ROUNDS", 1)
    settings = tiny_settings()
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
    command = ("plan", tmp_path / "config.yaml", "--rates", tmp_path / "rates.json")
    assert call(*command) == 2
    assert "no rate is known; measure them: weakclip plan CONFIG --measure" in capsys.readouterr().err
    with monkeypatch.context() as patched:
        patched.setattr(plan_pages, "measure_rates", lambda _: pytest.fail("measured before the file could be written"))
        assert call("plan", tmp_path / "config.yaml", "--measure", "--rates", tmp_path) == 2
    assert f"{tmp_path}: cannot be written (Is a directory)" in capsys.readouterr().err
    assert call(*command, "--measure", "--json") == 0
    capsys.readouterr()
    seconds = json.loads((tmp_path / "rates.json").read_text())["seconds"]
    assert all(seconds[f"{name}.shared.image"] > 0 for name in ("train", "retrain"))
    assert call(*command, "--images", "1e6", "--gpus", "8", "--json") == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["means"] == {"images": 1_000_000, "gpus": 8, "cores": plan["means"]["cores"]}
    names = [each["stage"] for each in plan["stages"]]
    assert names == ["seeds", "train", "pseudo_masks", "retrain", "evaluate"]
    assert all(each["seconds"] > 0 for each in plan["stages"])
    assert call(*command, "--set", "data.train_limit=3", "--set", "train.steps=7") == 0
    shown = capsys.readouterr().out
    assert "read: not known" in shown and "bottleneck: " in shown
    assert call(*command, "--set", "pseudo_masks.crf=null") == 2
    assert "measured with other settings (pseudo_masks.crf" in capsys.readouterr().err
    (tmp_path / "rates.json").write_text("{}")
    assert call(*command) == 2
    assert "rates.json: no file of rates" in capsys.readouterr().err


@pytest.mark.whole
def test_seeds_that_are_learned_have_no_rate_and_a_network_that_proposes_has_one(
    call: Callable[..., int],
    tiny_settings: Callable[..., dict[str, Any]],
    tmp_path: Path,
    capsys: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Network:
        def regions(self, image: np.ndarray) -> list[np.ndarray]:
            return [np.ones(image.shape[:2], bool)]

    monkeypatch.setattr(rate_measuring, "load_proposal_network", lambda source, device: Network())
    monkeypatch.setattr(rate_measuring, "shared_steps", lambda *_: {})
    monkeypatch.setattr(step_measuring, "ROUNDS", 1)
    settings = tiny_settings() | {"retrain": {"model": None}}
    settings["seeds"] = {"method": "mctformer", "mctformer": {"from_scratch": True}}
    settings["pseudo_masks"] |= {"proposals": {"segmenter": "facebook/sam2.1-hiera-small"}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
    assert call("plan", tmp_path / "config.yaml", "--rates", tmp_path / "rates.json", "--measure") == 0
    assert "seeds: no rate: seeds.method mctformer is trained on all images first" in capsys.readouterr().out
    rates = json.loads((tmp_path / "rates.json").read_text())
    assert all(rates["seconds"][part] > 0 for part in ("proposals.network", "proposals.write", "masks.regions"))
    assert rates["bytes"]["proposal"] > 0
