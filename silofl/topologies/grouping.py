"""Ranks in the groups of their arrangement, from the first message on."""

from __future__ import annotations

from silofl.comm.elastic_group import ElasticGroup
from silofl.errors import ConfigError
from silofl.topologies.arrangements.base import Arrangement, Groups


def arrange(group: ElasticGroup, arrangement: Arrangement) -> None:
    """Have what ranks send pass through the groups of their arrangement; collective.

    Raises ConfigError, on every rank, where a group has too few ranks.
    """

    def grouped() -> Groups:
        comm = group.comm
        hosts = tuple(tuple(comm.members[rank] for rank in ranks) for ranks in comm.host_groups())
        return arrangement.grouped(hosts)

    groups = group.step(grouped)
    short = arrangement.lacking(groups, group.members)
    if short:
        raise ConfigError(short, rank=0)
    group.comm.arrange(groups)
