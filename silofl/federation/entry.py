"""`silofl.train`: a federation from a Python program that mpirun started."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from silofl import config as configuration
from silofl.comm.session import communicator_of, world
from silofl.config import Config
from silofl.federation.loop import train as train_on
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
    settings = config if isinstance(config, Config) else configuration.load(config)
    return train_on(settings, task, comm=world() if comm is None else communicator_of(comm), resume=resume)
