"""A digest of code that changes with what the code does, not with what is said about it.

A file of Python counts as its syntax tree without docstrings; one of C++ as its text without comments, white
space folded. The tree is written out here rather than by :func:`ast.dump`, whose form differs between
versions of Python, while certificates travel between them.
"""

import ast
import functools
import hashlib
import re
from collections.abc import Iterable
from pathlib import Path

_SKIPPED = ("type_comment", "kind", "ctx", "type_ignores", "type_params")
_CPP_COMMENT = re.compile(r'//[^\n]*|/\*.*?\*/|("(?:\\.|[^"\\])*")', re.DOTALL)


def of(paths: Iterable[Path]) -> str:
    """Sixteen hex digits of files, whatever their order and the folder they lie in."""
    digest = hashlib.sha256()
    for path in sorted(paths, key=lambda path: (path.parent.name, path.name)):
        state = path.stat()
        digest.update(f"{path.name}\n{_content(path, state.st_mtime_ns, state.st_size)}\n".encode())
    return digest.hexdigest()[:16]


def with_helpers(path: Path, package: str) -> set[Path]:
    """A file and, through all imports, the files that it imports from its package; none if there is no file.

    One that is a package of its own is all its files, the C++ sources among them.

    Args:
        path: of the file.
        package: whose folder holds files of its kind, such as ``attnbench.mechanisms``.
    """
    return _collect(path, package, set()) if path.is_file() else set()


def _collect(path: Path, package: str, seen: set[Path]) -> set[Path]:
    if path in seen:
        return seen
    seen.add(path)
    folder = path.parent
    if path.name == "__init__.py":
        seen.update(file for end in ("cpp", "h") for file in folder.glob(f"*.{end}"))
        for file in sorted(folder.glob("*.py")):
            _collect(file, package, seen)
    shelf = package.rpartition(".")[2]
    in_package = folder.name != shelf and (folder.parent / "__init__.py").is_file()
    roots = (folder, folder.parent) if in_package else (folder,)
    for name in _helpers(path, package, path.stat().st_mtime_ns):
        for root in roots:
            for helper in (root / f"{name}.py", root / name / "__init__.py"):
                if helper.is_file():
                    _collect(helper, package, seen)
    return seen


@functools.cache
def _helpers(path: Path, package: str, changed: int) -> tuple[str, ...]:
    """Names of modules that a file imports, anywhere in it, from a package."""
    above, _, shelf = package.rpartition(".")
    found: list[str] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        before, _, name = (getattr(node, "module", None) or "").rpartition(shelf)
        if isinstance(node, ast.ImportFrom) and before in ("", f"{above}."):
            found += [name[1:].partition(".")[0]] if name else [alias.name for alias in node.names]
    return tuple(found)


@functools.cache
def _content(path: Path, changed: int, size: int) -> str:
    """What counts of a file; parsed once for each of its states, since tables ask for every row."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        return _tree(ast.parse(text))
    return " ".join(_CPP_COMMENT.sub(lambda found: found[1] or " ", text).split())


def _tree(node: object) -> str:
    """A syntax tree as text; what is empty is left out, so that a new, unused field changes nothing."""
    if isinstance(node, list):
        return f"[{','.join(_tree(item) for item in node)}]"
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = {name: value for name, value in ast.iter_fields(node) if name not in _SKIPPED}
    if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
        fields["body"] = [statement for statement in node.body if not _is_text(statement)]
    shown = (f"{name}={_tree(value)}" for name, value in fields.items() if value not in (None, []))
    return f"{type(node).__name__}({','.join(shown)})"


def _is_text(statement: ast.stmt) -> bool:
    """Whether a statement is a string alone: a docstring, of an attribute too."""
    return isinstance(statement, ast.Expr) and isinstance(getattr(statement.value, "value", None), str)
