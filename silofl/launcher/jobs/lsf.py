"""LSF job of one federation. Untried: no LSF was at hand."""

from __future__ import annotations

from silofl.launcher.jobs import shell
from silofl.launcher.jobs.options import Job, refuse_impossible, seconds_of


def job_text(job: Job) -> str:
    """Return the script for bsub. Raises ConfigError for impossible options and those of Slurm alone."""
    refuse_impossible(job)
    shell.refuse_of_slurm(job, "lsf")
    head = "\n".join(f"#BSUB {option}" for option in _directives(job))
    hosts = _HOSTS if job.nodes > 1 else ""
    return f"{_HEAD}{head}\n\n{hosts}{shell.timed_body(job, '$LSB_JOBID', '${TMPDIR:-/tmp}', _END)}"


def _directives(job: Job) -> list[str]:
    needs = [f"span[ptile={job.per_node}]"]
    needs += [f"affinity[core({job.cores})]"] if job.cores > 1 else []
    needs += [f"rusage[mem={job.mem}]"] if job.mem else []
    needs += [f"select[{job.constraint}]"] if job.constraint else []
    options = ["-J silofl", f"-n {job.silos}", f'-R "{" ".join(needs)}"']
    options += [f'-gpu "num={job.per_node}"'] if job.gpus else []
    limit_s = seconds_of(job.time)
    if limit_s is not None:
        minutes = -(-limit_s // 60)
        options.append(f"-W {minutes // 60}:{minutes % 60:02d}")
    options += [f"-q {job.partition}"] if job.partition else []
    options += [f"-P {job.account}"] if job.account else []
    options += [f"-o {job.output}"] if job.output else []
    return [*options, "-r", "-Q 75"]


_HEAD = """\
#!/bin/bash
# Trains one federation, a rank a silo: bsub < train.lsf. UNTRIED: written from LSF's manual, never run.
# Before the time limit it finishes the round and commits it, and LSF puts it back into the queue (-Q 75).
"""
_HOSTS = """\
export PRTE_MCA_prte_default_hostfile=$LSB_DJOB_HOSTFILE  # PyPI's Open MPI knows no LSF, and goes by ssh
"""
_END = """\
# 75: stopped, can go on. A job that committed no round is not queued again: it might never come further.
if [ "$code" = 75 ] && [ "$(newest)" = "$before" ]; then
  code=1
fi"""
