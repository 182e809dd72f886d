"""The command `silofl`: arguments in, one call, an exit code out."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from silofl import __version__
from silofl.bench.cli import app as bench
from silofl.cli_config import config, init
from silofl.cli_models import evaluate, export, membership, predict
from silofl.cli_options import ConfigPath, Overrides, Ranks, Resume, Run
from silofl.cli_options import load as _load
from silofl.cli_report import report
from silofl.cli_simulate import simulate
from silofl.cli_stats import stats
from silofl.cli_submit import submit
from silofl.cli_verify import verify
from silofl.config import Config
from silofl.errors import EXIT_FALSE_CLAIM, ConfigError

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Federated learning across institutions on MPI.",
)

app.add_typer(bench, name="bench")


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit


@app.command()
def train(
    config: ConfigPath,
    overrides: Overrides = None,
    run: Run = "",
    resume: Resume = False,
) -> None:
    """Train; every rank of an mpirun calls this, and each is one silo."""
    from silofl.federation.stop import StopRequest

    stop = StopRequest()  # first: a queue may warn ranks that are still loading their libraries
    from silofl.comm import run_on_ranks
    from silofl.comm.protocol import Communicator
    from silofl.comm.shutdown import Shutdown

    def body(comm: Communicator, shutdown: Shutdown) -> None:
        from silofl.federation.entry import own_settings, train_or_rejoin

        def load(silo: int, silos: int) -> Config:
            return own_settings(_load(config, overrides, run), silo, silos)

        def keep_traces(path: Path) -> None:
            shutdown.trace_dir = path

        train_or_rejoin(load, comm=comm, resume=resume, on_directory=keep_traces, stop=stop)

    code = run_on_ranks(body)
    stop.too_late()
    raise typer.Exit(code)


@app.command()
def check(
    config: ConfigPath,
    n: Ranks = None,
    overrides: Overrides = None,
    link: Annotated[
        str | None,
        typer.Option(metavar="MBIT[,MS]", help="Say a round's time over such a link, too: 100 or 100,20."),
    ] = None,
) -> None:
    """Describe what would run: silos, devices, samples, bytes a round, memory."""
    from silofl.federation.dry_run import dry_run
    from silofl.federation.link_time import Link
    from silofl.report.dry_run_table import print_dry_run

    over = None if link is None else Link.named(link)
    settings = _load(config, overrides, "")
    silos = settings.silos(n)
    print_dry_run(dry_run(settings.of(0), silos, over, settings.own, settings.institutions))


@app.command()
def strategies(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Only the one of this name.")] = None,
) -> None:
    """List strategies, personal methods, codecs, rules and attacks: their keys, papers and properties."""
    from silofl.config.listing import listing

    typer.echo("\n".join(listing(name)))


@app.command()
def doctor(
    json: Annotated[
        str | None, typer.Option(metavar="FILE", help="Write it here as JSON; - prints it.")
    ] = None,
    host: Annotated[str | None, typer.Option(metavar="A,B", help="Examine these hosts.")] = None,
    hostfile: Annotated[Path | None, typer.Option(help="Examine the hosts of this file.")] = None,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds that examining hosts may take.")] = 60.0,
    tell: Annotated[bool, typer.Option("--tell", hidden=True)] = False,
    meet: Annotated[bool, typer.Option("--meet", hidden=True)] = False,
) -> None:
    """Examine this machine, or hosts: MPI, GPUs, Slurm, what differs, and what to do about each gap."""
    from json import dumps

    from silofl.checkpoint.atomic_files import write_json
    from silofl.launcher.hosts import every_host
    from silofl.report import doctor_hosts
    from silofl.report.doctor_report import HostReport, Report

    if tell:
        doctor_hosts.tell_report()
        raise typer.Exit
    if meet:
        raise typer.Exit(doctor_hosts.meet())
    names = every_host(host, hostfile)
    report = doctor_hosts.examine_hosts(names, timeout) if names else Report([HostReport.own()])
    if json != "-":
        report.print()
    if json == "-":
        typer.echo(dumps(report.to_json(), indent=1))
    elif json is not None:
        write_json(Path(json), report.to_json(), private=False)
    raise typer.Exit(report.exit_code)


@app.command()
def privacy(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="Run directory, a copy of one silo's, or a budget file.")
    ],
    json: Annotated[Path | None, typer.Option("--json", help="Write the statement here, too.")] = None,
    python: Annotated[
        bool, typer.Option("--python", help="Only print Python that works out epsilon by dp-accounting.")
    ] = False,
) -> None:
    """What a run, or all runs on a data set, spent, as a statement to be signed; no data is read."""
    from silofl.federation.budget_statement import statement_of_budget
    from silofl.federation.run_statement import statement_of_run, write

    statement = statement_of_budget(run) if run.is_file() else statement_of_run(run)
    if json is not None:
        write(json, statement)
    recompute = f"{shlex.join(['silofl', 'privacy', str(run), '--python'])} | python"
    typer.echo(statement.python() if python else statement.text(recompute), nl=False)


@app.command()
def audit(
    config: ConfigPath,
    n: Ranks = None,
    overrides: Overrides = None,
    canaries: Annotated[int, typer.Option(help="Records that are there or not by a coin.")] = 2000,
    seed: Annotated[int, typer.Option(min=0, help="Of coins and canaries.")] = 0,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds that the audited run may take.")] = 600.0,
    json: Annotated[Path | None, typer.Option("--json", help="Write what was found here, too.")] = None,
) -> None:
    """Attack one run with canaries: does what is proven of epsilon contradict what is claimed?"""
    from silofl.audit.audit import audit
    from silofl.checkpoint.atomic_files import write_json

    settings = _load(config, overrides, "")
    if settings.institutions:
        raise ConfigError("silofl audit takes no [[institution]]: write {silo} in data.path in their place")
    found = audit(settings.of(0), settings.silos(n), canaries, seed=seed, timeout_s=timeout)
    typer.echo(found.text(), nl=False)
    if json is not None:
        write_json(json, found.to_json(), private=False)
    raise typer.Exit(0 if found.holds else EXIT_FALSE_CLAIM)


@app.command()
def launch(
    config: ConfigPath,
    n: Ranks = None,
    overrides: Overrides = None,
    run: Run = "",
    resume: Resume = False,
    restarts: Annotated[
        int,
        typer.Option(min=0, help="How often to restart the job when too many silos have failed to go on."),
    ] = 3,
    host: Annotated[
        str | None, typer.Option(metavar="A:2,B:2", help="Hosts, and how many silos run on each.")
    ] = None,
    hostfile: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The same by lines such as `a slots=2`.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print the line.")] = False,
) -> None:
    """Print and run the mpirun line that fits this machine: `silofl train` on every rank."""
    from silofl.comm.mpi_library import mpi_info
    from silofl.federation.early_checks import Start, refuse_early
    from silofl.federation.placement import hosts_of, silos_here
    from silofl.federation.rundir import pick
    from silofl.launcher.command import python_command
    from silofl.launcher.detection import on_one_node, refuse_several_launches
    from silofl.launcher.job_start import JobStart
    from silofl.privacy.claim import foretold

    refuse_several_launches(os.environ)
    every = _load(config, overrides, run)
    settings, silos = every.of(0), every.silos(n)
    hosts = hosts_of(every, host, hostfile, silos)
    here = silos_here(every, silos, hosts, one_node=on_one_node(os.environ))
    refuse_early(Start(settings, silos, resume, own=every.own), here)
    info, root = mpi_info(), os.geteuid() == 0
    train = [*python_command(), "train", str(config)]
    train += [f"--set={override}" for override in overrides or []]
    # Named here, for a restarted job has to find the run directory.
    train += [] if ("run", "dir") in every.own_keys() else ["--run", pick(settings, resume=resume)]
    silent_s, in_order = settings.failure.silent_s, bool(every.hosts())
    leaves_out = settings.failure.policy == "shrink"
    job = JobStart(
        info, silos, hosts, train, root=root, silent_s=silent_s, in_order=in_order, leaves_out=leaves_out
    )
    typer.echo(shlex.join(job.line(hosts, resume=resume)))
    sys.stdout.flush()
    statistics, participation = bool(settings.data.standardize), settings.run.participation
    claim = foretold(settings.privacy, statistics=statistics, participation=participation)
    typer.echo(f"privacy: {claim}", err=True)  # the line alone is to be copied
    if not dry_run:
        first = "a machine's first start compiles kernels, too"
        typer.echo(f"starting {silos} silos: libraries are loaded ({first})", err=True)
        policies = ("respawn", "shrink") if hosts else ("respawn",)
        raise typer.Exit(job.run(restarts if settings.failure.policy in policies else 0, resume=resume))


app.command()(submit)
app.command()(stats)
app.command()(simulate)
app.command()(config)
app.command()(init)
app.command()(predict)
app.command()(evaluate)
app.command()(membership)
app.command()(export)
app.command()(report)
app.command()(verify)


@app.command()
def keygen(
    key: Annotated[Path, typer.Argument(metavar="KEY", help="File for the private key; never overwritten.")],
    name: Annotated[str, typer.Option(help="The institution's name in the roster.")],
    passphrase_file: Annotated[
        Path | None, typer.Option(help="File whose first line encrypts the private key.")
    ] = None,
) -> None:
    """Make this institution's identity: a private key that stays here, a public one to send to the others."""
    from silofl.crypto.identity import Identity, read_passphrase
    from silofl.crypto.roster import Institution, Roster

    identity = Identity.generate()
    public = key.with_name(f"{key.name}.pub")
    identity.save(key, None if passphrase_file is None else read_passphrase(passphrase_file))
    public.write_text(Roster((Institution(name, identity.public),)).dumps(), encoding="utf-8")
    typer.echo(f"private key {key} (stays here), public key {public} (goes to the maker of the roster)")


@app.command()
def roster(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="Public keys or rosters, in silo order.")
    ],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Write the joint roster here.")
    ] = None,
) -> None:
    """Join public keys into a roster; print it and the digest that institutions compare by another way."""
    from silofl.crypto.roster import Roster

    joint = Roster(tuple(one for file in files for one in Roster.load(file).institutions))
    for number, one in enumerate(joint.institutions):
        typer.echo(f"silo {number}  {one.key.hex()}  {one.name}")
    typer.echo(f"digest  {joint.digest.hex()}")
    if output is not None:
        output.write_text(joint.dumps(), encoding="utf-8")


command = typer.main.get_command(app)
"""All of the above, for `silofl.__main__`."""
