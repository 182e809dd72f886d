"""To which values silos have committed in each draw, on disk before this silo opens its own value.

A job that is restarted draws again what it had drawn, by the same values: who had seen the others' could
choose another of its own then. So this silo opens its value for the commitments of before alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from silofl.checkpoint.entry_log import EntryLog
from silofl.checkpoint.names import stem
from silofl.errors import CheckpointError

FORMAT = 1
Commitments = Mapping[int, bytes]
"""By silo: 32 bytes."""


class DrawLog:
    """One silo's file of draws of one run."""

    def __init__(self, path: Path, run: str, silo: int) -> None:
        self._log = EntryLog(path / stem(silo) / "draws.jsonl", run, FORMAT)

    def append(self, matter: bytes, commitments: Commitments) -> None:
        """Have a draw on disk. StorageError where that fails: then no value may be opened."""
        told = {str(silo): one.hex() for silo, one in sorted(commitments.items())}
        self._log.append({"matter": matter.hex(), "commitments": told})

    def draws(self) -> dict[bytes, dict[int, bytes]]:
        """All of them, by what was drawn; what a kill tore had let nothing be opened, and is not there.

        Raises MismatchError where they are of another run, and CheckpointError for a line that is whole and
        tells nothing that can be: the file was changed.
        """
        try:
            return {
                bytes.fromhex(one["matter"]): {
                    int(silo): bytes.fromhex(told) for silo, told in one["commitments"].items()
                }
                for one in self._log.entries()
            }
        except (KeyError, TypeError, ValueError, AttributeError):
            raise CheckpointError(
                f"{self._log.path} cannot be used: a draw has other fields than matter and commitments; put "
                "it back as it was, or name another run directory with --run"
            ) from None
