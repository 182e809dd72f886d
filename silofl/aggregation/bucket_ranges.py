"""Ranges that no few liars widen: each bucket agrees on its own, and of these all take one of the largest."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
from numpy.typing import NDArray

from silofl.aggregation.bucketing import FEWEST_IN_BUCKET, Buckets
from silofl.aggregation.formats.scaled import LEVEL, LEVELS, LOWEST
from silofl.aggregation.secagg_round import SecAggRound, mask_set
from silofl.comm.protocol import Communicator
from silofl.crypto.kdf import digest, pack_silos
from silofl.crypto.secagg import small_keys
from silofl.errors import ProtocolError
from silofl.types import Words
from silofl_kernels import add_masks

HEADROOM = 4.0
"""How many times larger values may be in buckets whose ranges do not count: honest silos are unlike."""


def bucket_sums(
    comm: Communicator, keys: SecAggRound, decided: bytes, buckets: Buckets, words: Words
) -> dict[tuple[int, ...], Words]:
    """By bucket, of the silos that are left of it, the sum of their words (k,); collective.

    None of fewer than `FEWEST_IN_BUCKET`. Under masks that are of these silos alone: when a silo fails the
    sums are taken again, of words that are drawn anew, under other masks.
    """
    here, me = comm.members, comm.members[comm.rank]
    left = [tuple(silo for silo in bucket if silo in here) for bucket in buckets]
    kept = [bucket for bucket in left if len(bucket) >= FEWEST_IN_BUCKET]
    of_these = digest("sums of buckets", decided, pack_silos(here))
    mine = next((bucket for bucket in kept if me in bucket), None)
    masked = words.copy() if mine is not None else words[:0]
    if mine is not None:
        add_masks(masked, mask_set(small_keys(keys.masking, mine, of_these, FEWEST_IN_BUCKET)))
    told = dict(zip(here, comm.allgather_bytes(masked.tobytes()), strict=True))
    return {bucket: _sum(told, bucket, words) for bucket in kept}


def _sum(told: Mapping[int, bytes], bucket: Collection[int], words: Words) -> Words:
    for silo in bucket:
        if len(told[silo]) != words.nbytes:
            raise ProtocolError(
                f"silo {silo}'s words of a small sum are refused: {len(told[silo])} bytes, not "
                f"{words.nbytes}",
                sender=silo,
            )
    rows = [np.frombuffer(told[silo], words.dtype) for silo in bucket]
    return np.asarray(np.add.reduce(rows, axis=0, dtype=words.dtype))


def common_ranges(sums: Collection[Words], tensors: int, liars: int) -> NDArray[np.float64]:
    """float64 (m,): `HEADROOM` times the largest but `liars` of the ranges that buckets ask for, by tensor.

    So many buckets can ask for anything. What an honest silo has beyond is clipped. Infinite where that is
    beyond what can be told.
    """
    asked = []
    for words in sums:
        used = words.view(LEVEL).reshape(tensors, LEVELS) != 0
        reached = LEVELS - 1 - np.argmax(used[:, ::-1], axis=1)
        asked.append(np.where(reached == LEVELS - 1, np.inf, np.ldexp(1.0, reached + LOWEST)))
    place = max(len(asked) - 1 - liars, 0)
    return HEADROOM * np.asarray(np.sort(np.array(asked), axis=0)[place])
