"""`silofl.train`: a federation from a Python program that mpirun started, or survivors respawned."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from silofl import config as configuration
from silofl.comm.collective_errors import raise_on_all_ranks
from silofl.comm.mpi import MpiCommunicator
from silofl.comm.protocol import Communicator
from silofl.comm.ranks import communicator_of, world
from silofl.comm.respawn import spawned_by
from silofl.config import Config, settings
from silofl.config.settings import Settings
from silofl.console import LOGGER
from silofl.crypto.core_dumps import forbid_core_dumps
from silofl.errors import SiloflError
from silofl.federation.preparation import prepare
from silofl.federation.stop import StopRequest

if TYPE_CHECKING:
    from silofl.tasks.base import Task


def train(
    config: Config | str | Path, task: Task | None = None, *, comm: Any = None, resume: bool = False
) -> dict[str, Any]:
    """Run a federation, one silo a rank; collective. Returns what `summary.json` holds.

    Args:
        config: a configuration, or the path of one.
        task: this silo's problem; built from [task] when None.
        comm: an mpi4py communicator or silofl's own; all ranks when None.
        resume: go on from the last committed round of the run directory.

    Raises:
        SiloflError: any failure that has a sentence, the same on every rank.
    """

    def load(silo: int, silos: int) -> Config:
        return config if isinstance(config, Config) else own_settings(settings.load(config), silo, silos)

    return train_or_rejoin(load, task, comm=world() if comm is None else communicator_of(comm), resume=resume)


def train_or_rejoin(
    load: Callable[[int, int], Config],
    task: Task | None = None,
    *,
    comm: Communicator,
    resume: bool,
    on_directory: Callable[[Path], None] = lambda path: None,
    stop: StopRequest | None = None,
) -> dict[str, Any]:
    """`loop.train`; in a process that was started again after its silo was lost, the way back.

    `load` gives the configuration of a silo, of so many: where it cannot, a silo that returns stays away
    alone.
    """
    forbid_core_dumps()
    stop = StopRequest() if stop is None else stop
    spawn_info = spawned_by() if isinstance(comm, MpiCommunicator) and comm.resilient else None
    with configuration.relative_to(Path.cwd()):
        if spawn_info is None or not isinstance(comm, MpiCommunicator):
            with raise_on_all_ranks(comm):
                config = load(comm.rank, comm.size)
            with _others_errors_logged(comm):
                prepared = prepare(
                    config, comm=comm, resume=resume, own_task=task is not None, on_directory=on_directory
                )
                from silofl.federation.loop import train_prepared  # torch: after all that does without

                return train_prepared(prepared, task, stop)
        from silofl.federation.failure.rejoin import rejoin

        return rejoin(
            load, task, comm=comm, spawn_info=spawn_info, resumed=resume, on_directory=on_directory, stop=stop
        )


def own_settings(every: Settings, silo: int, silos: int) -> Config:
    """A silo's configuration. ConfigError where a file has institutions and there are not as many silos."""
    every.silos(silos)
    return every.of(silo)


@contextmanager
def _others_errors_logged(comm: Communicator) -> Iterator[None]:
    """Have this silo's log say what ended the run, also where another rank prints it."""
    try:
        yield
    except SiloflError as error:
        if error.rank not in {None, comm.rank}:
            LOGGER.error("%s", f"rank {error.rank}: {error}")
        raise
