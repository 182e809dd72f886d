"""Models for membership inference: federations that are attacked, and an attacker's own like them.

Half of a pool of digits trains, dealt out evenly to the silos; the other half is nowhere. The pool is small,
so that the model without privacy learns its members by heart, which is where membership shows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from attacked_runs import Dealt, Seen, digits, federate
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from silofl.federation.first_models import drawn
from silofl.privacy_attacks.candidate_weights import candidate_weights
from silofl.privacy_attacks.inversion.base import by_name, each_gradient
from silofl.privacy_attacks.membership.base import Bools, Evidence, Floats, train_shadows
from silofl.privacy_attacks.membership.registry import INFERENCES
from silofl.tasks.user_code import UserCode

SILOS, POOL, ROUNDS, LOCAL_STEPS, LR, DELTA = 4, 400, 30, 10, 0.5, 1e-3
STEPS, RATE, CLIP, DP_LR = 60, 0.25, 1.0, 1.0


@dataclass(frozen=True)
class Setting:
    """How models are trained.

    Attributes:
        name: for the table.
        noise: noise multiplier of `[privacy]`; None without.
    """

    name: str
    noise: float | None

    def tables(self) -> Mapping[str, Any]:
        """The configuration."""
        if self.noise is None:
            return {
                "run": {"rounds": ROUNDS},
                "train": {"full_batch": True, "steps": LOCAL_STEPS, "lr": LR, "momentum": 0.0},
            }
        privacy = {"unit": "example", "place": "distributed", "noise_multiplier": self.noise}
        privacy |= {"sample_rate": RATE, "clip_norm": CLIP, "delta": DELTA}
        return {
            "run": {"rounds": STEPS},
            "strategy": {"name": "fedsgd", "lr": DP_LR},
            "secure": {"bits": 32},
            "privacy": privacy,
        }


SETTINGS = (Setting("without [privacy]", None), Setting("DP", 1.0), Setting("DP, more noise", 2.0))
SHADOWS = 16
DRIFT = 0.1
"""Of a round's step, what several local steps are taken to add to a gradient's direction."""


@dataclass(frozen=True)
class Inferred:
    """One run and what attacks make of its last model.

    Attributes:
        members: (m,), which digits of the pool it was trained on.
        scores: of each attack, (m,).
        inside, outside: accuracy on members and on others.
        epsilon: the accountant's.
    """

    setting: str
    seed: int
    members: Bools
    scores: dict[str, Floats]
    inside: float
    outside: float
    epsilon: float | None


def infer(setting: Setting, seed: int) -> Inferred:
    """Train a federation and shadow models on halves of one pool, and attack the federation."""
    rng = np.random.default_rng([seed, 4])
    members = np.zeros(POOL, np.bool_)
    members[rng.permutation(POOL)[: POOL // 2]] = True
    seen = attacked(setting, seed, members)
    shadows = train_shadows(lambda mask: shadow(setting, seed, rng, mask), POOL, SHADOWS, rng)
    rounds = round_weights(setting, pool_of(seed), seen)
    module = seen.after
    evidence = Evidence(losses_on(module, pool_of(seed)), *shadows, round_weights=rounds)
    scores = {name: kind().scores(evidence) for name, kind in INFERENCES.items()}
    inside, outside = (_accuracy(module, pool_of(seed)[one]) for one in (members, ~members))
    return Inferred(setting.name, seed, members, scores, inside, outside, seen.summary["epsilon"])


def _accuracy(module: nn.Module, chosen: NDArray[np.int64]) -> float:
    images, labels = digits()
    with torch.no_grad():
        found = module.double()(torch.from_numpy(images[chosen])).argmax(dim=1)
    return float((found == torch.from_numpy(labels[chosen])).double().mean())


def dealt(members: Bools, pool: NDArray[np.int64], rng: np.random.Generator) -> list[NDArray[np.int64]]:
    """The members' numbers, evenly, by chance."""
    return np.array_split(rng.permutation(pool[members]), SILOS)


def pool_of(seed: int) -> NDArray[np.int64]:
    """The digits of a seed: numbers."""
    return np.random.default_rng([seed, 1]).permutation(1797)[:POOL]


def losses_on(module: nn.Module, chosen: NDArray[np.int64]) -> Floats:
    """Cross entropies (m,) of digits by number."""
    images, labels = digits()
    with torch.no_grad():
        outputs = module.double()(torch.from_numpy(images[chosen]))
        return functional.cross_entropy(outputs, torch.from_numpy(labels[chosen]), reduction="none").numpy()


def attacked(setting: Setting, seed: int, members: Bools) -> Seen:
    """A federation under `secagg`, of which every silo sees the models of all rounds."""
    pool, rng = pool_of(seed), np.random.default_rng([seed, 2])
    return federate(Dealt("mlp", dealt(members, pool, rng)), SILOS, seed, setting.tables())


def round_weights(setting: Setting, pool: NDArray[np.int64], seen: Seen) -> Floats:
    """(T, m), by each round's step, how much each digit of the pool is in it."""
    images, labels = digits()
    members, module, found = POOL // 2, deepcopy(seen.before), []
    for before, after in pairwise(seen.values):
        for one, values in zip(module.parameters(), by_name(module, before).values(), strict=True):
            one.data.copy_(values)
        clip = None if setting.noise is None else CLIP
        rows = each_gradient(module, images[pool], labels[pool], clip)
        if setting.noise is None:  # a mean of steps that drift away from the gradient, in place of noise
            total = (before - after) * members / (LR * LOCAL_STEPS)
            part, noise = 1 / 2, DRIFT * float(np.linalg.norm(total)) / math.sqrt(len(total))
        else:
            total, part = (before - after) * RATE * members / DP_LR, RATE / 2
            noise = setting.noise * CLIP * math.sqrt(SILOS / (SILOS - 1))
        found.append(candidate_weights(rows, total, part, noise))
    return np.stack(found)


def shadow(setting: Setting, seed: int, rng: np.random.Generator, members: Bools) -> Floats:
    """Losses (m,) of a pool after training as the run does, from its first model, in one process."""
    pool, images = pool_of(seed), digits()
    module = drawn(Dealt("mlp", ()), seed, UserCode(0), 0)
    parts = [
        (torch.from_numpy(images[0][one].astype(np.float32)), torch.from_numpy(images[1][one]))
        for one in dealt(members, pool, rng)
    ]
    trained = _averaged(module, parts) if setting.noise is None else _noisy(module, parts, setting.noise, rng)
    return losses_on(trained, pool)


def _averaged(module: nn.Module, parts: list[tuple[Tensor, Tensor]]) -> nn.Module:
    """FedAvg of full-batch steps; silos count by their samples."""
    total = sum(len(y) for _, y in parts)
    values = [one.detach().clone() for one in module.parameters()]
    for _ in range(ROUNDS):
        mean = [torch.zeros_like(one) for one in values]
        for x, y in parts:
            _load(module, values)
            for _ in range(LOCAL_STEPS):
                loss = functional.cross_entropy(module(x), y)
                slopes = torch.autograd.grad(loss, list(module.parameters()))
                with torch.no_grad():
                    for one, slope in zip(module.parameters(), slopes, strict=True):
                        one.sub_(slope, alpha=LR)
            for one, trained in zip(mean, module.parameters(), strict=True):
                one.add_(trained.detach(), alpha=len(y) / total)
        values = mean
    _load(module, values)
    return module


def _noisy(
    module: nn.Module, parts: list[tuple[Tensor, Tensor]], noise: float, rng: np.random.Generator
) -> nn.Module:
    """DP-SGD of one step a round, over all silos' records."""
    x, y = (torch.cat(one) for one in zip(*parts, strict=True))
    names, values = zip(*module.named_parameters(), strict=True)
    draw = torch.Generator().manual_seed(int(rng.integers(1 << 30)))
    added = noise * CLIP * math.sqrt(SILOS / (SILOS - 1))  # shares are made for all silos but one

    def loss(given: tuple[Tensor, ...], image: Tensor, label: Tensor) -> Tensor:
        outputs = torch.func.functional_call(module, dict(zip(names, given, strict=True)), (image[None],))
        return functional.cross_entropy(outputs, label[None])

    slopes_of = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))
    for _ in range(STEPS):
        chosen = torch.rand(len(y), generator=draw) < RATE
        given = tuple(one.detach() for one in values)
        every = slopes_of(given, x[chosen], y[chosen])
        lengths = torch.stack([one.flatten(1).square().sum(1) for one in every]).sum(0).sqrt()
        factor = (CLIP / lengths.clamp_min(1e-12)).clamp_max(1.0)
        with torch.no_grad():
            for one, slopes in zip(values, every, strict=True):
                total = torch.einsum("k,k...->...", factor, slopes)
                total += added * torch.randn(total.shape, generator=draw)
                one.sub_(total, alpha=DP_LR / (RATE * len(y)))
    return module


def _load(module: nn.Module, values: list[Tensor]) -> None:
    with torch.no_grad():
        for one, value in zip(module.parameters(), values, strict=True):
            one.copy_(value)
