"""Small dense models that tests share."""

from typing import Any

import torch
from torch import Tensor, nn

from attnbench.harness.dense.dense_model import create_dense_model

WIDTHS = {
    "sem_fpn": {"pyramid_channels": 16, "head_channels": 8},
    "upernet": {"head_channels": 16},
    "retinanet": {"width": 16},
    "mask_rcnn": {"width": 16, "box_width": 32},
}


def make(head: str, mechanism: str = "shifted_window", num_classes: int = 5, **options: Any) -> Any:
    """A dense model on swin_pico with narrow heads, the same each time."""
    torch.manual_seed(0)
    options = {"img_size": 64, **options}
    return create_dense_model(head, "swin_pico", mechanism, num_classes, widths=WIDTHS[head], **options)


class Issue(nn.Module):
    """All that a dense model multiplies in a test."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Any:
        return self.model.issue(images) if hasattr(self.model, "issue") else self.model(images)
