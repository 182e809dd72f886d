"""To which values silos have committed in each draw, on disk before this silo opens its own value.

A job that is restarted draws again what it had drawn, by the same values: who had seen the others' could
choose another of its own then. So this silo opens its value for the commitments of before alone. Commitments
are kept as they were signed: two of one silo in one draw convict it, and later draws are without it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from silofl.checkpoint.entry_log import EntryLog, run_of
from silofl.checkpoint.names import stem
from silofl.errors import CheckpointError

FORMAT = 2
Commitments = Mapping[int, bytes]
"""By silo: its message, signed."""
Double = tuple[bytes, bytes]
"""Two signed commitments of a silo to two values of one draw."""


class DrawLog:
    """One silo's file of draws of one run."""

    def __init__(self, path: Path, run: str, silo: int) -> None:
        self._log = EntryLog(log_path(path, silo), run, FORMAT)

    def append(self, matter: bytes, commitments: Commitments) -> None:
        """Have a draw on disk. StorageError where that fails: then no value may be opened."""
        told = {str(silo): one.hex() for silo, one in sorted(commitments.items())}
        self._log.append({"matter": matter.hex(), "commitments": told})

    def draws(self) -> dict[bytes, dict[int, bytes]]:
        """All of them, by what was drawn; what a kill tore had let nothing be opened, and is not there.

        Raises MismatchError where they are of another run, and CheckpointError for a line that is whole and
        tells nothing that can be: the file was changed.
        """
        with self._readable():
            return {
                bytes.fromhex(one["matter"]): {
                    int(silo): bytes.fromhex(told) for silo, told in one["commitments"].items()
                }
                for one in self._log.entries()
                if "double" not in one
            }

    def append_double(self, silo: int, double: Double) -> None:
        """Have on disk what convicts a silo. StorageError where that fails."""
        self._log.append({"silo": silo, "double": [one.hex() for one in double]})

    def doubles(self) -> dict[int, Double]:
        """By silo, what convicts it; raises as `draws` does."""
        with self._readable():
            return {
                int(one["silo"]): (bytes.fromhex(one["double"][0]), bytes.fromhex(one["double"][1]))
                for one in self._log.entries()
                if "double" in one
            }

    @contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except (KeyError, IndexError, TypeError, ValueError, AttributeError):
            raise CheckpointError(
                f"{self._log.path} cannot be used: a draw has other fields than matter and commitments; put "
                "it back as it was, or name another run directory with --run"
            ) from None


def log_path(path: Path, silo: int) -> Path:
    """Where in its run directory a silo's log lies."""
    return path / stem(silo) / "draws.jsonl"


def run_of_log(path: Path) -> str | None:
    """The id of the run that a log is of: see `entry_log.run_of`."""
    return run_of(path, FORMAT)
