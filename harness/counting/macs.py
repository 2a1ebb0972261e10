"""Multiply-adds (MACs): as torch's counter sees them, forward and backward.

A MAC is one multiplication with one addition. Papers on vision transformers, and fvcore, call these
"FLOPs"; torch's ``FlopCounterMode`` counts two per MAC. What is counted, and which operators make a
count a lower bound, is told in :mod:`attnbench.harness.counting.census`; the formulas that a count is
compared with are those of :meth:`attnbench.harness.models.backbone.Backbone.macs`.
"""

import functools
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.hooks import RemovableHandle

from attnbench.errors import AttnbenchError
from attnbench.harness.counting.census import Census
from attnbench.harness.counting.operator_costs import formulas


@dataclass(frozen=True)
class Count:
    """MACs that were counted; a lower bound if an operator was met that has no formula.

    Args:
        macs: of one pass.
        uncounted: operators without a formula, in alphabetical order.
        by_operator: of those that torch's counter sees, e.g. ``bmm``; of a forward pass only.
    """

    macs: int
    uncounted: tuple[str, ...] = ()
    by_operator: Mapping[str, int] = field(default_factory=dict, compare=False)


class UncountedError(AttnbenchError):
    """A count is a lower bound, where a number was asked for."""


class NoShapeRuleError(AttnbenchError):
    """The model does not run on meta tensors, after an operator without a formula was met."""


def count(model: nn.Module, image: Tensor) -> int:
    """MACs of one forward pass, by torch's counter. Use meta tensors: they cost no memory or time.

    Raises:
        UncountedError: an operator without a formula was met; :func:`count_forward` gives a lower bound.
        AttnbenchError: the counter fails its self-test with this torch.
    """
    found = count_forward(model, image)
    if found.uncounted:
        raise UncountedError(
            f"at least {found.macs} MACs: no formula is known for {', '.join(found.uncounted)}; register one "
            "with torch.utils.flop_counter.register_flop_formula"
        )
    return found.macs


def count_forward(model: nn.Module, image: Tensor) -> Count:
    """Count one forward pass without gradients.

    Fused attention is taken apart into its two matrix products, since some releases of torch count it
    as nothing on a CPU.

    Raises:
        NoShapeRuleError: an operator without a formula has no rule for meta tensors; count on a CPU.
        AttnbenchError: the counter fails its self-test with this torch.
    """
    self_test()
    return _count(model, image)


def count_backward(model: nn.Module, image: Tensor) -> Count:
    """Count the backward pass of a training step: the gradients of all parameters, none of the image.

    An operator without a formula that was met on the way forward makes this a lower bound too.

    Raises:
        NoShapeRuleError, AttnbenchError: as :func:`count_forward` does.
    """
    self_test()
    return _count(model, image, backward=True)


def count_parts(model: nn.Module, image: Tensor, parts: Mapping[str, nn.Module]) -> dict[str, int]:
    """MACs of one forward pass inside each of some modules, none of which contains another.

    Raises:
        NoShapeRuleError, AttnbenchError: as :func:`count_forward` does.
    """
    self_test()
    inside = dict.fromkeys(parts, 0)
    began: list[int] = []

    def watch(flops: Callable[[], int]) -> None:
        for name, module in parts.items():

            def enter(*_: object) -> None:
                began.append(flops())

            def leave(*_: object, name: str = name) -> None:
                inside[name] += (flops() - began.pop()) // 2

            handles.append(module.register_forward_pre_hook(enter))
            handles.append(module.register_forward_hook(leave))

    handles: list[RemovableHandle] = []
    try:
        _count(model, image, watch=watch)
    finally:
        for handle in handles:
            handle.remove()
    return inside


@functools.cache
def self_test() -> None:
    """Count products of known size; a counter that misses one must not print a number.

    Raises:
        AttnbenchError: a count is wrong.
    """
    model, x = _Known(), torch.empty(2, 8, 6, 6, device="meta")
    convolution, attention = 9 * 2 * 16 * 8, 2 * 2 * (2 * 16 * 16 * 4)
    linear, depthwise = 2 * 16 * 8 * 8, 2 * 36 * 9 * 8
    forward = depthwise + convolution + linear + attention
    backward = 2 * forward - depthwise  # the input itself needs no gradient
    for what, expected, counted in (
        ("forward", forward, _count(model, x).macs),
        ("backward", backward, _count(model, x, backward=True).macs),
    ):
        if counted != expected:
            raise AttnbenchError(
                f"torch {torch.__version__} counts {counted} MACs {what} where there are {expected}; "
                "use another torch"
            )


class _Known(nn.Module):
    """A depth-wise and a grouped convolution, a linear layer and fused attention of two heads."""

    def __init__(self) -> None:
        super().__init__()
        with torch.device("meta"):
            self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
            self.grouped = nn.Conv2d(8, 8, 3, groups=8)
            self.linear = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.grouped(self.depthwise(x)).flatten(2).transpose(1, 2)  # (2, 16, 8)
        x = self.linear(x).unflatten(-1, (2, 4)).transpose(1, 2)
        return F.scaled_dot_product_attention(x, x, x)


def _count(
    model: nn.Module,
    image: Tensor,
    backward: bool = False,
    watch: Callable[[Callable[[], int]], None] = lambda flops: None,
) -> Count:
    """Count one pass; ``watch`` is given a function that returns the FLOPs so far."""
    counter = FlopCounterMode(display=False, custom_mapping=formulas())
    census = Census(counter.flop_registry)

    def flops() -> int:
        return counter.get_total_flops() + census.flops

    watch(flops)
    with warnings.catch_warnings(), sdpa_kernel(SDPBackend.MATH), torch.set_grad_enabled(backward):
        warnings.simplefilter("ignore")  # of what is run, not of the counting
        try:
            with counter, census:
                output = model(image)
                before = 0
                if backward:
                    before = flops()
                    output.sum().backward()
        except Exception as error:
            if census.uncounted and image.device.type == "meta":
                names = ", ".join(census.uncounted)
                raise NoShapeRuleError(f"{names} does not run on meta tensors: {error}") from error
            raise
    of_operators = {} if backward else counter.get_flop_counts().get("Global", {})
    by_operator = {str(operator).rpartition(".")[2]: flops // 2 for operator, flops in of_operators.items()}
    return Count((flops() - before) // 2, tuple(sorted(census.uncounted)), by_operator)
