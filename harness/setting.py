"""The conditions of a run, what is pinned for every candidate, and the step that is measured."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attnbench.layouts import Layout


@dataclass(frozen=True)
class Flags:
    """What would shift results by up to two times if it differed between candidates.

    Args:
        tf32: allow TF32 in matrix products and in convolutions alike. torch's own default allows it in
            cuDNN's convolutions only, which favours whoever writes a linear layer as one.
        threads: of torch on a CPU; None leaves what torch chose.
    """

    tf32: bool = False
    threads: int | None = None

    def apply(self) -> None:
        """Set the switches of this process. Deterministic algorithms and cuDNN's search are off for all."""
        torch.backends.cuda.matmul.allow_tf32 = self.tf32
        torch.backends.cudnn.allow_tf32 = self.tf32
        torch.backends.cudnn.benchmark = False
        torch.use_deterministic_algorithms(False)
        if self.threads is not None and torch.get_num_threads() != self.threads:
            torch.set_num_threads(self.threads)


@dataclass(frozen=True)
class Setting:
    """How a model is run.

    Args:
        device: where.
        mode: ``infer`` (evaluation mode, no gradients) or ``train`` (forward, cross-entropy, backward and
            an AdamW step).
        precision: ``fp32``, or ``amp`` (autocast to bfloat16; weights stay in float32); ``tf32`` and
            ``amp_tf32`` are the same with TF32 allowed where float32 remains, see :class:`Flags`.
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


class Workload:
    """One step of a model, to be called again and again: it returns logits (``infer``) or loss (``train``).

    The model is moved to the device and put in the mode. Nothing is synchronised.
    """

    def __init__(self, model: nn.Module, layout: Layout, setting: Setting) -> None:
        self.model, self._setting = model, setting
        self.images, self.labels = make_batch(layout, setting)
        self._generator = torch.Generator(setting.device).manual_seed(setting.seed + 1)
        self._drawn: Tensor | None = None
        model.to(setting.device).train(setting.mode == "train")
        self.optimizer: torch.optim.Optimizer | None = None
        if setting.mode == "train":
            self.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

    def refresh(self) -> None:
        """Draw other images, in place: an answer kept from before is wrong now."""
        self.images.normal_(generator=self._generator)

    def draw(self) -> None:
        """Draw other images beside the present ones, for :meth:`show`: to copy them is quick."""
        if self._drawn is None:
            self._drawn = torch.empty_like(self.images)
        self._drawn.normal_(generator=self._generator)

    def show(self) -> None:
        """Replace the images, in place, by those drawn."""
        if self._drawn is not None:
            self.images.copy_(self._drawn)

    def __call__(self) -> Tensor:
        """Run one step."""
        if self.optimizer is None:
            with torch.no_grad(), self._autocast():
                return self.model(self.images)
        self.optimizer.zero_grad(set_to_none=True)
        with self._autocast():
            loss = F.cross_entropy(self.model(self.images).float(), self.labels)
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def _autocast(self) -> torch.autocast:
        device, enabled = self._setting.device.type, self._setting.precision.startswith("amp")
        return torch.autocast(device, torch.bfloat16, enabled=enabled)


def make_step(model: nn.Module, layout: Layout, setting: Setting) -> Workload:
    """The step that is measured; see :class:`Workload`."""
    return Workload(model, layout, setting)
