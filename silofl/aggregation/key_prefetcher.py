"""Keyed rounds on demand, or made ahead while the silos train: keys do not depend on what they will hide."""

from __future__ import annotations

from contextlib import suppress

from silofl.aggregation.secagg_round import AdvertisedRound, SecAggRound
from silofl.aggregation.secure_session import SecureSession
from silofl.background import Background
from silofl.comm.protocol import RankFailedError


class KeyPrefetcher:
    """Keyed rounds of `length` words; collective to make.

    `prepare` starts the next one in the background, on a communicator of its own; `take` waits for it, or
    makes one on the spot. Every rank makes the same calls in the same order.
    """

    def __init__(self, session: SecureSession, length: int) -> None:
        self._session, self._length = session, length
        self._comm = session.group.comm.duplicate()
        self._ahead: Background[SecAggRound] = Background()
        self._number = 0

    def prepare(self) -> None:
        """Start to make the next round's keys, unless that was done; does not wait."""
        session = self._session
        if not self._ahead.busy and self._comm.members == session.group.members:
            self._number = session.take_number()
            context = session.round(self._number)
            self._ahead.start(
                lambda: AdvertisedRound(self._comm, context, session.identity).keys(self._length)
            )

    def take(self) -> SecAggRound:
        """The next round's keys, of the ranks that are left; collective. Raises what making them raised."""
        session = self._session
        number = self._number if self._ahead.busy else session.take_number()

        def make() -> SecAggRound:
            keys = self._made_ahead()
            if keys is not None and keys.members == session.group.members:
                return keys
            advertised = AdvertisedRound(session.group.comm, session.round(number), session.identity)
            return advertised.keys(self._length)

        return session.group.step(make)

    def _made_ahead(self) -> SecAggRound | None:
        if not self._ahead.busy:
            return None
        try:
            return self._ahead.result()
        except RankFailedError:
            if self._comm.members == self._session.group.members:
                raise  # the first to know of the loss: the others learn of it by the step
            return None

    def close(self) -> None:
        """Wait for what is under way and release the communicator; collective."""
        with suppress(RankFailedError):
            self._made_ahead()
        self._comm.free()
