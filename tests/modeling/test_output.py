"""The decoder's prediction and the match map as one."""

from __future__ import annotations

import inspect

import pytest
import torch

from weakclip.modeling import WeakCLIPOutput, mixed_logits
from weakclip.modeling.co_attention import MATCH_TEMPERATURE
from weakclip.modeling.losses import matching_loss


@pytest.fixture
def output() -> WeakCLIPOutput:
    logits, match_map = 5 * torch.randn(2, 5, 12, 20), torch.rand(2, 5, 3, 5) * 2 - 1
    return WeakCLIPOutput(logits=logits, match_map=match_map, class_embeddings=torch.zeros(2, 5, 4))


def test_a_share_of_0_gives_the_logits_and_of_1_the_match_map(output: WeakCLIPOutput) -> None:
    assert mixed_logits(output, 0.0) is output.logits
    matched = torch.nn.functional.interpolate(output.match_map / MATCH_TEMPERATURE, size=(12, 20), mode="bilinear")
    torch.testing.assert_close(mixed_logits(output, 1.0).softmax(dim=1), matched.softmax(dim=1))


def test_between_them_probabilities_are_mixed(output: WeakCLIPOutput) -> None:
    ends = [mixed_logits(output, share).softmax(dim=1) for share in (0.0, 1.0)]
    torch.testing.assert_close(mixed_logits(output, 0.25).exp(), 0.75 * ends[0] + 0.25 * ends[1])


def test_classes_permute(output: WeakCLIPOutput) -> None:
    order = torch.tensor([3, 0, 4, 1, 2])
    permuted = WeakCLIPOutput(output.logits[:, order], output.match_map[:, order], output.class_embeddings[:, order])
    torch.testing.assert_close(mixed_logits(permuted, 0.25), mixed_logits(output, 0.25)[:, order])


def test_the_temperature_is_that_of_the_matching_loss() -> None:
    assert inspect.signature(matching_loss).parameters["temperature"].default == MATCH_TEMPERATURE
