"""Bi-level routing attention (BRA): regions choose regions, then tokens attend to tokens of those chosen.

Paper: Zhu et al., 2023, "BiFormer: Vision Transformer with Bi-Level Routing Attention", arXiv:2303.08810.
Code: written from the definition; equal to BiFormer's modules ``BiLevelRoutingAttention`` (``padding`` is
``legacy``, or ``none`` without its ``auto_pad``) and ``nchwBRA`` (``padding`` is ``nchw``).
Differs by default: padding is masked (BiFormer attends to it). As in BiFormer's code, logits are scaled by
C^−1/2 in spite of the heads, and stage 4 is full attention; there BiFormer keeps 8 heads and no qkv bias,
while here both stay the backbone's (see the options ``full_...``).
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from attnbench.implementations import resolve
from attnbench.mechanisms._local import DepthwiseConv
from attnbench.mechanisms._official import ignored, only
from attnbench.mechanisms._windows import pad_map
from attnbench.mechanisms.bra import eager, fused
from attnbench.mechanisms.bra.readers import attention_weights, region_numbers
from attnbench.mechanisms.bra.regions import follow_equation_9
from attnbench.mechanisms.full import FullAttention
from attnbench.registry import Site, register_mechanism
from attnbench.scaling_rules import Rule


@register_mechanism(
    "bra",
    title="Bi-level routing",
    paper="arXiv:2303.08810",
    year=2023,
    pattern="query",
    complexity="O(N^4/3)",
    impls=("eager", "masked", "sdpa", "unfused", "fused"),
    per_stage={"num_regions": 7, "topk": (1, 4, 16, None)},
    goldens=("bra_legacy", "bra_nchw"),
)
class BiLevelRoutingAttention(nn.Module):
    """Attention from each region's tokens to the tokens of the k regions it is routed to, plus LePE.

    The map is cut into S × S regions (``padding`` says how where S does not divide it). Mean query and
    mean key of a region, all heads together, score every pair of regions; the k best are attended to,
    per head, by all tokens of the region. A region need not choose itself. The choice carries no gradient.

    Cost, for R regions of n tokens, N' = R·n and qk_dim = C: 4·N·C² (projection) + R²·C (routing)
    + 2·N'·k·n·C (attention) + lepe_kernel²·N·C (local) MACs; N is N' with ``padding="legacy"``.

    Args:
        site: place in the backbone.
        num_regions: S, regions per side.
        topk: k; on a map with fewer regions, all of them are attended to. ``None``: no routing but full
            attention with LePE (:class:`FullAttention`, scaled by d^−1/2), which the ``full_...``
            options shape and on which only they, ``lepe_kernel`` and ``qkv_bias`` have an effect.
        lepe_kernel: odd size of the depth-wise convolution of v added before the output projection; 0
            for none.
        qkv_bias: learn a bias in the query, key and value projections.
        qk_dim: width of queries and keys; ``None`` for C.
        qk_scale: of the logits: ``dim`` (qk_dim^−1/2, as in BiFormer), ``head_dim`` (that of one head), or a
            positive number.
        detach_routing: cut the (gradient-free) routing out of the autograd graph; saves its nodes.
        padding: ``masked``: regions of ceil(H/S) × ceil(W/S), as many as cover the map (S² or fewer);
            padding is neither attended to nor averaged. ``legacy``: the input is zero-padded to
            multiples of S and padding counts as tokens everywhere. ``none``: the same, but a map that S
            does not divide is an error. ``nchw``: regions of floor(H/S) × floor(W/S), as many as cover
            the map (S² or more); queries, keys and values are zero-padded, which attention sees, but
            region means and LePE do not.
        full_num_heads: heads where ``topk`` is ``None``; ``None`` for the site's (BiFormer: 8).
        full_qkv_bias: qkv bias there; ``None`` for ``qkv_bias`` (BiFormer: False).
        full_lepe_input: what LePE convolves there, ``v`` (BiFormer's nchw form) or ``x`` (its legacy form).
        chunk: regions that ``eager`` attends for at a time, so that peak memory does not grow with the map;
            ``None`` for all at once. The result is the same.
        impl: ``eager`` gathers the routed keys and values; ``masked`` attends densely under the routing
            mask; ``sdpa`` does either, by size, with torch's fused attention; ``unfused`` is the fastest of
            these by device, dtype and size; ``fused`` is one kernel that reads routed keys and values where
            they lie (C++ on a CPU, Triton on a GPU); ``auto`` is that where it can be had, otherwise what
            ``unfused`` is. Full attention, where there is no kernel, is ``sdpa``, ``eager`` or the faster.

    Raises:
        ValueError: ``num_regions``, ``topk`` or ``qk_scale`` is not positive, ``topk`` exceeds S², ``qk_dim``
            is not a multiple of the heads, or ``padding`` is unknown. In ``forward``: the map is smaller
            than S (``nchw``) or not a multiple of S (``none``).
    """

    bare: ClassVar[dict[str, Any]] = {"lepe_kernel": 0}

    growth: ClassVar[tuple[Rule, ...]] = (
        Rule("S by equation 9", "S by equation 9, k fixed", follow_equation_9, 4 / 3, "num_regions"),
        Rule("S fixed", "S = 7 and k fixed", exponent=2.0, regions="num_regions"),
    )

    def __init__(
        self,
        site: Site,
        *,
        num_regions: int = 7,
        topk: int | None = 4,
        lepe_kernel: int = 5,
        qkv_bias: bool = True,
        qk_dim: int | None = None,
        qk_scale: str | float = "dim",
        detach_routing: bool = True,
        padding: str = "masked",
        full_num_heads: int | None = None,
        full_qkv_bias: bool | None = None,
        full_lepe_input: str = "v",
        chunk: int | None = None,
        impl: str = "eager",
    ) -> None:
        super().__init__()
        if num_regions < 1:
            raise ValueError(f"num_regions must be positive, got {num_regions}")
        if topk is not None and not 1 <= topk <= num_regions**2:
            raise ValueError(f"topk must be in [1, num_regions² = {num_regions**2}], got {topk}")
        if padding not in ("masked", "legacy", "none", "nchw"):
            raise ValueError(f"padding must be 'masked', 'legacy', 'none' or 'nchw', got {padding!r}")
        self.dim, self.num_heads = site.dim, site.num_heads
        self.qk_dim = site.dim if qk_dim is None else qk_dim
        if self.qk_dim < 1 or self.qk_dim % self.num_heads:
            raise ValueError(f"qk_dim must be a positive multiple of {self.num_heads} heads, got {qk_dim}")
        widths = {"dim": self.qk_dim, "head_dim": self.qk_dim // self.num_heads}
        if not (qk_scale in widths if isinstance(qk_scale, str) else qk_scale > 0):
            raise ValueError(f"qk_scale must be 'dim', 'head_dim' or a positive number, got {qk_scale!r}")
        self.scale = widths[qk_scale] ** -0.5 if isinstance(qk_scale, str) else float(qk_scale)
        if chunk is not None and (chunk < 1 or impl not in ("auto", "eager")):
            raise ValueError(f"chunk must be positive and needs impl 'eager', got {chunk} and {impl!r}")
        self.num_regions, self.padding = num_regions, padding
        self.chunk, self.impl = chunk, impl if chunk is None else "eager"
        self.topk = topk or 0  # 0: no routing
        self.detach_routing = detach_routing
        self.full: FullAttention | None = None
        if topk is None:
            self.full = FullAttention(
                replace(site, num_heads=site.num_heads if full_num_heads is None else full_num_heads),
                qkv_bias=qkv_bias if full_qkv_bias is None else full_qkv_bias,
                lepe_kernel=lepe_kernel,
                lepe_input=full_lepe_input,
                impl={"sdpa": "sdpa", "auto": "auto", "unfused": "auto"}.get(impl, "eager"),
            )
            return
        self.qkv = nn.Linear(self.dim, 2 * self.qk_dim + self.dim, bias=qkv_bias)
        self.lepe = DepthwiseConv(self.dim, lepe_kernel) if lepe_kernel else None
        self.proj = nn.Linear(self.dim, self.dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        if self.full is not None:
            return self.full(x)
        H, W = x.shape[1:3]
        qkv = self._project(x)
        region = self._region(H, W)
        impl = resolve(self, qkv, H, W)
        routes = self._route(qkv, region, kernel=impl == "fused")
        lepe = (None, None) if self.lepe is None else (self.lepe.weight, self.lepe.bias)
        if impl == "unfused":
            impl = self._unfused(qkv.device, qkv.dtype, H, W, torch.is_grad_enabled() and qkv.requires_grad)
        how: dict[str, Any] = {}
        attention: Callable[..., Tensor] = fused.attention
        if impl != "fused":
            attention = eager.map_attention
            masked = impl == "masked" or (impl == "sdpa" and self._small(H, W))
            how = {"method": "masked" if masked else "gathered", "chunk": self.chunk}
            how["impl"] = "sdpa" if impl == "sdpa" else "eager"
        out = attention(
            qkv,
            routes,
            *lepe,
            num_heads=self.num_heads,
            region=region,
            scale=self.scale,
            attend_padding=self.padding == "nchw",
            dim=self.dim,
            **how,
        )
        return self.proj(out)[:, :H, :W]

    def implementation(
        self, device: torch.device, dtype: torch.dtype, height: int, width: int, training: bool
    ) -> str:
        """The fastest implementation on a height × width map: ``fused`` where there is a kernel for it."""
        if self.full is not None:
            return self.full.implementation(device, dtype, height, width, training)
        region = self._region(height, width)
        like = torch.empty((), dtype=dtype, device=device)
        refusal = fused.unsupported(
            like.expand(1, height, width, 2 * self.qk_dim + self.dim),
            num_heads=self.num_heads,
            region=region,
            topk=min(self.topk, -(-height // region[0]) * -(-width // region[1])),
            lepe_kernel=0 if self.lepe is None else self.lepe.kernel_size,
            dim=self.dim,
        )
        return self._unfused(device, dtype, height, width, training) if refusal else "fused"

    def _unfused(
        self, device: torch.device, dtype: torch.dtype, height: int, width: int, training: bool
    ) -> str:
        """The fastest without a kernel of one's own.

        On a CPU the mask wins at 14 × 14 from about 12 regions of 49 on, and loses at 28 × 28; torch's fused
        attention wins for inference in float32, and its backward pass in bfloat16 is slow.
        """
        half = dtype not in (torch.float32, torch.float64)
        if device.type != "cpu" or not (training or half):
            return "sdpa"
        return "masked" if self._small(height, width) else "eager"

    def routed_regions(self, x: Tensor) -> Tensor:
        """(B, R, k) numbers of the regions that each region of (B, H, W, C) attends to, best first.

        Raises:
            ValueError: the module does not route (``topk=None``).
        """
        if self.full is not None:
            raise ValueError("routed_regions needs topk to be a number, got None")
        return self._route(self._project(x), self._region(*x.shape[1:3]))

    def attention_map(self, x: Tensor, queries: Tensor) -> Tensor:
        """(Q, heads, N): how much the tokens ``queries`` of (1, H, W, C) read each token, LePE apart."""
        if self.full is not None:
            return self.full.attention_map(x, queries)
        height, width = x.shape[1:3]
        qkv, region = self._project(x), self._region(height, width)
        W = qkv.shape[2]  # with padding="legacy" the map grew
        weights = attention_weights(
            qkv,
            self._route(qkv, region),
            queries.div(width, rounding_mode="floor") * W + queries % width,
            num_heads=self.num_heads,
            qk_dim=self.qk_dim,
            region=region,
            scale=self.scale,
            attend_padding=self.padding == "nchw",
        )
        return weights.unflatten(2, (-1, W))[:, :, :height, :width].flatten(2)

    def routed_tokens(self, x: Tensor, query: int) -> Tensor | None:
        """(k, H, W) bool: tokens of the regions that one token of (1, H, W, C) is routed to, best first.

        ``None`` where there is no routing (``topk=None``).
        """
        if self.full is not None:
            return None
        height, width = x.shape[1:3]
        qkv, region = self._project(x), self._region(height, width)
        numbers = region_numbers((qkv.shape[1], qkv.shape[2]), region)[:height, :width]
        routes = self._route(qkv, region)[0, numbers[divmod(query, width)]]
        return numbers == routes.cpu()[:, None, None]

    def auxiliary(self, x: Tensor) -> dict[str, Tensor]:
        """Intermediate results by their names in golden cases: ``routed_regions``, as of the method."""
        return {"routed_regions": self.routed_regions(x)}

    def _project(self, x: Tensor) -> Tensor:
        """q, k and v side by side, (B, H, W, 2·qk_dim + C); on a padded map with ``padding="legacy"``."""
        self._region(*x.shape[1:3])  # first of all, whether the map will do
        if self.padding == "legacy":
            x = pad_map(x, (self.num_regions, self.num_regions))
        qkv: Tensor = self.qkv(x)
        return qkv

    def _route(self, qkv: Tensor, region: tuple[int, int], kernel: bool = False) -> Tensor:
        if self.detach_routing:
            qkv = qkv.detach()
        route = fused.route if kernel else eager.route
        return route(qkv, self.qk_dim, region, self.topk)

    def _small(self, height: int, width: int) -> bool:
        """Whether to mask rather than gather: where a mask costs little and gathering would copy much."""
        h, w = self._region(height, width)
        regions = -(-height // h) * -(-width // w)
        return regions * h * w <= 196 and 4 * min(self.topk, regions) >= regions

    def _region(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of a region on a map."""
        s = self.num_regions
        if self.padding == "none" and (height % s or width % s):
            raise ValueError(f"padding='none' needs a map divisible by {s} regions, got {height} × {width}")
        if self.padding != "nchw":
            return -(-height // s), -(-width // s)
        if min(height, width) < s:
            raise ValueError(f"padding='nchw' needs a map of at least {s} × {s}, got {height} × {width}")
        return height // s, width // s

    def macs(self, height: int, width: int) -> dict[str, int]:
        """Multiply-adds per image on a height × width map, by phase."""
        if self.full is not None:
            return self.full.macs(height, width)
        h, w = self._region(height, width)
        rows, columns = -(-height // h), -(-width // w)
        if self.padding == "legacy":
            rows = columns = self.num_regions
            height, width = rows * h, columns * w
        n, regions, c, qk = height * width, rows * columns, self.dim, self.qk_dim
        cost = {
            "projection": 2 * n * c * (qk + c),
            "routing": regions**2 * qk,
            "attention": regions * (h * w) ** 2 * min(self.topk, regions) * (qk + c),
        }
        if self.lepe is not None:
            cost["local"] = self.lepe.macs(height, width)
        return cost

    def parameter_count(self) -> int:
        """Learned parameters: 2·C² + 2·C·qk_dim + C, 2·qk_dim + C for the qkv bias, (lepe_kernel² + 1)·C."""
        if self.full is not None:
            return self.full.parameter_count()
        c, qkv = self.dim, 2 * self.qk_dim + self.dim
        bias = qkv if self.qkv.bias is not None else 0
        return c * qkv + bias + c**2 + c + (self.lepe.parameter_count() if self.lepe is not None else 0)

    def support(self, height: int, width: int) -> Tensor:
        """(N, N) bool: any token may depend on any: some image routes its region there."""
        n = height * width
        return torch.ones(n, n, dtype=torch.bool)

    @staticmethod
    def full_attention_limit(height: int, width: int) -> dict[str, Any]:
        """Options under which this is full attention on a height × width map."""
        return {"num_regions": 7, "topk": 49, "lepe_kernel": 0, "qk_scale": "head_dim"}

    @classmethod
    def from_official(cls, case: dict[str, Any], impl: str = "eager") -> tuple[nn.Module, dict[str, str]]:
        """BiFormer's ``BiLevelRoutingAttention`` (ops/bra_legacy.py) and ``nchwBRA`` (ops/bra_nchw.py).

        Raises:
            ValueError: the case asks for a variant no released model uses (a scale of its own, soft or
                learned routing, pooled keys, no output projection).
        """
        kwargs = case["kwargs"]
        _, H, W, C = case["input_shape"]
        only(kwargs, dim=C, qk_scale=None, param_attention="qkvo", kv_downsample_mode="identity")
        only(kwargs, soft_routing=False, param_routing=False, diff_routing=False, attn_backend="torch")
        # Of pooled keys, which "identity" has none of; nchw pads whether asked to or not.
        ignored(kwargs, "kv_per_win", "kv_downsample_kernel", "kv_downsample_ratio", "auto_pad")
        nchw = case["cls"].rpartition(":")[2] == "nchwBRA"
        module = cls(
            Site(C, kwargs.get("num_heads", 8), H, W),
            num_regions=kwargs.get("n_win", 7),
            topk=kwargs.get("topk", 4),
            lepe_kernel=kwargs.get("side_dwconv", 3),
            qk_dim=kwargs.get("qk_dim"),
            padding="nchw" if nchw else "legacy" if kwargs.get("auto_pad", False) else "none",
            impl=impl,
        )
        return module, {"qkv.qkv.": "qkv.", "qkv_linear.": "qkv.", "wo.": "proj.", "output_linear.": "proj."}
