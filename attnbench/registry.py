"""The registry: where a mechanism's name, facts and class come together.

A mechanism is one file that calls :func:`register_mechanism`. Files are found in three places: the
``mechanisms`` folder, the entry-point group ``attnbench.mechanisms`` and files named with ``--plugin`` or
in the environment variable ATTNBENCH_PLUGINS.
Finding them imports nothing (see :mod:`attnbench.discovery`); a file is imported when its class is needed.
"""

import ast
import functools
import importlib
import importlib.metadata
import importlib.util
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

from attnbench import source_digest
from attnbench.discovery import Facts, Source, find_sources, read_plugin
from attnbench.errors import AttnbenchError, UnknownNameError
from attnbench.implementations import AUTO, COMPILED, compile_module

if TYPE_CHECKING:
    from torch import nn

Builder = TypeVar("Builder", bound=Callable[..., Any])


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
        """
        merged = {**self.facts.per_stage, **(overrides or {})}
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
        return source_digest.of(_with_helpers(origin, set()) if origin.is_file() else ())

    def build(self, site: Site, impl: str = "auto", **overrides: Any) -> "nn.Module":
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
        if len(self.facts.impls) > 1:
            options["impl"] = "eager" if impl == COMPILED else impl
            if impl == AUTO and not hasattr(builder, "implementation"):
                options["impl"] = self.facts.impls[0]
        try:
            module = builder(site, **options)
        except (TypeError, ValueError) as error:
            raise AttnbenchError(f"{self.name} cannot be built at {site} with {options}: {error}") from error
        return compile_module(module) if impl == COMPILED else module


@dataclass
class _State:
    """All that the process knows of mechanisms; ``None`` until first asked for."""

    sources: dict[str, Source] | None = None
    failed: dict[str, str] = field(default_factory=dict)
    plugins: list[Source] = field(default_factory=list)
    registered: dict[str, tuple[Callable[..., Any], Facts, str]] = field(default_factory=dict)


_state = _State()


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
            through its ``from_official`` method.

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

    def register(builder: Builder) -> Builder:
        module = sys.modules.get(builder.__module__)
        origin = str(getattr(module, "__file__", None) or f"module {builder.__module__}")
        known = _state.registered.get(name)
        if known and known[0].__module__ != builder.__module__:
            raise _taken(name, f"{known[2]} ({known[0].__module__})", f"{origin} ({builder.__module__})")
        listed = (_state.sources or {}).get(name)
        if listed and not _same_file(listed.origin, origin):
            raise _taken(name, listed.origin, origin)
        _state.registered[name] = (builder, facts, origin)
        return builder

    return register


def names() -> list[str]:
    """Names of all mechanisms, in alphabetical order. Imports none of them where their source tells."""
    return sorted({**_sources(), **_state.registered})


def failures() -> dict[str, str]:
    """Files that cannot be used, each with its error."""
    _sources()
    return dict(sorted(_state.failed.items()))


def get(name: str) -> MechanismSpec:
    """The mechanism called ``name``.

    Raises:
        UnknownNameError: there is none; the message gives the nearest names.
        AttnbenchError: a file of that name exists but failed to import.
    """
    source = _sources().get(name)
    if source is not None:
        return MechanismSpec(name, source.facts[name], source.origin, lambda: _builder(name, source))
    if name in _state.registered:
        builder, facts, origin = _state.registered[name]
        return MechanismSpec(name, facts, origin, lambda: builder)
    for origin, error in _state.failed.items():
        if name in (origin, Path(origin).stem):
            raise AttnbenchError(f"mechanism {name!r} ({origin}) failed to import: {error}")
    raise UnknownNameError("mechanism", name, names())


def add_plugin(path: str | Path) -> None:
    """Add the mechanisms of one file from anywhere.

    Raises:
        AttnbenchError: there is no such file, or it registers a name that is taken.
    """
    source = read_plugin(Path(path))
    if any(_same_file(source.origin, known.origin) for known in _state.plugins):
        return
    _state.plugins.append(source)
    if _state.sources is not None:
        _add(_state.sources, source)


def plugins() -> list[str]:
    """Paths of the files added with :func:`add_plugin`, in order."""
    return [source.origin for source in _state.plugins]


def import_plugins(call: str, group: str) -> None:
    """Import what may register something by ``call`` (``register_metric``, ...): files added, entry points.

    Args:
        call: name of the function; only files whose text calls it are imported.
        group: of entry points.

    Raises:
        AttnbenchError: one fails to import.
    """
    for source in _all_plugins():
        if call in source.registers and source.module not in sys.modules:
            try:
                _import(source)
            except Exception as error:
                raise AttnbenchError(
                    f"plugin {source.origin} failed to import: {type(error).__name__}: {error}"
                ) from error
    _load_entry_points(group)


@functools.cache
def _load_entry_points(group: str) -> None:
    for entry in importlib.metadata.entry_points(group=group):
        try:
            entry.load()
        except Exception as error:
            raise AttnbenchError(
                f"entry point {entry.name} = {entry.value} failed to import: {type(error).__name__}: {error}"
            ) from error


def _all_plugins() -> list[Source]:
    """Files from anywhere: of the environment variable, then those added."""
    return [*_named_plugins(os.environ.get("ATTNBENCH_PLUGINS", "")), *_state.plugins]


@functools.cache
def _named_plugins(paths: str) -> tuple[Source, ...]:
    return tuple(read_plugin(Path(path)) for path in paths.split(os.pathsep) if path)


def registering_modules() -> list[str]:
    """Modules that registered a mechanism when they ran, though no place that is searched names them."""
    known = _sources()
    return sorted({r[0].__module__ for name, r in _state.registered.items() if name not in known})


def _sources() -> dict[str, Source]:
    if _state.sources is None:
        found: dict[str, Source] = {}
        for source in [*find_sources(), *_all_plugins()]:
            _add(found, source)
        _state.sources = found
    return _state.sources


def _add(found: dict[str, Source], source: Source) -> None:
    """Enter a source under every name it registers; one that cannot be read statically is imported."""
    if source.error is None and not source.facts:
        before = set(_state.registered)
        try:
            _import(source)
        except Exception as error:
            source.error = f"{type(error).__name__}: {error}"
        else:
            new = {
                n: r
                for n, r in _state.registered.items()
                if _same_file(r[2], source.origin) or n not in before
            }
            source.facts = {n: r[1] for n, r in new.items()}
            if not source.facts and not source.registers - {"register_mechanism"}:
                source.error = "registers no mechanism: no call of register_mechanism was found"
    if source.error is not None:
        _state.failed[source.origin] = source.error
        return
    for name in source.facts:
        if name in found and not _same_file(found[name].origin, source.origin):
            raise _taken(name, found[name].origin, source.origin)
        found[name] = source


def _import(source: Source) -> ModuleType:
    if source.path is None:
        return importlib.import_module(source.module)
    if source.module in sys.modules:
        return sys.modules[source.module]
    spec = importlib.util.spec_from_file_location(source.module, source.path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{source.path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[source.module] = module  # before it runs, so that its classes can be pickled
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[source.module]
        for name in [n for n, r in _state.registered.items() if r[0].__module__ == source.module]:
            del _state.registered[name]
        raise
    return module


def _builder(name: str, source: Source) -> Callable[..., "nn.Module"]:
    if name not in _state.registered:
        try:
            _import(source)
        except AttnbenchError:
            raise
        except Exception as error:
            raise AttnbenchError(
                f"mechanism {name!r} ({source.origin}) failed to import: {type(error).__name__}: {error}"
            ) from error
    if name not in _state.registered:
        raise AttnbenchError(f"{source.origin} was imported but did not register {name!r}")
    return _state.registered[name][0]


def _with_helpers(path: Path, seen: set[Path]) -> set[Path]:
    """A file and, through all imports, the files that it imports from ``mechanisms``.

    A mechanism that is a package is all its files, the C++ sources among them.
    """
    if path in seen:
        return seen
    seen.add(path)
    folder = path.parent
    if path.name == "__init__.py":
        seen.update(file for end in ("cpp", "h") for file in folder.glob(f"*.{end}"))
        for file in sorted(folder.glob("*.py")):
            _with_helpers(file, seen)
    in_package = folder.name != "mechanisms" and (folder.parent / "__init__.py").is_file()
    roots = (folder, folder.parent) if in_package else (folder,)
    for name in _helpers(path, path.stat().st_mtime_ns):
        for root in roots:
            for helper in (root / f"{name}.py", root / name / "__init__.py"):
                if helper.is_file():
                    _with_helpers(helper, seen)
    return seen


@functools.cache
def _helpers(path: Path, changed: int) -> tuple[str, ...]:
    """Names of modules that a file imports, anywhere in it, from the package ``mechanisms``."""
    found: list[str] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        package, _, name = (getattr(node, "module", None) or "").rpartition("mechanisms")
        if isinstance(node, ast.ImportFrom) and package in ("", "attnbench."):
            found += [name[1:].partition(".")[0]] if name else [alias.name for alias in node.names]
    return tuple(found)


def _same_file(one: str, other: str) -> bool:
    return one == other or Path(one).resolve() == Path(other).resolve()


def _taken(name: str, first: str, second: str) -> AttnbenchError:
    return AttnbenchError(
        f"mechanism name {name!r} is registered twice: in {first} and in {second}; rename one"
    )
