"""Two processes that train together end with one network, and process 0 writes it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

import weakclip
from weakclip.errors import ConfigError

_TRAINING = """
import os, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
import torch
from squares import Squares
from weakclip.datasets.transforms import AugmentSettings
from weakclip.modeling import build_weakclip
from weakclip.clip import load_clip
from weakclip.seeds.mctformer.augmentation import DeiTAugmentSettings
from weakclip.seeds.mctformer.model import MCTformerModelSettings
from weakclip.segmenters import train as retraining
from weakclip.segmenters.segmenter import build_segmenter
from weakclip.training.dataset import TrainingPairs
from weakclip.training.settings import TrainSettings
from weakclip.seeds.affinitynet.train import AffinitySettings, train_affinity
from weakclip.seeds.mctformer.train import MCTformerSettings, train_mctformer
from weakclip.modeling.train import LossSettings, train_weakclip

out, rank, opened = Path(sys.argv[2]), os.environ["RANK"], []

def watch(event, details):
    if event == "open" and str(out) in str(details[0]) and (details[2] or 0) & (os.O_WRONLY | os.O_RDWR):
        opened.append(str(details[0]))

sys.addaudithook(watch)
torch.set_num_threads(1)
squares, masks = Squares(), out / "seeds"
train = TrainSettings(steps=3, batch_size=4, learning_rate=1e-2, ema_decay=0.5, precision="fp32")
augment = AugmentSettings(crop_size=48)
pairs = TrainingPairs(squares, masks, augment)
torch.manual_seed(0)
sizes = {"co_attention_width": 8, "co_attention_heads": 2, "co_attention_layers": 1, "decoder_channels": 8}
model = build_weakclip(load_clip("demo"), squares.class_set, prompt_length=2, **sizes)
train_weakclip(model, pairs, out / "weakclip", train, loss=LossSettings(size=8, crf=None))

made = []
retraining.build_segmenter = lambda *args, **kwargs: made.append(build_segmenter(*args, **kwargs)) or made[0]
retraining.retrain(pairs, out / "small", retraining.RetrainSettings(model="small", train=train, augment=augment))
again = retraining.RetrainSettings(model="weakclip", train=train, augment=augment)
retraining.retrain(pairs, out / "further", again, start=model)
small = MCTformerModelSettings(patch_size=8, width=16, depth=2, heads=2)
views = DeiTAugmentSettings(crop_size=48)
train_mctformer(squares, out / "mctformer", MCTformerSettings(model=small, train=train, augment=views))
widths = (4, 4, 8, 8, 16, 16, 32)
affinity = AffinitySettings(widths=widths, reductions=(4, 4, 8), radius=3, train=train, augment=augment)
train_affinity(squares, masks, out / "affinity", affinity)
known = list(opened)
torch.save({"small": made[0].state_dict(), "weakclip": model.state_dict(), "opened": known}, out / f"{rank}.pt")
"""


@pytest.mark.slow
def test_process_0_writes_and_every_process_holds_what_it_wrote(seed_folder: Path, tmp_path: Path) -> None:
    """Parameters, averages of them and the statistics of batch norms (there are some in the small network)."""
    script = tmp_path / "script.py"
    script.write_text(_TRAINING)
    environment = {**os.environ, "PYTHONPATH": str(Path(weakclip.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(script)]
    subprocess.run(
        [*launch, str(Path(__file__).parents[1] / "reference"), str(seed_folder.parent)], env=environment, check=True
    )
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert any(name.endswith("running_mean") for name in first["small"])
    for network in ("small", "weakclip"):
        for name, tensor in first[network].items():
            assert torch.equal(tensor, second[network][name]), f"{network} {name}"
    written = {Path(name).parent.name for name in first["opened"]}
    assert {"weakclip", "small", "further", "mctformer", "affinity"} <= written
    assert second["opened"] == []
    assert (tmp_path / "small/model.safetensors").is_file()


class _Pair:
    """Two threads that stand for two processes: the sums of both, and how many were asked for."""

    def __init__(self) -> None:
        self.barrier, self.given, self.sums = threading.Barrier(2, timeout=60), list[torch.Tensor](), 0

    def all_reduce(self, tensor: torch.Tensor) -> None:
        own = tensor.clone()
        self.given.append(own)
        self.barrier.wait()
        tensor.add_(*(other for other in self.given if other is not own))
        if self.barrier.wait() == 0:
            self.given.clear()
            self.sums += 1
        self.barrier.wait()


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
def test_shared_batch_norms_are_those_of_the_whole_batch(
    monkeypatch: pytest.MonkeyPatch, order: torch.memory_format, dtype: torch.dtype, tolerance: float, affine: bool
) -> None:
    """Result, gradients and running statistics; the processes meet once a pass."""
    from weakclip.training.batch_norm import share_batch_norms

    pair = _Pair()
    monkeypatch.setattr(torch.distributed, "all_reduce", pair.all_reduce)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    torch.manual_seed(0)
    images = (torch.randn(6, 4, 5, 7) * 3 + 1).to(dtype).contiguous(memory_format=order)
    weights = torch.randn(6, 4, 5, 7).to(dtype)
    plain, *shared = (torch.nn.Sequential(torch.nn.BatchNorm2d(4, affine=affine)) for _ in range(3))

    def work(norm: torch.nn.Module, part: slice) -> tuple[torch.Tensor, ...]:
        own = images[part].clone(memory_format=torch.preserve_format).requires_grad_()
        found = norm(own)
        (found * weights[part]).sum().backward()
        assert own.grad is not None and found.dtype == dtype
        return found, own.grad

    expected = work(plain, slice(6))
    for norm in shared:
        share_batch_norms(norm)
    with ThreadPoolExecutor(2) as both:
        found = list(both.map(work, shared, (slice(3), slice(3, 6))))
    for whole, *parts in zip(expected, *found, strict=True):
        torch.testing.assert_close(torch.cat(parts), whole, atol=tolerance, rtol=tolerance)
    assert pair.sums == 2
    for name, tensor in plain.state_dict().items():
        torch.testing.assert_close(shared[0].state_dict()[name], tensor)
    for name, parameter in plain.named_parameters():
        own = [norm.get_parameter(name).grad for norm in shared]
        torch.testing.assert_close(own[0] + own[1], parameter.grad, atol=10 * tolerance, rtol=tolerance)
    torch.testing.assert_close(shared[0].eval()(images), plain.eval()(images))


def test_without_companions_a_process_has_its_own_values() -> None:
    from weakclip.training.processes import open_processes

    one = open_processes("cpu")
    assert one.positions(3) == range(3)
    assert (one.any(flag=True), one.tell("own"), one.gather(["a"])) == (True, "own", ["a"])
    assert one.sum(np.array([3])).tolist() == one.mean(torch.tensor([3.0])).tolist() == [3]


def test_processes_of_a_machine_share_its_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    from weakclip.store.threads import usable_cores

    cores = usable_cores()
    for companions, share in (("", cores), ("1", cores), ("2", max(1, cores // 2)), ("1000", 1)):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", companions)
        assert usable_cores() == share


def test_the_number_of_devices_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    from weakclip.training import launch

    monkeypatch.setattr(launch, "usable_cores", lambda: 9)
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 4)
    assert [launch.count_processes(asked, "cpu") for asked in ("all", "3")] == [4, 3]
    assert [launch.count_processes(asked, "meta") for asked in ("all", "3")] == [4, 3]
    with pytest.raises(ConfigError, match="5 asked for, but this machine has 4"):
        launch.count_processes("5", "meta")
    for wrong in ("0", "-1", "two", ""):
        with pytest.raises(ConfigError, match="a number from 1 on, or all, expected"):
            launch.count_processes(wrong, "cpu")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    with pytest.raises(ConfigError, match="torchrun has started the processes already"):
        launch.count_processes("2", "cpu")
