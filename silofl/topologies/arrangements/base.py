"""What is known of a topology before any rank starts: its keys, its ranks' parts, who sends what to whom."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, ClassVar

from silofl.topologies.arrangements._buffering import Buffering

Groups = tuple["int | Groups", ...]
"""Ranks, and groups of them."""
Hosts = tuple[tuple[int, ...], ...]
"""The ranks of each host."""


class Arrangement:
    """One [topology]; here that of ranks which all have data and are all alike.

    A member of the family is a @final @dataclass(frozen=True) whose fields are the keys of [topology]. Others
    ask it for what it is, never for its name.
    """

    moves_sums: ClassVar[bool] = False
    """Whether sums go another way than from each rank to all that serve slices."""
    gives_rows: ClassVar[bool] = False
    """Whether in the clear every server has each silo's own slice of each round's update."""
    follows_samples: ClassVar[bool] = False
    """Whether silos' numbers of samples may change between rounds."""
    own_models: ClassVar[bool] = False
    """Whether silos' models differ between rounds, and each one's own is a result of the run."""

    any_pace: ClassVar[bool] = False
    """Whether the same run may wait for all silos, or open sums without those that are slow."""

    @property
    def corrects(self) -> bool:
        """Whether gradients of local steps are corrected by what silos tell each other."""
        return False

    @property
    def compresses(self) -> bool:
        """Whether messages between silos go through the codec of [compress]; where `own_models`."""
        return False

    @property
    def has_keys(self) -> bool:
        """Whether [topology] has any beside the name."""
        member: Any = self
        return is_dataclass(member) and bool(fields(member))

    def fingerprint(self, ranks: int, seed: int) -> str:
        """Digest (hex) of weights that decide what silos read of each other; empty where there are none."""
        return ""

    def refuse(self, ranks: int) -> None:
        """Raise ValueError, with one sentence, where so many ranks cannot be arranged so."""

    def refuse_masks(self, ranks: int, seed: int) -> None:
        """Raise ValueError, with one sentence, where masks of a secure sum would hide nothing so.

        `seed` is `run.seed`, by which random graphs are drawn.
        """

    def describe(self, silos: Sequence[int], seed: int) -> str:
        """Who is whose neighbour, in a few words; empty where all are alike."""
        return ""

    def spectral_gap(self, silos: Sequence[int], seed: int) -> float | None:
        """1 less the part of silos' differences that is left after a round; None of a shared model."""
        return None

    def bears(self, ranks: int, seed: int, *, private: bool) -> str:
        """What is hidden from whom, and how many see it that collude; empty: as [secure] says."""
        return ""

    def coordinators(self, ranks: int) -> tuple[int, ...]:
        """The ranks that have no data, ascending."""
        return ()

    def grouped(self, hosts: Hosts) -> Groups:
        """How ranks are grouped in sums; empty where they are not. `hosts` are those of the ranks."""
        return ()

    def lacking(self, groups: Groups, left: Collection[int]) -> str:
        """Why a run cannot go on with the silos that are left, of `grouped` ranks; empty where it can."""
        return ""

    def buffering(self, fewest: int) -> Buffering | None:
        """When sums open without all silos; None where every sum is over all.

        `fewest`: over how many silos the protocol adds up at least.
        """
        return None

    def sees(self, source: int, target: int, ranks: int, *, private: bool) -> str:
        """What rank `target` learns from what rank `source` sends it in a round, in a few words.

        `private`: whether contributions are added up by a secure sum.
        """
        update = "its update's slices, masked: nothing" if private else "slices of its update"
        return f"{update}; new values of the slice it serves"
