"""An explanation as text, Markdown or JSON."""

from dataclasses import asdict
from typing import Any

from attnbench.harness import environment
from attnbench.harness.explain.account import Row
from attnbench.harness.explain.gap import MEANING, Comparison, Explained
from attnbench.markdown import table

OPERATORS = 12
"""Rows of the table of operators; JSON holds all."""


def markdown(comparison: Comparison) -> str:
    """Tables in Markdown, readable as text too."""
    own = comparison.subject
    parts = [comparison.sentence(), _conditions(comparison)]
    if comparison.baseline is not None:
        parts.append(_gap(comparison))
    parts += [_phases(comparison), _operators(own), _blocks(own)]
    return "\n\n".join(parts)


def content(comparison: Comparison) -> dict[str, Any]:
    """Everything, as JSON can hold it: seconds, bytes, multiply-adds."""
    setting = comparison.setting
    found: dict[str, Any] = {
        "diagnosis": comparison.sentence(),
        "conditions": {
            "mode": setting.mode,
            "precision": setting.precision,
            "batch_size": setting.batch_size,
            "resolution": setting.resolution,
            "environment": environment.describe(setting.device) | environment.state(),
        },
        "ceilings": asdict(comparison.ceilings),
        "gap": comparison.gap(),
        "times_as_long": None if (times := comparison.times()) is None else asdict(times),
        "subject": _model(comparison.subject),
        "baseline": None if comparison.baseline is None else _model(comparison.baseline),
    }
    return found


def _model(model: Explained) -> dict[str, Any]:
    return {
        "cell": model.cell.model_dump(),
        "implementation": model.implementation,
        "step_s": model.step_s,
        "accounted_s": model.total.seconds,
        "outside_s": model.outside_s,
        "total": _row(model.total),
        "phases": [
            {"part": part, "phase": phase, **_row(row)} for (part, phase), row in model.phases.items()
        ],
        "operators": [
            dict(zip(("part", "phase", "operator", "line", "direction"), key, strict=True)) | _row(row)
            for key, row in model.operators.items()
        ],
        "blocks": [
            {
                "block": block.path,
                "forward_s": block.operators_s,
                "watched_forward_s": block.watched_s,
                **_row(block.whole),
                "phases": [
                    {"part": part, "phase": phase, **_row(row)} for (part, phase), row in phases.items()
                ],
            }
            for block in model.blocks
            for phases in [_phases_of(model, block.path)]
        ],
    }


def _phases_of(model: Explained, path: str) -> dict[tuple[str, str], Row]:
    def key(operator: Any) -> tuple[str, str] | None:
        place = operator.place
        return (place.part, place.phase) if place.block == path else None

    return model.account.rows(key)


def _row(row: Row) -> dict[str, Any]:
    return {**asdict(row), "intensity": row.intensity, "bound": row.bound}


def _conditions(comparison: Comparison) -> str:
    setting, ceilings, own = comparison.setting, comparison.ceilings, comparison.subject
    facts = environment.describe(setting.device) | environment.state()
    threads = "" if setting.device.type == "cuda" else f", {facts['threads']} threads"
    return (
        f"{own.name} ({own.implementation}) in {own.cell.layout}, {setting.mode} {setting.precision}, "
        f"batch {setting.batch_size}, {setting.resolution} px, on {facts['device_name']}{threads}. "
        f"Ceilings measured before: {ceilings.flops_per_s / 1e9:,.0f} GFLOP/s "
        f"({ceilings.dtype} matrix product), {ceilings.bytes_per_s / 1e9:,.1f} GB/s (triad); "
        f"{ceilings.launch_s * 1e6:.1f} µs for an empty operator."
    )


def _gap(comparison: Comparison) -> str:
    own, baseline, gap = comparison.subject, comparison.baseline, comparison.gap()
    assert baseline is not None
    whole = own.step_s - baseline.step_s
    rows = [
        [f"{share}: {MEANING[share]}", *map(_ms, (own.shares()[share], baseline.shares()[share], gap[share]))]
        for share in gap
    ]
    rows.append(["step", _ms(own.step_s), _ms(baseline.step_s), _ms(whole)])
    return table(["where the time goes", f"{own.name}, ms", f"{baseline.name}, ms", "gap, ms"], rows)


def _phases(comparison: Comparison) -> str:
    own = comparison.subject
    rows = [[f"{part}: {phase}", *_cells(row, own)] for (part, phase), row in own.phases.items()]
    rows.append(["all operators", *_cells(own.total, own)])
    rows.append(["outside of operators", _ms(own.outside_s), *[""] * 10])
    rows.append(["step", _ms(own.step_s), *[""] * 10])
    header = ["phase", "ms", "backward", "of step", "MMAC", "MiB moved", "compulsory", "FLOP/byte"]
    header += ["operators", "launches", "of roof", "most time is"]
    if own.total.backward_s == 0:
        rows, header = [row[:2] + row[3:] for row in rows], header[:2] + header[3:]
    return table(header, rows)


def _cells(row: Row, of: Explained) -> list[str]:
    return [
        _ms(row.seconds),
        _ms(row.backward_s),
        f"{row.seconds / of.step_s:.1%}",
        f"{row.macs / 1e6:,.1f}",
        f"{row.moved / 2**20:,.1f}",
        f"{row.compulsory / 2**20:,.1f}",
        f"{row.intensity:.1f}",
        str(row.calls),
        str(row.launches),
        f"{row.floor_s / row.seconds:.0%}" if row.seconds else "",
        row.bound,
    ]


def _operators(own: Explained) -> str:
    rows = []
    for (_, phase, name, line, direction), row in list(own.operators.items())[:OPERATORS]:
        back = "" if direction == "forward" else f" ({direction})"
        cells = [_ms(row.seconds), f"{row.macs / 1e6:,.1f}", f"{row.moved / 2**20:,.1f}", str(row.calls)]
        rows.append([f"{phase}: {name}{back}", line, *cells, row.bound])
    return table(["slowest operators", "called at", "ms", "MMAC", "MiB moved", "calls", "most time is"], rows)


def _blocks(own: Explained) -> str:
    rows = []
    for block in own.blocks:
        ratio = block.operators_s / block.watched_s
        rows.append([block.path, _ms(block.operators_s), _ms(block.watched_s), f"{ratio - 1:+.1%}"])
    inside, watched = sum(b.operators_s for b in own.blocks), sum(b.watched_s for b in own.blocks)
    rows.append(["all blocks", _ms(inside), _ms(watched), f"{inside / watched - 1:+.1%}"])
    return table(["block, forward", "sum of phases, ms", "timed alone, ms", "difference"], rows)


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.2f}"
