"""What a conformance check works on: one mechanism at the places of the Swin-T layout made small.

A check is a function of a :class:`Subject`. It returns a line that says what was seen, raises
:class:`Failure` where the rule is broken and :class:`Skip` where there is nothing to check; any other
exception is a failure too. Modules are built anew for every comparison, so that a fault of one kind shows
in the check for it and in no other.
"""

import functools
import io
import pickle
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from attnbench.errors import ImplementationError
from attnbench.implementations import GENERATED
from attnbench.registry import MechanismSpec, Site

Size = tuple[int, int]
HEADS = (3, 6, 6, 6)
SIDES = (14, 14, 14, 7)
SITES = tuple(
    Site(48, heads, side, side, stage, block)
    for stage, (heads, side) in enumerate(zip(HEADS, SIDES, strict=True))
    for block in (0, 1)
)
"""Places of the Swin-T layout (4 stages, both block parities) with 48 channels and small maps."""
ODD = (13, 11)
"""A map that most mechanisms pad along both axes."""
EQUAL = 1e-9
"""Largest relative difference of float64 results that are equal but for the order of additions."""


class Failure(Exception):  # noqa: N818
    """A rule is broken; the message says how."""


class Skip(Exception):  # noqa: N818
    """There is nothing to check; the message says why."""


@dataclass(frozen=True)
class Check:
    """One named rule.

    Args:
        name: what the user types.
        rule: the rule in one sentence.
        function: returns what was seen; see the module's docstring.
        needs: checks without which this one means nothing; where one does not pass, this one is skipped.
    """

    name: str
    rule: str
    function: "Callable[[Subject], str]"
    needs: tuple[str, ...]


def check(*needs: str) -> "Callable[[Callable[[Subject], str]], Check]":
    """Make the function below a check of its own name; its docstring begins with the rule."""

    def make(function: "Callable[[Subject], str]") -> Check:
        rule = " ".join((function.__doc__ or "").partition("\n\n")[0].split())
        first = () if function.__name__ == "builds" else ("builds",)
        return Check(function.__name__, rule, function, (*first, *needs))

    return make


@dataclass
class Subject:
    """A mechanism under check.

    Args:
        spec: the mechanism.
        options: options to check it with, besides its per-stage defaults.
    """

    spec: MechanismSpec
    options: Mapping[str, Any] = field(default_factory=dict)
    asked: tuple[str, ...] = ()
    """Implementations to compare with eager that the mechanism does not declare: ``compiled``."""
    wanted: tuple[str, ...] = ()
    """Implementations that the user named, declared or not."""
    details: dict[str, Any] = field(default_factory=dict)
    """What the check that runs has to say beyond its line."""
    place: dict[str, Any] = field(default_factory=dict)
    """Arguments of :func:`attnbench.harness.conformance.checks.example` for what was built last."""
    memory: dict[Any, Any] = field(default_factory=dict)
    """Results that several checks use."""

    def build(
        self, site: Site, impl: str = "auto", dtype: torch.dtype = torch.float64, seed: int = 0
    ) -> nn.Module:
        """A new module in evaluation mode; equal arguments give an equal one.

        ``seed`` is that of its construction; the parameters, given values afterwards, do not depend on it.
        """
        self.place |= {"stage": site.stage, "block": site.block, "impl": impl}
        torch.manual_seed(seed)
        module = self.spec.build(site, impl=impl, **self.options)
        randomise(module)
        return module.to(dtype).eval()

    def image(
        self, site: Site, size: Size, batch: int = 1, seed: int = 1, dtype: torch.dtype = torch.float64
    ) -> Tensor:
        """Normal noise (batch, H, W, C); equal arguments give equal values."""
        self.place |= {"height": size[0], "width": size[1]}
        return noise((batch, *size, site.dim), seed).to(dtype)

    @functools.cached_property
    def sites(self) -> tuple[Site, ...]:
        """The sites whose modules differ: one of each kind, so that nothing is checked twice."""
        kinds: dict[bytes, Site] = {}
        for site in SITES:
            try:
                kind = _fingerprint(self._first(site)) + bytes([site.height])
            except Exception:  # cannot be built or pickled, which have checks of their own
                kind = repr(site).encode()
            kinds.setdefault(kind, site)
        return tuple(kinds.values())

    @functools.cached_property
    def unavailable(self) -> dict[str, str]:
        """Declared implementations that cannot run here, each with its reason.

        They say so when they are built, or, where it depends on the device, when they run on each there is.
        """
        reasons: dict[str, str] = {}
        for impl in self.spec.facts.impls:
            refusals = [self.trial(impl, *place) for place in _places()]
            if all(isinstance(refusal, ImplementationError) for refusal in refusals):
                reasons[impl] = str(refusals[-1])
        return reasons

    @functools.cached_property
    def elsewhere(self) -> dict[str, tuple[str, torch.dtype]]:
        """Implementations that run here, but not on a CPU in float64, each with where it does.

        One that runs nowhere without saying why is not among them; it fails its checks.
        """
        found: dict[str, tuple[str, torch.dtype]] = {}
        places = _places()
        for impl in self.spec.facts.impls:
            if impl in ("eager", *self.unavailable):
                continue
            place = next((place for place in places if self.trial(impl, *place) is None), None)
            if place not in (None, places[0]):
                found[impl] = place
        return found

    @functools.cached_property
    def impls(self) -> list[str]:
        """Declared implementations that run on a CPU in float64, as the checks do."""
        return [i for i in self.spec.facts.impls if i not in self.unavailable and i not in self.elsewhere]

    def _first(self, site: Site) -> nn.Module:
        """The first implementation that can be built here."""
        for impl in self.spec.facts.impls:
            try:
                return self.build(site, impl)
            except ImplementationError:
                continue
        raise Failure("no implementation can be built here")

    def trial(self, impl: str, device: str, dtype: torch.dtype) -> Exception | None:
        """What an implementation raises when it is built and run somewhere; None if it runs."""
        key = ("trial", impl, device, dtype)
        if key not in self.memory:
            site = self.sites[0]
            x = self.image(site, (site.height, site.width), dtype=dtype).to(device)
            try:
                # Some have no gradients, and are compared by their output; of those that take seconds to
                # generate, only on request.
                sparing = impl in GENERATED and impl not in self.wanted
                with torch.set_grad_enabled(sparing):
                    self.build(site, impl, dtype).to(device)(x)
            except Exception as error:
                self.memory[key] = error
            else:
                self.memory[key] = None
        outcome: Exception | None = self.memory[key]
        return outcome

    def method(self, name: str) -> None:
        """Fail unless the mechanism's modules have a method."""
        if not callable(getattr(self._first(self.sites[0]), name, None)):
            raise Failure(f"the class declares no method {name}; see docs/checks.md for what it must return")

    def cases(self, *sizes: Size, impls: bool = False) -> Iterator[tuple[Site, str, Size]]:
        """Each kind of site with each size (by default its own) and, if asked, each implementation."""
        for site in self.sites:
            for impl in self.impls if impls else self.impls[:1]:
                for size in sizes or ((site.height, site.width),):
                    self.place = {"stage": site.stage, "block": site.block, "impl": impl}
                    self.place |= {"height": size[0], "width": size[1]}
                    yield site, impl, size


def _places() -> list[tuple[str, torch.dtype]]:
    """Where an implementation may run here, in the order in which that is tried."""
    places = [("cpu", torch.float64), ("cpu", torch.float32)]
    if torch.cuda.is_available():
        places += [("cuda", dtype) for dtype in (torch.float64, torch.float32, torch.bfloat16)]
    return places


def _fingerprint(module: nn.Module) -> bytes:
    """All that determines what a module computes: its attributes, weights and tables. Spoils the module."""
    for part in module.modules():
        for name, hooks in list(vars(part).items()):
            if name.endswith("_hooks") and isinstance(hooks, dict):  # the keys number all hooks ever made
                setattr(part, name, list(hooks.values()))

    class Pickler(pickle.Pickler):
        def reducer_override(self, value: Any) -> Any:
            if isinstance(value, Tensor):  # torch's own form holds addresses
                return bytes, (repr((value.dtype, value.shape)).encode() + value.detach().numpy().tobytes(),)
            return NotImplemented

    buffer = io.BytesIO()
    Pickler(buffer).dump(module)
    return buffer.getvalue()


def randomise(module: nn.Module) -> None:
    """Give every parameter, zero or one by convention or not, normal values of the usual size."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            fan_in = parameter[0].numel() if parameter.dim() > 1 else 4
            parameter.normal_(std=fan_in**-0.5, generator=generator)


def noise(shape: tuple[int, ...], seed: int) -> Tensor:
    """Normal float64 values, the same for the same seed."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def run(module: nn.Module, x: Tensor) -> Tensor:
    """Output for a copy of x, so that a module that modifies its input does no harm here."""
    return module(x.clone())


def cotangent(y: Tensor) -> Tensor:
    """Fixed noise of the shape of an output, whose gradients it weighs."""
    return noise(tuple(y.shape), seed=9).to(y)


def gradients(module: nn.Module, x: Tensor) -> dict[str, Tensor | None]:
    """Output, and gradients of the input and all parameters for a fixed cotangent, by name."""
    x = x.detach().requires_grad_()
    y = run(module, x)
    learned = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    names, parameters = zip(("input", x), *learned, strict=True)
    values = torch.autograd.grad((y * cotangent(y)).sum(), parameters, allow_unused=True)
    found: dict[str, Tensor | None] = {"output": y.detach()}
    for name, value in zip(names, values, strict=True):
        found[name if name == "input" else f"gradient of {name}"] = value
    return found


def gradient_scale(found: dict[str, Tensor | None]) -> float:
    """A thousandth of the largest gradient: below it, rounding is all there is."""
    return 1e-3 * max(float(v.abs().max()) for n, v in found.items() if v is not None and n != "output")


def difference(one: Tensor, other: Tensor, floor: float = 1e-30) -> float:
    """Largest difference relative to the largest value of ``other``; infinite where one is not finite.

    ``floor`` bounds the divisor from below: what is zero but for rounding has no scale of its own.
    """
    if one.shape != other.shape or not (one.isfinite().all() and other.isfinite().all()):
        return float("inf")
    if not one.numel():
        return 0.0
    one, other = one.double(), other.double()
    return float((one - other).abs().max() / max(float(other.abs().max()), floor))


def show(size: Size) -> str:
    """A size as a report prints it."""
    return f"{size[0]} × {size[1]}"
