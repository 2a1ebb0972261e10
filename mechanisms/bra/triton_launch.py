"""How the fused kernels of bi-level routing attention cut a problem into tiles; plain numbers, no Triton.

Two ways to walk the keys, chosen by :func:`walks_all_keys`:

* *routed*: a program holds queries of one region and walks the tokens of that region's routes. Regions of
  16 tokens or more fill the 16 rows of a matrix instruction.
* *masked*: a program holds any queries of an image, row after row of the map, and walks all keys of the
  image under the routing as a bit mask. Regions of 4 tokens or 1 (stages 3 and 4 at 224 px) would fill a
  quarter or a sixteenth of the rows; here they share tiles, keys are read once for 64 queries, and the
  196 or 49 keys of an image stay in the L1 cache.

The limits in ``LIMITS`` come from compile reports (docs/bra_fused.md, ``results/kernels.csv``). Nothing is
tuned at run time.
"""

import functools
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Tiles:
    """One kernel's launch.

    Attributes:
        queries, keys: of a tile; powers of two of at least 16.
        group: regions in a tile of keys, where all keys are walked; a power of two of at most 32.
        warps: of a program.
        stages: depth of the load pipeline.
    """

    queries: int
    keys: int
    group: int
    warps: int
    stages: int


@dataclass(frozen=True)
class Launch:
    """A kernel with its arguments, not yet run: compile reports are made of the same object.

    Attributes:
        kernel: a function of ``triton.jit``.
        programs: how many.
        arguments: in the kernel's order; tensors, numbers, ``None``.
        constants: by name.
        warps, stages: as in :class:`Tiles`.
    """

    kernel: Any
    programs: int
    arguments: tuple[Any, ...]
    constants: dict[str, Any]
    warps: int
    stages: int = 2

    def run(self) -> None:
        """Put it on the current stream."""
        options = {"num_warps": self.warps, "num_stages": self.stages}
        self.kernel[(self.programs,)](*self.arguments, **self.constants, **options)


# By kernel, bytes of an element (2 or 4) and head dim up to: the most queries in a tile; the most keys where
# several tiles of them are walked; and where all routed keys are one tile, which needs no second one in
# flight. The gradient of keys and values holds a tile of keys and walks queries.
LIMITS = {
    ("forward", 2): {64: (64, 64, 64), 128: (64, 64, 64)},
    ("forward", 4): {32: (64, 32, 64), 64: (64, 32, 32), 128: (32, 32, 32)},
    ("backward_q", 2): {64: (64, 64, 64), 128: (64, 32, 64)},
    ("backward_q", 4): {32: (64, 32, 64), 64: (16, 32, 32), 128: (16, 32, 32)},
    ("backward_kv", 2): {64: (32, 64, 64), 128: (32, 64, 64)},
    ("backward_kv", 4): {32: (16, 64, 64), 64: (16, 32, 32), 128: (16, 16, 16)},
}
STAGES = 2


@dataclass(frozen=True)
class Problem:
    """Sizes and options of one call.

    Attributes:
        batch, height, width: of the map.
        heads, qk, v: heads, and channels of each in q and k, and in v.
        region: (h, w).
        topk: k.
        scale: factor on the logits.
        attend_padding: tokens beyond the map are keys and values of zero.
        lepe: odd size of LePE's kernel; 0 for none.
        element_bytes: 2 or 4.
        precision: of float32 matrix products: ``tf32x3``, ``tf32`` or ``ieee``.
    """

    batch: int
    height: int
    width: int
    heads: int
    qk: int
    v: int
    region: tuple[int, int]
    topk: int
    scale: float
    attend_padding: bool
    lepe: int
    element_bytes: int
    precision: str

    @property
    def columns(self) -> int:
        """Regions side by side."""
        return -(-self.width // self.region[1])

    @property
    def regions(self) -> int:
        """R."""
        return -(-self.height // self.region[0]) * self.columns

    @property
    def tokens(self) -> int:
        """Tokens of a region, n."""
        return self.region[0] * self.region[1]

    @property
    def masked(self) -> bool:
        """Whether the kernels walk all keys under a mask."""
        return walks_all_keys(self.tokens, self.regions, self.topk)

    def tiles(self, kernel: str) -> Tiles:
        """Tiles of the kernel ``forward``, ``backward_q`` or ``backward_kv``."""
        dim = max(self.qk, self.v)
        return choose_tiles(
            kernel, self.tokens, self.regions, self.topk, self.masked, dim, self.element_bytes
        )

    def query_tiles(self, tiles: Tiles) -> int:
        """Tiles of queries of an image."""
        if self.masked:
            return -(-self.height * self.width // tiles.queries)
        return self.regions * -(-self.tokens // tiles.queries)

    def key_tiles(self, tiles: Tiles) -> int:
        """Tiles of keys of an image, where programs hold keys and walk queries."""
        if self.masked:
            return -(-self.regions // tiles.group)
        return self.regions * -(-self.tokens // tiles.keys)

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        """The kernels' arguments ``height, width, columns, regions``."""
        return self.height, self.width, self.columns, self.regions

    def constants(self, tiles: Tiles) -> dict[str, Any]:
        """The kernels' compile-time constants."""
        return {
            "HEADS": self.heads,
            "QK": self.qk,
            "V": self.v,
            "REGION_H": self.region[0],
            "REGION_W": self.region[1],
            "TOPK": self.topk,
            "ATTEND_PADDING": self.attend_padding,
            "LEPE": self.lepe,
            "MASKED": self.masked,
            "GROUP": tiles.group,
            "BLOCK_M": tiles.queries,
            "BLOCK_N": tiles.keys,
            "BLOCK_QK": max(16, power_of_two(self.qk)),
            "BLOCK_V": max(16, power_of_two(self.v)),
            "PRECISION": self.precision if self.element_bytes == 4 else "tf32",  # no meaning in 16 bits
        }


def walks_all_keys(tokens: int, regions: int, topk: int) -> bool:
    """Whether masking all keys costs less than routing.

    Routed, a tile has at least 16 rows, of which ``tokens`` are used, and topk·tokens keys; masked, all
    rows are used, and regions·tokens keys. A tile of keys is read once for 64 queries then, not for
    ``tokens``, so up to twice the arithmetic is accepted for it.
    """
    return tokens <= 16 and regions * tokens <= 2 * 16 * topk


@functools.cache
def choose_tiles(
    kernel: str, tokens: int, regions: int, topk: int, masked: bool, dim: int, element_bytes: int
) -> Tiles:
    """The largest tiles within ``LIMITS`` that the problem fills."""
    by_dim = LIMITS[kernel, element_bytes]
    most_queries, most_keys, one_tile = next(limit for most, limit in by_dim.items() if dim <= most)
    group, queries = 1, most_queries
    if masked:
        group = min(32, max(1, power_of_two(most_keys // tokens + 1) // 2), power_of_two(regions))
        keys = power_of_two(group * tokens)
    elif kernel == "backward_kv":  # holds keys of one region, walks queries of those routed to it
        keys, queries = min(most_keys, power_of_two(tokens)), min(most_queries, power_of_two(topk * tokens))
    else:
        routed = power_of_two(topk * tokens)
        keys = routed if routed <= one_tile else most_keys
        queries = min(most_queries, power_of_two(tokens))
    queries, keys = max(16, queries), max(16, keys)
    held = keys if kernel == "backward_kv" else queries
    return Tiles(queries, keys, group, _warps(held, dim, element_bytes), STAGES)


def _warps(rows: int, dim: int, element_bytes: int) -> int:
    """Warps of a program that accumulates ``rows``: fewer rows a warp, the wider they are."""
    row_bytes = dim * element_bytes
    if row_bytes <= 128:  # head dim 32 in float32, 64 in 16 bits
        return min(4, rows // (16 if element_bytes == 2 else 8))
    return min(8, rows // (8 if row_bytes <= 256 else 4))


def power_of_two(number: int) -> int:
    """The smallest power of two that is at least ``number``."""
    return 1 << (number - 1).bit_length()
