"""The parts of a run that a round works with, put together at its start and whenever silos come or go."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from silofl import config as configuration
from silofl import startup
from silofl.aggregation import protocols
from silofl.aggregation.base import Aggregator
from silofl.aggregation.protocols import AggregationSpec
from silofl.aggregation.shards import MAX_REPLICAS, Shards, slice_counts
from silofl.comm.collective_errors import raise_on_all_ranks
from silofl.comm.elastic_group import ElasticGroup
from silofl.config import Config
from silofl.federation.failure.policy import replicas
from silofl.federation.handshake import agree_on_model
from silofl.federation.metrics import FederationMeans
from silofl.federation.privacy.engine import PrivacyEngine
from silofl.federation.server import Server, gather_parts
from silofl.federation.silo import Silo, place
from silofl.strategies import registry as strategies
from silofl.strategies.base import State, Strategy
from silofl.tasks import registry as tasks
from silofl.tasks.base import Task
from silofl.training.trainer import FitResult
from silofl.types import Update

Vector = NDArray[np.floating[Any]]


@dataclass
class Federation:
    """One rank's view of the run: its silo, its slice of the server, and the global model."""

    group: ElasticGroup
    config: Config
    silos: int
    """How many the run has in all."""
    silo: Silo
    strategy: Strategy
    aggregator: Aggregator
    server: Server
    means: FederationMeans
    privacy: PrivacyEngine | None
    """What makes the run differentially private; None where nothing does."""
    global_vector: Vector
    """(d,) the committed or pending global model, the same bytes on every rank after `server_step`."""

    @property
    def bytes_sent_per_round(self) -> int:
        """Bytes that this rank hands to others in a round: its update, then its slice of the new model."""
        shards = self.aggregator.shards
        place = shards.members.index(self.group.silo_id)
        return self.aggregator.bytes_sent_per_round + gathered_bytes(
            shards.bounds, place, self.global_vector.itemsize
        )

    @property
    def members(self) -> tuple[int, ...]:
        """The silos that all parts are made for."""
        return self.server.shards.members

    def server_step(self, spare: Update) -> None:
        """Step every slice with its mean and give every rank the whole new model; collective.

        A slice whose server is lost is stepped by who keeps copies of what belongs to it. `spare` (d,) is
        written over: where ranks may be lost the new model is gathered there, so that the old one is whole
        until every rank has the new one.
        """
        group, shards = self.group, self.aggregator.shards
        target = spare if group.fault_tolerant else self.global_vector
        stepped: dict[int, tuple[Vector, State]] = {}

        def step() -> dict[int, State]:
            comm = group.comm
            comm.mark("step")
            served = shards.slices_of(group.silo_id, group.members)
            with raise_on_all_ranks(comm):
                for index in set(served) - set(stepped):
                    start, stop = shards.span(index)
                    stepped[index] = self.server.step(
                        index, self.global_vector[start:stop], self.aggregator.mean(index)
                    )
            comm.mark("allgather")
            parts = [stepped[index][0] for index in served]
            mine = parts[0] if len(parts) == 1 else np.concatenate(parts)
            comm.allgather(mine, target, slice_counts(shards.owned_ranges(group.members)))
            states = {index: stepped[index][1] for index in served}
            return states | (self.server.replicate(comm, states) if group.fault_tolerant else {})

        self.server.accept(group.step(step))
        if group.fault_tolerant:
            self.global_vector[:] = target

    def distribute(self) -> None:
        """Give every rank the first rank's global model; collective."""
        size = len(self.global_vector)

        def spread() -> None:
            comm = self.group.comm
            mine = self.global_vector if comm.rank == 0 else self.global_vector[:0]
            comm.allgather(mine, self.global_vector, [size] + [0] * (comm.size - 1))

        self.group.step(spread)

    def state(self) -> dict[str, Any]:
        """What this rank commits: its slice of the server and its silo's own state."""
        state = {"server": self.server.state(self.global_vector), "silo": self.silo.state()}
        return state | ({"privacy": self.privacy.state()} if self.privacy is not None else {})

    def begin(self, committed: int) -> list[str]:
        """Take up what a killed run may have shown behind round `committed`; notices. Collective."""
        notices = [] if self.privacy is None else self.privacy.begin(committed)
        if self.config.secure.protocol == "auto" and self.aggregator.in_the_clear:
            notices.append(
                f"updates are added up in the clear: among {self.silos} silos a sum hides nothing, "
                "for it less one's own update is the other's; three or more are protected"
            )
        return notices

    def fit(self, number: int) -> tuple[Update, FitResult]:
        """Train from the global model; what to send."""
        if self.privacy is not None:
            return self.privacy.fit(self.global_vector, number, self.strategy.local)
        return self.silo.fit(self.global_vector, number, self.strategy.local)

    def account(self, number: int) -> None:
        """Count what the round's sum has told."""
        if self.privacy is not None:
            self.privacy.account(self.aggregator, number)

    @property
    def clip_norm(self) -> float | None:
        """What updates are clipped to, where that changes from round to round."""
        return None if self.privacy is None else self.privacy.clip_norm

    def complete(self, number: int) -> None:
        """What privacy has to do after the round's step; collective."""
        if self.privacy is not None:
            self.privacy.complete(self.aggregator, number)

    def epsilon(self) -> float | None:
        """What was spent so far; None without privacy."""
        return None if self.privacy is None else self.privacy.budget.epsilon()

    def epsilon_per_silo(self) -> list[float] | None:
        """The same of each silo's data, in the order of their numbers."""
        if self.privacy is None:
            return None
        spent = self.privacy.budget.epsilon_per_silo()
        return [spent.get(number, 0.0) for number in range(self.silos)]

    def rejoin_state(self) -> dict[str, Any]:
        """What a silo that comes back needs to go on being private; JSON."""
        return {} if self.privacy is None else self.privacy.rejoin_state()

    def affordable(self) -> int:
        """How many more rounds stay within the privacy that the run may spend, up to 2."""
        return 2 if self.privacy is None else self.privacy.affordable()

    def restore(self, state: dict[str, Any] | None, members: tuple[int, ...], *, member: bool) -> None:
        """Take up a committed state, of this rank where it has one, of the round that `members` committed.

        Collective. `member`: whether this silo's state is of that round; else only its own part counts.
        """
        group, size = self.group, len(self.global_vector)
        committed = self.server.resharded(Shards(size, members))
        if state is not None:
            self.silo.restore(state["silo"])
        if self.privacy is not None:
            own = None if state is None else state["privacy"]
            self.aggregator = self.privacy.restore(own, member=member)
        mine: list[Vector] = []
        if state is not None and member:
            committed.load_own(state["server"]["strategy"])
            mine = [state["server"]["slice"]]
        lengths = dict(zip(members, slice_counts(committed.shards.bounds), strict=True))

        def gather() -> Vector:
            counts = [lengths.get(number, 0) for number in group.members]
            return gather_parts(group.comm, mine, counts, self.global_vector.dtype)

        self.global_vector[:] = group.step(gather)
        self.server.load_full(group.step(lambda: committed.gather_full(group.comm, members)))

    def rebuild(self, newcomers: tuple[int, ...] = ()) -> None:
        """Make all parts anew for the silos that are there now; collective.

        Each of the `newcomers` has just come back: it calls `join` meanwhile.
        """
        self.aggregator.close()
        self.aggregator, self.server = _rebuild(
            self.group,
            RunContext(self.config, self.silo, self.silos, self.privacy),
            self.server,
            self.global_vector,
            newcomers,
        )

    def close(self) -> None:
        """Release what is held; collective."""
        self.aggregator.close()


def gathered_bytes(bounds: list[int], rank: int, itemsize: int) -> int:
    """Bytes that a rank sends when every rank gets its slice."""
    return (bounds[rank + 1] - bounds[rank]) * itemsize * (len(bounds) - 2)


@dataclass(frozen=True)
class RunContext:
    """What an aggregator is made for, whoever is there."""

    config: Config
    silo: Silo
    silos: int
    privacy: PrivacyEngine | None

    @classmethod
    def of(cls, group: ElasticGroup, config: Config, silo: Silo, silos: int, path: Path) -> RunContext:
        """This rank's; not collective. `path` is the run directory."""
        private = config.privacy.unit != "none"
        return cls(config, silo, silos, PrivacyEngine(group, config, silo, path) if private else None)

    def come_back(self, own: dict[str, Any] | None, rejoin_state: dict[str, Any]) -> None:
        """Take up what this silo had committed of its own, and what the others tell of their privacy."""
        if own is not None:
            self.silo.restore(own["silo"])
        if self.privacy is not None:
            self.privacy.come_back(rejoin_state)

    def aggregator(self, group: ElasticGroup) -> Aggregator:
        """The aggregator for the silos that are there; collective."""
        kept = replicas(self.config, self.silos, MAX_REPLICAS) if group.fault_tolerant else 0
        size, dtype = self.silo.model.size, self.silo.model.wire_dtype
        digest = configuration.digest(self.config)
        sums = AggregationSpec(size, dtype, self.silo.samples, self.config.run.seed, digest, self.silos, kept)
        inner = protocols.build(group, self.config.secure, sums)
        return inner if self.privacy is None else self.privacy.wrap(inner, self.silos)

    def server(self, strategy: Strategy, shards: Shards, number: int) -> Server:
        """This rank's part of the server, with fresh state."""
        return Server(strategy, shards, number, self.silo.model.trainable, self.silo.model.wire_dtype)


def _rebuild(
    group: ElasticGroup, context: RunContext, earlier: Server, vector: Vector, newcomers: tuple[int, ...]
) -> tuple[Aggregator, Server]:
    """The aggregator and the server for the silos that are there now; collective.

    The newcomers get the global model, into `vector`, and their share of the server's state.
    """

    def holders() -> tuple[int, ...]:
        return tuple(member for member in group.members if member not in newcomers)

    def give() -> Vector:
        giver = holders()[0]
        counts = [len(vector) if member == giver else 0 for member in group.members]
        return gather_parts(group.comm, [vector] if group.silo_id == giver else [], counts, vector.dtype)

    while True:
        if newcomers:
            vector[:] = group.step(give)
        whole = group.step(lambda: earlier.gather_full(group.comm, holders()))
        aggregator = context.aggregator(group)
        server = earlier.resharded(aggregator.shards)
        server.load_full(whole)
        if aggregator.shards.members == group.agreed_members():
            return aggregator, server
        aggregator.close()


def join(group: ElasticGroup, context: RunContext, earlier: Shards, newcomers: tuple[int, ...]) -> Federation:
    """This rank, one of the `newcomers`, comes back to a run whose vector lay in `earlier`; collective.

    The others call `Federation.rebuild` meanwhile.
    """
    strategy, vector = strategies.build(context.config.strategy), context.silo.initial()
    server = context.server(strategy, earlier, group.silo_id)
    aggregator, server = _rebuild(group, context, server, vector, newcomers)
    return _federation_of(group, context, strategy, aggregator, server, vector)


def setup(group: ElasticGroup, context: RunContext) -> Federation:
    """Build every rank's parts and make sure they fit together; collective.

    The first rank's untrained model is everyone's. Raises together what any rank finds wrong.
    """
    group.step(lambda: agree_on_model(group.comm, context.silo.model))
    strategy = strategies.build(context.config.strategy)
    aggregator = context.aggregator(group)
    server = context.server(strategy, aggregator.shards, group.silo_id)
    federation = _federation_of(group, context, strategy, aggregator, server, context.silo.initial())
    federation.distribute()
    return federation


def _federation_of(
    group: ElasticGroup,
    context: RunContext,
    strategy: Strategy,
    aggregator: Aggregator,
    server: Server,
    vector: Vector,
) -> Federation:
    return Federation(
        group=group,
        config=context.config,
        silos=context.silos,
        silo=context.silo,
        strategy=strategy,
        aggregator=aggregator,
        server=server,
        means=FederationMeans(),
        privacy=context.privacy,
        global_vector=vector,
    )


def build_task(group: ElasticGroup, config: Config, task: Task | None) -> Task:
    """The task given, or that of [task]; raises together what is wrong with it on any rank."""

    def build() -> Task:
        with raise_on_all_ranks(group.comm):
            return tasks.build(config) if task is None else task

    return group.step(build)


def build_silo(
    group: ElasticGroup, config: Config, task: Task, number: int, silos: int, local_rank: int
) -> Silo:
    """This rank's institution, silo `number`; raises together what is wrong with any rank's."""
    made: list[Silo] = []

    def build() -> Silo:
        with raise_on_all_ranks(group.comm):
            if not made:
                device = place(config.train.device, local_rank)
                made.append(Silo(config, task, number, silos, device))
        return made[0]

    silo = group.step(build)
    startup.over()  # the optimizer and the data have loaded the last large libraries
    return silo
