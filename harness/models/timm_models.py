"""Every layout with every mechanism as a model of timm's registry, named ``<layout>_<mechanism>``.

``timm.create_model("biformer_stl_bra", features_only=True)`` then works as for timm's own models, with the
options of :func:`attnbench.create_model`. See :mod:`attnbench.timm`, which registers them.
"""

import contextlib
import sys
from collections.abc import Callable
from typing import Any

import timm
import torch
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import nn

from attnbench import layouts
from attnbench.errors import AttnbenchError
from attnbench.harness.models.backbone import Backbone, create_model
from attnbench.layouts import Layout
from attnbench.registry import names

default_cfgs: dict[str, Any] = {}
"""timm's description of each model: sizes, normalisation of images, names of the first and last layers."""


class ArgumentError(AttnbenchError, TypeError):
    """An option that the mechanism does not have; timm and its users expect a TypeError."""


def register() -> list[str]:
    """Add to timm's registry what is not there yet: mechanisms of plug-ins may have come since.

    Returns:
        The names of all our models, in alphabetical order.

    Raises:
        AttnbenchError: timm has another model of such a name.
    """
    models = {
        f"{layout}_{mechanism}": (layout, mechanism) for layout in layouts.names() for mechanism in names()
    }
    for name, (layout, mechanism) in models.items():
        if name in default_cfgs:
            continue
        if timm.is_model(name):
            raise AttnbenchError(f"timm has a model {name!r} of its own; rename the mechanism {mechanism!r}")
        default_cfgs.update(generate_default_cfgs({name: describe(layouts.get_layout(layout))}))
        entrypoint = _entrypoint(name, layout, mechanism)
        setattr(sys.modules[__name__], name, entrypoint)  # where timm's registry says that it is
        register_model(entrypoint)
    return sorted(models)


def describe(layout: Layout) -> dict[str, Any]:
    """timm's default configuration of a layout; images are normalised as in ImageNet."""
    side = layout.map_sizes(layout.img_size, layout.img_size)[-1]
    return {
        "input_size": (layout.in_chans, layout.img_size, layout.img_size),
        "pool_size": side,
        "num_classes": layout.num_classes,
        "crop_pct": 0.9,
        "interpolation": "bicubic",
        "fixed_input_size": False,
        "mean": (0.485, 0.456, 0.406)[: layout.in_chans],
        "std": (0.229, 0.224, 0.225)[: layout.in_chans],
        "first_conv": "patch_embed.conv1" if layout.stem == "overlapped" else "patch_embed.proj",
        "classifier": ("head.fc", "aux_head") if layout.token_labels else "head.fc",
    }


def _entrypoint(name: str, layout: str, mechanism: str) -> Callable[..., nn.Module]:
    """What timm calls to make the model."""

    def build(
        device: torch.device | str | None = None, dtype: torch.dtype | None = None, **options: Any
    ) -> Backbone:
        options.pop("cache_dir", None)
        try:
            with torch.device(device) if device is not None else contextlib.nullcontext():
                return create_model(layout, mechanism, **options).to(dtype)
        except AttnbenchError as error:
            if isinstance(error.__cause__, TypeError) or str(error).startswith("unknown option of"):
                raise ArgumentError(str(error)) from error
            raise

    def entrypoint(pretrained: bool = False, **options: Any) -> nn.Module:
        if pretrained:
            raise AttnbenchError(
                f"{name} has no weights to download; give pretrained=False and, if you have a file, "
                "checkpoint=FILE"
            )
        stages = len(layouts.get_layout(layout).depths)
        features = {"out_indices": tuple(range(stages)), "feature_cls": "getter"}
        return build_model_with_cfg(build, name, False, feature_cfg=features, **options)

    entrypoint.__name__ = entrypoint.__qualname__ = name
    entrypoint.__doc__ = (
        f"{layouts.get_layout(layout).title} with {mechanism}; see :func:`attnbench.create_model`."
    )
    return entrypoint
