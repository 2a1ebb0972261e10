"""The isolation ladder: one mechanism under conditions that are the same for all, a step at a time.

| rung | what is built |
|---|---|
| ``bare`` | mixing alone: the mechanism's own position bias and depth-wise branch are turned off |
| ``bias`` | bare, and the same relative position bias for all (:mod:`attnbench.harness.models.position`) |
| ``local`` | bias, and the same 5 × 5 depth-wise convolution of the module's input, added to its output |
| ``authors`` | the mechanism as its authors configured it |

A rung that a mechanism cannot stand on is an error with the reason, never another rung.
"""

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from attnbench.errors import AttnbenchError, UnknownNameError
from attnbench.harness.models.position import CHANNELS, Coded, FourierBias, Uncoded
from attnbench.registry import MechanismSpec, Site
from attnbench.rungs import AUTHORS, RUNGS

LOCAL_KERNEL = 5
CUSTOMARY = (("qkv",), ("q", "kv"), ("q", "k", "v"), ("q_proj", "k_proj", "v_proj"))
"""Names of the projections to queries, keys and values where a mechanism declares no ``projections``."""


@dataclass(frozen=True)
class RungSpec(MechanismSpec):
    """A mechanism on a rung: it builds other modules; all else is the mechanism's own."""

    rung: str = "bare"

    def build(self, site: Site, /, impl: str = "auto", **overrides: Any) -> nn.Module:
        """Make the module for one site, as :meth:`MechanismSpec.build` does.

        Raises:
            AttnbenchError: the mechanism cannot stand on the rung; the message says why.
        """
        if self.rung == "bare":
            return self.bare(site, impl, **overrides)
        if impl not in ("auto", "eager"):
            raise AttnbenchError(f"rung {self.rung!r} runs on impl='eager' alone, got {impl!r}")
        by_shape = _verified(self, site, overrides)
        biased = self.biased(site, overrides, by_shape=by_shape)
        return biased if self.rung == "bias" else WithLocal(biased, site.dim)

    def bare(self, site: Site, impl: str = "eager", **overrides: Any) -> nn.Module:
        """The mechanism without position bias and depth-wise branch."""
        off: dict[str, Any] = getattr(self.load(), "bare", {})  # as the mechanism declares
        module = super().build(site, impl, **{**off, **overrides})
        if own := _own_terms(module):
            raise AttnbenchError(f"{self.name} has no bare form: no option takes away its {', '.join(own)}")
        return module

    def biased(self, site: Site, overrides: dict[str, Any], *, by_shape: bool) -> "Biased":
        """The bare mechanism with the position bias; ``by_shape``: it scales logits by the width it meets."""
        bare = self.bare(site, **overrides)
        if "qk_dim" not in inspect.signature(self.load()).parameters or _projections(bare)[0] != bare:
            return Biased(self.name, bare, bare, site, by_shape=by_shape)
        width = (
            site.dim + site.num_heads * CHANNELS
        )  # queries and keys may be wider than values: no need to swap
        return Biased(self.name, bare, self.bare(site, **overrides, qk_dim=width), site, by_shape=by_shape)


def spec_on_rung(spec: MechanismSpec, rung: str) -> MechanismSpec:
    """The mechanism on a rung; on its authors' it is as it is.

    Raises:
        UnknownNameError: there is no such rung.
    """
    if rung not in RUNGS:
        raise UnknownNameError("rung", str(rung), RUNGS)
    if rung == AUTHORS:
        return spec
    return RungSpec(spec.name, spec.facts, spec.origin, spec._load, rung)


class Biased(nn.Module):
    """A mechanism whose queries and keys carry position codes.

    Args:
        name: of the mechanism, for messages.
        bare: the mechanism.
        host: the module that runs: ``bare`` itself, or one built for wider queries and keys.
        site: its place.
        by_shape: it scales logits by the width of the heads it meets, not by the width it was built with.

    Raises:
        AttnbenchError: it has no projections to queries and keys.
    """

    def __init__(self, name: str, bare: nn.Module, host: nn.Module, site: Site, *, by_shape: bool) -> None:
        super().__init__()
        source, names = _projections(bare)
        target = source if host is bare else host
        if not names:
            raise AttnbenchError(
                "it has no projections of tokens to queries and keys that codes could ride on"
            )
        self.position = FourierBias(heads := int(getattr(source, "num_heads", site.num_heads)))
        self._size = (0, 0, 0)
        head_dim = site.dim // heads
        scale = float(getattr(source, "scale", None) or head_dim**-0.5)
        seen = (head_dim + CHANNELS) ** -0.5 if by_shape else float(getattr(target, "scale", None) or scale)
        for child in names:
            coded = Coded(
                getattr(source, child),
                child.removesuffix("_proj"),
                self.position,
                lambda: self._size,
                gain=scale / seen,
                code_gain=1 / seen,
                plain_values=host is not bare,
            )
            setattr(target, child, coded)
        if host is bare:
            around = _ancestors(bare, source)
            owner: Any = next(part for part in around if isinstance(getattr(part, "proj", None), nn.Linear))
            owner.proj = Uncoded(owner.proj, heads)
        self.attn, self.impl = host, "eager"
        wider = CHANNELS / head_dim  # how much the codes add to each product of the attention
        self._wider = {"attention": 1 + (wider if host is bare else wider / 2), "routing": 1 + wider}
        self._formula = getattr(bare, "macs", None)

    def macs(self, height: int, width: int) -> dict[str, int]:
        """Multiply-adds per image by phase, those of the codes included.

        Raises:
            AttnbenchError: the mechanism declares no formula.
        """
        if self._formula is None:
            raise AttnbenchError("the mechanism has no method macs(height, width): no formula")
        cost: dict[str, int] = self._formula(height, width)
        return {phase: round(macs * self._wider.get(phase, 1)) for phase, macs in cost.items()}

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        self._size = (x.shape[0], x.shape[1], x.shape[2])
        return self.attn(x)


class WithLocal(nn.Module):
    """A module plus a 5 × 5 depth-wise convolution of its input."""

    def __init__(self, attn: nn.Module, dim: int) -> None:
        super().__init__()
        self.attn, self.impl = attn, "eager"
        self.local = nn.Conv2d(dim, dim, LOCAL_KERNEL, padding=LOCAL_KERNEL // 2, groups=dim)

    def macs(self, height: int, width: int) -> dict[str, int]:
        """Multiply-adds per image by phase: the module's, and 25·N·C more of phase ``local``."""
        cost: dict[str, int] = self.attn.macs(height, width)  # type: ignore[operator]
        branch = LOCAL_KERNEL**2 * height * width * self.local.in_channels
        return {**cost, "local": cost.get("local", 0) + branch}

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        return self.attn(x) + self.local(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


def _own_terms(module: nn.Module) -> list[str]:
    """Names of members that are position tables, or convolve depth-wise."""
    tables = {name.rpartition(".")[2] for name, _ in module.named_parameters() if "table" in name}
    depthwise = {
        name
        for name, part in module.named_modules()
        if type(part).__name__ == "DepthwiseConv" or (isinstance(part, nn.Conv2d) and part.groups > 1)
    }
    return sorted(tables | depthwise)


def _projections(module: nn.Module) -> tuple[nn.Module, tuple[str, ...]]:
    """The first module inside that projects to queries, keys and values, and the names of its projections."""
    for part in module.modules():
        for names in (getattr(part, "projections", ()), *CUSTOMARY):
            if names and all(isinstance(getattr(part, name, None), nn.Linear) for name in names):
                return part, names
    return module, ()


def _ancestors(root: nn.Module, inner: nn.Module) -> list[nn.Module]:
    """``inner`` and the modules around it, innermost first."""
    path = next(name for name, part in root.named_modules() if part is inner)
    names = path.split(".") if path else []
    return [root.get_submodule(".".join(names[:end])) for end in range(len(names), -1, -1)]


_known: dict[tuple[str, str, int, int, str], bool] = {}


def _verified(spec: RungSpec, site: Site, overrides: dict[str, Any]) -> bool:
    """Whether a mechanism scales logits by the shape it meets, found by a bias of zero: it must not matter.

    Tried on a small map in float64, once for each kind of place.

    Raises:
        AttnbenchError: the mechanism does not run with codes, or is changed by a bias of zero.
    """
    key = (spec.name, spec.origin, site.stage, site.block % 2, repr(sorted(overrides.items())))
    if key not in _known:
        small = Site(32, 4, 14, 14, site.stage, site.block)
        spec.bare(small, **overrides)  # if there is none, that is the reason
        reasons = []
        for by_shape in (False, True):
            try:
                with torch.device("cpu"), torch.random.fork_rng(), torch.no_grad():
                    if _unchanged(spec, small, overrides, by_shape):
                        _known[key] = by_shape
                        return by_shape
                reasons.append("a bias of zero changes its output")
            except Exception as error:  # whatever its code does with heads of another width
                reasons.append(str(error).splitlines()[0])
        raise AttnbenchError(f"{spec.name} cannot carry position codes: {reasons[0]}")
    return _known[key]


def _unchanged(spec: RungSpec, site: Site, overrides: dict[str, Any], by_shape: bool) -> bool:
    torch.manual_seed(0)
    bare = spec.bare(site, **overrides).double().eval()
    torch.manual_seed(0)
    biased = spec.biased(site, overrides, by_shape=by_shape).double().eval()
    shared = {name.replace(".linear.", "."): p for name, p in biased.attn.named_parameters()}
    if shared.keys() != dict(bare.named_parameters()).keys():
        raise AttnbenchError("its parameters change with the width of its heads")
    for name, parameter in bare.named_parameters():
        shared[name].copy_(parameter)
    biased.position.coefficients.zero_()
    x = torch.randn(2, site.height, site.width, site.dim, dtype=torch.float64)
    return torch.allclose(bare(x), biased(x), rtol=0, atol=1e-10)
