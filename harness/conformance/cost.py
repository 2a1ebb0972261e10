"""Checks: what the mechanism says of its cost is what is counted."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from attnbench.errors import ImplementationError
from attnbench.harness.conformance.subject import ODD, Failure, Size, Subject, check
from attnbench.layouts.swin import SWIN_T
from attnbench.registry import Site

PHASES = ("projection", "routing", "sampling", "attention", "local", "position")


@check("single_token", "smaller_than_window", "meta_device")
def macs_equal_counted(subject: Subject) -> str:
    """The formula macs(height, width) equals what torch counts for eager, to the last multiply-add."""
    from attnbench.harness.counting import macs

    subject.method("macs")
    compared = 0
    for module, x, size in _on_meta(subject):
        phases = module.macs(*size)
        _compare(phases, macs.count_forward(module, x).macs)
        compared += 1
        if unknown := set(phases) - set(PHASES):
            raise Failure(f"unknown phases {', '.join(unknown)}; known: {', '.join(PHASES)}")
    return f"{compared} maps, among them those of the Swin-T layout at 224 × 224"


@check("macs_equal_counted")
def backward_macs_equal_counted(subject: Subject) -> str:
    """The cost of the gradients is as declared: macs_backward, or twice macs but for phase routing."""
    from attnbench.harness.counting import macs

    compared = 0
    for module, x, size in _on_meta(subject):
        if hasattr(module, "macs_backward"):
            phases = module.macs_backward(*size)
        else:
            phases = {name: 0 if name == "routing" else 2 * cost for name, cost in module.macs(*size).items()}
        _compare(phases, macs.count_backward(module, x.requires_grad_().clone()).macs)
        compared += 1
    return f"{compared} maps, among them those of the Swin-T layout at 224 × 224"


@check()
def operators_counted(subject: Subject) -> str:
    """No implementation runs an operator that may cost multiply-adds and has no formula."""
    from attnbench.harness.counting import macs

    refused = ""
    for site, impl, size in subject.cases(impls=True):
        module, x = subject.build(site, impl), subject.image(site, size)
        try:
            uncounted = macs.count_forward(module, x).uncounted
        except ImplementationError as error:
            refused = f"; {impl} refuses some: {error}"
            continue
        if uncounted:
            raise Failure(
                f"{', '.join(uncounted)} has no formula, so that a count is a lower bound; register one with "
                "torch.utils.flop_counter.register_flop_formula"
            )
    return f"implementations {', '.join(subject.impls)}{refused}"


@check()
def parameter_count(subject: Subject) -> str:
    """The formula parameter_count() equals the number of learned parameters."""
    subject.method("parameter_count")
    counts = []
    for site in (*subject.sites, *SWIN_T.sites(224, 224)):
        module = _module(subject, site, "eager")
        declared = module.parameter_count()
        found = sum(p.numel() for p in module.parameters())
        if declared != found:
            raise Failure(f"declared {declared:,}, found {found:,}, at {site}")
        counts.append(found)
    return f"{len(counts)} sites, {min(counts):,} to {max(counts):,}"


def _on_meta(subject: Subject) -> Iterator[tuple[Any, Tensor, Size]]:
    """Eager modules without data, at the checks' sites and at those of Swin-T, on several maps each."""
    for site in (*subject.sites, *dict.fromkeys(SWIN_T.sites(224, 224))):
        module = _module(subject, site, "eager")
        for size in dict.fromkeys([(site.height, site.width), ODD, (15, 16), (5, 3), (1, 1)]):
            subject.place |= {"height": size[0], "width": size[1]}
            yield module, torch.empty(1, *size, site.dim, device="meta"), size


def _module(subject: Subject, site: Site, impl: str) -> Any:
    subject.place = {"stage": site.stage, "block": site.block, "impl": impl}
    with torch.device("meta"):
        return subject.spec.build(site, impl=impl, **subject.options)


def _compare(phases: dict[str, int], counted: int) -> None:
    formula = sum(phases.values())
    if formula != counted:
        raise Failure(f"the formula gives {formula:,}, {counted:,} are counted; phases {phases}")
