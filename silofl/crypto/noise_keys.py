"""Where a silo's noise comes from: keys that no other silo knows, and that a resumed run finds again."""

from __future__ import annotations

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

NONCE_BYTES, FINGERPRINT_BYTES = 16, 32


def new_nonce() -> bytes:
    """A nonce that no other run has."""
    return os.urandom(NONCE_BYTES)


class NoiseKeys(Unpicklable):
    """Streams for one silo's noise, coins and samples in one run.

    The run's seed will not do: the others know it. A stream is a function of (key, nonce, run, purpose,
    round, attempt) and of what it is bound to. Noise is bound to a `fingerprint` of the values that it goes
    on, as a synthetic IV is to its message (Rogaway, Shrimpton 2006, "Deterministic authenticated
    encryption"; RFC 5297): a round that is taken again from the same values shows the same sum and nothing
    more, and other values, in a copy of a run too, never meet the same noise.

    Args:
        own: 32 bytes that only this silo holds.
        nonce: 16 bytes, not secret, that no other run of this silo has.
        run: the run's id, which all silos have.
        silo: this silo's number.
        prg: the generator.
    """

    __slots__ = ("_hashes", "_newest", "_nonce", "_own", "_prg", "_run", "_silo")

    def __init__(self, own: Secret, nonce: bytes, silo: int, prg: Prg = "aes-128-ctr", *, run: bytes) -> None:
        if len(nonce) != NONCE_BYTES:
            raise ValueError(f"a run's nonce has {NONCE_BYTES} bytes, not {len(nonce)}")
        self._own, self._nonce, self._silo, self._prg, self._run = own, nonce, silo, prg, run
        self._newest: dict[str, tuple[tuple[int, int, bytes], Stream]] = {}
        self._hashes: dict[str, tuple[tuple[int, int], Secret, Secret]] = {}

    def stream(self, purpose: str, round_number: int, attempt: int, bound_to: bytes = b"") -> Stream:
        """The stream of one purpose in one attempt at a round; each position of it is for one use.

        `bound_to` is the `fingerprint` of values that no others may share it with; empty where it may not
        depend on values. The newest of each purpose is kept: vectors are made slice by slice.
        """
        place, kept = (round_number, attempt, bound_to), self._newest.get(purpose)
        if kept is None or kept[0] != place:
            key = self._derive(purpose, round_number, attempt, KEY_BYTES[self._prg], bound_to)
            kept = self._newest[purpose] = place, Stream(self._prg, key.expose())
        return kept[1]

    def fingerprint(
        self, purpose: str, round_number: int, attempt: int, values: NDArray[Any], *context: bytes
    ) -> bytes:
        """A keyed digest (32 bytes) of values and context: tells this silo alone whether they are the same.

        Values (k,) of any type, contiguous. HMAC-SHA256 of a Poly1305 hash (RFC 8439, section 2.5), together
        a tenth of the work of SHA-256: a pseudorandom function while HMAC is one, but that two vectors of b
        bytes that differ, chosen without the keys, have equal hashes with a probability of b / 2^107 at most
        (Bernstein 2005, theorem 3.3).
        """
        once, key = self._hash_keys(purpose, round_number, attempt)
        # Nobody may see the hash itself: two under one key would tell the key, and then of the values.
        short = Poly1305.generate_tag(once.expose(), values.view(np.uint8).data)
        return hmac.digest(key.expose(), pack_fields(short, *context), "sha256")

    def _hash_keys(self, purpose: str, round_number: int, attempt: int) -> tuple[Secret, Secret]:
        """Of Poly1305 and of HMAC; the newest of each purpose are kept, for a round may have many steps."""
        place, kept = (round_number, attempt), self._hashes.get(purpose)
        if kept is None or kept[0] != place:
            once = self._derive(f"hash of {purpose}", round_number, attempt, 32)
            kept = place, once, self._derive(f"fingerprint of {purpose}", round_number, attempt, 32)
            self._hashes[purpose] = kept
        return kept[1], kept[2]

    def _derive(
        self, purpose: str, round_number: int, attempt: int, length: int, bound_to: bytes = b""
    ) -> Secret:
        session = pack_fields(self._run, struct.pack(">Q", attempt), *([bound_to] if bound_to else []))
        info = key_info(f"noise: {purpose}", session, round_number, self._silo)
        return hkdf(self._own, length, salt=self._nonce, info=info)
