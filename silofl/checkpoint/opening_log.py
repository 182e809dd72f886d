"""Which silos each round's secure sum was opened for, on disk before it was."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from silofl.checkpoint.checked import each, hexadecimal, named, whole
from silofl.checkpoint.entry_log import EntryLog, run_of
from silofl.crypto.identity import SIGNATURE_BYTES
from silofl.errors import CheckpointError

FORMAT = 2
_OPTIONAL = frozenset({"way", "buckets", "signatures"})
"""Fields that most openings are without."""
Silos = tuple[int, ...]


@dataclass(frozen=True)
class Opening:
    """One round's sum that was opened, or was about to be."""

    round: int
    silos: Silos
    """Whose contributions are in the sum, ascending."""
    present: Silos
    """The silos that were there to open it, ascending: metrics of the round are sums over these or void."""
    way: str = ""
    """Digest (hex) of what else decides the sum and may not change, such as weights between neighbours."""
    buckets: tuple[Silos, ...] = ()
    """The silos of each sum, where several were opened beside each other; empty where it was one."""
    signatures: tuple[str, ...] = field(default=(), compare=False)
    """Of those that were there, in their order (hex): see `opening_evidence.py`."""

    def to_json(self) -> dict[str, Any]:
        """As JSON."""
        return {name: value for name, value in asdict(self).items() if value or name not in _OPTIONAL}

    @classmethod
    def checked(cls, table: Any, silos: int) -> Opening:
        """The opening again, in a run of `silos`; CheckpointError for what is none."""
        table = named(table, "an opening")
        if table.keys() - _OPTIONAL != {"round", "silos", "present"} or not isinstance(
            table.get("way", ""), str
        ):
            raise CheckpointError(
                "an opening has other fields than round, silos, present, way, buckets and signatures"
            )
        found = cls(
            whole(table["round"], "the round of an opening", 1),
            _silos(table["silos"], silos),
            _silos(table["present"], silos),
            table.get("way", ""),
            tuple(_silos(one, silos) for one in each(table.get("buckets", []), "its buckets")),
            tuple(
                hexadecimal(one, "a signature of an opening", SIGNATURE_BYTES)
                for one in each(table.get("signatures", []), "its signatures")
            ),
        )
        if found.buckets and tuple(sorted(chain(*found.buckets))) != found.silos:
            raise CheckpointError("the buckets of an opening are not its silos, each once")
        return found


class OpeningLog:
    """One silo's file of openings of one run of `silos`."""

    def __init__(self, path: Path, run: str, silos: int) -> None:
        self._log, self._silos = EntryLog(path, run, FORMAT), silos

    @property
    def path(self) -> Path:
        """Of the file."""
        return self._log.path

    @property
    def exists(self) -> bool:
        """Whether this silo has a log already."""
        return self._log.exists

    def append(self, opening: Opening) -> None:
        """Have it on disk. StorageError where that fails: then the sum must not be opened."""
        self._log.append(opening.to_json())

    def openings(self) -> list[Opening]:
        """All of them, oldest first; a line that a kill tore let nothing be opened, and is dropped.

        Raises MismatchError where they are of another run, and CheckpointError for a line that is whole and
        tells nothing that can be: the file was changed.
        """
        try:
            return [Opening.checked(entry, self._silos) for entry in self._log.entries()]
        except CheckpointError as error:
            raise CheckpointError(
                f"{self.path} cannot be used: {error}; move it away, and the other silos' are asked"
            ) from None

    def rewrite(self, openings: list[Opening]) -> None:
        """Write it anew, without torn lines; made when missing."""
        self._log.rewrite(opening.to_json() for opening in openings)


def log_path(path: Path, silo: int) -> Path:
    """Where in its run directory a silo's log lies."""
    return path / f"silo-{silo:04d}" / "openings.jsonl"


def run_of_log(path: Path) -> str | None:
    """The id of the run that a log is of: see `entry_log.run_of`."""
    return run_of(path, FORMAT)


def _silos(value: Any, silos: int) -> Silos:
    numbers = [whole(one, "a silo of an opening", 0, silos - 1) for one in each(value, "its silos")]
    if not numbers or numbers != sorted(set(numbers)):
        raise CheckpointError("the silos of an opening are not in ascending order, each once")
    return tuple(numbers)
