"""What the parts of a run share on one rank, and the commits that keep it on disk."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from silofl.comm.elastic_group import ElasticGroup
from silofl.config import Config
from silofl.errors import SiloflError
from silofl.federation.checkpoint_manager import CheckpointManager
from silofl.federation.clock import Clock
from silofl.federation.failure.membership_tracker import MembershipTracker
from silofl.federation.failure.respawn_policy import RespawnPolicy
from silofl.federation.federation import Federation
from silofl.federation.run_logger import RunLogger
from silofl.federation.summary import plan_of


@dataclass
class RunState:
    """One rank's run; every rank has the same but for what is its silo's own."""

    federation: Federation
    path: Path
    checkpoints: CheckpointManager
    logger: RunLogger
    lock: IO[bytes] | None
    """Keeps other jobs from being this silo in this directory."""
    first_round: int = 1
    """The first round of this process."""
    affordable: int = 2
    """How many more rounds the run may spend privacy on, up to 2."""
    changed: bool = False
    """Whether silos failed since the last commit was begun."""
    clock: Clock = field(default_factory=Clock)
    seen: int = 0
    """How many rank failures the lines of metrics have told of."""

    @property
    def group(self) -> ElasticGroup:
        """The ranks."""
        return self.federation.group

    @property
    def config(self) -> Config:
        """The run's."""
        return self.federation.context.config

    @property
    def tracker(self) -> MembershipTracker:
        """Which silos failed and rejoined."""
        return self.federation.context.membership

    @property
    def respawns(self) -> RespawnPolicy:
        """When failed silos are started again."""
        return self.federation.context.respawns

    def plan(self) -> dict[str, Any]:
        """What is about to run, for people."""
        return plan_of(self.federation, self.first_round, str(self.path))

    def follow_failures(self) -> tuple[int, ...]:
        """Make everything anew for the survivors where silos failed; the members. Collective."""
        while self.federation.members != (members := self.group.agreed_members()):
            self.changed = True
            self.federation.rebuild()
        if self.group.comm.rank == 0:
            self.logger.become_leader(self.plan())
        return members

    def commit(self, number: int, *, forced: bool) -> None:
        """Begin to commit a round; complete it at once where it is `forced`. Collective.

        A round in which silos failed is committed whatever `checkpoint.every` says: the one before may have
        been dropped for it.
        """
        every = self.config.checkpoint.every
        if not every or not (forced or self.changed or number % every == 0):
            return
        with self.clock.phase("checkpoint"):
            while True:
                self.follow_failures()
                if self.checkpoints.members() != self.federation.members:
                    continue
                self.changed = False
                self.checkpoints.begin(number, self.federation.state())
                if not forced or self.checkpoints.flush():
                    return

    def certainly_committed(self, number: int) -> int:
        """The newest round that is on disk for good when round `number` begins, or 0.

        A round's files are known to be written one exchange later, and its manifest two.
        """
        every = self.config.checkpoint.every
        return max(self.first_round - 1, (number - 3) // every * every if every else 0)

    def keep_last_round(self, error: SiloflError) -> None:
        """Commit the round whose files are on their way, if all ranks raised the error together."""
        if error.rank is not None and self.checkpoints.close():
            self.federation.close()
