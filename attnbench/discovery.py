"""Find the files that users add and read what they declare without importing them.

``attnbench list`` must answer at once, and importing torch takes seconds; so the arguments of
``register_mechanism`` and ``register_dataset`` are read from the syntax tree. A file whose tree does not tell
(a computed argument, a statement at top level that could fail) is left for the registry to import.
"""

import ast
import hashlib
import importlib.metadata
import importlib.util
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from attnbench.errors import AttnbenchError, reason, told

FactsT = TypeVar("FactsT")


@dataclass(frozen=True)
class Kind(Generic[FactsT]):
    """A kind of thing that is added by one file.

    Args:
        noun: what an error calls one.
        package: where those shipped lie; the folder is the one of that name in the package attnbench.
        group: entry points by which an installed package adds its own.
        decorator: name of the function that registers one, its first argument the name.
        declare: facts from the name and the decorator's other arguments.
    """

    noun: str
    package: str
    group: str
    decorator: str
    declare: Callable[..., FactsT]

    @property
    def folder(self) -> Path:
        """Where those shipped lie."""
        parts = self.package.split(".")[1:]
        folder = Path(__file__).parent.joinpath(*parts)
        if not folder.is_dir():  # a checkout without symbolic links, not installed
            folder = Path(__file__).parent.parent.joinpath(*parts)
        return folder


@dataclass
class Source(Generic[FactsT]):
    """One file that registers things of one kind, read but not imported.

    ``module`` is the name to import it under; ``path`` is set where it must be loaded by path. ``seems`` are
    names that its text seems to register, by which one that is broken can still be told.
    """

    origin: str
    module: str
    path: Path | None = None
    facts: dict[str, FactsT] = field(default_factory=dict)
    error: str | None = None
    seems: tuple[str, ...] = ()


def find_sources(kind: Kind[FactsT]) -> Iterator[Source[FactsT]]:
    """The files of the kind's folder, then its entry points. A file that begins with ``_`` helps others."""
    folder = kind.folder
    for path in sorted([*folder.glob("*.py"), *folder.glob("*/__init__.py")]):
        if not path.stem.startswith("_"):
            yield _read(kind, Source(str(path.resolve()), f"{kind.package}.{path.stem}"), path)
        elif path.parent != folder:  # one with kernels of its own is a package
            yield _read(kind, Source(str(path.resolve()), f"{kind.package}.{path.parent.name}"), path)
    for entry in importlib.metadata.entry_points(group=kind.group):
        origin = f"entry point {entry.name} = {entry.value}"
        path_of = _module_path(entry.module)
        if path_of is None:
            yield Source(origin, entry.module, error=f"module {entry.module} is not installed")
        else:
            yield _read(kind, Source(str(path_of), entry.module), path_of)


def plugin_file(path: str | Path) -> str:
    """The absolute path of a file from anywhere.

    Raises:
        AttnbenchError: it is not a Python file.
    """
    chosen = Path(path).expanduser().resolve()
    if chosen.suffix != ".py" or not chosen.is_file():
        raise AttnbenchError(f"plugin {chosen} is not a Python file; expected the path of a .py file")
    return str(chosen)


def read_plugin(kind: Kind[FactsT], path: str) -> Source[FactsT]:
    """A file from anywhere, to be loaded by path."""
    return _read(kind, Source(path, module_name(path), path=Path(path)), Path(path))


def module_name(path: str) -> str:
    """What a file that is loaded by path is imported as."""
    return f"attnbench_plugin_{Path(path).stem}_{hashlib.sha256(path.encode()).hexdigest()[:8]}"


def _read(kind: Kind[FactsT], source: Source[FactsT], path: Path) -> Source[FactsT]:
    try:
        text = path.read_text(encoding="utf-8")
        source.seems = tuple(re.findall(rf"{kind.decorator}\(\s*(?:name\s*=\s*)?[\"'](\w+)[\"']", text))
        tree = ast.parse(text, filename=path.name)
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError) as error:
        source.error = told(error, str(path)) if isinstance(error, SyntaxError) else reason(error)
        return source
    missing = next(((name, line) for name, line in _imports(tree) if not _findable(name)), None)
    if missing:
        source.error = f"ModuleNotFoundError: No module named {missing[0]!r} ({path.name}:{missing[1]})"
    elif all(_is_harmless(node) for node in tree.body[1 if ast.get_docstring(tree) else 0 :]):
        try:
            for name, facts, line in _declarations(kind, tree):
                if name in source.facts:
                    raise AttnbenchError(f"{kind.noun} {name!r} is registered twice ({path.name}:{line})")
                source.facts[name] = facts
        except AttnbenchError as error:
            source.facts, source.error = {}, str(error)
        except Exception:  # an argument is not a literal, or not of its type: importing it tells
            source.facts = {}
    return source


# Top-level statements that do not by themselves fail at import.
_HARMLESS = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign)


def _is_harmless(node: ast.stmt) -> bool:
    words = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)  # about the line above, say
    return words or isinstance(node, _HARMLESS)


def _imports(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Packages that a file imports as it is imported, each with the line."""
    for node in tree.body:
        if isinstance(node, ast.Import):
            yield from ((alias.name.partition(".")[0], node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0], node.lineno


def _findable(top_level: str) -> bool:
    try:
        return importlib.util.find_spec(top_level) is not None
    except (ImportError, ValueError):
        return True  # present but odd: leave the verdict to the import


def _declarations(kind: Kind[FactsT], tree: ast.Module) -> Iterator[tuple[str, FactsT, int]]:
    """Name, facts and line of each decorated class or function; ValueError where one is not a literal."""
    for node in tree.body:
        for call in getattr(node, "decorator_list", []):
            if not (isinstance(call, ast.Call) and _called(call.func) == kind.decorator):
                continue
            arguments: dict[str, Any] = {}
            for keyword in call.keywords:
                if keyword.arg is None:
                    raise ValueError("**arguments")
                arguments[keyword.arg] = ast.literal_eval(keyword.value)
            name = ast.literal_eval(call.args[0]) if call.args else arguments.pop("name")
            yield name, kind.declare(name, **arguments), call.lineno


def _called(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def _module_path(module: str) -> Path | None:
    """The file of a module, found without importing its parents' code where they lie on disk."""
    top, _, rest = module.partition(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    if not rest:
        return Path(spec.origin) if spec.origin else None
    for root in spec.submodule_search_locations or []:
        base = Path(root).joinpath(*rest.split("."))
        for candidate in (base.with_suffix(".py"), base / "__init__.py"):
            if candidate.is_file():
                return candidate
    return None
