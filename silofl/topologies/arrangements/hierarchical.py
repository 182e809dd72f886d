"""Hierarchical: sums inside groups of ranks first, and between groups one part of each."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, final

from silofl.constrained import NonNegativeInt
from silofl.topologies.arrangements.base import Arrangement, Groups, Hosts

HOST, LABEL = "host", "label"


@final
@dataclass(frozen=True)
class Hierarchical(Arrangement):
    """Every silo serves a slice; sums are made inside groups of silos, and between groups of their sums."""

    moves_sums: ClassVar[bool] = True
    follows_samples: ClassVar[bool] = True
    groups: Literal["host", "label"] | list[Any] = "host"
    """The ranks of each group, such as [[0, 1, 2, 3], [4, 5, 6, 7]], or groups of groups, such as
    [[[0, 1], [2, 3]], [[4, 5], [6, 7]]]; "host": ranks of one host are a group; "label": institutions whose
    `label` in `[[institution]]` is the same are, and "eu/de" is a group within "eu"."""
    min_silos: NonNegativeInt = 0
    """How many silos of each innermost group a round needs: with fewer left the run stops. 0: as
    `failure.min_silos` of all silos says alone."""

    def refuse(self, ranks: int) -> None:
        """See `Arrangement`."""
        if self.groups == LABEL:
            raise ValueError(
                'topology.groups = "label" needs [[institution]], each with a label: add them, or list the '
                "ranks of each group"
            )
        if isinstance(self.groups, str):
            return
        wrong = _wrong(self.groups) or _unnamed(list(_silos(self.groups)), ranks)
        if wrong:
            raise ValueError(f"topology.groups = {self.groups} {wrong}")
        short = self.lacking(self.grouped(()), range(ranks))
        if short:
            raise ValueError(f"{short}: lower it, or make groups larger")

    def grouped(self, hosts: Hosts) -> Groups:
        """See `Arrangement`."""
        return hosts if isinstance(self.groups, str) else _tuples(self.groups)

    def lacking(self, groups: Groups, left: Collection[int]) -> str:
        """See `Arrangement`."""
        for group in _innermost(groups):
            here = sum(rank in left for rank in group)
            if here < self.min_silos:
                whole = "" if here == len(group) else f" left of {len(group)}"
                return (
                    f"the group {list(group)} has {here} silo{'s' * (here != 1)}{whole}, and "
                    f"topology.min_silos = {self.min_silos} asks for so many of each group"
                )
        return ""

    def sees(self, source: int, target: int, ranks: int, *, private: bool) -> str:
        """See `Arrangement`."""
        update = "slices, masked, of its update or of sums in its group: nothing"
        if not private:
            update = "slices of its update in its group, of sums in its group elsewhere"
        return f"{update}; new values of slices"


def _wrong(groups: list[Any]) -> str:
    """Why groups that are listed are none, and what to do; empty where they are."""
    every = list(_lists(groups))
    odd = [one for one in _silos(groups) if not isinstance(one, int) or isinstance(one, bool)]
    if odd:
        return f"has {odd[0]!r}, which is no rank: list numbers of ranks"
    if any(group == [] for group in every):
        return "has a group of no rank: leave it out"
    if any(len({isinstance(one, list) for one in group}) > 1 for group in every):
        return "has ranks beside groups: make each of those ranks a group, such as [4]"
    if not isinstance(groups[0], list) or len(groups) == 1:
        return "is one group: list two at least, such as [[0, 1], [2, 3]]"
    return ""


def _unnamed(named: list[int], ranks: int) -> str:
    """Which rank is not named once, and what to do; empty where all are."""
    twice = sorted({rank for rank in named if named.count(rank) > 1})
    missing = sorted(set(range(ranks)) - set(named))
    beyond = sorted(set(named) - set(range(ranks)))
    if twice:
        return f"has rank {twice[0]} twice: name each rank once"
    if beyond:
        return f"has rank {beyond[0]}, and there are ranks 0 to {ranks - 1}: leave it out"
    return f"leaves out rank {missing[0]} of {ranks}: name each rank once" if missing else ""


def _silos(groups: Any) -> Iterator[Any]:
    for one in groups:
        yield from _silos(one) if isinstance(one, list) else (one,)


def _lists(groups: list[Any]) -> Iterator[list[Any]]:
    yield groups
    for one in groups:
        if isinstance(one, list):
            yield from _lists(one)


def _tuples(groups: list[Any]) -> Groups:
    return tuple(_tuples(one) if isinstance(one, list) else one for one in groups)


def _innermost(groups: Groups) -> Iterator[tuple[int, ...]]:
    """Groups that have ranks, and no groups."""
    inner = [one for one in groups if isinstance(one, tuple)]
    if not inner:
        yield tuple(one for one in groups if isinstance(one, int))
    for one in inner:
        yield from _innermost(one)
