"""Row attention: every token attends to the tokens of its row. Put your own idea here, and its paper."""

import torch
from torch import Tensor, nn

from attnbench import Site, register_mechanism


# pattern: are the places that are read fixed (static), or chosen by the image, or by each query?
@register_mechanism("row_attention", title="Row attention", pattern="static", complexity="O(N^1.5)")
class RowAttention(nn.Module):
    def __init__(self, site: Site) -> None:  # has dim, num_heads, head_dim, height, width, stage, block
        super().__init__()
        self.dim, self.num_heads, self.scale = site.dim, site.num_heads, site.head_dim**-0.5
        self.qkv = nn.Linear(site.dim, 3 * site.dim)
        self.proj = nn.Linear(site.dim, site.dim)

    def forward(self, x: Tensor) -> Tensor:  # (B, H, W, C) to (B, H, W, C), for any H and W
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, -1))
        q, k, v = qkv.movedim((3, 4), (0, 2))  # each (B, heads, H, W, head_dim)
        weights = (self.scale * q @ k.transpose(-2, -1)).softmax(-1)
        return self.proj((weights @ v).movedim(1, 3).flatten(3))

    def macs(self, height: int, width: int) -> dict[str, int]:  # multiply-adds per image; check counts them
        tokens = height * width
        return {"projection": 4 * tokens * self.dim**2, "attention": 2 * tokens * width * self.dim}

    def parameter_count(self) -> int:
        return 4 * self.dim**2 + 4 * self.dim

    def support(self, height: int, width: int) -> Tensor:  # (N, N) bool: may output i depend on input j?
        row = torch.arange(height * width) // width
        return row[:, None] == row
