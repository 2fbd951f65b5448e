"""A run in whose masks the seeds have a share: they are read by the masks, and by no network that sees other images."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from folders import bytes_in

from weakclip.config import RunConfig, load_config
from weakclip.errors import RunError
from weakclip.pipeline import run_pipeline, run_stage
from weakclip.pipeline.context import RunContext
from weakclip.pipeline.plan import stage_keys


def with_share(config: RunConfig, share: float) -> RunConfig:
    return dataclasses.replace(config, pseudo_masks=dataclasses.replace(config.pseudo_masks, seed_share=share))


def test_only_the_masks_hear_the_seeds(config_file: Path, ran: Path, tmp_path: Path) -> None:
    """With nothing but the seeds in the probabilities, and no CRF behind, the masks are the seeds."""
    config = load_config(config_file, ["pseudo_masks.crf=null"])
    out = tmp_path / "out"
    scores = {score.subject: score.mean_iou for score in run_pipeline(with_share(config, 1.0), out).scores}
    masks = bytes_in(out / "3_pseudo_masks/masks")
    assert masks == bytes_in(out / "1_seeds/dense")
    assert masks != bytes_in(ran / "3_pseudo_masks/masks")
    assert scores["seeds"] == scores["pseudo masks"]


def test_a_share_changes_the_key_of_the_masks_and_of_what_follows(config_file: Path, ran: Path) -> None:
    config = load_config(config_file)
    wanted = ["retrain", "evaluate"]
    before, after = (stage_keys(RunContext(with_share(config, share), ran), wanted) for share in (0.0, 0.1))
    changed = {name for name, key in before.items() if key.digest != after[name].digest}
    assert changed >= {"pseudo_masks", "retrain", "evaluate"}
    assert not changed & {"seeds", "train"}
    assert not any("seed_share" in name for key in before.values() for name in key.settings), "earlier runs stay done"


def test_masks_with_a_share_are_made_of_the_seeds_of_their_key(config_file: Path, ran: Path) -> None:
    """The training is that of the settings, while the seeds have been made anew with others."""
    run_stage(load_config(config_file, ["seeds.masks.background_power=2"]), ran, "seeds", redo=True)
    config = load_config(config_file)
    with pytest.raises(RunError, match="pseudo_masks needs seeds, which was made with other settings"):
        run_stage(with_share(config, 0.5), ran, "pseudo_masks", redo=True)
    assert run_stage(config, ran, "pseudo_masks").ran == ()


@pytest.mark.parametrize("asked", [[], ["pseudo_masks.seed_share=0.1"], ["pseudo_masks.region_bank={}"]])
def test_masks_are_keyed_by_the_seeds_that_they_read(config_file: Path, tmp_path: Path, asked: list[str]) -> None:
    """All masks are keyed by the training, which is keyed by the seeds; those that read seeds by the seeds, too."""
    configs = (load_config(config_file, [*asked, f"seeds.masks.background_power={power}"]) for power in (1, 2))
    one, two = (stage_keys(RunContext(config, tmp_path), ["pseudo_masks"])["pseudo_masks"].inputs for config in configs)
    assert one.keys() == two.keys()
    assert {name for name in one if one[name] != two[name]} == ({"seeds", "train"} if asked else {"train"})
