"""What a backbone costs by formula, in multiply-adds per image and by phase.

The parts say what they cost (:mod:`attnbench.harness.models.parts`), the attention modules by their methods
``macs``, ``macs_backward`` and ``macs_useful``. That torch's counter agrees is checked where it counts, in
:mod:`attnbench.harness.counting.costs`.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import nn

from attnbench.errors import AttnbenchError
from attnbench.harness.models.parts import Block, OverlappedStem, PatchStem
from attnbench.layouts import Layout
from attnbench.registry import Site


class WithFormula(nn.Module):
    """The part of a backbone that tells what it costs."""

    layout: Layout
    mechanism: str
    patch_embed: PatchStem | OverlappedStem
    layers: nn.Sequential
    head: Any
    aux_head: nn.Module | None

    if TYPE_CHECKING:  # of the backbone

        def blocks(self) -> list[Block]: ...
        def attentions(self) -> list[nn.Module]: ...

    def macs(self, height: int, width: int) -> dict[str, int]:
        """Multiply-adds per image of height × width pixels, by phase: the layout's and the attention's.

        Raises:
            AttnbenchError: the mechanism declares no formula (no method ``macs``).
        """
        return self._cost(height, width, _formula)

    def macs_backward(self, height: int, width: int) -> dict[str, int]:
        """Multiply-adds of the gradients of all parameters, by phase; the image needs none.

        Each product costs twice what it does forward, once for either factor. Phases named ``routing``
        choose and have no gradient. Where this does not hold, a mechanism has a method
        ``macs_backward(height, width)`` that gives its phases.
        """
        own = {phase: 2 * macs for phase, macs in self._layout_cost(height, width).items()}
        own["patch_embed"] -= self.patch_embed.macs(height, width)[0]
        return {**self._cost(height, width, _backward), **own}

    def macs_useful(self, height: int, width: int) -> dict[str, int]:
        """Multiply-adds inside the pattern, by phase: without masked pairs of queries and keys, and padding.

        They are those of the formula, unless the mechanism has a method ``macs_useful(height, width)``.
        """
        return self._cost(height, width, lambda attention, site: _formula(attention, site, "macs_useful"))

    def macs_dense(self, height: int, width: int) -> dict[str, int]:
        """Multiply-adds if every phase ``attention`` were full attention, 2·N²·C."""

        def dense(attention: nn.Module, site: Site) -> dict[str, int]:
            cost = dict(_formula(attention, site))
            if "attention" in cost:
                cost["attention"] = 2 * (site.height * site.width) ** 2 * site.dim
            return cost

        return self._cost(height, width, dense)

    def _cost(
        self, height: int, width: int, of_attention: Callable[[nn.Module, Site], dict[str, int]]
    ) -> dict[str, int]:
        cost = self._layout_cost(height, width)
        for site, attention in zip(self.layout.sites(height, width), self.attentions(), strict=True):
            if not hasattr(attention, "macs"):
                raise AttnbenchError(f"{self.mechanism} has no method macs(height, width): no formula")
            for phase, macs in of_attention(attention, site).items():
                cost[phase] = cost.get(phase, 0) + macs
        return cost

    def _layout_cost(self, height: int, width: int) -> dict[str, int]:
        """Multiply-adds of the parts besides attention, by phase."""
        sizes = self.layout.map_sizes(height, width)
        cost = {"patch_embed": sum(self.patch_embed.macs(height, width)), "mlp": 0, "merging": 0}
        for site, block in zip(self.layout.sites(height, width), self.blocks(), strict=True):
            for phase, macs in block.macs(site.height, site.width).items():
                cost[phase] = cost.get(phase, 0) + macs
        stage: Any
        for stage, size in zip(self.layers[1:], sizes[1:], strict=True):
            cost["merging"] += stage.downsample.macs(*size)
        tokens = sizes[-1][0] * sizes[-1][1]
        weights = sum(p.numel() for name, p in self.head.named_parameters() if name == "fc.weight")
        cost["head"] = weights * (1 if self.head.global_pool.pool_type else tokens)
        if self.aux_head is not None and self.head.global_pool.pool_type:
            cost["aux_head"] = tokens * self.layout.dim(len(sizes) - 1) * self.layout.num_classes
        return cost


def _formula(attention: Any, site: Site, method: str = "macs") -> dict[str, int]:
    """What a module declares it costs at a site; ``macs`` where it lacks the other method."""
    formula: Callable[[int, int], dict[str, int]] = getattr(attention, method, None) or attention.macs
    return formula(site.height, site.width)


def _backward(attention: Any, site: Site) -> dict[str, int]:
    if hasattr(attention, "macs_backward"):
        return attention.macs_backward(site.height, site.width)
    forward = _formula(attention, site)
    return {phase: 0 if phase == "routing" else 2 * macs for phase, macs in forward.items()}
