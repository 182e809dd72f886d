"""What the noise of a sum is bound to, so that a copied run never has the same noise on other data.

Noise that is one silo's, or one server's, is bound to what that silo brings without it; noise that is made of
shares, to what all silos bring. They tell it in the message by which a silo that cannot go on says so
(`round.py`), a keyed hash each, and what noise is bound to is part of what decides a private sum.
"""

from __future__ import annotations

from collections.abc import Sequence

from silofl.aggregation.transformed import Binding
from silofl.comm.elastic_group import ElasticGroup
from silofl.crypto.kdf import digest, pack_silos
from silofl.crypto.noise_keys import FINGERPRINT_BYTES
from silofl.transforms.correlated import Drawn, NoiseProcess

Silos = tuple[int, ...]


class NoiseBinding:
    """Of one silo. What silos tell is told and heard once for each attempt at a round, before its sum.

    Args:
        silo: its number.
        coordinators: ranks without data, to which no noise is bound.
    """

    def __init__(self, silo: int, coordinators: Silos = ()) -> None:
        self._silo, self._coordinators = silo, coordinators
        self._silos: Silos = ()
        self._told: list[bytes] = []
        self.common = b""
        """What the noise of the last sum is bound to at all silos together, where it is correlated."""

    def tell(self, own: bytes, process: NoiseProcess | None) -> bytes:
        """What the others have to know: this silo's fingerprint, 32 bytes, and as many of earlier noise."""
        return own if process is None else own + process.link

    def hear(self, silos: Silos, told: list[bytes]) -> None:
        """What `silos` told in one step, the same on all of them."""
        self._silos, self._told = self._with_data(silos, told)

    def exchanged(self, own: bytes, group: ElasticGroup) -> Binding:
        """As `bound`, of fingerprints that are exchanged here; collective."""
        told = group.step(lambda: (group.members, group.comm.allgather_bytes(own)))
        return bound(own, *self._with_data(*told))

    def _with_data(self, silos: Silos, told: Sequence[bytes]) -> tuple[Silos, list[bytes]]:
        every = zip(silos, told, strict=True)
        kept = {silo: one for silo, one in every if silo not in self._coordinators}
        return tuple(kept), list(kept.values())

    def of_shares(self, at: tuple[int, int], process: NoiseProcess | None) -> Binding:
        """Of a sum whose noise is made of all silos' shares, in this round and attempt; after `hear`."""
        prints = [one[:FINGERPRINT_BYTES] for one in self._told]
        own_print = dict(zip(self._silos, prints, strict=True)).get(self._silo, b"")  # of no data nothing
        binding = bound(own_print, self._silos, prints)
        if process is None:
            return binding
        links = [one[FINGERPRINT_BYTES:] for one in self._told]
        goes_on = process.goes_on(at[1], self._silos, links)
        before = process.link if goes_on else b"nothing"
        own, self.common = (
            digest("correlated noise is bound to", one, pack_silos(self._silos), before)
            for one in (binding.fingerprint, binding.common)
        )
        process.open(Drawn(*at, own), self._silos, goes_on=goes_on)
        return Binding(own, self.common)


def bound(own: bytes, silos: Silos, told: Sequence[bytes]) -> Binding:
    """What shares of noise are bound to: what all `silos` bring, of which each has told a fingerprint.

    Where one brings something else, the shares of all are others.
    """
    common = digest("noise is bound to", pack_silos(silos), *told)
    return Binding(digest("noise is bound to", own, common), common)
