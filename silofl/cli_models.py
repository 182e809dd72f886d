"""Commands that use what a run has trained: `silofl predict`, `evaluate`, `membership` and `export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from silofl.cli_options import new_file

Model = Annotated[Path, typer.Argument(metavar="RUN", help="Run directory, or a model file of one.")]
Silo = Annotated[int | None, typer.Option(min=0, help="Use the personal model of this silo.")]
OwnTask = Annotated[
    str | None,
    typer.Option(metavar="MODULE:CLASS", help="Your own task, for a model file."),
]
Decimal = Annotated[str, typer.Option(help="The sign before decimals in text: . or ,")]
Silos = Annotated[
    int | None, typer.Option("-n", "--silos", min=1, help="Of a task without files; as in the run.")
]
Found = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write what was found here, too.")]


def predict(
    run: Model,
    data: Annotated[Path, typer.Argument(metavar="DATA", help="New samples: CSV, Parquet, NPZ, images.")],
    output: Annotated[
        str, typer.Option("-o", "--output", metavar="FILE", help="Where predictions go; - prints them.")
    ] = "-",
    silo: Silo = None,
    id_column: Annotated[
        str, typer.Option("--id", metavar="COLUMN", help="Copy this column; that of data.id when not given.")
    ] = "",
    decimal: Decimal = ".",
    task: OwnTask = None,
) -> None:
    """Predict new samples with a trained model: classes and probabilities, as CSV in the order of DATA."""
    from silofl.checkpoint.atomic_files import write_bytes
    from silofl.inference.loading import load
    from silofl.inference.prediction_file import predictions_of

    if output != "-":
        new_file(Path(output), data)
    text = predictions_of(load(run, silo, task=task), data, id_column, _sign(decimal))
    if output == "-":
        typer.echo(text, nl=False)
    else:
        write_bytes(Path(output), text.encode())


def evaluate(
    run: Model,
    data: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[DATA]...", help="Labelled files; the task's own held-out samples without."),
    ] = None,
    silo: Silo = None,
    cross_site: Annotated[
        bool,
        typer.Option("--cross-site", help="Each personal model, and the shared one, on all data."),
    ] = False,
    held_out: Annotated[
        bool, typer.Option("--held-out", help="Only samples that the run held out of training.")
    ] = False,
    silos: Silos = None,
    json: Found = None,
    decimal: Decimal = ".",
    task: OwnTask = None,
) -> None:
    """Evaluate trained models on labelled data: the task's loss and metrics, one row for each file."""
    from silofl.checkpoint.atomic_files import write_json
    from silofl.errors import StorageError
    from silofl.inference.evaluation import evaluate_on, held_out_of_silos, labelled_files
    from silofl.inference.runs import models_of, silos_of
    from silofl.report.evaluation_table import CROSS_SITE, print_evaluation

    if json is not None:
        new_file(json, *(data or ()))
    found, samples = [], None
    for model in models_of(run, silo, task=task, cross_site=cross_site):
        if samples is None and data:
            samples = labelled_files(model, data, held_out=held_out, decimal=_sign(decimal))
        elif samples is None:
            samples = held_out_of_silos(model, silos_of(run, silos))
        found += evaluate_on(model, samples)
    rows = [one.to_json() for one in found]
    print_evaluation(rows)
    if json is not None:
        write_json(json, rows, private=False)
    if cross_site:
        try:
            write_json(run / CROSS_SITE, rows, private=False)
        except StorageError as error:  # a run directory that is another's
            typer.echo(f"silofl report will not show this: {error}", err=True)


def membership(
    run: Model,
    data: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[DATA]...", help="Files of training; the task's own samples without."),
    ] = None,
    silos: Silos = None,
    json: Found = None,
    decimal: Decimal = ".",
    task: OwnTask = None,
) -> None:
    """Attack a trained model: do losses tell records of training from those that were held out?"""
    from silofl.checkpoint.atomic_files import write_json
    from silofl.inference.loading import load
    from silofl.inference.runs import silos_of
    from silofl.privacy_attacks.run_members import membership_of, samples_of_files, samples_of_silos

    if json is not None:
        new_file(json, *(data or ()))
    model = load(run, task=task)
    if data:
        samples = samples_of_files(model, data, decimal=_sign(decimal))
    else:
        samples = samples_of_silos(model, silos_of(run, silos))
    found = membership_of(model, samples)
    typer.echo(found.text(), nl=False)
    if json is not None:
        write_json(json, found.to_json(), private=False)


def export(
    run: Model,
    output: Annotated[Path, typer.Argument(metavar="FILE.onnx", help="Where the model goes.")],
    silo: Silo = None,
    task: OwnTask = None,
) -> None:
    """Write a trained model as ONNX, its preprocessing with it; needs silofl[onnx]."""
    from silofl.errors import ConfigError
    from silofl.inference.loading import load
    from silofl.inference.onnx_export import export_onnx

    if output.suffix != ".onnx":
        raise ConfigError(f"{output} does not end in .onnx, the one format that there is")
    export_onnx(load(run, silo, task=task), new_file(output))
    typer.echo(f"model {output}: input raw, output outputs")


def _sign(decimal: str) -> str:
    from silofl.errors import ConfigError

    if decimal not in (".", ","):
        raise ConfigError(f"--decimal {decimal!r} is neither . nor ,")
    return decimal
