"""What a step is made of: every operator in order, with caller, MACs and bytes. Nothing is timed."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch._ops import HigherOrderOperator
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from attnbench.errors import AttnbenchError
from attnbench.harness.counting.operator_costs import formulas
from attnbench.harness.explain.phases import Place, Places
from attnbench.harness.explain.traffic import Storages, Traffic
from attnbench.harness.origin import Origins

ALLOCATIONS = ("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided")
"""Return memory as it is: their time belongs to the operator that follows."""


@dataclass(frozen=True)
class Operator:
    """One call of an operator.

    Args:
        name: ``aten::mm``.
        place: block and phase.
        line: where it was called; for the backward pass, where the operator was whose gradient it computes.
        direction: ``forward``, ``backward`` or ``optimizer``.
        macs: multiply-adds; 0 where there is no formula.
        traffic: what it reads and writes.
    """

    name: str
    place: Place
    line: str
    direction: str
    macs: int
    traffic: Traffic


def record(step: Callable[[], Tensor], model: nn.Module) -> list[Operator]:
    """The operators of one step. Operators that only return views cost nothing and are left out.

    Raises:
        AttnbenchError: the step runs a higher-order operator, inside which operators cannot be told apart.
    """
    recorder = _Recorder(model)
    with recorder:
        step()
    return recorder.operators


class _Recorder(TorchDispatchMode):
    supports_higher_order_operators = True

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.operators: list[Operator] = []
        self.origins, self.places, self.storages = Origins(model), Places(model), Storages()
        self.macs = FlopCounterMode(display=False, custom_mapping=formulas()).flop_registry

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if isinstance(func, HigherOrderOperator):
            raise AttnbenchError(
                f"{func.name()} is one operator to torch and many to the clock; explain another --impl"
            )
        result = func(*args, **kwargs)
        origin = self.origins.here()  # before views are left out: autograd numbers them too
        traffic = self.storages.traffic(func, args, kwargs, result)
        name = func._schema.name
        namespace, _, short = name.partition("::")
        if traffic is None or short in ALLOCATIONS or namespace == "profiler":
            return result
        formula = self.macs.get(func._overloadpacket)
        macs = formula(*args, **kwargs, out_val=result) // 2 if formula is not None else 0
        place = self.places.of(origin)
        self.operators.append(Operator(name, place, origin.line, origin.direction, macs, traffic))
        return result
