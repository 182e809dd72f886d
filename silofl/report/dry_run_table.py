"""What a run would be, as `silofl check` shows it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.markup import escape
from rich.table import Table

MIB = 1 << 20
_COLUMNS = 60
"""That are shown."""


@dataclass(frozen=True)
class SiloDryRun:
    """One silo before it runs."""

    silo: int
    device: str
    """Of its ranks: as torch names it, or several with commas between them."""
    train_samples: int
    test_samples: int
    patients: int | None = None
    """How many persons it trains on, where those are protected."""
    name: str = ""
    """The institution's."""
    ranks: int = 1
    """With how many it trains."""
    counted: int = 0
    """As how many records, persons or clients it counts in sums."""

    @property
    def persons(self) -> int:
        """As how many its training samples count."""
        return self.train_samples if self.patients is None else self.patients


@dataclass(frozen=True)
class DryRun:
    """A run before it runs. Memory counts silofl's own arrays, not activations, data or libraries."""

    silos: list[SiloDryRun]
    columns: str
    """Names and kinds of the data's columns; empty where the task tells nothing of them."""
    model: str
    strategy: str
    rounds: int
    personal: str
    """How each silo comes to a model of its own; empty where none does."""
    participation: str
    """Who takes part in a round; empty where all silos do."""
    protocol: str
    bytes_sent_per_round: int
    """Payload that silo 0 hands to other ranks in a round."""
    bytes_sent_pruned: int | None
    """The same once [prune] has come to its end; None where nothing is pruned."""
    link: str
    """How long a round's exchanges take over a link between the silos; empty where none was named."""
    memory_mib: float
    """Per silo: global model, local model, gradients, update, and the buffers of the sum."""
    keys: str
    """By which keys silos know each other; empty where the sum hides nothing."""
    bears: str
    """How many silos may die, collude or lie in a sum; empty where it hides nothing."""
    steps: str
    """How many silos recompute each slice's step; empty where there is one silo."""
    failure: str
    """What happens when a silo fails."""
    privacy: str
    """What is promised at the end, or that nothing is."""
    outside: str
    """Which records no epsilon covers although they are shown; empty where there are none."""
    notes: list[str]
    """What makes that promise weaker than it looks, and what may be wrong with the data."""
    treatments: Sequence[tuple[str, str, str]] = ()
    """Of each column of files its name, kind, and what is done to it; no value."""
    target: str = ""
    """What is learnt of files: the columns, and how."""
    clients: str = ""
    """How many clients silos have, and how these train; empty where they have none."""


def print_dry_run(found: DryRun) -> None:
    """Print what `silofl check` found."""
    console = Console(highlight=False)
    of_patients = any(row.patients is not None for row in found.silos)
    named = any(row.name for row in found.silos)
    of_ranks = len({row.ranks for row in found.silos}) > 1
    titles = ["silo", *(["institution"] if named else []), *(["ranks"] if of_ranks else []), "device"]
    titles += ["training samples", "held out", *(["training patients"] if of_patients else [])]
    table = Table(*titles, box=None, padding=(0, 2, 0, 0))
    for row in found.silos:
        counts = [row.train_samples, row.test_samples, *([row.persons] if of_patients else [])]
        names = [*([escape(row.name)] if named else []), *([str(row.ranks)] if of_ranks else [])]
        table.add_row(str(row.silo), *names, row.device, *map(str, counts))
    console.print(table)
    _print_columns(console, found)
    if found.target:
        console.print(f"target      {found.target}", soft_wrap=True, markup=False)
    console.print(f"model       {found.model}")
    console.print(f"strategy    {found.strategy}, {found.rounds} rounds")
    if found.personal:
        console.print(f"personal    {found.personal}", soft_wrap=True)
    if found.participation:
        console.print(f"silos       {found.participation}", soft_wrap=True)
    if found.clients:
        console.print(f"clients     {found.clients}", soft_wrap=True)
    console.print(f"sum         {found.protocol}")
    if found.keys:
        console.print(f"keys        {found.keys}", soft_wrap=True)
    if found.bears:
        console.print(f"bears       {found.bears}", soft_wrap=True)
    if found.steps:
        console.print(f"steps       {found.steps}", soft_wrap=True)
    pruned = found.bytes_sent_pruned
    less = ""
    if pruned is not None:
        less = f", {pruned / MIB:.3f} MiB once all that is to be pruned is; and new keys after each pruning"
    console.print(
        f"wire        {found.bytes_sent_per_round / MIB:.3f} MiB sent by a silo in a round{less}",
        soft_wrap=True,
    )
    if found.link:
        console.print(f"link        {found.link}", soft_wrap=True)
    console.print(f"memory      {found.memory_mib:.1f} MiB of silofl's own arrays in each silo")
    console.print(f"failure     {found.failure}", soft_wrap=True)
    console.print(f"privacy     {found.privacy}", soft_wrap=True)
    if found.outside:
        console.print(f"outside     {found.outside}", soft_wrap=True)
    for note in found.notes:
        console.print(f"  note      {note}", soft_wrap=True, markup=False)


def _print_columns(console: Console, found: DryRun) -> None:
    if not any(name for name, _, _ in found.treatments):
        if found.columns:
            console.print(f"columns     {found.columns}", soft_wrap=True, markup=False)
        return
    table = Table("column", "kind", "what is done to it", box=None, padding=(0, 2, 0, 0))
    for name, kind, what in found.treatments[:_COLUMNS]:
        table.add_row(escape(name), escape(kind), escape(what))
    console.print(table)
    more = len(found.treatments) - _COLUMNS
    if more > 0:
        console.print(f"and {more} more columns")
