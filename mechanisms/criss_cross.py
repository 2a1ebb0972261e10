"""Criss-cross attention: every token attends to its row and its column, itself counted once.

Paper: Huang et al., 2019, "CCNet: Criss-Cross Attention for Semantic Segmentation", arXiv:1811.11721.
Code: written from the definition; ``form="ccnet"`` equals CCNet's ``CrissCrossAttention``, applied once.
Differs from the paper by default: several heads, full-width queries and keys, scaled logits, a relative
position bias, an output projection, no residual and no γ: the form that the ablation of CSWin (Table 9)
must have used.
"""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from attnbench.mechanisms._lines import line_bias, same_column, same_row
from attnbench.mechanisms._official import only
from attnbench.registry import Site, register_mechanism


def criss_cross_attention(
    q: Tensor, k: Tensor, v: Tensor, row_bias: Tensor | None = None, column_bias: Tensor | None = None
) -> Tensor:
    """One softmax over the H + W − 1 tokens of a query's row and column; exactly these products are made.

    Args:
        q, k: (B, heads, H, W, d), the queries scaled; v: (B, heads, H, W, e).
        row_bias: (heads, W, W) added to the logits along the row.
        column_bias: (heads, H, H) added to the logits along the column.

    Returns:
        (B, heads, H, W, e).
    """
    H, W = q.shape[2:4]
    row = q @ k.transpose(-2, -1)  # (B, heads, H, W, W)
    if row_bias is not None:
        row = row + row_bias[:, None]
    # Rows other than the query's own: y' = 0, 1, ..., y − 1, y + 1, ...
    y, other = torch.arange(H, device=q.device)[:, None], torch.arange(H - 1, device=q.device)
    other = other + (other >= y)  # (H, H − 1)
    k_others, v_others = (t[:, :, other].transpose(3, 4) for t in (k, v))  # (B, heads, H, W, H − 1, ·)
    column = (q[..., None, :] @ k_others.transpose(-2, -1)).squeeze(-2)  # (B, heads, H, W, H − 1)
    if column_bias is not None:
        column = column + column_bias.gather(2, other.expand(column_bias.shape[0], -1, -1))[:, :, None]
    row, column = torch.cat((row, column), dim=-1).softmax(dim=-1).split((W, H - 1), dim=-1)
    return row.to(v.dtype) @ v + (column.to(v.dtype)[..., None, :] @ v_others).squeeze(-2)


def criss_cross_masked(
    q: Tensor, k: Tensor, v: Tensor, row_bias: Tensor | None = None, column_bias: Tensor | None = None
) -> Tensor:
    """The same from H + W products per query: the column's entry of the query itself is masked.

    Nothing is gathered, so this is the faster one.
    """
    H, W = q.shape[2:4]
    row = q @ k.transpose(-2, -1)  # (B, heads, H, W, W)
    if row_bias is not None:
        row = row + row_bias[:, None]
    column = q.transpose(2, 3) @ k.permute(0, 1, 3, 4, 2)  # (B, heads, W, H, H)
    if column_bias is not None:
        column = column + column_bias[:, None]
    column = column.masked_fill(torch.eye(H, dtype=torch.bool, device=q.device), float("-inf"))
    logits = torch.cat((row, column.transpose(2, 3)), dim=-1)
    row, column = logits.softmax(dim=-1).to(v.dtype).split((W, H), dim=-1)
    return row @ v + (column.transpose(2, 3) @ v.transpose(2, 3)).transpose(2, 3)


@register_mechanism(
    "criss_cross",
    title="Criss-cross",
    paper="arXiv:1811.11721",
    year=2019,
    pattern="static",
    complexity="O(N^1.5)",
    impls=("masked", "eager"),
    goldens=("ccnet_criss_cross",),
)
class CrissCrossAttention(nn.Module):
    """Attention over the row and the column of each token.

    Cost: 4·N·C² (projection) + 2·N·C·(H + W − 1) (attention) MACs; in the form ``ccnet``, with c = ⌊C / 8⌋,
    N·C² + 2·N·C·c (projection) + N·(H + W)·(c + C) (attention), since CCNet makes the product it masks.

    Args:
        site: place in the backbone; sizes the position bias.
        form: ``multihead``, or ``ccnet``: one head, queries and keys of ⌊C / 8⌋ channels, unscaled logits, no
            output projection, and γ · attention + x with γ a scalar that starts at 0.
        position_bias: learn biases per head and distance along the row and along the column; ``None`` for
            yes in the form ``multihead`` and no in ``ccnet``. Distances that do not occur at the site, but
            do on a larger map, take the value of the farthest that does. A token itself takes the row's.
        qkv_bias: learn a bias in the query, key and value projections.
        impl: ``eager`` (makes H + W − 1 products per query, on gathered copies of the column) or ``masked``
            (makes H + W and masks one). The form ``ccnet`` is always masked.

    Raises:
        ValueError: ``form`` is unknown, or the site has fewer than the 8 channels that ``ccnet`` needs.
    """

    bare: ClassVar[dict[str, Any]] = {"position_bias": False}

    def __init__(
        self,
        site: Site,
        *,
        form: str = "multihead",
        position_bias: bool | None = None,
        qkv_bias: bool = True,
        impl: str = "eager",
    ) -> None:
        super().__init__()
        if form not in ("multihead", "ccnet"):
            raise ValueError(f"form must be 'multihead' or 'ccnet', got {form!r}")
        if form == "ccnet" and site.dim < 8:
            raise ValueError(f"form 'ccnet' needs a dim of at least 8, got {site.dim}")
        ccnet = form == "ccnet"
        self.form, self.dim, self.qkv_bias = form, site.dim, qkv_bias
        self.impl = "masked" if ccnet else impl
        self.num_heads = 1 if ccnet else site.num_heads
        self.key_dim = site.dim // 8 if ccnet else site.dim  # of all heads together
        self.attend = criss_cross_masked if ccnet or impl == "masked" else criss_cross_attention
        if ccnet:
            self.query = nn.Linear(self.dim, self.key_dim, bias=qkv_bias)
            self.key = nn.Linear(self.dim, self.key_dim, bias=qkv_bias)
            self.value = nn.Linear(self.dim, self.dim, bias=qkv_bias)
            self.gamma = nn.Parameter(torch.zeros(1))
        else:
            self.qkv = nn.Linear(self.dim, 3 * self.dim, bias=qkv_bias)
            self.proj = nn.Linear(self.dim, self.dim)
        self.row_table: nn.Parameter | None = None
        self.column_table: nn.Parameter | None = None
        if position_bias or (position_bias is None and not ccnet):
            # The middle entry of the column's table is never used: the token itself belongs to the row.
            self.row_table, self.column_table = (
                nn.Parameter(nn.init.normal_(torch.empty(2 * n - 1, self.num_heads), std=0.02))
                for n in (site.width, site.height)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        ccnet = self.form == "ccnet"
        parts = (self.query(x), self.key(x), self.value(x)) if ccnet else self.qkv(x).chunk(3, dim=-1)
        # Each (B, heads, H, W, ·).
        q, k, v = (part.unflatten(-1, (self.num_heads, -1)).permute(0, 3, 1, 2, 4) for part in parts)
        if not ccnet:
            q = q * q.shape[-1] ** -0.5
        rows, columns = (
            None if table is None else line_bias(table, length).to(q.dtype)
            for table, length in ((self.row_table, x.shape[2]), (self.column_table, x.shape[1]))
        )
        out = self.attend(q, k, v, rows, columns).permute(0, 2, 3, 1, 4).flatten(3)
        return self.gamma * out + x if ccnet else self.proj(out)

    def macs(self, height: int, width: int) -> dict[str, int]:
        """Multiply-adds per image on a height × width map, by phase."""
        n, c, d = height * width, self.dim, self.key_dim
        ccnet = self.form == "ccnet"
        keys = height + width - (0 if ccnet else 1)
        return {
            "projection": n * c * (2 * d + (c if ccnet else 2 * c)),
            "attention": n * keys * (c + d),
        }

    def macs_useful(self, height: int, width: int) -> dict[str, int]:
        """Multiply-adds less those of the product that ``ccnet`` masks: a token with itself, by column."""
        pairs = height * width * (height + width - 1)
        return {**self.macs(height, width), "attention": pairs * (self.dim + self.key_dim)}

    def parameter_count(self) -> int:
        """Learned parameters: 4·C² + C, or C² + 2·C·c + 1 in the form ``ccnet``; biases; position tables."""
        c, d = self.dim, self.key_dim
        count = c**2 + 2 * c * d + (c + 2 * d if self.qkv_bias else 0)
        count += 1 if self.form == "ccnet" else c**2 + c
        tables = (self.row_table, self.column_table)
        return count + sum(table.shape[0] * self.num_heads for table in tables if table is not None)

    def support(self, height: int, width: int) -> Tensor:
        """(N, N) bool: output token i depends on the input tokens of its row and of its column."""
        return same_row(height, width) | same_column(height, width)

    @classmethod
    def from_official(cls, case: dict[str, Any], impl: str = "eager") -> tuple[nn.Module, dict[str, str]]:
        """CCNet's ``CrissCrossAttention``; the official code repeats it with shared weights outside."""
        _, H, W, C = case["input_shape"]
        only(case["kwargs"], in_dim=C)
        module = cls(Site(C, 1, H, W), form="ccnet", impl=impl)
        return module, {f"{name}_conv.": f"{name}." for name in ("query", "key", "value")}
