"""Weights of other implementations, renamed to ours."""

from collections.abc import Mapping

from torch import Tensor

from attnbench.errors import AttnbenchError


def from_timm_swin(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of timm's ``swin_*`` models for a backbone with ``shifted_window``.

    The bias tables get our name; masks and indices, which we compute, are left out.

    Raises:
        AttnbenchError: it is not a state dict of such a model.
    """
    if not any(key.endswith("attn.relative_position_bias_table") for key in state):
        raise AttnbenchError("not a state dict of timm's Swin: it holds no relative_position_bias_table")
    return {
        key.replace("relative_position_bias_table", "bias_table"): value
        for key, value in state.items()
        if not key.endswith(("attn_mask", "relative_position_index"))
    }
