"""What ``attnbench check`` does: run the suite, print a list, write certificates.

torch takes seconds to import, so it is imported after the arguments have been checked.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attnbench import __version__, certificates, registry, store
from attnbench.errors import AttnbenchError

if TYPE_CHECKING:
    from attnbench.harness.conformance.checks import Result

Say = Callable[[str], None]


def conformance(
    arguments: Sequence[str],
    every: bool,
    only: Sequence[str],
    out: Path,
    say: Say,
    impls: Sequence[str] = (),
    options: Mapping[str, Any] | None = None,
) -> bool:
    """Check mechanisms, print each result as it comes, and write a certificate for each whole run.

    Args:
        arguments: names of mechanisms and paths of Python files.
        every: check the whole registry, and fail for files that cannot be used.
        only: names of checks; all, with a certificate, if empty.
        out: certificates are written into its folder ``certificates``.
        say: prints a line.
        impls: implementations to compare besides those declared.
        options: to check with, besides each mechanism's defaults; the certificate is of them.

    Returns:
        Whether nothing failed.

    Raises:
        AttnbenchError: an argument is unknown, or a file cannot be read, imported or written.
    """
    chosen = [name for argument in arguments for name in registry.meant_by(argument)]
    chosen += registry.names() if every else []
    if not chosen:
        raise AttnbenchError("nothing to check; give the name of a mechanism, a FILE.py, or --all")
    store.check_writable(out)
    passed = [_one(name, only, out, say, impls, options or {}) for name in dict.fromkeys(chosen)]
    broken = registry.failures() if every else {}
    for origin, error in broken.items():
        say(f"failed: {origin}: {error}")
    if len(passed) > 1:
        say(f"{sum(passed)} of {len(passed)} mechanisms passed")
    return all(passed) and not broken


def golden(folder: Path, arguments: Sequence[str], say: Say) -> bool:
    """Compare the cases of a golden folder and print a line for each; whether all were equal.

    At the end it prints why some implementations were not compared, "N of M equal", and how many comparisons
    that were, by implementation.

    Args:
        folder: holds a MANIFEST.json.
        arguments: names of mechanisms and paths of Python files whose cases to compare; all if empty.
        say: prints a line.

    Raises:
        AttnbenchError: the folder has no manifest, or there is no such mechanism.
    """
    chosen: list[str | None] = [name for argument in arguments for name in registry.meant_by(argument)]
    from attnbench.harness.conformance.goldens import check_folder

    outcomes = []
    for name in chosen or [None]:
        for outcome in check_folder(folder, name):
            say(str(outcome))
            outcomes.append(outcome)
    reasons = Counter(f"{i} not compared: {why}" for o in outcomes for i, why in o.absent.items())
    for reason, cases in sorted(reasons.items()):
        say(f"{reason} ({cases} cases)")
    equal = sum(outcome.equal for outcome in outcomes)
    compared = [comparison for outcome in outcomes for comparison in outcome.comparisons]
    each = Counter(c.impl if c.device == "cpu" else f"{c.impl} {c.device}" for c in compared)
    counts = ", ".join(f"{impl} {count}" for impl, count in each.most_common())
    graded = sum(comparison.gradients for comparison in compared)
    say(
        f"{equal} of {len(outcomes)} equal, in {len(compared)} comparisons ({counts}), "
        f"{graded} with gradients"
    )
    return equal == len(outcomes) > 0


def _one(
    name: str, only: Sequence[str], out: Path, say: Say, impls: Sequence[str], options: Mapping[str, Any]
) -> bool:
    from attnbench.harness.conformance.checks import check_mechanism, find_check

    for check in only:
        find_check(check)
    spec = registry.get(name)
    shown = "".join(f", {key} {value}" for key, value in options.items())
    say(f"{name} ({spec.origin}, digest {spec.digest()}, attnbench {__version__}{shown})")
    results = check_mechanism(
        spec, only=only or None, options=options, impls=impls, report=lambda result: say(f"  {result}")
    )
    failed = [result.check for result in results if result.failed]
    say(f"  {_summary(results)}")
    if not only:
        path = certificates.write(out / "certificates", certificates.Certificate.of(spec, results, options))
        say(f"  not certified: {path} says why" if failed else f"  certificate: {path}")
    return not failed


def _summary(results: "Sequence[Result]") -> str:
    verdicts = [result.verdict for result in results]
    counts = ", ".join(f"{verdicts.count(v)} {v.lower()}" for v in ("passed", "FAILED", "skipped"))
    return f"{counts} in {sum(result.seconds for result in results):.0f} s"
