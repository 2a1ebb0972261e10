"""What users add by one file: found in a folder, an entry point or a ``--plugin`` file, imported on demand.

One :class:`Registry` for each kind of thing (mechanisms, data sets). It knows names and facts from the
syntax tree (:mod:`attnbench.discovery`), so that listing imports nothing, and imports a file when what it
registers is needed. A file given with ``--plugin`` or in ATTNBENCH_PLUGINS may register several kinds.
"""

import contextlib
import functools
import importlib
import importlib.metadata
import importlib.util
import os
import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, TypeVar

from attnbench.discovery import FactsT, Kind, Source, find_sources, module_name, plugin_file, read_plugin
from attnbench.errors import AttnbenchError, UnknownNameError, told
from attnbench.supervision import time_limit

Builder = TypeVar("Builder", bound=Callable[..., Any])


@dataclass
class State(Generic[FactsT]):
    """All that the process knows of one kind of thing; ``None`` until first asked for."""

    sources: dict[str, Source[FactsT]] | None = None
    failed: dict[str, str] = field(default_factory=dict)
    seems: dict[str, str] = field(default_factory=dict)
    """Names that broken files seem to register, each with the file."""
    registered: dict[str, tuple[Callable[..., Any], FactsT, str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Entry(Generic[FactsT]):
    """What was found under a name: what it declares, where it is from, and how its builder is had."""

    facts: FactsT
    origin: str
    load: Callable[[], Callable[..., Any]]


IMPORT_LIMIT_S = 120.0
"""For a file to import: one that waits for something would wait for ever."""
_registries: "list[Registry[Any]]" = []
_files: list[str] = []


class Registry(Generic[FactsT]):
    """The things of one kind, by name."""

    def __init__(self, kind: Kind[FactsT]) -> None:
        self.kind = kind
        self.state: State[FactsT] = State()
        _registries.append(self)

    def register(self, name: str, facts: FactsT) -> Callable[[Builder], Builder]:
        """A decorator that enters the class or function below; AttnbenchError if the name is taken."""

        def enter(builder: Builder) -> Builder:
            module = sys.modules.get(builder.__module__)
            origin = str(getattr(module, "__file__", None) or f"module {builder.__module__}")
            known = self.state.registered.get(name)
            if known and _place(known[0]) != _place(builder):
                first = f"{known[2]} ({_place(known[0])})"
                raise self._taken(name, first, f"{origin} ({_place(builder)})")
            listed = (self.state.sources or {}).get(name)
            if listed and not _same_file(listed.origin, origin):
                raise self._taken(name, listed.origin, origin)
            self.state.registered[name] = (builder, facts, origin)
            return builder

        return enter

    def names(self) -> list[str]:
        """All names, in alphabetical order. Imports no file whose source tells."""
        return sorted({**self._sources(), **self.state.registered})

    def failures(self) -> dict[str, str]:
        """Files that cannot be used, each with its error."""
        self._sources()
        return dict(sorted(self.state.failed.items()))

    def find(self, name: str) -> Entry[FactsT]:
        """What is registered as ``name``.

        Raises:
            UnknownNameError: nothing is; the message gives the nearest names, and what to do.
            AttnbenchError: a file exists that registers it but is broken; the message says why.
        """
        source = self._sources().get(name)
        if source is not None:
            return Entry(source.facts[name], source.origin, lambda: self._builder(name, source))
        if name in self.state.registered:
            builder, facts, origin = self.state.registered[name]
            return Entry(facts, origin, lambda: builder)
        for origin, error in self.state.failed.items():
            if name in (origin, Path(origin).stem) or self.state.seems.get(name) == origin:
                raise AttnbenchError(f"{self.kind.noun} {name!r} ({origin}) failed to import: {error}")
        raise UnknownNameError(self.kind.noun, name, self.names(), self._advice())

    def _advice(self) -> str:
        """What may be behind a name that is not known: a file from elsewhere that is broken, or not given."""
        broken = [f"{path} failed to import: {self.state.failed[path]}" for path in self._broken_files()]
        return "; ".join(broken) or ("" if _all_files() else "one of your own: give its file, --plugin FILE")

    def _broken_files(self) -> list[str]:
        return [path for path in _all_files() if path in self.state.failed]

    def modules_from_elsewhere(self) -> list[str]:
        """Modules that registered a thing when they ran, though no place that is searched names them."""
        known = self._sources()
        return sorted({r[0].__module__ for name, r in self.state.registered.items() if name not in known})

    def add_file(self, path: str) -> None:
        """Add what a file registers of this kind, if the places have been searched; else it will be found."""
        if self.state.sources is not None and _concerns(path, self.kind):
            self._add(self.state.sources, read_plugin(self.kind, path))

    def _sources(self) -> dict[str, Source[FactsT]]:
        if self.state.sources is None:
            found: dict[str, Source[FactsT]] = {}
            chosen = [path for path in _all_files() if _concerns(path, self.kind)]
            plugins = (read_plugin(self.kind, path) for path in chosen)
            for source in (*find_sources(self.kind), *plugins):
                self._add(found, source)
            self.state.sources = found
        return self.state.sources

    def _add(self, found: dict[str, Source[FactsT]], source: Source[FactsT]) -> None:
        """Enter a source under every name it registers; one that cannot be read statically is imported."""
        state = self.state
        if source.error is None and not source.facts:
            before = set(state.registered)
            try:
                _import(source)
            except (Exception, SystemExit) as error:
                source.error = told(error, source.origin)
            else:
                new = {
                    n: r
                    for n, r in state.registered.items()
                    if _same_file(r[2], source.origin) or n not in before
                }
                source.facts = {n: r[1] for n, r in new.items()}
                if not source.facts:
                    noun, call = self.kind.noun, self.kind.decorator
                    source.error = f"registers no {noun}: no call of {call} was found"
        if source.error is not None:
            state.failed[source.origin] = source.error
            state.seems |= dict.fromkeys(source.seems, source.origin)
            return
        for name in source.facts:
            if name in found and not _same_file(found[name].origin, source.origin):
                raise self._taken(name, found[name].origin, source.origin)
            found[name] = source

    def _builder(self, name: str, source: Source[FactsT]) -> Callable[..., Any]:
        if name not in self.state.registered:
            try:
                _import(source)
            except AttnbenchError:
                raise
            except (Exception, SystemExit) as error:
                what = f"{self.kind.noun} {name!r} ({source.origin})"
                raise AttnbenchError(f"{what} failed to import: {told(error, source.origin)}") from error
        if name not in self.state.registered:
            raise AttnbenchError(f"{source.origin} was imported but did not register {name!r}")
        return self.state.registered[name][0]

    def _taken(self, name: str, first: str, second: str) -> AttnbenchError:
        what = f"{self.kind.noun} name {name!r}"
        return AttnbenchError(f"{what} is registered twice: in {first} and in {second}; rename one")


def add(path: str | Path) -> None:
    """Add what one file from anywhere registers, of every kind.

    Raises:
        AttnbenchError: there is no such file, or it registers a name that is taken.
    """
    chosen = plugin_file(path)
    if chosen in _files:
        return
    _files.append(chosen)
    for registry in _registries:
        registry.add_file(chosen)


def check(paths: Iterable[str | Path]) -> None:
    """Say what is wrong with files that were added, as far as that shows before they are used.

    Raises:
        AttnbenchError: one is broken.
    """
    chosen = {plugin_file(path) for path in paths}
    for registry in _registries:
        for origin, error in registry.failures().items():
            if origin in chosen:
                raise AttnbenchError(f"{origin} failed to import: {error}")


def files() -> list[str]:
    """Paths of the files added with :func:`add`, in order."""
    return list(_files)


def _all_files() -> list[str]:
    """Files from anywhere: of the environment variable, then those added."""
    named = map(plugin_file, filter(None, os.environ.get("ATTNBENCH_PLUGINS", "").split(os.pathsep)))
    return list(dict.fromkeys((*named, *_files)))


@functools.cache
def _entries(group: str) -> tuple[Source[Any], ...]:
    found = importlib.metadata.entry_points(group=group)
    return tuple(Source(f"entry point {entry.name} = {entry.value}", entry.module) for entry in found)


def _concerns(path: str, kind: Kind[Any]) -> bool:
    """Whether a file is of a kind: it names its decorator, or no other's, so that somebody tells the user."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, ValueError):
        return True  # reading it as a source says what is wrong
    return kind.decorator in text or not re.search(r"\bregister_\w+\(", text)


def import_plugins(call: str, group: str) -> None:
    """Import, once each, the plug-in files that name ``call`` and the entry points of a group.

    For things that are not read from the source, since whoever lists them needs them: metrics, layouts.

    Raises:
        AttnbenchError: one fails to import.
    """
    chosen = [path for path in _all_files() if f"{call}(" in Path(path).read_text(encoding="utf-8")]
    for source in (
        *(Source[Any](path, module_name(path), path=Path(path)) for path in chosen),
        *_entries(group),
    ):
        try:
            _import(source)
        except AttnbenchError:
            raise
        except (Exception, SystemExit) as error:
            raise AttnbenchError(f"{source.origin} failed to import: {told(error, source.origin)}") from error


def _import(source: Source[Any]) -> ModuleType:
    if source.path is None:
        return importlib.import_module(source.module)
    if source.module in sys.modules:
        return sys.modules[source.module]
    spec = importlib.util.spec_from_file_location(source.module, source.path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{source.path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[source.module] = module  # before it runs, so that its classes can be pickled
    # What it prints, now or whenever it is built and run, is no part of a command's output.
    vars(module)["print"] = _print_aside
    try:
        with contextlib.redirect_stdout(sys.stderr), time_limit(IMPORT_LIMIT_S):
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[source.module]
        for registry in _registries:
            entered = registry.state.registered
            for name in [n for n, r in entered.items() if r[0].__module__ == source.module]:
                del entered[name]
        raise
    return module


def _print_aside(*values: object, **how: Any) -> None:
    """``print``, to stderr unless told where."""
    print(*values, **{"file": sys.stderr, **how})


def _place(builder: Callable[..., Any]) -> str:
    """Module and name of a class or function: the same when a notebook's cell that defines it runs again."""
    return f"{builder.__module__}.{getattr(builder, '__qualname__', repr(builder))}"


def _same_file(one: str, other: str) -> bool:
    return one == other or Path(one).resolve() == Path(other).resolve()
