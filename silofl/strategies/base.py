"""What a strategy is: both halves of a round's learning, the silo's and the server's.

The silo's half, called by `federation/silo.py`, corrects local gradients and makes a `Contribution` of what
was trained. The server's half, called by `topologies/sharded_server.py`, steps the shared vectors with the
means. The server is nobody: rank k steps slice k of every shared vector and keeps the state of slice k, as
a sharded optimizer does. A strategy is one file of this folder: a final frozen dataclass whose fields are
the keys of [strategy].
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from silofl.types import Contribution, Total, Vector, Weighting

State = dict[str, Vector]
"""Arrays by name: (k,) on a server's slice, (d,) on a silo; checkpoints hold it as it is."""

Values = Any
"""A NumPy array or a torch tensor (d,): what both offer is enough, such as in-place arithmetic."""


@dataclass(frozen=True)
class LocalRound:
    """What the silo's half of a strategy sees of a round.

    Attributes:
        shared: the vectors named in `Strategy.shared`, (d,) each, as the round began with them.
        state: this silo's own state.
        lr: the learning rate of the local optimizer.
        samples: as how many training samples this silo counts.
        momentum: of the local optimizer, `train.momentum`.
        resync: whether a silo has just come back with a state that may be older than what the shared vectors
            hold of it. Shared vectors that stand for a mean over the silos' states are then made anew from
            absolute values, on all silos at once: a correction of one silo's part alone would show it.
        start_loss: mean loss of all training samples at the shared model, where `at_start` asks; else NaN.
        start_gradient: of that loss (d,), likewise; else None.
        chosen: which of `Strategy.models` this silo trains.
    """

    shared: Mapping[str, Values]
    state: Mapping[str, Values]
    lr: float
    samples: int
    resync: bool = False
    momentum: float = 0.0
    start_loss: float = math.nan
    start_gradient: Values = None
    chosen: str = "model"


AtStart = Literal["nothing", "loss", "gradient"]


@dataclass(frozen=True)
class Streaming:
    """Sums of one fragment of the parameters at a time, between local models that go on from round to round.

    Fragments are whole tensors in the model's order (`training/fragments.py`). Round r, from 1, sums fragment
    (r - 1) mod F of all silos' local models.

    Attributes:
        fragments: F, at least 1.
        delay: how many local steps before the end of its round's a fragment is taken for the sum.
        alpha: the local model's part where it takes up what was summed, from 0 to 1.
    """

    fragments: int
    delay: int
    alpha: float

    def fragment(self, round_number: int) -> int:
        """Which one a round sums."""
        return (round_number - 1) % self.fragments

    def summed(self, first: int, before: int) -> list[int]:
        """Which ones rounds `first` to `before` - 1 have summed, ascending."""
        rounds = range(max(first, before - self.fragments), before)
        return sorted({self.fragment(number) for number in rounds})

    def mix(self, local: Vector, shared: Vector) -> None:
        """local = alpha * local + (1 - alpha) * shared, (k,), in place."""
        if self.alpha == 0:
            local[...] = shared
            return
        kind = local.dtype.type
        local *= kind(self.alpha)
        local += shared * kind(1 - self.alpha)


class Strategy:
    """A federated learning algorithm. Parameters are what it works on; buffers are averaged beside it.

    The base is plain federated averaging of model changes. Coordinates are independent in every method but
    `part`, so that any slicing gives the same bits.
    """

    shared: ClassVar[tuple[str, ...]] = ("model",)
    """Vectors that every silo is given, each as long as the parameters; the first is the model."""

    models: ClassVar[tuple[str, ...]] = ("model",)
    """Those of them that are models. Of several each silo trains the one whose loss on its training samples
    is lowest, `LocalRound.chosen`, and ends with such a one; buffers of the model have to stay with silos."""

    sends: ClassVar[Mapping[str, Weighting]] = {"update": "samples"}
    """Vectors that are added up, each as long as the parameters, and by which weight: "update", and others.

    The model's buffers are averaged beside them, as "buffers".
    """

    masks: ClassVar[frozenset[str]] = frozenset()
    """Vectors of them that are ones and zeros, weighted "uniform": they are counted."""

    scalars: ClassVar[tuple[str, ...]] = ()
    """Numbers that are averaged beside them."""

    needs: ClassVar[Literal["sum", "rows"]] = "sum"
    """Whether the server's half can do with the mean, or needs every silo's slice of it as well."""

    local: ClassVar[Literal["train", "gradient", "masks"]] = "train"
    """Whether a silo trains by [train], or sends the gradient at the shared model, or trains by [train] with
    which of `probabilities` each weight of the shared vector "network" is there, and sends a drawn mask."""

    needs_rates: ClassVar[bool] = False
    """Whether what it makes of local training assumes steps of `train.lr` and `train.momentum`."""

    def refusal(self, train: Any) -> str | None:
        """Why this strategy cannot go with [train], naming key, value and remedy; None where it can."""
        return None

    def streaming(self) -> Streaming | None:
        """How fragments are summed one a round; None where every round sums the whole of a model made anew.

        Of a strategy without a state of its silos, that shares the model alone: `contribute` and `step` are
        given the round's fragment as if it were the whole.
        """
        return None

    def at_start(self) -> AtStart:
        """What a silo works out at the shared model before it trains: its mean loss, or also the gradient.

        Over all its training samples, which costs a pass over them; as in training, but that nothing of the
        model is changed. `LocalRound` has it.
        """
        return "nothing"

    def start(self, drawn: Vector, rng: np.random.Generator) -> Vector:
        """What one of `models` but the first begins with, (d,).

        Args:
            drawn: the task's model as it is built under a seed that no other has.
            rng: the same on all ranks, another for each model.
        """
        return drawn

    @property
    def averages(self) -> bool:
        """Whether the server's half takes the mean as it is, so that neighbours can do without a server."""
        return type(self).step is Strategy.step

    def begin(self, tensors: Sequence[Vector]) -> Mapping[str, Vector]:
        """What shared vectors begin with, (d,) each, where that is neither the untrained model nor zeros.

        Args:
            tensors: the parameters of the untrained model, each in its shape; not changed.
        """
        return {}

    def probabilities(self, local: LocalRound) -> Vector:
        """With `local` = "masks": where local training of probabilities begins, (d,) between 0 and 1."""
        return np.full_like(local.shared["model"], 0.5)

    def init(self, size: int, dtype: np.dtype[Any]) -> State:
        """The server's state of a slice of `size` parameters before the first round."""
        return {}

    def step(self, state: State, shared: Mapping[str, Vector], total: Total) -> State:
        """Step a slice of the shared vectors, (k,) each, in place; the server's next state.

        Other ranks recompute it and compare: the same bits on every processor, by operations that IEEE 754
        rounds correctly, such as + - * / and sqrt, and no sums over coordinates.
        """
        shared["model"][...] += total.mean["update"]
        return state

    def combine(self, state: State, total: Total) -> tuple[State, Total]:
        """What `step`, and the model's buffers, are given: the state, and the total with other means.

        For what replaces means, such as a robust rule; recomputed by others as a step is.
        """
        return state, total

    def part(self, state: State, total: Total) -> NDArray[np.float64]:
        """A slice's part of numbers that whole vectors decide, float64 (s,): norms, or distances of rows.

        Parts, all of one length, are added up over all slices, in their order, and `step` finds the sum in
        `total.over_slices`. The state is the server's of that slice.
        Other ranks recompute a part as they do a step: elementwise operations and np.add.reduce, no BLAS.
        """
        return np.empty(0)

    def local_init(self, size: int, dtype: np.dtype[Any]) -> State:
        """A silo's own state of `size` parameters before its first round."""
        return {}

    def correct(self, gradient: Values, values: Values, local: LocalRound) -> None:
        """Change a local step's gradient (d,) in place, at the parameters `values` (d,)."""

    def compared_layer(self) -> str | None:
        """The module of the task's model, by name, whose outputs `penalty` compares; None for no penalty."""
        return None

    def references(self, local: LocalRound) -> Sequence[Values]:
        """Parameters (d,) of the models that `penalty` compares with the one in training: NumPy arrays."""
        return ()

    def penalty(self, output: Values, others: Sequence[Values]) -> Values:
        """What is added to the loss of a local step, (): of torch tensors, none of them to be changed.

        Args:
            output: what that module puts out of the step's batch (m, r) in the model in training.
            others: the same in each of `references`, without gradients.
        """
        raise NotImplementedError

    def contribute(
        self, trained: Vector, steps: int, loss: float, local: LocalRound
    ) -> tuple[Contribution, State]:
        """What a silo sends after local training, and its next state.

        Args:
            trained: the parameters (d,) after training; with `local` = "gradient" the gradient. The returned
                vectors may be written over it.
            steps: local steps that were taken.
            loss: mean loss over them.
            local: the round as this silo sees it; `shared` and `state` are NumPy arrays here.
        """
        trained -= local.shared["model"]
        return Contribution({"update": trained}), dict(local.state)
