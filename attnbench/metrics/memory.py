"""Peak memory of one step, weights and inputs included."""

from typing import TYPE_CHECKING

from attnbench.metrics import Bench, Value, register_metric

if TYPE_CHECKING:
    from attnbench.record import Cell, Measurement


@register_metric(
    "memory",
    title="peak memory",
    values=[
        Value(
            "peak_memory",
            unit="bytes",
            heading="Memory {setting} (MiB)",
            column="peak_memory_{suffix}_bytes",
            scale=2**20,
            tolerance=0.01,  # an allocator rounds
        )
    ],
    order=30,
    per_setting=True,
    with_batch=True,
)
def measure(cell: "Cell", bench: Bench) -> "list[Measurement]":
    """Run one step of the cell's model, and record its peak and what it is made of."""
    from attnbench.harness import memory
    from attnbench.harness.models.backbone import executed_impl
    from attnbench.harness.setting import make_batch, make_step
    from attnbench.record import Measurement

    model, setting = bench.model(cell), bench.setting(cell)
    step = make_step(model, model.layout, setting)
    inputs = sum(t.nbytes for t in make_batch(model.layout, setting))
    found = memory.measure(step, model, setting.device, inputs)
    ran, details = executed_impl(model, setting), found.details()
    return [Measurement.of(cell, "peak_memory", found.peak, "bytes", implementation=ran, details=details)]
