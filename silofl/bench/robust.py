"""`silofl bench robust`: robust rules of 10 updates on one core, beside the same in NumPy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from silofl.bench.measure import Row, compare
from silofl.robust.base import ResilientRule, aggregate
from silofl.robust.registry import RULES

SILOS, ATTACKERS = 10, 2
Updates = NDArray[np.float32]


def run(*, parameters: int = 1_000_000, repeats: int = 9) -> list[Row]:
    """Measure rules with f = 2 of 10 updates of `parameters` float32 values."""
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    updates = np.random.default_rng(0).standard_normal((SILOS, parameters)).astype(np.float32)
    peers: dict[str, tuple[str, Callable[[Updates], Updates], str]] = {
        "median": ("numpy.median", lambda x: np.asarray(np.median(x, axis=0)), "<= 0.167"),
        "trimmed_mean": ("numpy.sort, mean", _trimmed, "<= 0.25"),
        "krum": ("Gram matrix (BLAS)", lambda x: x @ x.T, "<= 1.0"),
        "geometric_median": ("Weiszfeld as in ByzFL", _weiszfeld, "<= 0.2"),
    }
    rows: list[Row] = []
    with threadpool_limits(1):
        for name, (reference, peer, goal) in peers.items():
            rows += compare(
                {reference: lambda peer=peer: peer(updates), name: _call(name, updates)},  # type: ignore[misc]
                reference=reference,
                rounds=repeats,
                goals={name: goal},
            )
        others = {name: _call(name, updates) for name in RULES if name not in {*peers, "none"}}
        rows += compare({"krum": _call("krum", updates), **others}, reference="krum", rounds=repeats)[1:]
    return rows


def _call(name: str, updates: Updates) -> Callable[[], None]:
    """One rule's work, on whole vectors."""
    kind, f = RULES[name], ATTACKERS if name != "bulyan" else 1
    rule = kind(f=f)  # type: ignore[call-arg]
    assert isinstance(rule, ResilientRule)

    def call() -> None:
        aggregate(rule, list(updates))

    return call


def _trimmed(updates: Updates) -> Updates:
    ordered = np.sort(updates, axis=0)
    return np.asarray(ordered[ATTACKERS : SILOS - ATTACKERS].mean(axis=0), np.float32)


def _weiszfeld(updates: Updates, smoothing: float = 0.1, steps: int = 3) -> Updates:
    """Weiszfeld's algorithm over whole vectors as ByzFL 0.0.11 has it in NumPy, with its defaults."""
    found = np.zeros_like(updates[0])
    finite = updates[~np.isinf(updates).any(axis=1)]
    for _ in range(steps):
        inverse = 1 / len(updates) / np.maximum(np.linalg.norm(finite - found, axis=1), smoothing)
        found = np.sum(finite * inverse[:, None], axis=0) / np.sum(inverse)
    return np.asarray(found, np.float32)
