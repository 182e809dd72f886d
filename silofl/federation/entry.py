"""`silofl.train`: a federation from a Python program that mpirun started, or survivors respawned."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
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
from silofl.errors import ConfigError, SiloflError
from silofl.federation.preparation import prepare
from silofl.federation.run_result import Result
from silofl.federation.stop import StopRequest

if TYPE_CHECKING:
    from silofl.tasks.base import Task

    TaskLike = Task | Callable[[], Task] | None
else:
    TaskLike = Any


def train(
    config: Config | Mapping[str, Any] | str | Path,
    task: TaskLike = None,
    *,
    comm: Any = None,
    resume: bool = False,
) -> Result:
    """Run a federation, one silo a rank; collective: a program that `mpirun -n 3 python program.py` starts.

        result = silofl.train("launch/digits.toml", comm=MPI.COMM_WORLD)
        result = silofl.train({"run": {"rounds": 5}, "train": {"lr": 0.1}}, Wine())
        print(result.summary["loss"], result.path)

    Args:
        config: a configuration, its tables as a dict, or the path of one.
        task: this silo's problem, or its class; built from [task] when None.
        comm: an mpi4py communicator or silofl's own; all ranks when None.
        resume: go on from the last committed round of the run directory.

    Raises:
        SiloflError: any failure that has a sentence, the same on every rank.
    """
    paths: list[Path] = []

    def load(silo: int, silos: int) -> Config:
        return own_settings(settings_of(config), silo, silos)

    summary = train_or_rejoin(
        load,
        given_task(task),
        comm=world() if comm is None else communicator_of(comm),
        resume=resume,
        on_directory=paths.append,
    )
    return Result(summary, paths[-1] if paths else Path(), None if task is None else lambda: given_task(task))


def settings_of(config: Config | Mapping[str, Any] | str | Path) -> Settings:
    """What a program gives as a configuration, for every silo. ConfigError for what is none."""
    if isinstance(config, Config):
        return Settings.same(config)
    if isinstance(config, Mapping):
        return settings.of_tables(config)
    if isinstance(config, (str, Path)):
        return settings.load(config)
    raise ConfigError(
        f"a {type(config).__name__} is no configuration: give a path, a dict of sections, or a silofl.Config"
    )


def given_task(task: TaskLike, *, copied: bool = False) -> Any:
    """The task that a program gives: an object, which is copied where that is asked for, or a class."""
    if task is None:
        return None
    if isinstance(task, type) or not hasattr(task, "model"):
        if not callable(task):
            raise ConfigError(f"a {type(task).__name__} is no task: it has no method model")
        return task()
    return deepcopy(task) if copied else task


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
    every.silos(silos, f"start {len(every.institutions)} ranks")
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
