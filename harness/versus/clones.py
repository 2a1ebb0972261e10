"""Official code in clones of its repositories: one file of each, loaded where it lies.

Such a file may import others of its repository, under names as common as ``models`` or ``ops``. They are
found while it loads and forgotten afterwards, so that the next repository finds its own; what a function
imports only when it is called is not found.
"""

import contextlib
import functools
import importlib.util
import re
import shlex
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from attnbench.errors import ImplementationError, told

_PACKAGES = {"pywt": "PyWavelets"}
"""What to install for a module of another name."""


@functools.cache
def load(
    folder: Path, repository: str, file: str, root: str = "", absent: tuple[str, ...] = ()
) -> ModuleType:
    """A file of a clone as a module.

    Args:
        folder: of clones, each under the name that ``git clone`` gives it.
        repository: on GitHub, as owner/name.
        file: path in the clone.
        root: folder of the clone that its own scripts run in, and import from.
        absent: compiled modules that it imports and that are not built here; empty ones stand in.

    Raises:
        ImplementationError: it is not there, or does not load here; the message says what to do.
    """
    clone = folder / repository.partition("/")[2]
    path = clone / file
    if not clone.is_dir():
        raise ImplementationError(
            f"no clone: git clone https://github.com/{repository} {shlex.quote(str(clone))}"
        )
    if not path.is_file():
        raise ImplementationError(f"{clone} has no {file}; is it a clone of {repository}?")
    name = "official_" + re.sub(r"\W", "_", f"{repository}_{file}")
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImplementationError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # decorators look themselves up there
    try:
        with _importing_from((clone / root).resolve(), absent):
            spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # it is somebody's code, for some other version of torch or timm
        del sys.modules[name]
        raise ImplementationError(f"{path} does not load here: {told(error)}{_advice(error)}") from error
    return module


def _advice(error: BaseException) -> str:
    """What to install, where a whole package is absent."""
    absent = error.name or "." if isinstance(error, ModuleNotFoundError) else "."
    return "" if "." in absent else f"; pip install {_PACKAGES.get(absent, absent)}"


@contextlib.contextmanager
def _importing_from(root: Path, absent: tuple[str, ...]) -> Iterator[None]:
    """Find modules in a folder first, and forget those that were found there."""
    before = list(sys.path)
    own = {*absent} | {
        path.name.partition(".")[0] for path in root.iterdir() if path.is_dir() or path.suffix == ".py"
    }
    hidden = {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] in own}
    sys.path.insert(0, str(root))
    sys.modules.update({name: ModuleType(name) for name in absent})
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of names that timm and torch have moved since
            yield
    finally:
        sys.path[:] = before
        for name in [name for name in sys.modules if name.partition(".")[0] in own]:
            del sys.modules[name]
        sys.modules.update(hidden)
