"""Metrics as sums: batches and silos added up and then finished are what all samples together give."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from sklearn import metrics as sk
from torch import Tensor

from silofl.errors import DataError
from silofl.tasks import metrics
from silofl.tasks.metrics import Ratio, SumState

N = 301


def drawn() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    labels = (torch.rand(N, generator=generator) < 0.3).long()
    scores = (0.35 * torch.rand(N, generator=generator) + 0.3 * labels).round(decimals=2)
    return scores, labels


def total(make: Any, *tensors: Tensor) -> Any:
    """The metric from batches of unequal sizes, one of them of one class."""
    ends = [0, 1, 8, 100, N]
    parts = [make(*(t[a:b] for t in tensors)) for a, b in pairwise(ends)]
    if isinstance(parts[0], Ratio):
        return float(sum(part.numerator for part in parts)) / float(sum(part.denominator for part in parts))
    return parts[0].finish(torch.stack([part.state.double() for part in parts]).sum(0))


def test_auc_is_that_of_all_samples_and_its_bins_bound_the_error() -> None:
    scores, labels = drawn()
    exact = sk.roc_auc_score(labels, scores)
    assert float(total(metrics.auc, scores, labels)) == pytest.approx(exact, abs=1e-12)  # no two in a bin
    coarse = float(total(lambda s, y: metrics.auc(s, y, bins=5), scores, labels))
    counts = np.histogram2d(labels, scores, bins=[2, np.linspace(0, 1, 6)])[0]
    bound = counts.prod(axis=0).sum() / counts.sum(axis=1).prod() / 2
    assert 0 < abs(coarse - exact) <= bound
    assert torch.isnan(total(metrics.auc, scores, torch.ones_like(labels)))
    with pytest.raises(DataError, match="apply softmax"):
        metrics.auc(torch.tensor([1.5]), torch.tensor([1]))


def test_f1_and_the_confusion_matrix_are_those_of_all_samples() -> None:
    scores, labels = drawn()
    guess = (scores > 0.35).long()
    matrix = total(lambda g, y: metrics.confusion_matrix(g, y, 2), guess, labels)
    assert matrix.tolist() == sk.confusion_matrix(labels, guess).tolist()
    assert float(total(lambda g, y: metrics.f1(g, y, 2), guess, labels)) == pytest.approx(
        sk.f1_score(labels, guess)
    )
    three = (labels + torch.arange(N) % 2).clamp(max=2)
    assert float(total(lambda g, y: metrics.f1(g, y, 4), guess, three)) == pytest.approx(
        sk.f1_score(three, guess, average="macro")
    )
    with pytest.raises(DataError, match="classes are to be 0 to 1"):
        metrics.confusion_matrix(guess, three, 2)


def test_errors_and_r2_are_those_of_all_samples() -> None:
    scores, labels = drawn()
    y = scores.double() * 3 + 50 + labels
    assert float(total(metrics.r2, y + scores, y)) == pytest.approx(sk.r2_score(y, y + scores), rel=1e-9)
    assert total(metrics.mean_absolute_error, scores, y) == pytest.approx(float((scores - y).abs().mean()))
    assert total(metrics.mean_squared_error, scores, y) == pytest.approx(float((scores - y).square().mean()))
    with pytest.raises(DataError, match="different shapes, which torch would broadcast"):
        metrics.r2(scores[:, None], y)
    logits = torch.stack([0.35 - scores, scores - 0.35], dim=1)
    assert total(metrics.accuracy, logits, labels) == float((logits.argmax(1) == labels).double().mean())


def dim_zero_sum(x: Tensor) -> Tensor:
    return x.sum(0)


class Recall:
    """As a metric of torchmetrics is: two states that are sums, update, compute, reset."""

    def __init__(self, reduction: Any = dim_zero_sum) -> None:
        self._reductions = {"right": reduction, "count": dim_zero_sum}
        self.reset()

    def reset(self) -> None:
        self.right, self.count = torch.tensor(0), torch.zeros(2, dtype=torch.long)

    def to(self, device: torch.device) -> None:
        self.device = device

    def update(self, guess: Tensor, labels: Tensor) -> None:
        assert self.device == guess.device  # as torchmetrics asks for
        self.right = self.right + (guess & labels).sum()
        self.count = self.count + torch.bincount(labels, minlength=2)

    def compute(self) -> Tensor:
        return self.right / self.count[1]


def test_a_metric_of_torchmetrics_is_computed_from_its_states_over_all_samples() -> None:
    scores, labels = drawn()
    guess, metric = (scores > 0.35).long(), Recall()
    found = total(lambda g, y: metrics.of_torchmetrics(metric, g, y), guess, labels)
    assert float(found) == pytest.approx(sk.recall_score(labels, guess))
    with pytest.raises(DataError, match="the state right of Recall is not added up"):
        metrics.of_torchmetrics(Recall(None), guess, labels)
    assert isinstance(metrics.of_torchmetrics(metric, guess, labels), SumState)
