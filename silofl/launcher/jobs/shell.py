"""The shell that the jobs of all queues have in common."""

from __future__ import annotations

import shlex

from silofl.errors import ConfigError
from silofl.launcher.jobs.options import WARNING_S, Job, seconds_of

FIND_MODULES = "type -t module > /dev/null || . /etc/profile  # which defines it on most sites"


def quoted_config(job: Job) -> str:
    """The configuration as one word of shell that no program takes for an option."""
    return shlex.quote(f"./{job.config}" if job.config.startswith("-") else job.config)


def run_directory(job: Job, job_id: str) -> str:
    """The run directory as one word of shell; named after the queue's `job_id` where none is given."""
    return shlex.quote(job.run) if job.run else f'runs/$(basename -- "$config" .toml)-{job_id}'


def before_start(job: Job) -> str:
    """Modules and the user's own lines, with a line end each; empty without any."""
    loads = [f"module load {name} || exit 2" for name in job.modules]
    lines = [*([FIND_MODULES] if loads else []), *loads]
    return "".join(f"{line}\n" for line in [*lines, *(one.rstrip("\n") for one in job.prologue)])


def newest(silos: str) -> str:
    """A function of the shell that says which round is the newest committed one; `silos` is their number."""
    return _NEWEST.replace("SILOS", silos)


def refuse_of_slurm(job: Job, queue: str) -> None:
    """Raise ConfigError for options that only Slurm has."""
    given = {"--mpi": job.mpi, "--qos": job.qos, "--sbatch": job.sbatch}
    for option, value in given.items():
        if value:
            raise ConfigError(f"{option} is Slurm's: remove it, or leave out --queue {queue}")


def timed_start(job: Job, limit_s: int | None) -> str:
    """Start of ranks by mpirun in a queue that does not warn: `timeout` does, before the limit."""
    words = []
    if limit_s is not None:
        seconds = max(1, limit_s - WARNING_S)
        words = ["timeout", "--foreground", "--preserve-status", "--signal=USR1", str(seconds)]
    return shlex.join([*words, *job.command, "launch", "--restarts", "0", "-n", str(job.silos)])


def timed_body(job: Job, job_id: str, temporary: str, end: str) -> str:
    """The script after its directives, where the queue does not warn; `end` says what follows code 75.

    `job_id` and `temporary` are the queue's variables of the job's number and of its folder on the node.
    """
    return _BODY.format(
        config=quoted_config(job),
        run=run_directory(job, job_id),
        more=" ".join([*map(shlex.quote, job.more), '"${@:3}"']),
        cores=job.cores,
        temporary=temporary,
        before_start=before_start(job),
        newest=newest(str(job.silos)),
        start=timed_start(job, seconds_of(job.time)),
        end=end,
    )


_NEWEST = """\
# of any silo whose directory can be seen from here, where each has its own
newest() {
  local silo dir
  for ((silo = 0; silo < SILOS; silo++)); do
    dir=${run//\\{silo\\}/$silo}
    ls -d -- "${dir/#~\\//$HOME/}"/checkpoints/round-*/manifest.json
    [ "$dir" != "$run" ] || break
  done 2>/dev/null | grep -o 'round-[0-9]*/manifest.json$' | sort | tail -n 1
}
before=$(newest)
"""

_BODY = """\
config=${{1:-{config}}}
run=${{2:-{run}}}
options=({more})
export OMP_NUM_THREADS={cores}
export TMPDIR={temporary}  # node-local where the site names it; results go to $run
{before_start}
{newest}
# --resume goes on from the newest committed round, and begins where there is none
{start} "$config" --run "$run" --resume "${{options[@]}}"
code=$?

{end}
exit "$code"
"""
