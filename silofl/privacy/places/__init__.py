"""Where noise enters a sum: one class for each place, asked for what it is and never for its name.

Another place is another file and its line in `PLACES`. The configuration reads this package: it imports no
kernels before noise is drawn.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, final

from silofl.privacy.places.base import Place, Silos

if TYPE_CHECKING:
    from silofl.transforms.base import SecretStreams, Transform
    from silofl_kernels import NoiseTable


@final
class Local(Place):
    """Each silo adds all of the noise to its own steps or update, and trusts no other rank."""

    alone: ClassVar[bool] = True

    def summed(self, silos: int) -> int:
        """See `Place`."""
        return 1

    def shown(self, members: Silos, participants: Silos) -> Silos:
        """See `Place`: other ranks may have seen a part of a silo that failed meanwhile."""
        return members


@final
class Distributed(Place):
    """Each silo adds a share inside the secure sum, so that only the noisy sum ever exists."""

    needs_private_sum: ClassVar[bool] = True

    def sources(self, silos: int) -> int:
        """See `Place`."""
        return silos

    def needed(self, silos: int, colluding: int, dropouts: int) -> int:
        """See `Place`."""
        return silos - colluding - dropouts

    def shares(self, survivors: int, colluding: int) -> int:
        """See `Place`."""
        return survivors - colluding

    def noise(self, table: NoiseTable, keys: SecretStreams) -> Transform:
        """See `Place`."""
        from silofl.transforms.noise import SiloNoise

        return SiloNoise(table, keys)


@final
class Central(Place):
    """The ranks that serve the sum, which are trusted, add the noise to their slices of it."""

    repeatable: ClassVar[bool] = False

    def noise(self, table: NoiseTable, keys: SecretStreams) -> Transform:
        """See `Place`."""
        from silofl.transforms.noise import ServerNoise

        return ServerNoise(table, keys)


PLACES: Mapping[str, Place] = {
    "local": Local(),
    "distributed": Distributed(),
    "central": Central(),
}
"""By the name in `privacy.place`."""
