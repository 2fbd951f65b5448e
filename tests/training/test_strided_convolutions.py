"""What is trained here keeps away from a kernel that writes beyond its memory.

On CPUs, the backward pass of a 1×1 convolution with a stride, on channels-last tensors in float32, overruns its
workspace where it reads fewer channels than a block of 8 or 16 (github.com/uxlfoundation/oneDNN, issue 6035).
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from weakclip.clip import FrozenCLIP
from weakclip.datasets.classes import COCO14, VOC12, ClassSet
from weakclip.modeling import build_weakclip
from weakclip.seeds.affinitynet.model import AffinityNet
from weakclip.seeds.mctformer.model import MCTformer
from weakclip.segmenters.deeplab import DeepLabResNet38
from weakclip.segmenters.segmenter import SMALL, build_segmenter

BLOCK = 16
"""Channels of the widest block."""

WIDTHS = (4, 4, 8, 8, 16, 16, 32)


def strided_pointwise(network: nn.Module) -> list[nn.Conv2d]:
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    return [each for each in convolutions if each.kernel_size == (1, 1) and each.stride != (1, 1)]


@pytest.mark.parametrize(
    "build",
    [
        lambda _: AffinityNet(widths=WIDTHS, reductions=(4, 4, 8)),
        lambda _: DeepLabResNet38({0: "background", 1: "cat"}, widths=WIDTHS),
        lambda _: MCTformer(3, image_size=32, patch_size=8, width=16, depth=2, heads=2),
        lambda clip: build_weakclip(clip, VOC12, co_attention_width=8, decoder_channels=8),
    ],
    ids=["affinitynet", "deeplab", "mctformer", "weakclip"],
)
def test_no_strided_pointwise_convolution_at_any_width(
    tiny_clip: FrozenCLIP, build: Callable[[FrozenCLIP], nn.Module]
) -> None:
    assert strided_pointwise(build(tiny_clip)) == []


def test_those_of_the_small_network_read_whole_blocks() -> None:
    found = strided_pointwise(build_segmenter(SMALL, VOC12))
    assert len(found) == 3
    assert all(each.in_channels >= BLOCK and each.in_channels % BLOCK == 0 for each in found)


@pytest.mark.parametrize("class_set", [VOC12, COCO14], ids=["21", "81"])
def test_gradients_of_the_small_network_in_training_are_right(class_set: ClassSet) -> None:
    """In the layout and the precision of training, against float64 in the other layout, which other kernels compute."""
    trained, exact = build_segmenter(SMALL, class_set), build_segmenter(SMALL, class_set)
    exact.load_state_dict(trained.state_dict())
    trained.to(memory_format=torch.channels_last)
    images, target = torch.rand(4, 3, 64, 80), torch.randint(0, class_set.num_classes, (4, 64, 80))
    last = images.contiguous(memory_format=torch.channels_last)
    for network, seen in ((trained, last), (exact.double(), images.double())):
        F.cross_entropy(F.interpolate(network(seen), size=(64, 80)), target).backward()
    largest = max(float(parameter.grad.abs().max()) for parameter in exact.parameters() if parameter.grad is not None)
    for (name, found), expected in zip(trained.named_parameters(), exact.parameters(), strict=True):
        assert found.grad is not None and expected.grad is not None
        assert (found.grad - expected.grad).abs().max() < 1e-4 * largest, name
