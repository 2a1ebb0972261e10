"""How a mechanism's options follow the size of the map: without that its growth is not defined.

Swin's cost at 640 pixels depends on whether its window is scaled (MzeroMiko/VMamba#368), and BRA's growth
is N^(4/3) or N² by the rule for S. A mechanism says so in its class attribute ``growth``, a tuple of
:class:`Rule`; one without keeps its options at every size.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from attnbench.registry import Site

Options = Callable[[Site, dict[str, Any]], dict[str, Any]]


@dataclass(frozen=True)
class Rule:
    """One way to scale a mechanism.

    Args:
        name: tells the rules of one mechanism apart; empty where there is one only.
        says: what happens as the map grows.
        options: of the module at a site, given those the mechanism has there by default.
        exponent: declared, of N; ``None`` for the registry's.
        regions: the option that cuts the map into so many parts a side, if there is one: a map that it
            does not divide is padded.
    """

    name: str
    says: str
    options: Options = lambda site, defaults: {}
    exponent: float | None = None
    regions: str = ""
