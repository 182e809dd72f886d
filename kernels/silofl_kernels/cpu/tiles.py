"""One tile of a quantization: rounded values and all masks, run by run of the segments in it.

A run is the part of a segment that lies in the tile. Whole steps of the cipher within one run stay in
registers; where a run ends inside a step, its words lie in private memory before the step's masks: others may
read the output while it is written, as in memory that ranks share.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np

from silofl_kernels.cpu import features, streams
from silofl_kernels.cpu.jit import Kernel, device
from silofl_kernels.cpu.rounding import (
    BEGIN,
    LANES,
    OUTSIDE,
    SEGMENT,
    STOP,
    SUM_LANES,
    make_round_lanes,
    make_round_one,
)
from silofl_kernels.cpu.rows import borrow
from silofl_kernels.prg import Family

TILE = 16384
"""Elements between two looks at the counters; a multiple of every step of every cipher."""


class Variant(NamedTuple):
    """What a quantization kernel is compiled for."""

    x: str
    """dtype of the input."""
    bits: int
    noisy: Family | None
    """Cipher that decides stochastic rounding; None rounds to nearest."""
    masked: Family | None
    """Cipher of the masks; under masks the error is summed up, too."""

    @property
    def rounds(self) -> Rounds:
        """What is left of it where no cipher matters."""
        return Rounds(self.x, self.bits, self.noisy is not None, self.masked is not None)

    @property
    def label(self) -> str:
        """Tells variants apart."""
        rounding = streams.steps(self.noisy, 32).name if self.noisy else "nearest"
        masks = streams.steps(self.masked, self.bits).name if self.masked else "plain"
        return f"{self.x}_{self.bits}_{rounding}_{masks}"


class Rounds(NamedTuple):
    """What rounding is compiled for; variants that differ in ciphers alone share its code."""

    x: str
    bits: int
    noisy: bool
    measured: bool

    @property
    def single(self) -> bool:
        """Products are float32 where x is and 24 bits hold every word, float64 otherwise."""
        return self.x == "float32" and self.bits <= 16

    @property
    def real(self) -> Any:
        """Type of the product."""
        return np.float32 if self.single else np.float64

    @property
    def label(self) -> str:
        """Tells them apart."""
        rounding, error = "drawn" if self.noisy else "nearest", "measured" if self.measured else "quick"
        return f"{self.x}_{self.bits}_{rounding}_{error}"


class TileCode(NamedTuple):
    """Code of one variant."""

    label: str
    real: Any
    """Type of the product."""
    draw: Kernel
    """(draws, size, first, noise, work): random bits from coordinate `first` on, where rounding needs any."""
    tile: Kernel
    """(x, out, ends, scales, limits, first, cursor, draws, offset, schedules, added, work, sums, error,
    private): one tile, whose x[0] is coordinate `first` and out[0] mask element `offset`; `private` has TILE
    words that are nobody else's to read. cursor[SEGMENT] goes on from tile
    to tile; cursor[OUTSIDE] says afterwards how many values were out of bounds."""


def make_tile(variant: Variant) -> TileCode:
    """The code of `variant`."""
    label, rounds = variant.label, variant.rounds
    draw = make_draw(variant.noisy)
    if variant.masked is None:
        return TileCode(label, rounds.real, draw, _plain_tile(_make_runs(rounds), label))
    code = streams.steps(variant.masked, variant.bits)
    make = _two_pass_tile if code.vector is None else _register_tile
    return TileCode(label, rounds.real, draw, make(rounds, code, label))


def make_draw(kind: Family | None) -> Kernel:
    """Helper (draws, size, first, noise, work): 32 random bits a coordinate from `first` on, or nothing."""
    if kind is None:
        return device(_draw_nothing, "nearest")
    code = streams.steps(kind, 32)
    fill = code.fill

    def draw_stream(draws: Any, size: Any, first: Any, noise: Any, work: Any) -> None:
        fill(borrow(draws, 0, size), first, noise, work)

    return device(draw_stream, code.name)


def _draw_nothing(draws: Any, size: Any, first: Any, noise: Any, work: Any) -> None:
    return


def _plain_tile(runs: Kernel, label: str) -> Kernel:
    """Rounds a tile, without masks."""

    def plain_tile(
        x: Any, out: Any, ends: Any, scales: Any, limits: Any, first: Any, cursor: Any, draws: Any,
        offset: Any, schedules: Any, added: Any, work: Any, sums: Any, error: Any, private: Any,
    ) -> None:  # fmt: skip
        cursor[STOP], cursor[OUTSIDE] = 0, 0
        runs(x, out, 0, x.size, ends, scales, limits, first, cursor, draws, sums, error)

    return device(plain_tile, label)


def _two_pass_tile(rounds: Rounds, code: streams.Steps, label: str) -> Kernel:
    """Rounds a tile, then puts the masks on in a second pass over the first-level cache."""
    runs, onto = _make_runs(rounds), code.masks

    def two_pass_tile(
        x: Any, out: Any, ends: Any, scales: Any, limits: Any, first: Any, cursor: Any, draws: Any,
        offset: Any, schedules: Any, added: Any, work: Any, sums: Any, error: Any, private: Any,
    ) -> None:  # fmt: skip
        cursor[STOP], cursor[OUTSIDE] = 0, 0
        runs(x, private, 0, x.size, ends, scales, limits, first, cursor, draws, sums, error)
        onto(borrow(private, 0, x.size), offset, schedules, added, work)
        for i in range(x.size):
            out[i] = private[i]

    return device(two_pass_tile, label)


def _register_tile(rounds: Rounds, code: streams.Steps, label: str) -> Kernel:
    """Rounds and masks whole steps of the cipher in registers."""
    assert code.vector is not None
    runs, close, real = _make_runs(rounds), _make_close(rounds), rounds.real
    step, onto, per_step, blocks = code.vector.rounded[rounds.noisy], code.masks, code.words, code.blocks

    def register_tile(
        x: Any, out: Any, ends: Any, scales: Any, limits: Any, first: Any, cursor: Any, draws: Any,
        offset: Any, schedules: Any, added: Any, work: Any, sums: Any, error: Any, private: Any,
    ) -> None:  # fmt: skip
        at = 0
        cursor[STOP], cursor[OUTSIDE] = 0, 0
        while at < x.size:
            here = offset + at
            stop = min(x.size, at + per_step - here % per_step)
            if cursor[STOP] <= at:
                enter_run(cursor, ends, first, at, x.size)
            if stop - at < per_step or stop > cursor[STOP]:
                runs(x, private, at, stop, ends, scales, limits, first, cursor, draws, sums, error)
                onto(borrow(private, at, stop), here, schedules, added, work)
                for i in range(at, stop):
                    out[i] = private[i]
                at = stop
                continue
            block, own, run_stop = np.uint64(here // per_step * blocks), cursor[SEGMENT], cursor[STOP]
            scale, limit = real(scales[own]), real(limits[own])
            while at + per_step <= run_stop:
                step(x, scale, limit, draws, at, out, at, schedules, added, block, cursor, sums)
                at += per_step
                block += np.uint64(blocks)
            if at == run_stop:
                close(x, scales, limits, cursor, draws, sums, error)

    return device(register_tile, label)


def _enter(cursor: Any, ends: Any, first: Any, at: Any, size: Any) -> None:
    """Begin the run of x[at], in a tile of `size` values whose x[0] is coordinate `first`."""
    segment = cursor[SEGMENT]
    while ends[segment] <= first + at:
        segment += 1
    cursor[SEGMENT], cursor[BEGIN], cursor[STOP] = segment, at, min(size, ends[segment] - first)


enter_run = device(_enter, "run")


@functools.cache
def _make_runs(rounds: Rounds) -> Kernel:
    """Helper: x[at:stop] rounded over `out`, whatever runs it has."""
    span, close, real, measured = make_span(rounds), _make_close(rounds), rounds.real, rounds.measured

    def round_runs(
        x: Any, out: Any, at: Any, stop: Any, ends: Any, scales: Any, limits: Any, first: Any, cursor: Any,
        draws: Any, sums: Any, error: Any,
    ) -> None:  # fmt: skip
        while at < stop:
            if cursor[STOP] <= at:
                enter_run(cursor, ends, first, at, x.size)
            cut, own = min(stop, cursor[STOP]), cursor[SEGMENT]
            scale, limit = real(scales[own]), real(limits[own])
            cursor[OUTSIDE] += span(x, out, at, cut, scale, limit, draws, sums)
            if measured and cut == cursor[STOP]:
                close(x, scales, limits, cursor, draws, sums, error)
            at = cut

    return device(round_runs, rounds.label)


def make_span(rounds: Rounds) -> Kernel:
    """Helper: x[start:stop], all of one scale, rounded over `out`; how many values were out of bounds."""
    measured = rounds.measured
    one = make_round_one(noisy=rounds.noisy, single=rounds.single)
    lanes = make_round_lanes(noisy=rounds.noisy, measured=measured)
    vectors = not features.without_jit()

    def round_span(
        x: Any, out: Any, start: Any, stop: Any, scale: Any, limit: Any, draws: Any, sums: Any
    ) -> Any:
        outside, at = 0, start
        if vectors:
            while at + LANES <= stop:
                outside += lanes(x, at, scale, limit, draws, out, sums)
                at += LANES
        for i in range(at, stop):
            product = x[i] * scale
            value = one(product, draws[i])
            if not abs(value) <= limit:
                outside += 1
                value = -limit if value < 0 else limit
            out[i] = np.int32(value)
            if measured:
                sums[0] += (value - product) * (value - product)
                sums[SUM_LANES] += product * product
        return outside

    return device(round_span, rounds.label)


@functools.cache
def _make_close(rounds: Rounds) -> Kernel:
    """Helper: adds a finished run's sums to its segment's row of `error` and clears them."""
    one, real = make_round_one(noisy=rounds.noisy, single=rounds.single), rounds.real

    def close_run(x: Any, scales: Any, limits: Any, cursor: Any, draws: Any, sums: Any, error: Any) -> None:
        own, width = cursor[SEGMENT], SUM_LANES // 2
        if cursor[STOP] - cursor[BEGIN] < LANES:
            width = 0  # nothing but lane 0 was used
        while width:
            for i in range(width):
                sums[i] += sums[i + width]
                sums[SUM_LANES + i] += sums[SUM_LANES + i + width]
            width //= 2
        lost, there = np.float64(sums[0]), np.float64(sums[SUM_LANES])
        if not (lost < np.inf and there < np.inf):  # a value that is not finite, or a square beyond the type
            lost, there = np.float64(0.0), np.float64(0.0)
            scale, limit = real(scales[own]), real(limits[own])
            for i in range(cursor[BEGIN], cursor[STOP]):
                if abs(x[i]) < np.inf:
                    value = one(x[i] * scale, draws[i])
                    word = np.float64(min(max(value, -limit), limit))
                    product = np.float64(x[i] * scale)
                    if not abs(product) < np.inf:
                        product = np.float64(x[i]) * np.float64(scale)
                    lost += (word - product) * (word - product)
                    there += product * product
        error[own, 0] += lost
        error[own, 1] += there
        for i in range(sums.size):
            sums[i] = 0.0

    return device(close_run, rounds.label)
