"""Keyed rounds on demand, or made ahead while the silos train: keys do not depend on what they will hide."""

from __future__ import annotations

from silofl.aggregation.keyed_round import KeyedRound
from silofl.aggregation.session import SecureSession
from silofl.background import Background


class KeySupply:
    """Keyed rounds of `length` words; collective to make.

    `prepare` starts the next one in the background, on a communicator of its own; `take` waits for it, or
    makes one on the spot. Every rank makes the same calls in the same order.
    """

    def __init__(self, session: SecureSession, length: int) -> None:
        self._session, self._length = session, length
        self._comm = session.comm.duplicate()
        self._ahead: Background[KeyedRound] = Background()

    def prepare(self) -> None:
        """Start to make the next round's keys, unless that was done; does not wait."""
        if not self._ahead.busy:
            context = self._session.next_round()
            self._ahead.start(lambda: KeyedRound(self._comm, context, self._session.identity, self._length))

    def take(self) -> KeyedRound:
        """The next round's keys; collective. Raises what making them raised."""
        if self._ahead.busy:
            return self._ahead.result()
        return KeyedRound(self._comm, self._session.next_round(), self._session.identity, self._length)

    def close(self) -> None:
        """Wait for what is under way and release the communicator; collective."""
        if self._ahead.busy:
            self._ahead.result()
        self._comm.free()
