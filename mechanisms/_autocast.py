"""What autocast does to a product or a convolution, for functions that have gradients of their own."""

import torch
from torch import Tensor


def autocast_dtype(x: Tensor) -> torch.dtype | None:
    """The dtype that a CPU's autocast gives to all in a product of ``x``; None if it leaves them alone."""
    if not torch.is_autocast_enabled("cpu") or x.dtype == torch.float64:
        return None
    return torch.get_autocast_dtype("cpu")
