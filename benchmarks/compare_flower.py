"""One round of silofl's `secagg` beside one of Flower's SecAgg+, by Flower's own functions.

`Flower.round` takes the steps of Flower 1.41's client (`secaggplus_mod`) and server (`SecAggPlusWorkflow`) in
their order, by the library's functions and at its defaults, for silos of which none is lost: key pairs,
shares, stochastic quantization to 22 bits, masks modulo 2^32, their sum, masks off. Its message layer is left
out, and so is silofl's transport; vectors pass through Flower's serialization, for that is how they travel.

    python benchmarks/compare_flower.py            what it needs: benchmarks/README.md
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from side_by_side import Floats, Traffic, arguments, compare, not_here, show, updates_of

try:
    import flwr
    from flwr.common import bytes_to_ndarray, ndarray_to_bytes
    from flwr.common.secure_aggregation.crypto import shamir
    from flwr.common.secure_aggregation.crypto.symmetric_encryption import (
        decrypt,
        encrypt,
        generate_shared_key,
    )
    from flwr.common.secure_aggregation.ndarrays_arithmetic import (
        factor_combine,
        factor_extract,
        get_parameters_shape,
        parameters_addition,
        parameters_mod,
        parameters_multiply,
        parameters_subtraction,
    )
    from flwr.common.secure_aggregation.quantization import dequantize, quantize
    from flwr.common.secure_aggregation.secaggplus_utils import (
        pseudo_rand_gen,
        share_keys_plaintext_concat,
        share_keys_plaintext_separate,
    )
    from flwr.supercore.primitives.asymmetric import (
        bytes_to_private_key,
        bytes_to_public_key,
        generate_key_pairs,
        private_key_to_bytes,
        public_key_to_bytes,
    )
except ImportError as missing:
    not_here(f"Flower 1.41 ({missing.name})", "pip install 'flwr==1.41.0', in an environment of its own")

CLIP, LEVELS, MODULUS, MAX_WEIGHT, SAMPLES = 8.0, 1 << 22, 1 << 32, 1000.0, 1000
"""The workflow's defaults; with as many samples as the largest weight a vector loses no precision to it."""

Vectors = list[Any]


@dataclass
class Silo:
    """A client's state between the four stages."""

    number: int
    threshold: int
    keys: dict[int, tuple[bytes, bytes]] = field(default_factory=dict)
    channels: dict[int, bytes] = field(default_factory=dict)
    seed_shares: dict[int, bytes] = field(default_factory=dict)

    def setup(self) -> tuple[bytes, bytes]:
        """Two key pairs: one for masks, one for what is sealed."""
        masks, sealing = generate_key_pairs(), generate_key_pairs()
        self.mask_key, self.sealing_key = private_key_to_bytes(masks[0]), private_key_to_bytes(sealing[0])
        return public_key_to_bytes(masks[1]), public_key_to_bytes(sealing[1])

    def share(self, keys: dict[int, tuple[bytes, bytes]]) -> dict[int, bytes]:
        """Shares of the self mask's seed and of the mask key, sealed to each other silo."""
        self.keys, self.seed = keys, os.urandom(32)
        seeds = shamir.create_shares(self.seed, self.threshold, len(keys))
        secrets = shamir.create_shares(self.mask_key, self.threshold, len(keys))
        packets = {}
        for place, (other, (_, public)) in enumerate(keys.items()):
            if other == self.number:
                self.seed_shares[other] = seeds[place]
                continue
            channel = generate_shared_key(bytes_to_private_key(self.sealing_key), bytes_to_public_key(public))
            self.channels[other] = channel
            text = share_keys_plaintext_concat(self.number, other, seeds[place], secrets[place])
            packets[other] = encrypt(channel, text)
        return packets

    def mask(self, packets: dict[int, bytes], update: Floats) -> list[bytes]:
        """Open the shares of others; the weighted, quantized and masked vector as it travels."""
        for other, packet in packets.items():
            plain = share_keys_plaintext_separate(decrypt(self.channels[other], packet))
            self.seed_shares[other] = plain[2]
        weight = round(SAMPLES / MAX_WEIGHT * LEVELS)
        words: Vectors = quantize(parameters_multiply([update], weight / LEVELS), CLIP, LEVELS)
        words = factor_combine(weight, words)
        shapes = [array.shape for array in words]
        words = parameters_addition(words, pseudo_rand_gen(self.seed, MODULUS, shapes))
        for other in packets:
            public = bytes_to_public_key(self.keys[other][0])
            seed = generate_shared_key(bytes_to_private_key(self.mask_key), public)
            change = parameters_addition if self.number > other else parameters_subtraction
            words = change(words, pseudo_rand_gen(seed, MODULUS, shapes))
        return [ndarray_to_bytes(array) for array in parameters_mod(words, MODULUS)]


class Flower:
    """SecAgg+ over silos of which every one is another's neighbour and none is lost."""

    traffic = Traffic(0.0, 0.0)

    def round(self, updates: Sequence[Floats]) -> Floats:
        """All four stages; see `Peer`."""
        silos = [Silo(k, len(updates) // 2 + 1) for k in range(len(updates))]
        keys = {silo.number: silo.setup() for silo in silos}
        packets = {silo.number: silo.share(keys) for silo in silos}

        # Masked vectors to the server, which adds them up as they come.
        total: Vectors = []
        for silo in silos:
            inbox = {k: sent[silo.number] for k, sent in packets.items() if k != silo.number}
            message = silo.mask(inbox, updates[silo.number])
            words = [bytes_to_ndarray(part) for part in message]
            total = parameters_addition(total, words) if total else words
        total = parameters_mod(total, MODULUS)

        # Self masks come off by the shares of their seeds; pair masks have cancelled.
        for silo in silos:
            seed = shamir.combine_shares([holder.seed_shares[silo.number] for holder in silos])
            total = parameters_subtraction(total, pseudo_rand_gen(seed, MODULUS, get_parameters_shape(total)))
        weight, words = factor_extract(parameters_mod(total, MODULUS))
        mean: Floats = dequantize(words, CLIP, LEVELS)[0]
        mean += -(len(silos) - 1) * CLIP
        mean *= LEVELS / weight

        down = ndarray_to_bytes(mean)
        self.traffic = Traffic(sum(map(len, message)) / mean.size, len(down) / mean.size)
        for _ in silos:
            mean = bytes_to_ndarray(down)
        return mean


def main() -> None:
    """Measure, and show."""
    given = arguments(__doc__.splitlines()[0], parameters=10_000_000)
    name = f"Flower {flwr.__version__}, SecAgg+"
    found = compare(updates_of(given.n, given.parameters), {name: Flower()}, given.repeats)
    title = f"a private mean, {given.n} silos, {given.parameters} parameters"
    show(title, found, {name: ">= 25"}, given.json)


if __name__ == "__main__":
    main()
