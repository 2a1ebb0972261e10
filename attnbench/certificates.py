"""Certificates: which source of a mechanism passed the conformance suite, when, and with which versions.

One JSON file per mechanism. A certificate holds for the source whose digest it carries and for no other.
Written by ``attnbench check``; those of the shipped mechanisms lie in results/certificates. Needs no torch.
"""

import importlib.metadata
import platform
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from attnbench import registry
from attnbench.errors import AttnbenchError
from attnbench.registry import MechanismSpec

if TYPE_CHECKING:
    from attnbench.checks import Result

SUITE = 1
"""Version of the suite: raised when a check is added or becomes stricter, which ends older certificates."""

OWN = Path("attnbench-results") / "certificates"
SHIPPED = Path(__file__).parent / "results" / "certificates"
if not SHIPPED.parent.is_dir():  # a checkout without symbolic links, not installed
    SHIPPED = Path(__file__).parent.parent / "results" / "certificates"


class Certificate(BaseModel):
    """The results of one whole run of the suite on one mechanism, passed or not."""

    model_config = ConfigDict(extra="ignore")

    mechanism: str
    digest: str
    suite: int
    passed: bool
    created: str = Field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    versions: dict[str, str]
    results: list[dict[str, Any]]

    @classmethod
    def of(cls, spec: MechanismSpec, results: "Iterable[Result]") -> "Certificate":
        """The certificate of a mechanism's source as it is now."""
        results = list(results)
        return cls(
            mechanism=spec.name,
            digest=spec.digest(),
            suite=SUITE,
            passed=bool(results) and not any(result.failed for result in results),
            versions={name: importlib.metadata.version(name) for name in ("attnbench", "torch")}
            | {"python": platform.python_version()},
            results=[asdict(result) for result in results],
        )

    def covers(self, digest: str) -> bool:
        """Whether it speaks of the source with this digest, by today's suite."""
        return self.digest == digest and self.suite == SUITE


def write(folder: Path, certificate: Certificate) -> Path:
    """Write ``<folder>/<name>.json``.

    Raises:
        AttnbenchError: the folder or file cannot be written.
    """
    path = folder / f"{certificate.mechanism}.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(certificate.model_dump_json(indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise AttnbenchError(f"cannot write {path}: {error.strerror}; give another --out DIR") from error
    return path


def find(name: str, digest: str, folder: Path | None = None) -> Certificate | None:
    """The certificate of a source: the user's own, in ``folder`` (default ``OWN``), before the shipped one.

    Where none covers the digest, the first of another source or suite; None where there is none at all.
    """
    found = list(_read((folder or OWN) / f"{name}.json", SHIPPED / f"{name}.json"))
    covering = [certificate for certificate in found if certificate.covers(digest)]
    return next(iter(covering or found), None)


def is_valid(name: str, digest: str = "", folder: Path | None = None) -> bool:
    """Whether a mechanism's source passed the suite.

    Args:
        name: of the mechanism.
        digest: of the source in question; by default that of the registered mechanism as it is now.
        folder: where the user's own certificates lie; by default ``OWN``, in the working directory.
    """
    digest = digest or _digest(name)
    certificate = find(name, digest, folder)
    return certificate is not None and certificate.covers(digest) and certificate.passed


def status(spec: MechanismSpec) -> str:
    """``passed``, ``failed``, ``outdated`` (of another source or suite), or empty where there is none."""
    digest = spec.digest()
    certificate = find(spec.name, digest)
    if certificate is None:
        return ""
    if not certificate.covers(digest):
        return "outdated"
    return "passed" if certificate.passed else "failed"


def _read(*paths: Path) -> Iterator[Certificate]:
    for path in paths:
        try:
            yield Certificate.model_validate_json(path.read_bytes())
        except (OSError, ValidationError):
            continue  # absent, or written by something else: no certificate


def _digest(name: str) -> str:
    try:
        return registry.get(name).digest()
    except AttnbenchError:
        return "unknown"
