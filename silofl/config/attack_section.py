"""[attack]: one section for each attack, whose keys are the fields of its dataclass."""

from __future__ import annotations

from typing import TYPE_CHECKING

from silofl.attacks import registry
from silofl.attacks.base import LiveAttack
from silofl.attacks.registry import ATTACKS
from silofl.config.member_section import any_of, section_of
from silofl.config.section import Section

DEFAULT = "none"
"""What an [attack] without a name means."""


class AttackConfig(Section):
    """[attack]: what some silos do wrong, in a rehearsal. The other keys are the attack's."""

    name: str

    @property
    def attack(self) -> LiveAttack | None:
        """The attack; None where every silo does as it should."""
        attack = registry.build(self)
        return attack if isinstance(attack, LiveAttack) else None

    @property
    def text(self) -> str:
        """What is rehearsed, in a few words; empty where nothing is."""
        attack = self.attack
        if attack is None:
            return ""
        numbers = ", ".join(map(str, attack.silos))
        which = f"silo {numbers} attacks" if len(attack.silos) == 1 else f"silos {numbers} attack"
        return f"REHEARSAL, the model is spoiled on purpose: {which} by {self.name}"


SECTIONS = {name: section_of(name, kind, AttackConfig) for name, kind in ATTACKS.items()}
"""The section of each attack."""

if TYPE_CHECKING:
    AnyAttack = AttackConfig
else:
    AnyAttack = any_of(SECTIONS, DEFAULT)
"""The section of any attack, told apart by `name`."""
