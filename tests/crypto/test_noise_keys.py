"""Keys of a silo's noise: found again by the same silo in the same run, and by nobody else."""

from __future__ import annotations

import hashlib
import hmac
import itertools
import pickle
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.poly1305 import Poly1305

from silofl.crypto.kdf import key_info
from silofl.crypto.noise_keys import NONCE_BYTES, NoiseKeys, new_nonce
from silofl.crypto.secret import Secret
from silofl_kernels import Stream, keystream

OWN, NONCE, RUN = bytes(range(32)), bytes(NONCE_BYTES), bytes([9] * 16)


def first_bytes(stream: Stream) -> bytes:
    out = np.empty(32, np.uint8)
    keystream(stream, out)
    return out.tobytes()


def test_a_stream_is_that_of_hkdf_with_everything_in_its_info() -> None:
    """RFC 5869: salt is the nonce; run, purpose, attempt, round and silo are in the info."""
    session = (16).to_bytes(4) + RUN + (8).to_bytes(4) + (3).to_bytes(8)
    info = key_info("noise: coins", session, 7, 2)
    key = HKDF(SHA256(), 16, NONCE, info).derive(OWN)
    stream = NoiseKeys(Secret(OWN), NONCE, 2, run=RUN).stream("coins", 7, 3)
    assert first_bytes(stream) == first_bytes(Stream("aes-128-ctr", key))


def test_no_two_uses_share_a_stream() -> None:
    seen = {
        first_bytes(NoiseKeys(Secret(own), nonce, silo, run=run).stream(purpose, number, attempt))
        for own, nonce, silo, run, purpose, number, attempt in itertools.product(
            *((OWN, bytes(32)), (NONCE, bytes([1] * NONCE_BYTES)), (0, 1), (RUN, bytes(16))),
            *(("noise", "rounding"), (1, 2), (0, 1)),
        )
    }
    assert len(seen) == 2**7
    assert new_nonce() != new_nonce()


def test_keys_do_not_show() -> None:
    keys = NoiseKeys(Secret(OWN), NONCE, 2, run=RUN)
    assert OWN.hex() not in repr(keys)
    assert "0x" in repr(keys)
    with pytest.raises(TypeError, match="never pickled"):
        pickle.dumps(keys)
    with pytest.raises(ValueError, match="16 bytes, not 3"):
        NoiseKeys(Secret(OWN), b"abc", 2, run=RUN)


def test_what_a_stream_is_bound_to_is_in_its_info_as_well() -> None:
    session = (16).to_bytes(4) + RUN + (8).to_bytes(4) + (3).to_bytes(8) + (2).to_bytes(4) + b"it"
    key = HKDF(SHA256(), 16, NONCE, key_info("noise: coins", session, 7, 2)).derive(OWN)
    keys = NoiseKeys(Secret(OWN), NONCE, 2, run=RUN)
    bound = first_bytes(keys.stream("coins", 7, 3, b"it"))
    assert bound == first_bytes(Stream("aes-128-ctr", key))
    others = {first_bytes(keys.stream("coins", 7, 3, other)) for other in (b"", b"that", b"it")}
    assert len(others) == 3
    assert bound in others


@pytest.mark.parametrize("values", [np.arange(5000, dtype=np.uint32), np.ones(7, np.float32), np.empty(0)])
def test_a_fingerprint_is_an_hmac_of_a_hash_under_keys_of_its_own(values: Any) -> None:
    keys = NoiseKeys(Secret(bytes(32)), bytes(16), 3, run=RUN)
    once, key = (keys._derive(f"{purpose} of sum", 5, 1, 32).expose() for purpose in ("hash", "fingerprint"))
    short = Poly1305.generate_tag(once, values.tobytes())
    told = (16).to_bytes(4) + short + (5).to_bytes(4) + b"table"
    assert keys.fingerprint("sum", 5, 1, values, b"table") == hmac.new(key, told, hashlib.sha256).digest()
    places = ("sum", 5, 1), ("sum", 5, 2), ("sum", 6, 1), ("step", 5, 1)
    others = {keys.fingerprint(*place, values) for place in places}
    others |= {keys.fingerprint("sum", 5, 1, values, b"table"), keys.fingerprint("sum", 5, 1, values, b"")}
    others |= {NoiseKeys(Secret(bytes(32)), bytes(16), 4, run=RUN).fingerprint("sum", 5, 1, values)}
    assert len(others) == 7
    if values.size:
        values = values.copy()
        values[-1] += 1
        assert keys.fingerprint("sum", 5, 1, values) not in others
