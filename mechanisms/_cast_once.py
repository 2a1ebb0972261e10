"""One cast for what goes to several products under autocast."""

from torch import Tensor

from attnbench.mechanisms._autocast import autocast_dtype


def cast_once(x: Tensor) -> Tensor:
    """``x`` as a CPU's autocast gives it to a product; each that takes it would cast it anew."""
    dtype = autocast_dtype(x)
    return x if dtype is None or x.device.type != "cpu" else x.to(dtype)
