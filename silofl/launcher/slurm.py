"""Slurm job of one federation: its script, a pure function of the options, and its submission."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from silofl.errors import ConfigError, MissingDependencyError

WARNING_S = 120
"""Seconds before the time limit at which Slurm warns; sbatch(1): it may come up to 60 s earlier."""

SBATCH_TIMEOUT_S = 120.0

_WORD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.,:/@+-]*")
"""No blank, no quote, and nothing that a shell or sbatch reads as anything but itself."""
_LIMIT = re.compile(r"([0-9]+-)?[0-9]+(:[0-9]{1,2}){0,2}|UNLIMITED|INFINITE", re.IGNORECASE)


@dataclass(frozen=True)
class Job:
    """Options of a job; the defaults give `slurm/train.sbatch`.

    Attributes:
        config: path of the TOML configuration, relative to the folder that the job is submitted from.
        silos: ranks in all, dealt over `nodes` nodes, each with `cores` processor cores.
        time: the limit as sbatch takes it, such as "30" (minutes), "4:00:00" or "2-0";
            the site's where empty.
        partition: the site's default where empty.
        account: the user's default where empty.
        gpus: one GPU for each silo.
        mpi: what `srun --mpi` is to start the ranks with, such as "pmix"; mpirun starts them where empty.
        run: the run directory; `runs/<config>-<job id>` where empty.
        more: further options of `silofl train`, word by word.
        program: the command `silofl`, word by word.
    """

    config: str = "launch/digits.toml"
    silos: int = 4
    nodes: int = 1
    cores: int = 1
    time: str = "4:00:00"
    partition: str = ""
    account: str = ""
    gpus: bool = False
    mpi: str = ""
    run: str = ""
    more: Sequence[str] = ()
    program: Sequence[str] = ("silofl",)


def job_text(job: Job) -> str:
    """Return the script for sbatch. Raises ConfigError for impossible options."""
    _refuse_impossible(job)
    return _TEMPLATE.format(
        directives="\n".join(f"#SBATCH --{option}" for option in _directives(job)),
        config=shlex.quote(f"./{job.config}" if job.config.startswith("-") else job.config),  # no option
        run=shlex.quote(job.run) if job.run else 'runs/$(basename -- "$config" .toml)-$SLURM_JOB_ID',
        more=" ".join([*map(shlex.quote, job.more), '"${@:3}"']),
        start=_start(job),
    )


def submit(text: str) -> str:
    """Give a script to sbatch and return the job's id.

    Raises MissingDependencyError where there is no sbatch, ConfigError where it refuses the job.
    """
    sbatch = shutil.which("sbatch")
    if sbatch is None:
        raise MissingDependencyError(
            "no sbatch on PATH, so there is no Slurm here: submit on a login node, or use silofl launch"
        )
    line = [sbatch, "--parsable"]
    try:
        done = subprocess.run(
            line, input=text, capture_output=True, text=True, timeout=SBATCH_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise ConfigError(
            f"sbatch has not answered for {SBATCH_TIMEOUT_S:g} s: ask sinfo how Slurm is"
        ) from None
    if done.returncode:
        reasons = [line.removeprefix("sbatch: error: ") for line in done.stderr.splitlines()]
        raise ConfigError(f"sbatch refused the job: {'; '.join(reasons) or 'it does not say why'}")
    return done.stdout.strip().partition(";")[0]


def _refuse_impossible(job: Job) -> None:
    if job.silos < 1 or job.cores < 1:
        raise ConfigError(f"--silos {job.silos} --cores {job.cores}: give at least 1 of each")
    if not 1 <= job.nodes <= job.silos:
        raise ConfigError(f"--nodes {job.nodes} with --silos {job.silos}: give 1 to {job.silos} nodes")
    for option in ("time", "partition", "account", "mpi"):
        value = getattr(job, option)
        if value and not _WORD.fullmatch(value):
            raise ConfigError(
                f"--{option} {value!r}: give one word of letters, digits and _.,:/@+-, as Slurm's names are"
            )
    if job.time and not _LIMIT.fullmatch(job.time):
        raise ConfigError(
            f'--time {job.time!r}: give minutes, "4:00:00" or days as in "2-0", as sbatch takes it'
        )
    if job.time.isdecimal() and 0 < int(job.time) * 60 <= WARNING_S:
        raise ConfigError(
            f"--time {job.time} is {job.time} min, and Slurm warns {WARNING_S} s before the end: give more"
        )


def _directives(job: Job) -> list[str]:
    per_node = -(-job.silos // job.nodes)
    options = ["job-name=silofl", f"nodes={job.nodes}", f"ntasks={job.silos}"]
    if job.nodes > 1:
        options.append(f"ntasks-per-node={per_node}")  # at most; Slurm would fill the first node otherwise
    options.append(f"cpus-per-task={job.cores}")
    if job.gpus:
        # mpirun reaches a node as one task, which would get one GPU for all its ranks if dealt by task
        options.append("gpus-per-task=1" if job.mpi else f"gpus-per-node={per_node}")
    for option in ("time", "partition", "account"):
        value = getattr(job, option)
        options += [f"{option}={value}"] if value else []
    return [*options, "open-mode=append", "requeue", f"signal=B:USR1@{WARNING_S}"]


def _start(job: Job) -> str:
    program = shlex.join(job.program)
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

# of any silo whose directory can be seen from here, where each has its own
newest() {{
  local silo dir
  for ((silo = 0; silo < SLURM_NTASKS; silo++)); do
    dir=${{run//\\{{silo\\}}/$silo}}
    ls -d -- "${{dir/#~\\//$HOME/}}"/checkpoints/round-*/manifest.json
    [ "$dir" != "$run" ] || break
  done 2>/dev/null | grep -o 'round-[0-9]*/manifest.json$' | sort | tail -n 1
}}
before=$(newest)

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
