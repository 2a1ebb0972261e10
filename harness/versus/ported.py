"""Our module beside an official one, built and named as the golden tensors prove it."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from attnbench.harness.conformance.goldens import build_official, rename
from attnbench.harness.versus.pair import Pair, copy_weights
from attnbench.registry import Site


def own(
    mechanism: str, golden: str, official: nn.Module, site: Site, kwargs: dict[str, Any]
) -> tuple[nn.Module, dict[str, str]]:
    """Our module, and our names of the official parameters."""
    case = {
        "mechanism": golden,
        "cls": f"clone:{type(official).__name__}",
        "kwargs": kwargs,
        "input_shape": [1, site.height, site.width, site.dim],
    }
    built = build_official(mechanism, case, impl="auto") or build_official(mechanism, case)
    assert built is not None  # it is None only where the implementation cannot be chosen
    return built


def pair(
    official: nn.Module,
    ours: tuple[nn.Module, dict[str, str]],
    run: Callable[[Tensor], Tensor] | None = None,
    *,
    channels_first: bool = False,
) -> Pair:
    """Both with the same weights; a module of maps (B, C, H, W) gets them as they lie in its model."""
    module, prefixes = ours
    copy_weights(official, module, lambda name: rename(name, prefixes))
    if not channels_first:
        return Pair(official, module, run or official)
    return Pair(
        official,
        module,
        run or official,
        to_official=lambda x: x.permute(0, 3, 1, 2).contiguous(),
        from_official=lambda y: y.permute(0, 2, 3, 1),
    )


def even(site: Site) -> Site:
    """With an even number of heads, which two branches share."""
    return replace(site, num_heads=site.num_heads + site.num_heads % 2)
