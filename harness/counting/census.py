"""A census of operators while MACs are counted: which ones have no formula, so that a count is too low.

The convention that decides (the one of Swin, BiFormer and fvcore's core): matrix products and convolutions
cost MACs; softmax, norms, activations, reductions, pooling, sorting, gathers, bilinear reading and
interpolation cost none. So an operator of torch's own set (``aten``, ``prims``) is free unless its name
says that it multiplies matrices, convolves, transforms or solves. An operator of any other namespace (a
custom one, Triton, xformers, natten, a higher-order one) can do anything: without a formula it is uncounted.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from torch._ops import HigherOrderOperator
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

FREE_NAMESPACES = ("aten", "prim", "prims", "profiler")
"""Namespaces of torch itself, whose operators are free unless their names have one of ``PRODUCTS``."""

# fmt: off
PRODUCTS = frozenset({
    "mm", "bmm", "addmm", "addbmm", "baddbmm", "matmul", "gemm", "mv", "addmv", "addr", "ger", "dot",
    "vdot", "inner", "outer", "kron", "linear", "bilinear", "trilinear", "einsum", "tensordot", "conv",
    "convolution", "conv1d", "conv2d", "conv3d", "tbc", "attention", "transformer", "rnn", "lstm",
    "gru", "cdist", "fft", "stft", "istft", "linalg", "matrix", "cholesky", "qr", "svd", "eig", "eigh",
    "lu", "lstsq", "inverse", "triangular", "solve",
})
# fmt: on
"""Words of the names of operators that cost MACs, which is uncounted unless torch has a formula."""

_FREE_OF_LINALG = ("linalg_vector_norm", "linalg_cross", "linalg_diagonal")


def is_free(namespace: str, name: str) -> bool:
    """Whether the convention gives an operator no cost.

    Args:
        namespace: ``aten`` of ``aten::add``.
        name: ``add`` of ``aten::add``, without overload.
    """
    if namespace not in FREE_NAMESPACES:
        return False
    return name in _FREE_OF_LINALG or PRODUCTS.isdisjoint(name.strip("_").split("_"))


class Census(TorchDispatchMode):
    """Records operators that are neither counted nor free. Enter it after torch's ``FlopCounterMode``.

    Composite operators are taken apart first. A higher-order operator runs outside of both modes, which
    do not know it in all releases of torch; with a formula its cost is added to ``flops``.

    Args:
        formulas: FLOPs by operator, as torch's ``FlopCounterMode`` keeps them.
    """

    supports_higher_order_operators = True

    def __init__(self, formulas: Mapping[Any, Any]) -> None:
        super().__init__()
        self.formulas = formulas
        self.flops = 0
        self.uncounted: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if isinstance(func, HigherOrderOperator):
            return self._higher_order(func, args, kwargs)
        packet = func._overloadpacket
        if packet not in self.formulas:
            with self:
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
            namespace, _, name = func._schema.name.partition("::")
            if not is_free(namespace, name):
                self.uncounted[f"{namespace}::{name}"] += 1  # before it runs: it may fail without shape rule
        return func(*args, **kwargs)

    def _higher_order(self, func: Any, args: Any, kwargs: Any) -> Any:
        formula = self.formulas.get(func)
        if formula is None:
            self.uncounted[f"higher_order::{func.name()}"] += 1
        with _disable_current_modes():
            result = func(*args, **kwargs)
        if formula is not None:
            self.flops += formula(*args, **kwargs, out_val=result)
        return result
