"""Gossip: every silo has a model of its own, which it averages with those of its neighbours in a graph."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal, final

import numpy as np

from silofl.constrained import Fraction, PositiveInt, UpToOne
from silofl.mixing.algorithms.base import Algorithm
from silofl.mixing.algorithms.registry import ALGORITHMS
from silofl.mixing.exposure import MOST, smallest_coalition
from silofl.mixing.graphs.base import Graph, parts
from silofl.mixing.graphs.registry import GRAPHS
from silofl.mixing.mixing_matrices import Weights
from silofl.mixing.spectrum import second_eigenvalue
from silofl.topologies.arrangements.base import Arrangement

if TYPE_CHECKING:
    GraphName = str
    AlgorithmName = str
else:
    GraphName, AlgorithmName = Literal[tuple(GRAPHS)], Literal[tuple(ALGORITHMS)]


@final
@dataclass(frozen=True)
class Gossip(Arrangement):
    """Each silo averages its own model with its neighbours', and each silo's is a result."""

    graph: GraphName = "ring"
    """Which silos are neighbours."""
    algorithm: AlgorithmName = "dpsgd"
    """What neighbours send each other, and what a silo makes of it."""
    degree: PositiveInt | None = None
    """`random_regular`: neighbours of each silo; 4 when unset."""
    probability: Fraction | None = None
    """`erdos_renyi`: with which two silos are neighbours; 0.5 when unset."""
    edges_file: str = ""
    """`edge_list`: a file of pairs of silos, CSV or JSON, the same on every rank."""
    consensus_rate: UpToOne | None = None
    """`choco`: which part of the difference to its neighbours' copies a silo takes, up to 1; 0.3 when
    unset."""

    own_models: ClassVar[bool] = True

    @cached_property
    def network(self) -> Graph:
        """The graph that is named, with the keys that are given."""
        graph: Graph = _built(GRAPHS[self.graph], self)
        return graph

    @cached_property
    def method(self) -> Algorithm:
        """The algorithm that is named, with the keys that are given."""
        algorithm: Algorithm = _built(ALGORITHMS[self.algorithm], self)
        return algorithm

    @property
    def corrects(self) -> bool:
        """See `Arrangement`."""
        return self.method.corrects

    @property
    def compresses(self) -> bool:
        """See `Arrangement`."""
        return self.method.compresses

    def weights(self, silos: tuple[int, ...], number: int, seed: int) -> Weights:
        """(n, n), how much each of `silos` takes of the messages of each in round `number`, from 1."""
        return self.method.weights(self.network.edges(silos, number - 1, seed))

    def period(self, silos: Sequence[int], seed: int) -> list[Weights]:
        """The weights of the rounds after which they are those of the first again."""
        rounds = range(1, 1 + self.network.period(len(silos)))
        return [self.weights(tuple(silos), number, seed) for number in rounds]

    def fingerprint(self, ranks: int, seed: int) -> str:
        """See `Arrangement`."""
        period = self.period(range(ranks), seed)
        return hashlib.sha256(b"".join(weights.tobytes() for weights in period)).hexdigest()

    def refuse(self, ranks: int) -> None:
        """See `Arrangement`."""
        for key in ("degree", "probability", "edges_file", "consensus_rate"):
            value = getattr(self, key)
            named, member = ("graph", self.network) if key != "consensus_rate" else ("algorithm", self.method)
            if value not in (None, "") and key not in {field.name for field in fields(member)}:  # type: ignore[arg-type]
                shown = f'"{value}"' if isinstance(value, str) else value
                of = f'topology.{named} = "{getattr(self, named)}"'
                raise ValueError(f"topology.{key} = {shown} does nothing with {of}: remove it")
        refusal = self.network.refusal(ranks)
        if refusal is not None:
            raise ValueError(refusal)
        if self.network.period(ranks) > 1 and not self.method.varies:
            raise ValueError(
                f'topology.algorithm = "{self.algorithm}" keeps copies of the same neighbours, and '
                f'topology.graph = "{self.graph}" has others in each round: set topology.graph to another, '
                'such as "exponential"'
            )
        self.weights(tuple(range(ranks)), 1, 0)  # raises what random graphs cannot

    def refuse_masks(self, ranks: int, seed: int) -> None:
        """See `Arrangement`."""
        found = self._coalition(ranks, seed)
        if len(found) == 1:
            raise ValueError(
                f'topology.graph = "{self.graph}" with {ranks} silos lets silo {found[0]} read the model of '
                "another, as of one neighbour in a round, which no mask would hide: choose a graph with two "
                'or more for each silo, or set secure.protocol = "plain", which shows models to neighbours'
            )

    def _coalition(self, ranks: int, seed: int) -> tuple[int, ...]:
        return smallest_coalition(self.period(range(ranks), seed))

    def describe(self, silos: Sequence[int], seed: int) -> str:
        """See `Arrangement`: the graph, and how fast what differs between silos shrinks."""
        period = self.period(silos, seed)
        second, found = second_eigenvalue(period), parts(np.logical_or.reduce([one != 0 for one in period]))
        degrees = sorted({int(count) - 1 for one in period for count in (one != 0).sum(axis=1)})
        said = (
            f"{self.algorithm} on {self.graph} of {len(silos)} silos, {_range(degrees)} neighbour(s) a "
            f"round; spectral gap {1 - second:.4g}: without training, what differs shrinks to "
            f"{second:.4g} in a round"
        )
        return said + f"; in {len(found)} parts that do not hear of each other" * (len(found) > 1)

    def spectral_gap(self, silos: Sequence[int], seed: int) -> float | None:
        """See `Arrangement`."""
        return 1 - second_eigenvalue(self.period(silos, seed))

    def bears(self, ranks: int, seed: int, *, private: bool) -> str:
        """See `Arrangement`."""
        if not private:
            return "nothing is hidden: a silo's neighbours see its whole model in every round"
        fewest = min(
            int(count) - 1 for one in self.period(range(ranks), seed) for count in (one != 0).sum(axis=1)
        )
        found = self._coalition(ranks, seed)
        together = f"{MOST} silos or fewer together learn no model from one round's sums"
        if found:
            together = f"silos {', '.join(map(str, found))} together learn another's, and no fewer silos do"
        return (
            f"a silo reads the sum of {fewest} neighbours' models or more in a round, and no single one of "
            f"them; {together}; sums of many rounds tell more (docs/topologies.md)"
        )

    def sees(self, source: int, target: int, ranks: int, *, private: bool) -> str:
        """See `Arrangement`; of the first rounds, whose graph may have no such edge."""
        if not any(one[target, source] for one in self.period(range(ranks), 0)):
            signed = "its signature of who is in sums" if private else "nothing"
            return f"{signed}: they are no neighbours"
        return "its model inside the sum of all neighbours', masked" if private else "its whole model"


def _built(kind: type[Any], given: Gossip) -> Any:
    """A member with those of its keys that are set."""
    named = {field.name: getattr(given, field.name) for field in fields(kind)}
    return kind(**{key: value for key, value in named.items() if value is not None})


def _range(degrees: list[int]) -> str:
    return f"{degrees[0]}" if len(degrees) == 1 else f"{degrees[0]} to {degrees[-1]}"
