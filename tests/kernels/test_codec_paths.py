"""Kernels of compression give the same bytes without a compiler, and on older processors."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from silofl_kernels import (
    CountSketch,
    RandomK,
    Stream,
    pack_bits,
    packed_size,
    quantize_blocks,
    quantize_segments,
    scatter_add,
    sketch,
    top_k,
    unpack_bits,
    unsketch,
)

ROOT = Path(__file__).resolve().parents[2]
SIZE, BLOCK = 277, 100


def digest() -> str:
    """SHA-256 of what every kernel makes of a few values, two of which are not finite."""
    told, stream = hashlib.sha256(), Stream("aes-128-ctr", bytes(range(16)))
    for bits in (1, 4):
        for rounding in (None, stream):
            x = np.linspace(-3, 2, SIZE).astype(np.float32)
            x[[7, 210]] = np.nan, np.inf
            residual, codes = np.linspace(1, -1, SIZE).astype(np.float32), np.zeros(SIZE, np.int8)
            steps, packed = np.zeros(3, np.float32), np.zeros(packed_size(SIZE, bits), np.uint8)
            quantize_blocks(x, codes, steps, bits=bits, block=BLOCK, residual=residual, rounding=rounding)
            told.update(codes.tobytes() + steps.tobytes() + residual.tobytes())
            agreed, ends = np.array([0.5, 0.1], np.float32), np.array([120, SIZE])
            quantize_segments(x, codes, agreed, bits=bits, ends=ends, residual=residual, rounding=rounding)
            pack_bits(codes, packed, bits=bits)
            unpack_bits(packed, back := np.zeros_like(codes), bits=bits)
            told.update(codes.tobytes() + residual.tobytes() + packed.tobytes() + back.tobytes())
    indices, values = np.zeros(40, np.uint32), np.zeros(40, np.float32)
    top_k(x, indices, values)
    support = RandomK(stream, SIZE, 40)
    scatter_add(residual, indices, values, weight=0.3)
    support.scatter_add(residual, values, weight=support.factor)
    support.gather(residual, values)
    way = CountSketch(stream, 5, 70)
    sketch(residual, sums := np.zeros(way.size, np.float32), way)
    unsketch(sums, estimates := np.zeros(SIZE, np.float32), way)
    told.update(indices.tobytes() + values.tobytes() + residual.tobytes())
    told.update(sums.tobytes() + estimates.tobytes())
    return told.hexdigest()


@pytest.mark.long
@pytest.mark.parametrize(
    "environment",
    [
        {"NUMBA_DISABLE_JIT": "1"},
        {"NUMBA_CPU_NAME": "x86-64", "NUMBA_CPU_FEATURES": ""},
        {"NUMBA_CPU_NAME": "x86-64", "NUMBA_CPU_FEATURES": "+sse2,+aes"},
        {"SILOFL_KERNEL_PATH": "portable"},
    ],
    ids=["no compiler", "plain x86-64", "with AES", "portable cipher"],
)
def test_the_bytes_are_the_same(environment: dict[str, str]) -> None:
    paths = os.pathsep.join([str(ROOT), str(ROOT / "kernels")])
    told = subprocess.run(
        [sys.executable, "-m", "tests.kernels.test_codec_paths"], cwd=ROOT,
        env={**os.environ, "PYTHONPATH": paths, "PYTHONWARNINGS": "ignore", **environment},
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert told.strip() == digest()


if __name__ == "__main__":
    print(digest())
