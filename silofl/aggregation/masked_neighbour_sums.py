"""Weighted sums of neighbours' messages under masks: a silo reads the sum and no single message.

Two steps. Masked words change hands; then, when ranks have settled which messages each sum is of, senders
give receivers what opens the sum. Where a silo fails between the two the sums that it is in stay closed: over
fewer silos they would differ from what a run that is resumed opens by that silo's message.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray

from silofl.aggregation import neighbour_sums
from silofl.aggregation.base import Aggregator, Authorizer, authorize
from silofl.aggregation.exact_numbers import ExactNumbers
from silofl.aggregation.neighbour_sums import Exchanged, NeighbourSums, Round, WeightsOf, off_diagonal, pieces
from silofl.aggregation.secagg_round import secure_total_over
from silofl.aggregation.secure_session import SecureSession
from silofl.comm.collective_errors import raise_on_all_ranks
from silofl.comm.elastic_group import ElasticGroup
from silofl.crypto.framing import MOST_SILOS
from silofl.crypto.kdf import digest, pack_silos
from silofl.crypto.neighbour_masks import NeighbourKeys, OwnKeys
from silofl.errors import DataError, ProtocolError, StoppedError
from silofl.types import Vector
from silofl_kernels import Stream, keystream

FRACTION_BITS = 36
"""Of a fixed-point value, which is a multiple of 2^-36 = 1.5e-11."""
LIMIT = 2.0**20
"""What values of messages are below in magnitude: words of 64 bits hold the sum of 2^7 such values, and words
under masks that did not cancel are beyond it but for one in 2^7."""
WORD = np.dtype(np.uint64)


@dataclass
class _Collected:
    """Masked sums of one exchange, and what is left to open this silo's.

    Attributes:
        now: the exchange.
        number: of it, for keys.
        decided: digest of what decides it.
        total: (m,) this silo's sum, whose senders' own masks are still on.
        sent, received: digests of masked words, by the silo at the other end.
        left: the senders whose own masks are still on.
    """

    now: Round
    number: int
    decided: bytes
    total: NDArray[np.uint64]
    sent: dict[int, bytes] = field(default_factory=dict)
    received: dict[int, bytes] = field(default_factory=dict)
    left: set[int] = field(default_factory=set)


class MaskedNeighbourSums(NeighbourSums):
    """See `NeighbourSums`. Collective to make: silos agree on keys.

    Args:
        session: the ranks, their identities, and the generator of masks.
    """

    def __init__(self, session: SecureSession) -> None:
        super().__init__(session.group)
        self._session, self._prg = session, session.rules.prg
        self._present = session.members
        """The silos that were there when the last round was opened."""
        self._keys = self._group.step(lambda: _agree(session.group, session))

    @property
    def description(self) -> str:
        """See `NeighbourSums`."""
        return f"masked (64-bit words under {self._prg} masks: a silo sees the sum over its neighbours alone)"

    def exchange(
        self,
        message: Vector,
        weights: WeightsOf,
        number: int,
        absent: tuple[int, ...] = (),
        authorizer: Authorizer | None = None,
    ) -> Exchanged:
        """See `NeighbourSums`. DataError, on every rank, where a silo's values are 2^20 or more.

        StoppedError where a silo has one neighbour alone, whose message it would read.
        """
        group = self._group
        now = partial(self.round, weights, number, absent)
        taken = group.step(partial(self._collect, message, now, number))
        there = authorize(group, authorizer, taken.now.silos)
        self._present = group.members if there is None else there
        group.step(partial(self._open, taken))
        total = np.zeros(len(message)) if taken.left else taken.total.view(np.int64) * 2.0**-FRACTION_BITS
        group.step(partial(self._refuse_garbage, total, len(taken.now.silos)))
        return Exchanged(taken.now.silos, total, taken.now.own, closed=bool(taken.left))

    def sum_scalars(self, inner: Aggregator, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """See `NeighbourSums`: over the silos that were there when the round was opened, or not at all.

        Two sums of one round over other silos would differ by one silo's numbers.
        """
        numbers = ExactNumbers(self._session.rules.bits, len(values))
        found = secure_total_over(self._present, self._session, numbers.encoder(values))
        return np.full(len(values), np.nan) if found is None else numbers.decode(*found)

    def _collect(self, message: Vector, round_now: Callable[[], Round], number: int) -> _Collected:
        """Exchange masked words; within a step, which over fewer silos is another exchange."""
        now = round_now()
        with raise_on_all_ranks(self._group.comm):
            refuse_thin(now, number)
            if len(message) and not float(np.abs(message).max()) < LIMIT:
                raise DataError(
                    f"silo {self._group.silo_id}: a value of its model is 2^20 or more, or not finite, which "
                    "masked sums of neighbours do not hold: lower train.lr"
                )
        near = self.neighbourhood(off_diagonal(now.weights), now.silos)
        attempt = number * MOST_SILOS + len(self._session.members) - len(self._group.members)
        decided = digest("neighbours", pack_silos(now.silos), now.weights.tobytes())
        taken = _Collected(now, attempt, decided, np.zeros(len(message), WORD))
        places, senders = ([], []) if now.me is None else (now.receivers(now.me), now.senders(now.me))
        self._group.comm.mark("mask")
        streams = [self._streams(taken, k) for k in places]
        sent = [hashlib.sha256() for _ in places]
        received = [hashlib.sha256() for _ in senders]
        for first in pieces(self._group.comm, len(message)):
            part = message[first : first + neighbour_sums.CHUNK_VALUES]
            rows = np.empty((len(places), len(part)), WORD)
            for row, place, masks, hashed in zip(rows, places, streams, sent, strict=True):
                row[:] = fixed_point(part, float(now.weights[place, now.me]))
                for stream, sign in masks:
                    add_keystream(row, stream, sign, first)
                hashed.update(row.data)
            given = np.empty((len(senders), len(part)), WORD)
            near.alltoall(rows, given)
            for row, hashed in zip(given, received, strict=True):
                hashed.update(row.data)
                taken.total[first : first + len(part)] += row
        silos = now.silos
        taken.sent = {silos[k]: one.digest() for k, one in zip(places, sent, strict=True)}
        taken.received = {silos[k]: one.digest() for k, one in zip(senders, received, strict=True)}
        taken.left = set(taken.received)
        return taken

    def _streams(self, taken: _Collected, place: int) -> list[tuple[Stream, int]]:
        """What is added to, or taken from, the words for the silo at a place: its senders' pairs, and own."""
        now, receiver = taken.now, taken.now.silos[place]
        senders = [now.silos[k] for k in now.senders(place)]
        pairs = self._keys.pair_masks(receiver, senders, taken.number, taken.decided)
        own = self._keys.own_mask(receiver, taken.number, taken.decided)
        masks = [
            (Stream(self._prg, key), sign) for key, sign in zip(pairs.expose(), pairs.signs, strict=True)
        ]
        return [*masks, (Stream(self._prg, own.expose()), 1)]

    def _open(self, taken: _Collected) -> None:
        """Give receivers what opens their sums, and open this silo's; within a step."""
        comm = self._group.comm
        comm.mark("reveal")
        boxes = [
            self._keys.box(silo, taken.number, taken.decided, taken.sent[silo]) if silo in taken.sent else b""
            for silo in comm.members
        ]
        given = dict(zip(comm.members, comm.alltoall_bytes(boxes), strict=True))
        comm.mark("unmask")
        with raise_on_all_ranks(comm):
            for silo in sorted(taken.left & {silo for silo, box in given.items() if box}):
                words = taken.received[silo]
                key = self._keys.unbox(silo, taken.number, taken.decided, words, given[silo])
                add_keystream(taken.total, Stream(self._prg, key.expose()), -1, 0)
                taken.left.discard(silo)

    def _refuse_garbage(self, total: Vector, silos: int) -> None:
        """Raise ProtocolError, on every rank, where masks did not cancel: some silo has other weights."""
        with raise_on_all_ranks(self._group.comm):
            if float(np.abs(total).max(initial=0.0)) >= LIMIT * silos:
                raise ProtocolError(
                    f"silo {self._group.silo_id}: masks of its neighbours' messages do not cancel: one of "
                    "them has other weights, or other silos, than this one"
                )


def refuse_thin(now: Round, number: int) -> None:
    """Raise StoppedError where a silo has one neighbour to receive from, whose message it would read."""
    for place, silo in enumerate(now.silos):
        if len(now.senders(place)) == 1:
            raise StoppedError(
                f"silo {silo} has one neighbour among the {len(now.silos)} silos of round {number}, whose "
                "model a masked sum would show: --resume goes on when more silos are there"
            )


def fixed_point(values: Vector, weight: float) -> NDArray[np.uint64]:
    """`weight` times values (k,), below 2^20, as words (k,): multiples of 2^-36 modulo 2^64."""
    scaled = np.multiply(values, weight * 2.0**FRACTION_BITS, dtype=np.float64)
    return np.rint(scaled).astype(np.int64).view(WORD)


def add_keystream(words: NDArray[np.uint64], stream: Stream, sign: int, first: int) -> None:
    """Add, or with `sign` -1 take away, a keystream from its word `first` on to words (k,), in place."""
    step = neighbour_sums.CHUNK_VALUES
    buffer = np.empty(min(step, len(words)), WORD)
    for at in range(0, len(words), step):
        part = words[at : at + step]
        mask = buffer[: len(part)]
        keystream(stream, mask.view(np.uint8), position=(first + at) * WORD.itemsize)
        if sign > 0:
            part += mask
        else:
            part -= mask


def _agree(group: ElasticGroup, session: SecureSession) -> NeighbourKeys:
    """Keys of this silo with every other; collective, within a step."""
    own = OwnKeys(session.identity, session.identifier, session.config_digest)
    told = dict(zip(group.members, group.comm.allgather_bytes(own.advert), strict=True))
    keys: NeighbourKeys | None = None
    with raise_on_all_ranks(group.comm):
        keys = NeighbourKeys(group.silo_id, own, told, session.roster, session.rules.prg)
    assert keys is not None
    return keys
