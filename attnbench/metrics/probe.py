"""Accuracy on probes, split by how far the answer is; ``attnbench probe`` trains several seeds of it."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from attnbench.metrics import Bench, Value, register_metric

if TYPE_CHECKING:
    from attnbench.harness.run.plan import Request
    from attnbench.record import Cell, Measurement

_TITLES = {
    "accuracy": "right",
    "one_hop": "right in one hop",
    "composed": "right by composing blocks",
    "out_of_reach": "right out of reach",
    "accuracy_1.5x": "right at 1.5 times the side",
    "accuracy_2x": "right at twice the side",
}


def _values() -> Iterator[Value]:
    for name, words in _TITLES.items():
        column = f"probe_{name.replace('.', '_')}_percent"
        yield Value(
            name,
            unit="%",
            heading=f"Probe: {words} (%)",
            column=column,
            digits=1,
            better="higher",
            tolerance=0.05,
            words=("lower", "higher"),
            csv_only=name != "accuracy",
        )
    yield Value(
        "train_loss",
        unit="nats",
        heading="Probe: training loss",
        column="probe_train_loss",
        digits=2,
        tolerance=0.05,
        csv_only=True,
    )


def _cells(request: "Request") -> Iterator[dict[str, Any]]:
    """Every probe, trained to its own budget; mechanism and layout options as asked for."""
    from attnbench import datasets
    from attnbench.harness.probes.campaign import conditions

    for name in datasets.names("probe"):
        yield conditions(name)


def _condition(m: "Measurement") -> str:
    cell = m.cell
    data = f"{cell.dataset} ({cell.dataset_digest})"
    return f"probe {data} in {cell.layout}, budget {cell.recipe}, seed {cell.seed}"


@register_metric(
    "probe",
    title="probes",
    values=list(_values()),
    order=55,
    default=False,
    needs="alone",
    own_layout=True,
    apart=True,
    cells=_cells,
    condition=_condition,
)
def measure(cell: "Cell", bench: Bench) -> "list[Measurement]":
    """Train a new model at each learning rate, and score the better one."""
    from attnbench.harness.probes import campaign, measure

    return measure.measure(cell, campaign.budget_of(cell.dataset))
