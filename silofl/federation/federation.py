"""One rank's view of a run: its silo, the topology that joins silos, and the privacy engine around both."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from silofl import config as configuration
from silofl import startup
from silofl.aggregation import protocols
from silofl.aggregation.base import Aggregator
from silofl.aggregation.shards import MAX_REPLICAS, Shards
from silofl.aggregation.spec import AggregationSpec, VectorSpec
from silofl.aggregation.wire import Magnitudes, first_nonfinite, measure
from silofl.comm.collective_errors import raise_on_all_ranks
from silofl.comm.elastic_group import ElasticGroup
from silofl.config import Config
from silofl.federation.failure.policy import replicas
from silofl.federation.handshake import agree_on_model
from silofl.federation.metrics import FederationMeans
from silofl.federation.privacy.engine import PrivacyEngine
from silofl.federation.silo import Fitted, Silo, place
from silofl.strategies import registry as strategies
from silofl.strategies.base import Strategy
from silofl.tasks import registry as tasks
from silofl.tasks.base import Task
from silofl.topologies.registry import topology_of
from silofl.topologies.sharded_server import BUFFERS, ShardedServer
from silofl.types import Vector

State = dict[str, Any]


@dataclass
class Federation:
    """What a round works with on one rank."""

    group: ElasticGroup
    config: Config
    silos: int
    """How many the run has in all."""
    silo: Silo
    strategy: Strategy
    topology: ShardedServer
    means: FederationMeans
    privacy: PrivacyEngine | None
    """What makes the run differentially private; None where nothing does."""
    resync: bool = False
    """Whether a silo has rejoined since the last round: see `strategies.base.LocalRound.resync`."""

    @property
    def aggregator(self) -> Aggregator:
        """What adds up contributions."""
        return self.topology.aggregator

    @property
    def values(self) -> Vector:
        """(d,) the global model's parameters and buffers, equal on all ranks after `server_step`."""
        return self.topology.values

    @property
    def members(self) -> tuple[int, ...]:
        """The silos that all parts are made for."""
        return self.topology.members

    def fit(self, round_number: int) -> tuple[Fitted, Magnitudes]:
        """Train from the shared vectors; not collective. TrainingError where the result is not finite."""
        fitted = self._fit(round_number)
        magnitudes = measure(fitted.contribution, self.aggregator.spec)
        nonfinite = first_nonfinite(magnitudes, self.aggregator.spec)
        if nonfinite is not None:
            raise self.silo.diverged(round_number, nonfinite)
        return fitted, magnitudes

    def _fit(self, round_number: int) -> Fitted:
        buffers = self.values[len(self.topology.shared["model"]) :]
        arguments = (self.topology.shared, buffers, round_number, self.strategy)
        fit = self.silo.fit if self.privacy is None else self.privacy.fit
        return fit(*arguments, resync=self.resync)

    def reduce(self, fitted: Fitted, round_number: int, magnitudes: Magnitudes) -> None:
        """Add up what all silos learnt, and let this silo's state follow; collective."""
        self.topology.reduce(fitted.contribution, round_number, magnitudes)
        self.silo.accept(fitted)
        if self.privacy is not None:
            self.privacy.account(self.aggregator, round_number)

    def server_step(self, fitted: Fitted, round_number: int) -> None:
        """Step the shared vectors; the update's memory is written over. Collective."""
        self.topology.step(fitted.contribution.vectors["update"], resync=self.resync)
        self.resync = False
        if self.privacy is not None:
            self.privacy.complete(self.aggregator, round_number)

    def state(self) -> State:
        """What this rank commits: its slice of the server and its silo's own state."""
        state = {"server": self.topology.state(), "silo": self.silo.state()}
        return state | ({"privacy": self.privacy.state()} if self.privacy is not None else {})

    def begin(self, committed: int) -> list[str]:
        """Take up what a killed run may have shown behind round `committed`; notices. Collective."""
        notices = [] if self.privacy is None else self.privacy.begin(committed)
        protocol = protocols.choose_protocol(self.config.secure, self.silos)
        if self.config.secure.protocol == "auto" and not protocol.private:
            notices.append(
                f"updates are added up in the clear: among {self.silos} silos a sum hides nothing, "
                "for it less one's own update is the other's; three or more are protected"
            )
        return notices

    @property
    def clip_norm(self) -> float | None:
        """What updates are clipped to, where that changes from round to round."""
        return None if self.privacy is None else self.privacy.clip_norm

    def epsilon(self) -> float | None:
        """What was spent so far; None without privacy."""
        return None if self.privacy is None else self.privacy.budget.epsilon()

    def epsilon_per_silo(self) -> list[float] | None:
        """The same of each silo's data, in the order of their numbers."""
        if self.privacy is None:
            return None
        spent = self.privacy.budget.epsilon_per_silo()
        return [spent.get(number, 0.0) for number in range(self.silos)]

    def rejoin_state(self) -> State:
        """What a silo that comes back needs to go on being private; JSON."""
        return {} if self.privacy is None else self.privacy.rejoin_state()

    def affordable(self) -> int:
        """How many more rounds stay within the privacy that the run may spend, up to 2."""
        return 2 if self.privacy is None else self.privacy.affordable()

    def restore(self, state: State | None, members: tuple[int, ...], *, member: bool) -> None:
        """Take up a committed state, of this rank where it has one, of the round that `members` committed.

        Collective. `member`: whether this silo's state is of that round; else only its own part counts.
        """
        if state is not None:
            self.silo.restore(state["silo"])
        if self.privacy is not None:
            own = None if state is None else state["privacy"]
            self.topology.aggregator = self.privacy.restore(own, member=member)
        self.topology.restore(state["server"] if state is not None and member else None, members)
        self.resync = set(self.members) != set(members)

    def rebuild(self, newcomers: tuple[int, ...] = ()) -> None:
        """Make all parts anew for the silos that are there now; collective.

        Each of the `newcomers` has just come back: it calls `join` meanwhile.
        """
        self.topology.rebuild(newcomers)
        self.resync = self.resync or bool(newcomers)

    def close(self) -> None:
        """Release what is held; collective."""
        self.topology.close()


@dataclass(frozen=True)
class RunContext:
    """What does not change while silos come and go."""

    group: ElasticGroup
    config: Config
    silo: Silo
    silos: int
    strategy: Strategy
    privacy: PrivacyEngine | None

    @classmethod
    def of(cls, group: ElasticGroup, config: Config, silo: Silo, silos: int, path: Path) -> RunContext:
        """This rank's; not collective. `path` is the run directory."""
        private = config.privacy.unit != "none"
        engine = PrivacyEngine(group, config, silo, path) if private else None
        return cls(group, config, silo, silos, strategies.build(config.strategy), engine)

    def come_back(self, own: State | None, rejoin_state: State) -> None:
        """Take up what this silo had committed of its own, and what the others tell of their privacy."""
        if own is not None:
            self.silo.restore(own["silo"])
        if self.privacy is not None:
            self.privacy.come_back(rejoin_state)

    def aggregator(self) -> Aggregator:
        """The aggregator for the silos that are there; collective."""
        tolerant = self.group.fault_tolerant
        spec = aggregation_spec(self.config, self.silo, self.strategy, self.silos, tolerant=tolerant)
        if self.privacy is None:
            return protocols.build(self.group, self.config.secure, spec)
        inner = protocols.build(self.group, self.config.secure, self.privacy.inner_spec(spec))
        return self.privacy.wrap(inner, spec, self.silos)

    def federation(self, shards: Shards | None = None, newcomers: tuple[int, ...] = ()) -> Federation:
        """This rank's federation; collective. See `ShardedServer` for the arguments."""
        topology = topology_of(self.config.topology)(
            self.group,
            self.strategy,
            self.aggregator,
            self.silo.initial(),
            self.silo.model.trainable,
            shards=shards,
            newcomers=newcomers,
        )
        return Federation(
            self.group,
            self.config,
            self.silos,
            self.silo,
            self.strategy,
            topology,
            FederationMeans(),
            self.privacy,
            resync=bool(newcomers),
        )


def aggregation_spec(
    config: Config, silo: Silo, strategy: Strategy, silos: int, *, tolerant: bool
) -> AggregationSpec:
    """What the sums of a run are made of: the strategy's vectors, and the model's buffers, exactly."""
    model = silo.model
    vectors = [
        VectorSpec(name, model.trainable, "scaled", weighting, tuple(model.tensor_names), model.tensor_ends)
        for name, weighting in strategy.sends.items()
    ]
    buffers = model.size - model.trainable
    if buffers:
        vectors.append(VectorSpec(BUFFERS, buffers, "exact"))
    return AggregationSpec(
        tuple(vectors),
        model.wire_dtype,
        silo.samples,
        config.run.seed,
        configuration.digest(config),
        silos,
        replicas(config, silos, MAX_REPLICAS) if tolerant else 0,
        strategy.scalars,
    )


def setup(context: RunContext) -> Federation:
    """Build every rank's parts and make sure they fit together; collective.

    The first rank's untrained model is every rank's. Raises on all ranks what any finds wrong.
    """
    context.group.step(lambda: agree_on_model(context.group.comm, context.silo.model))
    return context.federation()


def join(context: RunContext, earlier: Shards, newcomers: tuple[int, ...]) -> Federation:
    """This rank, one of the `newcomers`, comes back to a run whose parameters lay in `earlier`; collective.

    The others call `Federation.rebuild` meanwhile.
    """
    return context.federation(earlier, newcomers)


def build_task(group: ElasticGroup, config: Config, task: Task | None) -> Task:
    """The task given, or that of [task]; raises on all ranks what is wrong with it on any."""

    def build() -> Task:
        with raise_on_all_ranks(group.comm):
            return tasks.build(config) if task is None else task

    return group.step(build)


def build_silo(
    group: ElasticGroup, config: Config, task: Task, number: int, silos: int, local_rank: int
) -> Silo:
    """This rank's institution, silo `number`; raises on all ranks what is wrong with any rank's."""
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
