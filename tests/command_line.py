"""The command line called in this process, so that hundreds of calls take seconds: what it said and did."""

import contextlib
import io
import os
import signal
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any
from unittest import mock

from attnbench import layouts, metrics, plugins
from attnbench.__main__ import main

RECORDS = Path(__file__).parent / "records" / "schema_1.jsonl"
LIMIT_S = 120
"""A call that takes longer has begun to measure what it should have refused."""


class BeganToWorkError(BaseException):
    """A call took too long to be a refusal."""


@dataclass(frozen=True)
class Said:
    """What a call ended with.

    Args:
        arguments: of the call.
        status: the exit status; ``None`` where it did not end by itself.
        out, err: what it wrote.
        crash: a traceback, or that it began to work; empty if it ended properly.
    """

    arguments: tuple[str, ...]
    status: int | None
    out: str
    err: str
    crash: str = ""

    @property
    def errors(self) -> list[str]:
        """Lines that begin as an error's does."""
        return [line for line in self.err.splitlines() if line.startswith("attnbench: error: ")]

    def fault(self) -> str:
        """What no call may do: a traceback, an error with status 0, a status of its own; else empty."""
        if self.crash:
            return self.crash
        if "Traceback (most recent call last)" in self.out + self.err or "internal error" in self.err:
            return f"a traceback: {self.err[-500:]}"
        if self.status == 0 and self.errors:
            return f"status 0 beside an error: {self.errors[0]}"
        if self.status not in (0, 1, 2, 3, 4):
            return f"status {self.status}"
        if self.status == 2 and len(self.errors) != 1:
            return f"status 2 with {len(self.errors)} lines of error: {self.err[-500:]!r}"
        return ""

    def accepted(self) -> str:
        """Where the call was wrong: why its answer is not a refusal in one line; empty if it is."""
        if self.fault():
            return self.fault()
        if self.status != 2:
            return f"status {self.status}, not 2: {(self.out + self.err)[:300]!r}"
        if len(self.err.splitlines()) != 1 or self.out:
            return f"more than one line: {(self.out + self.err)[:300]!r}"
        return ""


def call(*arguments: str, cwd: Path) -> Said:
    """Run ``attnbench ARGUMENTS`` here, in a folder, with a registry that forgets the plug-ins afterwards."""
    out, err = io.StringIO(), io.StringIO()
    status: int | None = None
    crash = ""
    written = contextlib.redirect_stdout(out), contextlib.redirect_stderr(err)
    with _in(cwd), _own_registry(), _limited(), written[0], written[1]:
        try:
            main(list(arguments))
        except SystemExit as done:
            status = done.code if isinstance(done.code, int) else 1
        except BeganToWorkError:
            crash = f"began to work, and was stopped after {LIMIT_S} s"
        except BaseException:
            crash = traceback.format_exc()
    return Said(arguments, status, out.getvalue(), err.getvalue(), crash)


def complain(found: list[tuple[Said, str]]) -> None:
    """Fail with every call that went wrong and how."""
    assert not found, "\n".join(f"attnbench {said.arguments}: {why}" for said, why in found)


@contextlib.contextmanager
def _in(folder: Path) -> Iterator[None]:
    before, environment = Path.cwd(), dict(os.environ)
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
        os.environ.clear()
        os.environ.update(environment)


@contextlib.contextmanager
def _own_registry() -> Iterator[None]:
    """What is registered, as it is; what a call adds is gone afterwards.

    Modules of the product stay imported, so what they registered stays, too.
    """
    layouts.names(), metrics.names()  # the folders are read once: into what stays, not into a copy
    copies: list[tuple[plugins.State[Any], plugins.State[Any]]] = []
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(plugins, "_files", list(plugins._files)))
        for registry in plugins._registries:
            registry.names()
            state = registry.state
            copy = plugins.State(
                sources=dict(state.sources or {}),
                failed=dict(state.failed),
                registered=dict(state.registered),
            )
            copies.append((state, copy))
            stack.enter_context(mock.patch.object(registry, "state", copy))
        for module in (layouts, metrics):
            stack.enter_context(mock.patch.dict(module._registered))
        try:
            yield
        finally:
            for state, copy in copies:
                for name, entry in copy.registered.items():
                    if entry[0].__module__.startswith(("attnbench.mechanisms.", "attnbench.harness.data.")):
                        state.registered.setdefault(name, entry)


@contextlib.contextmanager
def _limited() -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> None:
        raise BeganToWorkError

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(LIMIT_S)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
