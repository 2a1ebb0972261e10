"""A third voice on MACs: fvcore, which traces the model and has formulas of its own. Optional.

fvcore follows the same convention (what it calls a flop is a multiply-add) with two differences, which are
told apart here: it charges some elementwise work, such as 5 per element for a LayerNorm and 4 for a
bilinear reading, and it passes over operators it has no formula for.
"""

import warnings
from collections import Counter
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from attnbench.errors import ImplementationError
from attnbench.harness.counting.census import is_free

_PRODUCTS = ("addmm", "bmm", "conv", "einsum", "linear", "matmul", "mm")


@dataclass(frozen=True)
class Crosscheck:
    """What fvcore counts of one forward pass.

    Args:
        products: MACs of matrix products and convolutions, to compare with a count of torch.
        others: what it charges besides, by operator; free by our convention.
        missed: operators it has no formula for and that are not free, and how often they ran.
    """

    products: int
    others: dict[str, int] = field(default_factory=dict)
    missed: dict[str, int] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """What fvcore itself would print."""
        return self.products + sum(self.others.values())

    def explain(self, counted: int) -> str:
        """One line on how fvcore's total comes to differ from ``counted`` MACs."""
        parts = [f"{cost:+,} {operator}" for operator, cost in self.others.items()]
        if self.products != counted:
            parts.append(f"{self.products - counted:+,} unexplained")
        parts += [f"{operator} passed over {times} times" for operator, times in self.missed.items()]
        return f"fvcore {self.total:,}, torch {counted:,}: {', '.join(parts) or 'the same'}"


def measure(model: nn.Module, image: Tensor) -> Crosscheck:
    """Count one forward pass with fvcore. Needs real tensors: tracing convolutions on meta fails.

    Raises:
        ImplementationError: fvcore is not installed.
    """
    try:
        from fvcore.nn import FlopCountAnalysis
    except ImportError as error:
        raise ImplementationError(
            f"fvcore does not import ({error}); install attnbench[crosscheck]"
        ) from error
    analysis = FlopCountAnalysis(model, image).tracer_warnings("none")
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    with warnings.catch_warnings(), torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        warnings.simplefilter("ignore")  # of the tracer, which torch has deprecated
        costs = Counter({name: int(cost) for name, cost in analysis.by_operator().items()})
        unknown = analysis.unsupported_ops()
    return Crosscheck(
        products=sum(costs[name] for name in _PRODUCTS),
        others={name: cost for name, cost in sorted(costs.items()) if name not in _PRODUCTS},
        missed={name: times for name, times in sorted(unknown.items()) if not is_free(*name.split("::"))},
    )
