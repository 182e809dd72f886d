"""One rank's view of a run: its silo, the topology that joins silos, and the privacy engine around both.

`RunContext.federation` makes the topology, such as `topologies/sharded_server.py`, for the silos that are
there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

from silofl.aggregation.base import Aggregator, Claim
from silofl.checkpoint.run_id import OF_NO_RUN
from silofl.checkpoint.trust import Trust
from silofl.comm.elastic_group import ElasticGroup
from silofl.config import Config
from silofl.federation.aggregators import aggregator_of
from silofl.federation.arrivals import Arrivals
from silofl.federation.attendance import Attendance
from silofl.federation.error_feedback import ErrorFeedback
from silofl.federation.exclusions import Exclusions
from silofl.federation.failure.membership_tracker import MembershipTracker
from silofl.federation.failure.respawn_policy import RespawnPolicy
from silofl.federation.first_models import first_values
from silofl.federation.global_mask import GlobalMask, kept_of
from silofl.federation.local_work import RoundStart
from silofl.federation.model_agreement import agree_on_model
from silofl.federation.openings import Openings
from silofl.federation.origin import Origin
from silofl.federation.participation import Participation
from silofl.federation.privacy.engine import PrivacyEngine
from silofl.federation.privacy.part import PrivatePart
from silofl.federation.secure_conflicts import in_the_clear
from silofl.federation.signed_trail import SignedTrail
from silofl.federation.silo import Silo
from silofl.federation.standardization import Statistics
from silofl.federation.stateful import State, Stateful, committed_state, restore
from silofl.federation.stateful_parts import parts_of
from silofl.federation.watched_metrics import WatchedMetrics
from silofl.privacy.ledger import Ledger
from silofl.strategies import registry as strategies
from silofl.strategies.base import Strategy
from silofl.topologies.arrangements.base import Arrangement
from silofl.topologies.base import Topology
from silofl.topologies.detecting_steps import guarded
from silofl.topologies.fragmented_server import FragmentedServer
from silofl.topologies.registry import arrangement_of, strategy_of, topology_of
from silofl.types import Contribution, Vector


@dataclass(frozen=True)
class Federation:
    """What a round works with on one rank: made once, rebuilt whenever silos fail or rejoin."""

    context: RunContext
    topology: Topology

    @property
    def group(self) -> ElasticGroup:
        """The ranks."""
        return self.context.group

    @property
    def silo(self) -> Silo:
        """This rank's own."""
        return self.context.silo

    @property
    def privacy(self) -> PrivacyEngine | None:
        """What makes the run differentially private; None where nothing does."""
        return self.context.privacy

    @property
    def parts(self) -> tuple[Stateful, ...]:
        """All that has state, in the order in which it is restored."""
        return (*self.context.parts, self.topology)

    @property
    def aggregator(self) -> Aggregator:
        """What adds up contributions."""
        return self.topology.aggregator

    @property
    def values(self) -> Vector:
        """(d,) the global model's parameters and buffers, equal on all ranks between rounds."""
        return self.topology.values

    def own_values(self, round_number: int) -> Vector:
        """(d,) the model that this silo has: the global one, or one of several; see `Silo.model_of`."""
        if len(self.context.strategy.models) == 1 or not self.silo.samples:
            return self.values
        return self.silo.model_of(self.start(round_number))

    def start(self, round_number: int, ahead: Callable[[Contribution], None] | None = None) -> RoundStart:
        """What this silo has to begin a round with; `ahead`: see `RoundStart`."""
        context, shared = self.context, self.topology.shared
        buffers = self.values[len(shared["model"]) :]
        resync, kept = context.membership.resync, kept_of(context.mask)
        return RoundStart(shared, buffers, round_number, context.strategy, resync, ahead=ahead, kept=kept)

    @property
    def members(self) -> tuple[int, ...]:
        """The silos that all parts are made for."""
        return self.topology.members

    def absent(self, round_number: int) -> tuple[int, ...]:
        """The silos that sit a round out; the same on every rank: see `Attendance`."""
        return self.context.attendance.absent(round_number, self.members)

    def authorize(self, round_number: int, silos: tuple[int, ...]) -> Claim | None:
        """See `Authorizer`."""
        return self.context.attendance.authorize(round_number, silos)

    def may_show_metrics(self, round_number: int) -> bool:
        """Whether the federation's metrics of a round may be added up; the same on every rank."""
        return self.context.openings is None or self.context.openings.may_show_metrics(round_number)

    def begin(self, committed: int) -> list[str]:
        """Take up what a killed run may have shown behind round `committed`; notices. Collective."""
        notices = list(self.context.origin.notices)
        notices += [] if self.privacy is None else self.privacy.begin(committed)
        if self.context.openings is not None:
            notices += self.context.openings.begin(committed, self.context.attendance.drawn)
        notices += self.silo.notices()
        told = self.context.arrangement.describe(self.members, self.context.config.run.seed)
        notices += [told] if told else []
        notices += in_the_clear(self.context.config.secure, self.context.with_data)
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
        return [spent.get(number, 0.0) for number in range(self.context.silos)]

    def affordable(self) -> int:
        """How many more rounds stay within the privacy that the run may spend, up to 2."""
        return 2 if self.privacy is None else self.privacy.affordable()

    def state(self) -> State:
        """What this rank commits, by part."""
        return committed_state(self.parts)

    def restore(self, state: State | None, members: tuple[int, ...], *, member: bool) -> None:
        """Take up committed states of the round that `members` committed: see `Stateful`. Collective."""
        restore(self.context.parts, state, members, member=member)
        if self.context.private_part is not None:  # the clipping norm that was restored decides its grid
            self.topology.aggregator = self.context.private_part.aggregator
        restore((self.topology,), state, members, member=member)
        factors = dict(self.context.feedback.residuals.common)
        self.follow_mask()
        self.context.feedback.residuals.common |= factors  # which are forgotten where silos change

    def follow_mask(self) -> None:
        """Make the aggregator anew where it adds up other weights than are left now; collective."""
        mask, topology = self.context.mask, self.topology
        if mask is None or getattr(topology.aggregator, "kept", None) is mask.kept:
            return
        topology.aggregator.close()
        topology.aggregator = self.context.aggregator()  # slices and states stay: all ranks have all of them
        if topology.members != self.group.agreed_members():
            self.rebuild()

    def rebuild(self, newcomers: tuple[int, ...] = ()) -> None:
        """Make all parts anew for the silos that are there now; collective.

        Each of the `newcomers` has just been respawned: it lets its parts `take_over` meanwhile.
        """
        self.topology.rebuild(newcomers)

    def close(self) -> None:
        """Release what is held; collective."""
        self.topology.close()


@dataclass(frozen=True)
class RunContext:
    """What is made once, and stays while the topology is made anew as silos fail and rejoin."""

    group: ElasticGroup
    config: Config
    silo: Silo
    silos: int
    """How many ranks the run has in all."""
    strategy: Strategy
    privacy: PrivacyEngine | None
    membership: MembershipTracker
    respawns: RespawnPolicy
    private_part: PrivatePart | None
    trust: Trust
    """Which run this is, and whose checkpoints of it are believed."""
    origin: Origin
    """What the silo's rounds were trained on and with."""
    feedback: ErrorFeedback
    """What of its updates the silo has not sent yet."""
    openings: Openings | None
    """Which silos rounds were opened for; None where updates are added up in the clear."""
    statistics: Statistics | None = None
    """What columns are scaled by, where silos agreed on that."""
    mask: GlobalMask | None = None
    """Which parameters are left; None where nothing is pruned."""
    watched: WatchedMetrics | None = None
    """When the run ends early, and its best model; None for neither."""
    arrivals: Arrivals | None = None
    """Which silos have trained; None where rounds wait for all."""
    exclusions: Exclusions | None = None
    """Which silos are left out for their updates; None where those are not scored."""
    trail: SignedTrail | None = None
    """What every round decided, signed by all; None where that is not kept."""

    @classmethod
    def of(
        cls,
        group: ElasticGroup,
        config: Config,
        silo: Silo,
        silos: int,
        path: Path,
        respawns: RespawnPolicy | None = None,
        trust: Trust | None = None,
        statistics: Statistics | None = None,
    ) -> RunContext:
        """This rank's; not collective. `path` is the run directory; without `respawns` no silo rejoins.

        Without `trust` it is a context for measurements, whose checkpoints nobody finds again.
        """
        silo.code.folder = path
        openings = None
        if trust is not None:
            openings = Openings.of(group, config, path, str(trust.run), silos, trust.signer)
        trust = Trust(OF_NO_RUN) if trust is None else trust
        assert trust.run is not None
        before = Ledger() if statistics is None else statistics.ledger
        feedback = ErrorFeedback.of(group, config)
        none = config.privacy.unit == "none"
        engine = None if none else PrivacyEngine(group, config, silo, silos, path, trust.run, before)
        strategy = strategy_of(config.topology, strategies.build(config.strategy))
        who = group, config, silo, silos, strategy, engine
        return cls(
            *who,
            MembershipTracker(group.members),
            RespawnPolicy(config.failure.rejoin_s) if respawns is None else respawns,
            None if engine is None else PrivatePart(engine),
            trust,
            Origin(group, config, silo),
            *(feedback, openings, statistics),
            GlobalMask.of(group, config, silo.model, feedback.residuals),
            WatchedMetrics.of(group, config, silo),
            Arrivals.of(group, config, silo, silos),
            Exclusions.of(group, config, silos),
            SignedTrail.of(group, config, silo.model, path, trust),
        )

    @cached_property
    def parts(self) -> tuple[Stateful, ...]:
        """See `parts_of`."""
        return parts_of(self)

    @cached_property
    def arrangement(self) -> Arrangement:
        """How [topology] arranges ranks."""
        return arrangement_of(self.config.topology)

    @property
    def coordinators(self) -> tuple[int, ...]:
        """The ranks without data."""
        return self.arrangement.coordinators(self.silos)

    @property
    def with_data(self) -> int:
        """How many silos are added up."""
        return self.silos - len(self.coordinators)

    @cached_property
    def attendance(self) -> Attendance:
        """Which silos are in a round's sum."""
        return Attendance(self.openings, self.participation, self.membership, self.coordinators)

    @cached_property
    def participation(self) -> Participation | Arrivals | None:
        """Which silos are drawn for a round, or have trained, where not all take part."""
        return self.arrivals or Participation.of(self.config, self.with_data)

    def aggregator(self, fragment: int = 0) -> Aggregator:
        """The aggregator of a fragment for the silos that are there; collective."""
        return aggregator_of(self, fragment)

    def federation(self, newcomers: tuple[int, ...] = ()) -> Federation:
        """This rank's federation; collective, but on one of the `newcomers`: see `Topology`."""
        kind, streaming = topology_of(self.config.topology), self.strategy.streaming()
        parts, starts = [one.values for one in self.silo.fragments], self.silo.starts
        watch = self.exclusions and self.exclusions.watch
        both = self.group, guarded(self.strategy, self.config, self.with_data, watch)
        model = first_values(self.silo.initial(), starts), self.silo.model.trainable
        if streaming is None or len(parts) == 1:
            return Federation(self, kind(*both, self.aggregator, *model, newcomers=newcomers, starts=starts))
        makers = [partial(self.aggregator, index) for index in range(len(parts))]
        return Federation(
            self, FragmentedServer(kind, *both, makers, *model, parts, streaming, newcomers=newcomers)
        )


def setup(context: RunContext) -> Federation:
    """Build every rank's parts and make sure they fit together; collective.

    The first rank's untrained model is every rank's. Raises on all ranks what any finds wrong.
    """
    context.group.step(lambda: agree_on_model(context.group.comm, context.silo.model))
    return context.federation()
