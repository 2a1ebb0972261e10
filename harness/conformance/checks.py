"""The public conformance suite: what a mechanism must hold to be comparable, as small named checks.

    from attnbench.harness.conformance.checks import check_mechanism
    for result in check_mechanism("my_file.py"):
        print(result)

Each check is a function of one file of ``attnbench/conformance``; docs/checks.md lists them with their
reasons.
"""

import contextlib
import functools
import io
import json
import logging
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from attnbench import registry
from attnbench.errors import AttnbenchError, UnknownNameError, reason
from attnbench.harness.conformance import (
    behaviour,
    cost,
    equality,
    graph,
    numbers,
    pattern,
    precision,
    reading,
    shapes,
)
from attnbench.harness.conformance.subject import SITES, Check, Failure, Skip, Subject
from attnbench.harness.models.rungs import spec_on_rung
from attnbench.registry import FOLDER, MechanismSpec
from attnbench.rungs import AUTHORS
from attnbench.supervision import time_limit

_MODULES = (
    shapes,
    behaviour,
    numbers,
    precision,
    equality,
    graph,
    cost,
    pattern,
    reading,
)
LIMIT_S = 900.0
"""For one check: a mechanism that hangs fails it."""
CHECKS = {
    found.name: found for module in _MODULES for found in vars(module).values() if isinstance(found, Check)
}
"""All checks by name, in the order they run."""


@dataclass(frozen=True)
class Result:
    """Outcome of one check.

    Args:
        check: its name.
        passed: the rule holds.
        why: what was seen, or how the rule is broken.
        reproduce: a command that repeats this check alone; after ``#``, code for the module and input.
        seconds: time taken.
        skipped: why the check did not apply; empty if it did. A check is also skipped where one that it
            builds on failed.
        details: figures behind ``why``, for the certificate.
    """

    check: str
    passed: bool
    why: str
    reproduce: str
    seconds: float
    skipped: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def failed(self) -> bool:
        """The rule is broken."""
        return not self.passed and not self.skipped

    @property
    def verdict(self) -> str:
        """``passed``, ``FAILED`` or ``skipped``."""
        return "passed" if self.passed else "skipped" if self.skipped else "FAILED"

    def __str__(self) -> str:
        text = f"{self.check:<27} {self.verdict:<8} {self.skipped or self.why}"
        return text if not self.failed else f"{text}\n{'':<27} reproduce: {self.reproduce}"


def check_mechanism(
    mechanism: str | MechanismSpec,
    *,
    only: Sequence[str] | None = None,
    options: Mapping[str, Any] | None = None,
    impls: Sequence[str] = (),
    report: Callable[[Result], None] = lambda result: None,
) -> list[Result]:
    """Run the conformance suite on one mechanism.

    Args:
        mechanism: registered name, path of a Python file that registers one, or its spec.
        only: names of checks; all by default.
        options: options of the mechanism, besides its per-stage defaults.
        impls: implementations to compare besides those declared: ``compiled``, which takes a minute.
        report: is told of each result as soon as it is there.

    Returns:
        One result per check, in order. Nothing is raised for a broken rule.

    Raises:
        UnknownNameError: no such mechanism, check or implementation.
        AttnbenchError: the file cannot be read or imported, or an implementation cannot run here.
    """
    for name in only or ():
        find_check(name)
    subject = _subject(mechanism, options)
    spec = subject.spec
    for impl in impls:
        if impl not in spec.implementations:
            raise UnknownNameError(f"implementation of {spec.name}", impl, spec.implementations)
    subject.wanted = tuple(impls)
    subject.asked = tuple(impl for impl in impls if impl not in spec.facts.impls)
    for impl in impls:
        subject.build(subject.sites[0], impl)  # one that cannot run says why
    results = []
    for name in only or CHECKS:
        results.append(_result(subject, name))
        report(results[-1])
    return results


def run_check(mechanism: str | MechanismSpec, check: str) -> Result:
    """Run one check; what the checks of one mechanism share is computed once while they follow each other."""
    find_check(check)
    return _result(_last_subject(mechanism), check)


def iter_checks() -> Iterator[Check]:
    """The checks in the order they run, each with its name, its rule and the checks it needs."""
    return iter(CHECKS.values())


def find_check(name: str) -> Check:
    """The check called ``name``.

    Raises:
        UnknownNameError: there is none.
    """
    if name not in CHECKS:
        raise UnknownNameError("check", name, CHECKS)
    return CHECKS[name]


def parametrize(*mechanisms: str) -> Any:
    """A pytest decorator for a test with arguments ``mechanism`` and ``check``, run for every pair.

        @attnbench.harness.conformance.checks.parametrize("my_file.py")
        def test_conformance(mechanism, check):
            attnbench.harness.conformance.checks.assert_passes(mechanism, check)

    Args:
        mechanisms: registered names or paths of Python files; by default the whole registry.
    """
    import pytest

    names = mechanisms or tuple(registry.names())
    pairs = [pytest.param(m, c, id=f"{Path(m).stem}-{c}") for m in names for c in CHECKS]
    return pytest.mark.parametrize(("mechanism", "check"), pairs)


def assert_passes(mechanism: str | MechanismSpec, check: str) -> None:
    """For a test: fail where the check fails, and skip, with the reason, where it does not apply."""
    result = run_check(mechanism, check)
    if result.skipped:
        import pytest

        pytest.skip(result.skipped)
    assert result.passed, f"{result.why}\nreproduce: {result.reproduce}"


def example(
    mechanism: str | MechanismSpec,
    *,
    stage: int = 0,
    block: int = 0,
    height: int = 14,
    width: int = 14,
    impl: str = "auto",
) -> tuple[nn.Module, Tensor]:
    """A module and an input (1, height, width, C) as the checks use them, to look into a failure."""
    site = next(site for site in SITES if (site.stage, site.block) == (stage, block))
    subject = _subject(mechanism)
    return subject.build(site, impl), subject.image(site, (height, width))


def _subject(mechanism: str | MechanismSpec, options: Mapping[str, Any] | None = None) -> Subject:
    if isinstance(mechanism, str):
        names = registry.meant_by(mechanism)
        if len(names) > 1:
            raise AttnbenchError(f"{mechanism} registers {', '.join(names)}; check them by name")
        mechanism = registry.get(names[0])
    mechanism.load()  # an error of the file's is the user's to mend, not a failed check
    chosen = dict(options or {})
    subject = Subject(spec_on_rung(mechanism, chosen.pop("rung", AUTHORS)), chosen)
    if chosen:  # as is an option that it does not have
        subject.spec.build(SITES[0], "eager", **chosen)
    return subject


@functools.lru_cache(maxsize=1)
def _last_subject(mechanism: str | MechanismSpec) -> Subject:
    return _subject(mechanism)


def _command(spec: MechanismSpec) -> str:
    """What the command line calls a mechanism."""
    shipped = not Path(spec.origin).is_file() or FOLDER.resolve() in Path(spec.origin).parents
    return f"attnbench check {spec.name}{'' if shipped else f' --plugin {spec.origin}'}"


def _result(subject: Subject, name: str) -> Result:
    """The result of a check, run once per subject; those it needs are run before."""
    if ("result", name) in subject.memory:
        return subject.memory["result", name]
    check = CHECKS[name]
    sets = "".join(f" --set {k}={json.dumps(v, separators=(',', ':'))}" for k, v in subject.options.items())
    command = f"{_command(subject.spec)}{sets} --only {name}"
    for need in check.needs:
        before = _result(subject, need)
        if before.failed or before.skipped.startswith("needs "):
            result = Result(name, False, "", command, 0.0, skipped=f"needs {need}, which did not pass")
            break
    else:
        result = _run(subject, check, command)
    subject.memory["result", name] = result
    return result


def _run(subject: Subject, check: Check, command: str) -> Result:
    start = time.perf_counter()
    passed, why, skipped = False, "", ""
    subject.place, subject.details = {}, {}
    try:
        with _isolated(), time_limit(LIMIT_S):
            why = check.function(subject)
        passed = True
    except Skip as skip:
        skipped = str(skip)
    except Failure as failure:
        why = str(failure)
    except (Exception, SystemExit) as error:  # a mechanism under check may fail in any way
        why = reason(error)
    seconds = round(time.perf_counter() - start, 3)
    if passed or skipped or not subject.place:
        return Result(check.name, passed, why, command, seconds, skipped, subject.details)
    place = ", ".join(f"{key}={value!r}" for key, value in subject.place.items())
    code = f"module, x = attnbench.harness.conformance.checks.example({subject.spec.name!r}, {place})"
    where = "at " + " ".join(f"{key} {value}" for key, value in subject.place.items())
    why = f"{why} ({where})"
    return Result(check.name, False, why, f"{command}  # {code}", seconds, details=subject.details)


@contextlib.contextmanager
def _isolated() -> Iterator[None]:
    """Leave random state, default dtype and threads as they were; keep warnings, logs and prints quiet.

    One thread: the maps are small, and two threads on a busy machine wait for each other.
    """
    dtype, threads, logs = torch.get_default_dtype(), torch.get_num_threads(), logging.root.manager.disable
    with (
        torch.random.fork_rng(devices=[]),
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        torch.set_default_dtype(torch.float32)
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_default_dtype(dtype)
            torch.set_num_threads(threads)
            logging.disable(logs)
