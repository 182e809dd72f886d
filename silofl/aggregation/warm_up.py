"""Kernels compiled before the first round, in which a silent rank is taken for a hung one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from silofl.aggregation.formats import format_of
from silofl.aggregation.magnitudes import measure
from silofl.aggregation.shards import Shards
from silofl.aggregation.spec import AggregationSpec, VectorSpec
from silofl.aggregation.wire_format import WireFormat
from silofl.types import Contribution, RingBits
from silofl_kernels import (
    KEY_BYTES,
    MaskSet,
    Prg,
    add_masks,
    reduce_rows,
    reduce_rows_float,
    ring_dtype,
    scale_into,
)

TENSOR = 64


def compile_kernels(spec: AggregationSpec, bits: RingBits, prg: Prg, *, stochastic: bool) -> None:
    """Encode, mask, add up and decode a few zeros of the same kinds; not collective.

    On a new machine that takes seconds, on every further start milliseconds: compiled code lies on disk.
    """
    small = _shortened(spec)
    wire = WireFormat(small, bits, Shards(0, (0,)), stochastic=stochastic)
    given, ring = _zeros(small, bits), ring_dtype(bits)
    magnitudes, ranges = measure(given, small), wire.fixed_ranges(1.0)
    wire.exponents(magnitudes, 1.0)
    encoded = wire.encode(given, 1.0, magnitudes, ranges, wire.rounding(prg, 0, 1))
    on, off = (MaskSet(prg, [bytes(KEY_BYTES[prg])], [sign]) for sign in (1, -1))
    words = np.empty(wire.layout.shards.size, ring)
    encoded.begin()
    encoded.fill(0, len(words), words, on)
    wire.tail.decode(encoded.tail())
    spare = words.copy()
    add_masks(spare, on)
    reduce_rows([words, words], spare)
    for block in wire.layout.blocks(0):
        wire.decode(block, words[block.start : block.stop], off, ranges, 1.0)


def compile_plain(spec: AggregationSpec) -> None:
    """The same for sums in the clear; not collective."""
    small = _shortened(spec)
    measure(_zeros(small, 32), small)
    row = np.zeros(TENSOR, spec.dtype)
    scale_into(row, 1.0, np.empty_like(row))
    reduce_rows_float([row, row], np.empty_like(row))
    words = np.zeros(TENSOR, np.uint32)
    reduce_rows([words, words], np.empty_like(words))


def _shortened(spec: AggregationSpec) -> AggregationSpec:
    """The same vectors with two short tensors each, or one where they have no more."""
    return replace(spec, vectors=tuple(_short(one) for one in spec.vectors))


def _short(one: VectorSpec) -> VectorSpec:
    ends = TENSOR * np.arange(1, min(len(one.tensor_ends), 2) + 1)
    return replace(one, size=int(ends[-1]), tensors=(), ends=ends)


def _zeros(spec: AggregationSpec, bits: RingBits) -> Contribution:
    vectors = {
        one.name: np.zeros(one.size, ring_dtype(bits) if format_of(one).in_words else spec.dtype)
        for one in spec.vectors
    }
    return Contribution(vectors, dict.fromkeys(spec.scalars, 0.0))
