"""`silofl bench`: each figure beside the reference that a sceptic would name, in one run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from silofl.bench.measure import Row

    Part = tuple[str, list[Row], list[str]]

app = typer.Typer(no_args_is_help=True, help="Each figure beside its reference, in one run.")

Json = Annotated[Path | None, typer.Option("--json", help="Write the figures here, too.")]
Repeats = Annotated[int, typer.Option(min=1, help="Rounds of each measurement.")]
Ranks = Annotated[int, typer.Option("-n", "--silos", min=1, help="Ranks to start, outside mpirun.")]
HostOption = Annotated[str | None, typer.Option("--host", help="Hosts and their slots, as in a:2,b:2.")]
HostFile = Annotated[Path | None, typer.Option("--hostfile", help="A file of hosts, as mpirun takes it.")]
Parameters = Annotated[list[int] | None, typer.Option(min=1, help="Vector length; may be repeated.")]


@app.command()
def kernels(parameters: int = 1 << 24, repeats: Repeats = 15, json: Json = None) -> None:
    """Keystreams beside OpenSSL, quantize and mask beside memcpy."""
    from silofl.bench.kernels import run

    _show([("kernels", run(parameters=parameters, repeats=repeats), [])], json)


@app.command()
def codecs(
    parameters: Annotated[int, typer.Option(min=1, help="Vector length.")] = 1 << 24,
    repeats: Repeats = 15,
    json: Json = None,
) -> None:
    """Compression beside memcpy, with bytes a parameter and the error of a round trip."""
    from rich.console import Console

    from silofl.bench.codecs import run, table, to_json

    title, figures = f"codecs, {parameters} parameters", run(parameters=parameters, repeats=repeats)
    Console(width=120).print(table(title, figures))
    if json is not None:
        json.write_text(to_json(title, figures) + "\n")


@app.command()
def robust(
    parameters: Annotated[int, typer.Option(min=1, help="Vector length.")] = 1_000_000,
    repeats: Repeats = 9,
    json: Json = None,
) -> None:
    """Robust rules of 10 updates on one core, beside NumPy and a Gram matrix by BLAS."""
    from silofl.bench.robust import run

    title = f"robust rules, 10 updates of {parameters} parameters"
    _show([(title, run(parameters=parameters, repeats=repeats), [])], json)


@app.command()
def allreduce(
    n: Ranks = 4,
    parameters: Parameters = None,
    bits: Annotated[int, typer.Option(help="8, 16 or 32.")] = 16,
    repeats: Repeats = 9,
    pickled: Annotated[bool, typer.Option("--pickled", help="The pickling allreduce as well.")] = False,
    host: HostOption = None,
    hostfile: HostFile = None,
    json: Json = None,
) -> None:
    """The secure sum beside MPI_Allreduce of the same float32 vector."""
    from silofl.bench.launching import on_ranks

    on_ranks(n, sys.argv[1:], host, hostfile)
    from silofl.bench.allreduce import run
    from silofl.comm import run_on_ranks
    from silofl.comm.protocol import Communicator
    from silofl.comm.shutdown import Shutdown

    def body(comm: Communicator, shutdown: Shutdown) -> None:
        parts: list[Part] = []
        for length in parameters or [1 << 20, 1 << 24]:
            result = run(comm, parameters=length, bits=bits, repeats=repeats, pickled=pickled)
            title = f"secure sum, {comm.size} ranks, {length} parameters"
            parts.append((title, result.rows, result.notes))
        if comm.rank == 0:
            _show(parts, json)

    raise typer.Exit(run_on_ranks(body))


@app.command(name="round")
def round_(
    n: Ranks = 4,
    parameters: int = 10_000_000,
    repeats: Repeats = 9,
    host: HostOption = None,
    hostfile: HostFile = None,
    json: Json = None,
) -> None:
    """A whole round of a large model with trivial training beside MPI_Allreduce of its vector."""
    from silofl.bench.launching import on_ranks

    on_ranks(n, sys.argv[1:], host, hostfile)
    from silofl.bench.round import run
    from silofl.comm import run_on_ranks
    from silofl.comm.protocol import Communicator
    from silofl.comm.shutdown import Shutdown

    def body(comm: Communicator, shutdown: Shutdown) -> None:
        rows = run(comm, parameters=parameters, repeats=repeats)
        if comm.rank == 0:
            _show([(f"round, {comm.size} ranks, {parameters} parameters", rows, [])], json)

    raise typer.Exit(run_on_ranks(body))


@app.command()
def privacy(
    n: Annotated[int, typer.Option("-n", "--silos", min=3, help="Ranks to start, outside mpirun.")] = 4,
    parameters: Annotated[int, typer.Option(min=1, help="Size of the model.")] = 1_000_000,
    batch: Annotated[int, typer.Option(min=1, help="Records that a silo samples in a step.")] = 256,
    repeats: Repeats = 15,
    directory: Annotated[Path, typer.Option(help="On the disk that logs are flushed to.")] = Path(),
    json: Json = None,
) -> None:
    """A step of distributed DP-SGD beside the same clipped step with MPI_Allreduce and no noise."""
    from silofl.bench.launching import on_ranks

    on_ranks(n, sys.argv[1:])
    from silofl.bench.privacy import run
    from silofl.comm import run_on_ranks
    from silofl.comm.protocol import Communicator
    from silofl.comm.shutdown import Shutdown

    def body(comm: Communicator, shutdown: Shutdown) -> None:
        result = run(comm, parameters=parameters, batch=batch, repeats=repeats, directory=directory)
        if comm.rank == 0:
            title = f"privacy, {comm.size} ranks, {parameters} parameters, {batch} records a step"
            _show([(title, result.rows, result.notes)], json)

    raise typer.Exit(run_on_ranks(body))


@app.command()
def model(n: Ranks = 4, repeats: Repeats = 9, json: Json = None) -> None:
    """Sums and rounds as this machine's rates predict them, beside what they take; other networks."""
    from silofl.bench.launching import on_ranks

    on_ranks(n, sys.argv[1:])
    from silofl.bench.model_points import points_table, predict, predictions_table, run, to_json
    from silofl.comm import run_on_ranks
    from silofl.comm.protocol import Communicator
    from silofl.comm.shutdown import Shutdown

    def body(comm: Communicator, shutdown: Shutdown) -> None:
        known, points = run(comm, repeats=repeats)
        if comm.rank == 0:
            from rich.console import Console

            predictions = predict(known)
            Console(width=120).print(points_table(points), predictions_table(predictions))
            if json is not None:
                json.write_text(to_json(known, points, predictions) + "\n")

    raise typer.Exit(run_on_ranks(body))


@app.command()
def memory(
    n: Ranks = 4,
    parameters: Annotated[int | None, typer.Option(min=1, help="Vector length [default: 100000000].")] = None,
    gib: Annotated[float | None, typer.Option(help="GiB of a vector instead.")] = None,
    json: Json = None,
) -> None:
    """What a secure sum adds to each rank's memory, over the bytes of its vector."""
    from silofl.bench.launching import on_ranks
    from silofl.errors import ConfigError

    if gib is not None and (parameters is not None or not 0 < gib < 1 << 20):
        raise ConfigError(f"--gib {gib} must be above 0, and --parameters not given with it")
    length = parameters or 100_000_000 if gib is None else max(1, round(gib * (1 << 28)))
    on_ranks(n, sys.argv[1:])
    from silofl.bench.memory import run, table, to_json
    from silofl.comm import run_on_ranks
    from silofl.comm.protocol import Communicator
    from silofl.comm.shutdown import Shutdown

    def body(comm: Communicator, shutdown: Shutdown) -> None:
        figures = run(comm, parameters=length)
        if comm.rank == 0:
            from rich.console import Console

            Console(width=120).print(table(figures))
            if json is not None:
                json.write_text(to_json(figures) + "\n")

    raise typer.Exit(run_on_ranks(body))


@app.command()
def checkpoint(
    n: Ranks = 4,
    parameters: Annotated[int, typer.Option(min=1, help="Size of the model.")] = 100_000_000,
    own_vectors: Annotated[int, typer.Option(min=0, help="Vectors of that size each silo keeps.")] = 1,
    seconds: Annotated[float, typer.Option(min=0.1, help="What training takes in a round.")] = 8.0,
    repeats: Repeats = 5,
    buddy: Annotated[bool, typer.Option("--buddy", help="With sealed copies at the next silo.")] = False,
    directory: Annotated[Path, typer.Option(help="On the disk to measure.")] = Path(),
    json: Json = None,
) -> None:
    """How long a round stands still for its checkpoint, beside the round."""
    from silofl.bench.launching import on_ranks

    on_ranks(n, sys.argv[1:])
    from silofl.bench.checkpoint import run
    from silofl.comm import run_on_ranks
    from silofl.comm.protocol import Communicator
    from silofl.comm.shutdown import Shutdown

    def body(comm: Communicator, shutdown: Shutdown) -> None:
        result = run(
            comm,
            parameters=parameters,
            own_vectors=own_vectors,
            seconds=seconds,
            repeats=repeats,
            buddy=buddy,
            directory=directory,
        )
        if comm.rank == 0:
            title = f"checkpoint, {comm.size} ranks, {parameters} parameters"
            _show([(title, result.rows, result.notes)], json)

    raise typer.Exit(run_on_ranks(body))


@app.command()
def recovery(
    n: Annotated[int, typer.Option("-n", "--silos", min=1, help="How many silos; one is killed.")] = 4,
    repeats: Annotated[int, typer.Option(min=1, help="Federations under each policy.")] = 5,
    host: HostOption = None,
    hostfile: HostFile = None,
    json: Json = None,
) -> None:
    """From the kill of a silo to the next committed round, and until it is back."""
    from rich.console import Console

    from silofl.bench.recovery import run, table, to_json
    from silofl.launcher.hosts import named_hosts

    hosts = named_hosts(host, hostfile, n)
    results = run(n, repeats=repeats, hosts=hosts, told=lambda line: typer.echo(line, err=True))
    console = Console(width=120)
    console.print(table(n, results, hosts))
    for one in results:
        console.print(f"  {one.policy}: a round without a loss takes {one.round:.2f} s", highlight=False)
    if json is not None:
        json.write_text(to_json(n, results, hosts) + "\n")


@app.command()
def start(
    n: Annotated[list[int] | None, typer.Option("-n", "--silos", min=1, help="May be repeated.")] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Turns.")] = 5,
    json: Json = None,
) -> None:
    """From silofl launch to the end of the first round, beside one import of torch."""
    from silofl.bench.starts import run

    rows, notes = run(n or [4, 8, 20], repeats=repeats, told=lambda line: typer.echo(line, err=True))
    _show([("start to the first round's commit", rows, notes)], json)


def _show(parts: list[Part], json: Path | None) -> None:
    """Print a table for each part; write all of them as one JSON list if asked to."""
    from rich.console import Console

    from silofl.bench.measure import table, to_json

    console = Console(width=120)
    for title, rows, notes in parts:
        console.print(table(title, rows))
        for note in notes:
            console.print(f"  {note}", highlight=False)
    if json is not None:
        json.write_text("[" + ",\n".join(to_json(title, rows) for title, rows, _ in parts) + "]\n")
