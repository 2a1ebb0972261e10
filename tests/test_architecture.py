"""The rule for the folders: what loads torch lives in harness/ or mechanisms/; imports point one way."""

import ast
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
DOORS = ("attnbench.commands.", "attnbench.metrics.", "attnbench.tables.", "attnbench.figures.")
"""A command, a metric, a table or a figure may have the name of what it opens or shows."""
SEEN_TWICE = {"rungs", "baselines", "probe"}
"""Names in the core (of rungs, of baselines, the layout for probes), and in ``harness`` what they name."""
PUBLIC_DOOR = "attnbench.timm"
"""Importing it is what registers our models with timm, so it loads timm."""


def modules() -> dict[str, Path]:
    """Every module of the product by its dotted name."""
    found = {}
    for top in ("attnbench", "harness", "mechanisms"):
        for path in (ROOT / top).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            if parts[0] == "attnbench" and parts[1] in ("harness", "mechanisms", "results"):
                continue  # the links
            parts = parts if parts[0] == "attnbench" else ("attnbench", *parts)
            found[".".join(parts).removesuffix(".__init__")] = path
    return found


MODULES = modules()


def imported(path: Path) -> Iterator[str]:
    """Modules of the product that a file imports anywhere, but for its annotations."""

    def walk(node: ast.AST) -> Iterator[ast.AST]:
        for child in ast.iter_child_nodes(node):
            if not (isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test)):
                yield child
                yield from walk(child)

    for node in walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("attnbench"):
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if whole in MODULES else str(node.module)


GRAPH = {name: set(imported(path)) - {name} for name, path in MODULES.items()}


def test_the_core_loads_no_torch() -> None:
    heavy = ("torch", "timm", "sklearn", "matplotlib")
    core = [
        name
        for name in MODULES
        if not name.startswith(("attnbench.harness", "attnbench.mechanisms"))
        and name not in (PUBLIC_DOOR, "attnbench.__main__")
    ]
    code = (
        f"import importlib, sys\nfor name in {core!r}:\n    importlib.import_module(name)\n"
        f"    loaded = [heavy for heavy in {heavy!r} if heavy in sys.modules]\n"
        "    assert not loaded, f'{name} loads {loaded}'"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_importing_attnbench_loads_little() -> None:
    """What makes ``attnbench --version`` take a moment: nothing that is large may come with it."""
    code = (
        "import sys, attnbench; "
        "print([name for name in ('torch', 'pandas', 'numpy', 'scipy', 'pydantic', 'rich') "
        "if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_imports_point_one_way() -> None:
    for name, targets in GRAPH.items():
        for target in targets:
            if name.startswith("attnbench.mechanisms"):
                assert not target.startswith("attnbench.harness"), f"{name} imports {target}"
            if name.startswith("attnbench.harness"):
                assert not target.startswith("attnbench.mechanisms."), f"{name} imports {target}"
                assert not target.startswith("attnbench.commands"), f"{name} imports {target}"


def test_no_module_is_imported_by_what_it_imports() -> None:
    """No cycle, not by an import inside a function either; a package may import its own modules."""
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " imports ".join([*path[path.index(name) :], name])
        if name in done:
            return
        for target in sorted(GRAPH.get(name, ())):
            if not name.startswith(f"{target}."):  # a module of the package names it
                visit(target, (*path, name))
        done.add(name)

    for name in MODULES:
        visit(name, ())


def test_a_name_means_one_thing() -> None:
    by_stem: dict[str, list[str]] = defaultdict(list)
    for name in MODULES:
        if not name.startswith(DOORS):
            by_stem[name.rpartition(".")[2]].append(name)
    twice = {stem: found for stem, found in by_stem.items() if len(found) > 1 and stem not in SEEN_TWICE}
    packages = {stem for stem, found in twice.items() if f"{found[0]}.{stem}" in found}
    assert not {stem: found for stem, found in twice.items() if stem not in packages}
