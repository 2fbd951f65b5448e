"""The arithmetic of a network's passes, as a setting names it: float32, TF32 on GPUs that have it, or bf16 autocast."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Literal

import torch

Precision = Literal["auto", "fp32", "tf32", "bf16"]


def autocast_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    """The type of autocast that `precision` asks for on a device; None for none."""
    wanted = precision == "bf16" or (precision == "auto" and _bf16_pays(device))
    return torch.bfloat16 if wanted else None


@contextlib.contextmanager
def float32_as(precision: str, device: torch.device) -> Iterator[None]:
    """Float32 products on GPUs as `precision` says: "tf32" lets them round their factors to 10 bits, "fp32" does not.

    torch's own default lets convolutions round, and matrices not; "auto" and "bf16" leave it as it is. A CPU has no
    such arithmetic, and "tf32" is float32 there: nothing is set, for several threads may predict at once. What was set
    before is set again at the end.
    """
    if precision not in ("fp32", "tf32") or device.type == "cpu":
        yield
        return
    matrices, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matrices.allow_tf32, convolutions.allow_tf32
    matrices.allow_tf32 = convolutions.allow_tf32 = precision == "tf32"
    try:
        yield
    finally:
        matrices.allow_tf32, convolutions.allow_tf32 = before


def _bf16_pays(device: torch.device) -> bool:
    """On GPUs; on CPUs with tile instructions (AMX): docs/speed.md has the times of both."""
    if device.type != "cpu":
        return True
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # absent in older torch
    return bool(capabilities.get("amx_bf16", False))
