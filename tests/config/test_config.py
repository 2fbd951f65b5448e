"""Laws of the configuration: shipped files are complete, a round trip changes nothing, mistakes are one clear line."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from weakclip.config import (
    EvaluateSettings,
    FolderData,
    ImportedCAMSeeds,
    RunConfig,
    changed_settings,
    config_path,
    dump_config,
    explain_config,
    limit_training,
    load_config,
    parse_config,
    shipped_configs,
)
from weakclip.errors import ConfigError
from weakclip.store.keys import plain


def parse(text: str) -> RunConfig:
    return parse_config(yaml.safe_load(text), origin="my.yaml")


def test_four_configurations_are_shipped() -> None:
    assert shipped_configs() == ["coco14", "demo", "folder", "voc12"]


def written(name: str) -> dict[str, Any]:
    """What a shipped file says, by key path."""
    values = yaml.safe_load(config_path(name).read_text(encoding="utf-8"))
    return dict(leaves({key: value for key, value in values.items() if key != "base"}, ""))


def leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for name, part in value.items():
            yield from leaves(part, f"{path}.{name}")
    else:
        yield path, value


def test_the_published_configuration_is_complete_and_commented() -> None:
    assert set(written("voc12")) == {path for path, _ in leaves(plain(load_config("voc12")), "")}
    assert config_path("voc12").read_text(encoding="utf-8").count("#") >= 50


@pytest.mark.parametrize("name", ["coco14", "demo", "folder"])
def test_other_configurations_say_what_differs_and_nothing_else(name: str) -> None:
    base = yaml.safe_load(config_path(name).read_text(encoding="utf-8"))["base"]
    below, here = (dict(leaves(plain(load_config(each)), "")) for each in (base, name))
    kinds = {".data.dataset", ".seeds.method"} & {path for path in here if here[path] != below.get(path)}
    own = {kind.rpartition(".")[0] for kind in kinds}  # a section of another kind has all of its keys
    for path, value in written(name).items():
        same = path in below and below[path] == here[path]
        assert not same or path.rpartition(".")[0] in own, f"{name}: {path} is {value!r} in {base}, too"
    text = config_path(name).read_text(encoding="utf-8")
    assert text.startswith("#") and "weakclip run" in text


def test_a_file_of_ones_own_has_a_base(tmp_path: Path) -> None:
    path = tmp_path / "my.yaml"
    path.write_text("base: voc12\ndata: {dataset: folder, root: x, longest_side: 512}\ntrain: {steps: 7}\n")
    config = load_config(path)
    assert config.train == dataclasses.replace(load_config("voc12").train, steps=7)
    assert config.data == FolderData(root="x", longest_side=512, train_split="train_aug")
    path.write_text("base: ../../etc/passwd\n")
    with pytest.raises(ConfigError, match=r"my\.yaml: base: a shipped configuration expected"):
        load_config(path)


@pytest.mark.parametrize("order", [1, -1])
def test_another_kind_of_section_brings_its_own_keys(order: int) -> None:
    overrides = ["seeds.method=imported_cams", "seeds.folder=cams", "seeds.masks.background_power=2"][::order]
    seeds = load_config("voc12", overrides).seeds
    assert isinstance(seeds, ImportedCAMSeeds)
    assert (seeds.folder, seeds.masks.background_power) == ("cams", 2)
    assert not hasattr(seeds, "gradcam")
    with pytest.raises(ConfigError, match=r"unknown key 'seeds\.gradcam'"):
        load_config("voc12", [*overrides, "seeds.gradcam.scale=2"])


@pytest.mark.parametrize("name", ["coco14", "demo", "folder", "voc12"])
def test_a_configuration_is_printed_with_where_each_value_comes_from(name: str) -> None:
    text = explain_config(name, ["train.steps=3"])
    assert parse(text) == load_config(name, ["train.steps=3"])
    lines = dict(line.split("  # ") for line in text.splitlines() if "#" in line)
    assert lines["  steps: 3"] == "--set"
    text = explain_config(name, ["seeds={method: cosine}", "loss.crf={kernels: []}"])
    assert "  foreground_confidence: 0.95  # default" in text and "    iterations: 10  # " in text
    assert set(lines.values()) <= {"voc12", "folder", name, "--set", "default"}


@pytest.mark.parametrize("name", ["coco14", "demo", "folder", "voc12"])
def test_round_trip_through_yaml(name: str) -> None:
    config = load_config(name)
    assert parse(dump_config(config)) == config


def test_short_configuration_takes_the_defaults() -> None:
    config = parse("data: {dataset: voc12, root: VOC2012}")
    assert config.train.steps == 20_000
    assert config.model.prompt_length == 8


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data: {dataset: scenes}\ntrain: {stepss: 3}", "unknown key 'train.stepss' in my.yaml; did you mean 'steps'?"),
        ("data: {dataset: scenes}\nmodle: {}", "unknown key 'modle' in my.yaml; did you mean 'model'?"),
        ("data: {dataset: scenes}\ntrain: {zzz: 3}", "unknown key 'train.zzz' in my.yaml; known keys: steps,"),
        ("data: {dataset: scenes}\ntrain: {steps: many}", "my.yaml: train.steps: Input should be a valid integer"),
        ("data: {dataset: scenes}\ntrain: {steps: 0}", "my.yaml: train: steps: at least 1 expected; found 0"),
        ("data: {dataset: scenes}\ntrain: 7", "my.yaml: train: expected keys and values; found 7"),
        (
            "data: {dataset: scene}",
            "my.yaml: data.dataset: one of scenes, voc12, coco14, folder expected; found 'scene'",
        ),
        ("data: {dataset: voc12}", "my.yaml: data.root: this key is required and missing"),
        ("data: {dataset: scenes, val_limit: 0}", "my.yaml: data: val_limit: 1 or more"),
        ("data: {dataset: folder, root: x, longest_side: 0}", "my.yaml: data: longest_side: 1 or more"),
        (
            "data: {dataset: scenes, longest_side: 9}",
            "unknown key 'data.longest_side' in my.yaml; it is a key of dataset: folder; dataset: scenes has",
        ),
        ("data: {dataset: voc12, root: x, class_file: y}", "unknown key 'data.class_file' in my.yaml"),
        ("seed: 1", "my.yaml: data: this key is required and missing"),
        ("data: {dataset: scenes}\naugment: {scale: [1]}", "my.yaml: augment.scale.1: Field required"),
        (
            "data: {dataset: scenes}\npseudo_masks: {crf: {kernels: [{sxy: 3, weight: 3, srbg: 5}]}}",
            "unknown key 'pseudo_masks.crf.kernels.0.srbg' in my.yaml; did you mean 'srgb'?",
        ),
    ],
)
def test_mistake_is_one_line_with_its_key(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse(text)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["", "just words", "a: [", "- 1", "!!python/object/apply:os.system ['true']"])
def test_file_that_is_no_configuration(tmp_path: Path, text: str) -> None:
    path = tmp_path / "my.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"my\.yaml: ") as error:
        load_config(path)
    assert "\n" not in str(error.value)


def test_a_section_that_is_there_twice_is_said(tmp_path: Path) -> None:
    path = tmp_path / "my.yaml"
    path.write_text("data: {dataset: scenes}\ntrain: {steps: 3}\ntrain: {batch_size: 2}\n")
    with pytest.raises(ConfigError, match=r"my\.yaml: not valid YAML; line 3: the key 'train' is there already"):
        load_config(path)


def test_missing_file_names_the_shipped_ones() -> None:
    with pytest.raises(ConfigError, match="demoo: no such file, and no shipped configuration; those are coco14, demo"):
        load_config("demoo")


def test_numbers_in_the_notation_of_yaml_1_1() -> None:
    """`1e-4` without a point is a word to YAML 1.1; people write it all the same."""
    assert parse("data: {dataset: scenes}\ntrain: {learning_rate: 1e-4}").train.learning_rate == 1e-4


def test_settings_of_the_command_line_win() -> None:
    config = load_config("demo", ["train.steps=3", "data.train_limit=8", "augment.scale=[1, 2]"])
    assert (config.train.steps, config.data.train_limit, config.augment.scale) == (3, 8, (1.0, 2.0))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.steps", "expected KEY.PATH=VALUE"),
        ("base=voc12", "--set base=voc12: a file says its base; or give the configuration's name"),
        ("train.stepss=3", "unknown key 'train.stepss' in .* with --set train.stepss=3; did you mean 'steps'"),
        ("train.steps=[", "not valid YAML"),
        ("train.steps.x=3", r"train\.steps: Input should be a valid integer"),
    ],
)
def test_mistake_on_the_command_line(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config("demo", [override])


def test_limited_training_stays_valid() -> None:
    config = limit_training(load_config("voc12"), 3)
    assert config.train.steps == 3
    assert config.train.warmup_steps <= 3
    assert limit_training(load_config("demo"), 10**9) == load_config("demo")


@pytest.mark.parametrize(
    "override",
    [
        "train.learning_rate=.nan",
        "seeds.masks.background_power=.inf",
        "train.learning_rate=nan",
        "train.weight_decay=inf",
    ],
)
def test_numbers_are_finite(override: str) -> None:
    with pytest.raises(ConfigError, match=f"{override.split('=', maxsplit=1)[0]}: a finite number expected"):
        load_config("demo", [override])


@pytest.mark.parametrize("override", ["seed=-1", "evaluate.pictures=-1"])
def test_counts_are_not_negative(override: str) -> None:
    with pytest.raises(ConfigError, match="expected; found -1"):
        load_config("demo", [override])


def test_file_in_another_encoding(tmp_path: Path) -> None:
    (tmp_path / "bin.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"bin\.yaml: cannot be read as a text file"):
        load_config(tmp_path / "bin.yaml")


def test_a_section_is_changed_key_by_key() -> None:
    settings = EvaluateSettings()
    changed = changed_settings(
        settings, ["inference.scales=[1.0, 2.0]", "crf.kernels=[{sxy: 1, weight: 2}]"], origin="x"
    )
    assert changed.inference.scales == (1.0, 2.0) and changed.inference.crop == settings.inference.crop
    assert changed.crf is not None and changed.crf.kernels[0].weight == 2
    assert changed_settings(changed, ["crf=null"], origin="x").crf is None
    with pytest.raises(ConfigError, match=r"unknown key 'inference\.scale' in x with --set"):
        changed_settings(settings, ["inference.scale=1"], origin="x")
    with pytest.raises(ConfigError, match=r"expected KEY\.PATH=VALUE, for instance inference\.crop=512"):
        changed_settings(settings, ["inference"], origin="x")


def test_the_first_class_of_imported_maps_is_0_or_1() -> None:
    with pytest.raises(ConfigError, match="first_class: 0 or 1 expected; found 2"):
        load_config("demo", ["seeds.method=imported_cams", "seeds.folder=cams", "seeds.first_class=2"])
