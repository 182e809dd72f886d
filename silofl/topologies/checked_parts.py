"""What ranks check of the parts that servers of slices tell for [detection], which nobody recomputes.

Each silo knows how long its own update is in every slice. From lengths that hold follows how far apart
updates can be, and how long their median can be: what a server tells beyond that is false.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from silofl.aggregation.shards import Shards
from silofl.comm.protocol import Communicator
from silofl.errors import ProtocolError
from silofl.strategies.base import Strategy
from silofl.topologies.base import BUFFERS
from silofl.topologies.detecting_steps import DetectingSteps
from silofl.types import Vector

TOLERANCE = 1e-6
"""Of sums of squares, for the order of additions."""


def note_own(strategy: Strategy, vectors: Mapping[str, Vector], shards: Shards) -> None:
    """Keep the squared length of each slice of what this silo sends, before the vectors are written over."""
    if not isinstance(strategy, DetectingSteps):
        return
    strategy.own = {}
    for name, values in vectors.items():
        of_name = shards.of_size(len(values))
        spans = [of_name.span(index) for index in range(len(shards.members))]
        strategy.own[name] = [_square(values[start:stop]) for start, stop in spans]


def refuse_false_parts(
    strategy: Strategy, parts: Vector, shards: Shards, comm: Communicator, members: Sequence[int]
) -> None:
    """Raise ProtocolError, which names a server, where a part (s,) of one of the slices cannot be true.

    `members` are the silos whose updates are compared.
    """
    if not isinstance(strategy, DetectingSteps):
        return
    here, silo = comm.members, comm.members[comm.rank]
    order = [(server, index) for server in here for index in shards.slices_of(server, here)]
    names = sorted(strategy.own, key=lambda one: (one == BUFFERS, one))
    count, mine = len(members), members.index(silo) if silo in members else None
    for (server, index), part in zip(order, parts, strict=True):
        rest = part
        for name in names:
            size = count if name == BUFFERS else (count + 2) ** 2
            told, rest = rest[:size], rest[size:]
            if mine is not None:
                length = told[mine] if name == BUFFERS else told[mine * (count + 2) + count + 1]
                own = strategy.own[name][index]
                _refuse_length(float(length), 0 * own if name == BUFFERS else own, server, index, silo)
            if name != BUFFERS and not possible(told.reshape(count + 2, count + 2)):
                raise ProtocolError(
                    f"silo {server} tells distances between updates in slice {index} that cannot be, by how "
                    "long they are",
                    sender=server,
                )


def _square(values: NDArray[Any]) -> float:
    with np.errstate(over="ignore", invalid="ignore"):
        return float(np.add.reduce(np.square(values, dtype=np.float64)))


def _refuse_length(told: float, own: float, server: int, index: int, silo: int) -> None:
    same = abs(told - own) <= TOLERANCE * own if np.isfinite(own) else not np.isfinite(told)
    if not same:
        raise ProtocolError(
            f"silo {server}, which serves slice {index}, tells another length of silo {silo}'s update there "
            f"than silo {silo} has sent: one of the two is wrong",
            sender=server,
        )


def possible(table: Vector) -> bool:
    """Whether squared distances (n + 2, n + 2) between n updates, their median and zero may be true.

    Of those that are finite: a distance is at most the sum of both lengths, and at least their difference; in
    each coordinate some update is as far from zero as the median is.
    """
    count = len(table) - 2
    used = np.array(
        [at for at in range(count + 1) if np.isfinite(table[at, count + 1]) and table[at, at] == 0]
    )
    if not len(used):
        return True
    squares, lengths = table[np.ix_(used, used)], np.sqrt(np.abs(table[used, count + 1]))
    sums = np.square(lengths[:, None] + lengths[None, :])
    least = np.square(lengths[:, None] - lengths[None, :])
    room = TOLERANCE * sums + np.finfo(np.float64).tiny
    if not (np.array_equal(squares, squares.T) and np.isfinite(squares).all()):
        return False
    if (squares > sums + room).any() or (squares < least - room).any():
        return False
    return bool(lengths[-1] ** 2 <= (1 + TOLERANCE) * np.add.reduce(np.square(lengths[:-1])))
