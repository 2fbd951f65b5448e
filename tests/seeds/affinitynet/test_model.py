"""Laws of ResNet38 and AffinityNet: the published size, any image size, affinities equal to the plain formula."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from weakclip.seeds.affinitynet.model import AffinityNet, pair_offsets, pairwise_affinity, shifted
from weakclip.segmenters.resnet38 import ResNet38

WIDTHS = (4, 4, 8, 8, 16, 16, 32)


def build(*, frozen: bool = False, radius: int = 3) -> AffinityNet:
    return AffinityNet(widths=WIDTHS, reductions=(4, 4, 8), radius=radius, frozen=frozen)


def test_the_published_network_has_its_published_size() -> None:
    """All parameters of the released class, norms included; without norms and its frozen stage it trains 105.6 M."""
    with torch.device("meta"):
        model = AffinityNet(frozen=True)
    assert sum(parameter.numel() for parameter in model.parameters()) == 106_484_032
    assert sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad) == 105_615_360
    assert sum(parameter.numel() for parameter in model.trunk.parameters()) == 105_070_912


@pytest.mark.parametrize(
    ("size", "grid"), [((32, 32), (4, 4)), ((33, 47), (5, 6)), ((8, 70), (1, 9)), ((1, 1), (1, 1))]
)
def test_images_of_any_size_have_stride_eight(size: tuple[int, int], grid: tuple[int, int]) -> None:
    model = build().eval()
    levels = model.trunk(torch.rand(2, 3, *size))
    assert [tuple(level.shape) for level in levels] == [(2, width, *grid) for width in (8, 16, 32)]
    assert all((level >= 0).all() for level in levels)
    assert model(torch.rand(2, 3, *size)).shape == (2, len(pair_offsets(3)), *grid)


def test_every_parameter_gets_a_gradient() -> None:
    model = build()
    model(torch.rand(2, 3, 40, 32)).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_frozen_parts_stay_and_the_rest_is_trained() -> None:
    model = build(frozen=True).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    model(torch.rand(2, 3, 40, 32)).sum().backward()
    optimizer.step()
    for name, value in model.state_dict().items():
        kept = "bn" in name or name.startswith(("trunk.conv1a", "trunk.b2.", "trunk.b2_"))
        assert torch.equal(value, before[name]) == kept, name
    assert not any(module.training for module in model.modules() if isinstance(module, nn.BatchNorm2d))
    assert model.trunk.b6.dropout.training


def test_dropout_is_for_training_alone() -> None:
    trunk, image = ResNet38(WIDTHS, frozen_norms=True), torch.rand(1, 3, 64, 64)
    assert not torch.equal(trunk.train()(image).conv6, trunk(image).conv6)
    assert torch.equal(trunk.eval()(image).conv6, trunk(image).conv6)


def test_bytes_and_shares_are_the_same_image() -> None:
    model, image = build().eval(), torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8)
    torch.testing.assert_close(model(image), model(image / 255))


@pytest.mark.parametrize("radius", [2, 3, 5])
def test_each_pair_within_the_radius_occurs_once(radius: int) -> None:
    steps = set(pair_offsets(radius))
    reach = range(-radius, radius + 1)
    near = {(dy, dx) for dy in reach for dx in reach if 0 < math.hypot(dy, dx) < radius}
    assert steps | {(-dy, -dx) for dy, dx in steps} == near
    assert not steps & {(-dy, -dx) for dy, dx in steps}


@pytest.mark.parametrize("size", [(7, 6), (1, 5), (3, 1)])
@pytest.mark.parametrize("radius", [2, 4])
def test_affinity_is_the_plain_formula(size: tuple[int, int], radius: int) -> None:
    features, (height, width) = torch.randn(2, 3, *size), size
    found, offsets = pairwise_affinity(features, radius), pair_offsets(radius)
    for index, (dy, dx) in enumerate(offsets):
        for y in range(height):
            for x in range(width):
                inside = y + dy < height and 0 <= x + dx < width
                pair = features[:, :, y, x], features[:, :, y + dy, x + dx] if inside else None
                expected = (-(pair[0] - pair[1]).abs().mean(dim=1)).exp() if pair[1] is not None else torch.zeros(2)
                torch.testing.assert_close(found[:, index, y, x], expected)


def test_beyond_the_border_stands_what_was_asked_for() -> None:
    seen = shifted(torch.zeros(1, 2, 2), 2, 255.0)
    assert [map_.flatten().tolist() for map_ in seen[:2]] == [[0, 255, 0, 255], [255, 0, 255, 255]]
