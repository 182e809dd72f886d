"""Training samples that come to silos between rounds, and what a round's sum makes of their numbers.

A task gives the same samples of a round again after a resume, and to a silo that was away: their digests are
one chain, which lies in the silo's own checkpoint.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Self, final

from silofl.comm.collective_errors import allgather_parsed, capture
from silofl.config import Config
from silofl.federation.silo import Silo
from silofl.federation.task_data import counted_of, persons_of
from silofl.tasks.base import ArrivingTask, SiloData, SizedDataset
from silofl.training.clients.client_split import ClientSplit
from silofl.training.data_digest import data_digest

if TYPE_CHECKING:
    from silofl.federation.federation import Federation


@final
class NewSamples:
    """What has come to one silo, which trains on it from then on.

    Args:
        task: gives it.
        silo: of this rank.
        number: of the silo.
        config: of the run.

    Attributes:
        round: the newest for which the task was asked.
        digest: SHA-256 (32 bytes) of all that has come, round by round; empty where nothing has.
    """

    def __init__(self, task: ArrivingTask, silo: Silo, number: int, config: Config) -> None:
        self._task, self._silo, self._number, self._config = task, silo, number, config
        self.round, self.digest = 0, b""

    @classmethod
    def of(cls, silo: Silo, number: int, config: Config) -> Self | None:
        """Those of a silo; None where its task has all samples at the start."""
        task = silo.task
        return cls(task, silo, number, config) if isinstance(task, ArrivingTask) else None

    def arrive(self, round_number: int) -> None:
        """Have all that comes up to a round; not collective. DataError, UserCodeError of the task."""
        for number in range(self.round + 1, round_number + 1):
            with self._silo.code.calling("arrived", self._task.arrived):
                given = self._task.arrived(self._number, number)
                count = 0 if given is None else len(given)
            if given is not None and count:
                self._take(given, number)
            self.round = number

    def _take(self, given: SizedDataset, number: int) -> None:
        silo, config = self._silo, self._config
        silo.train.extend(given)
        seen = self.digest + number.to_bytes(8) + data_digest(SiloData(given))
        self.digest = hashlib.sha256(seen).digest()
        everything = SiloData(silo.train.dataset)
        split = ClientSplit.of(config, everything, self._number)
        persons, privacy = persons_of(everything, config.privacy, self._number), config.privacy
        counted = silo.counted if privacy.records is not None else counted_of(privacy, persons, split, 1)
        silo.follow(persons, counted, self.digest)
        if silo.clients is not None and split is not None:
            silo.clients.follow(split)


def follow_new_samples(federation: Federation, number: int) -> None:
    """Have what comes to silos before a round, and sums weighted by the samples that there are; collective.

    That some silo's number of samples has changed all silos learn, and of all together how many there are.
    """
    new_samples, group = federation.context.origin.new_samples, federation.group
    if new_samples is None:
        return
    arrived = capture(lambda: new_samples.arrive(number))
    changed = federation.aggregator.spec.samples != federation.silo.counted
    told = group.step(
        lambda: allgather_parsed(group.comm, changed, bool, "what came", arrived.error(group.comm.rank))
    )
    if federation.privacy is not None:
        federation.privacy.follow_data()
    if any(told):
        federation.rebuild()
