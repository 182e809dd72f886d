"""What an algorithm of decentralized learning is: a message from each node, and what it makes of a sum.

A node is given the weighted sum of its neighbours' messages and no single one, so that a masked sum serves
every algorithm.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from silofl.mixing.graphs.base import Edges
from silofl.mixing.mixing_matrices import Weights, doubly_stochastic

Values = NDArray[np.floating[Any]]
State = dict[str, Values]
"""A node's own, by name; checkpoints hold it as it is."""


@dataclass(frozen=True)
class Trained:
    """What a node has when its local steps of a round are over.

    Attributes:
        start: (d,) the values that it began with: parameters, then buffers.
        values: (d,) those that it has now.
        parameters: P, how many leading values are parameters.
        distance: by how much the learning rate and the number of steps multiply the mean gradient of the
            steps: K * lr; 0 where no step was taken.
    """

    start: Values
    values: Values
    parameters: int
    distance: float = 0.0


@dataclass(frozen=True)
class Received:
    """What came of one exchange of messages, with this node's weights.

    Attributes:
        own: what others receive of this node's message: (m,).
        total: (m,) the weighted sum of its neighbours' messages.
        weight: its own.
    """

    own: Values
    total: Values
    weight: float


@dataclass(frozen=True)
class Mixed:
    """A node's next values (d,) and state."""

    values: Values
    state: State = field(default_factory=dict)


class Algorithm(ABC):
    """A member is a @final @dataclass(frozen=True) whose fields [topology] may give."""

    corrects: ClassVar[bool] = False
    """Whether `state["correction"]` (P,) is added to the gradients of local steps."""
    needs_rates: ClassVar[bool] = False
    """Whether `Trained.distance` is read, which plain SGD alone has."""
    compresses: ClassVar[bool] = False
    """Whether messages go through the codec of [compress]."""
    varies: ClassVar[bool] = True
    """Whether edges may differ from round to round."""
    balanced: ClassVar[bool] = True
    """Whether it needs weights whose rows add up to 1 as columns do."""
    paper: ClassVar[str] = ""
    """Where it is from."""

    def weights(self, edges: Edges) -> Weights:
        """The mixing matrix of a graph; ValueError where the graph has none of this kind."""
        return doubly_stochastic(edges)

    def init(self, values: Values, parameters: int) -> State:
        """A node's state before the first round, and after nodes were lost or came back."""
        return {}

    def length(self, size: int, parameters: int) -> int:
        """m, how many values a message has for values (d,), of which P are parameters."""
        return size

    def message(self, state: State, trained: Trained) -> Values:
        """What a node's neighbours receive, (m,)."""
        return trained.values

    @abstractmethod
    def mix(self, state: State, trained: Trained, received: Received) -> Mixed:
        """A node's next values and state."""

    def renewed(self, state: State, values: Values, parameters: int) -> State:
        """A node's state once nodes were lost or came back: weights are others, and so are sums of them."""
        return self.init(values, parameters)
