"""One tile of a quantization: rounded values and all masks, run by run of the segments in it.

A run is the part of a segment that lies in the tile. Whole steps of the cipher within one run stay in
registers; where a run ends inside a step, its words lie in private memory before the step's masks: others may
read the output while it is written, as in memory that ranks share.
"""

from __future__ import annotations

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
    """Cipher of the masks."""
    measured: bool
    """Whether the error is summed up."""

    @property
    def single(self) -> bool:
        """Products are float32 where x is and 24 bits hold every word, float64 otherwise."""
        return self.x == "float32" and self.bits <= 16

    @property
    def label(self) -> str:
        """Tells variants apart."""
        rounding = streams.steps(self.noisy, 32).name if self.noisy else "nearest"
        masks = streams.steps(self.masked, self.bits).name if self.masked else "plain"
        return f"{self.x}_{self.bits}_{rounding}_{masks}_{'measured' if self.measured else 'quick'}"


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
    label = variant.label
    real = np.float32 if variant.single else np.float64
    if variant.noisy is None:
        draw = device(_draw_nothing, "nearest")
    else:
        draw = _make_draw(streams.steps(variant.noisy, 32))
    helpers = device(_enter, "run"), _make_close(variant, real)
    runs = _make_runs(variant, real, *helpers)
    if variant.masked is None:
        return TileCode(label, real, draw, _plain_tile(runs, label))
    code = streams.steps(variant.masked, variant.bits)
    if code.vector is None:
        return TileCode(label, real, draw, _two_pass_tile(runs, code.masks, label))
    return TileCode(label, real, draw, _register_tile(variant, runs, code, real, *helpers))


def _make_draw(code: streams.Steps) -> Kernel:
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


def _two_pass_tile(runs: Kernel, onto: Kernel, label: str) -> Kernel:
    """Rounds a tile, then puts the masks on in a second pass over the first-level cache."""

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


def _register_tile(
    variant: Variant, runs: Kernel, code: streams.Steps, real: Any, enter: Kernel, close: Kernel
) -> Kernel:
    """Rounds and masks whole steps of the cipher in registers."""
    assert code.vector is not None
    measured, label, per_step, blocks = variant.measured, variant.label, code.words, code.blocks
    step, onto = code.vector.rounded[variant.noisy is not None, measured], code.masks

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
                enter(cursor, ends, first, at, x.size)
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
            if measured and at == run_stop:
                close(x, scales, limits, cursor, draws, sums, error)

    return device(register_tile, label)


def _enter(cursor: Any, ends: Any, first: Any, at: Any, size: Any) -> None:
    """Begin the run of x[at], in a tile of `size` values whose x[0] is coordinate `first`."""
    segment = cursor[SEGMENT]
    while ends[segment] <= first + at:
        segment += 1
    cursor[SEGMENT], cursor[BEGIN], cursor[STOP] = segment, at, min(size, ends[segment] - first)


def _make_runs(variant: Variant, real: Any, enter: Kernel, close: Kernel) -> Kernel:
    """Helper: x[at:stop] rounded over `out`, whatever runs it has."""
    label, measured = variant.label, variant.measured
    span = _make_span(variant)

    def round_runs(
        x: Any, out: Any, at: Any, stop: Any, ends: Any, scales: Any, limits: Any, first: Any, cursor: Any,
        draws: Any, sums: Any, error: Any,
    ) -> None:  # fmt: skip
        while at < stop:
            if cursor[STOP] <= at:
                enter(cursor, ends, first, at, x.size)
            cut, own = min(stop, cursor[STOP]), cursor[SEGMENT]
            scale, limit = real(scales[own]), real(limits[own])
            cursor[OUTSIDE] += span(x, out, at, cut, scale, limit, draws, sums)
            if measured and cut == cursor[STOP]:
                close(x, scales, limits, cursor, draws, sums, error)
            at = cut

    return device(round_runs, label)


def _make_span(variant: Variant) -> Kernel:
    """Helper: x[start:stop], all of one scale, rounded over `out`; how many values were out of bounds."""
    noisy, measured = variant.noisy is not None, variant.measured
    one = make_round_one(noisy=noisy, single=variant.single, label=variant.label)
    lanes = make_round_lanes(noisy=noisy, measured=measured)
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

    return device(round_span, variant.label)


def _make_close(variant: Variant, real: Any) -> Kernel:
    """Helper: adds a finished run's sums to its segment's row of `error` and clears them."""
    one = make_round_one(noisy=variant.noisy is not None, single=variant.single, label=variant.label)

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

    return device(close_run, variant.label)
