"""QuadTree attention: attend coarsely, then only inside the quarters of the most relevant coarse keys.

Paper: Tang et al., 2022, "QuadTree Attention for Vision Transformers", arXiv:2201.02767.
Code: written from the definition; equal to the official ``QuadtreeAttention``, whose two CUDA operators
are a gather and a matrix product here.
Differs from the paper: any map is accepted. A level has ⌈H/2⌉ × ⌈W/2⌉ tokens of the one below it; a pooled
token is the mean of the real tokens under it; a child that does not exist is never attended to; the
value branch of type B normalises over real tokens and sees zeros where its 2 × 2 convolution reaches
over the edge. Fewer than ``topk`` keys are all selected. A single level of type A keeps all of its
keys, where the official code drops the best ones (``drop_unrefined=True``).
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attnbench.mechanisms._local import DepthwiseConv
from attnbench.mechanisms._official import NO_DROPOUT, ignored, only
from attnbench.mechanisms._windows import merge, pad_map, partition
from attnbench.registry import Site, register_mechanism
from attnbench.scaling_rules import Rule

QUAD = (2, 2)


def quadtree_attention(
    queries: Sequence[Tensor],
    keys: Sequence[Tensor],
    values: Sequence[Tensor],
    *,
    topk: int,
    scale: float,
    form: str = "B",
    drop_unrefined: bool = False,
) -> list[Tensor]:
    """Attend from the coarsest level of a pyramid to the finest.

    A query of a finer level sees the children of the keys that its parent selected. Type B takes one
    softmax over them; type A takes one among each four siblings, times the score of their parent, and
    leaves out of the message what the next level refines. Selection is per query and head.

    Args:
        queries, keys, values: per level, finest first, (B, heads, H, W, d); the next level has
            ⌈H/2⌉ × ⌈W/2⌉ tokens.
        topk: keys that a query selects; all of them where a level has fewer.
        scale: factor on the logits.
        form: ``A`` or ``B``.
        drop_unrefined: drop the selected keys of a type-A pyramid of one level (official), which has
            no level below to bring them back.

    Returns:
        The message of each level, coarsest first, each of its level's shape.
    """
    messages: list[Tensor] = []
    chosen = score = None  # (B, heads, N, k) key selected at the level above, and its score
    for level in reversed(range(len(queries))):
        q, k, v = queries[level], keys[level], values[level]
        H, W = q.shape[2:4]
        coarsest, finest = level == len(queries) - 1, level == 0
        missing = children = None
        if chosen is None:
            # One group: all queries of the level see all of its keys.
            q, k, v = (t.flatten(2, 3).unsqueeze(2) for t in (q, k, v))
        else:
            table, missing = _children(H, W, q.device)
            children = table[chosen]  # (B, heads, P, k, 4)
            if missing is not None:
                missing = missing[chosen].flatten(3).unsqueeze(3)  # (B, heads, P, 1, 4k)
            # Four siblings form a group P; they share their parent's selection.
            q = partition(pad_map(q, QUAD), QUAD)
            k, v = (_gather(t, children.flatten(3)) for t in (k, v))
        logits = (q * scale) @ k.transpose(-2, -1)  # (B, heads, P, queries, candidates)
        if missing is not None:
            logits = logits.masked_fill(missing, float("-inf"))
        if form == "B" or score is None:
            weights = logits.softmax(dim=-1)
        else:
            siblings = logits.unflatten(-1, (-1, 4)).softmax(dim=-1)
            weights = (siblings * score[:, :, :, None, :, None]).flatten(-2)
        if not finest or (drop_unrefined and coarsest and form == "A"):
            best, score = _select(weights, missing, min(topk, H * W))
            if form == "A":
                weights = weights.scatter(-1, best, 0.0)
            if children is not None:
                best = children.flatten(3).unsqueeze(3).expand(*logits.shape).gather(-1, best)
            chosen, score = (_to_map(t, (H, W)).flatten(2, 3) for t in (best, score))
        messages.append(_to_map(weights @ v, (H, W)))
    return messages


def _children(height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor | None]:
    """(parents, 4) index of each parent's children on a height × width map, and where they do not exist.

    Children are ordered by row, then column. A missing child has its top left sibling's index; the
    second table is None if all exist.
    """
    y, x = (torch.arange(-(-n // 2), device=device) * 2 for n in (height, width))
    step = torch.arange(2, device=device)
    rows = (y[:, None] + step).view(-1, 1, 2, 1)  # (parent row, parent column, child row, child column)
    columns = (x[:, None] + step).view(1, -1, 1, 2)
    missing = (rows >= height) | (columns >= width)
    index = torch.where(missing, (y[:, None] * width + x)[..., None, None], rows * width + columns)
    some = bool(height % 2 or width % 2)
    return index.reshape(-1, 4), missing.reshape(-1, 4) if some else None


def _gather(x: Tensor, index: Tensor) -> Tensor:
    """Tokens of x (B, heads, H, W, d) at index (B, heads, P, S): (B, heads, P, S, d)."""
    B, heads, H, W, d = x.shape
    first = torch.arange(B * heads, device=x.device).mul(H * W).view(B, heads, 1, 1)
    # Copies whole rows: several times faster than torch.gather, above all backward.
    return F.embedding(index + first, x.reshape(-1, d))


def _select(weights: Tensor, missing: Tensor | None, k: int) -> tuple[Tensor, Tensor]:
    """Place and weight of the k heaviest candidates; gradients flow through the weight, not the choice.

    There always are k that exist: a parent has at least one child, and either k parents were selected
    or all there are.
    """
    rank = weights.detach()
    if missing is not None:
        rank = rank.masked_fill(missing, -1.0)  # below a real candidate whose weight underflowed to 0
    best = rank.topk(k, dim=-1).indices
    return best, weights.gather(-1, best)


def _to_map(groups: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, heads, P, queries, ·) in group order to (B, heads, H, W, ·)."""
    if groups.shape[2] == 1 and groups.shape[3] == size[0] * size[1]:
        return groups.view(*groups.shape[:2], *size, -1)
    return merge(groups, QUAD, size)


def _enlarge(x: Tensor, like: Tensor) -> Tensor:
    """Repeat each token of (B, h, w, C) over its children: the shape of ``like``."""
    B, h, w, C = x.shape
    doubled = x[:, :, None, :, None].expand(B, h, 2, w, 2, C).reshape(B, 2 * h, 2 * w, C)
    return doubled[:, : like.shape[1], : like.shape[2]]


class _ValueBranch(nn.Sequential):
    """Half as many values: norm, GELU, 2 × 2 convolution of stride 2, norm, GELU, 1 × 1 convolution."""

    def __init__(self, dim: int) -> None:
        super().__init__(
            nn.GroupNorm(1, dim),
            nn.GELU(),
            nn.Conv2d(dim, dim, 2, stride=2),
            nn.GroupNorm(1, dim),
            nn.GELU(),
            nn.Conv2d(dim, dim, 1),
        )

    def forward(self, v: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, ⌈H/2⌉, ⌈W/2⌉, C)."""
        y, (_, H, W, _) = v.permute(0, 3, 1, 2), v.shape
        for i, layer in enumerate(self):
            # Padding comes after the normalisation, so that its statistics know real tokens only.
            y = layer(F.pad(y, (0, W % 2, 0, H % 2)) if i == 2 else y)
        return y.permute(0, 2, 3, 1)


@register_mechanism(
    "quadtree",
    title="QuadTree",
    paper="arXiv:2201.02767",
    year=2022,
    pattern="query",
    complexity="O(N)",
    per_stage={"levels": (4, 3, 2, 1)},
    goldens=("quadtree",),
)
class QuadTreeAttention(nn.Module):
    """Attention over a pyramid of keys, refined where each query of each head looks.

    Cost, with N_i tokens and k_i = min(topk, N_i) selected keys at level i (0 the finest of L):
    4·N·C² (projection) + 2·N_{L−1}²·C + Σ_{i<L−1} 2·(4·N_{i+1})·(4·k_{i+1})·C (attention); type B adds
    5·C²·Σ_{i≥1} N_i (sampling: its value branch) and lepe_kernel²·C·Σ N_i (local: LePE) MACs.
    4·N_{i+1} is N_i plus padding to whole quads.

    Args:
        site: place in the backbone.
        levels: levels L of the pyramid; 1 is full attention.
        topk: keys that each query and head selects at a level to be refined at the next.
        form: ``A`` (scores are handed down and values average-pooled) or ``B`` (a softmax per
            level, a learned branch for the values and learned weights of the levels; the paper's
            classification models).
        lepe_kernel: type B only: odd size of the depth-wise convolution of the values at each level; 0 for
            none.
        qkv_bias: learn a bias in the query, key and value projections.
        drop_unrefined: see :func:`quadtree_attention`.

    Raises:
        ValueError: ``levels`` or ``topk`` is not positive, or ``form`` is neither ``A`` nor ``B``.
    """

    bare: ClassVar[dict[str, Any]] = {"lepe_kernel": 0}

    growth: ClassVar[tuple[Rule, ...]] = (
        # As many levels, each half as fine, as leave a coarsest map of about 7 tokens a side, as at 224 px.
        Rule(
            "",
            "topk fixed, levels added",
            lambda site, defaults: {"levels": max(1, (max(site.height, site.width) // 7).bit_length())},
        ),
        Rule("two levels", "topk and two levels fixed", lambda *_: {"levels": 2}, 2.0),
    )

    def __init__(
        self,
        site: Site,
        *,
        levels: int = 1,
        topk: int = 8,
        form: str = "B",
        lepe_kernel: int = 3,
        qkv_bias: bool = False,
        drop_unrefined: bool = False,
    ) -> None:
        super().__init__()
        if levels < 1 or topk < 1:
            raise ValueError(f"levels and topk must be positive, got {levels} and {topk}")
        if form not in ("A", "B"):
            raise ValueError(f"form must be 'A' or 'B', got {form!r}")
        self.dim, self.num_heads, self.head_dim = site.dim, site.num_heads, site.head_dim
        self.levels, self.topk, self.form, self.lepe_kernel = levels, topk, form, lepe_kernel
        self.drop_unrefined = drop_unrefined
        self.q_proj, self.k_proj, self.v_proj = (
            nn.Linear(self.dim, self.dim, bias=qkv_bias) for _ in range(3)
        )
        self.proj = nn.Linear(self.dim, self.dim)
        self.level_weight: nn.Parameter | None = None
        self.value_branches, self.lepe = nn.ModuleList(), nn.ModuleList()
        if form == "B":
            self.level_weight = nn.Parameter(torch.randn(levels))
            self.value_branches.extend(_ValueBranch(self.dim) for _ in range(levels - 1))
            if lepe_kernel:  # coarsest first, as the weights
                self.lepe.extend(DepthwiseConv(self.dim, lepe_kernel) for _ in range(levels))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        queries, keys = self._pooled(self.q_proj(x)), self._pooled(self.k_proj(x))
        values = self._value_pyramid(self.v_proj(x))
        messages = quadtree_attention(
            *([self._split(t) for t in pyramid] for pyramid in (queries, keys, values)),
            topk=self.topk,
            scale=self.head_dim**-0.5,
            form=self.form,
            drop_unrefined=self.drop_unrefined,
        )
        weight = None if self.level_weight is None else self.level_weight.softmax(dim=0)
        out: Tensor | None = None
        for i, message in enumerate(messages):
            message = message.permute(0, 2, 3, 1, 4).flatten(3)  # (B, H_i, W_i, C)
            if self.lepe:
                message = message + self.lepe[i](values[-1 - i])
            if weight is not None:
                message = message * weight[i]
            out = message if out is None else _enlarge(out, message) + message
        return self.proj(out)

    def macs(self, height: int, width: int) -> dict[str, int]:
        """Multiply-adds per image on a height × width map, by phase."""
        c, tokens = self.dim, self._tokens(height, width)
        attention = 2 * tokens[-1] ** 2 * c
        attention += sum(2 * (4 * n) * (4 * min(self.topk, n)) * c for n in tokens[1:])
        cost = {"projection": 4 * tokens[0] * c**2, "attention": attention}
        if self.value_branches:
            cost["sampling"] = 5 * c**2 * sum(tokens[1:])
        if self.lepe:
            cost["local"] = self.lepe_kernel**2 * c * sum(tokens)
        return cost

    def parameter_count(self) -> int:
        """4·C² + C, 3·C for the qkv bias; type B: L weights, (L−1)(5·C² + 6·C), LePE of each level."""
        c, levels = self.dim, self.levels
        count = 4 * c**2 + c + (3 * c if self.q_proj.bias is not None else 0)
        if self.form == "B":
            lepe = len(self.lepe) * (self.lepe_kernel**2 + 1) * c
            count += levels + (levels - 1) * (5 * c**2 + 6 * c) + lepe
        return count

    def support(self, height: int, width: int) -> Tensor:
        """(N, N) bool: all, since every query scores pooled keys of the whole map."""
        n = height * width
        return torch.ones(n, n, dtype=torch.bool)

    def _tokens(self, height: int, width: int) -> list[int]:
        """Tokens of each level, finest first."""
        return [-(-height // 2**i) * -(-width // 2**i) for i in range(self.levels)]

    def _split(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to (B, heads, H, W, d)."""
        return x.unflatten(-1, (self.num_heads, self.head_dim)).permute(0, 3, 1, 2, 4)

    def _pooled(self, x: Tensor) -> list[Tensor]:
        """Pyramid of means over the real tokens of squares of side 1, 2, 4, ..."""
        image = x.permute(0, 3, 1, 2)
        coarser = (
            F.avg_pool2d(image, 2**i, ceil_mode=True, count_include_pad=False) for i in range(1, self.levels)
        )
        return [x, *(t.permute(0, 2, 3, 1) for t in coarser)]

    def _value_pyramid(self, v: Tensor) -> list[Tensor]:
        """The values of each level, finest first, (B, H_i, W_i, C)."""
        if self.form == "A":
            return self._pooled(v)
        pyramid = [v]
        for branch in self.value_branches:
            pyramid.append(branch(pyramid[-1]))
        return pyramid

    @staticmethod
    def full_attention_limit(height: int, width: int) -> dict[str, Any]:
        """Options under which this is full attention on a height × width map."""
        return {"levels": 1, "lepe_kernel": 0}

    @classmethod
    def from_official(cls, case: dict[str, Any]) -> tuple[nn.Module, dict[str, str]]:
        """``QuadtreeAttention`` of the classification models; it ignores its argument ``qk_scale``."""
        kwargs = case["kwargs"]
        _, H, W, C = case["input_shape"]
        only(kwargs, dim=C, **NO_DROPOUT)
        ignored(kwargs, "qk_scale")
        module = cls(
            Site(C, kwargs.get("num_heads", 8), H, W),
            levels=kwargs.get("sr_ratio", 1),
            form="B" if kwargs.get("attn_type") == "B" else "A",  # official default: None, meaning A
            qkv_bias=kwargs.get("qkv_bias", False),
            drop_unrefined=True,
        )
        renamed = {
            "py_att.weight": "level_weight",
            "py_att.get_vs.": "lepe.",
            "value_branchs.": "value_branches.",
        }
        return module, renamed
