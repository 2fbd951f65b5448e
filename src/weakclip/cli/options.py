"""Arguments and options that several commands have, their checks, and what their values stand for.

A wrong path is told while the command line is read, before anything heavy is imported.
"""

from __future__ import annotations

import json as json_format
import os
from collections.abc import Callable, Sequence
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from weakclip.cli.output import Result, errors_printed, log_to_stderr
from weakclip.config.keys import setting_keys
from weakclip.config.shipped import config_path, shipped_configs
from weakclip.datasets.image_folder import check_folder
from weakclip.errors import ConfigError
from weakclip.store import paths
from weakclip.store.files import expand_home
from weakclip.store.layout import MANIFEST
from weakclip.store.remote import is_url

if TYPE_CHECKING:
    from weakclip.clip import Encoder
    from weakclip.config import RunConfig
    from weakclip.report import chosen


def _checked(check: Callable[[Any], object]) -> Callable[[typer.Context, typer.CallbackParam, Any], Any]:
    """A callback that checks the value of an argument, if there is one; of a path, `~` is the home."""

    def callback(context: typer.Context, parameter: typer.CallbackParam, value: Any) -> Any:
        if value is not None and not context.resilient_parsing:  # which is completion in the shell
            with errors_printed(json=bool(context.params.get("json"))):
                check(value := paths.path_given(value, parameter.opts[0]))
        return value

    return callback


def _is_folder(source: str) -> bool:
    return source not in shipped_configs() and expand_home(source).is_dir()


is_config = _checked(config_path)
is_config_or_folder = _checked(lambda source: _is_folder(source) or config_path(source))
is_file = _checked(paths.check_file)
are_inputs = _checked(paths.check_inputs)
is_folder = _checked(check_folder)
is_model = _checked(paths.check_model)
is_reported_run = _checked(lambda run: None if is_url(run) else paths.check_run(run, MANIFEST))
is_run = _checked(paths.check_run)
is_target = _checked(paths.check_target)
is_there = _checked(paths.check_there)


def _shipped_names(incomplete: str) -> list[str]:
    """Completion in the shell: names of shipped configurations; the shell itself adds files."""
    return [name for name in shipped_configs() if name.startswith(incomplete)]


def _keys(incomplete: str) -> list[str]:
    """Completion in the shell: `KEY=` for every key that a configuration of any kind can have."""
    return sorted(f"{key}=" for key in setting_keys() if f"{key}=".startswith(incomplete))


class NetworkName(StrEnum):
    """The networks of a run, as `weakclip.report.chosen.Network`."""

    WEAKCLIP = "weakclip"
    RETRAINED = "retrained"


EngineName = StrEnum("EngineName", ["LOCAL", "RAY"])
"""The engines that work on many images: this process, or those of Ray."""

Config = Annotated[
    str,
    typer.Argument(
        help="A YAML file, or a shipped configuration: demo, folder, voc12, coco14, voc12_paper, coco14_paper.",
        autocompletion=_shipped_names,
        callback=is_config,
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Change one setting; may be given repeatedly.", autocompletion=_keys
    ),
]
Limit = Annotated[int | None, typer.Option(min=1, help="At most this number of training steps, for a quick try.")]
Json = Annotated[
    bool, typer.Option("--json", is_eager=True, help="One JSON object on standard output, and nothing else there.")
]
Devices = Annotated[
    str,
    typer.Option(
        "--devices",
        metavar="N|all",
        help="Share the work among N processes: one an accelerator; without accelerators they share the cores.",
    ),
]
Engine = Annotated[
    EngineName,
    typer.Option("--engine", help="The processes of a Ray cluster: RAY_ADDRESS names it; else one of this machine."),
]
Network = Annotated[
    NetworkName | None,
    typer.Option("--network", help="Of a run folder, another network than the one that its evaluation chose."),
]
OwnEncoder = Annotated[
    str, typer.Option("--clip", help="The encoder of a WeakCLIP whose own is no CLIP: python:MODULE:FUNCTION.")
]

Out = Annotated[str, typer.Option(metavar="FOLDER|URL", help="The run's; one that is there already is continued.")]
Redo = Annotated[
    bool,
    typer.Option("--redo", help="Make finished results again where settings or data changed; the old stay until then."),
]
Part = Annotated[
    str,
    typer.Option(
        "--shard",
        metavar="I/N",
        help="Only the images I, I+N, …, counted from 0: $SLURM_ARRAY_TASK_ID/N of --array=0-(N-1).",
    ),
]
Run = Annotated[Path, typer.Argument(help="A run folder.", callback=is_run)]
Model = Annotated[
    Path, typer.Argument(help="A run folder, or the folder of a segmentation network.", callback=is_model)
]
Root = Annotated[str | None, typer.Option(help="Another folder of the data set than the run's own.")]


def named(network: NetworkName | None) -> chosen.Network | None:
    """The plain value of `--network`."""
    return None if network is None else network.value


def encoder_of(clip: str) -> Encoder | None:
    """The encoder that `--clip` names."""
    from weakclip.clip import load_encoder

    return load_encoder(clip) if clip else None


def load(source: str, overrides: Sequence[str] | None, limit_steps: int | None = None) -> RunConfig:
    """The configuration with its overrides, and its trainings cut short where that is asked for."""
    from weakclip.config import limit_training, load_config

    config = load_config(source, overrides or ())
    return config if limit_steps is None else limit_training(config, limit_steps)


def load_data(source: str, overrides: Sequence[str] | None) -> RunConfig:
    """As `load`; a folder of images, or a URL, is the configuration `folder` with that root and its own splits."""
    if not (is_url(source) or _is_folder(source)):
        return load(source, overrides)
    from weakclip.datasets import FolderDataset

    val = "val" if "val" in FolderDataset.splits(source) else "null"
    return load("folder", [f"data.root={json_format.dumps(source)}", f"data.val_split={val}", *(overrides or ())])


def shared(devices: str, work: Callable[[], Result], device: str, engine: EngineName = EngineName.LOCAL) -> Result:
    """The result of some work, shared among as many processes as `--devices` asks for, or done by an engine.

    Args:
        devices: a number, or "all".
        work: can be pickled, as its result can.
        device: of the settings.
        engine: does the work that it can do.
    """
    if engine == EngineName.RAY:
        from weakclip.store.ray_engine import on_ray

        with on_ray(device):
            return work()
    if devices == "1":
        return work()
    from weakclip.pipeline.context import usable_device
    from weakclip.training.launch import count_processes, launch

    count = count_processes(devices, usable_device(device))
    return work() if count == 1 else launch(partial(_heard, work), count, preload="weakclip.pipeline")


def one_way(shard: str, devices: str, engine: EngineName = EngineName.LOCAL) -> None:
    """Refuse a shard of several processes, and an engine's processes beside others."""
    if engine == EngineName.RAY and (shard or devices != "1" or os.environ.get("WORLD_SIZE", "1") != "1"):
        raise ConfigError("--engine ray: Ray itself shares the work; leave out --shard, --devices and torchrun")
    if shard and devices != "1":
        raise ConfigError("--devices: a shard is made by one process; leave --devices or --shard out")


def _heard(work: Callable[[], Result]) -> Result:
    log_to_stderr()
    return work()
