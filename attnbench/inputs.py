"""What every mechanism takes: a map (B, H, W, C) with at least one image and one token, of its own width.

The registry puts this before the ``forward`` of each module it builds, so that no mechanism says it again.
"""

from functools import partial
from typing import TYPE_CHECKING, Any

from attnbench.errors import AttnbenchError

if TYPE_CHECKING:
    from torch import nn


class InputError(AttnbenchError, ValueError):
    """A map that no attention can be computed on; the message says what was expected."""


def guard(module: "nn.Module", name: str, dim: int) -> None:
    """Let a module refuse, in one line, what is not a map (B, H, W, ``dim``) of at least one token.

    Args:
        module: an attention module.
        name: of its mechanism, for the message.
        dim: channels of its site.
    """
    module.register_forward_pre_hook(partial(_check, name, dim))


def _check(name: str, dim: int, module: "nn.Module", arguments: tuple[Any, ...]) -> None:
    if not arguments:  # passed by keyword
        return
    shape = arguments[0].shape
    if len(shape) != 4 or shape[3] != dim or 0 in shape:
        raise InputError(
            f"{name} takes a map (B, H, W, {dim}) with at least one image and one token, got {tuple(shape)}"
        )
