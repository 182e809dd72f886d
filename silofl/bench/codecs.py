"""`silofl bench codecs`: kernels of compression beside a copy of the vector, with bytes and errors."""

from __future__ import annotations

import json
import math
import secrets
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

import silofl_kernels as sk
from silofl.bench.measure import Call, Row, interleaved, machine, met, row

BLOCK = 256
"""Values of a block, which have one step."""
WINDOW = 4096
"""Coordinates that are rotated together."""
SPARSITY = 100
"""One of so many coordinates is kept by sparse codecs."""
ROWS, SHORTER = 5, 10
"""Of a count sketch; in all it is so many times shorter than the vector."""
COPY = "copy of the vector"

Vector = NDArray[np.float32]


@dataclass(frozen=True)
class Codec:
    """A way there and back; both calls may be repeated."""

    name: str
    encode: Call
    decode: Call
    nbytes: float
    """Of what is sent."""
    decoded: Vector | None
    """Where `decode` leaves the values, or adds them to zeros; None where these are codes."""
    goal: str = ""
    """Most that encoding may take, in copies of the vector."""
    prepare: Call = lambda: None
    """Comes before the round trip whose error is measured."""


@dataclass(frozen=True)
class Figures:
    """One codec; ratios are to a copy of the vector."""

    encode: Row
    decode: Row
    encode_fastest: float
    """The fastest encoding over the fastest copy: what neighbours on the machine touch least."""
    decode_fastest: float
    """The same of decoding."""
    bytes_per_parameter: float
    error: float | None
    """|decoded - x| / |x|."""
    bias: float | None
    """<decoded - x, x> / |x|^2: near 0 for what is unbiased, -1 if nothing arrives."""


def run(*, parameters: int = 1 << 24, repeats: int = 15) -> list[Figures]:
    """Measure every codec on standard normal values.

    Args:
        parameters: length of the vector.
        repeats: rounds of each measurement.
    """
    x = np.random.default_rng(0).standard_normal(parameters, np.float32)
    copy, back = np.empty_like(x), np.zeros_like(x)
    families = (dense, packed, rotated, sparse, sketched)
    return [_measure(codec, x, copy, back, repeats) for family in families for codec in family(x, back)]


def dense(x: Vector, back: Vector) -> Iterator[Codec]:
    """Codes for all values."""
    stream = sk.Stream("aes-128-ctr", secrets.token_bytes(16))
    yield _blocks(x, back, "8 bits", 8, None, goal="<= 1.2")
    yield _blocks(x, back, "8 bits, stochastic", 8, stream, goal="<= 2.0")
    yield _blocks(x, back, "8 bits, error feedback", 8, None, fed=True)
    yield _blocks(x, back, "8 bits, stochastic, error feedback", 8, stream, fed=True)
    yield _agreed(x, back)
    yield _blocks(x, back, "16 bits", 16, None)
    yield _blocks(x, back, "4 bits", 4, None)
    yield _blocks(x, back, "1 bit", 1, None)
    yield _blocks(x, back, "1 bit, stochastic", 1, stream)


def _blocks(
    x: Vector, back: Vector, name: str, bits: int, rounding: sk.Stream | None, *, fed: bool = False,
    goal: str = "",
) -> Codec:  # fmt: skip
    codes, steps = np.zeros(x.size, sk.code_dtype(bits)), np.zeros(-(-x.size // BLOCK), np.float32)
    residual = np.zeros_like(x) if fed else None

    def encode() -> None:
        sk.quantize_blocks(x, codes, steps, bits=bits, block=BLOCK, residual=residual, rounding=rounding)

    def decode() -> None:
        sk.dequantize_blocks(codes, steps, back, block=BLOCK)

    def prepare() -> None:
        if residual is not None:
            residual.fill(0)

    return Codec(name, encode, decode, x.size * bits / 8 + steps.nbytes, back, goal, prepare)


def _agreed(x: Vector, back: Vector) -> Codec:
    codes, ends = np.zeros(x.size, np.int8), np.array([x.size])
    steps = np.array([sk.max_abs(x) / sk.code_limit(8)], np.float32)

    def encode() -> None:
        sk.quantize_segments(x, codes, steps, bits=8, ends=ends)

    def decode() -> None:
        sk.dequantize_segments(codes, steps, back, ends=ends)

    return Codec("8 bits, one agreed step", encode, decode, x.size, back)


def packed(x: Vector, back: Vector) -> Iterator[Codec]:
    """Nothing but the packing of codes."""
    for bits, goal in ((4, "<= 1.5"), (2, ""), (1, "")):
        limit = sk.code_limit(bits)
        codes = np.where(x < 0, -1, 1) if bits == 1 else np.clip(np.rint(x * (limit / 3)), -limit, limit)
        yield _packed(codes.astype(np.int8), bits, goal)


def _packed(codes: NDArray[np.int8], bits: int, goal: str) -> Codec:
    words, found = np.zeros(sk.packed_size(codes.size, bits), np.uint8), np.zeros_like(codes)
    return Codec(
        f"packing alone, {bits} bit{'s' * (bits > 1)}", lambda: sk.pack_bits(codes, words, bits=bits),
        lambda: sk.unpack_bits(words, found, bits=bits), words.nbytes, None, goal,
    )  # fmt: skip


def rotated(x: Vector, back: Vector) -> Iterator[Codec]:
    """The Walsh-Hadamard transform with random signs, in place."""
    stream, name = sk.Stream("aes-128-ctr", secrets.token_bytes(16)), f"rotation, blocks of {WINDOW}"
    yield Codec(
        name, lambda: sk.rotate(back, stream, block=WINDOW), lambda: sk.unrotate(back, stream, block=WINDOW),
        x.nbytes, back, "<= 4.0", lambda: np.copyto(back, x),
    )  # fmt: skip


def sparse(x: Vector, back: Vector) -> Iterator[Codec]:
    """A part of the values: decoding adds them to a vector."""
    count = max(1, x.size // SPARSITY)
    indices, values = np.zeros(count, np.uint32), np.zeros(count, np.float32)
    yield Codec(
        f"top 1 of {SPARSITY}", lambda: sk.top_k(x, indices, values),
        lambda: sk.scatter_add(back, indices, values), indices.nbytes + values.nbytes, back, "<= 4.0",
    )  # fmt: skip
    support = sk.RandomK(sk.Stream("aes-128-ctr", secrets.token_bytes(16)), x.size, count)
    yield Codec(
        f"random 1 of {SPARSITY}", lambda: support.gather(x, values),
        lambda: support.scatter_add(back, values, weight=support.factor), values.nbytes, back, "<= 0.5",
    )  # fmt: skip


def sketched(x: Vector, back: Vector) -> Iterator[Codec]:
    """All values in a few sums, and estimates of all of them."""
    stream = sk.Stream("aes-128-ctr", secrets.token_bytes(16))
    way = sk.CountSketch(stream, ROWS, max(1, x.size // (ROWS * SHORTER)))
    sums = np.zeros(way.size, np.float32)
    yield Codec(
        f"count sketch, 1 of {SHORTER}", lambda: sk.sketch(x, sums, way),
        lambda: sk.unsketch(sums, back, way), sums.nbytes, back, "<= 8.0",
    )  # fmt: skip


def _measure(codec: Codec, x: Vector, copy: Vector, back: Vector, repeats: int) -> Figures:
    names = (f"{codec.name}: encode", f"{codec.name}: decode")
    back.fill(0)
    calls = {COPY: lambda: np.copyto(copy, x), names[0]: codec.encode, names[1]: codec.decode}
    times = interleaved(calls, rounds=repeats)
    encode, decode = (
        row(name, times[name], COPY, times[COPY], x.nbytes / 1e9, goal)
        for name, goal in zip(names, (codec.goal, ""), strict=True)
    )
    back.fill(0)
    codec.prepare()
    codec.encode()
    codec.decode()
    there, back_again = (min(times[name]) / min(times[COPY]) for name in names)
    per_parameter = codec.nbytes / x.size
    if codec.decoded is None:
        return Figures(encode, decode, there, back_again, per_parameter, None, None)
    lost, norm = codec.decoded.astype(np.float64) - x, float(np.dot(x, x.astype(np.float64)))
    error, bias = math.sqrt(np.dot(lost, lost) / norm), float(np.dot(lost, x)) / norm
    return Figures(encode, decode, there, back_again, per_parameter, error, bias)


def table(title: str, figures: list[Figures]) -> Table:
    """The figures for a person to read: times over those of a copy, medians and fastest."""
    out = Table(title=title, title_justify="left")
    out.add_column("codec")
    for heading in ("encode", "quartiles", "fastest", "goal", "decode", "fastest", "bytes", "error", "bias"):
        out.add_column(heading, justify="right")
    for one in figures:
        there, back = one.encode, one.decode
        colour = {None: "", True: "[green]", False: "[yellow]"}[met(there)]
        out.add_row(
            there.name.removesuffix(": encode"), f"{colour}{there.ratio:.2f}",
            f"{there.ratio_low:.2f}-{there.ratio_high:.2f}", f"{one.encode_fastest:.2f}", there.goal,
            f"{back.ratio:.2f}", f"{one.decode_fastest:.2f}", f"{one.bytes_per_parameter:.3f}",
            "" if one.error is None else f"{one.error:.2g}", "" if one.bias is None else f"{one.bias:+.1g}",
        )  # fmt: skip
    return out


def to_json(title: str, figures: list[Figures]) -> str:
    """The figures and the machine for a program to read."""
    told = {"benchmark": title, "machine": machine(), "codecs": [asdict(one) for one in figures]}
    return json.dumps(told, indent=2)
