"""A run's checkpoints, in step with the silos that are there."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from silofl.checkpoint.store import CheckpointStore, Restored
from silofl.checkpoint.trust import Trust
from silofl.comm.elastic_group import ElasticGroup
from silofl.config import Config, resumption_tables
from silofl.crypto.key_file import silo_key
from silofl.errors import SiloflError
from silofl.federation.run_trust import CHECKPOINTS

State = dict[str, Any]


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

    def latest(self) -> Restored | None:
        """The newest committed round; collective. See `CheckpointStore.latest`."""
        return self._group.step(self._store.latest)

    def own_state(self, silos: tuple[int, ...]) -> tuple[int, State] | None:
        """What silos that come back had committed of their own, on those; collective."""

        def find() -> tuple[int, State] | None:
            self._follow()
            return self._store.own_state(set(silos))

        return self._group.step(find)

    def commit_pending(self, note: State, problem: SiloflError | None) -> list[State]:
        """Settle the round before, and every rank's note; within a step.

        Of a round whose files were on their way when a silo was lost, the store drops what is not complete:
        the round after it holds all of it.
        """
        self._follow()
        self._group.comm.mark("checkpoint agree")
        return self._store.commit_pending(note, problem=problem)

    def members(self) -> tuple[int, ...]:
        """Those whose store it is from here on; collective."""
        return self._group.step(self._follow)

    def begin(self, number: int, state: State) -> None:
        """Begin to commit a round; not collective."""
        self._store.begin(number, state)

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

    def _follow(self) -> tuple[int, ...]:
        """Let the store be that of the ranks of this step; who they are."""
        if self._comm is not self._group.comm:
            self._comm = self._group.comm
            self._store.reform(self._comm)
        return self._group.members
