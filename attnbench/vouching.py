"""Who vouches for a record's source: the mechanism as it is installed here, or a certificate of that source.

A record names the digest of the mechanism's file and, where it passed, the certificate of that digest.
Certificates are looked for beside the records, among the user's own and among the shipped. Needs no torch.
"""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from pydantic import ValidationError

from attnbench import baselines, certificates, registry
from attnbench.certificates import Certificate
from attnbench.errors import AttnbenchError
from attnbench.layouts import get_layout
from attnbench.record import Cell, Measurement

_NO_CERTIFICATE = ("", "none")


class Vouchers:
    """The certificates at hand, by their identifiers.

    Args:
        folders: where certificates may lie, besides the user's own folder and the shipped one.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self._known: dict[str, Certificate] = {}
        shipped = certificates.SHIPPED, certificates.SHIPPED / certificates.EARLIER
        for folder in (*folders, certificates.OWN, *shipped):
            for path in sorted(folder.glob("*.json")):
                try:
                    found = Certificate.model_validate_json(path.read_bytes())
                except (OSError, ValidationError):
                    continue  # written by something else: no certificate
                self._known.setdefault(_identifier(found), found)

    def examine(self, record: Measurement, *, outdated: bool = False) -> None:
        """Raise AttnbenchError where nothing at hand bears out what a record says of its source.

        Args:
            record: has a key that is its cell's.
            outdated: let pass what can only not be found, such as the source of an older version.
        """
        cell = record.cell
        if baselines.is_baseline(cell.mechanism):
            _examine_library(record)
            return
        if record.certificate in self._known:
            self._examine_certificate(cell, self._known[record.certificate])
        elif not outdated:
            if record.certificate not in _NO_CERTIFICATE:
                raise AttnbenchError(f"{cell}: {self._absent(record)}")
            self._examine_source(cell)
            _examine_layout(cell)

    def copy_to(self, folder: Path, identifiers: Iterable[str]) -> None:
        """Write certificates into a folder; where a mechanism has several, all but one are named by theirs.

        Raises:
            AttnbenchError: the folder or a file cannot be written.
        """
        written: set[str] = set()
        for identifier in sorted(identifiers):
            found = self._known.get(identifier)
            if found is None:
                continue
            path = certificates.write(folder / identifier if found.mechanism in written else folder, found)
            written.add(found.mechanism)
            if path.parent != folder:
                path.rename(folder / f"{found.mechanism}-{identifier}.json")
                path.parent.rmdir()

    def _examine_certificate(self, cell: Cell, found: Certificate) -> None:
        if (found.mechanism, found.digest) != (cell.mechanism, cell.source):
            raise AttnbenchError(
                f"{cell}: the certificate it names is of {found.mechanism} with source {found.digest}, "
                f"the record of source {cell.source or 'unknown'}"
            )
        if not found.passed:
            raise AttnbenchError(f"{cell}: the certificate it names says that the suite was not passed")

    def _absent(self, record: Measurement) -> str:
        """Why a certificate that a record names is not at hand, as far as can be told, and what to do."""
        absent = (
            f"it names certificate {record.certificate}, which is neither beside the records nor shipped; "
            "put the file into the folder's certificates/"
        )
        if not self._knows(record.cell):
            return absent
        return (
            f"{absent}. Another of the same source is at hand, so certificates were made anew and "
            "records were not: --outdated accepts such records, 'attnbench run --force' makes them anew"
        )

    def _knows(self, cell: Cell) -> bool:
        """Whether a certificate is of the cell's mechanism and source."""
        return any((c.mechanism, c.digest) == (cell.mechanism, cell.source) for c in self._known.values())

    def _examine_source(self, cell: Cell) -> None:
        if self._knows(cell):
            return
        try:
            here = registry.get(cell.mechanism).digest()
        except AttnbenchError as error:
            raise AttnbenchError(
                f"{cell}: no such mechanism here and no certificate of it; give its --plugin FILE, or "
                "--outdated to accept it unseen"
            ) from error
        if here != cell.source:
            raise AttnbenchError(
                f"{cell}: its source has digest {cell.source or 'unknown'}, the mechanism here has "
                f"{here}, and no certificate knows the other; --outdated accepts records of other versions"
            )


def _examine_library(record: Measurement) -> None:
    """A baseline's source is a library and its version, which the environment names too."""
    library, _, version = record.cell.source.partition(" ")
    ran = record.environment.get("libraries", {}).get(library)
    if ran is not None and ran != version:
        raise AttnbenchError(f"{record.cell}: its source is {record.cell.source}, but {library} {ran} ran")


def _examine_layout(cell: Cell) -> None:
    here = get_layout(cell.layout).digest()
    if cell.layout_digest and cell.layout_digest != here:
        raise AttnbenchError(
            f"{cell}: its layout {cell.layout} has digest {cell.layout_digest}, the one here has {here}; "
            "--outdated accepts records of other versions"
        )


def _identifier(certificate: Certificate) -> str:
    """As :func:`attnbench.certificates.identifier` has it."""
    return hashlib.sha256(certificate.model_dump_json().encode()).hexdigest()[:16]
