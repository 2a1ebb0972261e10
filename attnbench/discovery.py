"""Find mechanism files and read what they declare without importing them.

``attnbench list`` must answer at once, and importing torch takes seconds; so the arguments of
``register_mechanism`` are read from the syntax tree. A file whose tree does not tell (a computed
argument, a statement at top level that could fail) is left for the registry to import.
"""

import ast
import hashlib
import importlib.metadata
import importlib.util
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from attnbench.errors import AttnbenchError

PATTERNS = ("static", "image", "query")
FOLDER = Path(__file__).parent / "mechanisms"
if not FOLDER.is_dir():  # a checkout without symbolic links, not installed
    FOLDER = Path(__file__).parent.parent / "mechanisms"


@dataclass(frozen=True)
class Facts:
    """What a mechanism declares; see :func:`attnbench.register_mechanism` for each field."""

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
        if not name.isidentifier() or name.startswith("_"):
            raise AttnbenchError(f"mechanism name {name!r} is not a snake_case identifier")
        if self.pattern and self.pattern not in PATTERNS:
            raise AttnbenchError(f"{name}: pattern {self.pattern!r} is not one of {', '.join(PATTERNS)}")
        if "eager" not in self.impls:
            raise AttnbenchError(f"{name}: impls {self.impls} must contain 'eager', the readable truth")


@dataclass
class Source:
    """One file that registers mechanisms, read but not imported.

    ``module`` is the name to import it under; ``path`` is set where it must be loaded by path.
    """

    origin: str
    module: str
    path: Path | None = None
    facts: dict[str, Facts] = field(default_factory=dict)
    error: str | None = None
    registers: frozenset[str] = frozenset()
    """The functions ``register_...`` that it calls, as far as its text tells."""


def find_sources() -> Iterator[Source]:
    """The files of the ``mechanisms`` folder, then the entry points of group ``attnbench.mechanisms``."""
    for path in sorted([*FOLDER.glob("*.py"), *FOLDER.glob("*/__init__.py")]):
        if not path.stem.startswith("_"):
            yield _read(Source(str(path.resolve()), f"attnbench.mechanisms.{path.stem}"), path)
        elif path.parent != FOLDER:  # a mechanism with kernels of its own is a package
            yield _read(Source(str(path.resolve()), f"attnbench.mechanisms.{path.parent.name}"), path)
    for entry in importlib.metadata.entry_points(group="attnbench.mechanisms"):
        origin = f"entry point {entry.name} = {entry.value}"
        path_of = _module_path(entry.module)
        if path_of is None:
            yield Source(origin, entry.module, error=f"module {entry.module} is not installed")
        else:
            yield _read(Source(str(path_of), entry.module), path_of)


def read_plugin(path: Path) -> Source:
    """A file from anywhere, to be loaded by path.

    Raises:
        AttnbenchError: it is not a readable Python file.
    """
    path = path.expanduser().resolve()
    if path.suffix != ".py" or not path.is_file():
        raise AttnbenchError(f"plugin {path} is not a Python file; expected the path of a .py file")
    tag = hashlib.sha256(str(path).encode()).hexdigest()[:8]
    return _read(Source(str(path), f"attnbench_plugin_{path.stem}_{tag}", path=path), path)


def _read(source: Source, path: Path) -> Source:
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    except (OSError, SyntaxError, ValueError) as error:
        source.error = f"{type(error).__name__}: {error}"
        return source
    source.registers = frozenset(
        name
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and (name := _called(node.func)).startswith("register_")
    )
    missing = next((name for name in _imports(tree) if not _findable(name)), None)
    if missing:
        source.error = f"ModuleNotFoundError: No module named {missing!r}"
    elif all(isinstance(node, _HARMLESS) for node in tree.body[1 if ast.get_docstring(tree) else 0 :]):
        try:
            source.facts = dict(_declarations(tree))
        except AttnbenchError as error:
            source.error = str(error)
        except (ValueError, TypeError):
            pass  # an argument is not a literal: only importing can tell
    return source


# Top-level statements that do not by themselves fail at import.
_HARMLESS = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign)


def _imports(tree: ast.Module) -> Iterator[str]:
    for node in tree.body:
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


def _findable(top_level: str) -> bool:
    try:
        return importlib.util.find_spec(top_level) is not None
    except (ImportError, ValueError):
        return True  # present but odd: leave the verdict to the import


def _declarations(tree: ast.Module) -> Iterator[tuple[str, Facts]]:
    """Name and facts of each decorated class or function; ValueError where one is not a literal."""
    for node in tree.body:
        for call in getattr(node, "decorator_list", []):
            if not (isinstance(call, ast.Call) and _called(call.func) == "register_mechanism"):
                continue
            arguments: dict[str, Any] = {}
            for keyword in call.keywords:
                if keyword.arg is None:
                    raise ValueError("**arguments")
                arguments[keyword.arg] = ast.literal_eval(keyword.value)
            name = ast.literal_eval(call.args[0]) if call.args else arguments.pop("name")
            for key in ("impls", "goldens"):
                if key in arguments:
                    arguments[key] = tuple(arguments[key])
            facts = Facts(**{"title": name, **arguments})
            facts.validate(name)
            yield name, facts


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
