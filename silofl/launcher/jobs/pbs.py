"""PBS job of one federation, as OpenPBS and PBS Professional take it. Untried: no PBS was at hand."""

from __future__ import annotations

import re

from silofl.errors import ConfigError
from silofl.launcher.jobs import shell
from silofl.launcher.jobs.options import Job, refuse_impossible, seconds_of


def job_text(job: Job) -> str:
    """Return the script for qsub. Raises ConfigError for impossible options and those of Slurm alone."""
    refuse_impossible(job)
    shell.refuse_of_slurm(job, "pbs")
    head = "\n".join(f"#PBS {option}" for option in _directives(job))
    body = shell.timed_body(job, "${PBS_JOBID%%.*}", "${TMPDIR:-/tmp}", _END)
    return f'{_HEAD}{head}\n\ncd "$PBS_O_WORKDIR" || exit 2\n{body}'


def _directives(job: Job) -> list[str]:
    options = ["-N silofl", f"-l select={_chunks(job)}"]
    options += ["-l place=scatter"] if job.nodes > 1 else []
    limit_s = seconds_of(job.time)
    if limit_s is not None:
        minutes, seconds = divmod(limit_s, 60)
        options.append(f"-l walltime={minutes // 60:02d}:{minutes % 60:02d}:{seconds:02d}")
    options += [f"-q {job.partition}"] if job.partition else []
    options += [f"-A {job.account}"] if job.account else []
    options += [f"-o {job.output}"] if job.output else []
    return [*options, "-j oe", "-r y"]


def _chunks(job: Job) -> str:
    """A chunk a node; those with one rank more come first."""
    least, more = divmod(job.silos, job.nodes)
    chunks = []
    for count, ranks in ((more, least + 1), (job.nodes - more, least)):
        if count:
            words = [f"{count}", f"ncpus={ranks * job.cores}", f"mpiprocs={ranks}"]
            words += [f"ngpus={ranks}"] if job.gpus else []
            words += [f"mem={_memory(job.mem)}"] if job.mem else []
            words += [job.constraint] if job.constraint else []
            chunks.append(":".join(words))
    return "+".join(chunks)


def _memory(text: str) -> str:
    """64G as PBS writes it: 64gb."""
    found = re.fullmatch(r"([0-9]+)([KMGT]?)B?", text, re.IGNORECASE)
    if found is None:
        raise ConfigError(f"--mem {text!r}: give a number and a unit, such as 64G")
    return f"{found[1]}{(found[2] or 'M').lower()}b"


_HEAD = """\
#!/bin/bash
# Trains one federation, a rank a silo: qsub train.pbs. UNTRIED: written from PBS's manual, never run.
# Before the time limit it finishes the round and commits it, and ends with 75: submit it again then.
"""
_END = """\
# 75: stopped, can go on; PBS lets users put no job back into the queue.
if [ "$code" = 75 ] && [ "$(newest)" != "$before" ]; then
  echo "silofl: submit this job again with --run $run, and it goes on" >&2
fi"""
