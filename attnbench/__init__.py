"""attnbench: a pluggable benchmark suite for attention mechanisms in vision transformers."""

from typing import TYPE_CHECKING, Any

from attnbench.errors import AttnbenchError, ImplementationError, UnknownNameError
from attnbench.registry import MechanismSpec, Site, add_plugin, failures, get, names, register_mechanism

if TYPE_CHECKING:
    from torch import nn

__version__ = "0.1.0"

__all__ = [
    "AttnbenchError",
    "ImplementationError",
    "MechanismSpec",
    "Site",
    "UnknownNameError",
    "add_plugin",
    "create_model",
    "failures",
    "get",
    "names",
    "register_mechanism",
]


def create_model(layout: str, mechanism: str, **options: Any) -> "nn.Module":
    """Build a layout with a mechanism in its attention hole.

    Args:
        layout: name of a layout, e.g. ``swin_t`` or ``swin_pico``.
        mechanism: registered name, e.g. ``bra``.
        options: ``impl``, ``num_classes``, ``in_chans``, ``img_size`` (nominal; the model takes any),
            ``drop_path_rate``, ``global_pool``, ``drop_rate``, ``checkpoint`` (a file of weights, see
            ``attnbench load``), and any option of the mechanism (one value, or a list with one per stage).

    Returns:
        A module that maps images (B, in_chans, height, width) to logits (B, num_classes).

    Raises:
        UnknownNameError: no such layout, mechanism or implementation.
        AttnbenchError: an option is unknown or wrong, or the checkpoint does not fit.
    """
    from attnbench.harness.models.backbone import create_model as build  # torch is loaded only here

    return build(layout, mechanism, **options)
