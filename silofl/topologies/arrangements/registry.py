"""Arrangements by their topology's configured name, which is the name of their module."""

from __future__ import annotations

import silofl.topologies.arrangements
from silofl import families
from silofl.errors import ConfigError
from silofl.families import Named
from silofl.topologies.arrangements.base import Arrangement

ARRANGEMENTS: dict[str, type[Arrangement]] = {
    name: families.member_of(module, Arrangement)
    for name, module in families.modules_of(silofl.topologies.arrangements).items()
}
"""What is known of topologies; of another name there is nothing but the name."""


def build(section: Named) -> Arrangement:
    """The arrangement that [topology] names, with the values that it gives."""
    if section.name not in ARRANGEMENTS:
        return Arrangement()
    return families.build(ARRANGEMENTS, section)


def coordinators(section: Named, ranks: int) -> tuple[int, ...]:
    """The ranks without data of so many."""
    return build(section).coordinators(ranks)


def with_data(section: Named, ranks: int) -> int:
    """How many of so many ranks have data: the silos that are added up."""
    return ranks - len(coordinators(section, ranks))


def refuse_ranks(section: Named, ranks: int, seed: int = 0, *, private: bool = False) -> None:
    """Raise ConfigError where so many ranks cannot be arranged as [topology] says.

    `private`: whether [secure] hides what each of them sends; `seed` is `run.seed`.
    """
    arrangement = build(section)
    try:
        arrangement.refuse(ranks)
        if private:
            arrangement.refuse_masks(ranks, seed)
    except ValueError as error:
        raise ConfigError(str(error), rank=0) from None
