"""Further options of a job, and the jobs of PBS and LSF, of which there is none here; no Slurm is needed."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from silofl.errors import ConfigError
from silofl.launcher.jobs import lsf, pbs, slurm
from silofl.launcher.jobs.options import Job, seconds_of
from tests.conftest import ROOT
from tests.slurm.test_script import HOSTILE, PATIENCE_S, environment, folder, lines, run, submit

assert folder  # a fixture

TEXTS = {"slurm": slurm.job_text, "pbs": pbs.job_text, "lsf": lsf.job_text}
NO_OPTIONS = ("n=4", "-n=4", "--exclusive", "Nice=1", "a b=c", "=x", "x\n=1", "")
IN_EXPRESSIONS = [*(sign for sign in HOSTILE if sign[0] not in "&|"), " "]
"""Features are joined by & and |, where no shell reads them."""


def head(text: str) -> list[str]:
    return [line for line in text.partition("\n\n")[0].splitlines() if line.startswith("#")]


@pytest.mark.parametrize(
    ("queue", "job", "directives"),
    [
        ("slurm", Job(mem="64G", qos="long", constraint="[a100*2&ib|h100]", output="logs/%x-%j.out"), [
            *("--mem=64G", "--qos=long", "--constraint=[a100*2&ib|h100]", "--output=logs/%x-%j.out")
        ]),
        ("slurm", Job(sbatch=["exclusive", "nodelist=n[1-3,7]", "job-name=mine", "signal=B:USR1@900"]), [
            *("--exclusive", "--nodelist=n[1-3,7]", "--job-name=mine", "--signal=B:USR1@900")
        ]),
        ("pbs", Job(silos=5, nodes=3, cores=2, gpus=True, mem="64G", time="2-0:30", partition="big"), [
            "-l select=2:ncpus=4:mpiprocs=2:ngpus=2:mem=64gb+1:ncpus=2:mpiprocs=1:ngpus=1:mem=64gb",
            *("-l place=scatter", "-l walltime=48:30:00", "-q big"),
        ]),
        ("pbs", Job(account="lab", output="out", constraint="gpu_model=a100"), [
            *("-l select=1:ncpus=4:mpiprocs=4:gpu_model=a100", "-A lab", "-o out"),
        ]),
        ("lsf", Job(silos=5, nodes=3, cores=2, mem="64G", time="90", partition="big", account="lab"), [
            *("-n 5", '-R "span[ptile=2] affinity[core(2)] rusage[mem=64G]"', "-W 1:30", "-q big", "-P lab"),
        ]),
        ("lsf", Job(gpus=True, output="out.%J", constraint="a100"), [
            *('-R "span[ptile=4] select[a100]"', '-gpu "num=4"', "-o out.%J"),
        ]),
    ],
)  # fmt: skip
def test_choices_become_directives(queue: str, job: Job, directives: list[str]) -> None:
    sign = {"slurm": "#SBATCH", "pbs": "#PBS", "lsf": "#BSUB"}[queue]
    assert {f"{sign} {option}" for option in directives} <= set(head(TEXTS[queue](job)))


def test_a_directive_that_was_given_takes_the_place_of_the_job_s_own() -> None:
    text = slurm.job_text(Job(sbatch=["job-name=mine", "signal=B:USR1@900", "no-requeue"]))
    assert text.count("--job-name=") == text.count("--signal=") == 1
    assert "--requeue" not in text


@pytest.mark.parametrize(
    ("job", "sentence"),
    [
        *((Job(sbatch=[f"{key}=1"]), f"the job sets {own} itself") for key, own in [
            ("nodes", "nodes"), ("ntasks", "ntasks"), ("mem", "mem"), ("time", "time"), ("gpus", "gpus"),
            ("part", "partition"), ("ou", "output"), ("ntasks-per", "ntasks-per-node"),
        ]),
        *((Job(sbatch=[text]), "give KEY=VALUE") for text in NO_OPTIONS),
        *((Job(sbatch=[f"comment=a{sign}b"]), "one value") for sign in [*IN_EXPRESSIONS, "#"]),
        (Job(sbatch=["comment="]), "one value"),
        (Job(sbatch=["nice=1", "nice=2"]), "given twice"),
        (Job(sbatch=["signal=TERM@9"]), "the job waits for B:USR1@SECONDS"),
        (Job(sbatch=["sig=USR2@10"]), "is short for signal"),
        (Job(sbatch=["no-req"]), "is short for no-requeue"),
        *((Job(modules=[f"a{sign}b"]), "--module") for sign in [*HOSTILE, " "]),
        *((Job(mem=f"a{sign}b"), "--mem") for sign in [*HOSTILE, " "]),
        *((Job(qos=f"a{sign}b"), "--qos") for sign in [*HOSTILE, " "]),
        *((Job(constraint=f"a{sign}b"), "--constraint") for sign in IN_EXPRESSIONS),
        *((Job(output=f"a{sign}b"), "--output") for sign in IN_EXPRESSIONS),
        (Job(container="-x"), "--container"),
        (Job(container="a\nb"), "--container"),
        (Job(container="a.sif", nodes=2), "mpirun inside an image does not reach other nodes"),
    ],
)  # fmt: skip
def test_a_job_that_cannot_be_is_refused(job: Job, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence.replace("(", r"\(")):
        slurm.job_text(job)


@pytest.mark.parametrize("queue", ["pbs", "lsf"])
@pytest.mark.parametrize("more", [{"mpi": "pmix"}, {"qos": "long"}, {"sbatch": ["exclusive"]}])
def test_options_of_slurm_are_refused_elsewhere(queue: str, more: dict[str, Any]) -> None:
    with pytest.raises(
        ConfigError, match=f"^--{next(iter(more))} is Slurm's: remove it, or leave out --queue {queue}"
    ):
        TEXTS[queue](Job(**more))


@pytest.mark.parametrize(
    ("limit", "seconds"),
    [("30", 1800), ("30:05", 1805), ("4:00:00", 14400), ("2-0", 172800), ("1-2:3", 93780), ("1-2:3:4", 93784),
     ("UNLIMITED", None), ("", None), ("0", None)],
)  # fmt: skip
def test_a_limit_is_read_as_sbatch_reads_it(limit: str, seconds: int | None) -> None:
    assert seconds_of(limit) == seconds


@pytest.mark.parametrize("queue", TEXTS)
def test_modules_and_the_user_s_own_lines_come_before_the_start(folder: Path, queue: str) -> None:
    (folder / "bin/module.sh").write_text('module() { echo "$@" >> modules; [ "$2" != no ]; }\n')
    (folder / "own.sh").write_text("export SEEN='a $HOME'\n")
    prologue = [(folder / "own.sh").read_text(), 'echo "$SEEN" > prologue']
    job = Job(modules=["openmpi/5.0", "cuda"], prologue=prologue)
    env = of_queue(folder) | {"BASH_ENV": str(folder / "bin/module.sh"), "CODE": "0"}
    assert run(folder, TEXTS[queue](job), **env) == 0
    assert lines(folder / "modules") == ["load openmpi/5.0", "load cuda"]
    assert lines(folder / "prologue") == ["a $HOME"]
    assert lines(folder / "arguments")[:5] == ["launch", "--restarts", "0", "-n", "4"]
    (folder / "arguments").unlink()
    assert run(folder, TEXTS[queue](Job(modules=["no"])), **env) == 2
    assert not (folder / "arguments").exists()


@pytest.mark.parametrize("queue", TEXTS)
@pytest.mark.parametrize("gpus", [False, True])
def test_an_image_has_the_program(folder: Path, queue: str, gpus: bool) -> None:
    (folder / "bin/apptainer").write_text('#!/bin/bash\nprintf "%s\\n" "$@" > image\n')
    (folder / "bin/apptainer").chmod(0o755)
    assert run(folder, TEXTS[queue](Job(container="my $HOME's.sif", gpus=gpus)), **of_queue(folder)) == 0
    words = ["exec", *["--nv"] * gpus, "my $HOME's.sif", "silofl", "launch", "--restarts", "0", "-n", "4"]
    assert lines(folder / "image")[: len(words)] == words


@pytest.mark.parametrize("queue", ["pbs", "lsf"])
def test_other_queues_have_a_text_that_says_it_is_untried(folder: Path, queue: str) -> None:
    text = TEXTS[queue](Job())
    assert "UNTRIED" in text.splitlines()[1]
    assert run(folder, text, "a/b.toml", "", "--set", "x.y=1", CODE="0", **of_queue(folder)) == 0
    assert lines(folder / "arguments")[3:] == [
        *("-n", "4", "a/b.toml", "--run", "runs/b-7", "--resume", "--set", "x.y=1")
    ]


@pytest.mark.parametrize("queue", ["pbs", "lsf"])
@pytest.mark.parametrize("commits", [True, False])
def test_other_queues_jobs_warn_themselves(folder: Path, queue: str, commits: bool) -> None:
    """120 s before the limit, by `timeout`; here a second after the start."""
    text = TEXTS[queue](Job(time="4:00:00")).replace(" 14280 ", " 0.5 ")
    env = of_queue(folder) | {"ENDS": "warned"} | ({"COMMITS": "runs/digits-7"} if commits else {})
    begun = time.monotonic()
    (folder / "script").write_text(text)
    done = subprocess.run(
        ["bash", "script"],
        cwd=folder,
        env=environment(folder, **env),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert time.monotonic() - begun >= 0.5
    assert done.returncode == (1 if queue == "lsf" and not commits else 75)
    assert ("submit this job again with --run runs/digits-7" in done.stderr) == (queue == "pbs" and commits)


def of_queue(folder: Path) -> dict[str, str]:
    return {"PBS_JOBID": "7.server", "PBS_O_WORKDIR": str(folder), "LSB_JOBID": "7"}


def test_submit_hands_on_what_it_was_given(folder: Path) -> None:
    (folder / "own.sh").write_text("ulimit -l unlimited\n")
    options = ["--silos", "6", "--mem", "8G", "--module", "a", "--module", "b", "--container", "x.sif"]
    done = submit(folder, *options, "--prologue", "own.sh", "--prologue", "date", "--sbatch", "exclusive")
    assert done.returncode == 0, done.stderr
    text = (folder / "submitted").read_text()
    for line in (
        "#SBATCH --ntasks=6",
        "#SBATCH --mem=8G",
        "#SBATCH --exclusive",
        "ulimit -l unlimited\ndate",
    ):
        assert f"{line}\n" in text
    assert "module load a || exit 2\nmodule load b || exit 2\n" in text
    assert "\napptainer exec x.sif silofl launch " in text


@pytest.mark.covering(0)
@pytest.mark.parametrize(
    ("queue", "program", "told"),
    [("pbs", "qsub", "7.server"), ("lsf", "bsub", "Job <7> is submitted to queue <normal>.")],
)
def test_submit_gives_a_job_to_its_own_queue(folder: Path, queue: str, program: str, told: str) -> None:
    (folder / "bin" / program).write_text(f'#!/bin/bash\ncat > submitted\necho "{told}"\n')
    (folder / "bin" / program).chmod(0o755)
    done = submit(folder, "--queue", queue)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{(folder / 'submitted').read_text()}job {told if queue == 'pbs' else '7'}\n"
    (folder / "bin" / program).unlink()
    line = [sys.executable, "-m", "silofl", "submit", str(ROOT / "launch/digits.toml"), "--queue", queue]
    env = environment(folder) | {"PATH": str(folder / "bin")}
    done = subprocess.run(line, env=env, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 2
    assert f"no {program} on PATH, so there is no {queue.upper()} here" in done.stderr
