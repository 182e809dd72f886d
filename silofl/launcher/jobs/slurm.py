"""Slurm job of one federation: its script, a pure function of the options."""

from __future__ import annotations

import re
import shlex

from silofl.errors import ConfigError
from silofl.launcher.jobs import shell
from silofl.launcher.jobs.options import WARNING_S, Job, directives_of, refuse_impossible

_OPTIONS = ("time", "partition", "account", "mem", "qos", "constraint", "output")
_OWN = {
    **{name: f"give --{name}" for name in _OPTIONS},
    "nodes": "give --nodes",
    "ntasks": "give --silos",
    "ntasks-per-node": "give --silos and --nodes",
    "cpus-per-task": "give --cores",
    **dict.fromkeys(("gpus", "gpus-per-task", "gpus-per-node"), "give --gpus, one for each silo"),
    "requeue": "no-requeue leaves it out",
    "open-mode": "a job that is queued again goes on with its output",
}
"""Options of sbatch that are this program's, and what to give in the place of `--sbatch`."""
_WARNING = re.compile(r"B:USR1@[1-9][0-9]{0,4}")


def job_text(job: Job) -> str:
    """Return the script for sbatch. Raises ConfigError for impossible options."""
    refuse_impossible(job)
    return _TEMPLATE.format(
        directives="\n".join(f"#SBATCH --{option}" for option in _directives(job)),
        config=shell.quoted_config(job),
        run=shell.run_directory(job, "$SLURM_JOB_ID"),
        more=" ".join([*map(shlex.quote, job.more), '"${@:3}"']),
        before_start=shell.before_start(job),
        newest=shell.newest("SLURM_NTASKS"),
        start=_start(job),
    )


def _directives(job: Job) -> list[str]:
    given = directives_of(job.sbatch, _OWN)
    warning = given.pop("signal", f"B:USR1@{WARNING_S}")
    if not _WARNING.fullmatch(warning):
        raise ConfigError(
            f"--sbatch signal={warning}: the job waits for B:USR1@SECONDS, such as signal=B:USR1@900"
        )
    options = [f"job-name={given.pop('job-name', 'silofl')}", f"nodes={job.nodes}", f"ntasks={job.silos}"]
    if job.nodes > 1:
        # at most; Slurm would fill the first node otherwise
        options.append(f"ntasks-per-node={job.per_node}")
    options.append(f"cpus-per-task={job.cores}")
    if job.gpus:
        # mpirun reaches a node as one task, which would get one GPU for all its ranks if dealt by task
        options.append("gpus-per-task=1" if job.mpi else f"gpus-per-node={job.per_node}")
    for option in _OPTIONS:
        value = getattr(job, option)
        options += [f"{option}={value}"] if value else []
    options += ["open-mode=append"]
    options += [] if "no-requeue" in given else ["requeue"]
    options += [f"signal={warning}"]
    return [*options, *(f"{key}={value}" if value else key for key, value in given.items())]


def _start(job: Job) -> str:
    program = shlex.join(job.command)
    if job.mpi:
        # srun does not take the cores of a task over from sbatch, since Slurm 22.05
        return f'srun --mpi={shlex.quote(job.mpi)} --cpus-per-task="$SLURM_CPUS_PER_TASK" {program} train'
    # The queue restarts a job, on healthy nodes.
    return f'{program} launch --restarts 0 -n "$SLURM_NTASKS"'


_TEMPLATE = """\
#!/bin/bash
# Trains one federation, a task a silo: sbatch train.sbatch [CONFIG [RUN_DIRECTORY [options of silofl train]]]
# Warned before the time limit, it finishes the round, commits it and puts itself back into the queue.
{directives}

config=${{1:-{config}}}
run=${{2:-{run}}}
options=({more})
export OMP_NUM_THREADS=${{SLURM_CPUS_PER_TASK:-1}}
export TMPDIR=${{SLURM_TMPDIR:-${{TMPDIR:-/tmp}}}}  # node-local where the site names it; results go to $run
{before_start}
{newest}
# --resume goes on from the newest committed round, and begins where there is none
{start} "$config" --run "$run" --resume "${{options[@]}}" &
ranks=$!
trap 'kill -USR1 "$ranks"' USR1
while kill -0 "$ranks" 2>/dev/null; do wait "$ranks"; done  # the warning ends a wait early
wait "$ranks"
code=$?

# 75: stopped, can go on. A job that committed no round is not queued again: it might never come further.
if [ "$code" = 75 ] && [ "$(newest)" != "$before" ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
"""
