"""What means of secret buckets tell of single silos, by how often buckets are drawn and how large they are.

    python benchmarks/bucket_leak.py      # 15 silos of digits, softmax regression: seconds

Of each silo the mean of its updates over some rounds, less the mean of all silos', is estimated by least
squares from the means of the buckets, which anybody can do who sees them. Printed is the median over silos of
the correlation with the truth.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

from silofl.aggregation.bucketing import Bucketing

SILOS, ROUNDS, LR = 15, 50, 0.1
Array = Any


def split(labels: Array, alpha: float | None, rng: np.random.Generator) -> list[Array]:
    """Records of each silo: alike, or by a Dirichlet distribution of each class."""
    if alpha is None:
        return np.array_split(rng.permutation(len(labels)), SILOS)
    parts: list[list[int]] = [[] for _ in range(SILOS)]
    for label in np.unique(labels):
        records = rng.permutation(np.flatnonzero(labels == label))
        cuts = (np.cumsum(rng.dirichlet([alpha] * SILOS))[:-1] * len(records)).astype(int)
        for part, more in zip(parts, np.split(records, cuts), strict=True):
            part.extend(more)
    return [np.array(part) for part in parts]


def trained(weights: Array, x: Array, y: Array, rng: np.random.Generator) -> Array:
    """Two epochs of softmax regression in batches of 16."""
    for _ in range(2):
        for batch in np.array_split(rng.permutation(len(y)), max(1, len(y) // 16)):
            scores = np.exp(x[batch] @ weights)
            scores /= scores.sum(axis=1, keepdims=True)
            scores[np.arange(len(batch)), y[batch]] -= 1
            weights = weights - LR * x[batch].T @ scores / len(batch)
    return weights


def updates(alpha: float | None) -> Array:
    """(rounds, silos, d)."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    parts, weights, found = split(y, alpha, np.random.default_rng(0)), np.zeros((64, 10)), []
    for number in range(ROUNDS):
        rows = [
            trained(weights, x[part] / 16, y[part], np.random.default_rng([number, silo])) - weights
            for silo, part in enumerate(parts)
        ]
        found.append([row.ravel() for row in rows])
        weights = weights + np.mean(rows, axis=0)
    return np.array(found)


def correlation(given: Array, size: int, redraw: int | None, rounds: int) -> float:
    """Median over silos, of what is estimated and what is so."""
    bucketing, left, right = Bucketing(size, redraw=redraw), [], []
    for number in range(rounds):
        rows = given[number]
        for bucket in bucketing.dealt(bucketing.turn(number + 1).to_bytes(32), range(SILOS)):
            members = np.isin(np.arange(SILOS), bucket) / len(bucket)
            left.append(members - 1 / SILOS)
            right.append(members @ rows - rows.mean(axis=0))
    found = np.linalg.lstsq(np.array(left), np.array(right), rcond=None)[0]
    true = given[:rounds].mean(axis=0)
    true -= true.mean(axis=0)
    return float(np.median([np.corrcoef(a, b)[0, 1] for a, b in zip(found, true, strict=True)]))


def main() -> None:
    """Print the table."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter).parse_args()
    rounds = (2, 5, 10, 50)
    print(f"| silos, bucket, redraw | {' | '.join(f'{one} rounds' for one in rounds)} |")
    print("|---|" + "---|" * len(rounds))
    for name, alpha in (("alike", None), ("Dirichlet 0.5", 0.5)):
        given = updates(alpha)
        for size in (3, 5):
            for redraw in (None, 10, 1):
                found = [f"{correlation(given, size, redraw, one):.2f}" for one in rounds]
                print(f"| {name}, {size}, {redraw or 'kept'} | {' | '.join(found)} |")


if __name__ == "__main__":
    main()
