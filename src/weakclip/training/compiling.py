"""A network that torch compiles for its training, as a setting asks. The first step takes the time of compiling."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import nn

from weakclip.errors import ConfigError, first_line

logger = logging.getLogger("weakclip")

COMPILE_MODES = ("default", "reduce-overhead")
"""Modes of `torch.compile`; "reduce-overhead" replays a step as CUDA graphs on a GPU, and is "default" on a CPU."""


def compiled(model: nn.Module, mode: str | None) -> nn.Module:
    """A network that is compiled at its first call and holds the same parameters; without a mode, `model` itself."""
    return model if mode is None else cast(nn.Module, torch.compile(model, mode=mode))


@contextlib.contextmanager
def first_compiled_step(mode: str | None) -> Iterator[None]:
    """Around the first step of a training: says how long it took, where the network is compiled in it.

    Raises:
        ConfigError: torch cannot compile the network here.
    """
    if mode is None:
        yield
        return
    failure: Any = torch._dynamo.exc.TorchDynamoException
    started = time.perf_counter()
    try:
        yield
    except failure as error:
        cause = first_line(getattr(error, "inner_exception", None) or error)
        raise ConfigError(
            f"compile: {mode} asked for, but torch cannot compile this network here ({cause}); "
            "install a C++ compiler (on a GPU Triton, too), or set it to null"
        ) from None
    logger.info("compile %s: the first step took %.1f s, with compiling in it", mode, time.perf_counter() - started)
