"""Noise that is correlated from round to round: each silo's from its own past, remade where it is not kept.

A silo's process is n_t = z_t - sum_j C_j n_{t-j}, whole numbers, z_t independent (`privacy.bands`). It goes
on only where all silos that are there have been in all of its rounds, and in the newest attempt at each:
where one was lost, came back, or a round is taken again with other numbers, all begin another, whose noise
owes nothing to the past. So what was shown of a round never has two different sums of one past, and no silo
ever waits for noise that another has lost."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, final

import numpy as np
from numpy.typing import NDArray

from silofl.crypto.kdf import digest, pack_silos
from silofl.transforms.base import SecretStreams, Slice, Values
from silofl_kernels import NoiseTable, correlate_noise, draw_noise

Noise = NDArray[np.int32]
LINK_BYTES = 32
_BREAK = bytes(LINK_BYTES)
"""The link of a silo that has no process to go on with."""


class Drawn(NamedTuple):
    """What the noise of one round is a function of, beside the silo's keys and the rounds before."""

    round_number: int
    attempt: int
    fingerprint: bytes


class NoiseProcess:
    """One silo's correlated noise. Its noise is kept in memory alone: see `state`.

    Args:
        coefficients: of the noise of one round ago, two, ..., in 64ths.
        size: d, values of a round.

    Attributes:
        first: the first round of the process; 0 before any.
    """

    def __init__(self, coefficients: tuple[int, ...], size: int) -> None:
        self._coefficients, self._size = coefficients, size
        self._table = b""
        self.reset()

    def reset(self) -> None:
        """Have no past: the next round begins another process, here and so at all silos."""
        self.first, self._link = 0, _BREAK
        self._rounds: list[Drawn] = []
        self._silos: tuple[int, ...] = ()
        self._now: Drawn | None = None
        self._past: Noise | None = None
        self._drawn: Noise | None = None

    def use(self, table: bytes) -> None:
        """Draw from the table that is identified so; a process that drew from another one ends."""
        if table != self._table:
            self.reset()
        self._table = table

    @property
    def link(self) -> bytes:
        """What silos have in common where they have the same process: a digest of all its rounds."""
        return self._link

    def goes_on(self, attempt: int, silos: tuple[int, ...], links: Iterable[bytes]) -> bool:
        """Whether the silos that are there, who have these links, go on with it; the same on every rank."""
        mine = self._link != _BREAK and silos == self._silos
        return mine and attempt == 0 and set(links) == {self._link}

    def open(self, drawn: Drawn, silos: tuple[int, ...], *, goes_on: bool) -> None:
        """Let this be the round under way: the next one, or the first one of another process."""
        if not goes_on:
            self.reset()
            self.first, self._silos = drawn.round_number, silos
        self._now, self._drawn = drawn, None

    def has_open(self, drawn: Drawn) -> bool:
        """Whether that is the round under way."""
        return drawn == self._now

    def process_of(self, round_number: int, silos: tuple[int, ...]) -> int:
        """The first round of the process that a round is of, or will be over these silos."""
        under_way = self._now is not None and self._now.round_number == round_number
        return self.first if under_way or (self.first and silos == self._silos) else round_number

    def close(self, table: NoiseTable, keys: SecretStreams, common: bytes, silos: tuple[int, ...]) -> None:
        """The sum of the round under way, over these silos, was shown; `common` binds all silos' noise."""
        assert self._now is not None, "a round is under way"
        if silos != self._silos:
            self.reset()
            return
        noise, past = self._whole(table, keys), self._past_noise(table, keys)
        past[len(self._rounds) % len(past)] = noise
        self._rounds.append(self._now)
        self._link = digest("a process of noise", pack_silos(silos), self._link, common)
        self._now = self._drawn = None

    def noise(self, table: NoiseTable, keys: SecretStreams, start: int, size: int) -> Noise:
        """Noise int32 (size,) of the round under way from coordinate `start` on; not to be changed."""
        return self._whole(table, keys)[start : start + size]

    def _whole(self, table: NoiseTable, keys: SecretStreams) -> Noise:
        if self._drawn is None:
            assert self._now is not None, "a round is under way"
            past, self._drawn = self._past_noise(table, keys), np.empty(self._size, np.int32)
            self._draw(self._now, len(self._rounds), past, self._drawn, table, keys)
        return self._drawn

    def _past_noise(self, table: NoiseTable, keys: SecretStreams) -> Noise:
        """int32 (b - 1, d): that of the process's round k, from 0 on, is row k modulo b - 1.

        Made from the first one on where this silo has not kept it.
        """
        if self._past is None:
            past = np.zeros((len(self._coefficients), self._size), np.int32)
            out = np.empty(self._size, np.int32)
            for number, drawn in enumerate(self._rounds):
                self._draw(drawn, number, past, out, table, keys)
                past[number % len(past)] = out
            self._past = past
        return self._past

    def _draw(
        self, drawn: Drawn, number: int, past: Noise, out: Noise, table: NoiseTable, keys: SecretStreams
    ) -> None:
        """Round `number` of the process, from 0, over `out`."""
        draw_noise(out, table, keys.stream("noise", *drawn))
        rows = len(self._coefficients)
        factors = np.array([self._coefficients[(number - 1 - row) % rows] for row in range(rows)], np.int64)
        correlate_noise(out, past, factors, keys.stream("noise around centres", *drawn))

    def state(self) -> dict[str, Any]:
        """For this silo's own checkpoint; JSON. It tells of noise only who has the silo's key."""
        rounds = [[one.round_number, one.attempt, one.fingerprint.hex()] for one in self._rounds]
        names = {"link": self._link.hex(), "table": self._table.hex()}
        return {"first": self.first, "rounds": rounds, "silos": list(self._silos), **names}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on with a `state()`."""
        self.reset()
        self._rounds = [
            Drawn(number, attempt, bytes.fromhex(one)) for number, attempt, one in state["rounds"]
        ]
        self._link, self._table = bytes.fromhex(state["link"]), bytes.fromhex(state["table"])
        self.first, self._silos = state["first"], tuple(state["silos"])


@final
@dataclass(frozen=True)
class CorrelatedNoise:
    """Every silo adds noise of its own process before the sum."""

    process: NoiseProcess
    table: NoiseTable
    keys: SecretStreams

    linear: ClassVar[bool] = False
    unbiased: ClassVar[bool] = True
    needs_fingerprint: ClassVar[bool] = True

    def encode(self, values: Values, place: Slice, out: Values) -> Values:
        """See `Transform`: uintB (k,) with noise; the process has the round under way that `place` is of."""
        if not place.fingerprint:
            raise ValueError("noise is bound to what it goes on: give the fingerprint of that")
        if not self.process.has_open(Drawn(place.round_number, place.attempt, place.fingerprint)):
            raise ValueError("a process draws noise for the round that was opened alone")
        noise = self.process.noise(self.table, self.keys, place.position, values.size)
        same = out.dtype.itemsize == noise.itemsize
        np.add(
            values, noise.view(out.dtype) if same else noise.astype(out.dtype), out=out
        )  # all wraps around
        return out

    def decode(self, total: Values, place: Slice) -> Values:
        """See `Transform`: the noise stays."""
        return total
