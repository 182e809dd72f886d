"""A job's text given to its queue: the one place where a queue's programs are called."""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import Literal

from silofl.errors import ConfigError, MissingDependencyError

QueueName = Literal["slurm", "pbs", "lsf"]
SUBMIT_TIMEOUT_S = 120.0
_LINES = {"slurm": ("sbatch", "--parsable"), "pbs": ("qsub",), "lsf": ("bsub",)}
_NAMES = {"slurm": "Slurm", "pbs": "PBS", "lsf": "LSF"}
_STATES = {"slurm": "sinfo", "pbs": "qstat -Q", "lsf": "bqueues"}


def submit(text: str, queue: QueueName = "slurm") -> str:
    """Give a script to the queue's own program and return the job's id.

    Raises MissingDependencyError where that program is not there, ConfigError where it refuses the job.
    """
    name, *options = _LINES[queue]
    program = shutil.which(name)
    if program is None:
        raise MissingDependencyError(
            f"no {name} on PATH, so there is no {_NAMES[queue]} here: submit on a login node, or use silofl "
            "launch"
        )
    try:
        done = subprocess.run(
            [program, *options],
            input=text,
            capture_output=True,
            text=True,
            timeout=SUBMIT_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ConfigError(
            f"{name} has not answered for {SUBMIT_TIMEOUT_S:g} s: ask {_STATES[queue]} how {_NAMES[queue]} is"
        ) from None
    if done.returncode:
        reasons = [line.removeprefix(f"{name}: error: ") for line in done.stderr.splitlines()]
        raise ConfigError(f"{name} refused the job: {'; '.join(reasons) or 'it does not say why'}")
    return _job_id(done.stdout, queue)


def _job_id(told: str, queue: QueueName) -> str:
    """`77;cluster` of sbatch, `77.server` of qsub, `Job <77> is submitted to queue <normal>.` of bsub."""
    if queue == "lsf":
        found = re.search(r"Job <([0-9]+)>", told)
        return found[1] if found else told.strip()
    return told.strip().partition(";")[0]
