"""The processes that train together: one by itself, or those that torchrun started."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from attnbench.errors import AttnbenchError


@dataclass(frozen=True)
class Ranks:
    """This process among all: its number, how many there are, and its device."""

    rank: int = 0
    world: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def first(self) -> bool:
        """Whether it is the one that writes and speaks."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """The sum of a tensor over all ranks."""
        if self.world > 1:
            values = values.clone()
            dist.all_reduce(values)
        return values

    def wait(self) -> None:
        """Until all ranks are here."""
        if self.world > 1:
            dist.barrier()

    def same_buffers(self, module: nn.Module) -> None:
        """Give the first rank's buffers (BatchNorm's statistics) to all: they are what a checkpoint holds."""
        if self.world > 1:
            for buffer in module.buffers():
                dist.broadcast(buffer, 0)

    def share(self, model: nn.Module, broadcast_buffers: bool = True, unused: bool = False) -> nn.Module:
        """The model, its gradients averaged over all ranks.

        Args:
            broadcast_buffers: give the first rank's buffers to all before each forward pass.
            unused: some parameters may take no part in a loss.
        """
        if self.world == 1:
            return model
        devices = [self.device] if self.device.type == "cuda" else None
        return DistributedDataParallel(
            model, devices, broadcast_buffers=broadcast_buffers, find_unused_parameters=unused
        )


@contextmanager
def joined(device: str = "auto") -> Iterator[Ranks]:
    """The ranks that torchrun started, or this process alone; they part when the block ends.

    Raises:
        AttnbenchError: the device is absent.
    """
    from attnbench.harness.environment import resolve_device

    world, local = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("LOCAL_RANK", "0"))
    if device in ("auto", "cuda") and torch.cuda.is_available() and world > 1:
        if local >= torch.cuda.device_count():
            raise AttnbenchError(
                f"rank {local} of this node has no device: there are {torch.cuda.device_count()}; "
                "give torchrun --nproc-per-node that many"
            )
        device = f"cuda:{local}"
    place = resolve_device(device)
    if place.type == "cuda":
        torch.cuda.set_device(place)
    if world == 1:
        yield Ranks(device=place)
        return
    dist.init_process_group("nccl" if place.type == "cuda" else "gloo")
    try:
        yield Ranks(dist.get_rank(), dist.get_world_size(), place)
    finally:
        dist.destroy_process_group()
