"""From a cell to the model that is measured: a mechanism in a layout, or a reference model."""

import torch

from attnbench.harness.models.backbone import Backbone, create_model
from attnbench.harness.models.baselines import REFERENCES, TimmSwin
from attnbench.layouts import get_layout
from attnbench.record import Cell

Model = Backbone | TimmSwin
"""Either has ``layout``, ``attentions()`` and the formulas ``macs``, ``macs_backward``, and so on."""


def check_buildable(cell: Cell) -> None:
    """Build the model without weights, so that a wrong option is told before anything is measured.

    Raises:
        AttnbenchError: it cannot be built.
    """
    with torch.device("meta"):
        build(cell)


def build(cell: Cell, impl: str | None = None) -> Model:
    """The model of a cell, with weights drawn from the cell's seed, on torch's default device.

    Args:
        cell: mechanism or reference, layout, options, implementation, seed.
        impl: implementation to take in place of the cell's. A reference has one of its own, by which it is
            named, and takes no other.

    Raises:
        AttnbenchError: it cannot be built so.
    """
    torch.manual_seed(cell.seed)
    if cell.mechanism in REFERENCES:
        return REFERENCES[cell.mechanism](get_layout(cell.layout), cell.resolution)
    return create_model(cell.layout, cell.mechanism, impl=impl or cell.impl, **cell.options)
