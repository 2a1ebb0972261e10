"""Reference models: whole models of others that stand as rows beside the mechanisms. Needs no torch.

They are what a reader knows the speed of, and what ratios are taken to (the baseline). They are named where
a mechanism would be (``--mechanisms bra,timm_swin``) and built by
:mod:`attnbench.harness.models.baselines`.
"""

import importlib.metadata

TITLES = {
    "timm_swin": "Swin-T (timm)",
    "timm_swin_sdpa": "Swin-T (timm, SDPA)",
}
"""Title of each reference as a table prints it, by name."""

BASELINE = "timm_swin"
"""The model that ratios are taken to by default: timm's Swin-T with its default, explicit attention."""


def is_baseline(name: str) -> bool:
    """Whether a name that stands for a mechanism is a reference model."""
    return name in TITLES


def source(name: str) -> str:
    """What takes the place of a source digest in the cells of a reference: the package it is from.

    Raises:
        KeyError: ``name`` is no reference.
    """
    TITLES[name]
    return f"timm {importlib.metadata.version('timm')}"
