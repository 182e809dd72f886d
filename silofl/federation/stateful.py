"""What a part of a run with state of its own is: registered once, in `stateful_parts.py`."""

from __future__ import annotations

from typing import Any, Protocol

State = dict[str, Any]
"""A tree of arrays, numbers and text, as a checkpoint holds it."""
Json = dict[str, Any]


class Stateful(Protocol):
    """A part whose state outlives a process: in this silo's checkpoint, and with the surviving ranks.

    All ranks have the same parts in the same order.
    """

    @property
    def name(self) -> str:
        """Its key in checkpoints and in what a rejoining silo is told; no other part has it."""

    def state(self) -> State:
        """What this rank commits with each round; its arrays may change with the next training."""

    def restore(self, state: State | None, committed_by: tuple[int, ...], *, member: bool) -> None:
        """Take up a committed state of this rank, of a round that `committed_by` committed; collective.

        Args:
            state: this silo's newest; None where it has none.
            committed_by: the silos of the round that the run goes on from.
            member: whether this silo is one of them; else `state` is of an earlier round.
        """

    def rejoin_state(self) -> Json:
        """What surviving ranks tell a silo that rejoins: no secret, and nothing of a silo's data."""

    def take_over(self, told: Json, own: State | None) -> None:
        """Rejoin, before the next round: the survivors' `rejoin_state`, and what this silo last committed."""


class Part:
    """A `Stateful` that has nothing to keep: a part overrides what it does have."""

    name = ""

    def state(self) -> State:
        """See `Stateful`."""
        return {}

    def restore(self, state: State | None, committed_by: tuple[int, ...], *, member: bool) -> None:
        """See `Stateful`."""

    def rejoin_state(self) -> Json:
        """See `Stateful`."""
        return {}

    def take_over(self, told: Json, own: State | None) -> None:
        """See `Stateful`."""


def committed_state(parts: tuple[Stateful, ...]) -> State:
    """The states of all parts, by name."""
    return {part.name: part.state() for part in parts}


def restore(
    parts: tuple[Stateful, ...], state: State | None, committed_by: tuple[int, ...], *, member: bool
) -> None:
    """Restore all parts from what `committed_state` was; collective."""
    for part in parts:
        part.restore(None if state is None else state.get(part.name), committed_by, member=member)


def rejoin_state(parts: tuple[Stateful, ...]) -> Json:
    """What all parts tell a silo that rejoins, by name."""
    return {part.name: part.rejoin_state() for part in parts}


def take_over(parts: tuple[Stateful, ...], told: Json, own: State | None) -> None:
    """Let all parts of a silo that rejoins take over from the survivors'."""
    for part in parts:
        part.take_over(told[part.name], None if own is None else own.get(part.name))
