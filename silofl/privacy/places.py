"""Where noise enters a sum: one class for each place, asked for what it is and never for its name.

Another place is another class and its line in `PLACES`. The configuration reads this module: it imports no
kernels before noise is drawn.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, final

if TYPE_CHECKING:
    from silofl.transforms.base import SecretStreams, Transform
    from silofl_kernels import NoiseTable

Silos = tuple[int, ...]


class Place(ABC):
    """One place of the noise in a federation of `silos`; here added once, by ranks that are trusted."""

    alone: ClassVar[bool] = False
    """Whether all that leaves a silo has all its noise already: its noisy steps, or its noisy update."""
    needs_private_sum: ClassVar[bool] = False
    """Whether the noise of one silo is too little for its own part, so that a secure sum must hide it."""
    repeatable: ClassVar[bool] = True
    """Whether a sum has the same noise whichever ranks serve it."""

    def sources(self, silos: int) -> int:
        """How many sources add noise to one sum."""
        return 1

    def needed(self, silos: int, colluding: int, dropouts: int) -> int:
        """How many sources must be as much noise as was promised; below 1 where none would be left."""
        return 1

    def shares(self, survivors: int, colluding: int) -> int:
        """How many sources of noise in a sum over `survivors` the observer does not know."""
        return 1

    def summed(self, silos: int) -> int:
        """How many silos' vectors one noisy vector holds."""
        return silos

    def shown(self, members: Silos, participants: Silos) -> Silos:
        """Of which silos a round shows something: of all that began it, or of those in its sum."""
        return participants

    @abstractmethod
    def noise(self, table: NoiseTable, keys: SecretStreams) -> Transform | None:
        """The last stage of what is added up; None where silos bring noisy values."""


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

    def noise(self, table: NoiseTable, keys: SecretStreams) -> Transform | None:
        """See `Place`."""
        return None


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

    def noise(self, table: NoiseTable, keys: SecretStreams) -> Transform | None:
        """See `Place`."""
        from silofl.transforms.noise import SiloNoise

        return SiloNoise(table, keys)


@final
class Central(Place):
    """The ranks that serve the sum, which are trusted, add the noise to their slices of it."""

    repeatable: ClassVar[bool] = False

    def noise(self, table: NoiseTable, keys: SecretStreams) -> Transform | None:
        """See `Place`."""
        from silofl.transforms.noise import ServerNoise

        return ServerNoise(table, keys)


PLACES: Mapping[str, Place] = {"local": Local(), "distributed": Distributed(), "central": Central()}
"""By the name in `privacy.place`."""
