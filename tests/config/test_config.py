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
    ImportedMaskSeeds,
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
from weakclip.segmenters.deeplab import DeepLabResNet38
from weakclip.store.keys import plain
from weakclip.training.optimizer import build_optimizer


def parse(text: str) -> RunConfig:
    return parse_config(yaml.safe_load(text), origin="my.yaml")


def test_these_configurations_are_shipped() -> None:
    assert shipped_configs() == ["coco14", "coco14_paper", "demo", "folder", "voc12", "voc12_paper"]


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


@pytest.mark.parametrize("name", [each for each in shipped_configs() if each != "voc12"])
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


@pytest.mark.parametrize("name", shipped_configs())
def test_a_configuration_is_printed_with_where_each_value_comes_from(name: str) -> None:
    text = explain_config(name, ["train.steps=3"])
    assert parse(text) == load_config(name, ["train.steps=3"])
    lines = dict(line.split("  # ") for line in text.splitlines() if "#" in line)
    assert lines["  steps: 3"] == "--set"
    text = explain_config(name, ["seeds={method: cosine}", "loss.crf={kernels: []}"])
    assert "  foreground_confidence: 0.95  # default" in text and "    iterations: 10  # " in text
    assert set(lines.values()) <= {"voc12", "voc12_paper", "folder", name, "--set", "default"}


@pytest.mark.parametrize("name", shipped_configs())
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
        ("data: {dataset: scenes}\ntrain: {steps: 0}", "my.yaml: train: steps: 1 or more expected; found 0"),
        ("data: {dataset: scenes}\ntrain: 7", "my.yaml: train: expected keys and values; found 7"),
        (
            "data: {dataset: scene}",
            "my.yaml: data.dataset: one of scenes, voc12, coco14, folder, shards, own expected; found 'scene'",
        ),
        ("data: {dataset: voc12}", "my.yaml: data.root: this key is required and missing"),
        ("data: {dataset: scenes, val_limit: 0}", "my.yaml: data: val_limit: 1 or more"),
        ("data: {dataset: folder, root: x, longest_side: 0}", "my.yaml: data: longest_side: 1 or more"),
        (
            "data: {dataset: scenes, longest_side: 9}",
            "unknown key 'data.longest_side' in my.yaml; it is a key of dataset: folder or shards; dataset: scenes has",
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
    with pytest.raises(
        ConfigError, match="demoo: no such file, and no shipped configuration; those are coco14, coco14_paper, demo"
    ):
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
        ("seeds.patch_text.scale=[1, x]", r"seeds\.patch_text\.scale\.1: Input should be a valid number.*found 'x'"),
        ("seeds.patch_text.scale=1e9", r"seeds\.patch_text: scale: 0\.1 to 100 expected; found 1000000000\.0"),
        ("seeds.patch_text.scale=[1, 0.001]", r"seeds\.patch_text: scale: 0\.1 to 100 expected; found 0\.001"),
        ("seeds.patch_text.scale=[true]", r"seeds\.patch_text\.scale\.0: a number expected; found true"),
        ("seeds.patch_text.scale=[]", r"seeds\.patch_text: scale: one or more expected; found none"),
        ("pseudo_masks.inference.scales=[1, 1e9]", r"pseudo_masks\.inference: scales: 0\.1 to 100 expected"),
        ("augment.scale=[0, 1]", r"augment: scale: 0\.1 to 100 expected; found 0\.0"),
        ("seeds={method: cosine, cosine: {scale: 1e9}}", r"seeds\.cosine: scale: 0\.1 to 100 expected"),
        ("seeds={method: clip_gradcam, gradcam: {scale: 0.001}}", r"seeds\.gradcam: scale: 0\.1 to 100 expected"),
        (
            "seeds={method: mctformer, mctformer: {cams: {scales: [1e9]}}}",
            r"seeds\.mctformer\.cams: scales: 0\.1 to 100 expected",
        ),
        ("seeds.patch_text.attention=[foo]", r"seeds\.patch_text\.attention\.0: Input should be 'mean'"),
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
        "pseudo_masks.inference.scales=[1, .nan]",
        "pseudo_masks.inference.scales=[1, inf]",
    ],
)
def test_numbers_are_finite(override: str) -> None:
    name = override.partition("=")[0].rpartition(".")[2]
    with pytest.raises(ConfigError, match=f"{name}: a finite number expected"):
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


STARTS = (
    (
        "seeds.method=mctformer",
        "seeds.mctformer",
        "MCTformer+ starts from DeiT: name the file, deit_small_patch16_224-",
    ),
    ("seeds.affinity={}", "seeds.affinity", "AffinityNet starts from a trained ResNet38: name the file, res38_cls.pth"),
    ("retrain.model=deeplab_resnet38", "retrain", "starts from ImageNet: name the file, ilsvrc-cls_rna-a1_cls1000_"),
)
"""A setting, the section whose network starts from a file, and the message."""


@pytest.mark.parametrize("name", ["voc12", "coco14", "folder"])
@pytest.mark.parametrize(("override", "section", "told"), STARTS)
def test_no_network_starts_from_random_weights_unasked(name: str, override: str, section: str, told: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_config(name, [override])
    message = str(error.value)
    assert f"{section}.pretrained: " in message and told in message and "\n" not in message
    assert message.endswith(f"random weights: {section}.from_scratch: true")
    assert load_config(name, [override, f"{section}.from_scratch=true"]) != load_config(name)
    assert load_config(name, [override, f"{section}.pretrained=trunk.pth"]) != load_config(name)
    assert load_config("demo", [override]) != load_config("demo")


@pytest.mark.parametrize(
    ("name", "steps", "batch", "published", "retraining"),
    [("voc12_paper", 20_000, 16, 8000, 40_000), ("coco14_paper", 40_000, 24, 29_000, 160_000)],
)
def test_the_paper_s_configuration(name: str, steps: int, batch: int, published: int, retraining: int) -> None:
    """Zhu et al., IJCV 2024, its released code, and github.com/Yingyue-L/deeplabv1-resnet38."""
    config = load_config(name)
    train, retrain, evaluate = config.train, config.retrain, config.evaluate
    assert isinstance(config.seeds, ImportedMaskSeeds)
    assert not config.pseudo_masks.restrict_to_labels and config.loss.crf is not None
    assert (train.steps, train.batch_size, train.learning_rate, train.weight_decay) == (steps, batch, 1e-4, 3e-5)
    assert train.keep_every and published % train.keep_every == 0 and train.ema_decay == 0
    assert (retrain.model, retrain.train.optimizer, retrain.train.schedule) == ("deeplab_resnet38", "sgd", "poly")
    assert (retrain.train.steps, retrain.train.batch_size, retrain.train.momentum) == (retraining, 16, 0.9)
    assert (retrain.augment.crop_size, retrain.augment.scale, retrain.augment.fit_crop) == (448, (0.5, 1.5), False)
    assert evaluate.inference.scales == (0.5, 0.75, 1.0, 1.25, 1.5) and evaluate.inference.flip
    assert evaluate.inference.average == "logits" and not evaluate.inference.fit_crop
    assert evaluate.inference.crop >= 640 * 1.5  # the longest side of VOC is 500, of COCO 640: one window an image


def test_colours_of_the_paper_s_retraining() -> None:
    for name in ("voc12_paper", "coco14_paper"):
        config = load_config(name)
        assert (config.retrain.augment.photometric, config.retrain.augment.hsv_shift) == (False, 10)
        assert (config.augment.photometric, config.augment.hsv_shift) == (True, 0)


def test_learning_rates_of_the_paper_s_retraining() -> None:
    """Ten times for the new layers, twice for biases, none for the norms' scales and shifts."""
    network = DeepLabResNet38({0: "background", 1: "cat"}, widths=(4, 4, 8, 8, 16, 16, 32))
    optimizer = build_optimizer(dict(network.named_parameters()), load_config("voc12_paper").retrain.train)
    names = {parameter: name for name, parameter in network.named_parameters()}
    rates = {names[each]: group["lr"] / 1e-3 for group in optimizer.param_groups for each in group["params"]}
    expected = {"head.conv1.weight": 10, "head.conv2.weight": 10, "head.classifier.weight": 10}
    expected["head.classifier.bias"] = 20
    for name, rate in rates.items():
        assert rate == pytest.approx(0 if "bn" in name else expected.get(name, 1)), name


def test_crfs_of_the_paper_s_scores() -> None:
    assert all(load_config(name).evaluate.winners_only for name in ("voc12_paper", "coco14_paper"))
    assert not load_config("voc12_paper").pseudo_masks.winners_only and not load_config("voc12").evaluate.winners_only
    found = {name: load_config(name).evaluate.crf for name in ("voc12_paper", "coco14_paper")}
    kernels = {name: [(k.sxy, k.weight, k.srgb) for k in crf.kernels] for name, crf in found.items() if crf}
    assert kernels == {
        "voc12_paper": [(1, 3, None), (112, 3, 2)],
        "coco14_paper": [(1, 3, None), (67, 4, 3)],
    }
    masks = load_config("voc12_paper").pseudo_masks.crf
    assert masks == load_config("voc12").pseudo_masks.crf and load_config("coco14").pseudo_masks.crf != masks


def test_our_recipes_say_that_they_are_ours() -> None:
    for name in ("voc12", "coco14"):
        first = config_path(name).read_text(encoding="utf-8").splitlines()[0]
        assert "by a recipe of our own" in first
        assert load_config(name).pseudo_masks.restrict_to_labels
    boxes = {name: load_config(name).seeds.gradcam.box_threshold for name in ("voc12", "coco14")}
    assert boxes == {"voc12": 0.4, "coco14": 0.7}  # released code of CLIP-ES, generate_cams_voc12.py, …_coco14.py
    for name in ("voc12", "coco14"):
        factors = load_config(name).retrain.train.rate_factors
        assert [(each.part, each.factor) for each in factors] == [("decode_head", 10)]
