"""Mechanisms: where a name, what is declared of it and its class come together.

A mechanism is one file that calls :func:`register_mechanism`. Files are found in three places: the
``mechanisms`` folder, the entry-point group ``attnbench.mechanisms`` and files named with ``--plugin`` or
in the environment variable ATTNBENCH_PLUGINS.
Finding them imports nothing (see :mod:`attnbench.plugins`); a file is imported when its class is needed.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attnbench import plugins as plugin_files
from attnbench import signatures, source_digest
from attnbench.discovery import Kind
from attnbench.errors import AttnbenchError, UnknownNameError
from attnbench.implementations import AUTO, COMPILED, compile_module
from attnbench.inputs import guard
from attnbench.plugins import Builder, Registry

if TYPE_CHECKING:
    from torch import nn

PATTERNS = ("static", "image", "query")


@dataclass(frozen=True)
class Facts:
    """What a mechanism declares; see :func:`register_mechanism` for each field."""

    title: str
    paper: str = ""
    year: int | None = None
    pattern: str = ""
    complexity: str = ""
    impls: tuple[str, ...] = ("eager",)
    per_stage: Mapping[str, Any] = field(default_factory=dict)
    goldens: tuple[str, ...] = ()

    def validate(self, name: str) -> None:
        """Raise AttnbenchError unless the facts have the declared form."""
        if not isinstance(name, str) or not name.isidentifier() or name.startswith("_"):
            raise AttnbenchError(f"mechanism name {name!r} is not a snake_case identifier")
        for argument in ("title", "paper", "pattern", "complexity"):
            if not isinstance(getattr(self, argument), str):
                raise AttnbenchError(f"{name}: {argument} must be a text, got {getattr(self, argument)!r}")
        if not isinstance(self.year, int | None) or isinstance(self.year, bool):
            raise AttnbenchError(f"{name}: year must be a whole number, got {self.year!r}")
        if not all(isinstance(text, str) for text in (*self.impls, *self.goldens)):
            raise AttnbenchError(f"{name}: impls and goldens must be lists of names")
        if not isinstance(self.per_stage, Mapping) or not all(isinstance(key, str) for key in self.per_stage):
            raise AttnbenchError(f"{name}: per_stage must map options to values, got {self.per_stage!r}")
        if self.pattern and self.pattern not in PATTERNS:
            raise AttnbenchError(f"{name}: pattern {self.pattern!r} is not one of {', '.join(PATTERNS)}")
        if "eager" not in self.impls:
            raise AttnbenchError(f"{name}: impls {self.impls} must contain 'eager', the readable truth")


def _declare(name: str, **arguments: Any) -> Facts:
    """Facts from the arguments of :func:`register_mechanism` as they stand in the source."""
    for key in ("impls", "goldens"):
        if key in arguments:
            arguments[key] = tuple(arguments[key])
    facts = Facts(**{"title": name, **arguments})
    facts.validate(name)
    return facts


KIND = Kind("mechanism", "attnbench.mechanisms", "attnbench.mechanisms", "register_mechanism", _declare)
FOLDER = KIND.folder
MECHANISMS = Registry(KIND)


@dataclass(frozen=True)
class Site:
    """A place in a backbone where an attention module sits.

    Args:
        dim: channels C of the feature map.
        num_heads: attention heads h; must divide ``dim``.
        height, width: tokens of the map at the backbone's nominal resolution. A mechanism may size a
            table by them, but must accept any map in ``forward``.
        stage, block: indices from 0; mechanisms that alternate do so over ``block``.

    Raises:
        ValueError: a size is not positive, or ``dim`` is not a multiple of ``num_heads``.
    """

    dim: int
    num_heads: int
    height: int
    width: int
    stage: int = 0
    block: int = 0

    def __post_init__(self) -> None:
        if min(self.dim, self.num_heads, self.height, self.width) < 1 or min(self.stage, self.block) < 0:
            raise ValueError(f"sizes of a site must be positive, got {self}")
        if self.dim % self.num_heads:
            raise ValueError(f"dim {self.dim} is not a multiple of num_heads {self.num_heads}")

    @property
    def head_dim(self) -> int:
        """Channels of one head, C / h."""
        return self.dim // self.num_heads


@dataclass(frozen=True)
class MechanismSpec:
    """A registered mechanism: what it declares, where it is from, and how to build it."""

    name: str
    facts: Facts
    origin: str
    _load: Callable[[], Callable[..., "nn.Module"]] = field(repr=False, compare=False)

    def load(self) -> Callable[..., "nn.Module"]:
        """Import the file, if that has not happened, and return the registered class or function.

        Raises:
            AttnbenchError: the file fails to import, or registers another name than it seemed to.
        """
        return self._load()

    @property
    def implementations(self) -> tuple[str, ...]:
        """What ``impl`` may name besides ``auto``: those declared, and ``compiled``, open to all."""
        return (*self.facts.impls, COMPILED)

    def options(self, site: Site, overrides: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Options at a site: the declared per-stage defaults, then ``overrides``.

        A list or tuple stands for one value per stage (its last value serves deeper stages).

        Raises:
            AttnbenchError: a list is empty.
        """
        merged = {**self.facts.per_stage, **(overrides or {})}
        for key, value in merged.items():
            if isinstance(value, (list, tuple)) and not value:
                raise AttnbenchError(f"{self.name}: {key} is an empty list; give a value, or one per stage")
        return {
            key: value[min(site.stage, len(value) - 1)] if isinstance(value, (list, tuple)) else value
            for key, value in merged.items()
        }

    def digest(self) -> str:
        """Sixteen hex digits of the code of the mechanism's file and of the helpers it imports beside it.

        Records and certificates carry it: an edited mechanism is another mechanism. Comments, docstrings
        and layout of the source are no part of it (see :mod:`attnbench.source_digest`).
        """
        origin = Path(self.origin)
        return source_digest.of(source_digest.with_helpers(origin, KIND.package))

    def build(self, site: Site, /, impl: str = "auto", **overrides: Any) -> "nn.Module":
        """Make the module for one site.

        Args:
            site: place in the backbone.
            impl: implementation to run, one of :attr:`implementations`. ``auto`` leaves the choice to the
                module, which makes it at each call by device, dtype and shape, if the class has a method
                ``implementation``; otherwise it takes the first one the mechanism declares.
            overrides: the mechanism's own options; a list or tuple gives one value per stage.

        Raises:
            AttnbenchError: the file does not import, an option is unknown or wrong, or ``impl`` is not
                one of those known or cannot run here.
        """
        builder = self.load()
        if impl not in (AUTO, *self.implementations):
            raise UnknownNameError(f"implementation of {self.name}", impl, (AUTO, *self.implementations))
        options = self.options(site, overrides)
        signatures.check(self.name, builder, options)
        if len(self.facts.impls) > 1:
            options["impl"] = "eager" if impl == COMPILED else impl
            if impl == AUTO and not hasattr(builder, "implementation"):
                options["impl"] = self.facts.impls[0]
        try:
            module = builder(site, **options)
        except (TypeError, ValueError) as error:
            raise AttnbenchError(f"{self.name} cannot be built at {site} with {options}: {error}") from error
        guard(module, self.name, site.dim)
        return compile_module(module) if impl == COMPILED else module


def register_mechanism(
    name: str,
    *,
    title: str = "",
    paper: str = "",
    year: int | None = None,
    pattern: str = "",
    complexity: str = "",
    impls: Sequence[str] = ("eager",),
    per_stage: Mapping[str, Any] | None = None,
    goldens: Sequence[str] = (),
) -> Callable[[Builder], Builder]:
    """Register the class (or function) below as the mechanism ``name``.

    Write the arguments as literals: they are read from the source, so that listing imports nothing.

    Args:
        name: snake_case name, the same as the file's.
        title: name as a table prints it; ``name`` if empty.
        paper: identifier of the source, e.g. ``arXiv:2303.08810``.
        year: year the source appeared.
        pattern: what the attended positions depend on: ``static`` (position only), ``image`` (dynamic,
            the same for all queries of an image) or ``query`` (dynamic, differs between queries).
        complexity: growth of the cost with the number of tokens N, e.g. ``O(N^4/3)``.
        impls: implementations, the one that ``auto`` takes first (see :mod:`attnbench.implementations` for a
            choice by device and shape). With more than one, the class takes a keyword ``impl``; one of them
            must be ``eager``, the readable truth. ``compiled`` need not be declared.
        per_stage: default options in the Swin-T layout; a tuple gives one value per stage.
        goldens: names of golden cases (``mechanism`` in a golden MANIFEST) that the class reproduces
            through its ``from_official`` method (docs/goldens.md).

    Returns:
        A decorator that leaves the class as it is. It is called as ``builder(site, **options)``.

    Raises:
        AttnbenchError: the name is taken (both files are named), or an argument is not of the form above.
    """
    facts = Facts(
        title=title or name,
        paper=paper,
        year=year,
        pattern=pattern,
        complexity=complexity,
        impls=tuple(impls),
        per_stage=dict(per_stage or {}),
        goldens=tuple(goldens),
    )
    facts.validate(name)

    return MECHANISMS.register(name, facts)


def names() -> list[str]:
    """Names of all mechanisms, in alphabetical order. Imports none of them where their source tells."""
    return MECHANISMS.names()


def failures() -> dict[str, str]:
    """Files that cannot be used, each with its error."""
    return MECHANISMS.failures()


def get(name: str) -> MechanismSpec:
    """The mechanism called ``name``.

    Raises:
        UnknownNameError: there is none; the message gives the nearest names.
        AttnbenchError: a file of that name exists but failed to import.
    """
    found = MECHANISMS.find(name)
    return MechanismSpec(name, found.facts, found.origin, found.load)


def add_plugin(path: str | Path) -> None:
    """Add what one file from anywhere registers: mechanisms, data sets.

    Raises:
        AttnbenchError: there is no such file, or it registers a name that is taken.
    """
    plugin_files.add(path)


def meant_by(argument: str) -> list[str]:
    """Names of the mechanisms meant by a registered name or by the path of a Python file.

    Raises:
        UnknownNameError: no such mechanism.
        AttnbenchError: the file cannot be read or imported, or registers no mechanism.
    """
    if not argument.endswith(".py"):
        return [get(argument).name]
    add_plugin(argument)
    path = str(Path(argument).expanduser().resolve())
    found = [name for name in names() if get(name).origin == path]
    if not found:
        raise AttnbenchError(f"{argument} cannot be used: {failures().get(path, 'unknown reason')}")
    return found


def plugins() -> list[str]:
    """Paths of the files added with :func:`add_plugin`, in order."""
    return plugin_files.files()


def registering_modules() -> list[str]:
    """Modules that registered a mechanism when they ran, though no place that is searched names them."""
    return MECHANISMS.modules_from_elsewhere()
