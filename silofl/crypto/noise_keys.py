"""Where a silo's noise comes from: keys that no other silo knows, and that a resumed run finds again."""

from __future__ import annotations

import hashlib
import hmac
import os
import struct
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.poly1305 import Poly1305
from numpy.typing import NDArray

from silofl.crypto.kdf import hkdf, key_info, pack_fields
from silofl.crypto.secret import Secret, Unpicklable
from silofl_kernels import KEY_BYTES, Prg, Stream

NONCE_BYTES = 16


def new_nonce() -> bytes:
    """A nonce that no other run has."""
    return os.urandom(NONCE_BYTES)


class NoiseKeys(Unpicklable):
    """Streams for one silo's noise, coins and samples in one run.

    The run's seed will not do: the others know it. A stream is a function of (key, nonce, run, purpose,
    round, attempt), so that a round that is taken again from the same values shows the same sum and nothing
    more.

    Args:
        own: 32 bytes that only this silo holds.
        nonce: 16 bytes, not secret, that no other run of this silo has.
        run: the run's id, which all silos have.
        silo: this silo's number.
        prg: the generator.
    """

    __slots__ = ("_newest", "_nonce", "_own", "_prg", "_run", "_silo")

    def __init__(self, own: Secret, nonce: bytes, silo: int, prg: Prg = "aes-128-ctr", *, run: bytes) -> None:
        if len(nonce) != NONCE_BYTES:
            raise ValueError(f"a run's nonce has {NONCE_BYTES} bytes, not {len(nonce)}")
        self._own, self._nonce, self._silo, self._prg, self._run = own, nonce, silo, prg, run
        self._newest: dict[str, tuple[tuple[int, int], Stream]] = {}

    def stream(self, purpose: str, round_number: int, attempt: int) -> Stream:
        """The stream of one purpose in one attempt at a round; each position of it is for one use.

        The newest of each purpose is kept: vectors are made slice by slice.
        """
        place, kept = (round_number, attempt), self._newest.get(purpose)
        if kept is None or kept[0] != place:
            key = self._derive(purpose, round_number, attempt, KEY_BYTES[self._prg])
            kept = self._newest[purpose] = place, Stream(self._prg, key.expose())
        return kept[1]

    def tag(self, round_number: int, attempt: int, values: NDArray[Any]) -> str:
        """A keyed digest (hex) of what this silo shows: tells this silo alone whether it shows the same.

        Values (k,) of any type, contiguous. HMAC-SHA256 of a Poly1305 hash (RFC 8439, section 2.5), together
        a tenth of the work of SHA-256. Two vectors of b bytes that differ, chosen without the keys, have
        equal hashes with a probability of b / 2^107 at most (Bernstein 2005, theorem 3.3).
        """
        # Nobody may see the hash itself: two under one key would tell the key, and then of the values.
        once = self._derive("hash", round_number, attempt, 32)
        short = Poly1305.generate_tag(once.expose(), values.view(np.uint8).data)
        key = self._derive("tag", round_number, attempt, 32)
        return hmac.new(key.expose(), short, hashlib.sha256).hexdigest()

    def _derive(self, purpose: str, round_number: int, attempt: int, length: int) -> Secret:
        session = pack_fields(self._run, struct.pack(">Q", attempt))
        info = key_info(f"noise: {purpose}", session, round_number, self._silo)
        return hkdf(self._own, length, salt=self._nonce, info=info)
