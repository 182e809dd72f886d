"""What ranks tell each other at a commit, and what of it is believed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from silofl.checkpoint.checked import each, named, refused, whole
from silofl.checkpoint.manifest import FileEntry
from silofl.errors import CheckpointError


@dataclass
class CommitMessage:
    """One rank's.

    Attributes:
        note: what the caller tells; not looked at.
        entry: its file of the round that is committed; None where none was begun.
        kept: of the first rank, the rounds that stay.
        signs: whether it has an identity to sign the manifest with.
    """

    note: Any = None
    entry: FileEntry | None = None
    kept: list[int] | None = None
    signs: bool = False

    def to_json(self) -> dict[str, Any]:
        """As it is sent; what says nothing is left out."""
        table: dict[str, Any] = {"note": self.note}
        table |= {} if self.entry is None else {"entry": vars(self.entry)}
        table |= {} if self.kept is None else {"kept": self.kept}
        return table | ({"signs": True} if self.signs else {})

    @classmethod
    def checked(cls, message: Any, silo: int, *, committing: bool) -> CommitMessage:
        """As `silo` sent it. ProtocolError, which names it, for what no rank of ours would send."""
        try:
            table = named(message, "it")
            entry = FileEntry.checked(table.get("entry"), silo) if committing else None
            kept = table.get("kept")
            if kept is not None:
                kept = [whole(found, "a round that it keeps") for found in each(kept, "what it keeps")]
            return cls(table.get("note"), entry, kept, table.get("signs") is True)
        except CheckpointError as error:
            raise refused(silo, error) from None
