"""One round of silofl's `secagg` beside one of homomorphic encryption: CKKS by TenSEAL.

All silos hold the secret key and the server does not, as is usual with one-key CKKS: each silo encrypts its
vector into full ciphertexts and sends them, the server loads and adds them and sends the sum to every silo,
which loads and decrypts it. Two settings of 128 bits of security: a common one, which leaves room for one
multiplication, and the smallest that a sum needs. silofl sums vectors of the same length in the same turn.

    python benchmarks/compare_tenseal.py            what it needs: benchmarks/README.md
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from side_by_side import Floats, Traffic, arguments, compare, not_here, show, updates_of

try:
    import tenseal
except ImportError:
    not_here("TenSEAL", "pip install tenseal, in an environment of its own")

COMMON = (8192, [60, 40, 40])
SMALLEST = (4096, [54, 55])
SCALE = 2.0**40


class Ckks:
    """AggregationSpec under one key of all silos.

    Args:
        degree: of the polynomial ring; a ciphertext holds half as many values.
        moduli: bits of each prime; the last one is for key switching and not in a ciphertext.
    """

    traffic = Traffic(0.0, 0.0)

    def __init__(self, degree: int, moduli: list[int]) -> None:
        self._slots = degree // 2
        kind = tenseal.SCHEME_TYPE.CKKS
        self._secret = tenseal.context(kind, degree, coeff_mod_bit_sizes=moduli)
        self._secret.global_scale = SCALE
        self._public = self._secret.copy()
        self._public.make_context_public()

    def round(self, updates: Sequence[Floats]) -> Floats:
        """Encrypt, add, decrypt; see `Peer`."""
        total: list[Any] = []
        for update in updates:
            message = self._encrypt(update)
            vectors = [tenseal.ckks_vector_from(self._public, part) for part in message]
            total = [a + b for a, b in zip(total, vectors, strict=True)] if total else vectors
        down = [vector.serialize() for vector in total]
        for _ in updates:
            opened = [tenseal.ckks_vector_from(self._secret, part).decrypt() for part in down]
            mean = np.concatenate(opened) / len(updates)
        size = updates[0].size
        self.traffic = Traffic(sum(map(len, message)) / size, sum(map(len, down)) / size)
        return mean

    def _encrypt(self, update: Floats) -> list[bytes]:
        """As many ciphertexts as the vector fills, as they travel."""
        starts = range(0, update.size, self._slots)
        return [tenseal.ckks_vector(self._public, update[at : at + self._slots]).serialize() for at in starts]


def main() -> None:
    """Measure, and show."""
    given = arguments(__doc__.splitlines()[0], parameters=1_000_000)
    peers = {
        f"TenSEAL {tenseal.__version__}, CKKS {degree}; {','.join(map(str, moduli))}": Ckks(degree, moduli)
        for degree, moduli in (COMMON, SMALLEST)
    }
    found = compare(updates_of(given.n, given.parameters), peers, given.repeats)
    title = f"a private mean, {given.n} silos, {given.parameters} parameters"
    show(title, found, {next(iter(peers)): ">= 200"}, given.json)


if __name__ == "__main__":
    main()
