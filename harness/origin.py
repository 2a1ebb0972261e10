"""Where an operator comes from: the module, the function and the line of code that called it.

Asked from inside a dispatch mode, where Python's stack still shows the caller. Works for any model,
a user's own file included, since nothing has to be declared: modules are known by their place in the model,
functions by the frames between. An operator of the backward pass has no caller; autograd's sequence
number leads to the forward operator whose gradient it computes.
"""

import functools
import sys
import sysconfig
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import timm
import torch
from torch import nn

import attnbench

_CALLS = {nn.Module._call_impl.__code__}
_TORCH = str(Path(torch.__file__).parent)
_OPTIMIZERS = str(Path(_TORCH, "optim"))
_STANDARD = sysconfig.get_path("stdlib")
_INSTALLED = {"site-packages", "dist-packages"}
_LIBRARIES = [Path(timm.__file__).parent]
_PACKAGE = Path(attnbench.__file__).parent
_WATCHERS = {"harness/origin.py", "harness/memory/tracker.py", "harness/explain/recorder.py"}


@dataclass(frozen=True)
class Origin:
    """Who called an operator.

    Args:
        module: path of the innermost module in the model, ``layers.0.blocks.1.attn.qkv``; empty outside.
        function: innermost function or method that ran inside that module, but for its own ``forward``;
            empty where that called the operator itself.
        line: ``file:line`` of the innermost code that is not torch's or timm's, or that calls the model.
        direction: ``forward``, ``backward`` or ``optimizer``.
    """

    module: str
    function: str
    line: str
    direction: str = "forward"

    def __str__(self) -> str:
        prefix = "" if self.direction == "forward" else f"{self.direction} of "
        return f"{prefix}{self.line}"


class Origins:
    """Finds the origin of operators while a model runs. Make one for each step that is watched.

    Args:
        model: whose modules give the paths; the model itself has the empty path.
    """

    def __init__(self, model: nn.Module) -> None:
        self.paths = {id(module): path for path, module in model.named_modules()}
        self.owners = {id(parameter): path for path, parameter in model.named_parameters()}
        self.by_sequence: dict[int, Origin] = {}

    def here(self) -> Origin:
        """The origin of the operator that is being dispatched."""
        node = torch._C._current_autograd_node()
        if node is not None:
            return self._backward(node)
        origin = self._of_stack(sys._getframe(1))
        # Autograd has numbered the node of this operator, if it has one, just before dispatching it.
        self.by_sequence.setdefault(torch.autograd._get_sequence_nr() - 1, origin)
        return origin

    def _backward(self, node: Any) -> Origin:
        variable = getattr(node, "variable", None)  # of a node that adds up the gradient of a parameter
        if variable is not None:
            name = self.owners.get(id(variable), "")
            return Origin(name.rpartition(".")[0], "", f"the gradient of {name}", "backward")
        forward = self.by_sequence.get(node._sequence_nr())
        if forward is None:
            return Origin("", "", node.name(), "backward")
        return replace(forward, direction="backward")

    def _of_stack(self, frame: FrameType | None) -> Origin:
        module = function = None
        own = library = ""
        direction = "forward"
        while frame is not None:
            code = frame.f_code
            if code in _CALLS:
                path = self.paths.get(id(frame.f_locals["self"]))
                module = path if module is None else module
                if path == "":
                    break
            elif code.co_filename.startswith(_OPTIMIZERS):
                direction = "optimizer"
            elif not (place := _place(code.co_filename, code.co_qualname)).hidden:
                line = f"{place.file}:{frame.f_lineno}"
                if place.library:
                    library = library or line
                else:
                    own = own or line
                if module is None and function is None and place.function != "forward":
                    function = place.function
            frame = frame.f_back
        if frame is None:  # not called by the model
            return Origin("", "", own or library, direction)
        return Origin(module or "", function or "", own or library, direction)


class _Place(NamedTuple):
    """What a frame's code tells: its file as a reader knows it, and its function.

    ``hidden``: torch's own code, the standard library's, or that of a dispatch mode. ``library``: timm's.
    """

    file: str
    function: str
    hidden: bool
    library: bool


@functools.cache
def _place(filename: str, qualname: str) -> _Place:
    path = Path(filename)
    file = filename
    for root in (_PACKAGE, _PACKAGE.parent, Path.cwd()):
        if path.is_relative_to(root):
            file = str(path.relative_to(root))
            break
    function = qualname.partition(".<locals>")[0].rpartition(".")[2]  # of a nested one, that around it
    standard = not _INSTALLED.intersection(path.parts) and path.is_relative_to(_STANDARD)
    hidden = standard or filename.startswith((_TORCH, "<")) or file in _WATCHERS
    library = any(path.is_relative_to(root) for root in _LIBRARIES)
    return _Place(file, "forward" if function.startswith("<") else function, hidden, library)
