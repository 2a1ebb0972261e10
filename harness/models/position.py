"""The same relative position bias for any attention whose queries and keys are projections of a map.

A bias b(Δ) on the logits, Δ = position of the query − position of the key, can be added without touching the
attention: where b is a sum of waves, b(Δ) = Σ a_f cos(ω_f·Δ) + c_f sin(ω_f·Δ), it is an inner product of a
code of the query's position with a code of the key's. Appended to q and k as further channels of each head,
the codes travel through windows, stripes, gathers and masks, and add b to whatever pair of tokens meets.
The waves are those of the "learned Fourier" codes of Li et al., 2021, "Learnable Fourier Features for
Multi-Dimensional Spatial Positional Encoding", arXiv:2106.02795, with fixed frequencies.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from attnbench.errors import AttnbenchError

WAVES = 16
CHANNELS = 2 * WAVES
"""Channels that the codes add to each head of the queries and of the keys."""


class FourierBias(nn.Module):
    """The learned bias b(Δ) of each head: 2·16 coefficients.

    Four wavelengths (4, 8, 16 and 32 tokens) in four directions.
    """

    frequencies: Tensor

    def __init__(self, num_heads: int) -> None:
        super().__init__()
        self.coefficients = nn.Parameter(nn.init.normal_(torch.empty(num_heads, 2, WAVES), std=0.02))
        angles = torch.arange(4) * math.pi / 4
        directions = torch.stack((angles.sin(), angles.cos()), dim=1)  # (4, 2), rows are (y, x)
        lengths = torch.tensor([4.0, 8.0, 16.0, 32.0])
        waves = (2 * math.pi / lengths)[:, None, None] * directions
        self.register_buffer("frequencies", waves.flatten(0, 1), persistent=False)

    def queries(self, positions: Tensor) -> Tensor:
        """(..., 2) positions (y, x) in tokens to (..., heads, 32) codes of queries."""
        cos, sin = self._waves(positions)
        a, c = self.coefficients.unbind(1)  # each (heads, 16)
        return torch.cat((a * cos + c * sin, a * sin - c * cos), dim=-1)

    def keys(self, positions: Tensor) -> Tensor:
        """(..., 2) positions (y, x) in tokens to (..., heads, 32) codes of keys."""
        cos, sin = (
            wave.expand(*wave.shape[:-2], len(self.coefficients), -1) for wave in self._waves(positions)
        )
        return torch.cat((cos, sin), dim=-1)

    def forward(self, offsets: Tensor) -> Tensor:
        """(..., 2) offsets Δ to (..., heads) biases: what the codes add up to."""
        return (self.queries(offsets) * self.keys(torch.zeros_like(offsets))).sum(-1)

    def _waves(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        y, x = positions.to(self.frequencies.dtype)[..., None, None, :].unbind(-1)  # each (..., 1, 1)
        phase = y * self.frequencies[:, 0] + x * self.frequencies[:, 1]
        return phase.cos(), phase.sin()  # each (..., 1, 16)


class Coded(nn.Module):
    """A projection to queries, keys or values whose heads get position codes, as a linear layer would.

    Args:
        linear: maps (..., C) to the ``parts``, each of h heads.
        parts: which of ``q``, ``k``, ``v`` it yields, in order; ``v`` gets zeros (see :class:`Uncoded`).
        gain: on the content of q, and ``code_gain`` on its codes: what makes up for the scale of the logits.
        size: tells the (batch, height, width) of the module's input.
        plain_values: leave ``v`` as it is.
    """

    def __init__(
        self,
        linear: nn.Linear,
        parts: str,
        bias: FourierBias,
        size: Callable[[], tuple[int, int, int]],
        gain: float,
        code_gain: float,
        plain_values: bool = False,
    ) -> None:
        super().__init__()
        self.linear, self.parts, self.size = linear, parts, size
        self.gain, self.code_gain, self.plain_values = gain, code_gain, plain_values
        self.bias_of = [bias]  # in a list: its parameters belong to the module around, not to each projection

    @property
    def bias(self) -> Tensor | None:
        """The bias of the linear layer, which some mechanisms read."""
        return self.linear.bias

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) or (B, N, C) to its parts with codes, channel = head · (d + 32) + channel."""
        bias = self.bias_of[0]
        heads = len(bias.coefficients)
        positions = self._positions(x)
        out = []
        for name, part in zip(self.parts, self.linear(x).chunk(len(self.parts), dim=-1), strict=True):
            if name == "v" and self.plain_values:
                out.append(part)
                continue
            content = part.unflatten(-1, (heads, -1))
            if name == "q":
                content, code = content * self.gain, bias.queries(positions) * self.code_gain
            elif name == "k":
                code = bias.keys(positions)
            else:
                code = bias.keys(positions) * 0
            code = code.to(content.dtype).expand(*content.shape[:-1], -1)
            out.append(torch.cat((content, code), dim=-1).flatten(-2))
        return torch.cat(out, dim=-1)

    def _positions(self, x: Tensor) -> Tensor:
        """Centres of the tokens of ``x`` on the module's map, in tokens: x.shape[1:-1] + (2,)."""
        batch, height, width = self.size()
        if x.shape[0] != batch:
            raise AttnbenchError("it projects pieces of the map, whose tokens have no place on it any more")
        if x.ndim == 4:
            rows, columns = x.shape[1:3]
            shrunk = rows < height or columns < width  # else it is the map, perhaps padded
            steps = (height / rows, width / columns) if shrunk else (1.0, 1.0)
        else:
            rows, columns, step = _reduced(height, width, x.shape[1])
            steps = (step, step)
        y, x_ = (
            (torch.arange(n, device=x.device, dtype=self.linear.weight.dtype) + 0.5) * step - 0.5
            for n, step in zip((rows, columns), steps, strict=True)
        )
        grid = torch.stack(torch.meshgrid(y, x_, indexing="ij"), dim=-1)
        return grid if x.ndim == 4 else grid.flatten(0, 1)


class Uncoded(nn.Module):
    """The output projection behind coded values: drops the 32 channels of each head, then projects."""

    def __init__(self, linear: nn.Linear, num_heads: int) -> None:
        super().__init__()
        self.linear, self.num_heads = linear, num_heads

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., h·(d + 32)) to (..., C)."""
        return self.linear(x.unflatten(-1, (self.num_heads, -1))[..., :-CHANNELS].flatten(-2))


def _reduced(height: int, width: int, tokens: int) -> tuple[int, int, float]:
    """Rows, columns and step of a map reduced by a whole number; the last cells may be cut off or short."""
    for step in range(1, max(height, width) + 1):
        for rows, columns in ((height // step, width // step), (-(-height // step), -(-width // step))):
            if rows * columns == tokens:
                return rows, columns, float(step)
    raise AttnbenchError(f"{tokens} tokens have no known places on a map of {height} × {width}")
