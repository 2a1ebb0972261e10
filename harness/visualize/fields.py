"""What one token can depend on after n blocks, from ``support``, and what it does depend on, from gradients.

The measured field is the effective receptive field of Luo et al., 2016, "Understanding the Effective
Receptive Field in Deep Convolutional Neural Networks", arXiv:1701.04128, here of a token by the tokens of
earlier maps.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attnbench.harness.models.backbone import Backbone

DIRECTIONS = 16
CORE = 0.95


@dataclass(frozen=True)
class Field:
    """The field of a token at the input of the block that many blocks back (its own counts as one).

    Args:
        blocks: blocks between this map and the token's.
        stage, block: whose input it is.
        reach: (H, W) bool, from ``support``; ``None`` where a mechanism on the way declares none.
        measured: (H, W), Frobenius norm of the derivative, its largest 1 unless all are zero.
    """

    blocks: int
    stage: int
    block: int
    reach: Tensor | None
    measured: Tensor

    @property
    def core(self) -> int:
        """The fewest tokens that hold 95 % of the squared derivative."""
        squares = self.measured.flatten().square().sort(descending=True).values
        share = squares.cumsum(0) / squares.sum().clamp_min(1e-300)
        return int((share < CORE).sum()) + 1 if squares.sum() > 0 else 0


def fields(model: Backbone, images: Tensor, stage: int, block: int, token: int) -> list[Field]:
    """Fields of one token of a block's output, from that block's input back to the first block's.

    Args:
        model: in evaluation mode.
        images: (1, in_chans, height, width).
        stage, block: whose output the token is of, from 0.
        token: its number, row-major.
    """
    states, output = _run(model, images, stage, block)
    measured = _measure(output, [state for _, _, state in states], token)
    places = [(s, b, (x.shape[1], x.shape[2])) for s, b, x in states]
    reached = _reach(model, places, token)
    backwards = list(zip(states, measured, strict=True))[::-1]
    return [
        Field(n, s, b, mask, found)
        for n, (((s, b, _), found), mask) in enumerate(zip(backwards, reached, strict=True), start=1)
    ]


def _run(
    model: Backbone, images: Tensor, stage: int, block: int
) -> tuple[list[tuple[int, int, Tensor]], Tensor]:
    """Inputs of all blocks up to one, each with stage and block, and the output of that one."""
    states = []
    x = model.patch_embed(images).detach().requires_grad_()
    for s in range(stage + 1):
        part: Any = model.layers[s]
        x = part.downsample(x)
        for b in range(block + 1 if s == stage else len(part.blocks)):
            states.append((s, b, x))
            x = part.blocks[b](x)
    return states, x


def _measure(output: Tensor, states: Sequence[Tensor], token: int) -> list[Tensor]:
    """(H, W) for each state: root of the mean square of the token's derivative in random directions."""
    y = output.flatten(1, 2)[0, token]
    generator = torch.Generator().manual_seed(0)
    squares = [state.new_zeros(state.shape[1:3]) for state in states]
    for _ in range(DIRECTIONS):
        direction = torch.randn(len(y), generator=generator, dtype=y.dtype).to(y.device)
        found = torch.autograd.grad(y, states, direction, retain_graph=True, allow_unused=True)
        for square, gradient in zip(squares, found, strict=True):
            if gradient is not None:
                square += gradient[0].square().sum(-1)
    return [(square / square.max().clamp_min(1e-300)).sqrt() for square in squares]


def _reach(
    model: Backbone, places: Sequence[tuple[int, int, tuple[int, int]]], token: int
) -> Iterator[Tensor | None]:
    """(H, W) bool at the input of each block, from the last back to the first."""
    mask: Tensor | None = torch.zeros(places[-1][2], dtype=torch.bool)
    mask.view(-1)[token] = True  # type: ignore[union-attr]
    for index in reversed(range(len(places))):
        s, b, _ = places[index]
        stage: Any = model.layers[s]
        mask = None if mask is None else _through_block(stage.blocks[b], mask)
        yield mask
        if b == 0 and s > 0 and mask is not None:
            mask = _through_merging(
                mask, places[index - 1][2], overlapped=model.layout.merging == "overlapped"
            )


def _through_block(block: Any, mask: Tensor) -> Tensor | None:
    """Tokens of a block's input on which those of its output depend; the residual keeps them themselves."""
    if not hasattr(block.attn, "support"):
        return None
    support = block.attn.support(*mask.shape)
    mask = mask | support[mask.flatten()].any(0).view_as(mask)
    return _dilated(mask, block.pos_embed)


def _dilated(mask: Tensor, convolution: nn.Conv2d | None) -> Tensor:
    """Tokens that a convolution of stride 1 reads for those of its output."""
    if convolution is None:
        return mask
    side = convolution.kernel_size[0]
    return F.max_pool2d(mask[None, None].float(), side, stride=1, padding=side // 2)[0, 0] > 0


def _through_merging(mask: Tensor, before: tuple[int, ...], overlapped: bool) -> Tensor:
    """Tokens of a stage's last map from which those of the next stage's first are made."""
    wide = mask.repeat_interleave(2, 0).repeat_interleave(2, 1)
    if overlapped:  # 3 × 3 of stride 2: one more row above and one more column to the left
        up = F.pad(wide, (0, 0, 0, 1))[1:] | wide
        wide = F.pad(up, (0, 1))[:, 1:] | up
    return wide[: before[0], : before[1]]
