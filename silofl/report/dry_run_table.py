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
class EdgeRow:
    """Ranks that send others the same, once for all of them.

    Attributes:
        edges: which, in words.
        messages, bytes: of one of them in a round, from the fewest to the most.
        learnt: what the receiver learns.
        total: messages and bytes of all of them together.
    """

    edges: str
    messages: tuple[int, int]
    bytes: tuple[int, int]
    learnt: str
    total: tuple[int, int]


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
    topology: Sequence[EdgeRow]
    """Who sends what to whom in a round, where every rank has a machine of its own."""
    between_groups: str
    """What passes between groups of ranks in a round; empty where there are none."""
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
    pruned, sent = (
        found.bytes_sent_pruned,
        f"{found.bytes_sent_per_round / MIB:.3f} MiB sent by a silo in a round",
    )
    if pruned is not None:
        sent += f", {pruned / MIB:.3f} MiB once all that is to be pruned is; and new keys after each pruning"
    _print_lines(
        console,
        ("target", found.target),
        ("model", found.model),
        ("strategy", f"{found.strategy}, {found.rounds} rounds"),
        ("personal", found.personal),
        ("silos", found.participation),
        ("clients", found.clients),
        ("sum", found.protocol),
        ("keys", found.keys),
        ("bears", found.bears),
        ("steps", found.steps),
        ("wire", sent),
    )
    _print_topology(console, found)
    _print_lines(
        console,
        ("groups", found.between_groups),
        ("link", found.link),
        ("memory", f"{found.memory_mib:.1f} MiB of silofl's own arrays in each silo"),
        ("failure", found.failure),
        ("privacy", found.privacy),
        ("outside", found.outside),
        *(("  note", note) for note in found.notes),
    )


def _print_lines(console: Console, *lines: tuple[str, str]) -> None:
    """Those that say something."""
    for name, text in lines:
        if text:
            console.print(f"{name:<12}{text}", soft_wrap=True, markup=False)


def _print_topology(console: Console, found: DryRun) -> None:
    """Edges where there are any, as with each rank on a machine of its own."""
    if not found.topology:
        return
    table = Table("topology", "messages", "KiB", "what the receiver learns", box=None, padding=(0, 2, 0, 0))
    for row in found.topology:
        table.add_row(escape(row.edges), _range(row.messages, 1), _range(row.bytes, 1024), escape(row.learnt))
    console.print(table)


def _range(values: tuple[int, int], unit: int) -> str:
    fewest, most = (f"{value / unit:.{int(unit > 1)}f}" for value in values)
    return fewest if fewest == most else f"{fewest} to {most}"


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
