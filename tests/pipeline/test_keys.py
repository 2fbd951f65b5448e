"""Which settings change the key of which stage: over all settings of all shipped configurations, method by method."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest

from weakclip.config import AnySeeds, RunConfig, load_config, shipped_configs
from weakclip.pipeline.stages import stages_of
from weakclip.store.keys import output_settings, result_settings

METHODS = {
    "clip_gradcam": (),
    "patch_text": ("seeds.patch_text.attributes=attributes.yaml",),
    "cosine": ("seeds.affinity={from_scratch: true}",),
    "mctformer": ("seeds.mctformer.from_scratch=true",),
    "imported_cams": ("seeds.folder=cams",),
    "imported_masks": ("seeds.folder=masks",),
    "own": (),
}
RANDOM = {"patch_text", "cosine", "mctformer"}
"""Methods that are random with the settings above: k-means, AffinityNet, a training."""
NETWORKS = ("null", "weakclip", "small")
TRAINED_ALIKE = ("workers", "checkpoint_every", "log_every", "max_bad_steps", "from_scratch", "keep_every")
CASES = [
    (name, method, NETWORKS[(row + column) % len(NETWORKS)])
    for row, name in enumerate(shipped_configs())
    for column, method in enumerate(METHODS)
]
"""Every pair of a configuration, a method and a network; which stages read a setting follows from the last two."""


def leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    if dataclasses.is_dataclass(value):
        for entry in dataclasses.fields(value):
            yield from leaves(getattr(value, entry.name), (*path, entry.name))
    else:
        yield path


def changed(value: Any, path: tuple[str, ...]) -> Any:
    """A copy of settings with another value at a path; whether it is a sensible one is not asked."""
    if not path:
        return ["another", value]
    result = copy.copy(value)
    object.__setattr__(result, path[0], changed(getattr(value, path[0]), path[1:]))
    return result


def views_of(config: RunConfig) -> dict[str, Any]:
    return {name: stage.view(config) for name, stage in stages_of(config).items()}


def settings_of(config: RunConfig) -> dict[str, dict[str, Any]]:
    return {name: result_settings(view) for name, view in views_of(config).items()}


def readers(path: tuple[str, ...], method: str, network: str) -> set[str]:
    """The stages whose results depend on a setting."""
    section, leaf = path[0], path[-1]
    if section in ("data", "device") or leaf in (*TRAINED_ALIKE, "confidence", "pictures"):
        return set()  # the data are keyed by what is in them
    if path[-2:] == ("crf", "method"):
        return set()  # a dense CRF has one method only; PAR is a section of another kind
    weakclip_again = {"retrain_truth"} if network != "small" else set()
    return {
        "clip": {"train", *weakclip_again}
        | ({"seeds"} if method in ("clip_gradcam", "patch_text", "cosine") else set()),
        "seeds": {"seeds"},
        "model": {"train", *weakclip_again},
        "augment": {"train", *weakclip_again},
        "loss": {"train", *weakclip_again},
        "train": {"train", *weakclip_again},
        "pseudo_masks": {"pseudo_masks", "evaluate", "evaluate_truth"}
        | ({"retrain"} if leaf == "step" and network == "weakclip" else set()),
        "retrain": {"retrain", "retrain_truth"} if network != "null" else set(),
        "evaluate": {"evaluate", "evaluate_truth"} if network != "null" else set(),
        "seed": {"train", "retrain_truth"}
        | ({"seeds"} if method in RANDOM else set())
        | ({"retrain"} if network != "null" else set()),
    }[section]


@pytest.mark.parametrize(("name", "method", "network"), CASES)
def test_a_setting_that_a_stage_does_not_read_changes_no_key(name: str, method: str, network: str) -> None:
    config = load_config(
        name, [f"seeds.method={method}", *METHODS[method], f"retrain.model={network}", "retrain.pretrained=null"]
    )
    views, before = views_of(config), settings_of(config)
    for path in leaves(config):
        if path in (("retrain", "model"), ("seeds", "affinity")) or path[:3] == ("seeds", "masks", "crf"):
            continue  # another network, a training inside the seeds, and the CRF, which evaluation names: see below
        after = views_of(changed(config, path))
        seen = [stage for stage in views if views[stage] != after[stage]]  # equal views have equal settings
        found = {stage for stage in seen if before[stage] != result_settings(after[stage])}
        assert found == readers(path, method, network), ".".join(path)


def test_the_random_seed_of_seeds_that_are_not_random_changes_no_key() -> None:
    first, second = (load_config("folder", [f"seed={seed}"]) for seed in (0, 1))
    assert settings_of(first)["seeds"] == settings_of(second)["seeds"]
    assert settings_of(first)["train"] != settings_of(second)["train"]


def test_evaluation_names_the_dense_crf_of_the_seeds() -> None:
    first, second = (
        settings_of(load_config("folder", [f"seeds.masks.crf={crf}"])) for crf in ("null", "{kernels: []}")
    )
    assert {stage for stage in first if first[stage] != second[stage]} == {"seeds", "evaluate", "evaluate_truth"}


def test_every_setting_that_asks_for_more_output_is_one_of_a_stage() -> None:
    config = load_config("voc12")
    stages = stages_of(config)
    asked = {name for stage in stages.values() for name in output_settings(stage.view(config))}
    asked.remove("evaluate.pictures")  # the view has it as `pictures`, where no network is retrained, too
    assert {name for stage in stages.values() for name in stage.outputs} == asked
    assert (stages["pseudo_masks"].outputs, stages["evaluate"].outputs) == (("pseudo_masks.confidence",), ("pictures",))


def test_every_kind_of_seeds_is_looked_at_with_every_network() -> None:
    assert {(method, network) for _, method, network in CASES} == {(m, n) for m in METHODS for n in NETWORKS}
    assert {(name, network) for name, _, network in CASES} == {(c, n) for c in shipped_configs() for n in NETWORKS}
    names = {next(entry.default for entry in dataclasses.fields(kind) if entry.name == "method") for kind in kinds()}
    assert names == set(METHODS)


def kinds() -> tuple[type[Any], ...]:
    return AnySeeds.__args__
