"""`silofl submit`: the job of a queue, printed and submitted."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from silofl.cli_options import ConfigPath, Overrides, Ranks, load
from silofl.errors import ConfigError
from silofl.launcher.jobs.submission import QueueName

Words = list[str] | None


def submit(
    config: ConfigPath,
    overrides: Overrides = None,
    n: Ranks = None,
    nodes: Annotated[int, typer.Option(help="How many nodes.")] = 1,
    cores: Annotated[int, typer.Option(help="Processor cores for each silo.")] = 1,
    time: Annotated[str, typer.Option(help="Time limit, as sbatch takes it.")] = "4:00:00",
    partition: Annotated[str, typer.Option(help="Partition; the site's default when not given.")] = "",
    account: Annotated[str, typer.Option(help="Account; your default when not given.")] = "",
    gpus: Annotated[bool, typer.Option("--gpus", help="One GPU for each silo.")] = False,
    mem: Annotated[str, typer.Option(help="Memory of a node, such as 64G.")] = "",
    qos: Annotated[str, typer.Option(help="Quality of service.")] = "",
    constraint: Annotated[str, typer.Option(help="Features that nodes must have.")] = "",
    output: Annotated[str, typer.Option(help="File of what the job prints.")] = "",
    modules: Annotated[
        Words, typer.Option("--module", metavar="NAME", help="module load NAME in the job; repeatable.")
    ] = None,
    prologue: Annotated[
        Words,
        typer.Option("--prologue", metavar="LINE|FILE", help="Shell before the start, as is; repeatable."),
    ] = None,
    sbatch: Annotated[
        Words, typer.Option("--sbatch", metavar="KEY=VALUE", help="Any other option of sbatch; repeatable.")
    ] = None,
    container: Annotated[
        str, typer.Option(metavar="IMAGE", help="Apptainer image that has silofl; it runs in there.")
    ] = "",
    mpi: Annotated[str, typer.Option(help="Start ranks by srun --mpi=..., not by mpirun.")] = "",
    queue: Annotated[QueueName, typer.Option(help="Whose job it is; pbs and lsf are untried.")] = "slurm",
    run: Annotated[str, typer.Option(help="Run directory; runs/<config>-<job id> when not given.")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print the job.")] = False,
) -> None:
    """Print and submit the queue's job that trains CONFIG, and that goes on by itself at its time limit."""
    from silofl.federation.secure_conflicts import refuse_conflicts
    from silofl.launcher.command import python_command
    from silofl.launcher.jobs import lsf, pbs, slurm, submission
    from silofl.launcher.jobs.options import Job
    from silofl.privacy.claim import foretold

    every = load(config, overrides, run)
    if every.hosts():
        raise ConfigError(
            "institutions have hosts, and a queue places silos itself: remove host from [[institution]], or "
            "use silofl launch"
        )
    settings, n = every.of(0), every.silos(n)
    for silo in range(n if every.own else 1):
        refuse_conflicts(every.of(silo))
    if ("run", "dir") in every.own_keys():
        raise ConfigError(
            "institutions have a run.dir each, and a queue's job names one for all: set run.dir with {silo} "
            "in it for all, or use silofl launch"
        )
    ranks = max(every.of(silo).train.ranks_per_silo for silo in range(n if every.own else 1))
    if gpus and ranks > 1:
        raise ConfigError(
            f"--gpus asks for one GPU for each silo, and train.ranks_per_silo = {ranks}: leave it out, and "
            "give --sbatch gpus-per-node=NUMBER, of all ranks of a node"
        )
    job = Job(
        config=str(config),
        silos=n,
        nodes=nodes,
        cores=cores,
        time=time,
        partition=partition,
        account=account,
        gpus=gpus,
        mem=mem,
        qos=qos,
        constraint=constraint,
        output=output,
        modules=modules or [],
        prologue=[_shell(one) for one in prologue or []],
        sbatch=sbatch or [],
        container=container,
        mpi=mpi,
        run=run,
        more=[f"--set={override}" for override in overrides or []],
        # the job need not find silofl on its PATH, and an image has its own
        program=["silofl"] if container else python_command(),
    )
    text = {"slurm": slurm.job_text, "pbs": pbs.job_text, "lsf": lsf.job_text}[queue](job)
    typer.echo(text, nl=False)
    if not dry_run:
        typer.echo(f"job {submission.submit(text, queue)}")
    statistics, participation = bool(settings.data.standardize), settings.run.participation
    claim = foretold(settings.privacy, statistics=statistics, participation=participation)
    typer.echo(f"privacy: {claim}", err=True)


def _shell(text: str) -> str:
    """The lines of a file where there is one of this name, the text itself otherwise."""
    try:
        return Path(text).read_text(encoding="utf-8") if Path(text).is_file() else text
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--prologue {text}: cannot be read as UTF-8 text: {error}") from None
