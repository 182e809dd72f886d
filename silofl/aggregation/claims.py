"""Who asked for a range: one level of the agreement on ranges, opened after a sum that the range spoilt.

In the agreement each silo sends, for every level of a tensor, words that are random up to its own largest
value and zeros beyond, under masks of pairs (`ranges`). Everybody has everybody's masked words.
When a range was so wide that most silos' values were lost, each silo tells the masks of its words at the
agreed level alone. Both silos of a pair know its mask, so that one which tells another, to hide its words, is
found beside the other. Masked words are signed, so that nobody on the wire moves a claim from one silo to
another.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from silofl.aggregation.formats.scaled import LEVEL, LEVELS, LOWEST
from silofl.aggregation.secagg_round import HeldSum, SecAggRound
from silofl.comm.protocol import Communicator
from silofl.crypto.kdf import digest
from silofl.types import Words


def open_claims(
    comm: Communicator, keys: SecAggRound, held: HeldSum | None, ranges: Mapping[int, float]
) -> dict[int, tuple[int, ...]]:
    """By tensor: the silos that reached its agreed level, or do not show that they did not. Collective.

    Args:
        comm: the ranks that are left.
        keys: of the round.
        held: the agreement on ranges; None where there was none. A rank that was told its outcome by others
            tells its masks, too, and finds nothing.
        ranges: by index of a tensor among all that have ranges: the agreed one.

    Raises:
        ProtocolError: a silo's message, now or in the agreement, is not signed by it; it is named. The vote
            vouches for the agreement's sum, not for whose the words in it were.
    """
    tensors = sorted(ranges)
    if held is None:
        comm.allgather_bytes(b"")
        return {}
    width = LEVEL.itemsize // keys.dtype.itemsize
    levels = [(t * LEVELS + round(np.log2(ranges[t])) - LOWEST) * width for t in tensors]
    purpose = digest("opened claims", held.decided)
    mine = keys.pair_words(held.silos, held.decided, [held.start + level for level in levels], width)
    message = keys.signed(b"".join(mine[peer].tobytes() for peer in sorted(mine)), held.start, purpose)
    told: dict[int, dict[int, Words]] = {}
    for silo, sent in zip(comm.members, comm.allgather_bytes(message), strict=True):
        if sent and silo in held.messages:
            words = keys.checked(sent, held.start, purpose, silo)
            told[silo] = _by_peer(words, keys.peers(silo, held.silos), len(tensors) * width, keys.dtype)
    asked = {
        silo: np.frombuffer(keys.checked(came, held.start, held.decided, silo), keys.dtype)
        for silo, came in held.messages.items()
    }
    return {
        tensor: _reached(told, asked, level, slice(k * width, (k + 1) * width), comm.members)
        for k, (tensor, level) in enumerate(zip(tensors, levels, strict=True))
    }


def _by_peer(words: bytes, peers: list[int], count: int, kind: np.dtype[Any]) -> dict[int, Words]:
    """What a silo told of each pair's mask; nothing where it is of another length."""
    if len(words) != len(peers) * count * kind.itemsize:
        return {}
    return dict(zip(peers, np.frombuffer(words, kind).reshape(len(peers), count), strict=True))


def _reached(
    told: Mapping[int, Mapping[int, Words]],
    asked: Mapping[int, Words],
    level: int,
    part: slice,
    left: tuple[int, ...],
) -> tuple[int, ...]:
    """The silos whose words at one level are not zeros, and the pairs that tell different masks."""
    found = set[int]()
    for silo, masks in told.items():
        at = asked[silo][level : level + part.stop - part.start].copy()
        for peer, words in masks.items():
            at = at - words[part] if silo < peer else at + words[part]
            if told.get(peer) and not np.array_equal(told[peer][silo][part], words[part]):
                found.update((silo, peer))
        if masks and at.any():
            found.add(silo)
    silent = {silo for silo in left if silo in asked and not told.get(silo)}
    return tuple(sorted(found or silent))
