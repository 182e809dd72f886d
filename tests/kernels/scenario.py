"""A little of everything as one digest, printed by processes that must agree."""

from __future__ import annotations

import hashlib
import sys

import numpy as np

from silofl_kernels import (
    KEY_BYTES,
    MaskSet,
    Prg,
    Stream,
    dequantize,
    quantize_and_mask,
    reduce_rows,
)
from silofl_kernels.cpu import features
from silofl_kernels.prg import family

SIZE, OFFSET = 400, 39


def masks_alone(prg: Prg) -> str:
    """SHA-256 of masked sums: what compiles in a second."""
    masks = MaskSet(prg, [bytes([n]) * KEY_BYTES[prg] for n in (1, 2)], [1, -1])
    words = np.arange(SIZE, dtype=np.uint16)
    reduce_rows([words, words], total := np.zeros_like(words), masks=masks, offset=OFFSET)
    return hashlib.sha256(total.tobytes()).hexdigest()


def digest(prg: Prg, *, noisy: bool = False) -> str:
    """SHA-256 of masked and unmasked words; `noisy` adds stochastic rounding (and a kernel to compile)."""
    keys = [bytes([n]) * KEY_BYTES[prg] for n in (1, 2, 3)]
    masks, unmask = (MaskSet(prg, keys[:2], signs) for signs in ([1, -1], [-1, 1]))
    rounding = Stream(prg, keys[2])
    x = np.linspace(-3, 3, SIZE).astype(np.float32)
    masked, total, out = np.zeros(SIZE, np.uint16), np.zeros(SIZE, np.uint16), np.zeros(SIZE, np.float32)
    sha = hashlib.sha256()
    for chosen in (None, rounding)[: 1 + noisy]:
        counts = quantize_and_mask(
            x, masked, scale=10.0, limit=25, masks=masks, offset=OFFSET, rounding=chosen
        )
        sha.update(repr(tuple(map(int, counts))).encode() + masked.tobytes())
    reduce_rows([masked, masked], total, masks=unmask, offset=OFFSET)
    dequantize(total, out, step=0.05)
    sha.update(total.tobytes() + out.tobytes())
    return sha.hexdigest()


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        name, _, part = argument.partition(":")
        told = masks_alone(name) if part else digest(name, noisy=features.without_jit())  # type: ignore[arg-type]
        print(features.path(family(name)), told)  # type: ignore[arg-type]
