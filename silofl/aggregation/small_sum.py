"""Masked sums of a few words, which everybody gets."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from silofl.aggregation.keyed_round import KeyedRound
from silofl.aggregation.session import SecureSession
from silofl.comm.protocol import Communicator
from silofl_kernels import MaskSet, add_masks

Words = NDArray[np.unsignedinteger[Any]]


def masked_total(comm: Communicator, words: Words, masks: MaskSet, offset: int) -> Words:
    """Sum over ranks of words plus masks, masks still on; collective. `offset` is where the masks begin."""
    return masked_total_with_notes(comm, words, masks, offset, b"")[0]


def masked_total_with_notes(
    comm: Communicator, words: Words, masks: MaskSet, offset: int, note: bytes
) -> tuple[Words, list[bytes]]:
    """`masked_total`, and every rank's note, in one message."""
    masked = words.copy()
    add_masks(masked, masks, offset=offset)
    messages = comm.allgather_bytes(masked.tobytes() + note)
    rows = [np.frombuffer(message[: masked.nbytes], words.dtype) for message in messages]
    total: Words = np.add.reduce(rows, axis=0, dtype=words.dtype)
    return total, [message[masked.nbytes :] for message in messages]


def secure_total(session: SecureSession, words: Words) -> Words:
    """Sum over ranks of a few words, by a keyed round of its own; collective."""
    comm = session.comm
    keys = KeyedRound(comm, session.next_round(), session.identity, len(words))
    total, pledges = masked_total_with_notes(comm, words, keys.masks, 0, keys.pledge)
    add_masks(total, keys.open(pledges))
    return total
