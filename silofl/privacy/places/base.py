"""What a place of the noise is."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from silofl.transforms.base import SecretStreams, Transform
    from silofl_kernels import NoiseTable

Silos = tuple[int, ...]


class Place:
    """One place of the noise in a federation of `silos`; here added once, by ranks that are trusted."""

    alone: ClassVar[bool] = False
    """Whether all that leaves a silo has all its noise already: its noisy steps, or its noisy update."""
    needs_private_sum: ClassVar[bool] = False
    """Whether the noise of one silo is too little for its own part, so that a secure sum must hide it."""
    repeatable: ClassVar[bool] = True
    """Whether a sum has the same noise whichever ranks serve it."""

    @property
    def holds_against_silos(self) -> bool:
        """Whether a silo sees no sum that has less noise than was promised beside its own."""
        return self.alone or self.needs_private_sum

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

    def noise(self, table: NoiseTable, keys: SecretStreams) -> Transform:
        """The last stage of what is added up; asked for unless silos bring noisy values, `alone`."""
        raise NotImplementedError(f"{type(self).__name__} adds no noise, and silos do not stand alone")
