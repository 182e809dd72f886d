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


def support(length: int, ratio: float, key: bytes) -> tuple[NDArray[np.int64], Array]:
    """One place of each of `ratio * length` strata, by AES-CTR; and how long each is."""
    count = max(1, round(ratio * length))
    encryptor = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()
    words = np.frombuffer(encryptor.update(bytes(4 * count)), "<u4")
    places, lengths = [], []
    for k in range(count):
        start, stop = k * length // count, (k + 1) * length // count
        places.append(start + (int(words[k]) * (stop - start) >> 32))
        lengths.append(stop - start)
    return np.array(places), np.array(lengths, float)


def levels(bits: int, silos: int) -> float:
    """Ring units of all silos together, rounded to nearest, in a field of so many bits."""
    return ((1 << (bits - 1)) - 1 - silos / 2) * (1 - 2.0**-21)


def rounded(values: Array, share: float, scale: float, unit: float) -> Array:
    """What of one silo's values is sent, as values."""
    limit = math.floor(share * unit + 0.5)
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
    places, lengths = np.arange(D), np.ones(D)
    if keys["ratio"] < 1:
        places, lengths = support(D, keys["ratio"], key)
    stream = Stream("aes-128-ctr", hashlib.sha256(b"silofl codec rot" + key).digest()[:16])
    whole = {k: LR * (targets()[k] - x) + (left[k] if feedback else 0) for k in stated}
    sent = {k: np.ascontiguousarray(one[places]) for k, one in whole.items()}
    if keys["rotation"]:
        for one in sent.values():
            rotate(one, stream)
    if keys["bits"] is not None:
        spread = max(2 * math.sqrt(np.mean(one**2)) for one in sent.values())
        scale, unit = 2.0 ** math.ceil(math.log2(spread)), levels(keys["bits"], len(made))
        total = sum(SIZES[k] for k in made)
        sent = {k: rounded(one, SIZES[k] / total, scale, unit) for k, one in sent.items()}
    mean = np.zeros(D)
    for k in here:
        one = sent[k]
        if keys["rotation"]:
            unrotate(one, stream)
        back = np.zeros(D)
        back[places] = one if feedback else one * lengths
        if feedback:
            left[k] = whole[k] - back
        mean += back * SIZES[k] / sum(SIZES[j] for j in here)
    return mean
