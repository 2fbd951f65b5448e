"""`weakclip plan`: rates, measured or read, and the plan as a table, lines and JSON values."""

from __future__ import annotations

from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

from weakclip.config import RunConfig
from weakclip.store.paths import check_target
from weakclip.study.plan import Means, Plan, StagePlan, make_plan
from weakclip.study.rate_measuring import measure_rates
from weakclip.study.rates import read_rates

HEAD = ("stage", "devices", "time", "device hours", "core hours", "of it CRF", "stored", "read", "exchanged")


def planned(
    config: RunConfig, path: Path, *, images: float | None, gpus: int, cores: float | None, measure: bool
) -> Plan:
    """The plan of a run.

    Args:
        config: of the run.
        path: the file of rates.
        images: to train on; None for those of the configuration that was measured.
        gpus: devices.
        cores: of each, also a part of one; None for those that were measured with.
        measure: whether the rates are measured first, and written to `path`.

    Raises:
        ConfigError: no rates, or rates of other settings.
        StorageError: `path` cannot be written; told before anything is measured.
    """
    if measure:
        check_target(path)
        measure_rates(config).write(path)
    rates = read_rates(path)
    rates.check(config, path)
    cores = max(1, rates.cores) if cores is None else cores
    means = Means(images=round(images or rates.train_images), gpus=gpus, cores=cores)
    return make_plan(config, rates, means)


def plan_record(plan: Plan) -> dict[str, Any]:
    """The plan as JSON values."""
    return {**asdict(plan), "seconds": plan.seconds}


def plan_lines(plan: Plan) -> list[str]:
    """The table, the notes and the bottleneck."""
    rows = [HEAD, *map(_row, plan.stages)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD))]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    hours = sum(stage.device_hours or 0.0 for stage in plan.stages)
    means = plan.means
    lines.append(f"{means.images:,} images, {means.gpus:,} × {plan.device} with {means.cores:g} cores each")
    lines.append(f"in all: {_time(plan.seconds)}, {hours:,.1f} device hours")
    for stage in plan.stages:
        if stage.cores_needed > means.cores:
            lines.append(f"{stage.stage}: {stage.cores_needed} cores a device would keep it busy")
        if stage.checkpoint_seconds:
            share = 100 * stage.checkpoint_seconds / max(stage.seconds or 0.0, 1e-12)
            lines.append(f"{stage.stage}: {_time(stage.checkpoint_seconds)} of it are checkpoints ({share:.1f} %)")
        if stage.note:
            lines.append(f"{stage.stage}: {stage.note}")
    if any(stage.read_bytes is None and not stage.note.startswith("no rate") for stage in plan.stages):
        lines.append("read: not known, the images that were measured are no files")
    return [*lines, f"bottleneck: {plan.bottleneck}"]


def _row(stage: StagePlan) -> tuple[str, ...]:
    if stage.seconds is None:
        return (stage.stage, str(stage.devices), *["not known"] * (len(HEAD) - 2))
    return (
        stage.stage,
        f"{stage.devices:,}",
        _time(stage.seconds),
        f"{stage.device_hours or 0:,.2f}",
        f"{stage.core_hours or 0:,.2f}",
        f"{100 * stage.crf_share:.0f} %",
        _size(stage.stored_bytes),
        _size(stage.read_bytes),
        _size(stage.exchanged_bytes),
    )


def _time(seconds: float) -> str:
    """A duration for people.

    >>> _time(4.26), _time(90061)
    ('4.3 s', '1 day, 1:01:01')
    """
    return f"{seconds:.1f} s" if seconds < 60 else str(timedelta(seconds=round(seconds)))


def _size(size: float | None) -> str:
    """A number of bytes for people.

    >>> _size(1.5e9), _size(2e13), _size(None)
    ('1.5 GB', '20.0 TB', 'not known')
    """
    if size is None:
        return "not known"
    unit, name = next((pair for pair in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB")) if size >= pair[0]), (1e3, "kB"))
    return f"{size / unit:.1f} {name}"
