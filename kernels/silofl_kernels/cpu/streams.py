"""Code that makes any part of a keystream over an array, or adds it to one, on the path of this processor."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numba import types
from numpy.typing import NDArray

from silofl_kernels.cpu import aes_portable, chacha_portable, features
from silofl_kernels.cpu.aes_vector import AesVector
from silofl_kernels.cpu.chacha_vector import ChachaVector
from silofl_kernels.cpu.jit import Kernel, array, device, kernel
from silofl_kernels.cpu.rows import borrow
from silofl_kernels.cpu.vector import VectorSteps, step_bytes, vector_steps
from silofl_kernels.prg import Family, family

if TYPE_CHECKING:
    from silofl_kernels.streams import Stream

WORK_WORDS = 384
"""64-bit words of scratch memory that a step needs: a batch of stream first, then room for a state."""

PORTABLE_BYTES = 1024
"""Bytes of keystream that one step of a portable path makes."""


def keystream(out: NDArray[np.uint8], stream: Stream, position: int) -> None:
    """See `silofl_kernels.keystream`."""
    keystream_from(stream.prepared, family(stream.prg), out, position)


def keystream_from(prepared: NDArray[np.uint64], kind: Family, out: NDArray[np.uint8], position: int) -> None:
    """The inner door of `keystream`: prepared keys that may begin at another block (known-answer tests)."""
    _keystream_kernel(kind, features.path(kind))(out, prepared, position)


class Steps(NamedTuple):
    """Code of one path for words of one width; helpers take spans of any length and position.

    `words[0]` meets element `first` of the streams; `work` is uint64 (WORK_WORDS,) of scratch memory.
    """

    name: str
    masks: Kernel
    """(words, first, schedules, added, work): adds the first `added` streams, subtracts the others."""
    part: Kernel
    """`masks` for words that all lie within one step of the streams."""
    fill: Kernel
    """(words, first, schedules, work): overwrites the words with stream 0."""
    vector: VectorSteps | None
    """Single steps; None on a portable path."""
    words: int
    """Words in a step."""
    blocks: int
    """Blocks of the cipher in a step."""


def steps(kind: Family, bits: int) -> Steps:
    """The code that this process uses for `kind` on words of `bits` bits."""
    return _steps(kind, bits, features.path(kind))


@functools.cache
def _steps(kind: Family, bits: int, path: str) -> Steps:
    lanes = features.chacha_lanes() if path == "vector" else 0
    name, vector, size = f"{kind}_{path}{lanes or ''}", None, PORTABLE_BYTES
    if path == "portable":
        fill, masks = _portable_steps(kind, f"{name}_{bits}")
    else:
        cipher = AesVector(path) if kind == "aes" else ChachaVector(lanes)
        vector = vector_steps(cipher)
        fill, masks, size = vector.fill, vector.masks, step_bytes(cipher)
    shape = _Shape(f"{name}_{bits}", 8 * size // bits, size // (64 if kind == "chacha" else 16))
    part = _make_part(fill, shape)
    return Steps(name, _make_masks(masks, part, shape), part, _make_fill(fill, shape), vector, *shape[1:])


class _Shape(NamedTuple):
    name: str
    words: int  # in one step
    blocks: int


def _portable_steps(kind: Family, name: str) -> tuple[Kernel, Kernel]:
    batch = aes_portable.aes_batch if kind == "aes" else chacha_portable.chacha_batch

    def fill(words: Any, index: Any, schedules: Any, row: Any, counter: Any) -> None:
        work = np.empty(WORK_WORDS, np.uint64)
        batch(schedules, row, counter, work)
        stream = work[:128].view(words.dtype)
        for i in range(stream.size):
            words[index + i] = stream[i]

    def masks(words: Any, index: Any, schedules: Any, added: Any, counter: Any) -> None:
        work = np.empty(WORK_WORDS, np.uint64)
        stream = work[:128].view(words.dtype)
        part = borrow(words, index, index + stream.size)
        for row in range(schedules.shape[0]):
            batch(schedules, row, counter, work)
            add_signed(part, stream, row >= added)

    return device(fill, name), device(masks, name)


def _add_signed(words: Any, stream: Any, negate: Any) -> None:
    if negate:
        for i in range(words.size):
            words[i] -= stream[i]
    else:
        for i in range(words.size):
            words[i] += stream[i]


add_signed = device(_add_signed, "streams")


def _make_part(fill: Kernel, shape: _Shape) -> Kernel:
    name, per_step, blocks = shape

    def masks_within_step(words: Any, first: Any, schedules: Any, added: Any, work: Any) -> None:
        stream, skip = work.view(words.dtype), first % per_step
        for row in range(schedules.shape[0]):
            fill(stream, 0, schedules, row, np.uint64(first // per_step * blocks))
            add_signed(words, borrow(stream, skip, skip + words.size), row >= added)

    return device(masks_within_step, name)


def _make_masks(whole: Kernel, part: Kernel, shape: _Shape) -> Kernel:
    name, per_step, blocks = shape

    def masks_on_span(words: Any, first: Any, schedules: Any, added: Any, work: Any) -> None:
        at = 0
        while at < words.size:
            here = first + at
            stop = min(words.size, at + per_step - here % per_step)
            if stop - at == per_step:
                whole(words, at, schedules, added, np.uint64(here // per_step * blocks))
            else:
                part(borrow(words, at, stop), here, schedules, added, work)
            at = stop

    return device(masks_on_span, name)


def _make_fill(fill: Kernel, shape: _Shape) -> Kernel:
    name, per_step, blocks = shape

    def fill_span(words: Any, first: Any, schedules: Any, work: Any) -> None:
        at, stream = 0, work.view(words.dtype)
        while at < words.size:
            skip, block = (first + at) % per_step, np.uint64((first + at) // per_step * blocks)
            stop = min(words.size, at + per_step - skip)
            whole = stop - at == per_step
            fill(words if whole else stream, at if whole else 0, schedules, 0, block)
            if not whole:
                for i in range(stop - at):
                    words[at + i] = stream[skip + i]
            at = stop

    return device(fill_span, name)


@functools.cache
def _keystream_kernel(kind: Family, path: str) -> Kernel:
    code = _steps(kind, 8, path)
    fill = code.fill

    def keystream_bytes(out: Any, schedules: Any, position: Any) -> None:
        fill(out, position, schedules, np.empty(WORK_WORDS, np.uint64))

    prepared = array("uint64", 2, readonly=True)
    return kernel(keystream_bytes, code.name, array("uint8"), prepared, types.int64)
