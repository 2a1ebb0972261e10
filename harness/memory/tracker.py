"""The memory of a step by kind, at the moment when most is held: a dispatch mode follows every tensor.

What an operator returns in new storage is memory until that storage dies. Workspace that a kernel takes and
gives back inside one operator is not seen; on real tensors the allocator's own figure is the peak, and
this tells what it consists of (:mod:`attnbench.harness.memory.peak`). On fake tensors it is all there is
(:mod:`attnbench.harness.memory.estimate`).
"""

import weakref
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from attnbench.harness.origin import Origin, Origins

PARTS = ("weights", "gradients", "optimizer", "inputs", "saved", "workspace")
"""Kinds of memory; they sum to the peak. ``saved``: what autograd keeps for the backward pass, besides
weights and inputs; ``workspace``: everything else."""


@dataclass(frozen=True)
class Allocation:
    """One tensor's storage: its bytes, the operator that made it and where that was called."""

    bytes: int
    operator: str
    line: str


class Tracker(TorchDispatchMode):
    """Follows all storage of a step. Enter it for one step, after one that made the optimiser's state.

    Args:
        model: whose parameters, buffers and gradients are told apart.
        device: tensors elsewhere are not counted.
    """

    supports_higher_order_operators = True  # FlexAttention is one: seen from outside, as a kernel is

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        super().__init__()
        self.model, self.device = model, device
        self.origins = Origins(model)
        self.live: dict[int, tuple[weakref.ref, int, str]] = {}
        """Bytes and kind of the storages alive, by their address."""
        self.held: Counter[str] = Counter()
        """Bytes by kind that were there before the step."""
        self.now: Counter[str] = Counter()
        self.at_peak: Counter[str] = Counter()
        self.largest: Allocation | None = None
        self._saved: Counter[int] = Counter()
        self._exits = ExitStack()
        for tensor in (*model.parameters(), *model.buffers()):
            self._hold(tensor, "weights")

    def __enter__(self) -> "Tracker":
        self._exits.enter_context(torch.autograd.graph.saved_tensors_hooks(self._pack, _unpack))
        for parameter in self.model.parameters():
            if parameter.requires_grad:
                hook = parameter.register_post_accumulate_grad_hook(self._accumulated)
                self._exits.callback(hook.remove)
        super().__enter__()
        return self

    def __exit__(self, *failure: Any) -> None:
        super().__exit__(*failure)
        self._exits.close()

    def parts(self) -> dict[str, int]:
        """Bytes by kind at the peak, ``workspace`` being what has no other kind."""
        total = self.held + self.at_peak
        return {part: total[part] for part in PARTS}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        origin: Origin | None = None
        for tensor in filter(self._is_here, tree_iter((args, kwargs))):
            if not self._known(tensor):
                origin = origin or self.origins.here()
                self._hold(tensor, "optimizer" if origin.direction == "optimizer" else "inputs")
        origin = origin or self.origins.here()  # also where nothing is made: autograd may have a node
        for tensor in filter(self._is_here, tree_iter(result)):
            if not self._known(tensor):
                self._made(tensor, func, origin)
        return result

    def _is_here(self, value: Any) -> bool:
        return isinstance(value, Tensor) and value.device.type == self.device.type

    def _known(self, tensor: Tensor) -> bool:
        return tensor.untyped_storage()._cdata in self.live

    def _hold(self, tensor: Tensor, kind: str) -> None:
        """Enter what was there before the step; it stays."""
        storage = tensor.untyped_storage()
        if self._is_here(tensor) and storage._cdata not in self.live:
            reference = weakref.ref(storage, partial(self._freed, storage._cdata))
            self.live[storage._cdata] = (reference, storage.nbytes(), f"held {kind}")
            self.held[kind] += storage.nbytes()

    def _made(self, tensor: Tensor, func: Any, origin: Origin) -> None:
        storage = tensor.untyped_storage()
        size = storage.nbytes()
        reference = weakref.ref(storage, partial(self._freed, storage._cdata))
        self.live[storage._cdata] = (reference, size, "workspace")
        self.now["workspace"] += size
        if self.now.total() > self.at_peak.total():
            self.at_peak = self.now.copy()
        if self.largest is None or size > self.largest.bytes:
            self.largest = Allocation(size, str(func.name()).partition(".")[0], str(origin))

    def _freed(self, address: int, _: Any) -> None:
        _, size, kind = self.live.pop(address)
        self._saved.pop(address, None)
        if not kind.startswith("held "):
            self.now[kind] -= size

    def _become(self, address: int, kind: str) -> None:
        """Storage made in this step changes its kind; the sum stays."""
        if address not in self.live:
            return
        reference, size, before = self.live[address]
        if not before.startswith("held "):
            self.now[before] -= size
            self.now[kind] += size
            self.live[address] = (reference, size, kind)

    def _accumulated(self, parameter: Tensor) -> None:
        if parameter.grad is not None:
            self._become(parameter.grad.untyped_storage()._cdata, "gradients")

    def _pack(self, tensor: Tensor) -> "_Saved":
        address = tensor.untyped_storage()._cdata
        saved = _Saved(tensor)
        if address in self.live:
            self._saved[address] += 1
            self._become(address, "saved")
            weakref.finalize(saved, self._released, address)
        return saved

    def _released(self, address: int) -> None:
        self._saved[address] -= 1
        if self._saved[address] == 0 and address in self.live and self.live[address][2] == "saved":
            self._become(address, "workspace")


class _Saved:
    """What autograd keeps instead of a tensor; its death tells that the tensor is no longer kept."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


def _unpack(saved: _Saved) -> Tensor:
    return saved.tensor
