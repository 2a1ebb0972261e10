"""Does BRA's routing drift while it trains on a probe? Loss, share of questions routed, accuracy.

    python -m attnbench.results.scripts.probe_routing retrieval_dense --layout probe_12 --rate 0.003

The choice of regions carries no gradient: nothing keeps a region that is needed. One line for each eighth of
the training: mean loss since the line before; percent of validation questions whose answer lies in a region
that some block routes the asking one to; percent right of those, and of the others.
"""

import argparse
import itertools

import torch
from torch import Tensor, nn

from attnbench.harness.models.backbone import Backbone
from attnbench.harness.probes import campaign, fitting, measure, reach, scoring
from attnbench.harness.probes.probe import NO_SOURCE, Draw
from attnbench.record import Cell


def main() -> None:
    """Print the lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("probe")
    parser.add_argument("--layout", default="probe")
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=0)
    given = parser.parse_args()
    cell = Cell(
        mechanism="bra",
        metric="probe",
        seed=given.seed,
        **campaign.conditions(given.probe, given.layout, steps=given.steps),
    )
    probe = measure.probe_of(cell)
    model, _ = measure.build(cell, probe)
    budget = campaign.budget_of(given.probe, given.steps)
    draw = scoring.pictures(type(probe), probe.side, "validation", 64, probe.side, "cpu")
    generator = torch.Generator().manual_seed(given.seed)
    print("steps   loss  routed %  right of routed %  right of others %")
    losses = fitting.steps(model, probe, budget, given.rate, generator)
    for upto in range(budget.steps // 8, budget.steps + 1, budget.steps // 8):
        some = list(itertools.islice(losses, budget.steps // 8))
        routed, right = _routed(model, draw)
        model.train()
        of_routed, of_others = (100 * float(right[which].float().mean()) for which in (routed, ~routed))
        share = 100 * float(routed.float().mean())
        loss = float(torch.stack(some).mean())
        print(f"{upto:5}  {loss:5.3f}  {share:8.1f}  {of_routed:17.1f}  {of_others:17.1f}", flush=True)


def _routed(model: Backbone, draw: Draw) -> tuple[Tensor, Tensor]:
    """(Q,) bool of the questions: routed by some block, and answered rightly."""
    model.eval()
    right = scoring.answers(model, draw)
    picture, token = (draw.source != NO_SOURCE).nonzero(as_tuple=True)
    source = draw.source[picture, token]
    found = torch.zeros_like(picture, dtype=torch.bool)
    for attention, x in zip(model.attentions(), reach.inputs(model, draw.images), strict=True):
        region = _regions(attention, x.shape[1])
        routes = attention.routed_regions(x)  # type: ignore[operator]
        found |= (routes[picture, region[token]] == region[source][:, None]).any(1)
    return found, right[picture, token]


def _regions(attention: nn.Module, side: int) -> Tensor:
    """(N,) number of the region of each token of a map that the regions divide."""
    per_side = int(attention.num_regions)  # type: ignore[arg-type]
    at, size = torch.arange(side**2), side // per_side
    return at // side // size * per_side + at % side // size


if __name__ == "__main__":
    main()
