"""`silofl.simulate`: a whole federation in one process, each silo a thread; for notebooks and first tries."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from silofl.comm.threads import ThreadCommunicator, run_in_threads
from silofl.config import Config
from silofl.errors import ConfigError
from silofl.federation.entry import TaskLike, given_task, settings_of, train_or_rejoin
from silofl.federation.run_result import Result


def simulate(
    config: Config | Mapping[str, Any] | str | Path,
    task: TaskLike = None,
    silos: int | None = None,
    *,
    resume: bool = False,
) -> Result:
    """Train a federation whose silos are threads of this process: no mpirun, no other process.

        result = silofl.simulate({"run": {"rounds": 5}}, silos=3)
        result.summary["accuracy"], result.history[-1], result.model

    All else is as in a job: the data of each silo, secure sums, [privacy], files in the run directory; and
    so is the model, bit for bit, as that of ranks with a thread each. Silos whose training draws random
    numbers, as dropout does, train one after the other; with `strategy.delay` they do not, and draw others.

    Args:
        config: a configuration, its tables as a dict, or the path of one.
        task: the problem of all silos: an object, which each silo has a copy of, or a class or function
            that is called for each; that of [task] when None.
        silos: how many; as many as `[[institution]]` in the configuration, or 4, when None.
        resume: go on from the last committed round of the run directory.

    Raises:
        SiloflError: any failure that has a sentence.
        ConfigError: among them, faults to inject, which end processes, and several ranks in a silo.
    """
    import torch

    from silofl.training.seeding import taking_turns

    every = settings_of(config)
    count = every.silos(None if silos is None else _count(silos), "leave out silos=")
    first = every.of(0)
    _refuse(first)
    paths: list[Path] = []

    def rank(comm: ThreadCommunicator) -> dict[str, Any]:
        torch.set_num_threads(1)

        def own(silo: int, silos: int) -> Config:
            return every.of(silo)

        def begun(path: Path) -> None:
            if comm.rank == 0:
                paths.append(path)

        problem = given_task(task, copied=True)
        return train_or_rejoin(own, problem, comm=comm, resume=resume, on_directory=begun)

    threads = torch.get_num_threads()
    try:
        with taking_turns():
            summaries = run_in_threads(count, rank, timeout_s=math.inf)
    finally:
        torch.set_num_threads(threads)
    return Result(summaries[0], paths[0], None if task is None else lambda: given_task(task, copied=True))


def _count(silos: Any) -> int:
    """A number of silos, also one of NumPy's. ConfigError for what is none."""
    try:
        count = operator.index(silos)
    except TypeError:
        count = 0
    if count < 1:
        raise ConfigError(f"silos = {silos!r} is no number of silos: give 1 or more, or leave it out")
    return count


def _refuse(config: Config) -> None:
    """Raise ConfigError for what needs processes of its own."""
    if config.failure.inject:
        raise ConfigError(
            "failure.inject ends processes, and the silos of silofl.simulate are threads of one: use "
            "silofl launch, or remove it"
        )
    if config.train.ranks_per_silo > 1:
        raise ConfigError(
            f"train.ranks_per_silo = {config.train.ranks_per_silo} takes processes, and a silo of "
            "silofl.simulate is a thread: use silofl launch, or remove it"
        )
