from __future__ import annotations

import torch

from weakclip.training.averaging import AveragedWeights


def test_follows_the_formula():
    value = torch.tensor([1.0, 2.0])
    averages = AveragedWeights({"w": value}, decay=0.5)
    expected = value.clone()
    for updates in range(8):
        value += 1
        averages.update(updates)
        decay = min(0.5, (1 + updates) / (10 + updates))
        expected = decay * expected + (1 - decay) * value
    torch.testing.assert_close(averages.averages["w"], expected)


def test_counters_are_copied_and_the_model_receives_the_averages():
    tensors = {"w": torch.zeros(2), "count": torch.tensor(0)}
    averages = AveragedWeights(tensors, decay=0.9)
    for updates in range(3):
        tensors["w"] += 1
        tensors["count"] += 1
        averages.update(updates)
    assert averages.averages["count"] == 3
    averages.copy_to_model()
    assert (tensors["w"] < 3).all()
    assert (tensors["w"] > 0).all()


def test_without_decay_nothing_is_kept():
    weight = torch.ones(2)
    averages = AveragedWeights({"w": weight}, decay=0.0)
    weight += 1
    averages.update(0)
    averages.copy_to_model()
    assert not averages.averages
    assert weight.tolist() == [2, 2]
