"""Data sets: where a name, what is declared of it and its loader come together.

A data set is one file that calls :func:`register_dataset`. Files are found in three places: the folder
``harness/data``, the entry-point group ``attnbench.datasets`` and files named with ``--plugin`` or in the
environment variable ATTNBENCH_PLUGINS. Finding them imports nothing; a file is imported when its loader is
needed. A record carries the name and the digest of the data that it was measured on.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from attnbench import source_digest
from attnbench.discovery import Kind
from attnbench.errors import AttnbenchError
from attnbench.plugins import Builder, Registry

TASKS = ("classification", "probe", "semantic", "detection")


@dataclass(frozen=True)
class DatasetFacts:
    """What a data set declares; see :func:`register_dataset` for each field."""

    title: str
    task: str = "classification"
    num_classes: int = 0
    channels: int = 3
    sizes: str = ""
    splits: tuple[str, ...] = ("train", "test")
    licence: str = ""
    source: str = ""
    obtained: str = ""
    version: str = "1"
    layouts: tuple[str, ...] = ()

    def validate(self, name: str) -> None:
        """Raise AttnbenchError unless the facts have the declared form."""
        if not name.isidentifier() or name.startswith("_"):
            raise AttnbenchError(f"data set name {name!r} is not a snake_case identifier")
        if self.task not in TASKS:
            raise AttnbenchError(f"{name}: task {self.task!r} is not one of {', '.join(TASKS)}")
        if self.num_classes == 1 or self.num_classes < 0 or self.channels < 1:
            sizes = f"num_classes {self.num_classes}, channels {self.channels}"
            raise AttnbenchError(
                f"{name}: a data set has at least 2 classes (or 0, see register_dataset) and 1 channel, "
                f"got {sizes}"
            )


def _declare(name: str, **arguments: Any) -> DatasetFacts:
    """Facts from the arguments of :func:`register_dataset`."""
    for key in ("splits", "layouts"):
        if key in arguments:
            arguments[key] = tuple(arguments[key])
    facts = DatasetFacts(**{**arguments, "title": arguments.get("title") or name})
    facts.validate(name)
    return facts


KIND = Kind("data set", "attnbench.harness.data", "attnbench.datasets", "register_dataset", _declare)
DATASETS = Registry(KIND)


@dataclass(frozen=True)
class DatasetSpec:
    """A registered data set: what it declares, where it is from, and its loader."""

    name: str
    facts: DatasetFacts
    origin: str
    _load: Callable[[], Callable[..., Any]] = field(repr=False, compare=False)

    def load(self) -> Callable[..., Any]:
        """Import the file, if that has not happened, and return the registered class or function.

        Raises:
            AttnbenchError: the file fails to import, or registers another name than it seemed to.
        """
        return self._load()

    def digest(self) -> str:
        """Sixteen hex digits of name, version and the code that reads or makes the samples.

        Records carry it: other samples are another data set. The code is the file and the helpers that it
        imports from the folder of data sets; comments and docstrings are no part of it.
        """
        code = source_digest.of(source_digest.with_helpers(Path(self.origin), KIND.package))
        text = f"{self.name}\n{self.facts.version}\n{code}"
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def register_dataset(
    name: str,
    *,
    title: str = "",
    task: str = "classification",
    num_classes: int,
    channels: int = 3,
    sizes: str = "",
    splits: Sequence[str] = ("train", "test"),
    licence: str = "",
    source: str = "",
    obtained: str = "",
    version: str = "1",
    layouts: Sequence[str] = (),
) -> Callable[[Builder], Builder]:
    """Register the class or function below, which loads or makes the samples, as the data set ``name``.

    Write the arguments as literals: they are read from the source, so that listing imports nothing.

    Args:
        name: snake_case name, the same as the file's.
        title: name as a table prints it; ``name`` if empty.
        task: what is asked: one of :data:`TASKS`. It says what the loader must offer; see CONTRIBUTING.
        num_classes: how many answers there are; 0 where only the opened data tell.
        channels: of an image.
        sizes: height and width of the images, in words.
        splits: parts that the samples are divided into.
        licence: of the samples.
        source: who made them: paper, page.
        obtained: how they come to this machine (``ships with scikit-learn``, ``generated from a seed``).
        version: to be raised when the samples change in a way that the code does not show.
        layouts: layouts that train on it unless told otherwise.

    Returns:
        A decorator that leaves the class or function as it is.

    Raises:
        AttnbenchError: the name is taken (both files are named), or an argument is not of the form above.
    """
    facts = _declare(
        name,
        title=title,
        task=task,
        num_classes=num_classes,
        channels=channels,
        sizes=sizes,
        splits=splits,
        licence=licence,
        source=source,
        obtained=obtained,
        version=version,
        layouts=layouts,
    )
    return DATASETS.register(name, facts)


def names(task: str = "") -> list[str]:
    """Names of all data sets, or of those of a task, in alphabetical order."""
    return [name for name in DATASETS.names() if task in ("", DATASETS.find(name).facts.task)]


def failures() -> dict[str, str]:
    """Files that cannot be used, each with its error."""
    return DATASETS.failures()


def get(name: str) -> DatasetSpec:
    """The data set called ``name``.

    Raises:
        UnknownNameError: there is none; the message gives the nearest names.
        AttnbenchError: a file of that name exists but failed to import.
    """
    found = DATASETS.find(name)
    return DatasetSpec(name, found.facts, found.origin, found.load)


def of_layout(layout: str) -> DatasetSpec:
    """The data set that a layout trains on unless told otherwise.

    Raises:
        AttnbenchError: none says so of itself, or several do.
    """
    found = [name for name in names() if layout in get(name).facts.layouts]
    if len(found) != 1:
        told = ", ".join(found) or "none"
        raise AttnbenchError(
            f"layout {layout!r} has no one data set to train on by default ({told}); name one: "
            f"{', '.join(names('classification'))}"
        )
    return get(found[0])
