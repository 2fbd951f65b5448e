"""Laws of the losses: known values, order, balance, what gives gradient, and no NaN on empty seeds."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from weakclip.datasets.classes import IGNORE_INDEX
from weakclip.modeling.losses import boundary_loss, grid_probabilities, grid_seeds, matching_loss, seeding_loss


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def random_probs(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).softmax(dim=1)


def confident(seeds: torch.Tensor, classes: int, confidence: float) -> torch.Tensor:
    """Probabilities that give the seeded class `confidence` and share the rest; uniform where nothing is seeded."""
    target = torch.where(seeds == IGNORE_INDEX, 0, seeds)
    one_hot = functional.one_hot(target, classes).movedim(-1, 1).float()
    probs = one_hot * confidence + (1 - one_hot) * (1 - confidence) / (classes - 1)
    return torch.where((seeds == IGNORE_INDEX)[:, None], 1 / classes, probs)


@pytest.mark.parametrize("classes", [2, 5, 21, 81])
def test_grid_probabilities_are_floored_distributions(classes: int) -> None:
    logits = torch.zeros(2, classes, 9, 7)
    logits[:, 0] = 1e4
    probs = grid_probabilities(logits, (5, 3))
    assert probs.shape == (2, classes, 5, 3)
    torch.testing.assert_close(probs.sum(dim=1), torch.ones(2, 5, 3))
    assert probs.min() > 0.99e-7


def test_grid_probabilities_take_half_precision() -> None:
    logits = torch.randn(1, 3, 4, 4)
    assert grid_probabilities(logits.half(), (4, 4)).dtype == torch.float32
    torch.testing.assert_close(
        grid_probabilities(logits.bfloat16().float(), (8, 8)), grid_probabilities(logits.bfloat16(), (8, 8))
    )


def test_grid_seeds_invent_no_class() -> None:
    mask = torch.randint(0, 3, (2, 33, 47), dtype=torch.uint8) * 2
    mask[0, :10] = IGNORE_INDEX
    grid = grid_seeds(mask, (8, 12))
    assert set(grid.unique().tolist()) <= {0, 2, 4, IGNORE_INDEX}
    assert torch.equal(grid, grid_seeds(mask[:, None], (8, 12)))
    assert torch.equal(grid_seeds(mask, (33, 47)), mask.long())


def test_seeding_loss_follows_the_formula() -> None:
    probs = random_probs(3, 4, 6, 5)
    seeds = torch.randint(0, 4, (3, 6, 5), generator=torch.Generator().manual_seed(1))
    seeds[:, :2] = IGNORE_INDEX
    expected = 0.0
    for image, mask in zip(probs, seeds, strict=True):
        for chosen in (mask == 0, (mask > 0) & (mask != IGNORE_INDEX)):
            rows, columns = torch.nonzero(chosen, as_tuple=True)
            expected -= image[mask[rows, columns], rows, columns].log().mean().item() / len(probs)
    assert seeding_loss(probs, seeds).item() == pytest.approx(expected, rel=1e-5)


def test_seeding_loss_balances_background_and_foreground() -> None:
    """A hundred background pixels weigh as much as one of the foreground."""
    seeds = torch.zeros(1, 10, 10, dtype=torch.long)
    seeds[0, 0, 0] = 1
    wrong_foreground, wrong_background = torch.full((1, 2, 10, 10), 0.5), torch.full((1, 2, 10, 10), 0.5)
    wrong_foreground[0, :, 0, 0] = torch.tensor([0.9, 0.1])
    wrong_background[:, 0], wrong_background[:, 1] = 0.1, 0.9
    wrong_background[0, :, 0, 0] = 0.5
    torch.testing.assert_close(seeding_loss(wrong_foreground, seeds), seeding_loss(wrong_background, seeds))


def test_balanced_seeding_loss_follows_the_formula() -> None:
    probs = random_probs(4, 5, 6, 5)
    seeds = torch.randint(0, 5, (4, 6, 5), generator=torch.Generator().manual_seed(1))
    seeds[:, :2], seeds[1][seeds[1] == 2], seeds[2], seeds[3] = IGNORE_INDEX, IGNORE_INDEX, 3, 0
    expected = 0.0
    for image, mask in zip(probs, seeds, strict=True):
        means = {k: image[k][mask == k].log().mean().item() for k in range(5) if bool((mask == k).any())}
        foreground = [mean for k, mean in means.items() if k]
        expected -= (means.get(0, 0.0) + sum(foreground) / max(1, len(foreground))) / len(probs)
    assert seeding_loss(probs, seeds, class_balance=True).item() == pytest.approx(expected, rel=1e-5)


def test_in_the_balanced_loss_a_small_class_weighs_as_much_as_a_large_one() -> None:
    """Ninety-nine pixels of one class and one of another; in the published form the pixel is a hundredth."""
    seeds = torch.ones(1, 10, 10, dtype=torch.long)
    seeds[0, 0, 0] = 2
    gradients = {}
    for class_balance in (False, True):
        logits = torch.zeros(1, 3, 10, 10, requires_grad=True)
        seeding_loss(logits.softmax(dim=1), seeds, class_balance=class_balance).backward()
        assert logits.grad is not None
        pull = logits.grad.abs().sum(dim=1)[0]
        gradients[class_balance] = (pull[0, 0] / pull.sum()).item()
    assert gradients[False] == pytest.approx(0.01, rel=1e-4)
    assert gradients[True] == pytest.approx(0.5, rel=1e-4)


@pytest.mark.parametrize("classes", [2, 5, 21, 81])
def test_balance_changes_nothing_on_images_with_one_class(classes: int) -> None:
    probs = random_probs(3, classes, 7, 5)
    seeds = torch.zeros(3, 7, 5, dtype=torch.long)
    seeds[0, 2:4], seeds[1, :, 1], seeds[2] = 1, classes - 1, IGNORE_INDEX
    seeds[:, 5] = IGNORE_INDEX
    torch.testing.assert_close(seeding_loss(probs, seeds, class_balance=True), seeding_loss(probs, seeds))


def test_balanced_seeding_loss_does_not_depend_on_the_order_of_the_classes() -> None:
    probs, order = random_probs(2, 5, 6, 6), torch.tensor([0, 3, 1, 4, 2])
    seeds = torch.randint(0, 5, (2, 6, 6), generator=torch.Generator().manual_seed(3))
    renamed = torch.argsort(order)[seeds]
    torch.testing.assert_close(
        seeding_loss(probs[:, order], renamed, class_balance=True), seeding_loss(probs, seeds, class_balance=True)
    )


@pytest.mark.parametrize("loss", ["seeding", "balanced", "boundary", "matching"])
def test_a_better_prediction_has_a_lower_loss(loss: str) -> None:
    seeds = torch.randint(0, 5, (2, 8, 8), generator=torch.Generator().manual_seed(2))
    seeds[0, :3] = IGNORE_INDEX
    values = []
    for confidence in (0.1, 0.3, 0.6, 0.95):
        probs = confident(seeds, 5, confidence)
        if loss == "seeding":
            values.append(seeding_loss(probs, seeds))
        elif loss == "balanced":
            values.append(seeding_loss(probs, seeds, class_balance=True))
        elif loss == "boundary":
            values.append(boundary_loss(probs, confident(seeds, 5, 0.95)))
        else:
            values.append(matching_loss(probs, seeds))
    assert values == sorted(values, reverse=True)
    assert values[0] > values[-1]


@pytest.mark.parametrize("class_balance", [False, True])
@pytest.mark.parametrize("only", [0, 1, IGNORE_INDEX])
def test_images_without_some_seeds_give_no_nan(only: int, *, class_balance: bool) -> None:
    logits = torch.randn(2, 3, 8, 8, requires_grad=True)
    seeds = torch.full((2, 8, 8), only, dtype=torch.uint8)
    probs = grid_probabilities(logits, (8, 8))
    total = seeding_loss(probs, seeds, class_balance=class_balance) + matching_loss(logits.tanh(), seeds)
    total.backward()
    assert math.isfinite(total.item())
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert (total.item() == 0) == (only == IGNORE_INDEX)


def test_unseeded_pixels_give_no_gradient() -> None:
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    seeds = torch.full((1, 4, 4), IGNORE_INDEX)
    seeds[0, 1, 1], seeds[0, 2, 3] = 0, 2
    (seeding_loss(logits.softmax(dim=1), seeds) + matching_loss(logits, seeds)).backward()
    assert logits.grad is not None
    touched = logits.grad.abs().sum(dim=1)[0] > 0
    assert torch.equal(touched, seeds[0] != IGNORE_INDEX)


def test_saturated_predictions_stay_finite() -> None:
    logits = torch.full((1, 2, 4, 4), -1e4)
    logits[:, 0] = 1e4
    logits.requires_grad_()
    probs = logits.softmax(dim=1)
    crf_probs = probs.detach().flip(1)
    total = seeding_loss(probs, torch.ones(1, 4, 4, dtype=torch.long)) + boundary_loss(probs, crf_probs)
    total.backward()
    assert total.isfinite()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_boundary_loss_holds_the_crf_result_constant() -> None:
    probs, crf_probs = random_probs(1, 3, 4, 4).requires_grad_(), random_probs(1, 3, 4, 4, seed=1).requires_grad_()
    boundary_loss(probs, crf_probs).backward()
    assert probs.grad is not None
    assert probs.grad.abs().sum() > 0
    assert crf_probs.grad is None


def test_boundary_loss_is_a_divergence() -> None:
    # Mixed with the uniform distribution, so that no ratio is clipped.
    probs, other = (0.75 / 4 + random_probs(2, 4, 6, 6, seed=seed) / 4 for seed in (0, 1))
    assert boundary_loss(probs, probs).item() == pytest.approx(0.0, abs=1e-6)
    assert boundary_loss(probs, other) > 0
    plain = (other * (other / probs).log()).sum(dim=1).mean()
    torch.testing.assert_close(boundary_loss(probs, other), plain, rtol=1e-3, atol=0)


def test_boundary_loss_clips_the_ratio() -> None:
    """Where CRF and network disagree wholly, the pixel counts log 20 and gives no gradient."""
    probs = torch.tensor([1 - 1e-6, 1e-6]).reshape(1, 2, 1, 1).requires_grad_()
    loss = boundary_loss(probs, torch.tensor([0.0, 1.0]).reshape(1, 2, 1, 1))
    assert loss.item() == pytest.approx(math.log(20), rel=1e-3)
    loss.backward()
    assert probs.grad is not None
    assert probs.grad.abs().max() == 0


def test_permuting_classes_leaves_the_losses() -> None:
    probs, crf_probs = random_probs(2, 5, 6, 6), random_probs(2, 5, 6, 6, seed=1)
    seeds = torch.randint(0, 5, (2, 6, 6), generator=torch.Generator().manual_seed(3))
    order = torch.tensor([0, 3, 1, 4, 2])  # the background stays where it is: seeding treats it apart
    moved = order.argsort()[seeds]
    for loss, other in ((seeding_loss, seeds), (matching_loss, seeds)):
        torch.testing.assert_close(loss(probs, other), loss(probs[:, order], moved))
    torch.testing.assert_close(boundary_loss(probs, crf_probs), boundary_loss(probs[:, order], crf_probs[:, order]))


def test_matching_loss_grows_with_its_weight_and_reads_uint8() -> None:
    match_map, seeds = random_probs(2, 3, 4, 4), torch.randint(0, 3, (2, 16, 16), dtype=torch.uint8)
    torch.testing.assert_close(matching_loss(match_map, seeds, weight=1.0), 2.5 * matching_loss(match_map, seeds))
