"""Masks as COCO writes them: run lengths and polygons, by faster-coco-eval or pycocotools."""

import importlib
import importlib.util
from typing import Any

import numpy as np

from attnbench.errors import AttnbenchError
from attnbench.harness.dense.samples import Array

_MODULES = {"faster_coco_eval": "faster_coco_eval.core.mask", "pycocotools": "pycocotools.mask"}


def library() -> str:
    """The package that codes masks and counts AP.

    Raises:
        AttnbenchError: none is installed.
    """
    for name in _MODULES:
        if importlib.util.find_spec(name):
            return name
    raise AttnbenchError(
        "COCO's masks and AP need pycocotools or faster-coco-eval; pip install 'attnbench[dense]'"
    )


def encode(mask: Array) -> dict[str, Any]:
    """Run lengths of a mask (height, width)."""
    coder: Any = importlib.import_module(_MODULES[library()])
    return coder.encode(np.asfortranarray(np.asarray(mask, np.uint8)))


def decode(segmentation: Any, height: int, width: int) -> Array:
    """(height, width) bool of polygons, or of run lengths, compressed or not.

    Raises:
        ValueError: it is none of these.
    """
    coder: Any = importlib.import_module(_MODULES[library()])
    if isinstance(segmentation, list):
        runs = coder.merge(coder.frPyObjects(segmentation, height, width))
    elif isinstance(segmentation, dict) and isinstance(segmentation.get("counts"), list):
        runs = coder.frPyObjects(segmentation, height, width)
    elif isinstance(segmentation, dict) and "counts" in segmentation:
        runs = segmentation
    else:
        raise ValueError("expected polygons or run lengths")
    return np.asarray(coder.decode(runs), bool)
