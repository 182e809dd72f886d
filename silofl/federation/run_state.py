"""What the parts of a run share on one rank, and the commits that keep it on disk.

`loop.py` calls `RunState.commit` after every round. It hands what all parts have to `checkpoint/store.py`,
which writes this silo's file in the background while the next round trains. Once that round is over,
`results.py` calls `commit_pending`: ranks exchange the digests of their files, and a manifest, renamed into
place, makes the round exist.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from silofl.checkpoint.store import CheckpointStore, Restored
from silofl.checkpoint.trust import Trust
from silofl.comm.elastic_group import ElasticGroup
from silofl.config import Config, resumption_tables
from silofl.crypto.key_file import silo_key
from silofl.errors import SiloflError
from silofl.federation.clock import Clock
from silofl.federation.failure.membership_tracker import MembershipTracker
from silofl.federation.failure.respawn_policy import RespawnPolicy
from silofl.federation.federation import Federation
from silofl.federation.run_logger import RunLogger
from silofl.federation.run_trust import CHECKPOINTS
from silofl.federation.summary import plan_of

Tree = dict[str, Any]


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
                members, common = self.group.step(self._before_files)
                if members != self.federation.members:
                    continue
                self.changed = False
                self.checkpoints.begin(number, self.federation.state(), common)
                if not forced or self.checkpoints.flush():
                    return

    def _before_files(self) -> tuple[tuple[int, ...], str]:
        """Whose checkpoint it is, and a digest of what all have copies of; within a step."""
        return self.checkpoints.follow(), self.federation.topology.keep_copies()

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


class CheckpointManager:
    """One rank's `CheckpointStore`, which follows the group's changes, within a step.

    Args:
        group: the ranks of the run, of which the store is for those that are there now.
        path: this rank's run directory.
        fingerprint: the model's.
        silos: how many the run has in all.
        trust: by which manifests are signed and believed.

    Not collective to make; raises ConfigError where `checkpoint.buddy` has no key.
    """

    def __init__(
        self, group: ElasticGroup, config: Config, path: Path, fingerprint: str, silos: int, trust: Trust
    ) -> None:
        key = silo_key(config.checkpoint.key_file, group.silo_id) if config.checkpoint.buddy else None
        self._group, self._comm = group, group.comm
        self._store = CheckpointStore(
            group.comm,
            path / CHECKPOINTS,
            {"config": resumption_tables(config), "model": fingerprint},
            trust,
            silos=silos,
            keep=config.checkpoint.keep,
            buddy_key=key,
        )

    def latest(self, opened: int = 0) -> Restored | None:
        """The newest committed round; collective. See `CheckpointStore.latest`."""
        return self._group.step(lambda: self._store.latest(opened))

    def own_state(self, silos: tuple[int, ...]) -> tuple[int, Tree] | None:
        """What silos that come back had committed of their own, on those; collective."""

        def find() -> tuple[int, Tree] | None:
            self.follow()
            return self._store.own_state(set(silos))

        return self._group.step(find)

    def commit_pending(self, note: Tree, problem: SiloflError | None) -> list[Tree]:
        """Settle the round before, and every rank's note; within a step.

        Of a round whose files were on their way when a silo was lost, the store drops what is not complete:
        the round after it holds all of it.
        """
        self.follow()
        self._group.comm.mark("checkpoint agree")
        return self._store.commit_pending(note, problem=problem)

    def begin(self, number: int, state: Tree, common: str = "") -> None:
        """Begin to commit a round; not collective. `common`: see `CheckpointStore.begin`."""
        self._store.begin(number, state, common)

    def flush(self) -> bool:
        """Commit what was begun, unless a silo was lost since: then it must be begun again. Collective."""

        def work() -> bool:
            if self._comm is not self._group.comm:
                return False
            self._store.flush()
            return True

        return self._group.step(work)

    def close(self) -> bool:
        """Commit the round whose files are on their way; whether nobody was lost since it was begun.

        Collective, for ranks that raised an error together.
        """
        if self._comm is not self._group.comm:
            self._store.reform(self._group.comm)
            return False
        with suppress(SiloflError):  # one more was lost: what was committed stays so
            self.flush()
        return True

    def follow(self) -> tuple[int, ...]:
        """Let the store be that of the ranks of this step; who they are."""
        if self._comm is not self._group.comm:
            self._comm = self._group.comm
            self._store.reform(self._comm)
        return self._group.members
