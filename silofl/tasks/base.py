"""What silofl needs to know of a learning problem: the `Task` interface that users implement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from silofl.tasks.column_kinds import Schema
from silofl.tasks.metrics import Ratio, SumState

Metric = Tensor | float | Ratio | SumState
"""A mean over the batch, or what is added up over batches and silos and finished afterwards."""


class SizedDataset(Protocol):
    """A map-style dataset, as torch.utils.data.Dataset with a length."""

    def __len__(self) -> int:
        """Number of samples."""

    def __getitem__(self, index: int) -> Any:
        """One sample: a tensor or a (nested) tuple, list or dict of them."""


class _TrainAndTest(NamedTuple):
    train: SizedDataset
    test: SizedDataset | None = None


class SiloData(_TrainAndTest):
    """One silo's samples, a pair (train, test). They never leave the silo's rank.

    Args:
        train: what it trains on.
        test: held out for evaluation; None where the silo only trains.
        owners: whose each training sample is, for `privacy.unit = "patient"`: numbers or texts (samples,), in
            any form that NumPy takes. They stay here, and no message has one. All samples of a person belong
            into `train`, or all into `test`.
    """

    owners: Any = None

    def __new__(cls, train: SizedDataset, test: SizedDataset | None = None, owners: Any = None) -> SiloData:
        """The pair, with owners beside it: code that unpacks two goes on to do so."""
        pair = super().__new__(cls, train, test)
        pair.owners = owners
        return pair


class Task(Protocol):
    """A user's problem; any class with these four methods.

    A `torch.utils.data.TensorDataset` is read fastest; any map-style dataset works. Batches are made in the
    silo's own process: worker processes would be forked from one that has initialised MPI.
    """

    def model(self) -> nn.Module:
        """A new model. Every silo must build the same one; it is called under a common seed.

        Averaged are parameters that require gradients, and real and complex buffers of the state dict.
        Frozen parameters and integer buffers must be equal in all silos and stay as they are, but for
        counters: an integer buffer of one value is each silo's own, and so are buffers with persistent=False.
        """

    def data(self, silo: int, silos: int) -> SiloData | tuple[SizedDataset, SizedDataset | None]:
        """The samples of silo `silo`, 0 <= silo < silos. Raises DataError where there are none."""

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """Mean loss over the batch, a scalar that can be differentiated."""

    def metrics(self, model: nn.Module, batch: Any) -> Mapping[str, Metric]:
        """Whatever is worth reporting of the batch by any name: means over it, such as {"accuracy": 0.9}.

        What is no mean over samples is a `silofl.tasks.metrics.Ratio` or `SumState`. The name of the loss of
        `loss()` is "loss"; a metric that is called so is reported as "metrics/loss".
        """


@runtime_checkable
class OnePassTask(Protocol):
    """A task may have this method, too: it saves evaluation the second pass through the model."""

    def evaluate(self, model: nn.Module, batch: Any) -> Mapping[str, Metric]:
        """What `metrics` gives and the loss under the name "loss"."""


@runtime_checkable
class CollatingTask(Protocol):
    """A task may have this method, too: samples of unequal shapes, or of other types than torch knows."""

    def collate(self, samples: list[Any]) -> Any:
        """A batch of samples, as torch's `collate_fn` makes one."""


@dataclass(frozen=True)
class Optimizers:
    """What a task's `optimizers(model)` may return: optimizers, and schedulers of their learning rates.

    Schedulers are torch's, one or several. Over "rounds" they have stepped r - 1 times in round r, whether or
    not the silo was in all of the rounds before; over "steps" they step after each of the silo's own.
    """

    optimizers: Optimizer | Sequence[Optimizer]
    schedulers: LRScheduler | Sequence[LRScheduler] | None = None
    over: Literal["rounds", "steps"] = "rounds"


@runtime_checkable
class OptimizingTask(Protocol):
    """A task may have this method, too: optimizers of its own, such as with groups of parameters."""

    def optimizers(self, model: nn.Module) -> Any:
        """A torch optimizer, several in a list, a pair (optimizers, schedulers), or `Optimizers`.

        Of parameters of `model` that require gradients; what no optimizer has is not trained. A pair's
        schedulers are over rounds. It is called before the first round, and again by a resume; moments are
        kept from round to round with `train.keep_optimizer = true`, and begin anew without.
        """


@runtime_checkable
class FittingTask(Protocol):
    """A task may have this method, too: a training loop of its own in the place of silofl's."""

    def fit(self, model: nn.Module, data: SizedDataset, round: int) -> Tensor | float | None:
        """Train `model`, which has the shared weights and is in training mode, in place.

        Args:
            model: on its device, as `model()` made it.
            data: the silo's training samples, as `data()` gave them.
            round: its number, from 1.

        Returns:
            The mean loss of its steps, or nothing. The silo counts by its number of training samples.
        """


@runtime_checkable
class ArrivingTask(Protocol):
    """A task may have this method, too: new training samples come to silos between rounds."""

    def arrived(self, silo: int, round: int) -> SizedDataset | None:
        """What came to silo `silo` since the round before, `round` >= 1; None, or an empty set, for nothing.

        The silo trains on it from this round on, beside all that it had, and counts by how many samples it
        has now. Samples are as those of `data`. A resume, and a silo that was away, ask for each round before
        again, in order, and have to be given the same.
        """


@runtime_checkable
class ListeningTask(Protocol):
    """A task may have this method, too: it hears of each round, on every silo."""

    def on_round(self, record: Mapping[str, Any]) -> None:
        """Called after a round, before it is committed, with its line of `metrics.jsonl`.

        Seconds and bytes in it are this silo's.
        A round that a resume repeats is told again; a silo that was away is not told of what it missed. What
        it raises ends the run.
        """


@runtime_checkable
class PerExampleTask(Protocol):
    """A task may have this method, too: with it gradients of single examples are clipped by norms alone."""

    def losses(self, model: nn.Module, batch: Any) -> Tensor:
        """The loss of every example, (batch,), of which `loss` is the mean. No example may see another."""


@runtime_checkable
class PersonalTask(Protocol):
    """A task may have this attribute, too: then part of its model stays with each silo.

    Parameters and buffers whose names match are trained in their silo and never leave it: they are not in the
    sum, not in `model.safetensors`, and may differ in shape from silo to silo. They lie in the silo's own
    checkpoint, and each silo evaluates with its own.
    """

    private: Sequence[str]
    """Patterns (fnmatch) of names, such as `("head.*",)`; each must match something."""


@runtime_checkable
class PredictingTask(Protocol):
    """A task may have these attributes, too: then its trained model gives classes and probabilities.

    Without `kind`, `predict` of the loaded model gives the outputs as they are.
    """

    kind: str
    """What outputs are: "classification", logits (batch, classes); "multilabel", a logit for each label; or
    "regression", numbers."""
    classes: Sequence[str]
    """Names of the classes or labels, in the order of the outputs; their numbers where it is empty."""


@runtime_checkable
class DescribedTask(Protocol):
    """A task of tables should have this method, too: then silos whose columns differ are refused by name."""

    def schema(self) -> Schema:
        """Name and kind of each column, such as `("age", "numbers")`, of the data that `data` gave last.

        All silos see it. Names and kinds are compared word by word; a unit can stand in either.
        """
