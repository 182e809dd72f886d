"""Tables for the terminal: what would run."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from silofl.config import Config
from silofl.federation.dry_run import MIB, DryRun


def print_dry_run(config: Config, dry_run: DryRun) -> None:
    """Print what `silofl check` found."""
    console = Console(highlight=False)
    table = Table("silo", "device", "training samples", "held out", box=None, padding=(0, 2, 0, 0))
    for row in dry_run.silos:
        table.add_row(str(row.silo), row.device, str(row.train_samples), str(row.test_samples))
    console.print(table)
    console.print(f"model       {dry_run.model}")
    console.print(f"strategy    {config.strategy.name}, {config.run.rounds} rounds")
    console.print(f"sum         {dry_run.protocol}")
    console.print(f"wire        {dry_run.bytes_sent_per_round / MIB:.3f} MiB sent by a silo in a round")
    console.print(f"memory      {dry_run.memory_mib:.1f} MiB of silofl's own arrays in each silo")
    console.print(f"failure     {dry_run.failure}", soft_wrap=True)
    nothing = "none: this configuration adds no noise, so nothing bounds what the model reveals"
    console.print(f"privacy     {dry_run.privacy or nothing}", soft_wrap=True)
    for note in dry_run.notes:
        console.print(f"  note      {note}", soft_wrap=True)
