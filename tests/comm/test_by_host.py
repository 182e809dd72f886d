"""Partners on other hosts: who keeps what may not be lost with a rank's host."""

from __future__ import annotations

from collections import Counter
from itertools import product

import pytest

from silofl.comm import run_in_threads
from silofl.comm.by_host import by_host, partners

MOST_HOSTS, MOST_RANKS = 4, 5


def groups_of(sizes: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """Hosts with so many ranks each, host by host."""
    firsts = [0, *(sum(sizes[:k]) for k in range(1, len(sizes) + 1))]
    return tuple(tuple(range(one, one + size)) for one, size in zip(firsts, sizes, strict=False))


ALL = [
    sizes for hosts in range(2, MOST_HOSTS + 1) for sizes in product(range(1, MOST_RANKS + 1), repeat=hosts)
]


@pytest.mark.parametrize("turned", [False, True], ids=["host by host", "in turn"])
def test_a_partner_is_on_another_host_and_the_load_is_even(turned: bool) -> None:
    for sizes in ALL:
        groups = groups_of(sizes)
        if turned:  # ranks go round the hosts
            order = sorted(
                (place, host) for host, group in enumerate(groups) for place, _ in enumerate(group)
            )
            hosts = [host for _, host in order]
            groups = by_host([hosts.index(host) for host in hosts])
        host_of = {rank: host for host, group in enumerate(groups) for rank in group}
        found = partners(groups)
        assert all(host_of[rank] != host_of[partner] for rank, partner in enumerate(found)), groups
        load, largest = Counter(found), max(groups, key=len)
        elsewhere = len(found) - len(largest)
        if len(largest) <= elsewhere:
            assert set(load.values()) == {1}
        else:
            shared = [load[rank] for rank in range(len(found)) if rank not in largest]
            assert max(shared) - min(shared) <= 1
            assert max(load[rank] for rank in largest) == 1


def test_on_one_host_it_is_the_next_rank() -> None:
    assert partners(((0, 1, 2, 3),)) == (1, 2, 3, 0)
    assert partners(((0,), (1,), (2,))) == (1, 2, 0)
    assert partners(((0, 1), (2, 3))) == (2, 3, 0, 1)
    assert partners(((0,),)) == (0,)


def test_the_hosts_of_ranks() -> None:
    for host_of, expected in [
        (lambda rank: 0, ((0, 1, 2),)),
        (lambda rank: rank, ((0,), (1,), (2,))),
        (lambda rank: rank % 2, ((0, 2), (1,))),
    ]:
        assert run_in_threads(3, lambda comm: comm.host_groups(), host_of=host_of) == [expected] * 3
