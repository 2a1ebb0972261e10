"""How modules of official code are called: on sequences, and in a block as far as its attention goes."""

from collections.abc import Callable

from torch import Tensor, nn


class _Reached(Exception):  # noqa: N818  no error: it carries what was reached
    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.value = value


class _Stop(nn.Module):
    """Ends a forward pass with what it is given."""

    def forward(self, x: Tensor) -> Tensor:
        raise _Reached(x)


def attention_of(block: nn.Module, *sized: int) -> Callable[[Tensor], Tensor]:
    """The forward pass of a block between its first norm and its first residual, on (B, N, C)."""
    block.norm1, block.drop_path = nn.Identity(), _Stop()
    block.norm2, block.mlp = nn.Identity(), nn.Identity()

    def run(x: Tensor) -> Tensor:
        try:
            return block(x.flatten(1, 2), *sized)
        except _Reached as reached:
            return reached.value.reshape(x.shape)

    return run


def as_sequence(module: nn.Module, *further: object) -> Callable[[Tensor], Tensor]:
    """A module of (B, N, C) and further arguments, such as the map's size, as a function of the map."""

    def run(x: Tensor) -> Tensor:
        return module(x.flatten(1, 2), *further).reshape(x.shape)

    return run
