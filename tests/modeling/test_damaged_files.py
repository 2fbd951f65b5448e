"""AffinityNet and DeepLab files whose description is damaged or made by hand: one line that names file and mend."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from weakclip.errors import ConfigError, WeightsError
from weakclip.seeds.affinitynet.model import AffinityNet
from weakclip.seeds.affinitynet.storage import load_affinitynet, save_affinitynet
from weakclip.segmenters.deeplab import DeepLabResNet38, load_deeplab
from weakclip.segmenters.resnet38 import ResNet38

WIDTHS = [4, 4, 8, 8, 16, 16, 32]
DAMAGED_WIDTHS = (
    ([], "7 whole numbers of 1 and more expected"),
    (WIDTHS[:3], "7 whole numbers"),
    ([*WIDTHS, 4], "7 whole numbers"),
    ([-4, *WIDTHS[1:]], "7 whole numbers"),
    ([0, *WIDTHS[1:]], "7 whole numbers"),
    ([4.0, *WIDTHS[1:]], "7 whole numbers"),
    ([True, *WIDTHS[1:]], "7 whole numbers"),
    (["4", *WIDTHS[1:]], "7 whole numbers"),
    (7, "7 whole numbers"),
    (None, "7 whole numbers"),
    ([*WIDTHS[:6], 30], "multiples of 2, 4 and 4 expected"),
    ([*WIDTHS[:4], 15, 16, 32], "multiples of 2, 4 and 4"),
    ([8, *WIDTHS[1:]], r"does not fit the .*trunk\.conv1a\.weight \(4, 3, 3, 3\), expected \(8, 3, 3, 3\)"),
    ([2**40, *WIDTHS[1:]], r"does not fit the .*\(4, 3, 3, 3\), expected \(1099511627776, 3, 3, 3\)"),
    ([2**70, *WIDTHS[1:]], "damaged"),
)


def one_line(error: pytest.ExceptionInfo[WeightsError], path: Path) -> None:
    message = str(error.value)
    assert "\n" not in message and message.startswith(str(path)) and "expected" in message


@pytest.mark.parametrize(("widths", "told"), DAMAGED_WIDTHS)
def test_widths_of_a_deeplab_are_proved_before_it_is_built(tmp_path: Path, widths: Any, told: str) -> None:
    DeepLabResNet38({0: "background", 1: "cat"}, widths=WIDTHS).save_pretrained(tmp_path)
    config = tmp_path / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"widths": widths}))
    with pytest.raises(WeightsError, match=told) as error:
        load_deeplab(tmp_path)
    one_line(error, tmp_path)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"norm_momentum": "no"}, "a number expected; found 2 and norm_momentum 'no'"),
        ({"norm_momentum": 7.0}, "norm_momentum: above 0, at most 1 expected; found 7.0"),
        ({"id2label": {}}, "found 0 and norm_momentum 0.1"),
        ({"id2label": ["background"]}, "expected a JSON object with id2label"),
        ({"id2label": {"first": "background"}}, "expected a JSON object with id2label"),
        ({"id2label": {"0": "background"}}, r"head\.classifier\.bias \(2,\), expected \(1,\)"),
    ],
)
@pytest.mark.parametrize("labels", [None, {0: "background", 1: "dog", 2: "cow"}])
def test_a_damaged_description_of_a_deeplab_is_told(
    tmp_path: Path, change: dict[str, Any], told: str, labels: dict[int, str] | None
) -> None:
    DeepLabResNet38({0: "background", 1: "cat"}, widths=WIDTHS).save_pretrained(tmp_path)
    config = tmp_path / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | change))
    with pytest.raises(WeightsError, match=told) as error:
        load_deeplab(tmp_path, labels)
    one_line(error, tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "[" * 100_000])
def test_a_deeplab_without_a_description_is_told(tmp_path: Path, text: str) -> None:
    DeepLabResNet38({0: "background"}, widths=WIDTHS).save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(WeightsError, match="damaged description") as error:
        load_deeplab(tmp_path)
    one_line(error, tmp_path)


@pytest.fixture
def affinitynet(tmp_path: Path) -> Path:
    save_affinitynet(AffinityNet(widths=WIDTHS, reductions=(4, 4, 8), radius=3), tmp_path / "net.safetensors")
    return tmp_path / "net.safetensors"


def described(path: Path, text: str) -> None:
    save_file(load_file(path), path, metadata={"affinitynet": text})


def numbers(change: dict[str, Any]) -> str:
    return json.dumps({"widths": WIDTHS, "reductions": [4, 4, 8], "radius": 3} | change)


@pytest.mark.parametrize(("widths", "told"), DAMAGED_WIDTHS)
def test_widths_of_an_affinitynet_are_proved_before_it_is_built(affinitynet: Path, widths: Any, told: str) -> None:
    described(affinitynet, numbers({"widths": widths}))
    with pytest.raises(WeightsError, match=told) as error:
        load_affinitynet(affinitynet)
    one_line(error, affinitynet)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (numbers({"reductions": [4, 4]}), "reductions: 3 whole numbers of 1 and more expected; found"),
        (numbers({"reductions": [4, -4, 8]}), "reductions: 3 whole numbers"),
        (numbers({"reductions": [4, 4, 9]}), r"does not fit the .*f9\.weight"),
        (numbers({"reductions": {"a": 1}}), "reductions: 3 whole numbers"),
        (numbers({"radius": 1}), "radius: a whole number of 2 and more expected; found 1"),
        (numbers({"radius": 2.5}), "radius: a whole number"),
        (numbers({"radius": None}), "radius: a whole number"),
        (numbers({"depth": 3}), "unexpected keyword argument 'depth'"),
        ("3", "expected a JSON object with widths"),
        ("", "expected a JSON object with widths"),
        ("[" * 100_000, "expected a JSON object with widths"),
    ],
)
def test_damaged_numbers_of_an_affinitynet_are_told(affinitynet: Path, text: str, told: str) -> None:
    described(affinitynet, text)
    with pytest.raises(WeightsError, match=told) as error:
        load_affinitynet(affinitynet)
    one_line(error, affinitynet)


def test_weights_without_our_metadata_are_no_affinitynet(affinitynet: Path) -> None:
    save_file(load_file(affinitynet), affinitynet)
    with pytest.raises(WeightsError, match="not written by save_affinitynet; expected") as error:
        load_affinitynet(affinitynet)
    one_line(error, affinitynet)


def test_an_undamaged_file_loads_and_leaves_the_random_numbers(affinitynet: Path) -> None:
    described(affinitynet, numbers({}))
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    model = load_affinitynet(affinitynet)
    assert torch.equal(torch.rand(3), expected) and not model.training
    assert all(not value.is_meta for value in (*model.parameters(), *model.buffers()))


def test_other_widths_build_no_network() -> None:
    with pytest.raises(ConfigError, match="multiples of 2, 4 and 4"):
        ResNet38((4, 4, 8, 8, 16, 18, 32))
