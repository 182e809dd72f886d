"""Metrics that are right over all silos: named sums, added up as securely as any, and finished afterwards.

A task's `metrics` may return them beside plain means. What a mean over batches gets wrong, such as AUC, F1 or
R2, is right as a state whose sum over samples is all that the metric needs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from silofl.errors import DataError

Finished = Any
"""A number, a tensor or nested list of numbers, or a mapping of names to those."""
LARGEST_CELLS = 1 << 16
"""Numbers of a state, at most."""


@final
@dataclass(frozen=True)
class Ratio:
    """A quotient of two sums over samples: both are added up first, and divided once.

    Attributes:
        numerator: of this batch.
        denominator: of this batch, such as the number of labelled pixels; 0 where there is none.
    """

    numerator: Tensor | float
    denominator: Tensor | float


@final
@dataclass(frozen=True, eq=False)
class SumState:
    """A state that is a sum over samples, as torchmetrics' states of `dist_reduce_fx="sum"` are.

    Attributes:
        state: of this batch, of any shape that is the same in every batch and silo.
        finish: makes the metric of the total, float64 of that shape on the CPU. A mapping of several results
            is reported as `name/key`, and the one of the key "" as `name`.
    """

    state: Tensor
    finish: Callable[[Tensor], Finished]


def accuracy(logits: Tensor, labels: Tensor) -> Ratio:
    """Part of the samples whose largest logit (batch, classes, ...) is that of the label (batch, ...)."""
    return Ratio((logits.argmax(dim=1) == labels).sum(), labels.numel())


def mean_absolute_error(predictions: Tensor, targets: Tensor) -> Ratio:
    """Mean |prediction - target| over all values, of equal shapes."""
    return Ratio(_difference(predictions, targets).abs().sum(), targets.numel())


def mean_squared_error(predictions: Tensor, targets: Tensor) -> Ratio:
    """Mean squared difference over all values, of equal shapes."""
    return Ratio(_difference(predictions, targets).square().sum(), targets.numel())


def root_mean_squared_error(predictions: Tensor, targets: Tensor) -> SumState:
    """Root of the mean squared difference over all values, of equal shapes."""
    squares = _difference(predictions, targets).square().sum()
    state = torch.stack([squares, squares.new_tensor(targets.numel())])
    return SumState(state, lambda total: (total[0] / total[1]).sqrt())


def r2(predictions: Tensor, targets: Tensor) -> SumState:
    """Coefficient of determination over all values, 1 - residual / total sum of squares, of equal shapes."""
    residual, y = _difference(predictions, targets), targets.double()
    state = torch.stack([residual.square().sum(), y.square().sum(), y.sum(), y.new_tensor(y.numel())])
    return SumState(state, _finish_r2)


def confusion_matrix(predicted: Tensor, labels: Tensor, classes: int) -> SumState:
    """Counts (classes, classes): row by label, column by prediction, both int64 (batch, ...)."""
    return SumState(_confusion(predicted, labels, classes), lambda total: total.long())


def f1(predicted: Tensor, labels: Tensor, classes: int) -> SumState:
    """F1 from predicted and true classes, int64 (batch, ...): of class 1 where there are two, else the mean
    over classes that occur ("macro")."""
    return SumState(_confusion(predicted, labels, classes), _finish_f1)


def auc(scores: Tensor, labels: Tensor, bins: int = 1024) -> SumState:
    """Area under the ROC curve over all samples, from histograms of the scores of both classes.

    Pairs within a bin count a half: exact where no bin has both classes, else off by at most half of the
    part of all pairs of a positive and a negative sample that share a bin. NaN where a class is in no silo.

    Args:
        scores: (batch,) of class 1, from 0 to 1, such as a softmax or sigmoid.
        labels: (batch,), 1 or True for the positive class.
        bins: of equal width.
    """
    flat, positive = scores.detach().double().flatten(), labels.flatten() > 0
    if flat.numel() and not bool(((flat >= 0) & (flat <= 1)).all()):
        raise DataError("silofl.tasks.metrics.auc takes scores from 0 to 1: apply softmax or sigmoid first")
    place = (flat * bins).long().clamp_(max=bins - 1)
    counts = torch.bincount(place + bins * positive, minlength=2 * bins)
    return SumState(counts.view(2, bins), _finish_auc)


def multilabel_auc(scores: Tensor, labels: Tensor, names: Sequence[str], bins: int = 1024) -> SumState:
    """`auc` of each label, as `name/label`, and under the metric's own name their mean ("macro").

    Labels that all samples have, or none, are NaN, and not in the mean. Of more than 16 labels there are
    fewer bins, so that all are at most 2^15 numbers.

    Args:
        scores: (batch, labels) from 0 to 1.
        labels: (batch, labels), 1 or True where a label is there.
        names: of the labels.
        bins: of equal width, at most.
    """
    many = len(names)
    bins = min(bins, LARGEST_CELLS // (4 * many))
    states = [auc(scores[:, k], labels[:, k], bins).state for k in range(many)]

    def finish(total: Tensor) -> Finished:
        each = [_finish_auc(counts) for counts in total]
        return {"": torch.stack(each).nanmean(), **dict(zip(names, each, strict=True))}

    return SumState(torch.stack(states), finish)


def multilabel_f1(predicted: Tensor, labels: Tensor) -> SumState:
    """Mean over labels of F1, both (batch, labels) of truth values; 0 for a label that is never right."""
    said, true = predicted.detach() > 0, labels > 0
    state = torch.stack([(said & true).sum(dim=0), said.sum(dim=0) + true.sum(dim=0)]).double()
    return SumState(state, lambda total: (2 * total[0] / total[1].clamp(min=1)).mean())


def concordance(risks: Tensor, places: Tensor, events: Tensor, intervals: int) -> SumState:
    """Harrell's C over all pairs of samples of all silos, by intervals of time and bins of risk.

    Comparable is a sample with an event in an interval, and any whose time lies in a later one; concordant if
    the first has the higher risk, half if both are in one bin of risk (at most 1024 of equal width). Pairs
    of one interval are not compared. Harrell, Lee and Mark 1996, section 5.5.

    Args:
        risks: (batch,) from 0 to 1.
        places: (batch,) the interval of each time from 0, `intervals` for times after the last.
        events: (batch,) 1 where the time is an event's.
        intervals: how many.
    """
    flat = risks.detach().double()
    bins = min(1024, LARGEST_CELLS // (2 * (intervals + 1)))
    found = (flat * bins).long().clamp_(0, bins - 1)
    cells = ((events > 0) * (intervals + 1) + places) * bins + found
    counts = torch.bincount(cells, minlength=2 * (intervals + 1) * bins)
    return SumState(counts.view(2, intervals + 1, bins), _finish_concordance)


def of_torchmetrics(metric: Any, *batch: Any) -> SumState:
    """A batch of a torchmetrics metric whose states are sums: `of_torchmetrics(self.f1, logits, labels)`.

    The metric is reset, updated with `batch`, and computed from the total. DataError where one of its states
    is no tensor that is added up, such as the lists of an exact AUROC: give it `thresholds`.
    """
    reductions: Mapping[str, Any] = metric._reductions
    wrong = [name for name, one in reductions.items() if getattr(one, "__name__", "") != "dim_zero_sum"]
    if wrong:
        raise DataError(
            f"the state {wrong[0]} of {type(metric).__name__} is not added up (dist_reduce_fx is not 'sum'), "
            "so that it cannot be summed over silos: choose a metric, or options, with sums alone"
        )
    metric.reset()
    device = next((part.device for part in batch if isinstance(part, Tensor)), None)
    if device is not None:
        metric.to(device)
    metric.update(*batch)
    states = {name: getattr(metric, name) for name in reductions}
    flat = [state.detach().double().flatten() for state in states.values()]

    def finish(total: Tensor) -> Finished:
        parts = torch.split(total, [len(one) for one in flat])
        for (name, state), part in zip(states.items(), parts, strict=True):
            setattr(metric, name, part.view(state.shape).to(state.dtype).to(state.device))
        found = metric.compute()
        metric.reset()
        return found

    return SumState(torch.cat(flat), finish)


def _difference(predictions: Tensor, targets: Tensor) -> Tensor:
    if predictions.shape != targets.shape:
        raise DataError(
            f"predictions {tuple(predictions.shape[1:])} and targets {tuple(targets.shape[1:])} of a sample "
            "are of different shapes, which torch would broadcast: reshape one"
        )
    return predictions.detach().double() - targets.double()


def _confusion(predicted: Tensor, labels: Tensor, classes: int) -> Tensor:
    both = torch.stack([labels.flatten(), predicted.flatten()]).long()
    if both.numel() and bool(((both < 0) | (both >= classes)).any()):
        raise DataError(f"classes are to be 0 to {classes - 1}: raise classes, or leave other labels out")
    return torch.bincount(both[0] * classes + both[1], minlength=classes**2).view(classes, classes)


def _finish_r2(total: Tensor) -> Tensor:
    residual, squares, values, count = total
    found: Tensor = 1 - residual / (squares - values.square() / count)
    return found


def _finish_f1(counts: Tensor) -> Tensor:
    right, occurring = counts.diagonal(), counts.sum(dim=0) + counts.sum(dim=1)
    scores = 2 * right / occurring
    found: Tensor = scores[1] if len(scores) == 2 else scores[occurring > 0].mean()
    return found


def _finish_concordance(counts: Tensor) -> Tensor:
    failed, every = counts[1], counts.sum(dim=0)
    later = every.sum(dim=0) - every.cumsum(0)
    below = later.cumsum(1) - later / 2
    found: Tensor = (failed * below).sum() / (failed.sum(dim=1) * later.sum(dim=1)).sum()
    return found


def _finish_auc(counts: Tensor) -> Tensor:
    negative, positive = counts
    below = negative.cumsum(0) - negative / 2
    found: Tensor = (positive * below).sum() / (positive.sum() * negative.sum())
    return found
