"""How long a run takes on a number of devices, what it stores and reads, and which part of it is the slowest.

The stages that share images take `images / devices` times the cost of one. On a CPU, all parts of an image share the
cores, and more processes than cores are no faster. On an accelerator, the network works beside decoding, the CRF and
the files, and the slower of the two counts. A training takes `steps * (step + image * batch / devices)`, with the
numbers of a process that has companions where there are several; its processes exchange their gradients in a ring, each
of them `2 (devices - 1) / devices` times the gradients' bytes (Patarasuk and Yuan, 2009).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from weakclip.config import RunConfig
from weakclip.errors import ConfigError
from weakclip.pipeline.space import blocks
from weakclip.study.rates import Rates
from weakclip.training.settings import TrainSettings

EXCHANGED = "exchanging gradients is counted as it is between two processes of the machine that was measured"


@dataclass(frozen=True, kw_only=True)
class Means:
    """The images, devices and cores of a run.

    Args:
        images: to be trained on.
        gpus: devices, one a process; where rates are those of a CPU, processes.
        cores: of each process; a part of one where processes share it.
    """

    images: int
    gpus: int = 1
    cores: float = 1

    def __post_init__(self) -> None:
        for name in ("images", "gpus"):
            if getattr(self, name) < 1:
                raise ConfigError(f"--{name}: 1 or more expected; found {getattr(self, name)}")
        if not self.cores > 0:
            raise ConfigError(f"--cores: above 0 expected; found {self.cores:g}")


@dataclass(frozen=True, kw_only=True)
class StagePlan:
    """The cost of a stage; None where a rate is not known.

    Args:
        stage: its name.
        devices: that take part.
        seconds: from begin to end, with checkpoints.
        device_hours: of all devices that take part, busy or waiting.
        core_hours: processor time of decoding, CRF and files; on a CPU, of the networks, too.
        crf_share: share of the dense CRF in the core hours, 0…1; 0 in trainings, whose step holds theirs.
        cores_needed: cores of each process with which the accelerator does not wait; 0 on a CPU and in trainings.
        stored_bytes: that stay in the run folder.
        read_bytes: of image files.
        exchanged_bytes: gradients, between the processes.
        checkpoint_seconds: of `seconds`, spent on checkpoints.
        waits: which part the others wait for.
        note: what is not counted, and how to find out.
    """

    stage: str
    devices: int
    seconds: float | None = None
    device_hours: float | None = None
    core_hours: float | None = None
    crf_share: float = 0.0
    cores_needed: int = 0
    stored_bytes: float | None = None
    read_bytes: float | None = None
    exchanged_bytes: float = 0.0
    checkpoint_seconds: float = 0.0
    waits: str = ""
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The cost of a run.

    Args:
        means: that it has.
        device: kind of the device that the rates are of.
        stages: in their order.
        bottleneck: the stage that takes the most time, and its slowest part.
    """

    means: Means
    device: str
    stages: tuple[StagePlan, ...]
    bottleneck: str

    @property
    def seconds(self) -> float:
        """Of all stages whose rates are known."""
        return sum(stage.seconds or 0.0 for stage in self.stages)


def make_plan(config: RunConfig, rates: Rates, means: Means) -> Plan:
    """The cost of each stage of a run.

    Args:
        config: of the run.
        rates: of its parts, measured with the same settings.
        means: images, devices, cores.
    """
    retrained = config.retrain.model is not None
    images, val = means.images, rates.val_images
    scored = [_Images(val, part) for part in ("evaluate", "retrained")[: 1 + retrained]] if val else []
    drawn = [_Images(images, "proposals", files=("proposal",))] if "proposals.network" in rates.seconds else []
    masks = _Images(images, "masks", files=("mask", "strip", "confidence"))
    stages = [
        _shared("seeds", rates, means, [_Images(images, "seeds", files=("mask", "mask"))]),
        _training("train", rates, means, config.train),
        _shared("pseudo_masks", rates, means, [*drawn, masks]),
        *([_training("retrain", rates, means, config.retrain.train)] if retrained else []),
        _shared("evaluate", rates, means, [_Images(images, "compare", files=("mask", "strip"), decoded=2), *scored]),
    ]
    known = [stage for stage in stages if stage.seconds is not None]
    worst = max(known, key=lambda stage: stage.seconds or 0.0, default=None)
    bottleneck = f"{worst.stage}: {worst.waits}" if worst else "no rate is known"
    return Plan(means=means, device=rates.device, stages=tuple(stages), bottleneck=bottleneck)


@dataclass(frozen=True)
class _Images:
    """Some images that a stage works on: how many, what the rates of the work are called, the files that stay of each,
    and how often each is decoded."""

    count: int
    part: str
    files: Sequence[str] = ("mask", "mask")
    decoded: int = 1


def _shared(stage: str, rates: Rates, means: Means, work: Sequence[_Images]) -> StagePlan:
    """A stage whose images are shared among the devices."""
    if stage in rates.unknown:
        return StagePlan(stage=stage, devices=means.gpus, note=f"no rate: {rates.unknown[stage]}")
    second = rates.seconds

    def total(part: str) -> float:
        return sum(each.count * second.get(f"{each.part}.{part}", 0.0) for each in work)

    decode = sum(each.count * each.decoded for each in work) * second["decode"]
    network, crf, files, refine = total("network"), total("crf"), total("write") + total("regions"), total("refine")
    on_cpu = rates.device == "cpu"
    on_cores = decode + crf + files + (network + refine if on_cpu else 0.0)
    device = 0.0 if on_cpu else network + refine
    seconds = max(device, on_cores / means.cores) / means.gpus
    parts = {"decoding": decode, "the network": network, "the dense CRF": crf, "PAR": refine, "files": files}
    slowest = max(parts, key=parts.__getitem__)
    if on_cpu:
        waits = (
            f"all parts share the cores; {slowest} takes {100 * parts[slowest] / max(on_cores, 1e-12):.0f} % of them"
        )
    elif device < on_cores / means.cores:
        waits = f"the device waits for {means.cores:g} cores ({100 * crf / on_cores:.0f} % dense CRF)"
    else:
        waits = "the cores wait for the device"
    stored = sum(each.count * blocks(rates.bytes.get(file, 0.0)) for each in work for file in each.files)
    read = rates.bytes.get("image")
    return StagePlan(
        stage=stage,
        devices=means.gpus,
        seconds=seconds,
        device_hours=seconds * means.gpus / 3600,
        core_hours=on_cores / 3600,
        crf_share=crf / on_cores if on_cores else 0.0,
        cores_needed=0 if on_cpu else math.ceil(on_cores / max(device, 1e-12)),
        stored_bytes=stored,
        read_bytes=None if read is None else sum(each.count * each.decoded for each in work) * read,
        waits=waits,
    )


def _training(stage: str, rates: Rates, means: Means, settings: TrainSettings) -> StagePlan:
    """A training, whose batches are shared."""
    if stage in rates.unknown:
        return StagePlan(stage=stage, devices=means.gpus, note=f"no rate: {rates.unknown[stage]}")
    batch, second = settings.batch_size, rates.seconds
    devices = max(count for count in range(1, min(means.gpus, batch) + 1) if batch % count == 0)
    shared = devices > 1 and f"{stage}.shared.step" in second
    kind = f"{stage}.shared" if shared else stage
    fixed, image_seconds = second[f"{kind}.step"], second[f"{kind}.image"]
    step = fixed + image_seconds * batch / devices
    divided = 100 - 100 * fixed / max(step, 1e-12)
    if rates.device == "cpu":
        step /= means.cores
    checkpoints = math.ceil(settings.steps / settings.checkpoint_every)
    saving = checkpoints * second[f"{stage}.checkpoint"]
    seconds, checkpoint = settings.steps * step + saving, rates.bytes[f"{stage}.checkpoint"]
    gradients = rates.bytes[f"{stage}.gradients"]
    kept = settings.steps // settings.keep_every if settings.keep_every else 0
    notes = [f"batch_size {batch} can be shared by {devices} of {means.gpus}"] if devices < means.gpus else []
    if devices > 1:
        notes.append(EXCHANGED if shared else "the time of exchanging gradients is not counted")
    image = rates.bytes.get("image")
    return StagePlan(
        stage=stage,
        devices=devices,
        seconds=seconds,
        device_hours=seconds * devices / 3600,
        core_hours=seconds * devices * means.cores / 3600 if rates.device == "cpu" else 0.0,
        stored_bytes=checkpoint + (1 + kept) * gradients,
        read_bytes=None if image is None else settings.steps * batch * image,
        exchanged_bytes=settings.steps * 2.0 * (devices - 1) * gradients,
        checkpoint_seconds=saving,
        waits=f"steps follow each other; {divided:.0f} % of one is divided by the devices",
        note="; ".join(notes),
    )
