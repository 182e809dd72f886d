"""Federated averaging with pruning in NumPy, and a problem for it whose gradients are known."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from silofl.tasks.base import SiloData
from silofl_kernels import Stream, rotate, unrotate
from tests.compression.naive import key_of, levels, rounded, support

Array = NDArray[np.float64]
SIZES = (30, 45, 80, 60)
ALL = tuple(range(len(SIZES)))
SHAPES: dict[str, tuple[int, ...]] = {
    "first": (12, 20),
    "bias": (30,),
    "filters": (6, 4, 3, 2),
    "last": (8, 24),
}
D = sum(math.prod(shape) for shape in SHAPES.values())
LR, ROUNDS = 0.5, 9


def places() -> dict[str, slice]:
    """Where each tensor lies."""
    ends = np.cumsum([math.prod(shape) for shape in SHAPES.values()])
    return {
        name: slice(int(end) - math.prod(shape), int(end))
        for (name, shape), end in zip(SHAPES.items(), ends, strict=True)
    }


def targets() -> Array:
    """What each silo's model is pulled to (n, d); nothing about it is random."""
    row, column = np.mgrid[1 : len(SIZES) + 1, 1 : D + 1]
    return np.sin(column * column * 0.37) + 0.2 * np.sin(row * column * 0.7)


def starts() -> Array:
    """What the model begins with (d,): no two values are the same, nor zero, and float32 has them all."""
    return np.asarray((np.arange(D) + 1) * (-1.0) ** np.arange(D) / 2**13)


class Pulled(nn.Module):
    """Four parameters."""

    def __init__(self) -> None:
        super().__init__()
        for name, shape in SHAPES.items():
            start = torch.from_numpy(starts()[places()[name]].reshape(shape))
            self.register_parameter(name, nn.Parameter(start.float()))

    def vector(self) -> Tensor:
        return nn.utils.parameters_to_vector(self.parameters())


class Pull:
    """Half the squared distance to a target of each silo's own: a task whose gradient is the difference."""

    def model(self) -> nn.Module:
        return Pulled()

    def data(self, silo: int, silos: int) -> SiloData:
        return SiloData(TensorDataset(torch.full((SIZES[silo],), silo)))

    def loss(self, model: Any, batch: Any) -> Tensor:
        target = torch.from_numpy(targets()[int(batch[0][0])]).to(model.bias)
        return (model.vector() - target).square().sum() / 2

    def metrics(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        return {}


def density_after(number: int, keys: Mapping[str, Any]) -> float:
    """Zhu & Gupta 2017, equation 1, with s_i = 0: sparsity, taken from one."""
    first, last, every = keys.get("begin", 0), keys["end"], keys.get("every", 1)
    if number >= last:
        return float(keys["density"])
    t = max(0, (number - first) // every * every)
    sparse = 1 - keys["density"]
    return float(1 - (sparse + (0 - sparse) * (1 - t / (last - first)) ** 3))


def masked(x: Array, kept: NDArray[np.bool_], number: int, keys: Mapping[str, Any]) -> NDArray[np.bool_]:
    """The mask after a round: sorted, in Python."""
    density, found = density_after(number, keys), kept.copy()
    matrices = [name for name, shape in SHAPES.items() if len(shape) > 1]
    chosen = [name for name in matrices if not any(fnmatchcase(name, one) for one in keys.get("keep", ()))]
    if keys["name"] == "structured":
        for name in chosen:
            if name == matrices[-1]:
                continue
            matrix = x[places()[name]].reshape(SHAPES[name][0], -1)
            norms = {row: math.fsum(abs(matrix[row])) for row in range(len(matrix))}
            order = sorted(norms, key=lambda row: (-norms[row], row))
            gone = order[max(1, round(density * len(matrix))) :]
            found[places()[name]].reshape(matrix.shape)[gone] = False
        return found & kept
    groups = [[name] for name in chosen] if keys.get("scope") == "tensor" else [chosen]
    for group in groups:
        at = [place for name in group for place in range(places()[name].start, places()[name].stop)]
        count = max(len(group), round(density * len(at)))
        left = [place for place in at if kept[place]]
        first = [
            max(range(s.start, s.stop), key=lambda p: (kept[p], abs(x[p]), -p))
            for s in map(places().get, group)
        ]
        order = first + [p for p in sorted(left, key=lambda p: (-abs(x[p]), p)) if p not in first]
        found[at] = False
        found[order[:count]] = True
    return found & kept


Step = Callable[[Array, Array], Array]
"""What a server makes of the model and the mean."""


def pruned_fedavg(
    present: Any,
    prune: Mapping[str, Any],
    compress: Mapping[str, Any] | None = None,
    *,
    step: Step = lambda x, mean: x + mean,
    back: tuple[int, int, int] | None = None,
    began: Any = None,
    last: Any = (),
) -> tuple[Array, list[NDArray[np.bool_]]]:
    """The model after rounds with the silos that are `present` in each, and the mask after each.

    With `back` = (silo, r, q) a silo begins round r with what it had left when it had committed round q. Sums
    are made for those that `began` a round. `last` may be a list, which is given all residuals.
    """
    x, kept = starts(), np.ones(D, np.bool_)
    left, masks, history = np.zeros((len(SIZES), D)), [], [np.zeros((len(SIZES), D))]
    first, end, every = prune.get("begin", 0), prune["end"], prune.get("every", 1)
    for number, here in enumerate(present, 1):
        if back is not None and number == back[1]:
            left[back[0]] = history[back[2]][back[0]] * kept
        made = here if began is None else began[number - 1]
        x = step(x, _mean(x, kept, left, here, made, compress or {}, number))
        if number == end or (first < number < end and (number - first) % every == 0):
            kept = masked(x, kept, number, prune)
        x, left = x * kept, left * kept
        masks.append(kept)
        history.append(left.copy())
    if isinstance(last, list):
        last.extend(left)
    return x, masks


def _mean(
    x: Array, kept: NDArray[np.bool_], left: Array, here: Any, made: Any, keys: Mapping[str, Any], number: int
) -> Array:
    """The mean of updates, of which what is left goes through [compress]."""
    key, feedback, ratio = key_of(0, number), keys.get("error_feedback", False), keys.get("ratio", 1.0)
    at, count = np.flatnonzero(kept), int(kept.sum())
    drawn = at[support(count, ratio, key)] if ratio < 1 else at
    stream = Stream("aes-128-ctr", hashlib.sha256(b"silofl codec rot" + key).digest()[:16])
    whole = {k: (LR * (targets()[k] - x) + (left[k] if feedback else 0)) * kept for k in here}
    sent = {k: one[drawn] for k, one in whole.items()}
    if keys.get("rotation"):
        for one in sent.values():
            rotate(one, stream)
    if keys.get("bits") is not None:
        unit, small = levels(keys["bits"], made)
        assert not small
        held = max(2.0, unit / len(made) / 4)
        spread = max(min(held * math.sqrt(np.mean(one**2)), np.abs(one).max()) for one in sent.values())
        scale, total = 2.0 ** math.ceil(math.log2(spread)), sum(SIZES[k] for k in made)
        sent = {k: rounded(one, SIZES[k] / total, scale, unit) for k, one in sent.items()}
    mean = np.zeros(D)
    for k, one in sent.items():
        if keys.get("rotation"):
            unrotate(one, stream)
        whole_again = np.zeros(D)
        whole_again[drawn] = one if feedback else one * count / len(drawn)
        if feedback:
            left[k] = whole[k] - whole_again
        mean += whole_again * SIZES[k] / sum(SIZES[j] for j in here)
    return mean
