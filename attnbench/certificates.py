"""Certificates: which source of a mechanism passed the conformance suite, when, and with which versions.

One JSON file per mechanism, and one for each set of options it was checked with besides its defaults. A
certificate holds for the source whose digest it carries, with those options, and for no other.
Written by ``attnbench check``; those of the shipped mechanisms lie in results/certificates, and in a folder
``earlier`` in it those of sources that have changed since, which shipped records were measured with. Needs no
torch.
"""

import hashlib
import importlib.metadata
import json
import platform
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from attnbench import registry
from attnbench.errors import AttnbenchError
from attnbench.registry import MechanismSpec

if TYPE_CHECKING:
    from attnbench.harness.conformance.checks import Result

SUITE = 3
"""Version of the suite: raised when a check is added or becomes stricter, which ends older certificates."""

OWN = Path("attnbench-results") / "certificates"
"""The user's own; :func:`look_beside` moves it."""
SHIPPED = Path(__file__).parent / "results" / "certificates"
if not SHIPPED.parent.is_dir():  # a checkout without symbolic links, not installed
    SHIPPED = Path(__file__).parent.parent / "results" / "certificates"

EARLIER = "earlier"
"""In ``SHIPPED``: certificates of sources that are no longer the present ones, ``<file>-<digest>.json``."""


def look_beside(records: Path) -> None:
    """Take the user's own certificates from where ``attnbench check`` puts them for these records.

    Args:
        records: a folder ``<out>/records``, or a file in one; the certificates are in ``<out>/certificates``.
    """
    global OWN
    folder = records.parent if records.suffix == ".jsonl" else records
    OWN = folder.absolute().parent / "certificates"


class Certificate(BaseModel):
    """The results of one whole run of the suite on one mechanism, passed or not."""

    model_config = ConfigDict(extra="ignore")

    mechanism: str
    digest: str
    suite: int
    passed: bool
    created: str = Field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    versions: dict[str, str]
    options: dict[str, Any] = Field(default_factory=dict)
    """Options it was checked with, besides its defaults."""
    goldens: list[str] = Field(default_factory=list)
    """Golden cases of official code that the source says it equals; ``attnbench check --golden`` compares."""
    implementations: dict[str, list[str]] = Field(default_factory=dict)
    """Those that equalled eager, output and every gradient, each with where: ``cpu float32``, ...; where an
    implementation has no gradients, ``cpu float32 infer``, ..."""
    results: list[dict[str, Any]]

    @classmethod
    def of(
        cls, spec: MechanismSpec, results: "Iterable[Result]", options: Mapping[str, Any] | None = None
    ) -> "Certificate":
        """The certificate of a mechanism's source as it is now, checked with some options."""
        results = list(results)
        return cls(
            mechanism=spec.name,
            digest=spec.digest(),
            suite=SUITE,
            passed=bool(results) and not any(result.failed for result in results),
            versions={name: importlib.metadata.version(name) for name in ("attnbench", "torch")}
            | {"python": platform.python_version()},
            options=beyond_defaults(spec.name, options or {}),
            goldens=list(spec.facts.goldens),
            implementations=_compared(results),
            results=[asdict(result) for result in results],
        )

    def covers(self, digest: str) -> bool:
        """Whether it speaks of the source with this digest, by today's suite."""
        return self.digest == digest and self.suite == SUITE


def write(folder: Path, certificate: Certificate) -> Path:
    """Write ``<folder>/<name>.json``, or ``<name>-with-<digits>.json`` where it is of other options.

    Raises:
        AttnbenchError: the folder or file cannot be written.
    """
    path = folder / _file(certificate.mechanism, certificate.options)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(certificate.model_dump_json(indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise AttnbenchError(f"cannot write {path}: {error.strerror}; give another --out DIR") from error
    return path


def find(
    name: str, digest: str, folder: Path | None = None, options: Mapping[str, Any] | None = None
) -> Certificate | None:
    """The certificate of a source: the user's own, in ``folder`` (default ``OWN``), before the shipped ones.

    Where none covers the digest, the first of another source or suite; None where there is none at all.

    Args:
        name, digest: of the mechanism.
        folder: where the user's own certificates lie.
        options: what it was run with; a certificate of other options says nothing of it.
    """
    file = _file(name, beyond_defaults(name, options or {}))
    earlier = SHIPPED / EARLIER / f"{file.removesuffix('.json')}-{digest}.json"
    first: Certificate | None = None
    for certificate in _read((folder or OWN) / file, SHIPPED / file, earlier):
        if certificate.covers(digest):
            return certificate
        first = first or certificate
    return first


def is_valid(
    name: str, digest: str = "", folder: Path | None = None, options: Mapping[str, Any] | None = None
) -> bool:
    """Whether a mechanism's source passed the suite.

    Args:
        name: of the mechanism.
        digest: of the source in question; by default that of the registered mechanism as it is now.
        folder: where the user's own certificates lie; by default ``OWN``, in the working directory.
        options: those in question, besides its defaults.
    """
    digest = digest or _digest(name)
    certificate = find(name, digest, folder, options)
    return certificate is not None and certificate.covers(digest) and certificate.passed


def beyond_defaults(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Options that are not the mechanism's own at every stage, so that a default spelt out is no option."""
    try:
        own = registry.get(name).facts.per_stage
    except AttnbenchError:
        own = {}
    plain = {key: _plain(value) for key, value in options.items()}
    return {key: value for key, value in sorted(plain.items()) if key not in own or _plain(own[key]) != value}


def _plain(value: Any) -> Any:
    """A value as JSON has it."""
    return json.loads(json.dumps(value, default=str))


def _file(name: str, options: Mapping[str, Any]) -> str:
    if not options:
        return f"{name}.json"
    return f"{name}-with-{hashlib.sha256(json.dumps(options, sort_keys=True).encode()).hexdigest()[:8]}.json"


def speed_refusal(
    name: str,
    digest: str,
    implementation: str,
    device: str,
    precision: str,
    folder: Path | None = None,
    options: Mapping[str, Any] | None = None,
    mode: str = "train",
) -> str:
    """Why the speed of an implementation is not to be shown; empty if it is.

    It is where the implementation has equalled eager on such a device in such a dtype, output and every
    gradient, by a certificate of the same source with the same options. Eager itself needs none. For
    inference the output is enough, where an implementation has no gradients.

    Args:
        name, digest: of the mechanism's source.
        implementation: what ran; several are joined by ``+``.
        device: ``cpu``, ``cuda``, ``cuda:1``.
        precision: ``fp32`` or ``amp``.
        folder: where the user's own certificates lie; by default ``OWN``.
        options: what it ran with, besides the mechanism's defaults.
        mode: ``infer`` or ``train``.
    """
    where = f"{device.partition(':')[0]} {_DTYPES.get(precision, precision)}"
    certificate = find(name, digest, folder, options)
    shown = certificate.implementations if certificate and certificate.covers(digest) else {}
    enough = {where, f"{where} infer"} if mode == "infer" else {where}
    missing = [i for i in implementation.split("+") if i != "eager" and not enough & {*shown.get(i, ())}]
    if not missing:
        return ""
    extra = " --impl compiled" if "compiled" in missing else ""
    extra += "".join(
        f" --set {key}={json.dumps(value, separators=(',', ':'))}"
        for key, value in beyond_defaults(name, options or {}).items()
    )
    kind, dtype = where.split(" ", 1)
    return (
        f"{' and '.join(missing)} not known to equal eager on {kind} in {dtype}: "
        f"run 'attnbench check {name}{extra}' on such a device"
    )


_DTYPES = {"fp32": "float32", "amp": "bfloat16", "bf16": "bfloat16"}


def _compared(results: "Iterable[Result]") -> dict[str, list[str]]:
    """Implementations that passed the check that compares them, which may have failed for another."""
    for result in results:
        if result.check == "implementations_equal":
            return {impl: list(places) for impl, places in result.details.get("compared", {}).items()}
    return {}


def identifier(
    name: str, digest: str, folder: Path | None = None, options: Mapping[str, Any] | None = None
) -> str:
    """Sixteen hex digits of the certificate by which a source passed the suite; ``none`` if it did not."""
    certificate = find(name, digest, folder, options)
    if certificate is None or not (certificate.covers(digest) and certificate.passed):
        return "none"
    return hashlib.sha256(certificate.model_dump_json().encode()).hexdigest()[:16]


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
