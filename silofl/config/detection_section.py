"""[detection]: scores of silos' updates, and the rules by which silos are left out and come back."""

from __future__ import annotations

from typing import Literal

from silofl.config.section import Section
from silofl.constrained import NonNegativeInt, PositiveFloat, PositiveInt

ALWAYS = ("mode",)
SHOWN = (*ALWAYS, "threshold")


class DetectionConfig(Section):
    """[detection]: scores of every silo's update in every round, and silos that are left out for them."""

    mode: Literal["off", "show", "exclude"] = "off"
    """`show` has norm, cosine, distance and deviation of every silo's update in each round's line; `exclude`
    also leaves silos out by the keys below. Updates are compared, so that sums must not hide them."""
    threshold: PositiveFloat = 6.0
    """How many robust deviations (1.4826 MAD) from the others' make an update suspicious, in its norm, its
    distance to the others, or its cosine with their median."""
    strikes: PositiveInt = 3
    """`exclude`: how many suspicious updates of the last `window` exclude a silo from the next round on."""
    window: PositiveInt = 5
    """`exclude`: how many rounds that a silo took part in are looked back at."""
    exclusion: PositiveInt = 10
    """`exclude`: how many rounds an exclusion lasts at least; it goes on as long as `strikes` are reached."""
    probation: NonNegativeInt = 10
    """`exclude`: for how many rounds after it one suspicious update excludes a silo again."""
    most: PositiveInt | None = None
    """`exclude`: how many silos are left out at most at a time; unset, `robust.f`, and without a rule a third
    of the silos. Fewer where a rule, or `failure.min_silos`, needs more to be left."""

    @property
    def active(self) -> bool:
        """Whether updates are scored."""
        return self.mode != "off"

    @property
    def excludes(self) -> bool:
        """Whether silos are left out."""
        return self.mode == "exclude"

    @property
    def idle(self) -> tuple[str, ...]:
        """Keys that do nothing as the mode is."""
        used = {"off": ALWAYS, "show": SHOWN}.get(self.mode)
        return () if used is None else tuple(one for one in type(self).model_fields if one not in used)

    @property
    def text(self) -> str:
        """What is done, in a few words; empty where nothing is."""
        if not self.excludes:
            return f"updates beyond {self.threshold:g} deviations are shown" if self.active else ""
        return (
            f"{self.strikes} of {self.window} updates beyond {self.threshold:g} deviations exclude a silo "
            f"for {self.exclusion} rounds or more; scores are as honest as the ranks that serve slices"
        )
