"""Whole models by name, as the commands that compare models take them."""

import timm
from torch import nn

from attnbench import layouts
from attnbench.configurations import CONFIGURATIONS
from attnbench.errors import AttnbenchError, UnknownNameError
from attnbench.harness.models.backbone import create_model
from attnbench.harness.models.baselines import REFERENCES
from attnbench.layouts import get_layout


def named(name: str) -> nn.Module:
    """The model called ``name`` as it is defined (``eager``), on torch's default device.

    Args:
        name: a configuration (``biformer_stl``), ``LAYOUT/MECHANISM`` (``swin_t/bra``), a reference
            (``timm_swin``) or ``timm/MODEL`` for any model of timm.

    Raises:
        AttnbenchError: there is no such model, or it cannot be built.
    """
    if name in CONFIGURATIONS:
        layout, mechanism, options = CONFIGURATIONS[name]
        return create_model(layout, mechanism, impl="eager", **options)
    if name in REFERENCES:
        return REFERENCES[name](get_layout("swin_t"), 224)
    layout, slash, mechanism = name.partition("/")
    if layout == "timm" and slash:
        if not timm.is_model(mechanism):
            raise UnknownNameError("timm model", mechanism, timm.list_models())
        return timm.create_model(mechanism)
    if slash and layout in layouts.names():
        return create_model(layout, mechanism, impl="eager")
    if slash:
        raise UnknownNameError("layout", layout, layouts.names())
    known = [*CONFIGURATIONS, *REFERENCES]
    if name in layouts.names():
        raise AttnbenchError(f"{name!r} is a layout; give a model, {name}/MECHANISM")
    raise UnknownNameError("model", name, known)
