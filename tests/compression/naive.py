"""Federated averaging of compressed updates in NumPy, and a problem for it whose gradients are known."""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from silofl.tasks.base import SiloData
from silofl_kernels import Stream, rotate, unrotate

Array = NDArray[np.float64]
SIZES = (30, 45, 80, 60)
ALL = tuple(range(len(SIZES)))
SHAPES = {"a": (300,), "b": (20, 35)}
D = sum(math.prod(shape) for shape in SHAPES.values())
LR, ROUNDS = 0.5, 12
KEYS: dict[str, Any] = {"ratio": 1.0, "bits": None, "rotation": False, "error_feedback": False}


def targets() -> Array:
    """What each silo's model is pulled to (n, d); nothing about it is random."""
    row, column = np.mgrid[1 : len(SIZES) + 1, 1 : D + 1]
    return np.sin(row * column * 0.7) * np.where(column < 50, 20.0, 1.0)


class Pulled(nn.Module):
    """Two parameters of different size, from zero."""

    def __init__(self) -> None:
        super().__init__()
        for name, shape in SHAPES.items():
            self.register_parameter(name, nn.Parameter(torch.zeros(shape)))

    def vector(self) -> Tensor:
        return nn.utils.parameters_to_vector(self.parameters())


class Pull:
    """Half the squared distance to a target of each silo's own: a task whose gradient is the difference."""

    def model(self) -> nn.Module:
        return Pulled()

    def data(self, silo: int, silos: int) -> SiloData:
        return SiloData(TensorDataset(torch.full((SIZES[silo],), silo)))

    def loss(self, model: Any, batch: Any) -> Tensor:
        target = torch.from_numpy(targets()[int(batch[0][0])]).to(model.a)
        return (model.vector() - target).square().sum() / 2

    def metrics(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        return {}


def key_of(seed: int, round_number: int, name: str = "update") -> bytes:
    """What a round's public random choices are made from."""
    place = struct.pack(">QQ", seed, round_number) + name.encode()
    return hashlib.sha256(b"silofl codec" + place).digest()[:16]


def support(length: int, ratio: float, key: bytes) -> NDArray[np.int64]:
    """One place of each of `ratio * length` strata of the vector, which is turned first; by AES-CTR."""
    count = min(length, max(1, round(ratio * length)))
    encryptor = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()
    words = [int(one) for one in np.frombuffer(encryptor.update(bytes(8 * (8 + count))), "<u8")]
    turn, places = words[0] * length >> 64, []
    for k in range(count):
        start, stop = k * length // count, (k + 1) * length // count
        places.append((start + int((words[8 + k] >> 11) * 2.0**-53 * (stop - start)) + turn) % length)
    return np.array(sorted(places))


def levels(bits: int, silos: Any) -> tuple[float, list[int]]:
    """Ring units of all `silos` together, rounded to nearest in a field of so many bits, and the small ones.

    These have less than half a level, and are sent one: half a level more than rounding counts on.
    """
    units, total = ((1 << (bits - 1)) - 1 - len(silos) / 2) * (1 - 2.0**-21), sum(SIZES[k] for k in silos)
    small: list[int] = []
    while True:
        unit = units - len(small) / 2
        found = [k for k in silos if SIZES[k] / total * unit < 0.5]
        if len(found) <= len(small):
            return unit, found
        small = found


def rounded(values: Array, share: float, scale: float, unit: float) -> Array:
    """What of one silo's values is sent, as values."""
    limit = max(1, math.floor(share * unit + 0.5))
    step = share * unit / scale
    return np.asarray(np.clip(np.rint(values * step), -limit, limit) / step)


def compressed_fedavg(
    present: Any,
    keys: Mapping[str, Any],
    *,
    began: Any = None,
    stated: Any = None,
    seed: int = 0,
    back: tuple[int, int, int] | None = None,
) -> Array:
    """The model after rounds with the silos that are `present` in each.

    Sums are made for those that `began` a round, and ranges hold what those say that have `stated` theirs;
    the same ones, unless given. With `back` = (silo, r, q) a silo begins round r with what it had left when
    it had committed round q.
    """
    keys = KEYS | dict(keys)
    x, left = np.zeros(D), np.zeros((len(SIZES), D))
    kept = [left.copy()]
    for number, here in enumerate(present, 1):
        if back is not None and number == back[1]:
            left[back[0]] = kept[back[2]][back[0]]
        made = here if began is None else began[number - 1]
        x = x + _mean(x, left, here, keys, seed, number, made, here if stated is None else stated[number - 1])
        kept.append(left.copy())
    return x


def _mean(
    x: Array,
    left: Array,
    here: Any,
    keys: Mapping[str, Any],
    seed: int,
    number: int,
    made: Any,
    stated: Any,
) -> Array:
    key, feedback = key_of(seed, number), keys["error_feedback"]
    places = support(D, keys["ratio"], key) if keys["ratio"] < 1 else np.arange(D)
    stream = Stream("aes-128-ctr", hashlib.sha256(b"silofl codec rot" + key).digest()[:16])
    whole = {k: LR * (targets()[k] - x) + (left[k] if feedback else 0) for k in stated}
    sent = {k: np.ascontiguousarray(one[places]) for k, one in whole.items()}
    if keys["rotation"]:
        for one in sent.values():
            rotate(one, stream)
    if keys["bits"] is not None:
        unit, small = levels(keys["bits"], made)
        held, total = max(2.0, unit / len(made) / 4), sum(SIZES[k] for k in made)
        needs = {
            k: held * math.sqrt(np.mean(one**2)) * (SIZES[k] / total * unit if k in small else 1.0)
            for k, one in sent.items()
        }
        spread = max(min(needs[k], np.abs(one).max()) for k, one in sent.items())
        scale = 2.0 ** math.ceil(math.log2(spread))
        sent = {k: rounded(one, SIZES[k] / total, scale, unit) for k, one in sent.items()}
    mean = np.zeros(D)
    for k in here:
        one = sent[k]
        if keys["rotation"]:
            unrotate(one, stream)
        back = np.zeros(D)
        back[places] = one if feedback else one * D / len(places)
        if feedback:
            left[k] = whole[k] - back
        mean += back * SIZES[k] / sum(SIZES[j] for j in here)
    return mean


def sketching(length: int, rows: int, columns: int, key: bytes) -> tuple[Any, Any]:
    """Bucket and sign of each value in each row, (rows, length): by SplitMix64, whose seed is AES-CTR's."""
    encryptor = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()
    seed, together = int.from_bytes(encryptor.update(bytes(8)), "little"), min(512, columns)

    def word(number: int) -> int:
        z = (seed + (number + 1) * 0x9E3779B97F4A7C15) % 2**64
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
        return z ^ z >> 31

    buckets, signs = np.zeros((rows, length), int), np.zeros((rows, length))
    for row in range(rows):
        for place in range(length):
            block, at = divmod(place, together)
            first = (rows * block + row) * (1 + math.ceil(together / 64))
            buckets[row, place] = ((word(first) >> 32) * columns // 2**32 + at) % columns
            signs[row, place] = 1 - 2 * (word(first + 1 + at // 64) >> at % 64 & 1)
    return buckets, signs


def sketched_fedavg(
    present: Any, ratio: float, rows: int, kept: float, *, feedback: bool, lost: Any = (), seed: int = 0
) -> Array:
    """Federated averaging by count sketches: FetchSGD (Rothchild et al. 2020), without its momentum.

    What earlier rounds left is forgotten before rounds of `lost`.
    """
    columns, count = int(ratio * D) // rows, round(kept * D)
    x, left = np.zeros(D), np.zeros((rows, columns))
    for number, here in enumerate(present, 1):
        buckets, signs = sketching(D, rows, columns, key_of(seed, 0 if feedback else number))
        total = sum(SIZES[k] for k in here)
        sums = np.zeros_like(left)
        for k in here:
            update = LR * (targets()[k] - x)
            for row in range(rows):
                np.add.at(sums[row], buckets[row], signs[row] * update * SIZES[k] / total)
        if feedback:
            sums = sums + (0 if number in lost else left)
        said = np.median([signs[row] * sums[row][buckets[row]] for row in range(rows)], axis=0)
        step, told = np.zeros(D), np.zeros_like(left)
        for place in largest(said, count):
            step[place] = said[place]
            for row in range(rows):
                told[row, buckets[row, place]] += signs[row, place] * said[place]
        sums[told != 0] = 0
        x, left = x + step, sums
    return x


def bfloat16(values: Array) -> Array:
    """Rounded to eight bits of mantissa, to nearest even."""
    found = []
    for value in np.asarray(values, np.float32).astype(float):
        mantissa, exponent = math.frexp(value)
        found.append(math.ldexp(round(mantissa * 256), exponent - 8) if value else value)
    return np.array(found)


def uniform(count: int, key: bytes) -> Array:
    """What a silo rounds by."""
    encryptor = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()
    return np.asarray((np.frombuffer(encryptor.update(bytes(4 * count)), "<u4") + 0.5) / 2**32)


def key_of_silo(key: bytes, silo: int) -> bytes:
    """What a silo's own random choices are made from."""
    return hashlib.sha256(key + struct.pack(">Q", silo)).digest()[:16]


def coded(values: Array, key: bytes, *, bucket: int, levels: int, order: float, feedback: bool) -> Array:
    """Each value in so many levels of its bucket's norm."""
    up, back = uniform(len(values), key), np.zeros(len(values))
    for at in range(0, len(values), bucket):
        part = slice(at, min(at + bucket, len(values)))
        norm = np.linalg.norm(values[part], order)
        single = np.float32(norm)
        single = np.nextafter(single, np.float32(np.inf)) if single < norm else single
        scale = float(single / np.float32(levels))
        if scale:
            whole = np.floor(values[part] / scale + (0.5 if feedback else up[part]))
            back[part] = np.clip(whole, -levels, levels) * scale
    return back


def sparse(values: Array, places: Any) -> Array:
    """The values at these places, in bfloat16."""
    back = np.zeros(len(values))
    back[places] = bfloat16(values[places])
    return back


def largest(values: Array, count: int) -> list[int]:
    """Places of the values of largest magnitude, the first of equal ones."""
    return sorted(range(len(values)), key=lambda place: (-abs(values[place]), place))[:count]


GAUSSIAN = np.array([-1.510417608, -0.452780037, 0.452780037, 1.510417608])
"""Levels of two bits (Max 1960, table I)."""


def eden(values: Array, key: bytes, *, feedback: bool) -> Array:
    """Turned by a key, the nearest of four levels, scaled, and turned back."""
    turned, stream = values.copy(), Stream("aes-128-ctr", key)
    rotate(turned, stream)
    size = math.sqrt(np.mean(turned**2))
    near = np.array([min(GAUSSIAN, key=lambda level: abs(level - one / size)) for one in turned])
    inner = float(turned @ near)
    back = near * float(np.float32(inner / (near @ near) if feedback else (turned @ turned) / inner))
    unrotate(back, stream)
    return back


PACKETS: dict[str, tuple[dict[str, Any], Any]] = {
    "top_k": ({"ratio": 0.1}, lambda x, key, fb: sparse(x, largest(x, max(1, round(0.1 * len(x)))))),
    "fixed_threshold": ({"threshold": 0.4}, lambda x, key, fb: sparse(x, np.flatnonzero(np.abs(x) >= 0.4))),
    "bfloat16": ({}, lambda x, key, fb: bfloat16(x)),
    "qsgd": (
        {"levels": 5, "bucket": 64},
        lambda x, key, fb: coded(x, key, bucket=64, levels=5, order=np.inf if fb else 2, feedback=fb),
    ),
    "ternary": (
        {"bucket": 64},
        lambda x, key, fb: coded(x, key, bucket=64, levels=1, order=np.inf, feedback=fb),
    ),
    "eden": ({"code_bits": 2}, lambda x, key, fb: eden(x, key, feedback=fb)),
    "sign": ({"vote": False}, lambda x, key, fb: np.where(x < 0, -1, 1) * np.mean(np.abs(x))),
}
"""By name of the codec: keys, and what others have of values (d,), by a silo's key and with feedback."""


def packets_fedavg(present: Any, name: str, *, feedback: bool, seed: int = 0) -> Array:
    """As `compressed_fedavg`, of a codec that has packets."""
    sent, x, left = PACKETS[name][1], np.zeros(D), np.zeros((len(SIZES), D))
    for number, here in enumerate(present, 1):
        total = sum(SIZES[k] for k in here)
        mean = np.zeros(D)
        for k in here:
            values = LR * (targets()[k] - x) + (left[k] if feedback else 0)
            back = sent(values, key_of_silo(key_of(seed, number), k), feedback)
            left[k] = values - back
            mean += SIZES[k] / total * back
        x = x + mean
    return x


def powersgd_fedavg(
    present: Any, rank: int, *, seed: int = 0, anew: Any = (), void: Any = (), back: Any = None
) -> Array:
    """Federated averaging with the second parameter in factors: Vogels et al. 2019, algorithm 1.

    The second factor is drawn anew in round 1 and in those of `anew`; rounds of `void` move nothing. `back`
    is as in `compressed_fedavg`.
    """
    rows, columns = SHAPES["b"]
    split = math.prod(SHAPES["a"])
    x, left, second = np.zeros(D), np.zeros((len(SIZES), D)), np.empty(0)
    kept: list[Array] = []
    for number, here in enumerate(present, 1):
        kept.append(left.copy())
        if back is not None and number == back[1]:
            left[back[0]] = kept[back[2]][back[0]]
        if number == 1 or number in anew:
            key = key_of(seed, number, "update/b")
            encryptor = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()
            words = np.frombuffer(encryptor.update(bytes(4 * columns * rank)), "<u4")
            second = (words / 2.0**31 - 1).reshape(columns, rank)
        shares = np.array([SIZES[k] for k in here]) / sum(SIZES[k] for k in here)
        whole = [LR * (targets()[k] - x) + left[k] for k in here]
        matrices = [one[split:].reshape(rows, columns) for one in whole]
        mean = np.sum([share * one @ second for share, one in zip(shares, matrices, strict=True)], axis=0)
        basis = np.linalg.qr(mean)[0]
        seconds = [one.T @ basis for one in matrices]
        if number in void:
            for k, one in zip(here, whole, strict=True):
                left[k] = one
            continue
        second = np.sum([share * one for share, one in zip(shares, seconds, strict=True)], axis=0)
        for k, matrix, own in zip(here, matrices, seconds, strict=True):
            left[k][split:] = (matrix - basis @ own.T).ravel()
            left[k][:split] = 0
        x = x.copy()
        x[:split] += np.sum([share * one[:split] for share, one in zip(shares, whole, strict=True)], axis=0)
        x[split:] += (basis @ second.T).ravel()
    return x
