"""Tables for the terminal: what would run."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from silofl.config import Config
from silofl.federation.forecast import MIB, Forecast


def print_forecast(config: Config, forecast: Forecast) -> None:
    """Print what `silofl check` found."""
    console = Console(highlight=False)
    table = Table("silo", "device", "training samples", "held out", box=None, padding=(0, 2, 0, 0))
    for row in forecast.silos:
        table.add_row(str(row.silo), row.device, str(row.train_samples), str(row.test_samples))
    console.print(table)
    console.print(f"model       {forecast.model}")
    console.print(f"strategy    {config.strategy.name}, {config.run.rounds} rounds")
    console.print(f"sum         {forecast.protocol}")
    console.print(f"wire        {forecast.bytes_sent_per_round / MIB:.3f} MiB sent by a silo in a round")
    console.print(f"memory      {forecast.memory_mib:.1f} MiB of silofl's own arrays in each silo")
    console.print(f"failure     {forecast.failure}", soft_wrap=True)
    nothing = "none: this configuration adds no noise, so nothing bounds what the model reveals"
    console.print(f"privacy     {forecast.privacy or nothing}", soft_wrap=True)
    for note in forecast.notes:
        console.print(f"  note      {note}", soft_wrap=True)
