"""Attention to the square of tokens around each query: the rule, gathering as defined, and halo tiles.

A query's window is the product of one window along each axis, so an :class:`Axis` holds the whole rule.
With dilation D, token i of an axis is place p = i div D of class r = i mod D, and sees its own class only.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from attnbench.mechanisms._attend import attend

TILE = 7
"""Queries of a tile along one axis. 7 × 7 queries share the 13 × 13 keys of their 7 × 7 windows: enough for
matrix products to run at speed, and little enough that a good part of what they compute is wanted."""

Tables = tuple[Tensor, Tensor, Tensor]
"""Flat index of the keys to fetch, and bias entries along H and along W (see :meth:`Axis.entry`)."""


@dataclass(frozen=True)
class Axis:
    """Which tokens of an axis a token attends to.

    Args:
        length: tokens of the axis.
        kernel: keys per query, K.
        dilation: distance between neighbouring keys, D.
        inward: at a border the window moves inwards, so that it holds min(K, class length) real keys
            (neighborhood attention); otherwise it stays centred and loses what lies outside the map.
    """

    length: int
    kernel: int
    dilation: int = 1
    inward: bool = True

    @property
    def classes(self) -> int:
        """Dilation classes that hold a token."""
        return min(self.dilation, self.length)

    @property
    def longest(self) -> int:
        """Tokens of the longest class; where the axis does not divide, some classes have one less."""
        return -(-self.length // self.classes)

    @property
    def slots(self) -> int:
        """Keys fetched per query by :func:`gathered`; those that do not exist are masked."""
        return min(self.kernel, self.longest) if self.inward else self.kernel

    @property
    def reach(self) -> int:
        """Largest distance of a key from its query, in places of the class."""
        return self.kernel - 1 if self.inward else self.kernel // 2

    @property
    def tiling(self) -> tuple[int, int, int]:
        """Tiles per class, queries per tile and keys per tile of :func:`tiled`.

        A class hardly longer than the keys of one tile is one tile: dense attention, whose keys need no
        copies. With K = 7 that is up to 14 tokens; from 16 on, tiles were measured to be faster.
        """
        if self.longest <= TILE + self.kernel:
            return 1, self.longest, self.longest
        tiles = -(-self.longest // TILE)
        queries = -(-self.longest // tiles)
        return tiles, queries, min(queries + self.kernel - 1, self.longest)

    def class_length(self, r: Tensor) -> Tensor:
        """Tokens of class ``r``."""
        return (self.length - r + self.classes - 1) // self.classes

    def first(self, r: Tensor, p: Tensor) -> Tensor:
        """First place of the window of the query at place ``p`` of class ``r``; negative outside the map."""
        n = self.class_length(r)
        start = p.minimum(n - 1) - self.kernel // 2  # a query in the padding does as the last real one does
        return start.minimum(n - self.kernel).clamp_min(0) if self.inward else start

    def entry(self, r: Tensor, p: Tensor, j: Tensor) -> Tensor:
        """Place in a bias table, key − query + reach, of the key at place ``j`` for that query.

        It is 2·reach + 1, one past the table's end, where the query does not attend to the key.
        """
        n, first = self.class_length(r), self.first(r, p)
        seen = (j >= first) & (j < first + self.kernel) & (j >= 0) & (j < n)
        return torch.where(seen, j - p.minimum(n - 1) + self.reach, 2 * self.reach + 1)

    def slot_tables(self, device: torch.device | None) -> tuple[Tensor, Tensor]:
        """(length, slots) twice: the index on the axis of each query's keys, and their bias entries."""
        i = torch.arange(self.length, device=device)[:, None]
        r, p = i % self.classes, i // self.classes
        j = self.first(r, p) + torch.arange(self.slots, device=device)
        return (r + j * self.classes).clamp(0, self.length - 1), self.entry(r, p, j)

    def tile_tables(self, device: torch.device | None) -> tuple[Tensor, Tensor]:
        """(tiles, keys) places of each tile's keys; (classes or 1, tiles, queries, keys) bias entries."""
        tiles, queries, keys = self.tiling
        corner = torch.arange(tiles, device=device)[:, None] * queries
        # The block is clamped to the longest class. A class with one token less still finds its windows in
        # it, because a block is longer than a window or else holds the class.
        j = (corner - self.kernel // 2).clamp(0, self.longest - keys) + torch.arange(keys, device=device)
        p = (corner + torch.arange(queries, device=device))[..., None]
        classes = self.classes if self.length % self.classes else 1  # equal ones share one set of windows
        r = torch.arange(classes, device=device)[:, None, None, None]
        return j, self.entry(r, p, j[:, None])

    def pair_table(self, device: torch.device | None = None) -> Tensor:
        """(length, length): the bias entry of query i and key j, 2·reach + 1 where i does not attend to j."""
        i = torch.arange(self.length, device=device)
        r, p = i % self.classes, i // self.classes
        entry = self.entry(r[:, None], p[:, None], p[None, :])
        return torch.where(r[:, None] == r[None, :], entry, 2 * self.reach + 1)

    def support(self) -> Tensor:
        """(length, length) bool: query i attends to key j."""
        return self.pair_table() <= 2 * self.reach


def slot_tables(rows: Axis, columns: Axis, device: torch.device | None = None) -> Tables:
    """Tables of :func:`gathered`: the index has H·W·(slots of rows)·(slots of columns) entries."""
    (y, entry_y), (x, entry_x) = rows.slot_tables(device), columns.slot_tables(device)
    index = y[:, None, :, None] * columns.length + x[None, :, None, :]
    return index.flatten(), entry_y, entry_x


def tile_tables(rows: Axis, columns: Axis, device: torch.device | None = None) -> Tables:
    """Tables of :func:`tiled`: the index lists the keys of each tile within their dilation class."""
    (y, entry_y), (x, entry_x) = rows.tile_tables(device), columns.tile_tables(device)
    (_, qy, _), (tx, qx, _) = rows.tiling, columns.tiling
    y, x = y[:, None, :, None], x[None, :, None, :]
    # Keys are stored tile by tile, as queries are: (y, x) is row y mod qy, column x mod qx of its tile.
    index = ((y // qy * tx + x // qx) * qy + y % qy) * qx + x % qx
    return index.flatten(), entry_y, entry_x


def bias_at(table: Tensor | None, rows: Axis, columns: Axis, tables: Tables, like: Tensor) -> Tensor:
    """Position bias at the entries of ``tables``, −inf where a key is masked, in the dtype of ``like``.

    Args:
        table: (heads, 2·reach + 1, 2·reach + 1) by key − query + reach; None for no position bias.

    Returns:
        (heads or 1, *shape of the entries along H, *shape of those along W).
    """
    _, y, x = tables
    if table is None:
        table = like.new_zeros(1, 2 * rows.reach + 1, 2 * columns.reach + 1)
    table = F.pad(table.to(like.dtype), (0, 1, 0, 1), value=float("-inf"))
    # One axis after the other: two short lists of long slices, in the backward pass too.
    bias = table.index_select(1, y.flatten()).index_select(2, x.flatten())
    return bias.unflatten(2, x.shape).unflatten(1, y.shape)


def take(tokens: Tensor, index: Tensor) -> Tensor:
    """Tokens (..., N, d) at ``index`` (T,): (..., T, d).

    An embedding lookup, because its backward pass is many times faster on a CPU than that of indexing.
    """
    rows = tokens.flatten(0, -2)
    start = torch.arange(0, rows.shape[0], tokens.shape[-2], device=index.device)
    return F.embedding(start[:, None] + index, rows).view(*tokens.shape[:-2], *index.shape, tokens.shape[-1])


def gathered(
    qkv: Tensor, rows: Axis, columns: Axis, tables: Tables, *, scale: float, bias_table: Tensor | None = None
) -> Tensor:
    """Attention with the keys and values of each query gathered, as the definition says it.

    Cost: 2·N·(slots of rows)·(slots of columns)·C MACs, C = heads · d.

    Args:
        qkv: (B, H, W, 3, heads, d).
        rows, columns: windows along H and along W.
        tables: :func:`slot_tables` of the two.
        scale: factor on the logits.
        bias_table: position bias, as in :func:`bias_at`.

    Returns:
        (B, H, W, heads · d).
    """
    B, H, W, _, heads, d = qkv.shape
    slots = rows.slots * columns.slots
    q, k, v = qkv.permute(3, 0, 4, 1, 2, 5).flatten(3, 4)  # each (B, heads, N, d)
    k, v = (take(t, tables[0]).unflatten(2, (H * W, slots)) for t in (k, v))
    bias = bias_at(bias_table, rows, columns, tables, q)  # (heads, H, slots of rows, W, slots of columns)
    bias = bias.transpose(2, 3).reshape(-1, H * W, 1, slots)
    out = attend(q.unsqueeze(-2), k, v, scale=scale, bias=bias)  # (B, heads, N, 1, d)
    return out.view(B, heads, H, W, d).permute(0, 2, 3, 1, 4).reshape(B, H, W, heads * d)


def tiled(
    qkv: Tensor, rows: Axis, columns: Axis, tables: Tables, *, scale: float, bias_table: Tensor | None = None
) -> Tensor:
    """The same by tiles of queries that share one block of keys, under a mask.

    Each dilation class is a map of its own; a small one is a single tile, that is, dense attention with a
    mask. Arguments and result are those of :func:`gathered`, with ``tables`` from :func:`tile_tables`.
    It issues more MACs than the definition: 2·C times the sum over tiles of queries × keys.
    """
    B, H, W, _, heads, d = qkv.shape
    (ty, qy, ky), (tx, qx, kx) = rows.tiling, columns.tiling
    ry, rx = rows.classes, columns.classes
    bottom, right = ty * qy * ry - H, tx * qx * rx - W
    if bottom or right:
        qkv = F.pad(qkv, (0, 0, 0, 0, 0, 0, 0, right, 0, bottom))
    cells = qkv.reshape(B, ty, qy, ry, tx, qx, rx, 3, heads, d)  # token (t·q + place) · D + class
    q, k, v = cells.permute(7, 0, 8, 3, 6, 1, 4, 2, 5, 9).reshape(3, B, heads, ry, rx, ty, tx, qy * qx, d)
    if ty * tx > 1:
        k, v = (take(t.flatten(-4, -2), tables[0]).view(*q.shape[:-2], ky * kx, d) for t in (k, v))
    bias = bias_at(bias_table, rows, columns, tables, q)  # (heads, ry or 1, ty, qy, ky, rx or 1, tx, qx, kx)
    bias = bias.permute(0, 1, 5, 2, 6, 3, 7, 4, 8).flatten(-2).flatten(-3, -2)
    out = attend(q, k, v, scale=scale, bias=bias).unflatten(-2, (qy, qx))
    out = out.permute(0, 4, 6, 2, 5, 7, 3, 1, 8).reshape(B, ty * qy * ry, tx * qx * rx, heads * d)
    return out[:, :H, :W]
