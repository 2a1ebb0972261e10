"""From the blocks of a group to the record of one of its candidates."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from statistics import median, quantiles
from typing import Any

from attnbench import statistics
from attnbench.harness.timing.blocks import Blocks, Effort
from attnbench.harness.timing.replay import Replay
from attnbench.harness.timing.session import Prepared
from attnbench.record import Cell, Measurement

_STEADY = 0.05
"""Medians of the first and second half of the blocks of a steady machine differ by less than this."""


@dataclass(frozen=True)
class Context:
    """A measured group: what its records have in common."""

    tag: str
    cells: Mapping[str, Cell]
    ready: Mapping[str, Prepared]
    blocks: Blocks
    baseline: str | None
    effort: Effort


def measurement(context: Context, key: str, replay: Replay | None = None) -> Measurement:
    """The throughput record of one candidate, in images per second."""
    cell, ready, blocks = context.cells[key], context.ready[key], context.blocks
    seconds = blocks.of(key)
    samples = [ready.batch_size / s for s in seconds]
    low, _, high = quantiles(samples, n=4, method="inclusive") if len(samples) > 1 else samples * 3
    value = median(samples)
    details = {
        "group": context.tag,
        "blocks": len(samples),
        "blocks_rejected": len(blocks.rejected),
        "process_of_block": blocks.processes,
        "batch_size": ready.batch_size,
        "regime": cell.regime or "fixed",
        "steps_per_sample": ready.repeats,
        "interleaved_with": sorted(_names(context, but=key)),
        **_ratio(context, key),
        **_time(context, key, replay),
        "warmup": asdict(ready.warmup),
        "order": "random in each block",
    }
    if ready.sensors == "":
        details |= _sensors(blocks, key)
    spread = {"q25": low, "q75": high, "min": min(samples), "max": max(samples)}
    return Measurement.of(
        cell,
        "throughput",
        value,
        "images/s",
        samples=samples,
        spread=spread,
        details=details,
        implementation=ready.implementation,
    )


def _names(context: Context, but: str) -> list[str]:
    return [context.cells[key].row for key in context.blocks.taken[0].seconds if key != but]


def _ratio(context: Context, key: str) -> dict[str, Any]:
    """The comparison with the baseline, if there is one."""
    if context.baseline is None:
        return {"baseline": None}
    baseline = {"baseline": context.cells[context.baseline].mechanism}
    if key == context.baseline:
        return baseline | {"ratio": 1.0, "verdict": "baseline"}
    seconds, reference = context.blocks.of(key), context.blocks.of(context.baseline)
    if context.ready[key].batch_size != context.ready[context.baseline].batch_size:
        # largest batch that fits: per image, not per step
        scale = context.ready[context.baseline].batch_size / context.ready[key].batch_size
        seconds = [s * scale for s in seconds]
    interval = statistics.ratio_interval(seconds, reference, context.blocks.processes)
    return baseline | {
        "ratio": interval.ratio,
        "ratio_low": interval.low,
        "ratio_high": interval.high,
        "confidence": interval.confidence,
        "interval": interval.method,
        "processes": interval.processes,
        "verdict": statistics.verdict(interval),
        "margin": interval.margin,
        "narrow_enough": interval.half_width <= context.effort.half_width,
    }


def _time(context: Context, key: str, replay: Replay | None) -> dict[str, Any]:
    """Host time beside device time, launch overhead, steadiness, and the harness's own share."""
    blocks = context.blocks
    seconds = blocks.of(key)
    host = [block.host.get(key, s) for block, s in zip(blocks.taken, seconds, strict=True)]
    found: dict[str, Any] = {
        "host_ratio": median(h / s for h, s in zip(host, seconds, strict=True)),
        "harness_share": 1 - blocks.sampled_s / blocks.seconds if blocks.seconds else 0.0,
    }
    half = len(seconds) // 2
    if half >= 3:
        change = median(seconds[half:]) / median(seconds[:half]) - 1
        found |= {"second_half": change, "steady": abs(change) < _STEADY}
    if context.cells[key].regime == "latency":
        found["latency_ms"] = median(seconds) * 1e3
    if replay is not None:
        found["graph"] = asdict(replay) | {"launch_share": replay.launch_share}
    return found


def _sensors(blocks: Blocks, key: str) -> dict[str, Any]:
    readings = [block.sensors[key] for block in blocks.taken if key in block.sensors]
    if not readings:
        return {}
    return {
        "sm_clock_mhz": median(int(r["sm_clock_mhz"]) for r in readings),
        "temperature_c": median(int(r["temperature_c"]) for r in readings),
        "power_capped": sum(bool(r["power_capped"]) for r in readings) / len(readings),
    }
