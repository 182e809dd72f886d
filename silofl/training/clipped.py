"""The sum of a batch's gradients of which none is longer than a bound: the sensitivity of DP-SGD."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from silofl.errors import ConfigError
from silofl.tasks.base import PerExampleTask, Task
from silofl.tasks.user_code import UserCode
from silofl.training.apart import check_apart, due
from silofl.training.batches import Batches, handed
from silofl.training.flat import FlatModel
from silofl.training.gradient_check import check_gradients
from silofl.training.per_example import Clipping, ExampleGradients, refuse_unsupported
from silofl.training.persons import Sample
from silofl.training.rounding import keep_digits, rounder_than_float32
from silofl.training.slots import checksum

PHYSICAL: dict[Clipping, int] = {"ghost": 1024, "hooks": 128, "functorch": 128}
"""Examples that are in memory at a time."""

ROUNDING = 256
"""Units in the last place by which a norm may be computed too small; clipping stays below the bound by as
many."""

WRITES = (
    "changes what it is made of in forward(), which would be shared without noise; change parameters by "
    "gradients alone"
)
"""What is wrong with a model that does."""


@dataclass(frozen=True)
class ClippedStats:
    """What a silo may know of its own batch. Nothing here has noise: it is for the silo's own eyes."""

    examples: int
    """How many the batch has; of persons, how many persons."""
    loss: float
    """Mean over those that were added, 0 where there are none."""
    clipped: float
    """Fraction of those that were added whose gradients were longer than the bound."""
    refused: int
    """Examples that were left out: the norm of the gradient is not finite."""


@final
class ClippedGradients:
    """Sums of gradients of single examples, each scaled to an L2 norm of at most `clip_norm`.

    Abadi et al. 2016, "Deep Learning with Differential Privacy", algorithm 1, up to the noise. Leaving out,
    adding or replacing the whole of one example moves a sum by at most `clip_norm` (twice that for
    replacing), up to the rounding of the sum itself.

    The first sum is held to autograd, one example at a time (`silofl.training.gradient_check`): a layer that
    Opacus follows wrongly would make every epsilon wrong. It and later ones, by chance, are tried with
    examples replaced (`silofl.training.apart`): where examples meet, no clipping bounds what one does.

    Args:
        task: has `losses` for "ghost" (see `PerExampleTask`); else `loss` is taken for a mean over examples.
        model: in float32 or float64, on any device. Its gradients (`.grad`) are not kept.
        train: the silo's samples.
        clip_norm: the bound, above 0.
        clipping: see `Clipping`.
        silo: whose samples these are, for errors.
        code: calls the task; without it no traceback is kept.
        precision: train.precision; only "full" is supported, since norms of low precision bound nothing.

    Raises:
        ConfigError: a model, a task, a type or a precision that cannot be clipped example by example, or
            Opacus is missing; says which layer, and what to do. `sum` raises it, too, where torch is set to
            products of less than float32.
    """

    def __init__(
        self,
        task: Task,
        model: FlatModel,
        train: Batches,
        *,
        clip_norm: float,
        clipping: Clipping,
        silo: int,
        precision: str = "full",
        code: UserCode | None = None,
    ) -> None:
        self._code = UserCode(silo) if code is None else code
        self._task, self._model, self._train = task, model, train
        self._clip_norm, self._clipping, self._silo = clip_norm, clipping, silo
        self._parameters = list(model.trained.values())
        self._refuse(precision)
        keep_digits(model.vector.device)
        self._examples = ExampleGradients(model.module, clipping, silo)
        self._slack = 1 + ROUNDING * torch.finfo(model.vector.dtype).eps
        self._proven = False

    def _refuse(self, precision: str) -> None:
        constant = not self._model.buffer_names
        refuse_unsupported(self._model.module, self._clipping, self._silo, constant=constant)
        if precision != "full":
            self._fail(f"train.precision = {precision!r} cannot bound a norm; set train.precision = 'full'")
        if self._model.vector.dtype not in (torch.float32, torch.float64):
            self._fail(f"a model of {self._model.vector.dtype} cannot bound a norm; use float32 or float64")
        if any(parameter.is_complex() for parameter in self._parameters):
            self._fail("a complex parameter cannot be clipped; keep its real and imaginary parts")
        if self._clipping == "ghost" and not isinstance(self._task, PerExampleTask):
            self._fail(
                f"privacy.clipping = 'ghost' needs the loss of every example, and {type(self._task).__name__}"
                " has no method losses(model, batch); add it or set privacy.clipping = 'hooks'"
            )

    def _refuse_rounding(self) -> None:
        """Norms of numbers that the sum does not have bound nothing; a task may set this at any time."""
        setting = rounder_than_float32(self._model.vector.device)
        if setting is not None and self._model.vector.dtype == torch.float32:
            self._fail(
                f"{setting} cannot bound a norm: leave it as torch has it, or set it to full precision"
            )

    def _fail(self, why: str) -> None:
        raise ConfigError(f"silo {self._silo}: [privacy] clips single examples: {why}", rank=self._silo)

    def sum(
        self, sample: Sample | NDArray[np.int64], out: Tensor | None = None
    ) -> tuple[Tensor, ClippedStats]:
        """The clipped sum (trainable,) over examples, or persons, at the model's current values.

        What has a gradient whose norm is NaN or infinite adds nothing.

        Args:
            sample: examples, int64 (any,), none included, of which one that is named twice counts twice; or
                persons, each of whom adds the mean of the gradients of the records that it brings, clipped
                (Charles et al. 2024, "Fine-Tuning Large Language Models with User-Level Differential
                Privacy", section 3: user-level sampling).
            out: where to write it: contiguous, (model.trainable,) of the model's type, on its device.
        """
        sample = sample if isinstance(sample, Sample) else Sample(sample)
        self._refuse_rounding()
        if out is None:
            out = torch.empty_like(self._model.vector)
        out.zero_()
        index, first = torch.from_numpy(sample.single), torch.from_numpy(sample.first)
        if not self._model.module.training:
            self._model.module.train()
        if len(first) and (not self._proven or due()):
            self._proven = self._prove(first) or self._proven
        pieces, before = self._pieces(out), checksum(self._model.vector)
        tallies = [
            self._add(part, pieces) for part in torch.split(index, PHYSICAL[self._clipping]) if len(part)
        ]
        tallies += [self._add_mean(torch.from_numpy(group), pieces) for group in sample.groups]
        if checksum(self._model.vector) != before:  # also by p.data, of which no version tells
            self._fail(f"the model {WRITES}")
        return out, _stats(sample.persons, tallies)

    def _prove(self, index: Tensor) -> bool:
        """Whether there was a gradient to hold to autograd's, and two examples to keep apart.

        ConfigError where something is wrong.
        """
        before = self._model.vector.clone()
        few = index[: PHYSICAL[self._clipping]]
        given = self._examples, self._loss, self._train, few, self._model, self._silo
        try:
            with self._code.calling("loss", self._task.loss):
                proven = check_gradients(*given)
                return check_apart(*given, later=self._proven) and proven
        finally:
            # What a model does to itself also makes all else look wrong.
            if not torch.equal(before, self._model.vector):
                self._fail(f"the model {WRITES}")
            self._model.check(own=True)

    def _pieces(self, out: Tensor) -> list[Tensor]:
        """`out` cut into tensors like the parameters, in their order."""
        parts = torch.split(out, [p.numel() for p in self._parameters])
        return [part.view(p.shape) for part, p in zip(parts, self._parameters, strict=True)]

    def _loss(self, batch: Any, count: int) -> Tensor:
        """Losses (count,), or their mean () where gradients are kept."""
        if self._clipping != "ghost" or not isinstance(self._task, PerExampleTask):
            return self._task.loss(self._model.module, handed(batch))
        losses = self._task.losses(self._model.module, handed(batch))
        if losses.shape != (count,):
            self._fail(
                f"losses(model, batch) gave {tuple(losses.shape)} for {count} examples, not ({count},)"
            )
        return losses

    def _add(self, index: Tensor, out: list[Tensor]) -> _Tally:
        """Add one physical batch; examples that are not finite go, and the others are begun again."""
        with self._examples.watching(len(index)):
            versions = self._versions()
            batch = self._train.take(index)
            with self._code.calling("loss", self._task.loss):
                loss = self._loss(batch, len(index))
                norms = self._examples.norms(loss).norm(dim=0)
            self._refuse_rewritten(versions)
            finite = norms.isfinite()
            if bool(finite.all()):
                scale = (self._clip_norm / (norms * self._slack)).clamp(max=1.0)
                self._add_scaled(loss, scale, out)
                return _Tally(len(index), float(loss.detach().mean()), int((scale < 1).sum()))
        rest = index[finite.cpu()]
        return self._add(rest, out) if len(rest) else _Tally(0, 0.0, 0)

    def _add_mean(self, index: Tensor, out: list[Tensor]) -> _Tally:
        """Add the mean of one person's gradients: autograd's own, of no other example, piece by piece.

        One gradient is in memory, and the activations of a physical batch, however many records there are.
        """
        total, mean = [torch.zeros_like(piece) for piece in out], 0.0
        for part in torch.split(index, PHYSICAL[self._clipping]):
            versions = self._versions()
            batch = self._train.take(part)
            with self._code.calling("loss", self._task.loss):
                loss = self._loss(batch, len(part)).mean() * (len(part) / len(index))
                self._accumulate(loss, None, total)
            self._refuse_rewritten(versions)
            mean += float(loss.detach())
        norms = [torch.linalg.vector_norm(one, dtype=torch.float64) for one in total]
        norm = float(torch.stack(norms).norm())
        if not math.isfinite(norm):
            return _Tally(0, 0.0, 0)
        scale = min(1.0, self._clip_norm / (norm * self._slack)) if norm else 1.0
        for piece, one in zip(out, total, strict=True):
            piece.add_(one, alpha=scale)
        return _Tally(1, mean, int(scale < 1))

    def _accumulate(self, loss: Tensor, scale: Tensor | None, out: list[Tensor]) -> None:
        """Add gradients of the loss, or of losses times `scale`, to tensors like the parameters."""
        for parameter, piece in zip(self._parameters, out, strict=True):
            parameter.grad = piece  # backward adds to it in place
        try:
            torch.autograd.backward(loss, scale, inputs=self._parameters)
        finally:
            for parameter in self._parameters:
                parameter.grad = None

    def _versions(self) -> list[int]:
        """How often each of the model's parameters was written to."""
        return [parameter._version for parameter in self._model.module.parameters()]

    def _refuse_rewritten(self, before: list[int]) -> None:
        """What a forward pass does to parameters is neither clipped nor noisy."""
        names = [name for name, _ in self._model.module.named_parameters()]
        for name, earlier, later in zip(names, before, self._versions(), strict=True):
            if earlier != later:
                self._fail(f"the model, by its parameter {name}, {WRITES}")

    def _add_scaled(self, loss: Tensor, scale: Tensor, out: list[Tensor]) -> None:
        if self._clipping != "ghost":
            self._examples.add_scaled(scale, out)
            return
        with self._code.calling("losses"):
            self._accumulate(loss, scale.to(loss.dtype), out)

    def close(self) -> None:
        """Take the hooks off the model."""
        self._examples.close()


@dataclass(frozen=True)
class _Tally:
    """Of one physical batch."""

    added: int
    loss: float
    clipped: int


def _stats(examples: int, tallies: list[_Tally]) -> ClippedStats:
    added = sum(tally.added for tally in tallies)
    loss = sum(tally.added * tally.loss for tally in tallies) / max(added, 1)
    clipped = sum(tally.clipped for tally in tallies) / max(added, 1)
    return ClippedStats(examples, loss, clipped, examples - added)
