"""Peak memory of a step, estimated without running it: on fake tensors, which have shapes but no numbers.

What a fake step lacks is the workspace of kernels, and what a real kernel does otherwise than its shape
rule says; docs/explain.md compares estimates with measured figures. It needs neither the device nor its
memory, so a map that fits nowhere can be asked about.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from attnbench.errors import AttnbenchError
from attnbench.harness.memory.tracker import Tracker
from attnbench.harness.memory.usage import Usage
from attnbench.harness.setting import Setting, make_batch, make_step
from attnbench.layouts import Layout

METHOD = "estimate: tensors of one step on fake CPU tensors, without the workspace of kernels"
_CPU = torch.device("cpu")


def estimate(build: Callable[[], nn.Module], layout: Layout, setting: Setting) -> Usage:
    """Peak bytes of a step after the first, and their parts, as the CPU's operators would take them.

    Args:
        build: makes the model on torch's default device.
        layout: of the model.
        setting: mode, precision, batch and resolution; its device is not used.

    Raises:
        AttnbenchError: the model needs the numbers, which fake tensors do not have, or an operator of
            it has no shape rule.
    """
    setting = replace(setting, device=_CPU)
    with torch.device("meta"):
        model = build()
    try:
        with FakeTensorMode():
            _materialise(model)
            inputs = sum(tensor.nbytes for tensor in make_batch(layout, setting))
            step = make_step(_Unmoved(model), layout, setting)
            step()
            model.zero_grad(set_to_none=True)
            with Tracker(model, _CPU) as tracker:
                step()
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise AttnbenchError(f"no estimate of memory: the step fails on fake tensors: {reason}") from error
    parts = {**tracker.parts(), "inputs": inputs}
    return Usage(sum(parts.values()), METHOD, parts, tracker.largest, estimated=True)


class _Unmoved(nn.Module):
    """A model that is where it should be: torch cannot move fake parameters, not even to where they are."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def to(self, *_: Any, **__: Any) -> "_Unmoved":
        return self

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


def _materialise(model: nn.Module) -> None:
    """Replace parameters and buffers on the meta device by fake ones on the CPU; shared ones stay shared."""
    made: dict[int, Tensor] = {}

    def fake(tensor: Tensor) -> Tensor:
        if id(tensor) not in made:
            new = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=_CPU)
            made[id(tensor)] = nn.Parameter(new, tensor.requires_grad) if _is_parameter(tensor) else new
        return made[id(tensor)]

    for module in model.modules():
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is not None:
                    tensors[name] = fake(tensor)  # type: ignore[assignment]


def _is_parameter(tensor: Tensor) -> bool:
    return isinstance(tensor, nn.Parameter)
