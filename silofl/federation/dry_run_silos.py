"""The silos of a dry run: which of them are seen from here, and the configuration and task of each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from silofl.config import Config
from silofl.config.institutions import Institution
from silofl.errors import ConfigError, DataError
from silofl.launcher.hosts import is_local
from silofl.tasks import early
from silofl.tasks import registry as tasks
from silofl.topologies.arrangements.registry import coordinators
from silofl.training.device import place

if TYPE_CHECKING:
    from silofl.tasks.base import Task


class DryRunSilos:
    """All silos of a run. `own` gives the configuration of each where institutions have one, else None."""

    def __init__(
        self,
        config: Config,
        silos: int,
        own: Callable[[int], Config] | None = None,
        institutions: Sequence[Institution] = (),
    ) -> None:
        self.count, self._config, self._own, self._institutions = silos, config, own, institutions
        self._tasks: dict[int, Task] = {}
        self._unseen = [number for number in range(len(institutions)) if self._is_elsewhere(number)]
        self._without = coordinators(config.topology, silos)
        self.seen = [number for number in range(silos) if number not in {*self._unseen, *self._without}]
        if not self.seen:
            raise ConfigError("no institution's data is seen from here: check on a host that has one's")

    @property
    def with_data(self) -> int:
        """How many of them have data."""
        return self.count - len(self._without)

    def config(self, silo: int) -> Config:
        """Of one silo."""
        return self._config if self._own is None else self._own(silo)

    def task(self, silo: int) -> Task:
        """Of one silo: one for all where they have one configuration."""
        number = 0 if self._own is None else silo
        if number not in self._tasks:
            self._tasks[number] = tasks.build(self.config(silo), alone=True)
        return self._tasks[number]

    def devices(self, silo: int) -> tuple[str, ...]:
        """Those of its ranks, each once, on a host with as many GPUs as this one."""
        train = self.config(silo).train
        first = self._local_rank(silo) * train.ranks_per_silo
        ranks = range(first, first + train.ranks_per_silo)
        return tuple(dict.fromkeys(place(train.device, rank) for rank in ranks))

    def _local_rank(self, silo: int) -> int:
        """Its place among the silos of its host."""
        hosts = [one.host for one in self._institutions[: silo + 1]]
        return hosts[:-1].count(hosts[-1]) if hosts else silo

    def name(self, silo: int) -> str:
        """The institution's; empty where silos have none."""
        return self._institutions[silo].name if self._institutions else ""

    def notes(self) -> list[str]:
        """What is not seen from here, and which ranks have no data."""
        without = [f"rank {number} is the coordinator: it has no data" for number in self._without]
        return without + [
            f"silo {number}: the data of {self.name(number)} is on {self._institutions[number].host} and not "
            "seen from here, so that figures are without its records: run silofl check there, too"
            for number in self._unseen
        ]

    def _is_elsewhere(self, number: int) -> bool:
        """Whether an institution's files are on another host, and not seen here."""
        host = self._institutions[number].host
        if not host or is_local(host):
            return False
        try:
            early.refuse_early(self.config(number), number)
        except DataError:
            return True
        return False
