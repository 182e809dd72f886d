"""Proof by trial that examples of a batch do not meet, whatever randomness the model has.

Some of a batch's rows are changed, all else and the random numbers being the same: then the loss of each row
that stays is what it was, bit for bit, and so is the norm of its gradient within rounding. In a model that
looks at a whole batch, such as one that subtracts its mean, they move. Comparing with one example alone, as
`gradient_check` does, cannot tell that from dropout; this can.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from silofl.errors import ConfigError
from silofl.training.batches import Batches, map_tensors
from silofl.training.flat import FlatModel
from silofl.training.per_example import ExampleGradients
from silofl.training.seeding import generators_kept, seed_everything

FIRST, ROWS = 256, 64
"""How many rows of the first batch are looked at, and of all others."""

TRIALS = 3
"""How often the first batch is looked at in the mode of training, each time with other random numbers."""

EVERY = 100
"""A later step is looked at, too, once in so many on average; nobody but this process can foresee which."""

MOVED = {torch.float32: 1e-3, torch.float64: 1e-6}
"""How far a row's gradient norms may move, over the norm of its whole gradient. So may its loss, over 1 and
itself, where the batch has another shape, for then sums are made in another order."""

FAR = 1e4
"""By what an example's numbers are multiplied to have one that is far from all others."""

Loss = Callable[[Any, int], Tensor]
"""Losses of a batch of so many examples: (batch,), or their mean ()."""


def due() -> bool:
    """Whether to look at a later step."""
    return secrets.randbelow(EVERY) == 0


def check_apart(
    examples: ExampleGradients,
    loss: Loss,
    train: Batches,
    index: Tensor,
    model: FlatModel,
    silo: int,
    *,
    later: bool = False,
) -> bool:
    """Refuse a model, or a loss, in which one example of a batch moves what another one contributes.

    In the mode of training and in that of evaluation. Global generators and the mode stay as they were.

    Args:
        index: int64 (any,), a batch that may be in memory at a time.
        later: a step of which one trial is enough, because the first was looked at.

    Returns:
        Whether there was anything to compare: two rows.

    Raises:
        ConfigError: they meet.
    """
    if len(index) < 2:
        return False
    trials: list[_Look] = (
        [(bool(secrets.randbelow(2)), ROWS, [_drawn(CHANGES)])] if later else _first(len(index))
    )
    for training, rows, changes in trials:
        few = index[torch.randperm(len(index), generator=_generator())[:rows]]
        with generators_kept(model.vector.device), _mode(model, training=training):
            if _meet(_Trial(examples, loss, train, few, MOVED[model.vector.dtype]), changes):
                raise ConfigError(_sentence(silo, training=training), rank=silo)
    return True


def _first(rows: int) -> list[_Look]:
    """What is tried of a run's first batch."""
    again: _Look = True, ROWS, [_one_other, _one_far]
    return [
        (True, min(rows, FIRST), CHANGES),
        *[again] * (TRIALS - 1),
        (False, ROWS, [*CHANGES, *[_fewer] * 3]),
    ]


def _sentence(silo: int, *, training: bool) -> str:
    when = "in training" if training else "in evaluation mode, as without dropout"
    return (
        f"silo {silo}: [privacy] clips single examples: one example of a batch moves the loss or the "
        f"gradient of another ({when}), so that clipping each bounds nothing: let the model and losses() "
        "treat every row by itself, without means, sums, maxima or weights over the batch"
    )


@contextmanager
def _mode(model: FlatModel, *, training: bool) -> Iterator[None]:
    """The model in another mode, and every part of it in its own afterwards.

    Opacus follows no layer in evaluation mode, so those that have parameters stay as they are in training.
    """
    before = {part: part.training for part in model.module.modules()}
    for part in before:
        part.training = training or bool(list(part.parameters(recurse=False)))
    try:
        yield
    finally:
        for part, was in before.items():
            part.training = was


# What is done to a batch


@dataclass(frozen=True)
class _Changed:
    """A batch that is compared with one of `_Trial.rows`."""

    samples: Tensor
    """int64 (rows,)."""
    stays: Tensor
    """int64: which rows of the first batch are in this one, too."""
    where: Tensor
    """int64: which rows of this one they are."""
    edit: Callable[[Tensor], Tensor] | None = None
    """What is done to one of the batch's tensors whose first dimension is the rows, of real numbers."""


def _one_other(rows: Tensor, others: Tensor) -> _Changed:
    """One row is another sample."""
    return _replaced(rows, others, secrets.randbelow(len(rows)))


def _half_others(rows: Tensor, others: Tensor) -> _Changed:
    """Half of the rows are other samples."""
    return _replaced(rows, others, *torch.randperm(len(rows), generator=_generator())[1::2].tolist())


def _one_far(rows: Tensor, others: Tensor) -> _Changed:
    """One row's numbers are far from all others'."""
    return _edited(rows, secrets.randbelow(len(rows)), lambda row: row * FAR + FAR)


def _one_infinite(rows: Tensor, others: Tensor) -> _Changed:
    """One row is not finite, as by an overflow."""
    return _edited(rows, secrets.randbelow(len(rows)), lambda row: torch.full_like(row, torch.inf))


def _fewer(rows: Tensor, others: Tensor) -> _Changed:
    """Three fourths of the rows are not there."""
    stays = torch.randperm(len(rows), generator=_generator())[: (len(rows) + 3) // 4].sort().values
    return _Changed(rows[stays], stays, torch.arange(len(stays)))


_Change = Callable[[Tensor, Tensor], _Changed]
CHANGES: list[_Change] = [_one_other, _half_others, _one_far, _one_infinite, _fewer]
"""Of (rows, others): int64 (rows,), samples, and as many that are not among them, if there are."""

_Look = tuple[bool, int, list[_Change]]
"""In the mode of training, how many rows, and what is changed."""


def _replaced(rows: Tensor, others: Tensor, *which: int) -> _Changed:
    samples, stays = rows.clone(), torch.ones(len(rows), dtype=torch.bool)
    samples[list(which)], stays[list(which)] = others[list(which)], False
    return _Changed(samples, stays.nonzero().flatten(), stays.nonzero().flatten())


def _edited(rows: Tensor, row: int, value: Callable[[Tensor], Tensor]) -> _Changed:
    def edit(tensor: Tensor) -> Tensor:
        changed = tensor.clone()
        changed[row] = value(changed[row])
        return changed

    others = torch.tensor([one for one in range(len(rows)) if one != row])
    return _Changed(rows, others, others, edit)


def _drawn(changes: list[_Change]) -> _Change:
    return changes[secrets.randbelow(len(changes))]


def _generator() -> torch.Generator:
    """One that nobody can foresee."""
    return torch.Generator().manual_seed(secrets.randbelow(1 << 62))


def _others(rows: Tensor, samples: int) -> Tensor:
    """One for each of `rows`: drawn from all others, or where there are too few the row before it."""
    taken = set(rows.tolist())
    tried = torch.randint(samples, (8 * len(rows),), generator=_generator()).tolist()
    fresh = list(dict.fromkeys(one for one in tried if one not in taken))
    before = rows.roll(1).tolist()
    return torch.tensor(fresh[: len(rows)] if len(fresh) >= len(rows) else before, dtype=rows.dtype)


# What it is compared by


@dataclass(frozen=True)
class _Trial:
    """Whose rows are looked at."""

    examples: ExampleGradients
    loss: Loss
    train: Batches
    rows: Tensor
    tolerance: float


@dataclass(frozen=True)
class _Contributions:
    """What each row of one batch brings."""

    shapes: list[tuple[int, ...]]
    losses: Tensor | None
    norms: Tensor

    def of(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Losses, none where there is but a mean, and norms (parameters, rows)."""
        rows = rows.to(self.norms.device)
        losses = self.norms.new_zeros(len(rows)) if self.losses is None else self.losses[rows]
        return losses.nan_to_num(0, 0, 0), self.norms[:, rows].nan_to_num(torch.inf)


def _meet(trial: _Trial, changes: list[_Change]) -> bool:
    """Whether a row that stays brings something else when others are changed.

    Where that gives the batch another shape, as padding and fewer rows do, random numbers are others: then
    nothing can be compared, unless there are none.
    """
    seed = secrets.randbelow(1 << 31)  # examples may meet with some random numbers and not with others
    before = _contributions(trial, trial.rows, seed)
    others, random = _others(trial.rows, len(trial.train)), None
    for change in changes:
        changed = change(trial.rows, others)
        try:
            after = _contributions(trial, changed.samples, seed, changed.edit)
        except Exception:
            if changed.edit is None:
                raise
            continue  # a task may refuse numbers that no sample has
        if before.shapes != after.shapes:
            if random is None:
                random = _random(trial, seed, before)
            if random:
                continue
        alike = before.shapes == after.shapes
        if _moved(before.of(changed.stays), after.of(changed.where), alike=alike, within=trial.tolerance):
            return True
    return False


def _random(trial: _Trial, seed: int, before: _Contributions) -> bool:
    """Whether anything depends on random numbers."""
    again, every = _contributions(trial, trial.rows, seed + 1), torch.arange(len(trial.rows))
    pairs = zip(before.of(every), again.of(every), strict=True)
    return before.shapes != again.shapes or not all(torch.equal(one, other) for one, other in pairs)


def _contributions(
    trial: _Trial, rows: Tensor, seed: int, edit: Callable[[Tensor], Tensor] | None = None
) -> _Contributions:
    batch = trial.train.take_each(rows, lambda sample: seed_everything(seed + sample))
    if edit is not None:
        batch = map_tensors(batch, lambda t: edit(t) if _has_rows(t, len(rows)) else t, lambda item: item)
    seed_everything(seed)
    with trial.examples.watching(len(rows)):
        value = trial.loss(batch, len(rows))
        norms = trial.examples.norms(value).detach()
    shapes = [tuple(t.shape) for t in _tensors(batch)]
    return _Contributions(shapes, value.detach() if value.dim() else None, norms)


def _has_rows(tensor: Tensor, rows: int) -> bool:
    return tensor.is_floating_point() and tensor.dim() > 0 and len(tensor) == rows


def _tensors(batch: Any) -> Iterator[Tensor]:
    if isinstance(batch, Tensor):
        yield batch
    elif isinstance(batch, Mapping):
        for part in batch.values():
            yield from _tensors(part)
    elif isinstance(batch, list | tuple):
        for part in batch:
            yield from _tensors(part)


def _moved(
    before: tuple[Tensor, Tensor], after: tuple[Tensor, Tensor], *, alike: bool, within: float
) -> bool:
    """Whether rows bring something else. Those that are not finite add nothing to any sum.

    `alike`: the batches have one shape, so that losses are equal to the last bit.
    """
    (loss, norms), (other_loss, other_norms) = before, after
    if alike and not torch.equal(loss, other_loss):
        return True
    if bool(((loss - other_loss).abs() > within * (1 + loss.abs())).any()):
        return True
    size = norms.norm(dim=0)
    usable = size.isfinite() & other_norms.isfinite().all(dim=0)
    change, size = (norms - other_norms).abs()[:, usable], size[usable].clamp(min=1e-12)
    if not alike and len(
        size
    ):  # what cancels within a row is rounded otherwise, as far as the largest ones are
        size, within = size.max(), 10 * within
    return bool((change > within * size).any())
