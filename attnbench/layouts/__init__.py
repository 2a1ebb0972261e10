"""The layouts a mechanism is dropped into, as data; :mod:`attnbench.harness.models.backbone` builds them.

Each file of this folder holds layouts of one family; a plug-in (``--plugin FILE``) or an entry point of the
group ``attnbench.layouts`` adds its own with :func:`register_layout`.
"""

import functools
import importlib
from pathlib import Path

from attnbench import plugins
from attnbench.errors import AttnbenchError, UnknownNameError
from attnbench.layouts._layout import Layout

__all__ = ["Layout", "get_layout", "names", "register_layout"]

_registered: dict[str, Layout] = {}


def register_layout(layout: Layout) -> Layout:
    """Make a layout known by its name; returns it.

    Raises:
        AttnbenchError: another layout has the name.
    """
    if _registered.setdefault(layout.name, layout) != layout:
        raise AttnbenchError(f"layout name {layout.name!r} is registered twice; rename one")
    return layout


def names() -> tuple[str, ...]:
    """Names of all layouts: those of this folder in the order of its files, then those of plug-ins."""
    return tuple(_all())


def get_layout(name: str) -> Layout:
    """The layout called ``name``.

    Raises:
        UnknownNameError: there is none.
    """
    if name not in _all():
        raise UnknownNameError("layout", name, names())
    return _registered[name]


def _all() -> dict[str, Layout]:
    _load_folder()
    plugins.import_plugins("register_layout", "attnbench.layouts")
    return _registered


@functools.cache
def _load_folder() -> None:
    for path in sorted(Path(__file__).parent.glob("[!_]*.py")):
        importlib.import_module(f"{__name__}.{path.stem}")
