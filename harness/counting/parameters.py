"""Parameters: how many numbers a model learns."""

from torch import nn


def measure(model: nn.Module) -> int:
    """Number of learned parameters; one shared by several modules counts once."""
    return sum(parameter.numel() for parameter in model.parameters())
