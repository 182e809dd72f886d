"""One round of `additive` on one rank: seeds to a committee, residuals and seed totals to the owners."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from silofl.aggregation.secagg_round import mask_set
from silofl.aggregation.secure_session import SecureSession
from silofl.comm.collective_errors import raise_on_all_ranks
from silofl.crypto import additive, secagg
from silofl.crypto.fingerprint import fingerprint
from silofl.crypto.framing import Inbox, outbox
from silofl.crypto.kdf import digest
from silofl.crypto.secagg import SumInputs
from silofl.crypto.secagg.inputs import NOTHING
from silofl.errors import ProtocolError
from silofl.types import Vector, Words
from silofl_kernels import MaskSet, add_masks


class AdditiveRound:
    """Fresh seeds of every silo for every member of the committee, the ranks below `members`; collective."""

    def __init__(self, session: SecureSession, members: int) -> None:
        comm = session.group.comm
        self._comm, self._members = comm, members
        self._heard: list[bytes] = []
        context = session.round(session.take_number())
        advertised, advert = secagg.advertise(context, comm.rank, session.identity)
        adverts = Inbox.of(comm.allgather_bytes(advert))
        dealt, packets = additive.deal(advertised, adverts, range(members))
        self._dealt = dealt
        received = Inbox.of(comm.alltoall_bytes(outbox(packets, range(comm.size))))
        self.residual = [mask_set(dealt.residual_keys(owner)) for owner in range(members)]
        """For each owner: what to add to this silo's words before they go there."""
        self.seeds: list[MaskSet | None] = [None] * members
        """For each owner: what this member sends there, from zeros; None for itself and on other ranks."""
        if comm.rank < members:
            member = additive.receive_seeds(dealt, received)
            others = [owner for owner in range(members) if owner != comm.rank]
            for owner in others:
                self.seeds[owner] = mask_set(member.total_keys(owner))

    def fingerprint(self, vectors: Sequence[Vector]) -> bytes:
        """See `SecAggRound`."""
        return fingerprint(self._dealt.participants.digest, vectors) if vectors else NOTHING

    def agree(self, inputs: SumInputs) -> None:
        """Raise ProtocolError, before a word of a sum is sent, unless all have its inputs; collective."""
        heard = digest("small sums", *self._heard)
        statement = additive.state(self._dealt, inputs, heard)
        statements = Inbox.of(self._comm.allgather_bytes(statement))
        additive.check_statements(self._dealt, statements, inputs, heard)

    def small_total(self, words: Words, offset: int) -> Words:
        """Sum over ranks of a few words, by the committee's first member, to everybody; collective.

        `offset` is where the words' masks begin; each position is used once. Raises ProtocolError, on every
        rank, where a silo sends too many or too few bytes; it is named.
        """
        comm = self._comm
        residual = words.copy()
        add_masks(residual, self.residual[0], offset=offset)
        parts = [residual.tobytes()]
        if self.seeds[0] is not None:
            seeds = np.zeros_like(words)
            add_masks(seeds, self.seeds[0], offset=offset)
            parts.append(seeds.tobytes())
        received = comm.alltoall_bytes([b"".join(parts)] + [b""] * (comm.size - 1))
        told = comm.broadcast_bytes(self._added_up(received, words))
        with raise_on_all_ranks(comm):
            for rank, message in enumerate(received if comm.rank == 0 else ()):
                self._refuse_length(rank, "words for a small sum are", message, self._due(rank, words))
            self._refuse_length(0, "small sum is", told, words.nbytes)
        self._heard.append(told)
        return np.frombuffer(told, words.dtype)

    def _due(self, rank: int, words: Words) -> int:
        """How many bytes a rank sends to the first member: its words, and of a member its seeds."""
        return words.nbytes * (2 if 0 < rank < self._members else 1)

    def _added_up(self, received: Sequence[bytes], words: Words) -> bytes:
        """On the first member the sum of what it has, of words of the right number; zeros elsewhere."""
        right = [message for rank, message in enumerate(received) if len(message) == self._due(rank, words)]
        rows = np.frombuffer(b"".join(right), words.dtype).reshape(-1, len(words))
        total: Words = np.add.reduce(rows, axis=0, dtype=words.dtype)
        return total.tobytes()

    def _refuse_length(self, rank: int, what: str, message: bytes, due: int) -> None:
        if len(message) != due:
            silo = self._comm.members[rank]
            raise ProtocolError(f"silo {silo}'s {what} refused: {len(message)} bytes, not {due}", sender=silo)
