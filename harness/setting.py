"""The conditions of a run, and the step that is measured under them."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attnbench.layouts import Layout


@dataclass(frozen=True)
class Setting:
    """How a model is run.

    Args:
        device: where.
        mode: ``infer`` (evaluation mode, no gradients) or ``train`` (forward, cross-entropy, backward and
            an AdamW step).
        precision: ``fp32``, or ``amp`` (autocast to bfloat16; weights stay in float32).
        batch_size: images per step.
        resolution: height and width of an image in pixels.
        seed: of weights and inputs.
    """

    device: torch.device
    mode: str
    precision: str
    batch_size: int
    resolution: int
    seed: int = 0


def make_batch(layout: Layout, setting: Setting) -> tuple[Tensor, Tensor]:
    """Random images (batch, in_chans, resolution, resolution) and labels (batch,), from the seed."""
    generator = torch.Generator().manual_seed(setting.seed)
    size = (setting.batch_size, layout.in_chans, setting.resolution, setting.resolution)
    images = torch.randn(size, generator=generator)
    labels = torch.randint(layout.num_classes, (setting.batch_size,), generator=generator)
    return images.to(setting.device), labels.to(setting.device)


def make_step(model: nn.Module, layout: Layout, setting: Setting) -> Callable[[], Tensor]:
    """A function that runs one step and returns the logits (``infer``) or the loss (``train``).

    The model is moved to the device and put in the mode. Nothing is synchronised.
    """
    images, labels = make_batch(layout, setting)
    autocast = torch.autocast(setting.device.type, torch.bfloat16, enabled=setting.precision == "amp")
    model.to(setting.device).train(setting.mode == "train")

    def infer() -> Tensor:
        with torch.no_grad(), autocast:
            return model(images)

    if setting.mode == "infer":
        return infer
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

    def train() -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        with autocast:
            loss = F.cross_entropy(model(images).float(), labels)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return train
