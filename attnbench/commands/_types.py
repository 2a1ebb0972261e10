"""Types of the commands' options: a wrong value ends in one line that names the option, before anything runs.

click's own types where they will do; these add what they lack: near misses, lists, numbers that are not
finite, files that cannot be written. Needs no torch.
"""

import json
import math
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from attnbench import baselines, layouts, registry
from attnbench.errors import AttnbenchError, UnknownNameError

Known = Sequence[str] | Callable[[], Sequence[str]]


class OneOf(click.Choice[str]):
    """One of a few words; another is refused with those that are near.

    Args:
        kind: what the words are, in the message.
        words: those that are known.
    """

    def __init__(self, kind: str, *words: str) -> None:
        super().__init__(words)
        self.kind = kind

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The word itself."""
        if value not in self.choices:
            self.fail(str(UnknownNameError(self.kind, str(value), self.choices)), param, ctx)
        return str(value)


class Name(click.ParamType):
    """A name that is looked up when it is given, since plug-ins add to what there is.

    Args:
        kind: what it names; a ``mechanism`` whose file is broken is refused with the reason.
        known: the names, or what gives them.
    """

    name = "name"

    def __init__(self, kind: str, known: Known) -> None:
        self.kind, self._known = kind, known

    @property
    def known(self) -> Sequence[str]:
        """All names there are now."""
        return self._known() if callable(self._known) else self._known

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The name itself."""
        known = self.known
        if value not in known:
            try:
                if self.kind == "mechanism":
                    registry.get(value)  # says why, if its file failed to import
                raise UnknownNameError(self.kind, value, known)
            except AttnbenchError as error:
                self.fail(str(error), param, ctx)
        return value

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Any]:
        """The names that begin so."""
        return [click.shell_completion.CompletionItem(n) for n in self.known if n.startswith(incomplete)]


class Word(click.ParamType):
    """Any text but none: what it names is known only where it is used."""

    name = "word"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The text itself."""
        if not str(value).strip() or not str(value).isprintable():
            self.fail(f"must name something, got {str(value)!r}", param, ctx)
        return str(value)


class Names(Name):
    """Names separated by commas, each once, as a tuple. None at all is refused: leave the option out."""

    name = "names"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The names in the order given."""
        if isinstance(value, tuple):
            return value
        parts = [part.strip() for part in value.split(",")]
        if not all(parts):
            self.fail(f"a name is missing in {value!r}; give names separated by commas", param, ctx)
        return tuple(dict.fromkeys(super(Names, self).convert(part, param, ctx) for part in parts))


class Words(Word):
    """Texts separated by commas, each once, as a tuple."""

    name = "words"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The texts in the order given."""
        if isinstance(value, tuple):
            return value
        parts = (super(Words, self).convert(part.strip(), param, ctx) for part in value.split(","))
        return tuple(dict.fromkeys(parts))


class Whole(click.IntRange):
    """A whole number from ``least`` to ``most``."""

    def __init__(self, least: int = 1, most: int | None = None) -> None:
        super().__init__(least, most)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The number."""
        try:
            return int(super().convert(value, param, ctx))
        except click.BadParameter:
            limits = f"of at least {self.min}" if self.max is None else f"from {self.min} to {self.max}"
            self.fail(f"must be a whole number {limits}, got {value!r}", param, ctx)


class Wholes(click.ParamType):
    """Whole numbers separated by commas, each once, as a tuple in ascending order.

    Args:
        least, most: of each.
        count: how many there must be.
    """

    name = "numbers"

    def __init__(self, least: int = 1, most: int | None = None, count: int = 1) -> None:
        self._each, self._count = Whole(least, most), count

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        """The numbers."""
        if isinstance(value, tuple):
            return value
        numbers = {self._each.convert(part.strip(), param, ctx) for part in value.split(",")}
        if len(numbers) < self._count:
            self.fail(f"must be {self._count} or more different numbers, got {value!r}", param, ctx)
        return tuple(sorted(numbers))


class Number(click.FloatRange):
    """A finite number from ``least`` to ``most``; a limit may be ``open``: not itself allowed."""

    def __init__(
        self, least: float = 0.0, most: float | None = None, *, above: bool = False, below: bool = False
    ) -> None:
        super().__init__(least, most, min_open=above, max_open=below)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number."""
        try:
            number = float(super().convert(value, param, ctx))
            if math.isfinite(number):
                return number
        except click.BadParameter:
            pass
        limits = f"{'above' if self.min_open else 'of at least'} {self.min:g}"
        if self.max is not None:
            limits += f" and {'below' if self.max_open else 'at most'} {self.max:g}"
        self.fail(f"must be a number {limits}, got {value!r}", param, ctx)


class Device(click.ParamType):
    """``cpu``, ``cuda`` or ``cuda:N``, and ``auto`` where something is to run; torch says if it is here."""

    name = "device"

    def __init__(self, auto: bool = True) -> None:
        self._auto = auto

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The device as it was given."""
        if not (re.fullmatch(r"cpu|cuda(:\d{1,3})?", value) or (self._auto and value == "auto")):
            words = "cpu, cuda, cuda:N or auto" if self._auto else "cpu, cuda or cuda:N"
            self.fail(f"unknown device {value!r}; expected {words}", param, ctx)
        return str(value)


class Setting(click.ParamType):
    """``topk=[1,4,16,null]`` as a name and a value; a value that is not JSON is a string."""

    name = "setting"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, Any]:
        """The name and the value; whether a mechanism has such an option, the mechanism says."""
        if isinstance(value, tuple):
            return value[0], value[1]
        name, equals, text = value.partition("=")
        if not equals or not name.isidentifier():
            self.fail(f"must be OPTION=VALUE, got {value!r}", param, ctx)
        try:
            return name, json.loads(text, parse_constant=_no_constant)
        except _NotFiniteError:
            self.fail(f"{name} must be a finite number, got {text!r}", param, ctx)
        except RecursionError:
            self.fail(f"{name} is nested too deeply", param, ctx)
        except ValueError:
            return name, text


class _NotFiniteError(Exception):
    """NaN or an infinity, which Python's JSON reads and JSON does not have."""


def _no_constant(text: str) -> Any:
    raise _NotFiniteError(text)


class OutputFile(click.ParamType):
    """A file to be written, in a folder that is there: said before the work, not after it."""

    name = "file"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """The path."""
        path = Path(value)
        why_not = ""
        if not str(value).strip() or "\0" in str(value):
            why_not = "it names no file"
        elif path.is_dir():
            why_not = "it is a folder"
        elif not path.parent.is_dir():
            why_not = f"there is no folder {path.parent}; make it first"
        elif not os.access(path if path.exists() else path.parent, os.W_OK):
            why_not = "permission denied"
        if why_not:
            self.fail(f"cannot write {str(value)!r}: {why_not}", param, ctx)
        return path


class Plot(OutputFile):
    """A file that matplotlib can write."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """The path."""
        from attnbench.figures import check_plottable

        path = super().convert(value, param, ctx)
        check_plottable(path)
        return path


class Folder(click.ParamType):
    """A folder, there already or not; a file of that name is refused."""

    name = "folder"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """The path."""
        path = Path(value)
        if not str(value).strip() or "\0" in str(value):
            self.fail(f"names no folder, got {str(value)!r}", param, ctx)
        if path.exists() and not path.is_dir():
            self.fail(f"cannot write {value}: it is a file, not a folder", param, ctx)
        return path


class Existing(click.ParamType):
    """A file or folder that is there.

    Args:
        what: of which kind, in the message: ``file``, ``folder`` or ``file or folder``.
    """

    name = "path"

    def __init__(self, what: str = "file or folder") -> None:
        self._what = what

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """The path."""
        path = Path(value)
        if not str(value).strip() or "\0" in str(value):
            self.fail(f"names no {self._what}, got {str(value)!r}", param, ctx)
        wrong = (path.is_dir() and self._what == "file") or (path.is_file() and self._what == "folder")
        if wrong or not path.exists():
            self.fail(f"there is no {self._what} {value}", param, ctx)
        if not (path.is_dir() or path.is_file()):
            self.fail(f"{value} is neither a file nor a folder", param, ctx)
        return path


def _implementations() -> list[str]:
    """Those of any mechanism; whether one has it and it runs here, building it tells."""
    return [
        "auto",
        *sorted({impl for name in registry.names() for impl in registry.get(name).implementations}),
    ]


LAYOUT = Name("layout", layouts.names)
IMPL = Name("implementation", _implementations)
IMPLS = Names("implementation", _implementations)
MECHANISM = Name("mechanism", registry.names)
MECHANISMS = Names("mechanism", registry.names)
MODEL = Name("mechanism", lambda: [*registry.names(), *baselines.TITLES])
MODELS = Names("mechanism", lambda: [*registry.names(), *baselines.TITLES])
"""Mechanisms, and the models that they are compared with."""
BASELINE = Name("mechanism", lambda: [*registry.names(), *baselines.TITLES, "none"])
MODE = OneOf("mode", "infer", "train")
MODES = Names("mode", ("infer", "train"))
PRECISION = OneOf("precision", "fp32", "amp")
PRECISIONS = Names("precision", ("fp32", "amp"))
TABLE_FORMAT = OneOf("format", "md", "csv", "latex", "html")
RESOLUTION = Whole(1, 2**16)
BATCH = Whole(1, 2**20)
SEED = Whole(0, 2**63 - 1)
SECONDS = Whole(1, 10**7)
THREADS = Whole(1, max(os.cpu_count() or 1, 1))
