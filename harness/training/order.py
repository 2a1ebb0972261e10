"""The order of the samples of an epoch, and how updates, ranks and micro-batches share it.

The order is one list for all ranks. Update s takes a stretch of ``global_batch`` draws of it; micro-batch k
of M takes every M-th of the stretch, from the k-th on. That is what torch's ``DistributedSampler`` gives rank
k of M, so M micro-batches are the papers' M devices, whether they run on one rank after another or on M at a
time: the result is the same.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, overload

import torch
from torch import Tensor

from attnbench.errors import AttnbenchError
from attnbench.harness.training.randomness import generator_of

ROUND = 256
"""Repeated augmentation draws so many images, or a multiple, in an epoch."""


class Draw(NamedTuple):
    """One use of a sample: what a data set is indexed with, and what its augmentation is a function of."""

    seed: int
    epoch: int
    sample: int
    repeat: int = 0


class Order(Sequence[Draw]):
    """The draws of an epoch in order, made when they are asked for: there may be millions.

    Args:
        indices: of the samples, (n,); each ``repeats`` times in a row.
    """

    def __init__(self, seed: int, epoch: int, indices: Tensor, repeats: int = 1) -> None:
        self.seed, self.epoch, self.indices, self.repeats = seed, epoch, indices, repeats

    def __len__(self) -> int:
        return len(self.indices)

    @overload
    def __getitem__(self, place: int) -> Draw: ...
    @overload
    def __getitem__(self, place: slice) -> list[Draw]: ...
    def __getitem__(self, place: int | slice) -> Draw | list[Draw]:
        if isinstance(place, slice):
            return [self[i] for i in range(*place.indices(len(self)))]
        if not -len(self) <= place < len(self):
            raise IndexError(place)
        return Draw(self.seed, self.epoch, int(self.indices[place]), place % self.repeats)


def shuffled(size: int, seed: int, epoch: int, blocks: Sequence[range] = (), window: int = 16) -> Order:
    """Every sample once, in an order that is a function of seed and epoch.

    Args:
        blocks: stretches that are cheap to read together, where single samples are not; then blocks are
            shuffled, and samples within each ``window`` of them.
    """
    generator = generator_of(seed, "order", epoch)
    if not blocks:
        return Order(seed, epoch, torch.randperm(size, generator=generator))
    places = torch.randperm(len(blocks), generator=generator).tolist()
    parts = []
    for first in range(0, len(places), window):
        near = torch.cat(
            [torch.arange(blocks[p].start, blocks[p].stop) for p in places[first : first + window]]
        )
        parts.append(near[torch.randperm(len(near), generator=generator)])
    return Order(seed, epoch, torch.cat(parts))


def repeated(size: int, seed: int, epoch: int, repeats: int) -> Order:
    """Repeated augmentation: a part of the samples, each ``repeats`` times in a row.

    As DeiT's sampler (timm's ``RepeatAugSampler``) has it: the order is a function of the epoch alone, and as
    many draws are made as there are samples, rounded down to a multiple of 256 where there are so many.
    Augmentations differ by seed.
    """
    order = torch.randperm(size, generator=torch.Generator().manual_seed(epoch))
    draws = size // ROUND * ROUND or size
    return Order(seed, epoch, order[: -(-draws // repeats)].repeat_interleave(repeats)[:draws], repeats)


@dataclass(frozen=True)
class Plan:
    """How long a run is and how an update is divided.

    Args:
        epochs: of the run.
        steps: updates in an epoch; what the last whole update leaves over is left out.
        global_batch: samples in an update.
        micro_batch: samples that run at once; within them images are mixed and BatchNorm takes its means.
        seed: of the run.
    """

    epochs: int
    steps: int
    global_batch: int
    micro_batch: int
    seed: int

    @property
    def parts(self) -> int:
        """Micro-batches in an update, over all ranks."""
        return self.global_batch // self.micro_batch

    @property
    def updates(self) -> int:
        """Updates in the run."""
        return self.epochs * self.steps


def make_plan(
    samples: int,
    epochs: int,
    global_batch: int,
    device_batch: int,
    world: int,
    seed: int,
    mixes: bool = False,
) -> Plan:
    """The plan for a training split on ``world`` ranks.

    Args:
        samples: drawn in an epoch.
        device_batch: most samples that run at once; the largest divisor up to it is taken.
        mixes: samples are mixed in pairs, so a micro-batch must be even.

    Raises:
        AttnbenchError: the batch does not fit the data, the ranks or mixing.
    """
    if samples < global_batch:
        raise AttnbenchError(
            f"the training split gives {samples} images an epoch, fewer than the {global_batch} of one "
            f"update; give --global-batch {1 << max(samples.bit_length() - 1, 0)} or less"
        )
    if global_batch % world:
        raise AttnbenchError(f"the global batch {global_batch} cannot be shared by {world} ranks")
    fits = [
        n for n in range(1, min(device_batch, global_batch // world) + 1) if global_batch % (n * world) == 0
    ]
    fits = [n for n in fits if not mixes or n % 2 == 0]
    if not fits:
        raise AttnbenchError(
            f"no even micro-batch up to {device_batch} divides the global batch {global_batch} over {world} "
            "ranks, and images are mixed in pairs; give another --global-batch or --device-batch"
        )
    return Plan(epochs, samples // global_batch, global_batch, fits[-1], seed)


class Batches:
    """The micro-batches of one rank in one epoch: a batch sampler for torch's loader."""

    def __init__(self, plan: Plan, rank: int, world: int) -> None:
        self.plan, self.rank, self.world = plan, rank, world
        self.order: Sequence[Draw] = ()
        self.first = 0

    def begin(self, order: Sequence[Draw], first: int) -> None:
        """The epoch whose draws are ``order`` begins at its update ``first``."""
        self.order, self.first = order, first

    def parts(self) -> range:
        """Numbers of the micro-batches of an update that are this rank's."""
        return range(self.rank, self.plan.parts, self.world)

    def __len__(self) -> int:
        return (self.plan.steps - self.first) * len(self.parts())

    def __iter__(self) -> Iterator[list[Draw]]:
        size, parts = self.plan.global_batch, self.plan.parts
        for step in range(self.first, self.plan.steps):
            stretch = self.order[step * size : (step + 1) * size]
            for part in self.parts():
                yield list(stretch[part::parts])


def to_device(batch: Any, device: torch.device) -> Any:
    """Every tensor in tuples, lists and dictionaries, on a device."""
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, dict):
        return {key: to_device(value, device) for key, value in batch.items()}
    if isinstance(batch, (list, tuple)):
        moved = [to_device(value, device) for value in batch]
        return type(batch)(*moved) if hasattr(batch, "_fields") else type(batch)(moved)
    return batch
